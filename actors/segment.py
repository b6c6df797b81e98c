"""One file of the event log: records behind each other, written with one call per batch, and where each of them is.

A record is complete or the file's end: whoever opens the file after a crash cuts off what is torn. So a batch whose
write has returned survives the death of the process at any moment; nothing waits for the disk.
"""

from __future__ import annotations

import os
import struct
import tempfile
from array import array
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from enum import IntEnum
from pathlib import Path
from typing import NamedTuple

import msgpack

from actors.history import Accepted
from transport.codec import pack, unpack
from transport.errors import CodecError
from transport.messages import Publication

HEADER = struct.Struct("<IHBQ")  # bytes of the body, of the key before it, kind, mark
MAGIC = b"heliolog"
SIGNATURE = pack(Publication("", "", 0, 0.0, "", b""))
"""A log of another version, whose publications are packed otherwise, is not read."""
READ_BYTES = 1 << 14  # at once: a few µs


class Kind(IntEnum):
    """What a record is."""

    EVENT = 1
    CARRIED = 2  # the last event of a topic, brought over from a segment that went
    EPOCH = 3  # that of topics yet to come


class Key(NamedTuple):
    """An idempotency key, and the place of the event that came with it."""

    topic: str
    key: str
    epoch: str
    offset: int
    ts: float


class Run:
    """The events of a topic in one segment: offsets ``first``, ``first + 1``, … are its records number ``places``."""

    __slots__ = ("epoch", "first", "places")

    def __init__(self, epoch: str, first: int, places: bytes = b"") -> None:
        self.epoch, self.first = epoch, first
        self.places = array("I", places)


class Segment:
    """A file and its index.

    Args:
        path: ``None``: a nameless file in memory, which goes with the process.

    Attributes:
        log: name of the log that it is a part of.
        epoch: of topics yet to come, at its end.
        floor: the mark before its first event.
        size: bytes written; ``carried_bytes`` of them are events that were taken over.
        starts, marks: of each event the place of its record and its mark.
        runs: by topic. ``carried``: by topic the place of its last event, where that came from a former segment.
        newest: Unix seconds of its last event.
    """

    __slots__ = (
        "_fd",
        "carried",
        "carried_bytes",
        "epoch",
        "floor",
        "keys",
        "log",
        "marks",
        "newest",
        "path",
        "runs",
        "size",
        "starts",
    )

    def __init__(self, path: Path | None, fd: int, log: str) -> None:
        self.path, self._fd, self.log = path, fd, log
        self.epoch = ""
        self.floor = 0
        self.size = self.carried_bytes = 0
        self.newest = 0.0
        self.starts = array("Q")
        self.marks = array("Q")
        self.runs: dict[str, Run] = {}
        self.carried: dict[str, int] = {}
        self.keys: list[Key] = []

    @classmethod
    def create(cls, path: Path | None, log: str, epoch: str, floor: int = 0) -> Segment:
        """A new one, empty. It has its name once it has its head: what is found under it is whole."""
        unfinished = None if path is None else path.with_suffix(".tmp")
        if unfinished is not None:
            fd = os.open(unfinished, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
        elif hasattr(os, "memfd_create"):
            fd = os.memfd_create("heliograph-history")
        else:  # macOS
            with tempfile.TemporaryFile() as file:
                fd = os.dup(file.fileno())
        segment = cls(unfinished, fd, log)
        segment.floor = floor
        name = log.encode()
        try:
            segment.write(MAGIC + SIGNATURE + bytes([len(name)]) + name)
            segment.begin_epoch(epoch)
            if path is not None and unfinished is not None:
                unfinished.rename(path)
        except OSError:
            segment.discard()
            raise
        segment.path = path
        return segment

    @classmethod
    def open(cls, path: Path) -> Segment:
        """What a former process has written, without a torn record at its end.

        Raises:
            CodecError: it is no segment that this version can read.
        """
        fd = os.open(path, os.O_RDWR)
        segment = cls(path, fd, "")
        try:
            segment._load()
        except (CodecError, struct.error, UnicodeDecodeError, LookupError, TypeError, ValueError) as error:
            os.close(fd)
            raise CodecError(f"{path} is no segment of this version: {error}") from None
        return segment

    @property
    def mark(self) -> int:
        """That of its last event."""
        return self.marks[-1] if self.marks else self.floor

    # writing --------------------------------------------------------------------------------------------------------

    def write(self, data: bytes) -> None:
        """Append all of ``data``, or nothing and raise :class:`OSError`."""
        done = 0
        try:
            while done < len(data):
                done += os.pwrite(self._fd, data[done:] if done else data, self.size + done)
        except OSError:
            os.ftruncate(self._fd, self.size)
            raise
        self.size += len(data)

    def begin_epoch(self, epoch: str) -> None:
        """The epoch of topics yet to come."""
        body = epoch.encode()
        self.write(HEADER.pack(len(body), 0, Kind.EPOCH, self.mark) + body)
        self.epoch = epoch

    def carry(self, events: list[tuple[str, bytes]]) -> None:
        """Take over last events, ``(topic, packed)``, of a segment that goes."""
        frames: list[bytes] = []
        places: dict[str, int] = {}
        size = self.size
        for topic, packed in events:
            places[topic] = size
            frames += (HEADER.pack(len(packed), 0, Kind.CARRIED, 0), packed)
            size += HEADER.size + len(packed)
        self.write(b"".join(frames))
        self.carried.update(places)
        self.carried_bytes += sum(map(len, frames))

    def enter(self, events: Sequence[Accepted], starts: list[int]) -> None:
        """Index events, which were written at ``starts``. Costs 0.3 µs an event."""
        runs, count = self.runs, len(self.starts)
        for event in events:
            topic, epoch, offset = event.publication[:3]
            run = runs.get(topic)
            if run is None:
                run = runs[topic] = Run(epoch, offset)
            run.places.append(count)
            self.marks.append(event.mark)
            count += 1
        self.starts.extend(starts)

    def fits(self, topic: str, epoch: str, offset: int) -> bool:
        """Whether the event can be indexed here: in a run offsets follow each other."""
        run = self.runs.get(topic)
        return run is None or (run.epoch == epoch and run.first + len(run.places) == offset)

    def seal(self) -> None:
        """No event follows: keep the index beside the file, so that it need not be read to be opened."""
        if self.path is None:
            return
        runs = [(topic, run.epoch, run.first, run.places.tobytes()) for topic, run in self.runs.items()]
        events = (self.starts.tobytes(), self.marks.tobytes(), runs)
        index = (self.size, self.epoch, self.floor, self.newest, *events, self.carried, self.carried_bytes)
        unfinished = self.path.with_suffix(".tmp")
        try:
            unfinished.write_bytes(msgpack.packb((SIGNATURE, self.log, *index, self.keys)))
            unfinished.replace(self.path.with_suffix(".index"))
        except OSError:
            unfinished.unlink(missing_ok=True)  # then it is read as a whole

    # reading --------------------------------------------------------------------------------------------------------

    def length(self, place: int) -> int:
        """Bytes of event number ``place``, about."""
        start = self.starts[place]
        length = (self.starts[place + 1] if place + 1 < len(self.starts) else self.size) - start
        if length <= READ_BYTES:
            return length
        size: int = HEADER.unpack(os.pread(self._fd, HEADER.size, start))[0]
        return size  # what was taken over may be between this one and the next

    def events(self, places: array[int] | range) -> Iterator[bytes]:
        """The packed events number ``places``, rising. Reads as it goes."""
        starts = self.starts
        return self.records([starts[place] for place in places])

    def records(self, starts: list[int]) -> Iterator[bytes]:
        """The packed events at places that rise. Reads as it goes."""
        begin, block = 0, b""
        for start in starts:
            at = start - begin
            if at + HEADER.size > len(block):
                begin, at = start, 0
                block = os.pread(self._fd, READ_BYTES, start)
            size, key, _, _ = HEADER.unpack_from(block, at)
            at += HEADER.size + key
            if at + size > len(block):
                begin, at = start, HEADER.size + key
                block = os.pread(self._fd, max(READ_BYTES, at + size), start)
            yield block[at : at + size]

    def behind(self, mark: int) -> range:
        """The numbers of its events behind ``mark``."""
        return range(bisect_right(self.marks, mark), len(self.marks))

    # opening --------------------------------------------------------------------------------------------------------

    def _load(self) -> None:
        length = os.fstat(self._fd).st_size
        head = os.pread(self._fd, 1024, 0)
        names = len(MAGIC) + len(SIGNATURE)
        if head[:names] != MAGIC + SIGNATURE:
            raise CodecError("another format")
        self.size = names + 1 + head[names]
        if self.size > length:
            raise CodecError("a torn head")
        self.log = head[names + 1 : self.size].decode()
        if not self._load_index(length):
            self._scan(length)

    def _load_index(self, length: int) -> bool:
        assert self.path is not None, "only files are opened"
        try:
            data = self.path.with_suffix(".index").read_bytes()
            signature, log, size, *fields = msgpack.unpackb(data)
            if (signature, log, size) != (SIGNATURE, self.log, length):
                return False
            epoch, floor, newest, starts, marks, runs, carried, carried_bytes, keys = fields
            index = array("Q", starts), array("Q", marks), {topic: Run(*run) for topic, *run in runs}
            self.keys = [Key(*key) for key in keys]
        except (OSError, ValueError, TypeError, msgpack.UnpackException):
            return False
        self.starts, self.marks, self.runs = index
        self.size, self.epoch, self.floor, self.newest = size, epoch, floor, newest
        self.carried, self.carried_bytes = carried, carried_bytes
        return True

    def _scan(self, length: int) -> None:
        data = os.pread(self._fd, length, 0)
        at = self.size
        while at + HEADER.size <= length:
            size, key_size, kind, mark = HEADER.unpack_from(data, at)
            body = at + HEADER.size + key_size
            if not size or body + size > length:
                break
            if kind == Kind.EPOCH:
                self.epoch = data[body : body + size].decode()
                if not self.starts:
                    self.floor = mark
            else:
                try:
                    topic, epoch, offset, ts = unpack(data[body : body + size])[1:5]
                except CodecError:
                    break  # the machine went down, and only a part of this was on disk
                if kind == Kind.CARRIED:
                    self.carried[topic] = at
                    self.carried_bytes += body + size - at
                else:
                    publication = Publication(topic, epoch, offset, ts, "", b"")
                    self.enter([Accepted(publication, b"", mark)], [at])
                    self.newest = ts
                    if key_size:
                        key = data[at + HEADER.size : body].decode()
                        self.keys.append(Key(topic, key, epoch, offset, ts))
            at = body + size
        self.size = at
        os.ftruncate(self._fd, at)

    # its end --------------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Let go the file; it stays."""
        os.close(self._fd)

    def discard(self) -> None:
        """Close and remove it."""
        self.close()
        if self.path is not None:
            self.path.with_suffix(".index").unlink(missing_ok=True)
            self.path.unlink(missing_ok=True)
