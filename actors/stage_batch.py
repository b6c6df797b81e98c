"""A batch on its way through one stage: what the stage gets, and what becomes of what it returns. Pure.

A result belongs to the event that it was made of (:class:`StagedEvent`), wherever it stands in the list. Of one event's
results the first answers its publisher, the others are new events, as are results that were made of none. An event
without a result was dropped by the stage, which its publisher is told.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import StrEnum
from types import CoroutineType
from typing import Any, NamedTuple

from actors.shown import shown
from transport.codes import ErrorCode, Priority
from transport.event import Event, to_publish
from transport.messages import Publish, Refused

Source = tuple[Any, Publish]
"""The peer that published, and what."""
Answer = tuple[Any, Refused]
"""The peer that published, and what it is told."""


class StageFailure(StrEnum):
    """Why a stage did nothing for an event."""

    RAISED = "raised"
    TIMEOUT = "timeout"
    NONSENSE = "nonsense"  # what it returned is no event that others could read
    OVERFLOW = "overflow"  # more events wait for it than may
    BYPASSED = "bypassed"  # it failed so often that it is left alone for a while


class Nonsense(ValueError):
    """A stage returned something of which not even the culprit can be told: its whole batch has failed."""


class StagedEvent(Event, frozen=True, kw_only=True, eq=False):
    """An event before the hub accepts it; it equals an :class:`~transport.event.Event` with the same fields.

    Attributes:
        source: number of the publish that it was made of; ``replace()`` keeps it.
    """

    source: int

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Event) and _plain(self) == _plain(other)

    def __hash__(self) -> int:
        return hash(_plain(self))


def _plain(event: Event) -> Event:
    return Event(**{name: getattr(event, name) for name in Event.__struct_fields__})


class Outcome(NamedTuple):
    """What becomes of a batch.

    Attributes:
        passed: what goes on, in order.
        refused: what publishers are told whose events do not.
        faults: how often what went wrong.
        dropped: events that a failure has cost.
        failed: the stage did nothing at all for this batch.
        error: a sample.
    """

    passed: list[Source]
    refused: list[Answer]
    faults: dict[StageFailure, int]
    dropped: int = 0
    failed: bool = False
    error: str = ""


class _Found:
    """What a stage made of a batch.

    Attributes:
        results: index of the source (-1: none) and result, ``None`` for one that failed.
        faults, error: see :class:`Outcome`.
    """

    def __init__(self) -> None:
        self.results: list[tuple[int, Publish | None]] = []
        self.faults: dict[StageFailure, int] = {}
        self.error = ""

    def add(self, index: int, event: Event) -> bool:
        """A result; False if nobody could read it."""
        try:
            self.results.append((index, to_publish(event)))
        except Exception as error:  # beside RequestError whatever a field of a strange type raises
            self.fault(index, StageFailure.NONSENSE, f"{shown(event.topic)}: {error}")
            return False
        return True

    def fault(self, index: int, reason: StageFailure, error: str) -> None:
        """A source for which nothing was done."""
        self.results.append((index, None))
        self.faults[reason] = self.faults.get(reason, 0) + 1
        self.error = error


class StageBatch:
    """See the module. Never changes: the loop may give it up while the stage's thread is at it.

    Args:
        stage: its name, for publishers.
        sources: what it shall get, at least one.
        first: number of the first of them; no number may come twice in a stage's life.
        drop: what a failure leaves without a result is dropped; else it goes on as it came, in its place.
    """

    def __init__(self, stage: str, sources: Sequence[Source], first: int, drop: bool) -> None:
        self._stage, self._sources, self._first, self._drop = stage, sources, first, drop

    def events(self) -> list[Event]:
        """What the stage gets."""
        return [_event(publish, number) for number, (_, publish) in enumerate(self._sources, self._first)]

    def returned(self, results: object) -> Outcome:
        """What becomes of what ``on_events`` returned.

        Raises:
            Nonsense: it is no list of events, or one that nobody could read was made of none of the batch.
        """
        found = _Found()
        for event in _events(results):
            index = event.source - self._first if isinstance(event, StagedEvent) else -1
            if not 0 <= index < len(self._sources):
                index = -1  # made of nothing, or of an event of an earlier batch that the stage held back
            if not found.add(index, event) and index < 0:
                raise Nonsense(found.error)
        return self._outcome(found)

    def mapped(self, function: Callable[[Event], object]) -> Outcome:
        """Call ``function`` with each event by itself; one that fails costs the others nothing."""
        found = _Found()
        for index, event in enumerate(self.events()):
            try:
                results = function(event)
            except Exception as error:
                found.fault(index, StageFailure.RAISED, shown(error))
                continue
            try:
                events = [] if results is None else [results] if isinstance(results, Event) else _events(results)
            except Nonsense as error:
                found.fault(index, StageFailure.NONSENSE, str(error))
                continue
            for each in events:
                found.add(index, each)
        return self._outcome(found)

    def failed(self, reason: StageFailure, error: str = "") -> Outcome:
        """The stage did nothing for any of them."""
        found = _Found()
        for index in range(len(self._sources)):
            found.fault(index, reason, error)
        return self._outcome(found)

    def _outcome(self, found: _Found) -> Outcome:
        sources, results, faults = self._sources, found.results, found.faults
        good = {index for index, publish in results if publish is not None}
        passed: list[Source] = []
        refused: list[Answer] = []
        settled: set[int] = set()
        dropped = 0
        for index, publish in results:
            peer, source = sources[index]  # of -1 the last one's peer: nobody is answered
            if publish is None:
                if index in good or index in settled:
                    continue
                if self._drop:
                    dropped += 1
                    if source.ref:
                        refused.append((peer, _refusal(source, ErrorCode.UNAVAILABLE, f"stage {self._stage} failed")))
                else:
                    passed.append((peer, source))
            elif index >= 0 and index not in settled:
                passed.append((peer, publish._replace(ref=source.ref, trace=source.trace)))
            else:
                passed.append((peer, publish))
            settled.add(index)
        for index, (peer, source) in enumerate(sources):
            if source.ref and index not in settled:
                refused.append((peer, _refusal(source, ErrorCode.FORBIDDEN, "a stage dropped this event")))
        failed = bool(faults) and not good and len(settled) == len(sources)
        return Outcome(passed, refused, faults, dropped, failed, found.error)


def _event(publish: Publish, number: int) -> StagedEvent:
    return StagedEvent(
        topic=publish.topic,
        payload=publish.data,
        type=publish.type,
        key=publish.key,
        priority=None if publish.priority is None else Priority(publish.priority),
        source_ts=publish.source_ts,
        source=number,
    )


def _events(results: object) -> list[Event] | tuple[Event, ...]:
    if not isinstance(results, (list, tuple)):
        if isinstance(results, CoroutineType):
            results.close()  # nobody will await it
        raise Nonsense(f"{shown(results)} is no list of events")
    for each in results:
        if not isinstance(each, Event):
            raise Nonsense(f"{shown(each)} is no event")
    return results


def _refusal(publish: Publish, code: ErrorCode, text: str) -> Refused:
    return Refused(publish.ref, code.value, text, None)
