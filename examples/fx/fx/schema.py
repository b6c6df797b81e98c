"""The tables, as versioned migrations that are data; the same for SQLite and PostgreSQL.

A migration is never changed once it was released: what is to be different is a further one.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final, NamedTuple

from fx.steps import Define, Lock, Rows, Steps
from fx.store import StoreError

LOCK: Final = 0x46580001
"""Held while a migration is applied: of two programs that start at once, one does it."""


class Migration(NamedTuple):
    """Applied once, in one transaction."""

    version: int
    title: str
    statements: tuple[str, ...]


MIGRATIONS: Final = (
    Migration(
        1,
        "tables",
        (
            """CREATE TABLE real_time_prices_audit (
                id {id},
                instrument TEXT NOT NULL,
                time {time} NOT NULL,
                bid {exact} NOT NULL,
                ask {exact} NOT NULL,
                mid {exact} NOT NULL,
                topic TEXT NOT NULL,
                epoch TEXT NOT NULL,
                event_offset BIGINT NOT NULL,
                received_at {time} NOT NULL,
                UNIQUE (topic, epoch, event_offset)
            )""",
            "CREATE INDEX real_time_prices_audit_by_time ON real_time_prices_audit (instrument, time)",
            "CREATE INDEX real_time_prices_audit_by_age ON real_time_prices_audit (received_at)",
            """CREATE TABLE oanda_candles (
                id {id},
                instrument TEXT NOT NULL,
                granularity TEXT NOT NULL,
                time {time} NOT NULL,
                open {exact} NOT NULL,
                high {exact} NOT NULL,
                low {exact} NOT NULL,
                close {exact} NOT NULL,
                volume BIGINT NOT NULL,
                opened_at {time} NOT NULL,
                closed_at {time} NOT NULL,
                complete {flag} NOT NULL,
                UNIQUE (instrument, granularity, time)
            )""",
            "CREATE INDEX oanda_candles_incomplete ON oanda_candles (instrument, granularity, time) WHERE NOT complete",
            """CREATE TABLE volatility_metrics (
                id {id},
                instrument TEXT NOT NULL,
                granularity TEXT NOT NULL,
                time {time} NOT NULL,
                periods INTEGER NOT NULL,
                volatility {float} NOT NULL,
                annualized {float} NOT NULL,
                atr {float},
                range_volatility {float},
                regime TEXT NOT NULL,
                UNIQUE (instrument, granularity, time)
            )""",
            """CREATE TABLE correlation_matrix (
                id {id},
                time {time} NOT NULL,
                granularity TEXT NOT NULL,
                instrument_a TEXT NOT NULL,
                instrument_b TEXT NOT NULL,
                correlation {float} NOT NULL CHECK (correlation BETWEEN -1 AND 1),
                observations INTEGER NOT NULL,
                regime TEXT NOT NULL,
                UNIQUE (granularity, time, instrument_a, instrument_b),
                CHECK (instrument_a <> instrument_b)
            )""",
            """CREATE TABLE best_pairs_tracker (
                id {id},
                time {time} NOT NULL,
                granularity TEXT NOT NULL,
                category TEXT NOT NULL,
                rank INTEGER NOT NULL,
                instrument_a TEXT NOT NULL,
                instrument_b TEXT NOT NULL,
                correlation {float} NOT NULL,
                UNIQUE (granularity, time, category, rank)
            )""",
            """CREATE TABLE market_sessions (
                id {id},
                session_name TEXT NOT NULL UNIQUE,
                start_time {clock} NOT NULL,
                end_time {clock} NOT NULL,
                timezone TEXT NOT NULL,
                description TEXT NOT NULL DEFAULT ''
            )""",
            """CREATE TABLE cron_job_log (
                id {id},
                job TEXT NOT NULL,
                started_at {time} NOT NULL,
                finished_at {time},
                status TEXT NOT NULL,
                row_count BIGINT NOT NULL DEFAULT 0,
                error TEXT
            )""",
            "CREATE INDEX cron_job_log_by_job ON cron_job_log (job, id)",
        ),
    ),
    Migration(
        2,
        "market sessions",
        (
            """INSERT INTO market_sessions (session_name, start_time, end_time, timezone, description)
            VALUES
                ('Tokyo', '00:00', '09:00', 'JST', 'Asian session'),
                ('London', '08:00', '17:00', 'GMT', 'European session'),
                ('New York', '13:00', '22:00', 'EST', 'American session'),
                ('Sydney', '22:00', '07:00', 'AEDT', 'Pacific session')""",
        ),
    ),
    Migration(
        3,
        "progress of services",
        (
            """CREATE TABLE service_positions (
                service TEXT PRIMARY KEY,
                position TEXT,
                missed BIGINT NOT NULL DEFAULT 0,
                pending TEXT NOT NULL DEFAULT '[]'
            )""",
        ),
    ),
)


def migrate(migrations: Sequence[Migration] = MIGRATIONS) -> Steps[str | None]:
    """Apply the next one, if there is one, and tell which. One transaction: call it until it gives None.

    Raises:
        StoreError: a newer version of this program has been here.
    """
    yield Lock(LOCK)
    yield Define(
        "CREATE TABLE IF NOT EXISTS schema_migrations "
        "(version INTEGER PRIMARY KEY, title TEXT NOT NULL, applied_at {time} NOT NULL)"
    )
    [[version]] = yield Rows("SELECT coalesce(max(version), 0) FROM schema_migrations")
    if version > migrations[-1].version:
        raise StoreError(
            f"its tables are those of a newer version ({version}, this one knows {migrations[-1].version}): "
            "run that version, or give another database"
        )
    for migration in migrations:
        if migration.version > version:
            break
    else:
        return None
    for statement in migration.statements:
        yield Define(statement)
    now = datetime.now(UTC)
    yield Rows("INSERT INTO schema_migrations VALUES ($1, $2, $3)", (migration.version, migration.title, now))
    return f"{migration.version}: {migration.title}"
