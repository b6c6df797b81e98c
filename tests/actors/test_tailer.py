"""The tailer with a Redis that does as a test says, and the desk that takes in what it brings."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.backplane_desk import BackplaneDesk
from actors.backplane_watch import BackplaneWatch
from actors.catch_up import CatchUp
from actors.history import Accepted, Expired
from actors.history_watch import HistoryWatch
from actors.keeper import KEEPER_BYTES, KEEPER_EVENTS
from actors.messages import Drain, Keep, Kept, Resumed, Spooled, Tailed, Tailing, TailOn, TailState
from actors.redis_history import BackplaneError, Bounds
from actors.tailer import BATCH_BYTES, BATCH_EVENTS, RESUME_EVENTS, START_S, Look, Tail, Tailer, catch_up_at_start
from actors.topic_log import TopicLog
from transport.codec import pack
from transport.codes import ErrorCode
from transport.messages import Publication, Publish

AWAY = BackplaneError("away")
PEER: Any = object()


def event(mark: int, epoch: str = "E", topic: str = "a", offset: int | None = None) -> Accepted:
    publication = Publication(topic, epoch, mark if offset is None else offset, 1.0, "t", b"%d" % mark)
    return Accepted(publication, pack(publication), mark)


class Redis:
    """A log; ``error`` is raised instead."""

    def __init__(self, last: int = 0, reach: int = 0, epoch: str = "E") -> None:
        self.epoch, self.last, self.reach = epoch, last, reach
        self.error: Exception | None = None
        self.grows = 0  # by so many events with each look
        self.packed: bytes | None = None  # of each event
        self.trusted: list[tuple[str, int]] = []

    def trust(self, epoch: str, mark: int) -> None:
        self.trusted.append((epoch, mark))

    def bounds(self) -> Bounds:
        return Bounds(self.reach, self.last)

    def ended(self, mark: int) -> list[tuple[str, int]]:
        return [("old", 7)] if mark else []

    def wait(self, mark: int, limit: int, timeout_s: float) -> list[Accepted]:
        if self.error is not None:
            raise self.error
        if self.trusted[-1][0] != self.epoch or not self.reach <= mark <= self.last:
            raise Expired
        self.last += self.grows
        events = [event(n, self.epoch) for n in range(mark + 1, min(self.last, mark + limit) + 1)]
        return events if self.packed is None else [each._replace(packed=self.packed) for each in events]

    def close(self) -> None:
        """Nothing to let go."""


class Mailbox:
    def __init__(self) -> None:
        self.told: list[Any] = []

    def tell(self, message: Any) -> None:
        self.told.append(message)

    def take(self) -> list[Any]:
        told, self.told = self.told, []
        return told


class Alone(Tailer):
    """Without its thread: what it tells itself is in ``itself``."""

    def __init__(self, redis: Redis, router: Mailbox) -> None:
        self.slept: list[float] = []
        super().__init__(
            router=router,  # type: ignore[arg-type]
            history=lambda: redis,  # type: ignore[arg-type,return-value]
            sleep=self.slept.append,
        )
        self.itself = Mailbox()
        self.on_start()

    @property
    def actor_ref(self) -> Any:
        return self.itself


def test_it_reads_on_only_when_the_router_has_taken_the_former_batch() -> None:
    redis, router = Redis(last=2_500), Mailbox()
    tailer = Alone(redis, router)
    assert router.take() == [Tailing()]
    tailer.on_tail_on(TailOn("E", 0))
    state, first = router.take()
    assert state == TailState(None)
    assert (first.behind, len(first.events)) == (0, 125)
    tailer.on_look(Look())
    assert router.take() == []
    tailer.on_tail_on(TailOn("E", 125))
    (second,) = router.take()
    assert (second.behind, second.events[-1].mark) == (125, 375)


def test_batches_grow_where_events_are_small_and_shrink_where_they_are_large() -> None:
    redis = Redis(last=20_000)
    tail = Tail(redis)  # type: ignore[arg-type]
    marks = []
    for size in [1] * 5 + [BATCH_BYTES // 100] * 5:
        redis.packed = bytes(size)
        tail.seek("E", marks[-1] if marks else 0)
        found = tail.read(0.0)
        assert type(found) is Tailed
        marks.append(found.events[-1].mark)
    counts = [after - before for before, after in itertools.pairwise([0, *marks])]
    assert counts == [125, 250, 500, 1_000, BATCH_EVENTS, 1_000, 500, 250, 125, 62]


def test_an_outage_is_told_with_its_reason_and_tried_again_later_and_later() -> None:
    redis, router = Redis(last=1), Mailbox()
    tailer = Alone(redis, router)
    redis.error = AWAY
    tailer.on_tail_on(TailOn("E", 0))
    for _ in range(20):
        assert tailer.itself.take() == [Look()]
        tailer.on_look(Look())
    states = [message for message in router.take() if type(message) is TailState]
    assert [state.reason for state in states] == ["away"] * 21
    assert [state.retry_in for state in states] == tailer.slept
    assert 0.1 < max(tailer.slept) <= 2.0
    redis.error = None
    tailer.on_look(Look())
    assert [type(message) for message in router.take()] == [TailState, Tailed]


@pytest.mark.parametrize(("last", "mark"), [(50, 20), (RESUME_EVENTS + 500, 500)])
def test_where_redis_does_not_lead_on_it_says_where_to_go_on(last: int, mark: int) -> None:
    router = Mailbox()
    tailer = Alone(Redis(last=last, reach=20), router)
    tailer.on_tail_on(TailOn("other", 5))
    assert router.take()[-1] == Resumed(("other", 5), "E", mark, last, [("old", 7)])


def test_a_hub_begins_with_what_others_have_kept() -> None:
    log = TopicLog(100, lambda: "local", shared=True)
    redis = Redis(last=2_500, reach=100)
    assert catch_up_at_start(redis, log) is None  # type: ignore[arg-type]
    assert (log.position, log.where("a"), log.where("old"), log.where("new")) == (
        "E:2500",
        ("E", 2_500),
        ("E", 7),
        ("E", 0),
    )
    assert log.where("system.x") == ("local", 0)
    redis.error = AWAY
    assert catch_up_at_start(redis, log) == "away"  # type: ignore[arg-type]


@pytest.mark.parametrize("new", [1, 10_000])
def test_a_hub_starts_though_others_never_rest(new: int) -> None:
    log = TopicLog(100, lambda: "local", shared=True)
    redis = Redis(last=400)
    redis.grows = new
    seconds = itertools.count(0.0, START_S / 100)
    assert catch_up_at_start(redis, log, lambda: next(seconds)) is None  # type: ignore[arg-type]
    assert log.mark >= 400
    redis.last += 1_000_000  # nor does it wait for all that it has missed
    log.begin("E", 100_000)
    assert catch_up_at_start(redis, log, lambda: next(seconds)) is None  # type: ignore[arg-type]
    assert 100_000 < log.mark < 300_000


class Node:
    """A desk with its log, and a worker that wants everything."""

    def __init__(self, spools: bool = False) -> None:
        self.keeper, self.tailer, self.watch = Mailbox(), Mailbox(), BackplaneWatch()
        self.log = TopicLog(100, lambda: "local", shared=True)
        self.worker: Any = type("Peer", (), {"out": [], "window_open": True})()
        catch_up = CatchUp(self.log, lambda topic: (self.worker,), lambda peer, item: None)
        self.desk = BackplaneDesk(
            self.keeper,
            self.tailer,
            self.log,
            catch_up,
            lambda: [self.worker],
            HistoryWatch(),
            self.watch,
            spools=spools,
        )


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 12), st.integers(1, 5)), max_size=30))
def test_whatever_comes_twice_or_late_the_log_is_the_shared_one(batches: list[tuple[int, int]]) -> None:
    node = Node()
    node.desk.take(Resumed(("local", 0), "E", 0, 0, []))
    news: list[int] = []
    for behind, count in batches:
        batch = [event(n) for n in range(behind + 1, behind + count + 1)]
        news += [each.mark for each in node.desk.take(Tailed("E", behind, batch))]
        node.desk.take(Tailed("former", behind, batch))
    assert news == list(range(1, len(news) + 1))
    assert node.log.position == f"E:{len(news)}"
    assert node.tailer.told[-1] == TailOn("E", len(news))


def test_at_first_contact_old_events_are_news_to_nobody() -> None:
    node = Node()
    for _ in range(2):  # it was asked for twice: by a router and by a tailer that have just begun
        node.desk.take(Resumed(("local", 0), "E", 10, 12, [("old", 3)]))
    assert node.tailer.take() == [TailOn("E", 10)]
    assert node.desk.take(Tailed("E", 10, [event(11)])) == []
    assert [each.mark for each in node.desk.take(Tailed("E", 11, [event(12), event(13)]))] == [13]
    assert len(node.worker.out) == 2, "what a and old have lost"
    assert node.log.where("old") == ("E", 3)


def test_another_epoch_soon_after_the_first_contact_is_news_from_its_beginning() -> None:
    node = Node()
    node.desk.take(Resumed(("local", 0), "E", 10, 1_000, []))
    node.desk.take(Resumed(("E", 10), "F", 0, 1, []))
    assert len(node.desk.take(Tailed("F", 0, [event(1, "F")]))) == 1


def test_another_epoch_is_told_and_its_events_are_news() -> None:
    node = Node()
    node.watch.met = True
    node.desk.take(Resumed(("local", 0), "E", 0, 1, []))
    node.desk.take(Tailed("E", 0, [event(1)]))
    node.worker.out.clear()
    node.desk.take(Resumed(("E", 1), "F", 0, 2, []))
    assert len(node.worker.out) == 1
    assert node.log.where("a") == ("F", 0)
    assert len(node.desk.take(Tailed("F", 0, [event(1, "F"), event(2, "F")]))) == 2
    with pytest.raises(Expired):
        node.log.mark_of("E:1")
    assert node.watch.lost == 2


def test_a_log_that_cannot_be_written_is_read_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    node = Node()
    node.desk.take(Resumed(("local", 0), "E", 0, 0, []))
    node.tailer.take()
    with monkeypatch.context() as broken:
        broken.setattr(TopicLog, "record", lambda *_: (_ for _ in ()).throw(AWAY))
        assert node.desk.take(Tailed("E", 0, [event(1)])) == []
    assert (node.desk.stuck, node.tailer.take()) == (True, [])
    node.desk.tick()
    assert node.tailer.take() == [TailOn("E", 0)]
    assert len(node.desk.take(Tailed("E", 0, [event(1)]))) == 1
    assert not node.desk.stuck


def test_publishes_are_refused_at_once_while_redis_is_away_and_while_too_many_wait() -> None:
    node = Node()
    mine, shared = Publish(1, "system.x", "t", b"1"), Publish(2, "a", "t", b"1")
    assert node.desk.divert(PEER, [mine, shared]) == ([mine], [])
    assert node.keeper.take() == [Keep([(PEER, shared)])]
    node.desk.take(TailState("no route", 0.5))
    _, [(refused, why)] = node.desk.divert(PEER, [shared])
    assert (refused, why.code) == (shared, ErrorCode.UNAVAILABLE)
    assert "no route" not in why.message, "where Redis is, is no business of a publisher's"
    assert (node.watch.trouble, node.watch.retry_in) == ("no route", 0.5)
    node.desk.take(TailState(None))
    taken = Kept([(PEER, shared, event(1))])
    assert [answer.ref for answer in node.desk.kept(taken)[1]] == [2]
    node.desk.divert(PEER, [shared])
    node.desk.kept(Kept([(PEER, shared, BackplaneError("its memory is full"))]))
    assert node.watch.trouble == "its memory is full"
    _, over = node.desk.divert(PEER, [shared] * (KEEPER_EVENTS + 1))
    assert len(over) == 1


def test_few_large_events_that_wait_are_too_many_as_well() -> None:
    node = Node()
    large = Publish(1, "a", "t", bytes(1 << 20))
    assert node.desk.divert(PEER, [large] * (KEEPER_BYTES >> 20)) == ([], [])
    _, [(_, why)] = node.desk.divert(PEER, [large])
    assert why.code is ErrorCode.UNAVAILABLE
    node.desk.kept(Kept([(PEER, large, event(1))]))
    assert node.desk.divert(PEER, [large]) == ([], [])


def test_what_waits_on_disk_is_drained_once_redis_is_back() -> None:
    node = Node(spools=True)
    shared = Publish(2, "a", "t", b"1")
    node.desk.take(TailState("away", 0.1))
    assert node.desk.divert(PEER, [shared]) == ([], [])
    placeless = Accepted(Publication("a", "", 0, 1.0, "t", b"1"), b"packed", 0)
    events, _ = node.desk.kept(Kept([(PEER, shared, placeless), (PEER, shared, placeless._replace(again=True))]))
    assert events == [placeless]
    node.desk.take(Spooled(3_000, "away"))
    assert "3000 events wait" in str(node.watch.trouble)
    node.desk.tick()
    node.keeper.take()
    node.desk.take(TailState(None))
    node.desk.tick()
    assert node.keeper.take() == [Drain()], "one at a time"
    node.desk.take(Spooled(900, None, drained=True))
    assert node.keeper.take() == [Drain()]
    node.desk.take(Spooled(0, None, drained=True))
    for _ in itertools.repeat(None, 2):
        node.desk.tick()
    assert node.keeper.take() == []
    assert node.watch.trouble is None
