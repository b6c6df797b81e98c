"""A client's token goes to the engine at its URL and to nobody else, logs and errors included."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

import pytest

from actors.backoff import BackoffPolicy
from engine.client import Client
from tests.engine.fake_engine import fake_engine
from transport.codes import ErrorCode
from transport.errors import ConnectionLost, RequestError

TOKEN = "a-token-of-somebody"
Answer = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


async def listening(answer: Answer) -> tuple[asyncio.Server, int]:
    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    return server, server.sockets[0].getsockname()[1]


def test_a_redirect_is_not_followed() -> None:
    knocked: list[bytes] = []

    async def test() -> None:
        async def elsewhere(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            knocked.append(await reader.readuntil(b"\r\n\r\n"))
            writer.close()

        async def redirect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(f"HTTP/1.1 302 Found\r\nLocation: ws://127.0.0.1:{other_port}/ws\r\n\r\n".encode())
            writer.close()

        other, other_port = await listening(elsewhere)
        first, port = await listening(redirect)
        async with other, first:
            with pytest.raises(ConnectionLost, match="HTTP 302"):
                await Client(f"ws://127.0.0.1:{port}/ws", token=TOKEN).__aenter__()

    asyncio.run(test())
    assert not knocked


def test_the_token_is_in_no_log(caplog: pytest.LogCaptureFixture) -> None:
    async def test() -> None:
        async with fake_engine() as engine, asyncio.timeout(10):
            async with Client(engine.url, token=TOKEN) as client:
                await client.ping()
            assert engine.headers[0]["Authorization"] == f"Bearer {TOKEN}"

    with caplog.at_level(logging.DEBUG), caplog.at_level(logging.DEBUG, "heliograph.client"):
        asyncio.run(test())
    said = [record.getMessage() for record in caplog.records if record.name != "websockets.server"]  # the fake engine
    assert any("connected" in line for line in said)
    assert not any(TOKEN in line for line in said)


@pytest.mark.parametrize("token", [f"{TOKEN}\n", f"{TOKEN}é", f"{TOKEN} {TOKEN}", f"{TOKEN}\r\nX-More: 1"])
def test_what_can_be_no_token_is_told_without_it(token: str, caplog: pytest.LogCaptureFixture) -> None:
    async def test(given: str | Callable[[], str]) -> None:
        at_once = BackoffPolicy(first_s=0.01, cap_s=0.05)
        with pytest.raises(RequestError) as told:
            await Client("ws://127.0.0.1:9/ws", token=given, reconnect=at_once).__aenter__()
        assert (told.value.code, told.value.field) == (ErrorCode.BAD_REQUEST, "token")
        assert TOKEN not in str(told.value)

    with caplog.at_level(logging.DEBUG):
        asyncio.run(test(token))
        asyncio.run(test(lambda: token))
    assert TOKEN not in caplog.text
