"""``python -m fx.load``: recorded prices into the store, so that there is something to compute with."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from hashlib import blake2s
from itertools import islice
from typing import Annotated, Final, NamedTuple

import typer
from rich.console import Console
from rich.progress import Progress

from fx.analytics_options import AnalyticsOptions
from fx.by_hand import ACTOR, BAD_USAGE, FAILED, ConfigFile, complain, settings, time_of
from fx.prices import Price, between
from fx.store import PriceEvent, Store, StoreError
from heliograph import ConfigError, Instrument, Quote, recordings

BATCH: Final = 1_000  # prices in a transaction
_MINUTE_MS: Final = 60_000


class Series(NamedTuple):
    """The quotes of one instrument, as they will be stored.

    Attributes:
        epoch: says which these are, in place of a topic's epoch: what is loaded again is stored once.
        quotes: how many.
        shift_ms: what is added to their times.
    """

    instrument: Instrument
    epoch: str
    quotes: int
    shift_ms: int

    def events(self, received: datetime) -> Iterator[PriceEvent]:
        """All of them, read from the file as they are taken."""
        symbol = self.instrument.symbol
        for number, quote in enumerate(_quotes(self.instrument), 1):
            time = datetime.fromtimestamp(0, UTC) + timedelta(milliseconds=quote.time_ms + self.shift_ms)
            bid, ask = Decimal(quote.bid), Decimal(quote.ask)
            price = Price(symbol, bid, ask, between(bid, ask), time)
            yield PriceEvent(f"load.{symbol}", self.epoch, number, received, price)


def main(
    files: Annotated[
        list[str] | None,
        typer.Argument(metavar="[FILE|PAIR=FILE]…", help="CSV: timestamp,bid,ask (default: heliograph's recordings)"),
    ] = None,
    instrument: Annotated[
        str | None, typer.Option("--instrument", metavar="PAIR", help="Of all files, where names do not tell it")
    ] = None,
    until: Annotated[
        str | None,
        typer.Option("--until", metavar="TIME|now", help="Move each pair's times so that its last price is then"),
    ] = None,
    config: ConfigFile = None,
) -> None:
    """Load recorded prices into the store of the analytics; what is loaded again is stored once.

    Recordings of different years have no common times: --until now puts them side by side. Do that once: a minute later
    they are other prices, and are stored between the first ones.
    """
    named = [file if instrument is None else f"{instrument}={file}" for file in files or []]
    try:
        options = AnalyticsOptions.of(settings(ACTOR, config).options)
        end = None if until is None else time_of(None if until == "now" else until, "--until")
        series = [found for one in recordings(named) if (found := survey(one, end)) is not None]
        if not series:
            raise ConfigError("no file has bid and ask")
        asyncio.run(_load(options.store(), series))
    except ConfigError as error:
        sys.exit(complain(error, BAD_USAGE))
    except StoreError as error:
        sys.exit(complain(error, FAILED))


def survey(instrument: Instrument, until: datetime | None) -> Series | None:
    """Read it once: which quotes these are, and how their times move to end ``until``; ``None``: it has no quotes.

    Times move by whole minutes, so that minutes stay minutes.
    """
    digest, quotes, last_ms = blake2s(digest_size=8), 0, 0
    for quote in _quotes(instrument):
        digest.update(f"{quote.time_ms} {quote.bid} {quote.ask}\n".encode())
        quotes, last_ms = quotes + 1, max(last_ms, quote.time_ms)
    if not quotes:
        return None
    shift_ms = 0 if until is None else (round(until.timestamp() * 1_000) - last_ms) // _MINUTE_MS * _MINUTE_MS
    return Series(instrument, f"{digest.hexdigest()}{shift_ms:+d}", quotes, shift_ms)


async def load(store: Store, series: Series, progress: Progress) -> int:
    """Store all of it; how many prices were new."""
    new, events = 0, series.events(datetime.now(UTC))
    task = progress.add_task(series.instrument.symbol, total=series.quotes)
    while batch := list(islice(events, BATCH)):
        new += (await store.add_prices(batch)).prices
        progress.advance(task, len(batch))
    return new


async def _load(store: Store, series: Iterable[Series]) -> None:
    try:
        await store.open()
        with Progress(console=Console(stderr=True)) as progress:
            for one in series:
                new = await load(store, one, progress)
                sys.stdout.write(f"{one.instrument.symbol}: {new} of {one.quotes} prices were new\n")
    finally:
        await store.close()


def _quotes(instrument: Instrument) -> Iterator[Quote]:
    return (record for record in instrument.records() if isinstance(record, Quote))


if __name__ == "__main__":
    typer.run(main)
