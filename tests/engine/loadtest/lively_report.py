"""A report as a run leaves it: figures that move, a pause, faults; and one in which every text is hostile."""

from __future__ import annotations

import math
import random
from typing import Any

import msgspec

from engine.loadtest.judging import judged
from engine.loadtest.report import Report, from_json
from tests.engine.loadtest import sample_report

EVIL = "<img/src=x onerror=\"alert('1')\"></style></title><script>alert(2)</script>&amp;"


def lively(seed: int = 1, **changes: Any) -> Report:
    """Judged; its twentieth second has no latency, and two faults are in it."""
    dice = random.Random(seed)
    base = sample_report.good()
    count = len(base.series.t)

    def around(middle: float) -> list[Any]:
        return [middle * (1 + 0.2 * dice.random()) for _ in range(count)]

    figures: dict[str, list[Any]] = {"p50": around(1.2), "p99": around(7.0), "worst": around(20.0)}
    for values in figures.values():
        values[20] = None
    figures["worst"][37] = 700.0
    for name, middle in {"delivered": 5_000.0, "published": 50.0, "machine_cpu": 20.0, "server_cpu": 11.0}.items():
        figures[name] = around(middle)
    percentiles = [0.0, 50.0, 75.0, 90.0, 95.0, 99.0, 99.5, 99.9, 99.95, 99.99]
    given = {
        "series": msgspec.structs.replace(base.series, **figures),
        "distribution": [*((p, 1 - 4 * math.log10(1 - p / 100)) for p in percentiles), (100.0, 31.0)],
        "faults": [*base.faults, msgspec.structs.replace(base.faults[0], t=41.0, kind="kill", what="worker-0 killed")],
        **changes,
    }
    return judged(msgspec.structs.replace(base, **given))


def hostile() -> Report:
    """Each text that a server, a user or a machine can choose is :data:`EVIL`."""
    report = lively(invalid=["why"], notes=["note"], lost={"lost": 1})
    report = msgspec.structs.replace(
        report,
        connects=msgspec.structs.replace(report.connects, failed=1, reasons={"refused": 1}),
        publishing=msgspec.structs.replace(report.publishing, errors={"error": 1}),
    )
    said = msgspec.json.decode(report.to_json())
    for field in ("name", "started"):
        said[field] = EVIL
    said["scenario"]["topic"] = EVIL
    said["target"] |= {"url": EVIL, "kind": EVIL, "server": EVIL}
    said["machine"] |= {"cpu": EVIL, "system": EVIL, "python": EVIL, "heliograph": EVIL}
    said["invalid"] = said["notes"] = [EVIL]
    said["lost"] = said["connects"]["reasons"] = said["publishing"]["errors"] = {EVIL: 1}
    for part, names in {"criteria": ("goal", "unit", "explanation"), "phases": ("name",), "faults": ("what",)}.items():
        for each in said[part]:
            each.update(dict.fromkeys(names, EVIL))
    for client in said["clients"]:
        client["name"] = EVIL
    return from_json(msgspec.json.encode(said))
