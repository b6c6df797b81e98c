from itertools import count
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.history import Accepted, Expired
from actors.topic_log import TopicLog
from transport.codec import pack
from transport.codes import ErrorCode
from transport.errors import RequestError
from transport.messages import Publication, Publish
from transport.topics import matches


def _log(max_topics: int = 100) -> TopicLog:
    numbers = count()
    return TopicLog(max_topics, lambda: f"e{next(numbers)}")


def _accept(log: TopicLog, publish: Publish, now: float) -> Publication:
    [outcome] = log.append([publish], now)
    if isinstance(outcome, RequestError):
        raise outcome
    return outcome.publication


def _publish(topic: str, data: bytes = b"1") -> Publish:
    return Publish(0, topic, "message", data)


@given(st.lists(st.tuples(st.sampled_from("abc"), st.floats(0, 1000)), max_size=50))
def test_offsets_rise_by_one_per_topic_and_time_never_falls(events: list[tuple[str, float]]) -> None:
    log, last = _log(), dict[str, tuple[int, float]]()
    for topic, now in events:
        accepted = _accept(log, _publish(topic), now)
        offset, ts = last.get(topic, (0, 0.0))
        assert accepted.offset == offset + 1
        assert accepted.ts >= max(ts, now)
        last[topic] = (accepted.offset, accepted.ts)
        assert log.where(topic) == (accepted.epoch, accepted.offset)


def test_a_topic_too_many_is_refused_and_known_ones_go_on() -> None:
    log = _log(max_topics=1)
    _accept(log, _publish("a"), 1.0)
    with pytest.raises(RequestError) as caught:
        _accept(log, _publish("b"), 1.0)
    assert caught.value.code is ErrorCode.LIMIT_EXCEEDED
    assert _accept(log, _publish("a"), 2.0).offset == 2


def test_a_forgotten_topic_returns_with_a_new_epoch() -> None:
    log = _log()
    first = _accept(log, _publish("a"), 1.0)
    assert log.forget_idle(before=2.0) == 1
    expected = log.where("a")
    again = _accept(log, _publish("a"), 3.0)
    assert again.offset == 1
    assert again.epoch != first.epoch
    assert expected == (again.epoch, 0)


def test_a_position_in_an_unknown_topic_is_the_one_before_its_first_event() -> None:
    log = _log()
    epoch, offset = log.where("a")
    assert len(log) == 0
    first = _accept(log, _publish("a"), 1.0)
    assert (first.epoch, first.offset) == (epoch, offset + 1)


TOKEN = st.sampled_from(["a", "b", "system", "user"])
NAMES = st.lists(TOKEN, min_size=1, max_size=3).map(".".join)


@given(st.sets(NAMES, max_size=12), st.sampled_from([">", "*", "a.*", "a.>", "*.b", "a", "system.>", "user.*", "*.>"]))
def test_last_events_are_those_that_the_pattern_matches(names: set[str], pattern: str) -> None:
    log = _log()
    for name in names:
        _accept(log, _publish(name), 1.0)
    assert {event.topic for event in log.last(pattern)} == {name for name in names if matches(pattern, name)}


@given(st.sets(st.text("abc", min_size=1, max_size=3)), st.text("abc", max_size=3), st.integers(1, 5))
def test_a_page_is_the_next_topics_by_name(names: set[str], after: str, limit: int) -> None:
    log = _log()
    for name in names:
        _accept(log, _publish(name), 1.0)
    assert [last.topic for last in log.page(after, limit)] == sorted(name for name in names if name > after)[:limit]
    with_b = sorted(name for name in names if name > after and "b" in name)
    assert [last.topic for last in log.page(after, limit, "B")] == with_b[:limit]


def test_a_shared_log_is_found_again_where_it_ended(tmp_path: Path) -> None:
    numbers = count()

    def opened() -> TopicLog:
        return TopicLog(100, lambda: f"own{next(numbers)}", directory=tmp_path, shared=True, idle=1.0, now=1e9)

    log = opened()
    _accept(log, _publish("system.x"), 1.0)
    assert (log.where("a"), log.where("system.y")) == (("own0", 0), ("own0", 0))
    assert log.begin("E", 40) == []
    log.ended([("old", 7)])
    events = [Publication("a", "E", n, 1.0, "t", b"%d" % n) for n in (1, 2, 3)]
    assert len(log.record([Accepted(each, pack(each), 40 + each.offset) for each in events])) == 3
    _accept(log, _publish("system.x"), 1.0)
    assert (log.position, log.forget_idle(1e9)) == ("E:43", 0)
    log.close()

    log = opened()
    assert (log.position, log.where("a"), log.where("b")) == ("E:43", ("E", 3), ("E", 0))
    assert log.where("system.x") == ("own0", 2), "an engine's own topics go on with it"
    assert log.where("system.y") == ("own1", 0)
    assert [mark for mark, _ in log.tail(41, 10)] == [42, 43, 43]
    with pytest.raises(Expired):
        log.mark_of("E:39")
    assert log.begin("E", 90) == ["a"]
    assert (log.where("a"), log.position) == (("E", 3), "E:90")
    assert log.begin("F", 0) == ["a"]
    assert (log.where("a"), log.where("system.x")) == (("F", 0), ("own0", 2))
    with pytest.raises(Expired):
        log.mark_of("E:43")
    log.close()
