"""``python -m fx.daily``: the daily job by hand."""

from __future__ import annotations

import sys

import typer
from rich.table import Table

from fx.by_hand import AsJson, At, ConfigFile, Hand, Result, Url, command, note, summary
from fx.correlation_job import CorrelationJob, CorrelationReport


def main(config: ConfigFile = None, at: At = None, url: Url = None, as_json: AsJson = False) -> None:
    """Compute the correlations of all pairs now, store them and the rankings, and alert where a regime has changed."""
    sys.exit(command(daily, config, at, url, as_json))


async def daily(hand: Hand) -> Result:
    """The job."""
    job = CorrelationJob(hand.store, hand.publish, hand.options.pairs, hand.options.correlation)
    report = await hand.run(job)
    errors = hand.errors(report)
    if not report.matrix:
        options = hand.options.correlation
        errors.append(
            f"no two pairs have {options.least} common returns of {options.granularity}: take shorter candles in "
            "options.correlation, or see `python -m fx.load --help`"
        )
    json = summary(job.name, hand.at, report) | {
        "matrix": [one._asdict() for one in report.matrix],
        "best": [one._asdict() for one in report.best],
    }
    return Result(json, [_rankings(report)], note(report), errors)


def _rankings(report: CorrelationReport) -> Table:
    regimes = {(one.instrument_a, one.instrument_b): one for one in report.matrix}
    table = Table("", "", "pair", "pair", title="Correlations that stand out")
    for name in ("correlation", "returns"):
        table.add_column(name, justify="right")
    table.add_column("regime")
    for best in report.best:
        one = regimes[best.instrument_a, best.instrument_b]
        place = (best.category, str(best.rank), one.instrument_a, one.instrument_b)
        table.add_row(*place, f"{one.correlation:+.4f}", str(one.observations), one.regime)
    return table


if __name__ == "__main__":
    typer.run(main)
