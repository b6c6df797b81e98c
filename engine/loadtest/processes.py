"""The coordinator's side of a process of its own: it is started, asked, listened to, and ended in every case."""

from __future__ import annotations

import asyncio
import itertools
import os
import sys
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Final, Self, TypeVar

import msgspec

from engine.loadtest import commands
from engine.loadtest.commands import LINE_BYTES, Command, PublisherSecond, Refused, Second, Stop, Told
from transport.errors import ConfigError, HeliographError

STOP_S: Final = 5.0
"""For a process to end by itself; then it is killed."""
SAID_LINES: Final = 20
"""Kept of what it says on stderr."""
ROOT: Final = Path(__file__).resolve().parents[2]
"""Where the packages lie; nothing in the working directory shall stand before them."""

AnswerT = TypeVar("AnswerT", bound=Told)


class ChildDied(HeliographError):
    """A process of the load tester ended by itself: what it measured is lost."""


class ChildProcess:
    """One process; on the coordinator's loop.

    Args:
        name: of the process, for people.
        module: that it runs.
        on_told: gets what it tells unasked.
        on_death: gets why it ended, if nobody has asked it to.

    Attributes:
        pid: its process id.
    """

    def __init__(
        self,
        name: str,
        module: str,
        on_told: Callable[[Second | PublisherSecond], None],
        on_death: Callable[[str], None],
    ) -> None:
        self.name, self._module = name, module
        self._on_told, self._on_death = on_told, on_death
        self.pid = 0
        self._ids = itertools.count(1)
        self._asked: dict[int, asyncio.Future[Told]] = {}
        self._said: deque[str] = deque(maxlen=SAID_LINES)
        self._ending = False
        self._died: str | None = None

    async def start(self) -> Self:
        """Raises :class:`OSError` where the system starts no process."""
        path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-P",
            "-m",
            self._module,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=os.environ | {"PYTHONPATH": path},
            limit=LINE_BYTES,
        )
        self.pid = self._process.pid
        self._listening = asyncio.create_task(self._listen())
        return self

    async def ask(self, command: Command, answer: type[AnswerT], within: float) -> AnswerT:
        """What it answers.

        Args:
            within: seconds.

        Raises:
            ChildDied: it has ended, does not answer in time, or was not started.
            ConfigError: it cannot, and says why.
        """
        if self._died is not None:
            raise ChildDied(self._died)
        if self.pid == 0:
            raise ChildDied(f"{self.name} was not started")
        number = next(self._ids)
        future = self._asked[number] = asyncio.get_running_loop().create_future()
        assert self._process.stdin is not None
        self._process.stdin.write(commands.line(msgspec.structs.replace(command, id=number)))
        try:
            async with asyncio.timeout(within):
                told = await future
        except TimeoutError:
            what = type(command).__name__
            raise ChildDied(f"{self.name} (pid {self.pid}) has not answered {what} in {within:g} s") from None
        finally:
            del self._asked[number]
        if isinstance(told, Refused):
            raise ConfigError(told.reason)
        assert isinstance(told, answer), f"{self.name} answered {type(told).__name__} to {type(command).__name__}"
        return told

    async def stop(self) -> None:
        """Ask it to end, wait, kill it if it does not."""
        if self.pid == 0:
            return
        self._ending = True
        stdin = self._process.stdin
        assert stdin is not None
        stdin.write(commands.line(Stop()))
        stdin.close()
        try:
            async with asyncio.timeout(STOP_S):
                await self._process.wait()
        except TimeoutError:
            self._process.kill()
        finally:
            if self._process.returncode is None:  # also where we are cancelled
                self._process.kill()
        await self._listening

    async def _listen(self) -> None:
        assert self._process.stdout is not None
        saying = asyncio.create_task(self._hear_errors())
        problem = ""
        try:
            while text := await self._process.stdout.readline():
                self._take(commands.told(text))
        except (ValueError, msgspec.DecodeError) as error:  # a line that is too long is a ValueError
            problem = f" after it said what nobody understands: {error}"
            self._process.kill()
        code = await self._process.wait()
        await saying
        last = " | ".join(self._said)
        ended = f"killed by signal {-code}" if code < 0 else f"exit code {code}"
        self._died = f"{self.name} (pid {self.pid}) has ended, {ended}{problem}" + (f": {last}" if last else "")
        for future in self._asked.values():
            if not future.done():
                future.set_exception(ChildDied(self._died))
        if not self._ending:
            self._on_death(self._died)

    def _take(self, told: Told) -> None:
        if isinstance(told, (Second, PublisherSecond)):
            self._on_told(told)
        elif (future := self._asked.get(told.id)) is not None and not future.done():
            future.set_result(told)

    async def _hear_errors(self) -> None:
        assert self._process.stderr is not None
        while True:
            try:
                text = await self._process.stderr.readline()
            except ValueError:  # an endless line
                continue
            if not text:
                return
            self._said.append(text.decode(errors="replace").rstrip()[:500])
