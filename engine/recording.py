"""Recorded market data as one timeline: lazily parsed, never loaded whole; prices stay the source's text.

A recording is one or more CSV files, told apart by their header (``engine/recorded/README.md`` shows the three forms).
Each instrument starts at second 0 of the timeline whatever its date, and loops by itself.
"""

from __future__ import annotations

import csv
import heapq
import itertools
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from importlib import resources
from operator import itemgetter
from pathlib import Path
from typing import NamedTuple, TypeAlias

from transport.errors import ConfigError

LAP_GAP_S = 1.0  # recorded seconds between an instrument's last record and its first of the next lap
_QUOTES = ("timestamp", "bid", "ask")
_BARS = ("timestamp", "open", "high", "low", "close")
_TRADES = ("time", "price", "quantity", "side", "order_type", "trade_id")
_CURRENCIES = "USDT|USDC|USD|EUR|JPY|GBP|CHF|CAD|AUD|NZD|BTC|ETH"
_PAIR = re.compile(rf"([A-Z0-9]{{2,6}}?)_?({_CURRENCIES})")


class Quote(NamedTuple):
    """A bid and an ask, as the source wrote them; ``time_ms`` is the record's own time in Unix milliseconds."""

    symbol: str
    time_ms: int
    bid: str
    ask: str


class Trade(NamedTuple):
    """A trade, as the source wrote it; ``time_ms`` is the record's own time in Unix milliseconds."""

    symbol: str
    time_ms: int
    price: str
    quantity: str
    side: str
    trade_id: str


Record: TypeAlias = Quote | Trade


class Pace(NamedTuple):
    """How recorded time becomes due time.

    Attributes:
        speed: recorded seconds per second of play; above 0.
        longest_gap_s: no instrument pauses longer than this, in seconds of play; ``None`` keeps the recorded gaps.
    """

    speed: float = 1.0
    longest_gap_s: float | None = None


AS_RECORDED = Pace()
DEMO_PACE = Pace(speed=60.0, longest_gap_s=1.5)
"""Every instrument ticks at least each 1.5 s: GBP_USD bars are 60 s apart, XBT_USDT trades up to 453 s."""


class Instrument:
    """One symbol and the file it is read from (two for bars: bid and ask)."""

    __slots__ = ("_read", "symbol")

    def __init__(self, symbol: str, read: Callable[[], Iterator[Record]]) -> None:
        self.symbol, self._read = symbol, read

    def records(self) -> Iterator[Record]:
        """The records in file order, read as they are asked for.

        Raises:
            ConfigError: a row that cannot be read, naming file and line.
        """
        return self._read()

    def timeline(self, pace: Pace, loop: bool) -> Iterator[tuple[float, Record]]:
        """``(due, record)``: seconds of play since the start, never falling; endless with ``loop``."""
        due = 0.0
        for lap in itertools.count():
            before: int | None = None
            for record in self.records():
                if before is not None:
                    gap = max(0.0, (record.time_ms - before) / 1000)
                else:
                    gap = LAP_GAP_S if lap else 0.0
                due += _played(gap, pace)
                before = record.time_ms
                yield due, record
            if before is None or not loop:
                return


def _played(gap_s: float, pace: Pace) -> float:
    gap_s /= pace.speed
    return gap_s if pace.longest_gap_s is None else min(gap_s, pace.longest_gap_s)


def merge(
    instruments: Iterable[Instrument], pace: Pace = AS_RECORDED, *, loop: bool = False
) -> Iterator[tuple[float, Record]]:
    """All instruments on one timeline: ``(due, record)`` in the order of ``due``, one row per instrument in memory."""
    return heapq.merge(*(instrument.timeline(pace, loop) for instrument in instruments), key=itemgetter(0))


def packaged_files() -> list[Path]:
    """The recordings that come with heliograph."""
    folder = Path(str(resources.files("engine"))) / "recorded"
    return sorted(folder.glob("*.csv"))


def instruments(files: Sequence[str | Path] = ()) -> list[Instrument]:
    """The instruments in ``files``, in the order of their names; none means the recordings that come with heliograph.

    Args:
        files: ``PATH`` with the instrument in its name (``eurusd-ticks.csv``) or ``SYMBOL=PATH``.

    Raises:
        ConfigError: a file that is not there or not in a known form, a symbol that cannot be told or is given twice,
            one side of the bars only; the field is the file.
    """
    read: dict[str, Callable[[], Iterator[Record]]] = {}
    sides: dict[str, dict[str, Path]] = {}
    for file in files or packaged_files():
        symbol, path = _symbol_and_path(file)
        header = _header(path)
        if header == _BARS:
            side = "bid" if "bid" in path.stem.lower() else "ask"
            if sides.setdefault(symbol, {}).setdefault(side, path) != path:
                raise ConfigError(f"a second file with the {side} bars of {symbol}", str(path))
        elif symbol in read:
            raise ConfigError(f"a second file with {symbol}", str(path))
        elif header == _QUOTES:
            read[symbol] = _reader(_quotes, symbol, path)
        elif header == _TRADES:
            read[symbol] = _reader(_trades, symbol, path)
        else:
            known = "; ".join(",".join(form) for form in (_QUOTES, _BARS, _TRADES))
            raise ConfigError(f"unknown header {','.join(header)!r}; known forms: {known}", str(path), 1)
    for symbol, files_of in sides.items():
        if symbol in read:
            raise ConfigError(f"a second file with {symbol}", str(next(iter(files_of.values()))))
        if len(files_of) < 2:
            (side, path), *_ = files_of.items()
            other = "ask" if side == "bid" else "bid"
            raise ConfigError(f"bars need both sides, the {other} file of {symbol} is missing", str(path))
        read[symbol] = _reader(_bars, symbol, files_of["bid"], files_of["ask"])
    return [Instrument(symbol, read[symbol]) for symbol in sorted(read)]


def _reader(parse: Callable[..., Iterator[Record]], symbol: str, *paths: Path) -> Callable[[], Iterator[Record]]:
    return lambda: parse(symbol, *paths)


def _symbol_and_path(file: str | Path) -> tuple[str, Path]:
    if isinstance(file, str) and "=" in file and not Path(file).exists():
        symbol, _, name = file.partition("=")
        return symbol, Path(name)
    path = Path(file)
    for token in re.split(r"[-. ]", path.stem.upper()):
        pair = _PAIR.fullmatch(token)
        if pair:
            return f"{pair[1]}_{pair[2]}", path
    raise ConfigError("the name does not tell the instrument; give it as SYMBOL=FILE", str(path))


def _header(path: Path) -> tuple[str, ...]:
    try:
        with path.open(newline="", encoding="utf-8") as lines:
            return tuple(next(csv.reader(lines), []))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot be read: {error}", str(path)) from None


def _rows(path: Path, columns: int) -> Iterator[tuple[int, list[str]]]:
    with path.open(newline="", encoding="utf-8") as lines:
        rows = csv.reader(lines)
        next(rows, None)
        for row in rows:
            if len(row) != columns:
                raise ConfigError(f"{len(row)} columns instead of {columns}", str(path), rows.line_num)
            yield rows.line_num, row


def _quotes(symbol: str, path: Path) -> Iterator[Quote]:
    for line, (time, bid, ask) in _rows(path, len(_QUOTES)):
        yield Quote(symbol, _iso_ms(time, path, line), _price(bid, path, line), _price(ask, path, line))


def _bars(symbol: str, bid_path: Path, ask_path: Path) -> Iterator[Quote]:
    # The two sides are joined on the bar's time; a minute that one side lacks is left out.
    bids = _closes(bid_path)
    asks = _closes(ask_path)
    bid, ask = next(bids, None), next(asks, None)
    while bid and ask:
        if bid[0] == ask[0]:
            yield Quote(symbol, bid[0], bid[1], ask[1])
            bid, ask = next(bids, None), next(asks, None)
        elif bid[0] < ask[0]:
            bid = next(bids, None)
        else:
            ask = next(asks, None)


def _closes(path: Path) -> Iterator[tuple[int, str]]:
    for line, (time, _, _, _, close) in _rows(path, len(_BARS)):
        yield _iso_ms(time, path, line), _price(close, path, line)


def _trades(symbol: str, path: Path) -> Iterator[Trade]:
    for line, (time, price, quantity, side, _, trade_id) in _rows(path, len(_TRADES)):
        time_ms = int(Decimal(_price(time, path, line)) * 1000)
        yield Trade(symbol, time_ms, _price(price, path, line), _price(quantity, path, line), side, trade_id)


def _iso_ms(text: str, path: Path, line: int) -> int:
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        raise ConfigError(f"{text!r} is not an ISO 8601 time", str(path), line) from None
    if time.tzinfo is None:
        time = time.replace(tzinfo=UTC)
    return round(time.timestamp() * 1000)


def _price(text: str, path: Path, line: int) -> str:
    try:
        if Decimal(text).is_finite():
            return text
    except InvalidOperation:
        pass
    raise ConfigError(f"{text!r} is not a number", str(path), line)
