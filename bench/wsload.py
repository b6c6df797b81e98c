"""The load client: ``wsload.c``, built with the system's C compiler, run on a core of its own, and what it reports."""

from __future__ import annotations

import os
import re
import select
import subprocess
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import psutil  # type: ignore[import-untyped]

SOURCE = Path(__file__).with_name("wsload.c")
BINARY = Path(__file__).parent / ".build" / "wsload"
CORES = sorted(os.sched_getaffinity(0))
SERVER_CORE, CLIENT_CORE = CORES[0], CORES[-1]
TOPIC = "bench.t"
BUSY = 0.9  # of a core; above it a figure says only what a core did
MESSAGE_BYTES = 123
DRAIN = 2.0  # s for what was published to arrive, after the measurement
GRACE = 60.0  # s on top of what a run should take

pin = partial(partial, os.sched_setaffinity, 0)
"""``preexec_fn=pin({core})``; children inherit it."""


class Dialect(NamedTuple):
    """How a kind of server is spoken to. ``%T`` now in ns, ``%S`` sequence, ``%X`` filler."""

    path: str
    subscribe: tuple[str, ...]
    publish: str
    init: str | None = None  # the publisher's first message
    after: str | None = None  # send only the first of `subscribe` before a frame that begins so
    publish_path: str | None = None  # where the publisher connects, if elsewhere
    marker: str = '"t":'  # in what comes; the time of publishing follows it

    def filler(self, message_bytes: int) -> int:
        """Bytes of filler that make a published message, with a sequence of four digits, that long."""
        bare = self.publish.replace("%T", "0" * 19).replace("%S", "0" * 4).replace("%X", "")
        return max(0, message_bytes - len(bare))


NATIVE = Dialect(
    path="/ws",
    subscribe=(f'{{"op":"subscribe","id":1,"topics":["{TOPIC}"]}}',),
    publish=f'{{"op":"publish","id":%S,"topic":"{TOPIC}","data":{{"t":%T,"s":%S,"x":"%X"}}}}',
)


class Count(NamedTuple):
    """What one client has at the end."""

    messages: int
    sum: int  # of their sequences


class Load(msgspec.Struct, frozen=True, kw_only=True):
    """What one run showed. Rates are per second of the measured time; latencies, from publish to client, in ms."""

    open: int
    closed: int
    failed: int
    connects: float  # connections opened per second
    connect_us: float  # the server's CPU per connect
    connection_kib: float  # the server's PSS per connection
    published: float
    delivered: float
    megabytes: float
    p50: float
    p99: float
    p999: float
    worst: float
    server: float  # cores
    client: float  # cores
    us: float  # the server's CPU per delivery
    least: int  # messages that each client has at the end, of `total` published
    most: int
    total: int
    others: float = 0.0  # cores' worth of the server's core that strangers took, from start to end of the run
    missing: int = 0  # offsets
    repeated: int = 0
    counts: tuple[Count, ...] = ()
    age_p99: float = 0.0  # ms; what a client had of a key, when a newer value came
    age_worst: float = 0.0
    mean: float = 0.0  # ms
    never: int = 0  # newest values of keys that did not come, over all clients

    @property
    def saturated(self) -> bool:
        """Whether server or client had no room, be it that strangers took it: the figures are then bounds."""
        return self.server + self.others > BUSY or self.client > BUSY

    @property
    def disturbed(self) -> bool:
        """Whether it is saturated only because strangers took the room: another run may show more."""
        return self.saturated and self.server <= BUSY and self.client <= BUSY

    @property
    def whole(self) -> bool:
        """Whether every client is there and has every message once, in order."""
        trouble = self.closed or self.failed or self.missing or self.repeated
        return not trouble and self.least == self.most == self.total

    @property
    def bytes_each(self) -> float:
        """Bytes on the wire per delivery."""
        return self.megabytes * 1e6 / self.delivered if self.delivered else 0.0


_OPENED = re.compile(
    r"failed (?P<failed>\d+) in \S+s \((?P<connects>\d+)/s, server cpu (?P<connect_us>\S+) us each.*"
    r" \((?P<connection_kib>\S+) KiB"
)
_RESULT = re.compile(
    r"open (?P<open>\d+) closed (?P<closed>\d+) \| published (?P<published>\d+)/s \| delivered (?P<delivered>\d+)/s \|"
    r" .*? \| (?P<megabytes>\S+) MB/s \| latency ms mean (?P<mean>\S+) p50 (?P<p50>\S+) p99 (?P<p99>\S+)"
    r" p99.9 (?P<p999>\S+) max (?P<worst>\S+)"
    r" \| server cpu (?P<server>\S+) cores, (?P<us>\S+) us/delivery \| client cpu (?P<client>\S+)"
)
_DRAINED = re.compile(r"drained: got (?P<least>\d+)\.\.(?P<most>\d+) of (?P<total>\d+)")
_OFFSETS = re.compile(r"offsets missing (?P<missing>\d+), repeated or out of order (?P<repeated>\d+)")

_VALUES = re.compile(
    r"values: age ms .* p99 (?P<age_p99>\S+) .* max (?P<age_worst>\S+) \| newest never came (?P<never>\d+)"
)
_COUNTS = re.compile(r"^counts (.*)$", re.MULTILINE)


def parse(output: str) -> Load:
    """Raises :class:`ValueError` with the output where the load client did not get to its end."""
    fields: dict[str, Any] = {}
    for pattern in (_OPENED, _RESULT, _DRAINED):
        found = pattern.search(output)
        if found is None:
            raise ValueError(f"the load client failed: {output.strip() or 'no output'}")
        fields |= found.groupdict()
    for pattern in (_OFFSETS, _VALUES):
        if (found := pattern.search(output)) is not None:
            fields |= found.groupdict()
    if (found := _COUNTS.search(output)) is not None:
        fields["counts"] = [pair.split(":") for pair in found[1].split()]
    return msgspec.convert(fields, Load, strict=False)


def build() -> Path:
    """The binary, newer than its source."""
    if not BINARY.exists() or BINARY.stat().st_mtime < SOURCE.stat().st_mtime:
        BINARY.parent.mkdir(exist_ok=True)
        fresh = BINARY.with_suffix(f".{os.getpid()}")
        try:
            subprocess.run(["cc", "-O2", "-o", fresh, SOURCE], check=True)
        except FileNotFoundError:
            raise SystemExit("the load client of the benchmarks needs a C compiler: apt-get install gcc") from None
        fresh.replace(BINARY)
    return BINARY


class Run:
    """One load, under way. ``seconds`` are measured after ``warm`` seconds; without a ``rate`` nothing is published.

    Args:
        subscriptions: one for each client, instead of the dialect's.
        messages: published in turns, instead of the dialect's; with both the run ends with :attr:`Load.counts`, for
            which data begins with ``{"t":%T,"s":%S``.
        keys: message n is a value of key ``n % keys``, of which clients may miss all but the newest.
        even: each message is published at its own time and not with those of its millisecond, and latencies count from
            the time at which it was to be published.
        burst: so many are published at a time, in one write.
        held: it waits, connected, for :meth:`go`; without a ``rate`` it then awaits what another one publishes.
    """

    def __init__(
        self,
        port: int,
        pids: Sequence[int],
        *,
        dialect: Dialect = NATIVE,
        clients: int = 500,
        rate: int = 0,
        seconds: float = 4.0,
        warm: float = 1.0,
        settle: float = 0.5,
        filler: int | None = None,
        check: bool = True,
        core: int = CLIENT_CORE,
        subscriptions: Sequence[str] = (),
        messages: Sequence[str] = (),
        keys: int = 0,
        even: bool = False,
        burst: int = 1,
        held: bool = False,
    ) -> None:
        if filler is None:
            filler = dialect.filler(MESSAGE_BYTES)
        self._timeout = seconds + warm + settle + DRAIN + GRACE
        options = {"-p": port, "-u": dialect.path, "-c": clients, "-d": seconds, "-w": warm, "--settle": settle}
        options |= {"-m": dialect.marker, "--drain": DRAIN, "--pids": ",".join(map(str, pids))}
        if dialect.after is not None:
            options["--after"] = dialect.after
        if rate:
            options |= {"--pub": "ws", "--pubpath": dialect.publish_path or dialect.path, "--pubmsg": dialect.publish}
            options |= {"--rate": rate, "--payload": filler, "--burst": burst}
            if dialect.init is not None:
                options["--pubinit"] = dialect.init
        arguments = [str(part) for option in options.items() for part in option]
        arguments += [part for message in dialect.subscribe for part in ("-s", message)]
        self._directory = tempfile.TemporaryDirectory()
        for option, lines in (("--subs", subscriptions), ("--msgs", messages)):
            if lines:
                path = Path(self._directory.name, option.strip("-"))
                path.write_text("".join(f"{line}\n" for line in lines))
                arguments += [option, str(path)]
        if subscriptions and messages:
            arguments.append("--counts")
        if even:
            arguments.append("--even")
        if held:
            arguments.append("--wait")
        if keys:
            arguments += ["--keys", str(keys), "--topics", str(keys)]
        self._said = ""  # read by opened()
        self._pids, self._began, self._busy = pids, time.monotonic(), _strangers(pids)
        self._process = subprocess.Popen(
            [build(), *arguments, *(["--check"] if check else [])],
            stdin=subprocess.PIPE if held else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            preexec_fn=pin({core}),
        )

    def opened(self) -> None:
        """Returns when its connections are open, or refused, and have come to rest; :exc:`ValueError` if it ended."""
        assert self._process.stdout is not None
        deadline = time.monotonic() + self._timeout
        while not _OPENED.search(self._said):
            pipe, left = self._process.stdout.fileno(), deadline - time.monotonic()
            chunk = os.read(pipe, 4096) if left > 0 and select.select([pipe], [], [], left)[0] else b""
            if not chunk:
                raise ValueError(f"the load client failed: {self._said.strip() or 'no output'}")
            self._said += chunk.decode()

    def go(self) -> None:
        """Start the clock of one that is held."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.stdin = None  # communicate() would flush it

    def stop(self) -> None:
        """End it, without a result."""
        self._process.kill()
        self._process.communicate()
        self._directory.cleanup()

    def wait(self) -> Load:
        """Its result; :class:`ValueError` says why there is none."""
        try:
            output, _ = self._process.communicate(timeout=self._timeout)
        except BaseException:
            self.stop()
            raise
        self._directory.cleanup()
        others = (_strangers(self._pids) - self._busy) / (time.monotonic() - self._began)
        return msgspec.structs.replace(parse(self._said + output), others=max(0.0, others))


def _strangers(pids: Sequence[int]) -> float:
    """Seconds of the server's core that went to others than ``pids``, whoever runs this machine included."""
    lines = Path("/proc/stat").read_text().splitlines()
    user, nice, system, _, _, _, _, steal, *_ = map(int, lines[1 + SERVER_CORE].split()[1:])
    own = 0.0
    for pid in pids:
        try:
            times = psutil.Process(pid).cpu_times()
        except psutil.NoSuchProcess:
            continue
        own += times.user + times.system
    return (user + nice + system + steal) / os.sysconf("SC_CLK_TCK") - own


def run(port: int, pids: Sequence[int], **options: Any) -> Load:
    """A :class:`Run` and its result."""
    return Run(port, pids, **options).wait()
