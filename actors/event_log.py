"""The log of recent events of all topics, in files that a restarted hub finds again: bounded in bytes.

Segments follow each other; the oldest goes when there are too many bytes. The last event of each topic outlives its
segment: it is carried over into the newest one, so that a restarted hub knows epoch, offset and last event of each.
"""

from __future__ import annotations

import logging
import os
import stat
from bisect import bisect_left
from collections.abc import Callable, Collection, Iterator, Sequence
from itertools import islice, repeat
from pathlib import Path
from typing import Final

from actors.file_lock import lock
from actors.history import Accepted, Expired
from actors.segment import HEADER, Key, Kind, Segment
from transport.errors import CodecError, ConfigError

SEGMENTS: Final = 32  # of a full log: what goes at a time is a 32nd
BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")
EVENT: Final = int(Kind.EVENT)
_log = logging.getLogger(__name__)


class EventLog:
    """Append, read by topic and offset, read by mark.

    Args:
        directory: made with mode 0700; ``None`` keeps the log in memory, for as long as the process lives.
        max_bytes: of the events in all segments, about; the last event of each topic comes on top.
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
        self._number = self.mark = 0
        self._lock = -1
        self._lost = False
        if directory is not None:
            try:
                directory.mkdir(mode=0o700, parents=True, exist_ok=True)
                _check_owner(directory)
                self._lock = lock(directory / "lock", directory, "history.dir")
                self._open(directory)
            except OSError as error:
                raise ConfigError(f"cannot use {directory}: {error.strerror}", "history.dir") from None
        if self._segments:
            self.log, self.epoch = self._segments[-1].log, self._segments[-1].epoch
        else:
            self.log, self.epoch = name, epoch
            self._segments.append(self._new_segment())
        self.mark = self._segments[-1].mark
        self._total = sum(segment.size for segment in self._segments)
        if self._lost and self.epoch != epoch:
            self.begin_epoch(epoch)  # topics whose last event is lost must not have their offsets again

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
        for path in directory.glob("*.tmp"):
            path.unlink()
        trusted = _same_boot(self._lock)
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
            before = self._segments[-1] if self._segments else None
            if before is not None and (before.log, before.mark) != (segment.log, segment.floor):
                _log.warning("history is lost: %s does not lead on to %s", before.path, path)
                self._forget_all()
            self._segments.append(segment)
        if self._segments and not trusted:
            _log.warning("history is lost: the machine went down without this engine's end")
            self._forget_all()

    def _forget_all(self) -> None:
        for segment in self._segments:
            segment.discard()
        self._segments.clear()
        self._lost = True

    def _new_segment(self) -> Segment:
        self._number += 1
        path = None if self._directory is None else self._directory / f"{self._number:012}.log"
        return Segment.create(path, self.log, self.epoch, self.mark)

    # writing --------------------------------------------------------------------------------------------------------

    def append(self, events: Sequence[Accepted], keys: Sequence[str | None] | None = None) -> None:
        """Write events, whose marks rise, each with its idempotency key if it has one. All of them or, with
        :class:`OSError`, none. Costs one system call and about 0.6 µs an event."""
        segment = self._segments[-1]
        if _event_bytes(segment) >= self._segment_bytes:
            segment = self._roll()
        frames: list[bytes] = []
        starts: list[int] = []
        at = segment.size
        for event, key in zip(events, keys or repeat(None)):  # noqa: B905  it may be without end
            key_bytes = b"" if key is None else key.encode()
            packed = event.packed
            starts.append(at)
            frames += (HEADER.pack(len(packed), len(key_bytes), EVENT, event.mark), key_bytes, packed)
            at += HEADER.size + len(key_bytes) + len(packed)
        before = segment.size
        segment.write(b"".join(frames))
        self._total += segment.size - before
        segment.enter(events, starts)
        if keys is not None:
            for event, key in zip(events, keys, strict=True):
                if key is not None:
                    topic, epoch, offset, ts = event.publication[:4]
                    segment.keys.append(Key(topic, key, epoch, offset, ts))
        last = events[-1]
        self.mark = last.mark
        segment.newest = max(segment.newest, last.publication.ts)

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
        while len(self._segments) > 1 and sum(map(_event_bytes, self._segments)) > self._max:
            self._drop_oldest()
        return segment

    def begin(self, name: str, mark: int) -> None:
        """Let go everything, and go on behind ``mark`` as another log, whose topics have its name as epoch."""
        before = self.log, self.epoch, self.mark
        self.log, self.epoch, self.mark = name, name, mark
        try:
            segment = self._new_segment()
        except OSError:
            self.log, self.epoch, self.mark = before
            raise
        for old in self._segments:
            old.discard()
        self._segments[:] = [segment]
        self._total = segment.size

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
        left = set(heads)
        for segment in later:
            left = left.difference(segment.runs).difference(segment.carried)
        kept = sorted(filter(self._carries, left), key=heads.__getitem__)
        before = newest.size
        if kept:
            newest.carry([*zip(kept, oldest.records([heads[topic] for topic in kept]), strict=True)])
        self._total += newest.size - before - oldest.size
        del self._segments[0]
        oldest.discard()

    # reading --------------------------------------------------------------------------------------------------------

    def heads(self) -> Iterator[tuple[str, bytes]]:
        """The last event of every topic, ``(topic, packed)``."""
        told: set[str] = set()
        for segment in reversed(self._segments):
            places = {topic: segment.starts[run.places[-1]] for topic, run in segment.runs.items()}
            found = {**segment.carried, **places}
            new = sorted(found.keys() - told, key=found.__getitem__)
            told.update(new)
            yield from zip(new, segment.records([found[topic] for topic in new]), strict=True)

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
        return list(islice(self.events(topic, epoch, after), limit))

    def events(self, topic: str, epoch: str, after: int) -> Iterator[bytes]:
        """As :meth:`read`, all of them. Reads as it goes; not to be held on to."""
        for segment in self._segments:
            run = segment.runs.get(topic)
            if run is not None and run.epoch == epoch:
                yield from segment.events(run.places[max(0, after + 1 - run.first) :])

    def newest(self, topic: str, epoch: str, after: int, events: int, nbytes: int) -> int:
        """Where to :meth:`read` from to get the newest events with offsets above ``after``, at most so many events and
        bytes; one above the last if not even that fits. Costs 0.3 µs an event, and reads none."""
        first = after + 1
        for segment in reversed(self._segments):
            run = segment.runs.get(topic)
            if run is None or run.epoch != epoch:
                continue
            for i in range(len(run.places) - 1, -1, -1):
                offset = run.first + i
                events -= 1
                nbytes -= segment.length(run.places[i])
                if offset <= after or events < 0 or nbytes < 0:
                    return offset + 1
                first = offset
        return first

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

    def topics_behind(self, mark: int, topics: Collection[str] | None = None) -> dict[str, tuple[str, int]]:
        """Of ``topics``, or of all, those that had events behind ``mark``: epoch and offset of the first of these, be
        it an epoch that is over. Costs a look per topic and segment behind it."""
        self.check_reaches(mark)
        out: dict[str, tuple[str, int]] = {}
        for segment in self._behind(mark):
            begin = segment.behind(mark).start
            runs = segment.runs
            for topic in runs if topics is None else topics:
                run = runs.get(topic)
                if run is None or topic in out:
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
        if not self._segments[0].floor <= mark <= self.mark:
            raise Expired

    def _behind(self, mark: int) -> Iterator[Segment]:
        return (segment for segment in self._segments if segment.marks and segment.marks[-1] > mark)

    def close(self) -> None:
        """Let go the files; they stay."""
        for segment in self._segments:
            segment.close()
        if self._lock >= 0:
            os.ftruncate(self._lock, 0)  # see _same_boot
            os.close(self._lock)


def _event_bytes(segment: Segment) -> int:
    """Without what it has taken over: else a log of many topics would have no room for events."""
    return segment.size - segment.carried_bytes


def _same_boot(lock: int) -> bool:
    """Whether nothing that was written can be missing: the former hub has closed the log, or the machine still runs on
    which it died. Else the disk may have less than clients have seen, whose offsets would come a second time."""
    try:
        boot = BOOT_ID.read_bytes()
    except OSError:  # macOS
        return True
    former = os.pread(lock, len(boot), 0)
    os.pwrite(lock, boot, 0)
    return former in (b"", boot)


def _check_owner(directory: Path) -> None:
    """In a shared place anybody can make a directory of our name, read what we write there and write what we read."""
    found = directory.stat()
    if found.st_uid != os.getuid() or found.st_mode & stat.S_IWOTH:
        text = f"{directory} must be a directory of this user in which not everybody may write"
        raise ConfigError(text, "history.dir")
