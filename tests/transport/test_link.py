"""Numbers, windows and heartbeats, with a fake clock and without sockets."""

from collections import deque

import pytest
from hypothesis import given
from hypothesis import strategies as st

from transport import bus, codec
from transport.bus import Header, Kind, Link, unpack_header
from transport.errors import CodecError
from transport.link import Intake, Liveness, Window
from transport.messages import Tell


def test_a_window_closes_at_its_limit_and_opens_at_half():
    window = Window(100)

    assert [window.sent(40), window.sent(40)] == [1, 2]
    assert window.open
    assert window.sent(20) == 3
    assert not window.open
    assert window.unacknowledged == 100
    window.acknowledged(1)
    assert not window.open
    window.acknowledged(2)
    assert window.open
    assert window.unacknowledged == 20


def test_an_old_acknowledgement_changes_nothing_and_a_future_one_is_an_error():
    window = Window(100)
    window.sent(10)
    window.sent(10)
    window.acknowledged(2)
    window.acknowledged(1)

    assert window.unacknowledged == 0
    with pytest.raises(CodecError, match="batch 3 acknowledged, but only 2 were sent"):
        window.acknowledged(3)


@pytest.mark.parametrize("sequence", [0, 1, 3])
def test_a_hole_or_a_repetition_is_an_error(sequence):
    intake = Intake(100)
    intake.arrived(1, 10)

    with pytest.raises(CodecError, match=f"batch {sequence} arrived where 2 was due"):
        intake.arrived(sequence, 10)


def test_a_missing_tail_is_seen_at_the_heartbeat():
    intake = Intake(100)
    intake.arrived(1, 10)
    intake.level(1)

    with pytest.raises(CodecError, match="2 batches were sent, 1 arrived"):
        intake.level(2)


def test_an_acknowledgement_is_due_for_a_sixteenth_that_was_processed():
    intake = Intake(160)
    intake.arrived(1, 9)

    assert not intake.done()
    intake.arrived(2, 1)
    intake.arrived(3, 100)
    assert intake.done(2)
    assert intake.ack() == 2
    assert not intake.done(2)
    assert intake.done()
    assert intake.ack() == 3


def test_heartbeats_are_due_and_silence_is_death():
    life = Liveness(1.0, 5.0, now=100.0)

    assert not life.due(100.9)
    assert life.due(101.0)
    assert not life.due(101.5)
    assert not life.dead(104.9)
    assert life.dead(105.0)
    life.heard(105.0)
    assert not life.dead(109.9)


def test_our_own_sleep_is_not_the_peers_silence():
    life = Liveness(1.0, 5.0, now=0.0)
    assert life.due(1.0)

    assert life.due(61.0)  # this process was stopped for a minute
    assert not life.dead(61.0)
    for now in (62.0, 63.0, 64.0):
        assert life.due(now)
    assert life.dead(65.0)


def test_settings_that_cannot_work_are_refused():
    with pytest.raises(ValueError, match="window"):
        Window(0)
    with pytest.raises(ValueError, match="interval"):
        Liveness(5.0, 5.0, 0.0)


@pytest.mark.parametrize(
    "frame",
    [
        b"",
        b"\xff" * 300,
        Header(1, "a", "b", 0, 0).packed()[:-1],
        Header(1, "a", "b", 0, 0).packed()[:-1] + b"\xff",
        Header(9, "a", "b", 0, 0).packed(),
    ],
)
def test_what_is_no_header_is_a_codec_error(frame):
    with pytest.raises(CodecError):
        unpack_header(frame)


def _pair(window: int) -> tuple[Link, Link]:
    a, b = bus.new_incarnation(), bus.new_incarnation()
    return (
        Link(a, b, window, Liveness(1.0, 5.0, 0.0)),
        Link(b, a, window, Liveness(1.0, 5.0, 0.0)),
    )


def test_a_long_queue_is_split_and_stops_when_the_window_closes():
    link, _ = _pair(4 * bus.BATCH_BYTES)
    link.out.extend([bytes(bus.BATCH_BYTES // 2)] * 12)

    sent = list(link.batches())

    assert len(sent) == 4  # with the headers of its batches the fourth closes the window
    assert not link.window.open
    assert len(link.out) == 4
    link.out.insert(0, bytes(2 * bus.BATCH_BYTES))
    link.window.acknowledged(4)
    assert len(next(link.batches())) > 2 * bus.BATCH_BYTES  # one that is too long goes alone
    assert len(link.out) == 4


class Owner:
    """One end of a pair of links, with all that its owner may do."""

    def __init__(self, link: Link) -> None:
        self.link = link
        self.pipe: deque[bytes] = deque()  # towards this end
        self.other: Owner = self
        self.queued: list[int] = []
        self.got: list[int] = []

    def queue(self, size: int) -> None:
        self.queued.append(len(self.queued))
        self.link.out.append(codec.pack(Tell("x", "y", [self.queued[-1], bytes(size)])))

    def flush(self, _size: int) -> None:
        self.other.pipe.extend(self.link.batches())
        assert self.link.window.open or self.link.window.unacknowledged > self.link.window.limit // 2
        assert not (self.link.out and self.link.window.open)

    def read(self, _size: int) -> None:
        if self.pipe:
            frame = self.pipe.popleft()
            self.got += [m.body[0] for m in self.link.receive(unpack_header(frame), frame, 0.0)]

    def process(self, _size: int) -> None:
        if self.link.intake.done():
            self.beat(0)

    def beat(self, _size: int) -> None:
        self.other.pipe.append(self.link.header(Kind.HEARTBEAT))


ACTIONS = (Owner.queue, Owner.flush, Owner.read, Owner.process, Owner.beat)
steps = st.lists(st.tuples(st.integers(0, 1), st.sampled_from(ACTIONS), st.integers(0, 300)), max_size=200)


@given(steps, st.integers(16, 2000))
def test_within_a_link_nothing_is_lost_doubled_or_out_of_order(steps, window):
    """Two links, a FIFO pipe each way, and any interleaving of what their owners may do."""
    a, b = map(Owner, _pair(window))
    a.other, b.other = b, a

    for who, action, size in steps:
        action((a, b)[who], size)
    for _ in steps:  # both go on with their work: every round moves at least one batch if any waits
        for owner in (a, b):
            owner.flush(0)
            while owner.other.pipe:
                owner.other.read(0)
            owner.other.process(0)

    assert a.got == b.queued
    assert b.got == a.queued


def test_a_lost_or_repeated_batch_breaks_the_link():
    a, b = _pair(1000)
    a.out.append(codec.pack(Tell("x", "y", 1)))
    first = next(a.batches())
    a.out.append(codec.pack(Tell("x", "y", 2)))
    second = next(a.batches())

    with pytest.raises(CodecError):
        b.receive(unpack_header(second), second, 0.0)
    b.receive(unpack_header(first), first, 0.0)
    with pytest.raises(CodecError):
        b.receive(unpack_header(first), first, 0.0)
