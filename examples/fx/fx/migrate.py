"""``python -m fx.migrate``: bring a database's tables up to this version. The service does it too, when it starts."""

from __future__ import annotations

import asyncio
import sys
from typing import Annotated, Final

import typer

from fx.by_hand import BAD_USAGE, FAILED, ConfigFile, complain, settings
from fx.store import Store, StoreError
from fx.stores import open_store
from heliograph import ConfigError

ACTOR: Final = "fx.store_service:StoreService"


def main(
    config: ConfigFile = None,
    dsn: Annotated[
        str | None, typer.Option("--dsn", metavar="sqlite:///FILE|postgresql://…", help="Instead of the configured one")
    ] = None,
) -> None:
    """Make the tables that are missing, and say which."""
    try:
        store = open_store({"dsn": dsn} if dsn is not None else settings(ACTOR, config).options)
        applied = asyncio.run(_migrate(store))
    except (ConfigError, ValueError) as error:
        sys.exit(complain(error, BAD_USAGE))
    except StoreError as error:
        sys.exit(complain(error, FAILED))
    for title in applied:
        sys.stdout.write(f"applied {title}\n")
    sys.stdout.write(f"{store!r} is up to date\n")


async def _migrate(store: Store) -> list[str]:
    try:
        return await store.open()
    finally:
        await store.close()


if __name__ == "__main__":
    typer.run(main)
