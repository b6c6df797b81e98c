"""Applications that ``[socketio]`` names: what is wrong with them ends the start, and nothing is left waiting."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest

from engine.config import loads
from engine.local import LocalEngine
from heliograph import EngineHandler, Namespace
from tests.actors.socketio_visits import House, run
from transport.errors import ConfigError


class Picky(Namespace):
    """Refuses its options."""

    def __init__(self, *, options: Mapping[str, Any], engine: Any) -> None:
        super().__init__(options=options, engine=engine)
        raise ValueError("pairs: must be a list")


@pytest.mark.parametrize(
    ("actor", "field", "text"),
    [
        ("nowhere:X", "socketio.namespaces./.actor", "cannot import"),
        ("json:JSONDecoder", "socketio.namespaces./.actor", "subclass of heliograph.Namespace"),
        (f"{__name__}:Picky", "socketio.namespaces./.options", "pairs: must be a list"),
    ],
)
def test_it_says_what_is_wrong_and_stops(actor: str, field: str, text: str) -> None:
    async def main() -> None:
        toml = f'[socketio]\nenabled = true\nnamespaces."/".actor = "{actor}"\n'
        engine = LocalEngine(loads(toml, {"server.port": 0, "admin.port": 0, "server.workers": 0}))
        try:
            with pytest.raises(ConfigError, match=text) as caught:
                await engine.start()
            assert caught.value.field == field
        finally:
            async with asyncio.timeout(20):
                await engine.stop()

    asyncio.run(main())


class Plain(EngineHandler):
    """Takes anything."""


def test_clients_of_plain_engines_are_bounded_too() -> None:
    toml = f'[socketio]\nenabled = true\nengines."/plain/" = "{__name__}:Plain"\n[limits]\nconnections = '

    async def knock(house: House) -> int:
        listener = house.workers[0]._listener
        assert listener is not None
        reader, writer = await asyncio.open_connection("127.0.0.1", listener.port)
        writer.write(b"GET /plain/?EIO=4&transport=polling HTTP/1.1\r\nHost: localhost\r\n\r\n")
        status = int((await asyncio.wait_for(reader.readuntil(b"\r\n"), 20)).split()[1])
        writer.close()
        return status

    async def test(house: House) -> None:
        assert [await knock(house) for _ in range(3)] == [200, 200, 503]
        doors = house.workers[0]._socketio
        assert doors is not None
        doors.configure(loads(f"{toml}3"))
        assert [await knock(house) for _ in range(2)] == [200, 503]

    run(test, loads(f"{toml}2"))
