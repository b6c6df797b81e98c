"""A configured feed's protocol, message by message: what it sends, and what it says was missed or came twice."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
import pytest

from actors.failure import FailureKind, UpstreamRefused
from actors.feed_protocol import FeedGap, FeedProtocol, Item, MappedProtocol, ProtocolSpec, Repeated
from actors.mapping import BadMessage, FeedMap, MappingError
from transport.errors import ConfigError
from transport.messages import Publish

PLAIN = FeedMap(topic="price.{symbol}", key="s", data={"price": "p"})
NUMBERED = FeedMap(topic="price.{symbol}", key="s", data={"price": "p"}, sequence="n")
ROWS = FeedMap(each="rows", topic="price.{symbol}", key="s", data={"price": "p"}, sequence="n")


def sent(protocol: FeedProtocol) -> list[Any]:
    """What it wants sent, as the connection takes it."""
    messages, protocol.outgoing = protocol.outgoing, []
    return [msgspec.json.decode(message) for message in messages]


def receive(protocol: FeedProtocol, message: Any) -> list[Item]:
    return list(protocol.receive(msgspec.json.encode(message)))


def row(number: int | None, price: int = 1, symbol: str = "A") -> dict[str, Any]:
    return {"s": symbol, "p": price} | ({} if number is None else {"n": number})


def short(items: list[Item]) -> list[Any]:
    """Events as their prices, errors as their reasons, other items as they are."""
    out: list[Any] = []
    for item in items:
        if isinstance(item, Publish):
            out.append(msgspec.json.decode(item.data)["price"])
        else:
            out.append(item.reason if isinstance(item, MappingError) else item)
    return out


# what it sends -------------------------------------------------------------------------------------------------------


def test_it_subscribes_after_each_connect_in_order() -> None:
    subscribe: list[Mapping[str, Any]] = [{"op": "a", "channels": ["x", {"name": "y"}]}, {"op": "b"}]
    protocol = MappedProtocol([PLAIN], subscribe)
    for _ in range(3):
        protocol.opened()
        assert sent(protocol) == subscribe


def test_without_anything_configured_it_says_nothing() -> None:
    protocol = MappedProtocol([NUMBERED])
    protocol.opened()
    receive(protocol, row(1))
    protocol.opened()
    protocol.heartbeat()
    protocol.resync(FeedGap("sequence", "A", 2, 3))
    assert protocol.outgoing == []


def test_it_resumes_each_counter_before_it_subscribes_but_not_at_first() -> None:
    resume: list[Mapping[str, Any]] = [
        {"op": "resume", "of": "{counter}", "after": ["{number}"]},
        {"op": "more", "text": "is {counter}"},
    ]
    protocol = MappedProtocol([NUMBERED], [{"op": "subscribe"}], resume)
    protocol.opened()
    assert sent(protocol) == [{"op": "subscribe"}]
    receive(protocol, row(2**53 + 1, symbol="EUR/USD"))
    receive(protocol, row(9, symbol="B"))
    receive(protocol, row(8, symbol="B"))
    protocol.opened()
    assert sent(protocol) == [
        {"op": "resume", "of": "EUR/USD", "after": [2**53 + 1]},
        {"op": "more", "text": "is {counter}"},  # only a whole text is replaced
        {"op": "resume", "of": "B", "after": [9]},
        {"op": "more", "text": "is {counter}"},
        {"op": "subscribe"},
    ]


def test_a_reconnect_before_any_message_resumes_nothing() -> None:
    protocol = MappedProtocol([NUMBERED], [{"op": "subscribe"}], [{"op": "resume", "of": "{counter}"}])
    for _ in range(2):
        protocol.opened()
        assert sent(protocol) == [{"op": "subscribe"}]


def test_it_asks_for_what_a_gap_names_with_numbers_as_numbers() -> None:
    template = {"op": "replay", "range": {"from": "{first}", "to": "{last}"}, "of": ["{counter}"], "limit": 5}
    protocol = MappedProtocol([NUMBERED], resync=[template])
    protocol.resync(FeedGap("sequence", "A", 10**19, 10**20))
    assert sent(protocol) == [{"op": "replay", "range": {"from": 10**19, "to": 10**20}, "of": ["A"], "limit": 5}]


@pytest.mark.parametrize("gap", [FeedGap("reconnected"), FeedGap("restarted", "A")])
def test_it_asks_for_nothing_where_no_numbers_are_known(gap: FeedGap) -> None:
    protocol = MappedProtocol([NUMBERED], resync=[{"op": "replay"}])
    protocol.resync(gap)
    assert protocol.outgoing == []


@pytest.mark.parametrize(("heartbeat", "line"), [({"op": "ping"}, '{"op":"ping"}'), ("ping", "ping")])
def test_a_heartbeat_is_a_message_or_a_text_as_it_is(heartbeat: Any, line: str) -> None:
    protocol = MappedProtocol([PLAIN], heartbeat=heartbeat)
    protocol.heartbeat()
    protocol.heartbeat()
    assert protocol.outgoing == [line, line]


def test_what_is_sent_is_not_changed_by_what_was_filled_in() -> None:
    resync = [{"of": {"counter": "{counter}"}}]
    protocol = MappedProtocol([NUMBERED], resync=resync)
    for name in "AB":
        protocol.resync(FeedGap("sequence", name, 1, 1))
    assert sent(protocol) == [{"of": {"counter": "A"}}, {"of": {"counter": "B"}}]
    assert resync == [{"of": {"counter": "{counter}"}}]


# what it receives ----------------------------------------------------------------------------------------------------


def test_gaps_and_repetitions_stand_among_the_rows_where_they_are() -> None:
    protocol = MappedProtocol([ROWS])
    protocol.opened()
    rows = [row(1, 10), row(1, 11), row(4, 40), {"s": "A", "n": 5}, row(7, 70), row(1, 12, "B"), row(7, 71)]
    assert short(receive(protocol, {"rows": rows})) == [
        10,
        Repeated("A", 1),
        FeedGap("sequence", "A", 2, 3),
        40,
        BadMessage.MISSING,
        FeedGap("sequence", "A", 5, 6),
        70,
        12,
        Repeated("A", 7),
    ]


def test_rows_without_a_key_are_counted_as_the_whole_feeds() -> None:
    protocol = MappedProtocol([FeedMap(topic="all", data={"price": "p"}, sequence="n")])
    protocol.opened()
    assert short(receive(protocol, row(1))) == [1]
    assert short(receive(protocol, row(3))) == [FeedGap("sequence", None, 2, 2), 1]


def test_a_counter_is_called_as_the_upstream_calls_it() -> None:
    numbered = FeedMap(topic="p.{symbol}", key="s", data={"price": "p"}, sequence="n", symbols={"XBT": "BTC"})
    protocol = MappedProtocol([numbered], resync=[{"of": "{counter}"}])
    protocol.opened()
    receive(protocol, row(1, symbol="XBT"))
    gap, event = receive(protocol, row(3, symbol="XBT"))
    assert isinstance(gap, FeedGap) and isinstance(event, Publish)
    assert (gap.counter, event.topic) == ("XBT", "p.BTC")
    protocol.resync(gap)
    assert sent(protocol) == [{"of": "XBT"}]


def test_what_was_asked_for_passes_once_and_unasked_for_it_is_a_repetition() -> None:
    for resync, second in (([{"op": "replay"}], [2]), ([], [Repeated("A", 2)])):
        protocol = MappedProtocol([NUMBERED], resync=resync)
        protocol.opened()
        receive(protocol, row(1))
        assert short(receive(protocol, row(3))) == [FeedGap("sequence", "A", 2, 2), 1]
        assert short(receive(protocol, row(2, 2))) == second
        assert short(receive(protocol, row(2, 2))) == [Repeated("A", 2)]


def test_rows_numbers_go_on_over_reconnects_and_tell_what_was_missed() -> None:
    protocol = MappedProtocol([NUMBERED])
    protocol.opened()
    receive(protocol, row(5))
    protocol.opened()
    assert protocol.missed() is None
    assert short(receive(protocol, row(5))) == [Repeated("A", 5)]
    assert short(receive(protocol, row(8, 80))) == [FeedGap("sequence", "A", 6, 7), 80]
    protocol.opened()
    assert short(receive(protocol, row(1, 10))) == [FeedGap("restarted", "A"), 10]
    assert short(receive(protocol, row(2, 20))) == [20]


def test_messages_numbers_begin_anew_with_each_connection() -> None:
    protocol = MappedProtocol([PLAIN], sequence="n")
    protocol.opened()
    assert short(receive(protocol, row(7, 70))) == [70]
    assert short(receive(protocol, row(9, 90))) == [FeedGap("sequence", None, 8, 8), 90]
    assert short(receive(protocol, row(9, 91))) == [Repeated("", 9)]
    protocol.opened()
    assert protocol.missed() == FeedGap("reconnected")
    assert short(receive(protocol, row(3, 30))) == [30]


def test_a_message_that_is_not_for_us_has_its_number_too() -> None:
    trades = FeedMap(topic="t", data={"price": "p"}, filter={"type": "trade"})
    protocol = MappedProtocol([trades], sequence="n")
    protocol.opened()
    messages = [
        {"type": "trade", "n": 1, "p": 1},
        {"type": "heartbeat", "n": 2},
        {"type": "trade", "n": 3, "p": 3},
        {"type": "heartbeat", "n": 5},
        {"type": "trade", "n": 6, "p": 6},
    ]
    items = [short(receive(protocol, message)) for message in messages]
    assert items == [[1], [], [3], [FeedGap("sequence", None, 4, 4)], [6]]


def test_of_a_repeated_message_no_row_passes() -> None:
    protocol = MappedProtocol([FeedMap(each="rows", topic="t", data={"price": "p"})], sequence="n")
    protocol.opened()
    message = {"n": 1, "rows": [{"p": 1}, {"p": 2}]}
    assert short(receive(protocol, message)) == [1, 2]
    assert short(receive(protocol, message)) == [Repeated("", 1)]


def test_numbers_of_one_key_at_two_paths_are_two_counts() -> None:
    trades = FeedMap(topic="t", key="s", sequence="t", data={"price": "p"}, filter={"e": "trade"})
    books = FeedMap(topic="b", key="s", sequence="u", data={"price": "p"}, filter={"e": "book"})
    protocol = MappedProtocol([trades, books], resume=[{"after": "{number}"}])
    stream = [{"e": "trade", "t": 5}, {"e": "book", "u": 900}, {"e": "trade", "t": 6}, {"e": "book", "u": 901}]
    items = [item for message in stream for item in receive(protocol, {"s": "A", "p": 1, **message})]
    assert short(items) == [1, 1, 1, 1]
    protocol.opened()
    protocol.opened()
    assert sent(protocol) == [{"after": 6}, {"after": 901}]


def test_rows_without_a_number_pass_beside_those_that_have_one() -> None:
    protocol = MappedProtocol([FeedMap(topic="t", data={"price": "p"}, sequence="n?")])
    protocol.opened()
    assert [short(receive(protocol, row(number, 4))) for number in (1, None, 2, None)] == [[4]] * 4


@pytest.mark.parametrize("raw", [b"", b"{", b"\xff", b"pong"])
def test_what_is_no_json_is_an_error_among_the_items(raw: bytes) -> None:
    protocol = MappedProtocol([NUMBERED], sequence="n")
    protocol.opened()
    (error,) = protocol.receive(raw)
    assert isinstance(error, MappingError) and error.reason is BadMessage.NOT_JSON


@pytest.mark.parametrize(
    ("maps", "gap"),
    [
        ([PLAIN], FeedGap("reconnected")),
        ([NUMBERED], None),
        ([FeedMap(topic="x", filter={"t": 1}, sequence="n"), NUMBERED], None),
        ([FeedMap(topic="x", filter={"t": 1}), NUMBERED], FeedGap("reconnected")),
    ],
)
def test_after_a_reconnect_something_may_be_missing_unless_every_map_has_numbers(
    maps: list[FeedMap], gap: FeedGap | None
) -> None:
    assert MappedProtocol(maps).missed() == gap


# making one ----------------------------------------------------------------------------------------------------------


class Own(FeedProtocol):
    """A user's."""

    subprotocols = ("own.v1",)

    def __init__(self, channel: str, depth: int = 10) -> None:
        super().__init__()
        if depth < 1:
            raise ValueError(f"depth must be at least 1, not {depth}")
        if channel == "none":
            raise ConfigError("no such channel", "channel")
        if channel == "unknown":
            raise KeyError(channel)
        self.depth = depth


def test_a_users_protocol_gets_its_options_and_need_not_do_more_than_receive() -> None:
    protocol = ProtocolSpec(Own, {"channel": "book", "depth": 3}).create()
    assert isinstance(protocol, Own)
    assert protocol.depth == 3
    protocol.opened()
    protocol.heartbeat()
    protocol.resync(FeedGap("sequence", "a", 1, 2))
    assert protocol.outgoing == []
    assert protocol.missed() == FeedGap("reconnected"), "nobody knows"
    with pytest.raises(NotImplementedError):
        protocol.receive(b"")


@pytest.mark.parametrize(
    ("kind", "options", "named"),
    [
        (Own, {}, "channel"),
        (Own, {"channel": "a", "size": 3}, "size"),
        (Own, {"channel": "a", "depth": 0}, "depth"),
        (Own, {"channel": "none"}, "channel"),
        (Own, {"channel": "unknown"}, "KeyError: 'unknown'"),
        (MappedProtocol, {"maps": []}, "map"),
        (MappedProtocol, {"maps": [FeedMap(topic="a..b")]}, "map.topic"),
        (MappedProtocol, {"maps": [PLAIN], "sequence": "a..b"}, "sequence"),
        (MappedProtocol, {"maps": [PLAIN], "subscribe": [{"a": object()}]}, "object"),
    ],
)
def test_options_that_cannot_work_are_named(kind: type[FeedProtocol], options: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        ProtocolSpec(kind, options).create()


def test_a_protocol_that_is_not_initialised_says_so() -> None:
    class Bare(FeedProtocol):
        def __init__(self) -> None:
            pass

    with pytest.raises(ConfigError, match=r"Bare.__init__ must call super\(\).__init__\(\)"):
        ProtocolSpec(Bare).create()


def test_equal_specs_speak_alike_and_show_no_option() -> None:
    one, other = (ProtocolSpec(MappedProtocol, {"maps": [PLAIN], "subscribe": [{"key": "s3cr3t"}]}) for _ in range(2))
    assert one == other
    assert one != ProtocolSpec(MappedProtocol, {"maps": [NUMBERED]})
    assert "s3cr3t" not in repr(one)


def test_a_refusal_says_its_kind_and_why() -> None:
    error = UpstreamRefused(FailureKind.REJECTED, "no such channel")
    assert (error.kind, str(error)) == (FailureKind.REJECTED, "rejected: no such channel")
