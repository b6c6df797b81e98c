"""How far a load test is, told once a second and where a phase begins."""

from __future__ import annotations

from typing import NamedTuple


class Progress(NamedTuple):
    """Rates and percentiles are of the last second."""

    phase: str
    """``starting``, ``ramp-up``, one of the scenario's, ``drain``."""
    elapsed: float
    """Seconds of the scenario's that are done; 0 until the ramp-up is over."""
    total: float
    """The scenario's seconds."""
    open: int
    connections: int
    published: float
    """Messages per second."""
    delivered: float
    """Deliveries per second, over all connections."""
    p50: float | None
    """Milliseconds; ``None`` while nothing comes."""
    p99: float | None
    errors: int
    """So far: refused connections, connections lost unasked, refused publishes, gaps that the server told."""
