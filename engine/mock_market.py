"""The ticks of the mock exchange: numbered per symbol, with a bounded history. Pure."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

from transport.errors import ConfigError

HISTORY_TICKS = 10_000  # per symbol
_FIRST_PRICE = 68_900 * 10**8  # prices are counted in units of 1e-8, so that they have eight decimals and no float
_STEP = 5 * 10**8
_LEAST_PRICE = 10**8


class Tick(NamedTuple):
    """One trade: ``text`` is the message as JSON."""

    symbol: str
    number: int
    text: str


class Unknown(Exception):
    """What was asked for is not there; the message says what is."""


class Market:
    """Makes ticks, the symbols in turn. The same seed makes the same prices and quantities.

    Raises:
        ConfigError: ``symbols`` is empty or names one twice.
    """

    def __init__(self, symbols: Sequence[str], seed: int, history: int = HISTORY_TICKS) -> None:
        if not symbols or len(set(symbols)) != len(symbols):
            raise ConfigError(f"at least one symbol, each once, not {list(symbols)}", "symbols")
        self.symbols = tuple(symbols)
        self._seed, self._keep = seed, history
        self.restart()

    def restart(self) -> None:
        """Begin anew, as an exchange does that kept nothing: the next number of each symbol is 1."""
        self.last = dict.fromkeys(self.symbols, 0)
        self._random = random.Random(self._seed)
        self._price = dict.fromkeys(self.symbols, _FIRST_PRICE)
        self._history = {symbol: deque[Tick](maxlen=self._keep) for symbol in self.symbols}
        self._made = 0

    def tick(self, now_ms: int, symbol: str | None = None) -> Tick:
        """The next tick of the symbol whose turn it is, or of ``symbol``."""
        if symbol is None:
            symbol = self.symbols[self._made % len(self.symbols)]
            self._made += 1
        self.last[self.known(symbol)] += 1
        price = max(_LEAST_PRICE, self._price[symbol] + self._random.randint(-_STEP, _STEP))
        self._price[symbol] = price
        number, quantity = self.last[symbol], self._random.randint(1, 10**9)
        tick = Tick(
            symbol,
            number,
            f'{{"e":"tick","s":"{symbol}","p":"{_digits(price)}","q":"{_digits(quantity)}","T":{now_ms},"n":{number}}}',
        )
        self._history[symbol].append(tick)
        return tick

    def after(self, symbol: str, since: int) -> list[Tick]:
        """The ticks after number ``since``, without a hole; :class:`Unknown` where the history cannot tell."""
        last, history = self.last[self.known(symbol)], self._history[symbol]
        first = history[0].number if history else 1
        if not first - 1 <= since <= last:
            raise Unknown(f"since {since}: the history of {symbol} goes from {first} to {last}")
        return [tick for tick in history if tick.number > since]

    def known(self, symbol: str) -> str:
        """``symbol``; :class:`Unknown` where there is none of that name."""
        if symbol not in self.last:
            raise Unknown(f"unknown symbol {symbol[:40]!r}; known: {', '.join(self.symbols)}")
        return symbol


def _digits(units: int) -> str:
    return f"{units // 10**8}.{units % 10**8:08d}"
