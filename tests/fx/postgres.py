"""A real PostgreSQL for tests, whose files import the fixture."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from bench.postgres_process import PostgresProcess, programs


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresProcess]:
    """One for all tests; who stops it starts it again."""
    if programs() is None:
        if os.environ.get("CI", "").lower() in ("1", "true"):
            pytest.fail("PostgreSQL is missing, and CI must have it")
        pytest.skip("PostgreSQL is missing")
    with PostgresProcess() as server:
        yield server
