"""What the FX server keeps, and the interface of what keeps it: :class:`Store`.

Times are aware and UTC, with microseconds. Prices are :class:`~decimal.Decimal` with the source's digits; what
analytics compute are floats.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Final, NamedTuple, Protocol

from fx.prices import Price
from heliograph import HeliographError

GRANULARITIES: Final = {
    "M1": timedelta(minutes=1),
    "M5": timedelta(minutes=5),
    "M15": timedelta(minutes=15),
    "M30": timedelta(minutes=30),
    "H1": timedelta(hours=1),
    "H4": timedelta(hours=4),
    "D": timedelta(days=1),
}
"""OANDA's names of candles' lengths, as far as they divide a UTC day."""
LIVE: Final = ("M1", "H1")
"""The candles that are made of prices."""


class StoreError(HeliographError):
    """What the database has refused; the text says what to do and has no secret."""


class StoreUnavailable(StoreError):
    """It cannot be reached now; the same call may succeed later, and repeating it stores nothing twice."""


class PriceEvent(NamedTuple):
    """A price and where it was published; ``(topic, epoch, offset)`` is in the table once."""

    topic: str
    epoch: str
    offset: int
    received: datetime
    price: Price


class Candle(NamedTuple):
    """Mid prices of a pair from ``time`` on, for the length that ``granularity`` names.

    Attributes:
        open, close: the mid of the first and the last price by their times; of those at the same time, by arrival.
        volume: number of prices.
        opened, closed: times of those two prices.
        complete: a later candle of this pair has begun. A price that comes late still changes it.
    """

    instrument: str
    granularity: str
    time: datetime
    open: Decimal
    high: Decimal
    low: Decimal
    close: Decimal
    volume: int
    opened: datetime
    closed: datetime
    complete: bool = False


class Added(NamedTuple):
    """What a call has changed: prices that were new, and candles that are complete since."""

    prices: int
    completed: list[Candle]


class VolatilityMetric(NamedTuple):
    """Of one pair. ``time`` is the end of the newest candle; ``periods`` the returns that were used.

    Attributes:
        volatility: standard deviation of the log returns of one period.
        annualized: the same for a year.
        atr: average true range, in the price's unit; None: too few candles.
        range_volatility: Parkinson's, for a year; None: too few candles.
        regime: such as ``normal`` or ``high``.
    """

    instrument: str
    granularity: str
    time: datetime
    periods: int
    volatility: float
    annualized: float
    atr: float | None
    range_volatility: float | None
    regime: str


class Correlation(NamedTuple):
    """Of the log returns of two pairs, ``instrument_a < instrument_b``, over ``observations`` common periods."""

    time: datetime
    granularity: str
    instrument_a: str
    instrument_b: str
    correlation: float
    observations: int
    regime: str


class BestPair(NamedTuple):
    """A place in a ranking of correlations; ``category`` such as ``most``, ``least``, ``inverse``, ``rank`` from 1."""

    time: datetime
    granularity: str
    category: str
    rank: int
    instrument_a: str
    instrument_b: str
    correlation: float


class MarketSession(NamedTuple):
    """Local times of day as ``HH:MM``, in ``timezone``; one whose end is before its start goes over midnight."""

    session_name: str
    start_time: str
    end_time: str
    timezone: str
    description: str


class JobRun(NamedTuple):
    """One run of a job; ``status`` ``running``, ``ok``, ``failed`` or ``nothing`` (there was nothing to do)."""

    id: int
    job: str
    started: datetime
    finished: datetime | None
    status: str
    rows: int
    error: str | None


class Announcement(NamedTuple):
    """Candles that are complete: ``rows`` of these pairs, the newest begins at ``time``."""

    granularity: str
    time: datetime
    instruments: tuple[str, ...]
    rows: int


class Progress(NamedTuple):
    """How far a service has come.

    Attributes:
        position: where it goes on; None: it has never told one.
        missed: events that gaps have named, since ever.
        pending: what nobody was told of yet, one per granularity.
    """

    position: str | None = None
    missed: int = 0
    pending: tuple[Announcement, ...] = ()


class Store(Protocol):
    """One database. Each call is one transaction: all of it or nothing; repeating a call stores nothing twice.

    All calls of one store are made on one event loop, and may be made at the same time.

    Raises:
        StoreUnavailable: it cannot be reached now.
        StoreError: it refuses; the text says what to do.
    """

    async def open(self) -> list[str]:
        """Connect, and bring the tables up to this version; tells what was applied, ``"1: tables"``."""
        ...

    async def close(self) -> None:
        """Idempotent."""
        ...

    # prices and candles ---------------------------------------------------------------------------------------------

    async def add_prices(self, events: Sequence[PriceEvent], service: str | None = None) -> Added:
        """Store the prices that are new, and put them into the :data:`LIVE` candles.

        ``service``: what is completed becomes pending in this one's :class:`Progress`, in the same transaction.
        """
        ...

    async def put_candles(self, candles: Sequence[Candle]) -> int:
        """Whole candles from elsewhere: each replaces the one at its place. How many were new or have changed."""
        ...

    async def candles(
        self, instrument: str, granularity: str, before: datetime | None = None, limit: int = 500
    ) -> list[Candle]:
        """The newest ones, oldest first; ``before``: only such that end then or earlier."""
        ...

    async def last_price(self, instrument: str) -> PriceEvent | None:
        """The newest by its own time."""
        ...

    async def count_prices(self, instrument: str | None = None) -> int:
        """Rows of ``real_time_prices_audit``."""
        ...

    async def forget_prices(self, before: datetime, limit: int) -> int:
        """Delete at most ``limit`` of the oldest prices received before that time; how many. Candles stay."""
        ...

    # analytics ------------------------------------------------------------------------------------------------------

    async def put_volatility(self, metrics: Sequence[VolatilityMetric]) -> None:
        """Each replaces the one of its pair, granularity and time."""
        ...

    async def last_volatility(self, granularity: str, before: datetime | None = None) -> list[VolatilityMetric]:
        """The newest of each pair, by pair; ``before``: only such whose time is earlier."""
        ...

    async def put_correlations(self, correlations: Sequence[Correlation], best: Sequence[BestPair] = ()) -> None:
        """Each replaces the one at its place; of a ranking's time and granularity all places are replaced."""
        ...

    async def last_correlations(self, granularity: str, before: datetime | None = None) -> list[Correlation]:
        """The newest matrix, by names; ``before``: only such whose time is earlier."""
        ...

    async def last_best_pairs(self, granularity: str) -> list[BestPair]:
        """The newest rankings, by category and rank."""
        ...

    async def sessions(self) -> list[MarketSession]:
        """The market sessions, in the order of the table."""
        ...

    async def job_started(self, job: str, at: datetime) -> int:
        """A run begins; its id."""
        ...

    async def job_finished(self, run: int, at: datetime, status: str, rows: int = 0, error: str | None = None) -> None:
        """It has ended."""
        ...

    async def jobs(self, job: str | None = None, limit: int = 100) -> list[JobRun]:
        """The newest runs first."""
        ...

    # services -------------------------------------------------------------------------------------------------------

    async def progress(self, service: str) -> Progress:
        """How far a service has come; empty for one that is not known."""
        ...

    async def set_position(self, service: str, position: str) -> None:
        """Everything before it is stored."""
        ...

    async def add_missed(self, service: str, events: int) -> None:
        """Count events that are lost to this service."""
        ...

    async def announced(self, service: str) -> None:
        """Everybody was told of what is pending."""
        ...


def bucket(time: datetime, granularity: str) -> datetime:
    """When the candle begins that a price of this time is in; days begin at midnight UTC."""
    since = time - _EPOCH
    return _EPOCH + since - since % GRANULARITIES[granularity]


_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
