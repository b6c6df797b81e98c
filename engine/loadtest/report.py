"""What a load test found: plain data, JSON in and out. Times are seconds since its start, latencies milliseconds.

CPU of the machine is percent of all its cores, that of processes percent of one core.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final, Literal

import msgspec
from msgspec import Struct

from engine.loadtest.scenario import Scenario
from transport.errors import ConfigError

VERSION: Final = 1
Verdict = Literal["passed", "failed", "invalid"]
FaultKind = Literal["cut", "kill"]


class Percentiles(Struct, frozen=True, kw_only=True):
    """Of times in milliseconds; all 0 where there was none (``count`` says so)."""

    count: int = 0
    mean: float = 0.0
    p50: float = 0.0
    p90: float = 0.0
    p95: float = 0.0
    p99: float = 0.0
    p999: float = 0.0
    worst: float = 0.0


class Judgement(Struct, frozen=True, kw_only=True):
    """A criterion and what became of it. ``passed`` is ``None`` where it could not be measured."""

    name: str
    goal: str
    value: float | None
    limit: float
    unit: str
    passed: bool | None
    explanation: str


class TargetFacts(Struct, frozen=True, kw_only=True):
    """Who was tested. ``server`` is what it says of itself, ``local`` whether it ran on this machine."""

    url: str
    kind: str
    server: str = ""
    local: bool = True


class Machine(Struct, frozen=True, kw_only=True):
    """Where the load came from."""

    cpu: str
    cores: int
    memory_gb: float
    system: str
    python: str
    heliograph: str


class Phase(Struct, frozen=True, kw_only=True):
    """A phase. ``delivered`` counts each message at each connection, ``expected`` what should have come there."""

    name: str
    start: float
    end: float
    published: int = 0
    delivered: int = 0
    expected: int = 0
    missing: int = 0
    missing_connections: int = 0
    """At how many connections something is missing."""
    missing_at: float | None = None
    """When the first message was due that is missing."""
    duplicates: int = 0
    out_of_order: int = 0
    silence: float = 0.0
    """Longest time in which nothing came to any connection, although something was due."""
    silence_at: float | None = None
    """When that began."""
    latency: Percentiles = Percentiles()
    answers: Percentiles = Percentiles()


class Connects(Struct, frozen=True, kw_only=True):
    """The ramp-up. ``times`` are from the first byte to the answer of the subscription."""

    attempted: int = 0
    opened: int = 0
    failed: int = 0
    reasons: dict[str, int] = {}
    seconds: float = 0.0
    times: Percentiles = Percentiles()


class Publishing(Struct, frozen=True, kw_only=True):
    """The publisher's side, over all phases."""

    published: int = 0
    rate: float = 0.0
    """Messages per second, over the phases."""
    late_p99_ms: float = 0.0
    """How far it was behind its schedule while the server read: its own fault."""
    blocked: float = 0.0
    """Seconds in which the server did not read what was published."""
    pause: float = 0.0
    """Seconds between two phases, the longest, in which nothing was due: the tester's own."""
    errors: dict[str, int] = {}
    """What the server refused, by its words."""


class Throughput(Struct, frozen=True, kw_only=True):
    """Deliveries per second: of the best second, and of the median one."""

    peak: float = 0.0
    sustained: float = 0.0


class Series(Struct, kw_only=True):
    """One entry a second, the last 1,000; ``None`` where there was nothing to measure."""

    t: list[float] = []
    p50: list[float | None] = []
    p99: list[float | None] = []
    worst: list[float | None] = []
    published: list[float] = []
    delivered: list[float] = []
    open: list[int] = []
    machine_cpu: list[float | None] = []
    machine_steal: list[float | None] = []
    """Of ``machine_cpu`` what a virtual machine's host withheld."""
    machine_memory: list[float | None] = []
    server_cpu: list[float | None] = []
    server_memory_mb: list[float | None] = []
    client_cpu: list[float | None] = []
    """Of the busiest process of the load client."""
    client_lag_ms: list[float | None] = []
    net_mb: list[float | None] = []
    """Megabytes that this machine received, its loopback included."""


class Stability(Struct, frozen=True, kw_only=True):
    """A sample, every 5 s. ``uptime`` is the share of connection seconds so far, without the recovery phase."""

    t: float
    open: int
    expected: int
    uptime: float


class Fault(Struct, frozen=True, kw_only=True):
    """Something that the tester broke, and who came back."""

    t: float
    kind: FaultKind
    what: str
    affected: int
    recovered: int
    mean_s: float | None = None
    worst_s: float | None = None


class ClientProcess(Struct, frozen=True, kw_only=True):
    """A process of the load client; the publisher is one, too."""

    name: str
    pid: int
    cpu_mean: float = 0.0
    cpu_peak: float = 0.0
    busy: float = 0.0
    """Share of the measured seconds in which it needed more than 90 % of a core."""
    late: float = 0.0
    """Share of the measured seconds in which it was more than 50 ms late itself."""
    lag_p99_ms: float = 0.0
    lag_worst_ms: float = 0.0
    """How late its own timers came; the longest time that it stood still."""


class Report(Struct, frozen=True, kw_only=True):
    """A load test, whole. ``scenario`` is the one that ran: scaled, and without secrets."""

    version: int = VERSION
    name: str
    started: str
    scenario: Scenario
    time_scale: float = 1.0
    target: TargetFacts
    machine: Machine
    verdict: Verdict = "invalid"
    invalid: list[str] = []
    """Why it says nothing about the server."""
    notes: list[str] = []
    """What the reader should know: a fault that was left out, what was not measured."""
    criteria: list[Judgement] = []
    phases: list[Phase] = []
    latency: Percentiles = Percentiles()
    """Of the judged phases together."""
    answers: Percentiles = Percentiles()
    """Request–answer times, likewise."""
    distribution: list[tuple[float, float]] = []
    """(percentile, milliseconds) of ``latency``, for a plot."""
    connects: Connects = Connects()
    publishing: Publishing = Publishing()
    throughput: Throughput = Throughput()
    series: Series = msgspec.field(default_factory=Series)
    stability: list[Stability] = []
    uptime: float | None = None
    """Share of connection seconds outside the recovery phase in which the connections were open."""
    lost: dict[str, int] = {}
    """Connections that went unasked, by why."""
    gaps: int = 0
    """Gaps that the server told its clients: messages that it knows they missed."""
    faults: list[Fault] = []
    clients: list[ClientProcess] = []

    def to_json(self) -> bytes:
        """Indented JSON, for files."""
        return msgspec.json.format(msgspec.json.encode(self), indent=1) + b"\n"


class _Versioned(Struct):
    version: int


def from_json(text: bytes) -> Report:
    """A report from JSON.

    Raises:
        ConfigError: it is none, or one of another version.
    """
    try:
        version = msgspec.json.decode(text, type=_Versioned).version
        if version != VERSION:
            raise ConfigError(f"is a report of version {version}; this heliograph reads version {VERSION}")
        return msgspec.json.decode(text, type=Report)
    except msgspec.DecodeError as error:
        raise ConfigError(f"is no report of a load test: {error}") from None


def read(path: Path) -> Report:
    """A report from a file.

    Raises:
        ConfigError: names the file.
    """
    try:
        return from_json(path.read_bytes())
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from None
    except ConfigError as error:
        raise ConfigError(f"{path} {error.message}") from None
