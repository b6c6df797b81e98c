"""An engine as a feed, message by message: what it asks, what it makes of the answers, and what it says was missed."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.failure import FailureKind, UpstreamRefused
from actors.feed_protocol import FeedGap, Item, Repeated
from actors.heliograph_protocol import HeliographProtocol
from actors.mapping import BadMessage, MappingError
from transport.errors import ConfigError
from transport.messages import Publish


def sent(protocol: HeliographProtocol) -> list[dict[str, Any]]:
    """What it wants sent, as the connection takes it."""
    messages = [msgspec.json.decode(message) for message in protocol.outgoing]
    protocol.outgoing.clear()
    return messages


def receive(feed: HeliographProtocol, /, op: str, **fields: Any) -> list[Item]:
    return list(feed.receive(msgspec.json.encode({"op": op, **fields})))


def event(topic: str, offset: int, epoch: str = "e", **fields: Any) -> dict[str, Any]:
    return {"op": "event", "topic": topic, "type": "t", "offset": offset, "epoch": epoch, "ts": 1.5, "data": 1} | fields


def subscribed(*topics: str, positions: Any = None, position: str = "e:0", **options: Any) -> HeliographProtocol:
    """One whose first subscription was accepted."""
    protocol = HeliographProtocol(list(topics), **options)
    protocol.opened()
    (request,) = sent(protocol)
    assert receive(protocol, "ok", id=request["id"], topics=topics, positions=positions or {}, position=position) == []
    return protocol


def again(protocol: HeliographProtocol, positions: Any = None, position: str = "e:0") -> list[Item]:
    """Reconnect to an engine that knows no `since`; what the answer to the subscription shows."""
    protocol.opened()
    request = sent(protocol)[-1]
    if "since" in request:
        error = {"code": "unsupported", "message": "`since` is not supported by this version", "field": "since"}
        assert receive(protocol, "error", id=request["id"], **error) == []
        (request,) = sent(protocol)
    assert request["snapshot"] is True and "since" not in request
    return receive(protocol, "ok", id=request["id"], topics=[], positions=positions or {}, position=position)


def offsets(items: Sequence[Item]) -> list[Any]:
    """The data of events, other items as they are."""
    return [msgspec.json.decode(item.data) if isinstance(item, Publish) else item for item in items]


def test_it_speaks_json_and_begins_with_a_subscription_to_all_topics() -> None:
    protocol = HeliographProtocol(["price.>", "alert.x", "price.>"])
    assert protocol.subprotocols == ("heliograph.v1.json",)
    assert receive(protocol, "welcome", protocol=1, session="s", limits={}) == []
    protocol.opened()
    assert sent(protocol) == [{"op": "subscribe", "id": 1, "topics": ["price.>", "alert.x"], "snapshot": True}]


def test_without_snapshot_only_a_reconnect_asks_for_last_events() -> None:
    protocol = HeliographProtocol(["price.>"], snapshot=False)
    protocol.opened()
    (request,) = sent(protocol)
    assert "snapshot" not in request
    receive(protocol, "ok", id=request["id"], position="e:0")
    assert again(protocol) == []


def test_an_event_stays_as_it_is_digit_for_digit() -> None:
    protocol = subscribed("price.>")
    data = b'{"bid":1.10000000000000000001, "ask": 1.1200,"n":123456789012345678901234567890,"s":"\xc3\xa9\\u00e9"}'
    head = b'{"op":"event","topic":"price.A","type":"tick","offset":7,"epoch":"e","ts":1700000000.25,'
    fields = b'"key":"A","priority":"high","source_ts":1699999999.5,'
    assert protocol.receive(head + fields + b'"data":' + data + b"}") == (
        Publish(0, "price.A", "tick", data, "A", "high", 1699999999.5),
    )
    (plain,) = receive(protocol, **event("price.B", 1, ts=1700000000.25))
    assert plain == Publish(0, "price.B", "t", b"1", None, None, 1700000000.25)


def test_a_prefix_makes_room_for_a_second_engine_and_for_system_topics() -> None:
    protocol = subscribed("price.*", "system.feeds.>", prefix="tokyo")
    (price,) = receive(protocol, **event("price.A", 1))
    (feed,) = receive(protocol, **event("system.feeds.x", 1))
    assert isinstance(price, Publish) and price.topic == "tokyo.price.A"
    assert isinstance(feed, Publish) and feed.topic == "tokyo.system.feeds.x"


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"topics": []}, "topics"),
        ({"topics": "price.>"}, "topics"),
        ({"topics": [1]}, "topics"),
        ({"topics": 1}, "topics"),
        ({"topics": ["a", "price..x"]}, "topics[1]"),
        ({"topics": ["a", "system.>"]}, "topics[1]"),
        ({"topics": ["a"], "prefix": "a.*"}, "prefix"),
        ({"topics": ["a"], "prefix": ""}, "prefix"),
        ({"topics": ["a"], "prefix": 1}, "prefix"),
        ({"topics": ["a"], "prefix": "system"}, "prefix"),
        ({"topics": ["a"], "snapshot": "yes"}, "snapshot"),
    ],
)
def test_options_that_cannot_work_are_named(options: dict[str, Any], field: str) -> None:
    with pytest.raises(ConfigError) as raised:
        HeliographProtocol(**options)
    assert raised.value.field == field


def test_patterns_resume_after_the_last_position() -> None:
    protocol = subscribed("price.>", "alert.x", position="e:5")
    receive(protocol, "position", position="e:9")
    protocol.opened()
    (request,) = sent(protocol)
    assert request == {
        "op": "subscribe",
        "id": 2,
        "topics": ["price.>", "alert.x"],
        "since": "e:9",
    }


def test_a_position_before_the_last_events_is_none_to_resume_after() -> None:
    protocol = subscribed("p.>", position="e:5")
    protocol.opened()
    assert sent(protocol)[0].get("since") is None, "the connection may have ended before they came"
    plain = subscribed("p.>", position="e:5", snapshot=False)
    plain.opened()
    assert sent(plain)[0]["since"] == "e:5"
    again(plain)
    plain.opened()
    assert sent(plain)[0].get("since") is None


def test_exact_topics_resume_after_their_offsets() -> None:
    protocol = subscribed("a", "b", positions={"a": {"epoch": "e", "offset": 3}, "b": {"epoch": "e", "offset": 0}})
    receive(protocol, **event("a", 3))
    receive(protocol, **event("a", 4))
    protocol.opened()
    (request,) = sent(protocol)
    assert request["since"] == {"a": {"epoch": "e", "offset": 4}, "b": {"epoch": "e", "offset": 0}}


def test_where_history_is_kept_only_what_is_new_comes_through() -> None:
    protocol = subscribed("p.>")
    receive(protocol, **event("p.a", 1, data=1))
    receive(protocol, **event("p.a", 2, data=2))
    receive(protocol, "position", position="e:2")
    protocol.opened()
    (request,) = sent(protocol)
    at = {"p.a": {"epoch": "e", "offset": 9}}
    assert receive(protocol, "ok", id=request["id"], position="e:99", positions=at, recovered=True) == []
    came = [item for n in (2, 3, 4) for item in receive(protocol, **event("p.a", n, data=n))]
    assert offsets(came) == [Repeated("p.a", 2), 3, 4]
    protocol.opened()
    assert sent(protocol)[0]["since"] == request["since"] == "e:2", "the end of the recovery was not seen"


def test_what_history_has_lost_is_told_once() -> None:
    protocol = subscribed("p.>")
    receive(protocol, **event("p.a", 1))
    receive(protocol, "position", position="e:1")
    protocol.opened()
    receive(protocol, "ok", id=sent(protocol)[0]["id"], position="e:9", recovered=False)
    lost = {"topic": "p.a", "epoch": "e", "from": 2, "to": 6, "reason": "history_expired"}
    assert receive(protocol, "gap", **lost) == [FeedGap("history_expired", "p.a", 2, 6)]
    assert offsets(receive(protocol, **event("p.a", 7, data=7))) == [7]


def test_without_history_the_last_event_shows_what_was_missed() -> None:
    protocol = subscribed("p.>")
    receive(protocol, **event("p.a", 3))
    assert again(protocol) == []
    assert offsets(receive(protocol, **event("p.a", 6, data=6))) == [FeedGap("sequence", "p.a", 4, 5), 6]
    assert again(protocol) == []
    assert receive(protocol, **event("p.a", 6)) == [Repeated("p.a", 6)]
    assert offsets(receive(protocol, **event("p.a", 7, data=7))) == [7]


def test_the_answer_shows_what_was_missed_of_an_exact_topic() -> None:
    protocol = subscribed("a", positions={"a": {"epoch": "e", "offset": 3}})
    assert offsets(receive(protocol, **event("a", 3, data=3))) == [3], "the snapshot"
    assert again(protocol, {"a": {"epoch": "e", "offset": 6}, "other": {"epoch": "e", "offset": 1}}) == [
        FeedGap("sequence", "a", 4, 5)
    ]
    assert offsets(receive(protocol, **event("a", 6, data=6))) == [6]


def test_a_topic_that_was_born_meanwhile_has_lost_its_first_events() -> None:
    protocol = subscribed("p.>")
    assert offsets(receive(protocol, **event("p.old", 8, data=8))) == [8]
    again(protocol)
    assert offsets(receive(protocol, **event("p.new", 3, data=3))) == [FeedGap("sequence", "p.new", 1, 2), 3]
    unseen = subscribed("p.>", snapshot=False)
    again(unseen)
    assert offsets(receive(unseen, **event("p.new", 3, data=3))) == [3], "it may have been before"


def test_another_epoch_is_told_with_what_is_missing_of_it() -> None:
    protocol = subscribed("p.>", "x", positions={"x": {"epoch": "e", "offset": 4}})
    receive(protocol, **event("p.a", 3))
    receive(protocol, **event("p.b", 3))
    told = again(protocol, {"x": {"epoch": "f", "offset": 1}}, "f:0")
    assert told == [FeedGap("epoch_changed", "x")]
    assert offsets(receive(protocol, **event("p.a", 1, "f", data=1))) == [FeedGap("epoch_changed", "p.a"), 1]
    assert offsets(receive(protocol, **event("p.b", 5, "f", data=5))) == [FeedGap("epoch_changed", "p.b", 1, 4), 5]
    lost = {"topic": "p.b", "epoch": "g", "from": 1, "to": 0, "reason": "epoch_changed"}
    assert receive(protocol, "gap", **lost) == [FeedGap("epoch_changed", "p.b")], "its hub went, its worker did not"
    assert offsets(receive(protocol, **event("p.b", 1, "g", data=1))) == [1]


def test_what_the_upstream_says_it_dropped_is_passed_on() -> None:
    protocol = subscribed("p.>")
    receive(protocol, **event("p.a", 1))
    lost = {"topic": "p.a", "epoch": "e", "from": 2, "to": 4, "reason": "slow"}
    assert receive(protocol, "gap", **lost) == [FeedGap("slow", "p.a", 2, 4)]
    assert offsets(receive(protocol, **event("p.a", 5, data=5))) == [5]


def test_a_low_event_that_a_critical_one_overtook_is_no_repetition() -> None:
    protocol = subscribed("p.>")
    order = [(2, "critical"), (1, "low"), (2, "critical"), (1, "low"), (3, "medium")]
    items = [item for n, priority in order for item in receive(protocol, **event("p.a", n, data=n, priority=priority))]
    assert offsets(items) == [2, 1, Repeated("p.a", 2), Repeated("p.a", 1), 3]


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("unauthorized", FailureKind.UNAUTHORIZED),
        ("forbidden", FailureKind.UNAUTHORIZED),
        ("rate_limited", FailureKind.THROTTLED),
        ("unavailable", FailureKind.UNAVAILABLE),
        ("limit_exceeded", FailureKind.REJECTED),
        ("unsupported", FailureKind.REJECTED),
        ("a_word_of_tomorrow", FailureKind.REJECTED),
    ],
)
def test_a_refused_subscription_ends_the_connection(code: str, kind: FailureKind) -> None:
    protocol = HeliographProtocol(["a"])
    protocol.opened()
    with pytest.raises(UpstreamRefused, match="why not") as raised:
        receive(protocol, "error", id=sent(protocol)[0]["id"], code=code, message="why not")
    assert raised.value.kind is kind


def test_a_position_that_is_refused_is_not_asked_for_again_on_this_connection() -> None:
    protocol = subscribed("p.>")
    receive(protocol, "position", position="e:1")
    protocol.opened()
    receive(protocol, "error", id=sent(protocol)[0]["id"], code="bad_request", message="?", field="since")
    (request,) = sent(protocol)
    assert "since" not in request and request["snapshot"] is True
    with pytest.raises(UpstreamRefused):
        receive(protocol, "error", id=request["id"], code="bad_request", message="?", field="since")


def test_a_subscription_whose_answer_never_came_is_asked_for_as_the_first_one() -> None:
    protocol = HeliographProtocol(["p.>"])
    protocol.opened()
    first = sent(protocol)
    protocol.opened()
    (second,) = sent(protocol)
    assert second == {**first[0], "id": 2}
    receive(protocol, "ok", id=second["id"], position="e:0")
    assert offsets(receive(protocol, **event("p.a", 5, data=5))) == [5]


def test_a_ping_keeps_a_quiet_upstream_alive_and_its_answer_is_nothing_more() -> None:
    protocol = subscribed("a")
    protocol.heartbeat()
    assert sent(protocol) == [{"op": "ping", "id": 2}]
    assert receive(protocol, "ok", id=2, ts=1.5) == []
    assert receive(protocol, "error", id=2, code="internal", message="?") == []


def test_another_protocol_is_refused() -> None:
    with pytest.raises(UpstreamRefused, match="protocol 2"):
        receive(HeliographProtocol(["a"]), "welcome", protocol=2)


@pytest.mark.parametrize(
    ("op", "fields"),
    [
        ("skipped", {"topic": "a", "count": 1}),
        ("slow", {"queued": 1, "limit": 2}),
        ("bye", {"code": 1012, "reason": "drain"}),
        ("a_word_of_tomorrow", {"x": 1}),
    ],
)
def test_notices_that_change_nothing(op: str, fields: dict[str, Any]) -> None:
    assert receive(subscribed("a"), op, **fields) == []


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b"", BadMessage.NOT_JSON),
        (b"[1]", BadMessage.NOT_JSON),
        (b"\xff\xfe", BadMessage.NOT_JSON),
        (b"[" * 100_000, BadMessage.NOT_JSON),
        (b'{"op":"event","topic":"a","epoch":"e","offset":1,"ts":1,"data":"\xff"}', BadMessage.NOT_JSON),
        (b'{"op":"event","topic":"a","offset":1,"ts":1,"data":1}', BadMessage.WRONG_TYPE),
        (b'{"op":"event","topic":"a","epoch":"e","offset":"1","ts":1,"data":1}', BadMessage.WRONG_TYPE),
        (b'{"op":"ok","id":1,"positions":7}', BadMessage.WRONG_TYPE),
        (b'{"op":"event","topic":"not mine","epoch":"e","offset":1,"ts":1,"data":1}', BadMessage.BAD_TOPIC),
        (b'{"op":"event","topic":"b","epoch":"e","offset":1,"ts":1,"data":1}', BadMessage.BAD_TOPIC),
        (b'{"op":"gap","topic":"b","epoch":"e","from":1,"to":2,"reason":"slow"}', BadMessage.BAD_TOPIC),
    ],
)
def test_garbage_is_an_item_and_the_next_message_is_read(raw: bytes, reason: BadMessage) -> None:
    protocol = subscribed("a")
    (item,) = protocol.receive(raw)
    assert isinstance(item, MappingError) and item.reason is reason
    assert offsets(receive(protocol, **event("a", 1))) == [1]


def test_a_topic_too_long_for_here_is_bad() -> None:
    protocol = subscribed(">", prefix="p" * 100)
    (item,) = receive(protocol, **event("t" * 200, 1))
    assert isinstance(item, MappingError) and item.reason is BadMessage.BAD_TOPIC


@given(st.binary(max_size=60) | st.from_regex(rb'\{"op":"(event|gap|ok|error|bye|position)".{0,40}\}'))
def test_nothing_that_an_upstream_sends_raises_but_a_refusal(raw: bytes) -> None:
    protocol = subscribed("a")
    try:
        items = protocol.receive(raw)
    except UpstreamRefused:
        return
    assert all(isinstance(item, (Publish, FeedGap, Repeated, MappingError)) for item in items)


class World:
    """An upstream engine, what is on its way to the feed, and what the feed has made of it.

    Attributes:
        came: how often each event did; one is ``topic/epoch/offset``.
        missing: what the feed has found missing.
        told: what the upstream has said it dropped.
        changed: topics and epochs of which the feed knows that they began anew.
    """

    def __init__(self, history: bool, chance: random.Random) -> None:
        self.feed = HeliographProtocol(["p.>"])
        self.came: Counter[str] = Counter()
        self.missing: set[str] = set()
        self.told: set[str] = set()
        self.changed: set[tuple[str | None, str]] = set()
        self.epoch = 0
        self.lengths: Counter[str] = Counter()  # of the topics' logs
        self.connected = False
        self._history, self._chance = history, chance
        self._log: list[tuple[str, int]] = []
        self._line: list[dict[str, Any]] = []
        self._worker: dict[str, int] = {}  # the epochs that the upstream's worker knows

    def all(self) -> set[str]:
        """What was published in this epoch."""
        return {f"{topic}/{self.epoch}/{offset}" for topic, offset in self._log}

    def connect(self) -> None:
        """Up to the answer to the subscription; what follows it may still be cut off."""
        if not self.connected:
            self.connected, self._line = True, [{"op": "welcome", "protocol": 1}]
            self._worker = dict.fromkeys(self.lengths, self.epoch)
            self.feed.opened()
            self._answer()
            while (op := self._line[0]["op"]) in ("welcome", "error", "ok"):
                self.read(1)
                if op == "ok":
                    break

    def cut(self) -> None:
        self.read(self._chance.randrange(len(self._line) + 1))
        self.connected, self._line = False, []

    def publish(self, *, overflow: bool = False) -> None:
        topic = self._chance.choice(["p.a", "p.b", "p.c"])
        self.lengths[topic] += 1
        offset = self.lengths[topic]
        self._log.append((topic, offset))
        if self.connected:
            if self._worker.get(topic, self.epoch) != self.epoch:
                self._gap(topic, 1, offset - 1, "epoch_changed")
            self._worker[topic] = self.epoch
            if overflow:
                self._gap(topic, offset, offset, "overflow")
            else:
                self._line.append(self._event(topic, offset))

    def position(self) -> None:
        if self.connected:
            self._line.append({"op": "position", "position": f"{self.epoch}:{len(self._log)}"})

    def restart(self) -> None:
        """Its hub, which knows no more what was on its way; workers and their sessions stay."""
        self.read(len(self._line))
        self.epoch += 1
        self.lengths.clear()
        self._log.clear()

    def read(self, count: int | None = None) -> None:
        """The feed takes messages, all by default."""
        for message in [self._line.pop(0) for _ in range(len(self._line) if count is None else count)]:
            for item in self.feed.receive(msgspec.json.encode(message)):
                if isinstance(item, Publish):
                    self.came[msgspec.json.decode(item.data)] += 1
                elif isinstance(item, FeedGap):
                    self._note(item)
                else:
                    assert isinstance(item, Repeated), item
            self._answer()

    def _note(self, gap: FeedGap) -> None:
        if gap.reason == "epoch_changed":
            self.changed.add((gap.counter, str(self.epoch)))
        if gap.first is not None and gap.last is not None:
            names = {f"{gap.counter}/{self.epoch}/{n}" for n in range(gap.first, gap.last + 1)}
            assert not names & self.missing, "told twice"
            if gap.reason == "overflow":
                self.told |= names
            else:
                self.missing |= names

    def _answer(self) -> None:
        for request in sent(self.feed):
            ok = {"op": "ok", "id": request["id"], "position": f"{self.epoch}:{len(self._log)}", "positions": {}}
            since = request.get("since")
            if since is None:
                self._line += [ok, *(self._event(*last) for last in self.lengths.items())]
            elif self._history and since.startswith(f"{self.epoch}:"):
                # "what came after that position may come again"
                accepted = int(since.partition(":")[2]) - self._chance.randrange(3)
                missed = [self._event(*at) for at in self._log[max(0, accepted) :]]
                self._line += [ok | {"recovered": True}, *missed]
            else:
                self._line.append({"op": "error", "id": request["id"], "code": "unsupported", "message": "no"})

    def _event(self, topic: str, offset: int) -> dict[str, Any]:
        return event(topic, offset, str(self.epoch), data=f"{topic}/{self.epoch}/{offset}")

    def _gap(self, topic: str, first: int, last: int, reason: str) -> None:
        span = {"from": first, "to": last, "reason": reason}
        self._line.append({"op": "gap", "topic": topic, "epoch": str(self.epoch), **span})


STEPS = ["publish"] * 10 + ["overflow", "cut", "cut", "connect", "connect", "connect", "position", "restart"]


@given(st.lists(st.sampled_from(STEPS), min_size=20, max_size=60), st.booleans(), st.randoms(use_true_random=False))
def test_through_any_cuts_each_event_comes_once_or_is_named_by_a_gap(
    steps: list[str], history: bool, chance: random.Random
) -> None:
    world = World(history, chance)
    for _ in range(3):
        world.publish()
    earlier = world.all() - {f"{topic}/0/{last}" for topic, last in world.lengths.items()}
    world.connect()
    for step in steps:
        if step == "overflow":
            world.publish(overflow=True)
        else:
            getattr(world, step)()
    world.connect()
    world.read()

    assert not [name for name, count in world.came.items() if count > 1]
    assert world.all() - earlier <= world.came.keys() | world.missing | world.told, "lost without a word"
    assert not world.came.keys() & world.missing, "came all the same"
    seen = {name.split("/")[0] for name in world.came if name.split("/")[1] != str(world.epoch)}
    assert {(topic, str(world.epoch)) for topic in seen & world.lengths.keys()} <= world.changed


def test_what_a_world_with_history_recovers_is_everything() -> None:
    world = World(True, random.Random(7))
    world.connect()
    world.position()
    world.read()
    for _ in range(20):
        for _ in range(10):
            world.publish()
        world.cut()
        for _ in range(10):
            world.publish()
        world.connect()
    world.read()
    assert world.came == Counter(world.all()) and not world.missing


def test_what_has_no_place_at_the_upstream_yet_is_left_until_it_comes_again() -> None:
    feed = subscribed("a")
    assert receive(feed, "event", topic="a", type="t", ts=1.5, data=1) == []
    (found,) = receive(feed, **event("a", 1))
    assert isinstance(found, Publish)
