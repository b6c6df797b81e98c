"""A local HTTP server that takes what webhooks send, or does not."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from typing import Any, Self

import msgspec


class Receiver:
    """Answers 200, but for what is in ``answers``, used up from the left: a status, ``"hang"``, ``"close"``,
    ``"garbage"``.

    Attributes:
        attempts: requests that came whole.
        taken: bodies of those that were answered with 200.
        at: when each came, monotonic seconds.
        headers: of all requests, names in lower case.
    """

    def __init__(self) -> None:
        self.answers: deque[int | str] = deque()
        self.attempts = 0
        self.taken: list[Any] = []
        self.headers: list[dict[str, str]] = []
        self.at: list[float] = []
        self._over = asyncio.Event()

    async def __aenter__(self) -> Self:
        self.server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self.server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._over.set()
        self.server.close()
        await self.server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
            headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in head[1:] if line)}
            body = await reader.readexactly(int(headers["content-length"]))
            self.headers.append(headers)
            self.attempts += 1
            self.at.append(time.monotonic())
            answer = self.answers.popleft() if self.answers else 200
            if answer == "hang":
                await self._over.wait()
            elif answer == "garbage":
                writer.write(b"what?\r\n")
            elif isinstance(answer, int):
                if answer == 200:
                    self.taken.append(msgspec.json.decode(body))
                writer.write(b"HTTP/1.1 %d x\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n" % answer)
                await writer.drain()
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()
