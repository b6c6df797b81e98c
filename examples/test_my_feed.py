"""How you test your own feed: a real engine reads an exchange that does wrong what the test says.

pip install 'heliograph[pytest]', then: pytest test_my_feed.py
"""

from __future__ import annotations

import pytest

from heliograph import Fault


@pytest.mark.heliograph(mock_feed=True, exchange={"rate": 0, "symbols": ["BTC-USD"]})
def test_every_tick_reaches_the_client(mock_exchange, heliograph_engine, heliograph_client):
    with heliograph_client.subscribe("price.BTC-USD") as prices:
        mock_exchange.wait_request("SUBSCRIBE")
        ticks = mock_exchange.tick(3)
        events = [prices.get(timeout=5) for _ in ticks]
    assert [event.offset for event in events] == [1, 2, 3]
    assert all(str(event.exact["price"]) in tick.text for event, tick in zip(events, ticks, strict=True))


@pytest.mark.heliograph(mock_feed=True, exchange={"rate": 200, "resume": True})
@pytest.mark.parametrize("fault", [Fault.REFUSE, Fault.RESET, Fault.DISCONNECT, Fault.UNAVAILABLE])
def test_it_comes_back_after(fault, mock_exchange, heliograph_engine, heliograph_client):
    with heliograph_client.subscribe("price.>") as prices:
        prices.get(timeout=5)
        before = mock_exchange.attempts
        mock_exchange.during(fault, 0.1, retry_after=0.05)
        mock_exchange.abort()  # a fault of the handshake concerns who connects
        mock_exchange.wait_until(lambda exchange: exchange.attempts > before and exchange.fault is Fault.NONE)
        mock_exchange.wait_connected()
        assert prices.get(timeout=5).topic in ("price.BTC-USD", "price.ETH-USD")


@pytest.mark.heliograph(mock_feed=True)
def test_bad_messages_cost_nothing(mock_exchange, heliograph_engine, heliograph_client):
    with heliograph_client.subscribe("price.>") as prices:
        mock_exchange.inject(Fault.MALFORMED, share=0.5)
        for _ in range(20):
            assert prices.get(timeout=5).data["price"] > 0
    assert mock_exchange.attempts == 1
