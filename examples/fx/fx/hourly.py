"""``python -m fx.hourly``: the hourly job by hand, and the newest price of each pair to whoever listens."""

from __future__ import annotations

import sys

import typer
from rich.table import Table

from fx.by_hand import AsJson, At, ConfigFile, Hand, Result, Url, command, note, summary
from fx.pairs import price_topic
from fx.prices import BadPrice, Price
from fx.volatility_job import VolatilityJob, VolatilityReport
from heliograph import HeliographError


def main(config: ConfigFile = None, at: At = None, url: Url = None, as_json: AsJson = False) -> None:
    """Compute the volatility of each pair now, store it, and alert where it has become high.

    Without --at, each pair's newest stored price is published too, where the engine has none that is newer.
    """

    async def work(hand: Hand) -> Result:
        return await hourly(hand, with_prices=at is None)

    sys.exit(command(work, config, at, url, as_json))


async def hourly(hand: Hand, with_prices: bool) -> Result:
    """The job and then, ``with_prices``, the prices."""
    job = VolatilityJob(hand.store, hand.publish, hand.options.pairs, hand.options.volatility)
    report = await hand.run(job)
    errors, prices = hand.errors(report), []
    if with_prices and not errors:
        try:
            prices = await publish_prices(hand)
        except HeliographError as error:
            errors.append(f"not all prices were published: {error}")
    if not report.metrics and not prices:
        errors.append("there are not enough candles of any pair; `python -m fx.load --help` says how to get some")
    json = summary(job.name, hand.at, report) | {
        "metrics": [metric._asdict() for metric in report.metrics],
        "prices": [price.update() for price in prices],
    }
    told = note(report) + (f", {len(prices)} prices published" if with_prices else "")
    return Result(json, [_volatilities(report), _prices(prices)], told, errors)


async def publish_prices(hand: Hand) -> list[Price]:
    """The newest price of each pair in the store, but none that is older than the engine's; those that were sent.

    Raises:
        HeliographError: the engine does not take them.
    """
    pairs = hand.options.pairs
    known = {}
    for event in await hand.client.snapshot([price_topic(pair) for pair in pairs]):
        try:
            known[event.topic] = Price.of(
                event.topic.removeprefix("price."), event.exact, event.source_ts or event.ts
            ).time
        except BadPrice:
            pass  # somebody's mistake; ours replaces it
    sent = []
    for pair in pairs:
        last = await hand.store.last_price(pair)
        topic = price_topic(pair)
        if last is not None and (topic not in known or known[topic] <= last.price.time):
            await hand.publish(topic, last.price.update(), type="price_update", key=pair)
            sent.append(last.price)
    return sent


def _volatilities(report: VolatilityReport) -> Table:
    table = Table("pair", "until (UTC)", title="Volatility")
    for name in ("periods", "annualized", "range", "ATR"):
        table.add_column(name, justify="right")
    table.add_column("regime")
    for metric in report.metrics:
        table.add_row(
            metric.instrument,
            f"{metric.time:%m-%d %H:%M}",
            f"{metric.periods} × {metric.granularity}",
            f"{metric.annualized:.2%}",
            "" if metric.range_volatility is None else f"{metric.range_volatility:.2%}",
            "" if metric.atr is None else f"{metric.atr:.5g}",
            f"[bold red]{metric.regime}" if metric.regime == "high" else metric.regime,
        )
    return table


def _prices(prices: list[Price]) -> Table:
    table = Table("pair", title="Prices published")
    for name in ("bid", "ask", "mid"):
        table.add_column(name, justify="right")
    table.add_column("time (UTC)")
    for price in prices:
        table.add_row(
            price.instrument, str(price.bid), str(price.ask), str(price.mid), f"{price.time:%Y-%m-%d %H:%M:%S}"
        )
    return table


if __name__ == "__main__":
    typer.run(main)
