"""What a client process has counted, by phase: a message belongs to the phase in which it was published. Pure.

Latencies wait as counts per step of 8 µs, or of less than a hundredth where they are long, and go into histograms once
a second: recording each by itself would cost more than reading it.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from engine.loadtest.commands import PhaseFigures
from engine.loadtest.latency import Latency
from engine.loadtest.sequences import Sequences, Strays

STEP: Final = 13
"""Bits of a receive time that are let go, at least: 8.2 µs."""
DIGITS: Final = 8
"""Bits of a latency that are kept, at least; with all rounding it is right within 0.7 %. With a histogram's 11 a client
process with 1,000 clients took 1.2 times as long."""
_US: Final = 1_000  # ns
_S: Final = 1_000_000_000  # ns


class _Phase:
    __slots__ = (
        "answers",
        "delivered",
        "duplicates",
        "first",
        "late",
        "latency",
        "name",
        "silence",
        "silence_at",
        "waiting",
    )

    def __init__(self, name: str, first: int) -> None:
        self.name, self.first = name, first
        self.delivered = self.duplicates = self.late = 0
        self.silence, self.silence_at = 0, 0  # ns
        self.waiting: defaultdict[int, int] = defaultdict(int)  # latencies in µs that are not in the histogram yet
        self.latency, self.answers = Latency(), Latency()


class Ledger:
    """One for a client process. Times are nanoseconds of CLOCK_MONOTONIC.

    Attributes:
        begun: whether anything has come, or a phase has begun.
        delivered: messages read, all together.
    """

    def __init__(self) -> None:
        self.begun = False
        self.delivered = 0
        self._phases = [_Phase("", 0)]  # what comes before the first mark, and sequences below it
        self._firsts = [0]
        self._heard: int | None = None  # when something came last; None: nothing is waited for
        self._second_latency, self._second_answers = Latency(), Latency()
        self._told = 0

    def mark(self, name: str, first: int, now: int, afresh: bool = False) -> None:
        """Sequences from ``first`` on belong to this phase, and answers from now on.

        A silence goes on: what of it has passed is the old phase's, and the whole will be this one's; unless that is to
        count ``afresh``.
        """
        self._silent(now)
        self.begun, self._heard = True, now if afresh or self._heard is None else self._heard
        self._phases.append(_Phase(name, first))
        self._firsts.append(first)

    def hush(self, now: int) -> None:
        """Nothing more is published: silence ends here."""
        self._silent(now)
        self._heard = None

    def received(self, stamps: Sequence[tuple[int, int]], times: Sequence[int]) -> None:
        """These messages came at each of these times, which rise.

        Args:
            stamps: when each was due in µs, and its sequence.
        """
        if not stamps:
            return
        self.begun = True
        count = len(times)
        self.delivered += count * len(stamps)
        phase = self._phases[-1]
        shift, steps = 0, list[tuple[int, int]]()
        for due, sequence in reversed(stamps):  # the later it was due, the finer are the steps
            shortest = times[0] - due * _US
            wanted = max(STEP, shortest.bit_length() - DIGITS) if shortest > 0 else STEP
            if wanted > shift:
                shift, steps = wanted, _steps(times, wanted)
            at = phase if sequence >= phase.first else self._of(sequence)
            at.delivered += count
            waiting = at.waiting
            for us, number in steps:
                waiting[us - due] += number
        if self._heard is not None:
            if times[0] - self._heard > phase.silence:
                self._silent(times[0])
            self._heard = max(self._heard, times[-1])

    def _silent(self, now: int) -> None:
        phase, since = self._phases[-1], self._heard
        if since is not None and now - since > phase.silence:
            phase.silence, phase.silence_at = now - since, since

    def _of(self, sequence: int) -> _Phase:
        return self._phases[bisect_right(self._firsts, sequence) - 1]

    def strays(self, strays: Strays) -> None:
        """What came twice or late, besides having come."""
        for sequence in strays.duplicates:
            self._of(sequence).duplicates += 1
        for sequence in strays.late:
            self._of(sequence).late += 1

    def answered(self, us: int) -> None:
        """A request was answered."""
        self._phases[-1].answers.record(us)
        self._second_answers.record(us)

    def second(self) -> tuple[int, str, str]:
        """Since the last call: messages, their latencies, those of answers; both encoded."""
        self._settle()
        told, self._told = self._told, self.delivered
        found = self.delivered - told, self._second_latency.encode(), self._second_answers.encode()
        self._second_latency.clear()
        self._second_answers.clear()
        return found

    def _settle(self) -> None:
        for phase in self._phases:
            if phase.waiting:
                found = Latency()
                for us, number in _rounded(phase.waiting).items():
                    found.record(us, number)
                phase.waiting.clear()
                phase.latency.merge(found)
                self._second_latency.merge(found)

    def figures(self, clients: Iterable[Sequences], last: int) -> list[PhaseFigures]:
        """All phases that were marked, over these clients; ``last`` is the last sequence that was published."""
        self._settle()
        everyone = list(clients)
        found = []
        for at, phase in enumerate(self._phases[1:], 1):
            end = min(self._firsts[at + 1] if at + 1 < len(self._firsts) else last + 1, last + 1)
            lacks = [client.missing(phase.first, end) for client in everyone]
            found.append(
                PhaseFigures(
                    phase=phase.name,
                    delivered=phase.delivered,
                    expected=sum(client.expected(phase.first, end) for client in everyone),
                    missing=sum(count for count, _ in lacks),
                    duplicates=phase.duplicates,
                    out_of_order=phase.late,
                    lacking=sum(1 for count, _ in lacks if count),
                    first_missing=min((first for _, first in lacks if first is not None), default=None),
                    silence=phase.silence / _S,
                    silence_at=phase.silence_at / _S,
                    latency=phase.latency.encode(),
                    answers=phase.answers.encode(),
                )
            )
        return found


def _steps(times: Sequence[int], shift: int) -> list[tuple[int, int]]:
    """How many of these times (ns) there are in each step of ``2 ** shift``, and its middle in µs."""
    half = 1 << (shift - 1)
    counted = Counter([time >> shift for time in times])
    return [(((step << shift) + half) // _US, number) for step, number in counted.items()]


def _rounded(latencies: Mapping[int, int]) -> Mapping[int, int]:
    """Few different values: a record in a histogram costs twenty times as much as this."""
    found: defaultdict[int, int] = defaultdict(int)
    for us, number in latencies.items():
        shift = max(0, us.bit_length() - DIGITS - 1)
        found[(us >> shift << shift) + (1 << shift >> 1)] += number
    return found
