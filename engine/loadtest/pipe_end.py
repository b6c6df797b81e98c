"""A process's end of the pipes to the coordinator: commands come by stdin, what is told goes by stdout."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Awaitable, Callable
from typing import Any, Final

import msgspec

from engine.loadtest import commands
from engine.loadtest.commands import LINE_BYTES, Command, Refused, Stop, Told
from transport.errors import ConfigError

UNREAD_BYTES: Final = 4 * LINE_BYTES
"""What may wait for a coordinator that does not read; then the process ends."""


class PipeEnd:
    """Of the process that it is made in; whatever else is printed there goes to stderr."""

    def __init__(self) -> None:
        self._transport: Any = None  # asyncio.WriteTransport, while serving

    async def serve(self, answer: Callable[[Command], Awaitable[Told]]) -> None:
        """Answer commands until :class:`Stop` or the end of stdin, which end also what is being done.

        Args:
            answer: its :class:`ConfigError` is told as :class:`Refused`; another exception ends the process.
        """
        loop = asyncio.get_running_loop()
        told = os.fdopen(os.dup(1), "wb", buffering=0)
        os.dup2(2, 1)
        self._transport, _ = await loop.connect_write_pipe(asyncio.BaseProtocol, told)
        reader = asyncio.StreamReader(LINE_BYTES)
        reading, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin.buffer)
        try:
            async with asyncio.TaskGroup() as answering:
                tasks = []
                while text := await reader.readline():
                    command = commands.command(text)
                    if isinstance(command, Stop):
                        break
                    tasks.append(answering.create_task(self._answer(command, answer)))
                    tasks = [task for task in tasks if not task.done()]
                for task in tasks:
                    task.cancel()
        finally:
            reading.close()
            self._transport.close()

    async def _answer(self, command: Command, answer: Callable[[Command], Awaitable[Told]]) -> None:
        try:
            told = await answer(command)
        except ConfigError as error:
            told = Refused(reason=str(error))
        self.tell(msgspec.structs.replace(told, id=command.id))

    def tell(self, message: Told) -> None:
        """Also unasked."""
        if self._transport is None or self._transport.is_closing():
            return
        self._transport.write(commands.line(message))
        if self._transport.get_write_buffer_size() > UNREAD_BYTES:
            sys.exit("the coordinator reads nothing any more")
