"""The keeper with a history that does as a test says, and with a real one."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from actors import keeper, keeper_desk
from actors.history import Accepted, Head
from actors.history_watch import HistoryWatch
from actors.keeper import BATCH_EVENTS, KEEPER_EVENTS, Keeper
from actors.keeper_desk import KeeperDesk, take_over
from actors.messages import Keep, Kept, ReadDone, ReadKept, Sweep
from actors.recall import NOTHING_OLDER, Older, page
from actors.sqlite_history import SqliteHistory
from actors.topic_log import TopicLog
from actors.topic_policy import TopicPolicies, TopicPolicy
from transport.codec import join, pack, unpack_batch
from transport.codes import ErrorCode
from transport.errors import RequestError
from transport.messages import Publication, Publish, ReadHistory

POLICIES = TopicPolicies({}, TopicPolicy(history_size=2, history_age_s=None))
DURABLE = TopicPolicies({}, TopicPolicy(durable=True))
PEER: Any = object()
Wait = Callable[..., None]


class Router:
    """Writes down what it is told."""

    def __init__(self) -> None:
        self.told: list[Any] = []

    def tell(self, message: Any) -> None:
        self.told.append(message)

    def results(self) -> list[Any]:
        return [result for message in self.told if type(message) is Kept for result in message.results]


class Scripted(SqliteHistory):
    """Counts appends, waits for a gate, and raises what it should."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, POLICIES, 10, lambda: "e")
        self.gate = threading.Event()
        self.gate.set()
        self.appends: list[int] = []
        self.error: Exception | None = None

    def append(self, publishes: Any, now: float) -> Any:
        self.appends.append(len(publishes))
        assert self.gate.wait(20)
        if self.error is not None:
            raise self.error
        return super().append(publishes, now)


def batch(count: int, peer: str = "p") -> Keep:
    return Keep([(peer, Publish(n + 1, "a", "t", b"1")) for n in range(count)])


def started(tmp_path: Path) -> tuple[Any, Router, Scripted]:
    router, history = Router(), Scripted(tmp_path / "h.db")
    return Keeper.start(router=router, history=lambda: history, clock=lambda: 1e9), router, history


def test_what_waits_goes_into_one_append(tmp_path: Path, wait_until: Wait) -> None:
    ref, router, history = started(tmp_path)
    history.gate.clear()
    ref.tell(batch(1))
    wait_until(lambda: history.appends)
    for n in range(5):
        ref.tell(batch(10, f"p{n}"))
    ref.tell(batch(BATCH_EVENTS * 2, "large"))
    history.gate.set()
    ref.stop(timeout=20)
    assert history.appends == [1, BATCH_EVENTS, BATCH_EVENTS, 50]
    results = router.results()
    assert [result.publication.offset for _, _, result in results] == list(range(1, 52 + 2 * BATCH_EVENTS))
    assert [peer for peer, _, _ in results[:52]] == ["p"] + [f"p{n}" for n in range(5) for _ in range(10)] + ["large"]


def test_an_append_that_fails_is_told_to_all_and_the_next_works(tmp_path: Path) -> None:
    ref, router, history = started(tmp_path)
    history.error = RequestError(ErrorCode.UNAVAILABLE, "no room")
    ref.tell(batch(3))
    ref.ask(ReadKept(1, {"a": 0}, 10), timeout=20)
    history.error = None
    ref.tell(batch(1))
    ref.stop(timeout=20)
    *failed, (_, _, good) = router.results()
    assert {error.code for _, _, error in failed} == {ErrorCode.UNAVAILABLE}
    assert len(failed) == 3
    assert good.publication.offset == 1


def test_a_bug_costs_the_batch_in_hand_and_is_answered(tmp_path: Path, wait_until: Wait) -> None:
    ref, router, history = started(tmp_path)
    history.error = LookupError("a bug")
    ref.tell(batch(BATCH_EVENTS + 1))
    wait_until(lambda: not ref.is_alive(), 20)
    assert len(router.results()) == BATCH_EVENTS + 1
    assert {error.code for _, _, error in router.results()} == {ErrorCode.UNAVAILABLE}


def test_reads_and_trims(tmp_path: Path) -> None:
    ref, router, _ = started(tmp_path)
    wanted = [ReadKept("x", {"a": 0}, 3), ReadKept("y", {}, 4, 1, ("a",)), ReadKept("z", {}, 3, 1, ("a",))]
    for message in (batch(5), *wanted, Sweep(), ReadKept("x", {"a": 4, "b": 0}, 3), ReadKept("y", {}, 9, 1, (">",))):
        ref.tell(message)
    ref.stop(timeout=20)
    done = [message for message in router.told if isinstance(message, ReadDone)]
    offsets = [{t: [p.offset for p in unpack_batch(join(e))] for t, e in each.events.items()} for each in done]
    assert offsets == [{"a": [3, 4, 5]}, {"a": [2, 3, 4, 5]}, {"a": [2, 3, 4]}, {"a": [5], "b": []}, {}]
    assert [each.complete for each in done] == [True, True, False, True, False]
    assert [each.token for each in done] == ["x", "y", "z", "x", "y"]


def test_what_is_read_for_one_who_was_away_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeper, "PAGE", 8)
    monkeypatch.setattr(keeper, "FIRST_PAGE", 2)
    monkeypatch.setattr(keeper, "READ_BYTES", 40_000)
    monkeypatch.setattr(keeper, "READ_EVENTS", 100)
    ref, router, history = started(tmp_path)
    small = [("p", Publish(n + 1, topic, "t", b"1")) for n in range(40) for topic in ("a", "b", "c")]
    large = [("p", Publish(n + 1, "large", "t", b"1" * 9_000)) for n in range(10)]
    read: list[int] = []
    real = history.read, history.tail
    monkeypatch.setattr(history, "read", lambda *of: read.append(len(found := real[0](*of))) or found)
    monkeypatch.setattr(history, "tail", lambda *of: read.append(len(found := real[1](*of))) or found)
    after = {"a": 0, "b": 35, "c": 0, "large": 0}
    for message in (
        Keep(small + large),
        ReadKept("events", after, 50),
        ReadKept("bytes", {"large": 0, "a": 39}, 50),
        ReadKept("far", {}, 50, 1, ("nothing",)),
        ReadKept("near", {}, 50, 100, ("c", "b")),
        ReadKept("heavy", {}, 50, 119, ("large",)),
    ):
        ref.tell(message)
    ref.stop(timeout=20)
    done = {message.token: message for message in router.told if isinstance(message, ReadDone)}
    offsets = {
        token: {topic: [p.offset for p in unpack_batch(join(e))] if e else [] for topic, e in each.events.items()}
        for token, each in done.items()
    }
    # The newest of each, in turn, as long as there is room.
    assert offsets["events"] == {"a": [*range(1, 41)], "b": [*range(36, 41)], "c": [*range(36, 41)], "large": []}
    assert offsets["bytes"] == {"large": [5, 6, 7, 8, 9, 10], "a": []}
    # Behind a mark what can be looked at.
    assert (offsets["far"], done["far"].complete) == ({}, False)
    assert (offsets["near"], done["near"].complete) == ({"b": [*range(34, 41)], "c": [*range(34, 41)]}, True)
    assert (offsets["heavy"], done["heavy"].complete) == ({"large": [1, 2, 3, 4]}, False)
    assert sum(read) < 250


def durable_log() -> TopicLog:
    return TopicLog(10, lambda: "e", policies=DURABLE)


def test_what_is_in_flight_is_bounded() -> None:
    keeper = Router()
    desk = KeeperDesk(keeper, durable_log(), DURABLE, HistoryWatch())
    large = [publish for _, publish in batch(KEEPER_EVENTS - 1).batch]
    assert desk.divert(PEER, large) == ([], [])
    others, spare = desk.divert(PEER, large[:3])
    assert (others, [publish for publish, _ in spare]) == ([], large[1:3])
    assert {why.code for _, why in spare} == {ErrorCode.UNAVAILABLE}
    desk.kept(Kept([(PEER, large[0], RequestError(ErrorCode.UNAVAILABLE, ""))] * 2))
    assert [publish for publish, _ in desk.divert(PEER, large[:3])[1]] == large[2:3]
    assert [len(message.batch) for message in keeper.told] == [KEEPER_EVENTS - 1, 1, 2]


def test_what_is_kept_but_cannot_be_recorded_is_recorded_later_and_nothing_overtakes_it() -> None:
    log, watch = durable_log(), HistoryWatch()
    desk = KeeperDesk(Router(), log, DURABLE, watch)
    publishes = [publish for _, publish in batch(3).batch]
    desk.divert(PEER, publishes)
    record, log.record = log.record, refuses  # type: ignore[method-assign]
    kept = [Accepted(Publication("a", "e", n, 1.0, "t", b"1"), b"", n) for n in (1, 2, 3)]
    events, answers = desk.kept(Kept([(PEER, p, k) for p, k in zip(publishes, kept, strict=True)]))
    assert events == [] and {type(answer.outcome) for answer in answers} == {RequestError}
    assert desk.stuck and watch.reason is not None and "no space" in watch.reason
    assert [publish for publish, _ in desk.divert(PEER, publishes[:1])[1]] == publishes[:1]
    assert desk.retry() == []
    log.record = record  # type: ignore[method-assign]
    assert [event.publication.offset for event in desk.retry()] == [1, 2, 3]
    assert not desk.stuck and watch.reason is None and desk.retry() == []


def test_what_a_former_hub_has_kept_waits_for_room_and_outlives_the_router(tmp_path: Path) -> None:
    history = SqliteHistory(tmp_path / "h.db", DURABLE, 10, lambda: "e")
    log, watch = durable_log(), HistoryWatch()
    history.append([publish for _, publish in batch(2).batch], 1.0)
    take_over(history, log)
    assert (log.where("a"), log.position.split(":")[2]) == (("e", 2), "2")
    history.append([publish._replace(topic=topic) for _, publish in batch(2).batch for topic in ("a", "b")], 1.0)
    record, log.record = log.record, refuses  # type: ignore[method-assign]
    take_over(history, log)
    assert (log.where("a"), log.where("b"), log.position.split(":")[2]) == (("e", 2), ("e", 0), "0")
    for _ in range(2):
        desk = KeeperDesk(Router(), log, DURABLE, watch)
        publishes = [publish for _, publish in batch(1).batch]
        assert desk.stuck and desk.divert(PEER, publishes)[1][0][1].code is ErrorCode.UNAVAILABLE
        assert desk.retry() == []
    log.record = record  # type: ignore[method-assign]
    assert [event.publication[:3] for event in desk.retry()] == [
        ("a", "e", 3),
        ("a", "e", 4),
        ("b", "e", 1),
        ("b", "e", 2),
    ]
    assert not desk.stuck and (log.where("a"), log.where("b")) == (("e", 4), ("e", 2))
    history.close()


def test_a_log_that_is_ahead_of_the_disk_is_not_repeated(tmp_path: Path) -> None:
    """A topic was not durable for a while, or an old copy of the file was put back."""
    publishes = [publish for _, publish in batch(3).batch]
    history = SqliteHistory(tmp_path / "h.db", DURABLE, 10, lambda: "e")
    log = durable_log()
    history.append(publishes, 1.0)
    take_over(history, log)
    later = TopicLog(10, lambda: "e")  # of an engine that knows of no durable topics
    later.record([Accepted(event, pack(event), 0) for event in log.last("a")])
    later.append(publishes[:2], 2.0)
    assert later.where("a") == ("e", 5)
    take_over(history, later)
    assert later.where("a") == ("e", 5)
    [again] = history.append(publishes[:1], 3.0)
    assert isinstance(again, Accepted) and again.publication[:3] == ("a", "e", 6)
    assert [event.offset for event in unpack_batch(join(history.read("a", 0, 10)))] == [1, 2, 3, 6]
    assert len(later.record([again])) == 1
    history.close()


def refuses(events: Any) -> Any:
    raise RequestError(ErrorCode.UNAVAILABLE, "no space left")


def test_a_long_history_is_read_page_by_page_from_its_beginning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeper_desk, "RECALL_EVENTS", 10)
    policies = TopicPolicies({}, TopicPolicy(durable=True, history_age_s=None))
    history = SqliteHistory(tmp_path / "h.db", policies, 10, lambda: "e")
    kept = [a for a in history.append([p for _, p in batch(40).batch], 1e9) if isinstance(a, Accepted)]
    log, router = TopicLog(10, lambda: "e", policies=policies), Router()
    log.adopt("e", [Head("a", "e", 30, None)], 30)
    log.record(kept[30:])
    ref = Keeper.start(router=router, history=lambda: history, clock=lambda: 1e9)
    desk = KeeperDesk(ref, log, policies, HistoryWatch())
    found: list[int] = []
    while len(found) < 40:
        request = ReadHistory(1, "a", 7, ("e", len(found)))
        older = NOTHING_OLDER
        if desk.read(PEER, request):
            ref.ask(Sweep(), timeout=20)  # it comes behind
            done = router.told[-1]
            older = Older(done.events, done.complete)
        events, gap = page(log, "a", 7, request.since, older)
        assert gap is None
        assert 0 < len(events) <= 7
        found += [event.offset for event in unpack_batch(join(events))]
    ref.stop(timeout=20)
    assert found == [*range(1, 41)]
