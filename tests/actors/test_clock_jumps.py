"""The machine's clock is set back and forth: nothing goes in silence, and what is due by the clock says so."""

from __future__ import annotations

from collections import defaultdict
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st

from actors.admission import Admission, AuthPolicy
from actors.history import Accepted
from actors.recall import Since, recall
from actors.topic_log import TopicLog
from transport.codec import join, unpack_batch
from transport.messages import Publication, Publish

IDLE = 3600.0
AHEAD = 1e5  # s
steps = st.lists(
    st.tuples(st.just("publish"), st.sampled_from("abc"))
    | st.tuples(st.just("leave"), st.none())
    | st.tuples(st.just("sweep"), st.none())
    | st.tuples(st.just("restart"), st.none())
    | st.tuples(st.just("jump"), st.floats(-AHEAD, AHEAD) | st.floats(-1, 1)),
    max_size=30,
)


class Hub:
    """As much of one as has to do with the clock. ``said``: what was accepted, in order."""

    def __init__(self, directory: str) -> None:
        self._directory, self._epochs = Path(directory), count()
        self.now = 1_790_000_000.0
        self.log = self._open()
        self.said: list[Publication] = []

    def _open(self) -> TopicLog:
        epochs = self._epochs
        return TopicLog(10, lambda: f"e{next(epochs)}", directory=self._directory, idle=IDLE, now=self.now)

    def follow(self, do: str, what: Any) -> None:
        """A step."""
        if do == "publish":
            self._publish(what)
        elif do == "jump":
            self.now += what
        elif do == "sweep":
            self.log.forget_idle(self.now - IDLE)
            self.log.trim(self.now)
        elif do == "restart":
            self.log.close()
            self.log = self._open()

    def _publish(self, topic: str) -> None:
        [outcome] = self.log.append([Publish(0, topic, "t", b"%d" % len(self.said))], self.now)
        assert isinstance(outcome, Accepted)
        self.said.append(outcome.publication)


@given(steps)
@example([("leave", None), ("publish", "a"), ("jump", IDLE + 1), ("sweep", None), ("publish", "a")])
def test_who_comes_back_has_everything_or_hears_that_it_has_not(steps: list[tuple[str, Any]]) -> None:
    with TemporaryDirectory() as directory:
        hub = Hub(directory)
        left: list[tuple[int, Since]] = []
        for do, what in steps:
            hub.follow(do, what)
            if do == "leave":
                left += [(len(hub.said), hub.log.position), (len(hub.said), {t: hub.log.where(t) for t in "abc"})]
        _all_come_back(hub, left)
        hub.log.close()


def _all_come_back(hub: Hub, left: list[tuple[int, Since]]) -> None:
    """``left``: how much had been said, and from where on they go on."""
    for begin, since in left:
        recalled = recall(hub.log, ["a", "b", "c"], since)
        got, said, missed = (defaultdict[str, list[bytes]](list) for _ in range(3))
        for publication in unpack_batch(join(recalled.events)) if recalled.events else []:
            got[publication.topic].append(publication.data)
        for n, publication in enumerate(hub.said):
            said[publication.topic].append(publication.data)
            if n >= begin:
                missed[publication.topic].append(publication.data)
        for topic in "abc":  # where the epoch is another one, what was there before may come again
            assert got[topic] == said[topic][len(said[topic]) - len(got[topic]) :]
            assert got[topic] == missed[topic] or not recalled.complete
        assert not (recalled.complete and recalled.gaps)


@given(steps)
def test_time_never_falls_within_an_epoch(steps: list[tuple[str, Any]]) -> None:
    with TemporaryDirectory() as directory:
        hub = Hub(directory)
        for step in steps:
            hub.follow(*step)
        hub.log.close()
    times = defaultdict[tuple[str, str], list[float]](list)
    for publication in hub.said:
        times[publication.topic, publication.epoch].append(publication.ts)
    assert all(each == sorted(each) for each in times.values())


class _Session:
    identity: Any = None


class _Identity:
    def __init__(self, ends: float) -> None:
        self.ends = ends


def test_tokens_end_by_the_clock_and_the_wait_for_them_does_not() -> None:
    now, seconds = 1_790_000_000.0, 50.0
    admission = Admission(AuthPolicy(), lambda: now, lambda: seconds)
    shown, later = _Session(), _Session()
    admission.admit(shown, _Identity(now + 60))  # type: ignore[arg-type]
    admission.admit(later, _Identity(now + 7200))  # type: ignore[arg-type]
    admission._waiting.set(_Session(), seconds + 5)  # type: ignore[arg-type]

    now -= 3600  # set back: they last longer
    seconds += 61
    late, expired = admission.due()
    assert (len(late), expired) == (1, [])
    now += 3600 + 61  # and right again
    assert admission.due() == ([], [shown])
    now += 86_400  # set forward: all tokens have ended, each is told once
    assert admission.due() == ([], [later])
    now -= 86_400
    assert admission.due() == ([], [])
