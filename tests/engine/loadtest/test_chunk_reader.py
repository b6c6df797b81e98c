"""However a stream is cut into reads, it says the same; and a remembered chunk says what a new one does."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from engine.loadtest import chunk_reader
from engine.loadtest.chunk_reader import IRREGULAR, ChunkReader
from engine.loadtest.dialect import Heard, Means, dialect_of
from engine.loadtest.target import Target
from transport.position import Position

NATIVE = dialect_of(Target(url="ws://here"))


def frame(payload: bytes, opcode: int = 1) -> bytes:
    assert len(payload) < 1 << 16
    length = bytes([len(payload)]) if len(payload) < 126 else b"\x7e" + len(payload).to_bytes(2)
    return bytes([0x80 | opcode]) + length + payload


def event(sequence: int, due: int = 1_000) -> bytes:
    data = b'{"t":%d,"s":%d,"x":"xx"}' % (due, sequence)
    return frame(b'{"op":"event","topic":"loadtest","offset":%d,"epoch":"e","data":%b}' % (sequence + 1, data))


class Counts:
    """What a reader told, and what chunks said, as a client would take it."""

    def __init__(self) -> None:
        self.received: list[tuple[int, int]] = []
        self.reader = ChunkReader(NATIVE, self._receive)
        self.heard: list[Heard] = []
        self.controls: list[tuple[int, bytes]] = []
        self.sequences: list[int] = []
        self.rest = b""

    def _receive(self, stamps, times):
        self.received += [stamp for stamp in stamps for _ in times]

    def read(self, data: bytes) -> None:
        chunk = self.reader.read(self.rest + data)
        chunk.times.append(5)
        self.rest = chunk.rest
        self.heard += chunk.heard
        self.controls += chunk.controls
        self.sequences += [sequence for _, sequence in chunk.stamps]

    def all(self) -> tuple[object, ...]:
        self.reader.drain()
        return sorted(self.received), self.heard, self.controls, self.sequences, self.rest


PIECES = st.one_of(
    st.integers(0, 9).map(event),
    st.sampled_from(
        [
            frame(b'{"op":"ok","id":1,"topics":["loadtest"],"positions":{"loadtest":{"epoch":"e","offset":3}}}'),
            frame(b'{"op":"gap","topic":"loadtest","epoch":"e","from":3,"to":5,"reason":"slow"}'),
            frame(b'{"op":"position","position":"1:2"}'),
            frame(b"not JSON"),
            frame(b"", 9),
            frame(b"7", 10),
            event(3)[:1].replace(b"\x81", b"\x01") + event(3)[1:] + frame(b"", 0),  # in two fragments
        ]
    ),
)


@settings(max_examples=60)
@given(st.lists(PIECES, max_size=12).map(b"".join), st.data())
def test_any_cuts_say_the_same(stream, data) -> None:
    whole, cut = Counts(), Counts()
    whole.read(stream)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=8)))
    for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        cut.read(stream[start:end])
    assert cut.all() == whole.all()


@settings(max_examples=30)
@given(st.lists(PIECES, max_size=6).map(b"".join))
def test_what_is_remembered_says_the_same(chunk) -> None:
    once, twice = Counts(), Counts()
    once.read(chunk)
    twice.read(chunk)
    twice.read(chunk)
    first, second = once.all(), twice.all()
    assert second == tuple(sorted(part * 2) if n == 0 else part * 2 for n, part in enumerate(first))


def test_messages_in_a_row_are_regular() -> None:
    reader = Counts().reader
    chunk = reader.read(event(4) + event(5))
    assert (chunk.first, chunk.next, chunk.place) == (4, 6, Position("e", 6))
    assert reader.remembered[event(4) + event(5)] is chunk


def test_all_else_is_looked_at() -> None:
    reader = Counts().reader
    for data in (event(4) + event(6), event(4) + event(4), event(4) + frame(b"", 9), event(4) + b"\x81", b"\x81"):
        assert reader.read(data).first == IRREGULAR


def test_what_is_forgotten_was_counted(monkeypatch) -> None:
    monkeypatch.setattr(chunk_reader, "CHUNKS", 3)
    counts = Counts()
    for sequence in range(10):
        counts.read(event(sequence))
    assert len(counts.reader.remembered) == 3
    assert [sequence for _, sequence in counts.received] == list(range(7))
    counts.reader.drain()
    assert [sequence for _, sequence in counts.received] == list(range(10))


def test_large_chunks_are_few(monkeypatch) -> None:
    monkeypatch.setattr(chunk_reader, "CHUNK_BYTES", 3 * len(event(0)))
    counts = Counts()
    for sequence in range(9):
        counts.read(event(sequence))
    assert len(counts.reader.remembered) == 3
    counts.read(b"".join(map(event, range(9))))
    assert len(counts.reader.remembered) == 1


def test_stamps_are_found_however_they_are_wrapped() -> None:
    reader = Counts().reader
    assert reader.read(frame(rb'42["m","{\"t\": 12, \"s\": 3}"]')).stamps == [(12, 3)]
    assert reader.read(frame(b'[{"t":1,"s":2},{"t":2,"s":3}]')).stamps == [(1, 2), (2, 3)]
    assert reader.read(frame(b'{"t":1,"s":12345678901}')).stamps == []


def test_heard_in_its_order() -> None:
    counts = Counts()
    counts.read(frame(b'{"op":"ok","id":7}') + frame(b'{"op":"bye","code":1012,"reason":"drain"}'))
    assert [heard.means for heard in counts.heard] == [Means.ANSWERED, Means.BYE]
