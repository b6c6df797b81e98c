"""Events that wait on disk for Redis: each of those that were taken gets there once, in order, whatever fails."""

from __future__ import annotations

import itertools
import sqlite3
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from actors import spool as spool_module
from actors import spooling_keeper
from actors.history import Accepted
from actors.messages import Drain, Spooled, TailState
from actors.spool import Spool
from actors.spooling_keeper import SpoolingKeeper
from transport import codec
from transport.codes import ErrorCode
from transport.errors import CodecError, ConfigError, RequestError
from transport.messages import Publication, Publish


def event(n: int, key: str | None = None, topic: str = "a") -> Publish:
    return Publish(0, topic, "t", b"%d" % n, idempotency_key=key)


class Redis:
    """What the script of :mod:`actors.redis_scripts` does, and a network that loses questions or answers."""

    def __init__(self) -> None:
        self.log: list[bytes] = []
        self.keys: set[str] = set()
        self.had: dict[str, int] = {}
        self.fails: str | None = None
        self.asked = 0

    def append(self, publishes: list[Publish], now: float, *, writer: tuple[str, int]) -> list[Accepted]:
        self.asked += 1
        if self.fails == "question":
            raise RequestError(ErrorCode.UNAVAILABLE, "away")
        name, first = writer
        results = []
        for number, publish in enumerate(publishes, first):
            again = number <= self.had.get(name, -1) or publish.idempotency_key in self.keys
            if not again:
                self.log.append(publish.data)
                if publish.idempotency_key is not None:
                    self.keys.add(publish.idempotency_key)
            place = Publication(publish.topic, "e", len(self.log), now, "t", publish.data)
            results.append(Accepted(place, b"", len(self.log), again))
        self.had[name] = max(number, self.had.get(name, -1))
        if self.fails == "answer":
            raise RequestError(ErrorCode.UNAVAILABLE, "away")
        return results

    def close(self) -> None:
        """Nothing to let go."""


class Node:
    """A keeper without its thread, whose hub may die."""

    def __init__(self, path: Path, room: int = 1_000) -> None:
        self.redis, self._path, self._room = Redis(), path, room
        self._names = (f"spool{n}" for n in itertools.count())
        self.told: list[Any] = []
        self.start()

    def tell(self, message: Any) -> None:
        self.told.append(message.what)

    def start(self) -> None:
        self.keeper = SpoolingKeeper(
            router=self,  # type: ignore[arg-type]
            history=lambda: self.redis,  # type: ignore[arg-type,return-value]
            spool=lambda: Spool(self._path, self._room, lambda: next(self._names)),
        )
        self.keeper.on_start()

    def keep(self, *publishes: Publish) -> list[Accepted | RequestError]:
        return self.keeper._keep(list(publishes))

    @property
    def waiting(self) -> int:
        return [message for message in self.told if type(message) is Spooled][-1].waiting


_steps = st.lists(
    st.one_of(
        st.tuples(st.just("keep"), st.integers(1, 6)),
        st.tuples(st.just("keyed"), st.integers(0, 4)),
        st.tuples(st.just("fails"), st.sampled_from(["question", "answer", None])),
        st.tuples(st.sampled_from(["drain", "away", "die"]), st.none()),
    ),
    max_size=30,
)


@settings(deadline=None, max_examples=25)
@given(_steps, st.sampled_from([3, 1_000]))
@example([("fails", "answer"), ("keep", 6), ("fails", None), ("die", None), ("keep", 1)], 3)
def test_what_was_taken_is_in_redis_once_and_in_order(steps: list[tuple[str, Any]], room: int) -> None:
    with tempfile.TemporaryDirectory() as directory:
        node = Node(Path(directory, "x.spool"), room)
        numbers = itertools.count()
        taken: list[bytes] = []
        for step, what in steps:
            if step in ("keep", "keyed"):
                some = [event(next(numbers)) for _ in range(what)]
                if step == "keyed":
                    some = [Publish(0, "k", "t", b"key%d" % what, idempotency_key=f"key{what}")]
                for publish, outcome in zip(some, node.keep(*some), strict=True):
                    if isinstance(outcome, RequestError):
                        assert outcome.code is ErrorCode.UNAVAILABLE
                    elif publish.data not in taken:
                        taken.append(publish.data)
            elif step == "fails":
                node.redis.fails = what
            elif step == "drain":
                node.keeper.on_drain(Drain())
            elif step == "away":
                node.keeper.on_tail_state(TailState("away"))
            else:
                node.keeper.on_stop()  # as the kernel does it for who is killed
                node.start()
        node.redis.fails = None
        while node.waiting:
            left = node.waiting
            node.keeper.on_drain(Drain())
            assert node.waiting < left
        log = [data for data in node.redis.log if data in set(taken)]
        assert log == taken
        assert len(set(node.redis.log)) == len(node.redis.log)


def test_while_something_waits_what_comes_waits_behind_it(tmp_path: Path) -> None:
    node = Node(tmp_path / "x.spool")
    node.redis.fails = "question"
    (first,) = node.keep(event(1))
    assert isinstance(first, Accepted)
    assert (first.publication.epoch, first.publication.offset, first.again) == ("", 0, False)
    node.redis.fails, asked = None, node.redis.asked
    node.keep(event(2))
    assert node.redis.asked == asked, "it is away until somebody says that it is back"
    assert node.waiting == 2
    node.keeper.on_drain(Drain())
    assert node.redis.log == [b"1", b"2"]
    (third,) = node.keep(event(3))
    assert isinstance(third, Accepted)
    assert third.publication.epoch == "e"


def test_a_spool_that_is_full_refuses_and_keeps_what_it_has(tmp_path: Path) -> None:
    node = Node(tmp_path / "x.spool", room=2)
    node.keeper.on_tail_state(TailState("away"))
    outcomes = node.keep(*(event(n) for n in range(3)))
    assert [isinstance(outcome, Accepted) for outcome in outcomes] == [True, True, False]
    assert "spool_events" in str(outcomes[2])
    node.keeper.on_drain(Drain())
    assert node.redis.log == [b"0", b"1"]


def test_where_neither_redis_nor_the_disk_takes_it_the_router_knows_to_try_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = Node(tmp_path / "x.spool")
    node.redis.fails = "question"
    full = RequestError(ErrorCode.UNAVAILABLE, "the disk is full")
    with monkeypatch.context() as broken:
        broken.setattr(Spool, "add", lambda *_: (_ for _ in ()).throw(full))
        with pytest.raises(RequestError, match="the disk is full"):
            node.keep(event(1))
    assert node.told[-1] == Spooled(0, "away")
    node.redis.fails = None
    node.keeper.on_drain(Drain())
    node.keep(event(2))
    assert node.redis.log == [b"2"]


def test_two_engines_with_one_spool_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.spool"
    monkeypatch.setattr(spool_module, "LOCK_TIMEOUT_S", 0.01)
    spool = Spool(path, 100, lambda: "name")
    with pytest.raises(ConfigError, match="locked; see to it, or give another path"):
        Spool(path, 100, lambda: "other")
    spool.close()
    Spool(path, 100, lambda: "other").close()


def test_the_successor_of_a_keeper_that_failed_has_what_waits(tmp_path: Path) -> None:
    node = Node(tmp_path / "x.spool")
    node.keeper.on_tail_state(TailState("away"))
    node.keep(event(1))
    failed = node.keeper  # it is still somewhere
    failed.on_failure(None, None, None)
    node.start()
    assert node.told[-1] == Spooled(1, None, drained=True)
    node.keep(event(2))
    node.keeper.on_drain(Drain())
    assert node.redis.log == [b"1", b"2"]


def test_large_events_go_a_few_at_a_time(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "x.spool", 100, lambda: "name")
    first = spool.numbers(10)
    spool.add(first, [Publish(0, "a", "t", bytes(1_000)) for _ in range(10)])
    assert len(spool.oldest(100, 3_500)[1]) == 4
    spool.remove(first, 4)
    number, events = spool.oldest(100, 1)
    assert (number, len(events)) == (first + 4, 1)
    assert len(spool.oldest(5, 1 << 20)[1]) == 5
    spool.close()


def test_a_key_that_waits_already_is_not_another_event(tmp_path: Path) -> None:
    node = Node(tmp_path / "x.spool")
    node.keeper.on_tail_state(TailState("away"))
    first, again = node.keep(event(1, "k"), event(1, "k"))
    (later,) = node.keep(event(1, "k"))
    assert [outcome.again for outcome in (first, again, later) if isinstance(outcome, Accepted)] == [False, True, True]
    assert node.waiting == 1


@pytest.mark.parametrize("away", [False, True])
def test_an_event_that_no_bus_can_carry_is_refused_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, away: bool
) -> None:
    def pack(message: Any) -> bytes:
        if getattr(message, "data", b"") == b"1":
            raise CodecError("too large")
        return codec.pack(message)

    monkeypatch.setattr(spooling_keeper, "pack", pack)
    node = Node(tmp_path / "x.spool")
    if away:
        node.keeper.on_tail_state(TailState("away"))
    good, bad, other = node.keep(event(0), event(1), event(2))
    assert isinstance(good, Accepted)
    assert isinstance(other, Accepted)
    assert isinstance(bad, RequestError)
    assert bad.code is ErrorCode.LIMIT_EXCEEDED


def test_a_file_of_somebody_else_is_refused(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "x.spool") as other:
        other.execute("CREATE TABLE t (x)")
    other.close()
    with pytest.raises(ConfigError, match="no spool") as error:
        Spool(tmp_path / "x.spool", 1, lambda: "s")
    assert error.value.field == "history.durable_file"
    (tmp_path / "y.spool").write_text("something else, longer than a header " * 9)
    with pytest.raises(ConfigError, match="cannot be used"):
        Spool(tmp_path / "y.spool", 1, lambda: "s")
