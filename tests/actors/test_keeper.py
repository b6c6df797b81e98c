"""The keeper with a history that does as a test says, and with a real one."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from actors.keeper import BATCH_EVENTS, KEEPER_EVENTS, InFlight, Keeper
from actors.messages import Keep, Kept, ReadDone, ReadKept, Sweep
from actors.sqlite_history import SqliteHistory
from actors.topic_policy import TopicPolicies, TopicPolicy
from transport.codec import join, unpack_batch
from transport.codes import ErrorCode
from transport.errors import RequestError
from transport.messages import Publish

POLICIES = TopicPolicies({}, TopicPolicy(history_size=2, history_age_s=None))
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
    assert (done[0].first, done[3].first) == ({"a": 1}, {"a": 4, "b": 1})
    assert [each.token for each in done] == ["x", "y", "z", "x", "y"]


def test_what_is_in_flight_is_bounded() -> None:
    flight = InFlight()
    large = batch(KEEPER_EVENTS - 1).batch
    assert flight.take(large) == large
    assert flight.take(large[:3]) == large[:1]
    assert flight.take(large[:3]) == []
    flight.kept(Kept([(None, large[0][1], RequestError(ErrorCode.UNAVAILABLE, ""))] * 2))
    assert flight.take(large[:3]) == large[:2]
