"""The log of recent events of all topics, in files that a restarted hub finds again: bounded in bytes.

Segments follow each other; the oldest goes when there are too many bytes. The last event of each topic outlives its
segment: it is carried over into the newest one, so that a restarted hub knows epoch, offset and last event of each.
"""

from __future__ import annotations

import fcntl
import logging
import os
import time
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

from actors.history import Accepted, Expired
from actors.segment import HEADER, Key, Kind, Segment
from transport.errors import CodecError, ConfigError

SEGMENTS: Final = 32  # of a full log: what goes at a time is a 32nd
LOCK_TIMEOUT: Final = 10.0  # s for a former hub to end
LOCK_INTERVAL: Final = 0.05  # s
_log = logging.getLogger(__name__)


class EventLog:
    """Append, read by topic and offset, read by mark.

    Args:
        directory: made with mode 0700; ``None`` keeps the log in memory, for as long as the process lives.
        max_bytes: of all segments together, about.
        name: of a log that is begun anew. A position in one log says nothing in another.
        epoch: of its first topics.
        carries: whether the last event of a topic is to outlive its segment.

    Attributes:
        log: the name of this log.
        epoch: the epoch of topics yet to come.
        mark: of the last event.

    Raises:
        ConfigError: the directory cannot be used, or another process does.
    """

    def __init__(
        self, directory: Path | None, max_bytes: int, name: str, epoch: str, carries: Callable[[str], bool]
    ) -> None:
        self._directory, self._max, self._carries = directory, max_bytes, carries
        self._segment_bytes = max(1, max_bytes // SEGMENTS)
        self._segments: list[Segment] = []
        self._number = 0
        self._lock = -1
        if directory is not None:
            try:
                directory.mkdir(mode=0o700, parents=True, exist_ok=True)
                self._lock = _locked(directory)
                self._open(directory)
            except OSError as error:
                raise ConfigError(f"cannot use {directory}: {error.strerror}", "history.dir") from None
        if self._segments:
            self.log, self.epoch = self._segments[-1].log, self._segments[-1].epoch
        else:
            self.log, self.epoch = name, epoch
            self._segments.append(self._new_segment())
        self.mark = next((s.marks[-1] for s in reversed(self._segments) if s.marks), 0)
        self._total = sum(segment.size for segment in self._segments)

    @property
    def position(self) -> str:
        """A place in this log: its end."""
        return f"{self.log}:{self.mark}"

    @property
    def size(self) -> int:
        """Bytes in all segments."""
        return self._total

    def __len__(self) -> int:
        return sum(len(segment.starts) for segment in self._segments)

    def _open(self, directory: Path) -> None:
        for path in sorted(directory.glob("*.log")):
            self._number = max(self._number, int(path.stem) if path.stem.isdecimal() else 0)
            try:
                segment = Segment.open(path)
            except CodecError as error:
                _log.warning("history is lost: %s", error)
                path.with_suffix(".index").unlink(missing_ok=True)
                path.unlink()
                self._forget_all()  # what came before it does not lead on to what came after
                continue
            if self._segments and self._segments[-1].log != segment.log:
                self._forget_all()
            self._segments.append(segment)

    def _forget_all(self) -> None:
        for segment in self._segments:
            segment.discard()
        self._segments.clear()

    def _new_segment(self) -> Segment:
        self._number += 1
        path = None if self._directory is None else self._directory / f"{self._number:012}.log"
        return Segment.create(path, self.log, self.epoch)

    # writing --------------------------------------------------------------------------------------------------------

    def append(self, events: Sequence[Accepted], keys: Sequence[str | None] | None = None) -> None:
        """Write events, whose marks rise, each with its idempotency key if it has one. All of them or, with
        :class:`OSError`, none. Costs one system call and about 0.6 µs an event."""
        segment = self._segments[-1]
        if segment.size >= self._segment_bytes:
            segment = self._roll()
        frames: list[bytes] = []
        starts: list[int] = []
        at = segment.size
        for i, event in enumerate(events):
            key = keys[i] if keys is not None else None
            key_bytes = b"" if key is None else key.encode()
            packed = event.packed
            starts.append(at)
            frames += (HEADER.pack(len(packed), len(key_bytes), Kind.EVENT, event.mark), key_bytes, packed)
            at += HEADER.size + len(key_bytes) + len(packed)
        before = segment.size
        segment.write(b"".join(frames))
        self._total += segment.size - before
        enter = segment.enter
        for i, ((publication, _, mark, _), start) in enumerate(zip(events, starts, strict=True)):
            topic, epoch, offset, ts = publication[:4]
            enter(topic, epoch, offset, start, mark)
            if keys is not None and (key := keys[i]) is not None:
                segment.keys.append(Key(topic, key, epoch, offset, ts))
        self.mark = mark
        segment.newest = max(segment.newest, ts)

    def follows(self, topic: str, epoch: str, offset: int) -> bool:
        """Whether an event given from elsewhere can be appended without a :meth:`roll` before."""
        return self._segments[-1].fits(topic, epoch, offset)

    def roll(self) -> None:
        """Go on in a new segment."""
        self._roll()

    def _roll(self) -> Segment:
        segment = self._new_segment()
        self._total += segment.size
        self._segments[-1].seal()
        self._segments.append(segment)
        while self._total > self._max and len(self._segments) > 1:
            self._drop_oldest()
        return segment

    def begin_epoch(self, epoch: str) -> None:
        """From now on new topics have this epoch."""
        newest = self._segments[-1]
        before = newest.size
        newest.begin_epoch(epoch)
        self.epoch = epoch
        self._total += newest.size - before

    def drop_before(self, ts: float) -> None:
        """Let go segments without an event at or after ``ts``, Unix seconds; never the newest."""
        while len(self._segments) > 1 and self._segments[0].newest < ts:
            self._drop_oldest()

    def _drop_oldest(self) -> None:
        oldest, newest = self._segments[0], self._segments[-1]
        later = self._segments[1:]
        heads = {topic: oldest.starts[run.places[-1]] for topic, run in oldest.runs.items()}
        heads = {**oldest.carried, **heads}
        kept = [t for t in heads if self._carries(t) and not any(t in s.runs or t in s.carried for s in later)]
        kept.sort(key=heads.__getitem__)
        before = newest.size
        if kept:
            newest.carry([(topic, oldest.record(heads[topic])) for topic in kept])
        self._total += newest.size - before - oldest.size
        del self._segments[0]
        oldest.discard()

    # reading --------------------------------------------------------------------------------------------------------

    def heads(self) -> Iterator[tuple[str, bytes]]:
        """The last event of every topic, ``(topic, packed)``."""
        told: set[str] = set()
        for segment in reversed(self._segments):
            places = {topic: segment.starts[run.places[-1]] for topic, run in segment.runs.items()}
            for topic, start in {**segment.carried, **places}.items():
                if topic not in told:
                    told.add(topic)
                    yield topic, segment.record(start)

    def recent_keys(self) -> Iterator[Key]:
        """Idempotency keys that came with events, oldest first."""
        for segment in self._segments:
            yield from segment.keys

    def first(self, topic: str, epoch: str, offset: int) -> int:
        """The oldest offset from which on all events up to ``offset`` are here; ``offset + 1`` if not even that is."""
        first = offset + 1
        for segment in reversed(self._segments):
            run = segment.runs.get(topic)
            if run is not None:
                if run.epoch != epoch or run.first + len(run.places) != first:
                    break
                first = run.first
        return first

    def read(self, topic: str, epoch: str, after: int, limit: int) -> list[bytes]:
        """Packed events of a topic with offsets above ``after``, oldest first, at most ``limit``."""
        out: list[bytes] = []
        for segment in self._segments:
            run = segment.runs.get(topic)
            if run is None or run.epoch != epoch or len(out) >= limit:
                continue
            begin = max(0, after + 1 - run.first)
            out += segment.events(run.places[begin : begin + limit - len(out)])
        return out

    def event(self, topic: str, epoch: str, offset: int) -> bytes:
        """One packed event that is here."""
        return self.read(topic, epoch, offset - 1, 1)[0]

    def tail(self, mark: int, limit: int) -> list[tuple[int, bytes]]:
        """Packed events behind ``mark``, of all topics, with their marks.

        Raises:
            Expired: some of them are gone, or ``mark`` is in no past of this log.
        """
        self.check_reaches(mark)
        out: list[tuple[int, bytes]] = []
        for segment in self._behind(mark):
            places = segment.behind(mark)[: limit - len(out)]
            out += zip(segment.marks[places.start : places.stop], segment.events(places), strict=True)
            if len(out) >= limit:
                break
        return out

    def topics_behind(self, mark: int) -> dict[str, tuple[str, int]]:
        """Topics that had events behind ``mark``: epoch and first offset of these. Costs a look per topic of the
        segments behind it."""
        self.check_reaches(mark)
        out: dict[str, tuple[str, int]] = {}
        for segment in self._behind(mark):
            begin = segment.behind(mark).start
            for topic, run in segment.runs.items():
                known = out.get(topic)
                if known is not None and known[0] == run.epoch:
                    continue
                places = run.places
                if places[-1] >= begin:
                    out[topic] = (run.epoch, run.first + bisect_left(places, begin))
        return out

    def bytes_behind(self, mark: int) -> int:
        """About how many bytes of records are behind ``mark``."""
        total = 0
        for segment in self._behind(mark):
            places = segment.behind(mark)
            total += segment.size - segment.starts[places.start]
        return total

    def check_reaches(self, mark: int) -> None:
        """Raise :class:`Expired` unless everything behind ``mark`` is here."""
        floor = next((segment.marks[0] - 1 for segment in self._segments if segment.marks), self.mark)
        if not floor <= mark <= self.mark:
            raise Expired

    def _behind(self, mark: int) -> Iterator[Segment]:
        return (segment for segment in self._segments if segment.marks and segment.marks[-1] > mark)

    def close(self) -> None:
        """Let go the files; they stay."""
        for segment in self._segments:
            segment.close()
        if self._lock >= 0:
            os.close(self._lock)


def _locked(directory: Path) -> int:
    """Wait for a former hub to end: two writers would destroy each other's records."""
    fd = os.open(directory / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    deadline = time.monotonic() + LOCK_TIMEOUT
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return fd
        except BlockingIOError:
            if time.monotonic() >= deadline:
                os.close(fd)
                raise ConfigError(f"another process uses {directory}", "history.dir") from None
        time.sleep(LOCK_INTERVAL)
