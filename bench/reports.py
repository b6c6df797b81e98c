"""Do the built-in scenarios pass here? They run one after the other against fresh engines; the reports are committed.

    python -m bench.reports [light medium heavy] [--workers 1] [--time-scale 1] [--out bench/reports]
    python -m bench.reports [light medium heavy] --render    # pictures of the reports that are there
    python -m bench.reports --table                          # the README's table of them

Each leaves NAME.json and NAME.png, the upper part of its page in a headless Chromium. Exits with 1 if one did not
pass. Nothing else should run on the machine: engine and load client share its cores.
"""

from __future__ import annotations

import argparse
import asyncio
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

from engine.cli_loadtest import lines
from engine.loadtest import figures
from engine.loadtest.html_report import render
from engine.loadtest.report import Report, read
from engine.loadtest.scenario import BUILT_IN, UNJUDGED
from engine.loadtest.summary import summary
from engine.loadtest.tester import WebSocketLoadTester

REPORTS = Path(__file__).parent / "reports"
BEGIN, END = "<!-- python -m bench.reports --table -->", "<!-- end of the table -->"
WIDTH, HEIGHTS = 1280, (1215, 960)  # px: down to the second row of plots, or to the first
MOST_BYTES = 300_000  # of a picture
PICTURE_TIMEOUT_S = 60.0
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
HEADINGS = (
    *("scenario", "connections", "messages/s", "seconds", "deliveries/s", "never came", "p50", "p99", "worst"),
    *("CPU of the machine", "of the engine, of one core", "back after a cut", "verdict"),
)


def run(name: str, workers: int, time_scale: float) -> Report:
    """A built-in scenario against an engine of its own; progress goes to stderr."""
    tester = WebSocketLoadTester(BUILT_IN[name], time_scale=time_scale, start_workers=workers)
    with lines() as show:
        return asyncio.run(tester.run(show))


def picture(report: Report, file: Path) -> None:
    """The upper part of its page, as PNG; less of it where that would be a file above :data:`MOST_BYTES`."""
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        sys.exit("a picture needs Chromium: apt-get install chromium; then python -m bench.reports --render")
    with tempfile.TemporaryDirectory(prefix="heliograph-report-") as folder:
        page = Path(folder, "report.html")
        page.write_text(render(report), encoding="utf-8")
        headless = ("--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run")
        place = (f"--user-data-dir={folder}/profile", f"--screenshot={file.absolute()}")
        for height in HEIGHTS:
            command = [browser, *headless, *place, f"--window-size={WIDTH},{height}", page.as_uri()]
            subprocess.run(command, check=True, timeout=PICTURE_TIMEOUT_S, capture_output=True)
            if file.stat().st_size < MOST_BYTES:
                return


def committed(folder: Path = REPORTS) -> list[Report]:
    """The reports that are there, the lightest first."""
    return [read(file) for name in BUILT_IN if (file := folder / f"{name}.json").exists()]


def table(reports: Sequence[Report]) -> str:
    """As the README has it, between its comments; nothing where there is no report."""
    if not reports:
        return ""
    rows = [HEADINGS, ["---"] * len(HEADINGS), *map(_row, reports)]
    shown = (f"| {' | '.join(row)} |" for row in rows)
    return "\n".join([BEGIN, *shown, END])


def in_text(text: str) -> str:
    """The table of a README, with its comments; nothing where it has none."""
    begin, end = text.find(BEGIN), text.find(END)
    return text[begin : end + len(END)] if begin >= 0 else ""


def _row(report: Report) -> list[str]:
    scenario, latency = report.scenario, report.latency
    back = [fault for fault in report.faults if fault.mean_s is not None]
    return [
        report.name,
        f"{scenario.connections:,}",
        f"{scenario.rate:,g}",
        f"{scenario.seconds:,g}",
        figures.number(report.throughput.sustained),
        _missing(report),
        *map(figures.ms, (latency.p50, latency.p99, latency.worst)),
        figures.percentage(_mean(report.series.machine_cpu)),
        figures.percentage(_mean(report.series.server_cpu)),
        figures.seconds(max((fault.mean_s or 0.0 for fault in back), default=None)),
        f"{report.verdict}, {sum(judgement.passed is True for judgement in report.criteria)} of {len(report.criteria)}",
    ]


def _missing(report: Report) -> str:
    """Deliveries; those in flight when a worker is killed may be lost, nobody had acknowledged them."""
    lost, broken = (
        sum(phase.missing for phase in report.phases if (phase.name in UNJUDGED) is faults) for faults in (False, True)
    )
    return f"{lost:,}" + (f"; {broken:,} with the killed worker" if broken else "")


def _mean(values: Sequence[float | None]) -> float | None:
    seen = [value for value in values if value is not None]
    return fmean(seen) if seen else None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(BUILT_IN))
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--time-scale", type=float, default=1.0)
    parser.add_argument("--out", type=Path, default=REPORTS)
    parser.add_argument("--render", action="store_true", help="only pictures of the reports that are there")
    parser.add_argument("--table", action="store_true", help="only the README's table of the reports that are there")
    options = parser.parse_args()
    there = [report.name for report in committed(options.out)]
    names = options.names or (there if options.render else list(BUILT_IN))
    if unknown := set(names) - set(BUILT_IN):
        parser.error(f"no such scenario: {', '.join(sorted(unknown))}; there are {', '.join(BUILT_IN)}")
    if options.table:
        print(table(committed(options.out)))
        return 0
    options.out.mkdir(exist_ok=True)
    reports = {}
    for name in names:
        file = options.out / f"{name}.json"
        if options.render:
            reports[name] = read(file)
        else:
            reports[name] = run(name, options.workers, options.time_scale)
            file.write_bytes(reports[name].to_json())
            print(*(line.text for line in summary(reports[name])), sep="\n")
        picture(reports[name], file.with_suffix(".png"))
    print(table(committed(options.out)))
    return 0 if all(report.verdict == "passed" for report in reports.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
