"""Who gets what, when: router, index and broadcaster together against an oracle that knows every event's place in the
log. Filters, overlapping patterns, windows, rates, conflation and priorities, while clients come, go and stall."""

from typing import Any

import msgspec
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.actors.test_fanout import FakeSocket, Spine, run, until
from transport.filters import MISSING, Filter
from transport.topics import matches

PATTERNS = ["a.x", "a.*", ">", "b"]
TOPICS = ["a.x", "a.y", "b"]
WHERES: list[Any] = [
    None,
    {"s": "A"},
    {"s": ["A", "B"]},
    {"v": {"gte": 3}},
    {"v": {"lt": 5}, "s": {"not": "B"}},
    [{"s": "B"}, {"v": {"gt": 7}}],
    {"v": {"exists": False}},
    {"@type": "t1"},
]
OPTIONS: list[dict[str, Any]] = [{}, {}, {"window": 0.003}, {"conflate": True}, {"max_rate": 300}, {"batch": True}]
WHO = st.integers(0, 2)
SOME = st.lists(st.sampled_from(PATTERNS), min_size=1, max_size=3, unique=True)
STEPS = st.one_of(
    st.tuples(st.just("subscribe"), WHO, SOME, st.sampled_from(WHERES), st.sampled_from(OPTIONS)),
    st.tuples(st.just("unsubscribe"), WHO, SOME),
    *[
        st.tuples(
            st.just("publish"),
            st.sampled_from(TOPICS),
            # few classes of events, so that selections are used again
            st.sampled_from([{}, {"s": "A"}, {"s": "A", "v": 2}, {"s": "B", "v": 8}]),
            st.sampled_from([None, None, "low", "high", "critical"]),
            st.sampled_from(["t1", "t1", "t2"]),
        )
    ]
    * 3,
    st.tuples(st.sampled_from(["stall", "flow", "leave", "settle"]), WHO),
)


class Reader:
    """One client's view of the log: what it must have got, what it may have got, what it got."""

    def __init__(self, socket: FakeSocket) -> None:
        self.socket = socket
        self.missing: list[dict[str, Any]] = []

    def check(self, log: list[dict[str, Any]]) -> bool:
        """Assert that nothing is wrong; whether nothing is missing."""
        held: dict[str, tuple[Any, dict[str, Any]]] = {}
        states: list[tuple[int, int, dict[str, Any]]] = [(0, 0, {})]  # from between these places of the log
        got: list[dict[str, Any]] = []
        for message in self.socket.messages:
            if message["op"] == "ok" and "position" in message:
                place = int(message["position"].split(":")[1])
                request = self.socket.requests[message["id"]]  # type: ignore[attr-defined]
                for pattern in request["topics"]:
                    held = {**held, pattern: (request.get("where"), request)}
                states.append((place, place, held))
            elif message["op"] == "ok" and "topics" in message:
                held = {pattern: held[pattern] for pattern in message["topics"]}
                states.append((states[-1][0], len(log), held))
            elif message["op"] in ("event", "events"):
                got += message["events"] if message["op"] == "events" else [message]
            else:
                assert message["op"] in ("welcome", "ok", "skipped", "slow"), message
        for i in range(len(states) - 2, -1, -1):  # a change is not later than the next one
            states[i] = (states[i][0], min(states[i][1], states[i + 1][1]), states[i][2])
        self._in_order(got)
        counts: dict[int, int] = {}
        for event in got:
            counts[event["data"]["n"]] = counts.get(event["data"]["n"], 0) + 1
        assert not [n for n, count in counts.items() if count > 1], "twice"
        self.missing = []
        for event in log:
            n = event["data"]["n"]
            wishes = [_wish(states[i][2], event) for i in _in_force(states, n)]
            if n in counts:
                assert any(wish is not None for wish in wishes), f"not wanted: {event}"
            elif None not in wishes and ("newest" not in wishes or not self._superseded(event, got)):
                self.missing.append(event)
        return not self.missing

    def _superseded(self, event: dict[str, Any], got: list[dict[str, Any]]) -> bool:
        """Conflated away: a newer one of its topic (all have one key) was got."""
        return any(g["topic"] == event["topic"] and g["data"]["n"] > event["data"]["n"] for g in got)

    def _in_order(self, got: list[dict[str, Any]]) -> None:
        last: dict[tuple[str, str], int] = {}
        for event in got:
            key = event["topic"], event.get("priority", "medium")
            assert event["offset"] > last.get(key, 0), f"out of order: {event}"
            last[key] = event["offset"]


def _in_force(states: list[tuple[int, int, dict[str, Any]]], n: int) -> list[int]:
    """The states that may hold for the n-th event of the log."""
    return [
        i
        for i, (earliest, _, _) in enumerate(states)
        if earliest < n and (i + 1 == len(states) or states[i + 1][1] >= n)
    ]


def _wish(held: dict[str, Any], event: dict[str, Any]) -> str | None:
    """``all``: it must come; ``newest``: it may be conflated away; ``None``: it must not come."""
    values = {**event["data"], "@type": event["type"]}
    here = {pattern: wanted for pattern, wanted in held.items() if matches(pattern, event["topic"])}
    if not any(
        where is None or Filter.parse(where).holds(lambda name: values.get(name, MISSING)) for where, _ in here.values()
    ):
        return None
    _, conflate, _ = min(_restriction(request) for _, request in here.values())
    return "newest" if conflate else "all"


def _restriction(request: dict[str, Any]) -> tuple[float, bool, bool]:
    interval = 1 / request["max_rate"] if "max_rate" in request else 0.0
    conflate = request.get("conflate", False) or interval > 0
    return max(interval, request.get("window", 0.0)), conflate, request.get("batch", False)


class Scene(Spine):
    """A spine that remembers what was asked."""

    def request(self, socket: FakeSocket, **fields: Any) -> int:
        number = super().request(socket, **fields)
        socket.__dict__.setdefault("requests", {})[number] = fields
        return number

    async def settle(self, socket: FakeSocket) -> None:
        await self.answer(socket, self.request(socket, op="subscribe", topics=["z"]))


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.booleans(), st.lists(STEPS, min_size=40, max_size=100))
def test_nothing_missing_nothing_extra_in_order(lasting: bool, steps: list[tuple[Any, ...]]) -> None:
    async def scenario(spine: Spine) -> None:
        assert isinstance(spine, Scene)
        publisher = spine.connect()
        if lasting:  # audiences, which otherwise end with the last holder of a pattern
            await spine.answer(publisher, spine.request(publisher, op="subscribe", topics=PATTERNS))
        readers = [Reader(spine.connect()) for _ in range(3)]
        everyone = list(readers)
        log: list[dict[str, Any]] = []
        for step, *args in steps:
            if step == "publish":
                topic, values, priority, kind = args
                event = {"topic": topic, "type": kind, "data": {"n": len(log) + 1, **values}}
                log.append(event if priority is None else {**event, "priority": priority})
                spine.request(publisher, op="publish", **log[-1])
                continue
            socket = readers[args[0]].socket
            if step == "subscribe":
                where = {} if args[2] is None else {"where": args[2]}
                spine.request(socket, op="subscribe", topics=args[1], **where, **args[3])
            elif step == "unsubscribe":
                spine.request(socket, op="unsubscribe", topics=args[1])
            elif step == "stall":
                socket.stall()
            elif step == "flow":
                socket.flow()
            elif step == "leave":
                assert socket.session is not None
                socket.session.on_closed(1000, "")
                readers[args[0]] = Reader(spine.connect())
                everyone.append(readers[args[0]])
            elif not socket.full:
                await spine.settle(socket)
        for reader in readers:
            reader.socket.flow()
            await spine.settle(reader.socket)
        try:
            await until(lambda: all(reader.check(log) for reader in readers))
        except TimeoutError:
            raise AssertionError(f"missing: {[reader.missing for reader in readers]}") from None
        for reader in everyone:
            reader.check(log)
        for reader in everyone:
            if reader in readers and reader.socket.session is not None:
                reader.socket.session.on_closed(1000, "")
        publisher.session.on_closed(1000, "")  # type: ignore[union-attr]
        await until(lambda: not spine.worker.meter.subscriptions)
        assert not any(spine.index.audiences.statistics())

    run(scenario, Scene)


def test_a_request_of_several_patterns_that_change_one_audience_joins_it_once() -> None:
    async def scenario(spine: Spine) -> None:
        socket, other = spine.connect(), spine.connect()
        for topics in (["a.x", "a.*"], ["settled"]):
            await spine.answer(other, spine.request(other, op="subscribe", topics=topics))
            await spine.answer(other, spine.request(other, op="publish", topic="a.x", data={"v": 0}))
        await spine.answer(socket, spine.request(socket, op="subscribe", topics=["a.x"], conflate=True))
        await spine.answer(socket, spine.request(socket, op="subscribe", topics=["a.*", "a.x"], where={"v": 1}))
        for v in (1, 2, 1):
            await spine.answer(other, spine.request(other, op="publish", topic="a.x", data={"v": v}))
        await spine.answer(socket, spine.request(socket, op="subscribe", topics=["a.x"]))
        assert [m["data"]["v"] for m in socket.messages if m["op"] == "event"] == [1, 1]

    run(scenario, Scene)


def test_msgspec_reads_what_is_batched() -> None:
    async def scenario(spine: Spine) -> None:
        socket, publisher = spine.connect(), spine.connect()
        await spine.answer(socket, spine.request(socket, op="subscribe", topics=["t"], window=0.02, batch=True))
        for n in range(5):
            spine.request(publisher, op="publish", topic="t", data=n)
        batches = await until(lambda: [m for m in socket.messages if m["op"] == "events"])
        assert [event["data"] for batch in batches for event in batch["events"]] == [0, 1, 2, 3, 4]
        assert msgspec.json.encode(batches[0]["events"][0])

    run(scenario, Scene)
