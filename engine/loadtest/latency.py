"""Latencies as counts per step of 0.1 %, by HdrHistogram: recorded in a client process, merged in the coordinator.

Needs the extra ``loadtest``; without it :func:`require` says so before anything is started.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any, Final

from engine.loadtest.report import Percentiles
from transport.errors import ConfigError

LONGEST_US: Final = 600_000_000
"""Ten minutes; what took longer counts as that."""
DIGITS: Final = 3
PLOTTED_PER_HALVING: Final = 5
"""Points of the distribution each time the rest to 100 % halves."""
MS: Final = 1_000
"""Microseconds."""
MISSING: Final = "load tests need the package hdrhistogram: pip install 'heliograph[loadtest]'"


def require() -> None:
    """Raise :class:`ConfigError` where hdrhistogram is not installed."""
    if find_spec("hdrh") is None:
        raise ConfigError(MISSING)


class Latency:
    """A histogram of microseconds. About 160 kB, whatever it counts; a record costs some 3 µs."""

    __slots__ = ("_histogram",)

    def __init__(self) -> None:
        require()
        self.clear()

    def record(self, us: int, count: int = 1) -> None:
        """``count`` times that took ``us``; less than nothing is nothing."""
        self._histogram.record_value(min(max(us, 0), LONGEST_US), count)

    def merge(self, other: Latency) -> None:
        """Take in what ``other`` counted."""
        if other.count:
            self._histogram.add(other._histogram)

    def encode(self) -> str:
        """As text for a pipe; some hundred bytes to a few kB."""
        text: bytes = self._histogram.encode()
        return text.decode("ascii")

    @classmethod
    def decode(cls, text: str) -> Latency:
        """From :meth:`encode`."""
        found = cls()
        found._histogram.decode_and_add(text.encode("ascii"))
        return found

    def clear(self) -> None:
        """Forget everything."""
        from hdrh.histogram import HdrHistogram

        self._histogram: Any = HdrHistogram(1, LONGEST_US, DIGITS)  # its reset() takes 20 times as long

    @property
    def count(self) -> int:
        """How many times were recorded."""
        found: int = self._histogram.get_total_count()
        return found

    def at(self, percentile: float) -> float:
        """The time, in milliseconds, that ``percentile`` percent did not exceed."""
        found: int = self._histogram.get_value_at_percentile(percentile)
        return found / MS

    def percentiles(self) -> Percentiles:
        """The figures of a report."""
        if not self.count:
            return Percentiles()
        found = self._histogram.get_percentile_to_value_dict([50, 90, 95, 99, 99.9])
        p50, p90, p95, p99, p999 = (found[percentile] / MS for percentile in (50, 90, 95, 99, 99.9))
        mean, worst = self._mean_us() / MS, self._histogram.get_max_value() / MS
        return Percentiles(count=self.count, mean=mean, p50=p50, p90=p90, p95=p95, p99=p99, p999=p999, worst=worst)

    def _mean_us(self) -> float:
        # The histogram's own takes 50 ms, whatever it counts.
        histogram = self._histogram
        used = histogram.get_counts_array_index(histogram.get_max_value()) + 1
        total = 0
        for step, count in enumerate(histogram.counts[:used]):
            if count:
                low = histogram.get_value_from_index(step)
                total += count * (low + histogram.get_highest_equivalent_value(low))
        return total / 2 / self.count

    def distribution(self) -> list[tuple[float, float]]:
        """(percentile, milliseconds), denser towards 100."""
        if not self.count:
            return []
        points = self._histogram.get_percentile_iterator(PLOTTED_PER_HALVING)
        return [(point.percentile_level_iterated_to, point.value_iterated_to / MS) for point in points]
