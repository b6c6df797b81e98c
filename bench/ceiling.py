"""How many deliveries a second does a server get done? Rates in steps of a quarter, until not all arrives."""

from __future__ import annotations

from bench import wsload
from bench.report import Row, note
from bench.turns import Subject
from bench.wsload import Load

SMALL = 16  # bytes of filler
FIRST = 2_000_000  # deliveries/s
CLIMB = 1.25  # from a rate that was delivered to the next
P99 = 20.0  # ms; above it what is delivered is late
CLIENT = 0.8  # of the load client's core; above it the ceiling would be its own
SECONDS = 10.0  # measured per try, at least
DELIVERED, LATE = "delivered", "late"


def climb(subject: Subject, *, clients: int, seconds: float, repeat: int) -> list[Row]:
    """A row per rate, each with ``repeat`` tries on fresh servers; the last is the first that was not wholly delivered,
    or for which the load client had no room. *Late* is what was delivered with a p99 above 20 ms.
    """
    rows: list[Row] = []
    rate = max(100, FIRST // clients)
    while True:
        for _ in range(repeat):
            with subject.start() as server:
                load = wsload.run(
                    server.port,
                    server.pids,
                    dialect=subject.dialect,
                    clients=clients,
                    rate=rate,
                    seconds=max(seconds, SECONDS),
                    filler=SMALL,
                )
            verdict = _verdict(load)
            note(f"{subject.name} {rate}/s: {load.delivered / 1e6:.2f} M/s, p99 {load.p99:.1f} ms, {verdict}")
            if verdict == DELIVERED:
                break
        rows.append(
            {
                "who": subject.name,
                "msg/s": rate,
                "M deliveries/s": load.delivered / 1e6,
                "us each": load.us,
                "server": load.server,
                "client": load.client,
                "others": load.others,
                "p50 ms": load.p50,
                "p99 ms": load.p99,
                "verdict": verdict,
            }
        )
        if verdict not in (DELIVERED, LATE):
            return rows
        rate = int(rate * CLIMB)


def _verdict(load: Load) -> str:
    if not load.whole:
        return "not whole"
    if load.client >= CLIENT:
        return "load client at its limit"
    return LATE if load.p99 > P99 else DELIVERED
