"""One feed against the mock exchange, over real sockets, and a loop whose clock stands unless a test moves it."""

from __future__ import annotations

import asyncio
import functools
import socket
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from decimal import Decimal
from typing import Any

import msgspec
import pytest
import uvloop
from websockets.asyncio.server import ServerConnection, serve

from actors.backoff import BackoffPolicy
from actors.breaker import BreakerPolicy
from actors.connection import Connect, Disconnect, FeedConnection, Reset, Send
from actors.feed import Feed, FeedSpec
from actors.feed_protocol import MappedProtocol, ProtocolSpec
from actors.feed_state import TRANSITIONS, FeedState
from actors.mapping import FeedMap
from actors.recovery import RecoveryPolicy
from engine.mock_exchange import MockExchange
from transport.messages import Publish

DEADLINE_S = 10.0  # of real time, for what takes milliseconds
_LOOK_S = 0.001
_TURNS = 50  # of the loop: more than anything that needs no socket takes

TICKS = FeedMap(
    topic="price.{symbol}",
    type="price_update",
    key="s",
    time="T",
    time_unit="ms",
    sequence="n",
    data={"price": "p", "quantity": "q"},
    types={"price": "number"},
    filter={"e": "tick"},
)
"""The mock exchange's ticks."""
SUBSCRIBE = {"method": "SUBSCRIBE", "params": ["*"], "id": 1}
RESUME = {"method": "RESUME", "params": {"symbol": "{counter}", "since": "{number}"}, "id": 2}
BACKOFF = BackoffPolicy(first_s=0.1, jitter=False)
"""The delays are 0.1, 0.2, 0.4, 0.8 s and so on up to 30 s."""


class StillClock(asyncio.SelectorEventLoop):
    """A loop with real sockets, on which time passes only in :meth:`skip`: 80 s take none, and no delay is too long.

    Names in ``.invalid`` do not exist on it (RFC 6761), whatever the machine's resolver thinks.
    """

    def __init__(self) -> None:
        super().__init__()
        self._now = 1_000.0

    def time(self) -> float:
        return self._now

    async def getaddrinfo(self, host: Any, port: Any, **how: Any) -> Any:
        if str(host).endswith(".invalid"):
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return await super().getaddrinfo(host, port, **how)


def _run(loop: Callable[[], asyncio.AbstractEventLoop]) -> Callable[[Callable[..., Coroutine[Any, Any, None]]], Any]:
    def decorate(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
        @functools.wraps(test)
        def sync(**fixtures: Any) -> None:
            with asyncio.Runner(loop_factory=loop) as runner:
                runner.run(test(**fixtures))

        return sync

    return decorate


on_uvloop = _run(uvloop.new_event_loop)
"""A test on the loop that the engine has, in real time."""
on_still_clock = _run(StillClock)
"""A test on :class:`StillClock`."""


async def until(condition: Callable[[], object], what: object = "") -> None:
    """Until the condition holds; by the machine's clock, whatever the loop's is."""
    give_up = time.monotonic() + DEADLINE_S
    while not condition():
        if time.monotonic() > give_up:
            pytest.fail(f"it did not happen in {DEADLINE_S:g} s: {what or condition}", pytrace=True)
        await asyncio.get_running_loop().run_in_executor(None, time.sleep, _LOOK_S)


async def turns() -> None:
    """Time for all that is due and waits for no socket."""
    for _ in range(_TURNS):
        await asyncio.sleep(0)


async def skip(seconds: float) -> None:
    """Let time pass on :class:`StillClock`; what was due has begun afterwards."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, StillClock)
    await turns()
    loop._now += seconds
    await turns()


class Hub:
    """A publisher that keeps what it gets; of the feed ``name``, where a test has several."""

    def __init__(self, name: str = "mock") -> None:
        self.name = name
        self.events: list[Publish] = []
        self.times: list[float] = []
        """The loop's, of ``events``."""

    def publish(self, batch: list[Publish]) -> None:
        self.events += batch
        self.times += [asyncio.get_running_loop().time()] * len(batch)

    @property
    def is_writable(self) -> bool:
        return True

    async def writable(self) -> None:
        pass

    @property
    def prices(self) -> list[Publish]:
        """The events of the upstream."""
        return [event for event in self.events if not event.topic.startswith("system.")]

    @property
    def texts(self) -> list[str]:
        """The prices of the events, as they were published."""
        return [event.data.decode().removeprefix('{"price":').partition(",")[0] for event in self.prices]

    def told(self, kind: str, name: str | None = None) -> list[dict[str, Any]]:
        """What a feed said of itself."""
        topic = f"system.feeds.{name or self.name}"
        return [msgspec.json.decode(e.data) for e in self.events if e.topic == topic and e.type == kind]

    def states(self, name: str | None = None) -> list[str]:
        """Those that a feed entered; all transitions must have been legal and without a hole."""
        told = self.told("feed_state", name)
        before = FeedState.DISCONNECTED
        for step in told:
            assert step["from"] == before, told
            now = FeedState(step["state"])
            assert now is before or now in TRANSITIONS[before], told
            before = now
        return [step["state"] for step in told]

    def waits(self) -> list[float]:
        """The delays before the feed's attempts, in order, as it announced them."""
        return [step["retry_in"] for step in self.told("feed_state") if step["state"] == "reconnecting"]

    def kinds(self) -> list[str]:
        """Why its connections ended, in order."""
        return [step["kind"] for step in self.told("feed_state") if step["state"] in ("reconnecting", "failed")]

    def breaker(self) -> list[str]:
        """The states that its breaker entered."""
        return [step["state"] for step in self.told("feed_breaker")]


class Running:
    """A feed with its connection actor."""

    def __init__(self, feed: Feed, hub: Hub) -> None:
        self.feed, self.hub = feed, hub
        self.ref: Any = FeedConnection.start(feed)

    @property
    def state(self) -> FeedState:
        return self.feed.state

    async def is_in(self, state: FeedState) -> None:
        await until(lambda: self.feed.state is state, f"{state}, it is {self.feed.state}: {self.feed.reason}")

    async def connected(self) -> None:
        await self.is_in(FeedState.CONNECTED)

    async def waiting(self, times: int = 1) -> None:
        """It lost its connection, or failed to make one, for so many times."""
        await until(lambda: len(self.hub.waits()) >= times, f"{times} failures; {self.hub.told('feed_state')}")

    async def published(self, count: int) -> None:
        await until(lambda: len(self.hub.prices) >= count, f"{count} events, {len(self.hub.prices)} came")

    async def connect(self) -> dict[str, Any]:
        return dict(await self.ref.ask_async(Connect()))

    async def disconnect(self) -> dict[str, Any]:
        return dict(await self.ref.ask_async(Disconnect()))

    async def reset(self) -> dict[str, Any]:
        return dict(await self.ref.ask_async(Reset()))

    async def send(self, message: str) -> None:
        await self.ref.ask_async(Send(message))

    async def next_attempt(self) -> None:
        """Skip to it and see it fail."""
        failed = len(self.hub.waits())
        await skip(self.hub.waits()[-1])
        await self.waiting(failed + 1)


def spec_of(
    url: str | Sequence[str], name: str = "mock", feed_map: FeedMap = TICKS, resume: bool = False, **fields: Any
) -> FeedSpec:
    """A feed of the mock exchange, without watchdog and pings unless told."""
    options = {"maps": (feed_map,), "subscribe": (SUBSCRIBE,), "resume": (RESUME,) if resume else ()}
    recovery = RecoveryPolicy(
        backoff=fields.pop("backoff", BACKOFF),
        breaker=fields.pop("breaker", BreakerPolicy()),
        give_up=fields.pop("give_up", False),
    )
    quiet = {"idle_timeout_s": None, "ping_interval_s": None, "ping_timeout_s": None}
    urls = (url,) if isinstance(url, str) else tuple(url)
    return FeedSpec(name, urls, ProtocolSpec(MappedProtocol, options), recovery=recovery, **{**quiet, **fields})


@asynccontextmanager
async def feed_of(
    url: str | Sequence[str], hub: Hub | None = None, random: Callable[[], float] | None = None, **fields: Any
) -> AsyncIterator[Running]:
    """A feed of the mock exchange that runs, until the end of the block."""
    async with feed_from(spec_of(url, **fields), hub, random) as running:
        yield running


@asynccontextmanager
async def feed_from(
    spec: FeedSpec, hub: Hub | None = None, random: Callable[[], float] | None = None
) -> AsyncIterator[Running]:
    """A feed that runs, until the end of the block."""
    hub = hub or Hub(spec.name)
    running = Running(Feed(spec, hub, clock=asyncio.get_running_loop().time, random=random), hub)
    try:
        yield running
    finally:
        await running.ref.stop_async()


@asynccontextmanager
async def exchange_and_feed(**fields: Any) -> AsyncIterator[tuple[MockExchange, Running]]:
    """An exchange whose ticks the test makes, and a feed that is connected and subscribed."""
    market = MockExchange(rate=0, symbols=("BTC-USD",), resume=fields.get("resume", False))
    async with market as exchange, feed_of(exchange.url, **fields) as running:
        await running.connected()
        await until(lambda: exchange.requests)
        yield exchange, running


@asynccontextmanager
async def upstream(serve_client: Callable[[ServerConnection], Coroutine[Any, Any, None]]) -> AsyncIterator[str]:
    """A plain WebSocket server, for what a test wants to see of the connection itself; the URL."""
    async with serve(serve_client, "127.0.0.1", 0, compression=None, ping_interval=None) as server:
        yield f"ws://127.0.0.1:{next(iter(server.sockets)).getsockname()[1]}/ws"


@contextmanager
def deaf_port() -> Iterator[int]:
    """A TCP port where connections are made and nobody ever says anything, not even in TLS."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening.getsockname()[1]


def ticks_sent(exchange: MockExchange) -> list[dict[str, Any]]:
    """The ticks that the exchange has sent, in order."""
    texts = (sent.text for sent in exchange.sent if sent.text.startswith('{"e":"tick"') and sent.text.endswith("}"))
    return [msgspec.json.decode(text) for text in texts]


def numbers(exchange: MockExchange) -> list[int]:
    """Of the ticks that the exchange has sent, in order."""
    return [tick["n"] for tick in ticks_sent(exchange)]


def prices_sent(exchange: MockExchange) -> list[str]:
    """Of the ticks that the exchange has sent, in order, digit for digit."""
    return [tick["p"] for tick in ticks_sent(exchange)]


def decimals(text: str) -> int:
    """Digits after the point."""
    exponent = Decimal(text).as_tuple().exponent
    assert isinstance(exponent, int)
    return -exponent
