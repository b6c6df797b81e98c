"""Fixtures for tests of feeds and clients: an engine, a client of it, and an exchange that does wrong what you say.

pytest loads this in every project that has heliograph installed. Therefore it is a module of its own, which a project
with a package ``engine`` can load, and imports nothing of heliograph before a fixture is used. See ``docs/testing.md``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from engine.engine_thread import EngineThread
    from engine.mock_exchange import ThreadedMockExchange
    from engine.sync_client import SyncClient

MARKER = "heliograph"
_OPTIONS = ("config", "exchange", "mock_feed")


def pytest_configure(config: pytest.Config) -> None:
    """Make the marker known."""
    config.addinivalue_line(
        "markers",
        "heliograph(config={}, exchange={}, mock_feed=False): tables of heliograph_engine's configuration; arguments "
        "of mock_exchange; whether the engine reads it as feed 'mock', or that feed's other fields",
    )


def _options(request: pytest.FixtureRequest) -> dict[str, Any]:
    """The marker's, the nearest one's first; those of outer ones where it says nothing."""
    found: dict[str, Any] = {}
    for marker in request.node.iter_markers(MARKER):
        unknown = [*marker.args, *(name for name in marker.kwargs if name not in _OPTIONS)]
        if unknown:
            raise pytest.UsageError(f"marker heliograph takes {', '.join(_OPTIONS)} by name, not {unknown[0]!r}")
        found = marker.kwargs | found
    return found


@pytest.fixture
def heliograph_config() -> Mapping[str, Any]:
    """Tables of the engine's configuration, ``{"feeds": {…}}``; override it in a module or a conftest.

    The marker's ``config`` comes on top of it, table by table.
    """
    return {}


@pytest.fixture
def mock_exchange(request: pytest.FixtureRequest) -> Iterator[ThreadedMockExchange]:
    """A :class:`heliograph.MockExchange` in a thread of its own; the marker's ``exchange`` are its arguments."""
    from engine.mock_exchange import MockExchange

    with MockExchange.threaded(**_options(request).get("exchange", {})) as exchange:
        yield exchange


@pytest.fixture
def heliograph_engine(request: pytest.FixtureRequest, heliograph_config: Mapping[str, Any]) -> Iterator[EngineThread]:
    """A real engine on free ports in a thread of its own, so that tests with and without a loop can use it."""
    from engine.engine_thread import EngineThread

    options = _options(request)
    tables = _merged(heliograph_config, options.get("config", {}))
    mock_feed = options.get("mock_feed", False)
    if mock_feed is not False:
        exchange: ThreadedMockExchange = request.getfixturevalue("mock_exchange")
        feed = exchange.feed_config("mock", **({} if mock_feed is True else mock_feed))
        tables = _merged({"feeds": feed}, tables)
    with EngineThread(**tables) as engine:
        yield engine


@pytest.fixture
def heliograph_client(heliograph_engine: EngineThread) -> Iterator[SyncClient]:
    """A connected client of ``heliograph_engine`` for code without a loop."""
    with heliograph_engine.client() as client:
        yield client


def _merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """``above`` wins, field by field of each table; a feed or stage of the same name is replaced as a whole."""
    return dict(below) | {
        name: {**below[name], **value} if isinstance(value, Mapping) and isinstance(below.get(name), Mapping) else value
        for name, value in above.items()
    }
