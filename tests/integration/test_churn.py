"""Users who come, go and change their minds, held against an oracle: ``python -m bench.churn``, shorter.

The oracle itself is held to what it must see.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import pytest

from bench.churn import CONFIG, UNFILTERED, Admin, Churn, nobody_listens
from bench.churn_log import Hold, Log, Published, Subscribed, Trail, Unsubscribed, Wrong
from tests.integration.harness import EngineProcess


def test_everybody_gets_what_they_asked_for_and_nothing_is_left(engine_process: Callable[..., EngineProcess]) -> None:
    interval = 0.2
    engine = engine_process(CONFIG, workers=2, server__heartbeat_interval=interval)
    admin = Admin(urlsplit(engine.admin_url).port or 0, interval)

    async def scenario() -> None:
        log = Log(UNFILTERED)
        churn = Churn("127.0.0.1", engine.port, log, users=60, seconds=6.0, rate=100.0, pause_s=0.08)
        outcome = await churn.run()
        assert outcome.wrong == []
        assert outcome.sessions > 60 and outcome.wanted > 1_000, outcome
        assert await nobody_listens("127.0.0.1", engine.port, admin, log) == []

    asyncio.run(scenario())


ALL = Hold.of({})
FIVES = Hold.of({"where": {"v": 5}})
NEWEST = Hold.of({"max_rate": 1})


def _log() -> Log:
    """1: a, v=5; 2: a, v=6; 3: b, v=5; 4: a, v=5; 5: a, v=6, high; 6: c, v=6."""
    log = Log(["c"])
    for topic, value, priority in (
        *(("a", 5, "low"), ("a", 6, "low"), ("b", 5, "low"), ("a", 5, "low")),
        *(("a", 6, "high"), ("c", 6, "low")),
    ):
        log.append(Published(topic, log.next_offset(topic), "t", None, priority, (("v", value),)))
    return log


def _from(place: int, pattern: str = ">", hold: Hold = ALL, snapshot: bool = False) -> Subscribed:
    return Subscribed(place, (pattern,), hold, snapshot)


@pytest.mark.parametrize(
    ("trail", "missing"),
    [
        pytest.param([_from(0), 1, 2, 3, 5, 4, 6], [], id="all, the urgent one sooner"),
        pytest.param([_from(0), 1, 3, 5, 4, 6], [2], id="one is missing"),
        pytest.param([_from(3), 4, 5, 6], [], id="from its place on"),
        pytest.param([_from(0, hold=FIVES), 1, 3, 4, 6], [], id="filtered, but for the topic that is not"),
        pytest.param([_from(0, hold=FIVES), 3, 4], [1, 6], id="filtered, with losses"),
        pytest.param([_from(0, hold=NEWEST), 3, 5, 6], [], id="conflated away"),
        pytest.param([_from(0, hold=NEWEST), 1, 2, 3, 4, 6], [5], id="the newest of its key"),
        pytest.param([_from(0, hold=NEWEST), _from(0, "a"), 3, 5, 6], [1, 2, 4], id="least restrictive"),
        pytest.param([_from(2, snapshot=True), 2, 3, 4, 5, 6], [], id="the last event first"),
        pytest.param([_from(0), 1, 2, Unsubscribed(4, ()), _from(5), 6], [], id="in between"),
        pytest.param([_from(0), 1, Unsubscribed(2, ()), _from(5), 6], [], id="perhaps it was sooner"),
        pytest.param([_from(0), 1, Unsubscribed(2, ()), _from(3), 5, 6], [4], id="again"),
    ],
)
def test_what_the_oracle_misses(trail: Trail, missing: list[int]) -> None:
    assert sorted(_log().check(trail, whole=True)) == missing


@pytest.mark.parametrize(
    ("trail", "missing"),
    [
        pytest.param([_from(0), 1, 2], [], id="the rest was on its way"),
        pytest.param([_from(0), 1, 4], [2], id="not if something later came"),
        pytest.param([_from(0), 1, _from(4, "a")], [2, 4], id="nor before an answer that concerns it"),
    ],
)
def test_what_it_forgives_those_who_leave(trail: Trail, missing: list[int]) -> None:
    assert sorted(_log().check(trail, whole=False)) == missing


@pytest.mark.parametrize(
    ("trail", "because"),
    [
        pytest.param([_from(0), 1, 4, 2], "came after", id="order"),
        pytest.param([_from(0), 1, 1], "came after", id="twice"),
        pytest.param([_from(0, "a"), 1, 3], "in force", id="another topic"),
        pytest.param([_from(0, hold=FIVES), 1, 2], "in force", id="another value"),
        pytest.param([_from(3), 2], "behind the answer", id="too old"),
        pytest.param([_from(0), 1, 2, _from(1, "a")], "before the answer", id="too new"),
        pytest.param([_from(0), 1, Unsubscribed(3, ()), 2], "in force", id="behind the end"),
        pytest.param([_from(0, hold=FIVES), 1, _from(1), 2, _from(4, hold=FIVES), 5], "in force", id="replaced"),
        pytest.param([_from(2, snapshot=True), 3, 4], "snapshot", id="no last event"),
        pytest.param([_from(2, hold=FIVES, snapshot=True), 2], "in force|behind", id="a last event unasked for"),
    ],
)
def test_what_the_oracle_does_not_let_pass(trail: Trail, because: str) -> None:
    with pytest.raises(Wrong, match=because):
        _log().check(trail, whole=True)


def test_an_event_that_only_a_later_filter_wants_is_extra() -> None:
    trail: list[Any] = [_from(0, "a", FIVES), 1, Unsubscribed(6, ()), _from(6, "b"), 3]
    with pytest.raises(Wrong):
        _log().check(trail, whole=True)
