"""An engine of a test's own: started on free ports, and gone with the test."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import sys
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from transport.errors import HeliographError

START_TIMEOUT: Final = 30.0  # s to the ready line
STOP_TIMEOUT: Final = 15.0  # s from SIGTERM to the exit: its drain has 10
_RUN: Final = """\
import ctypes, os, sys
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, 15)  # PR_SET_PDEATHSIG, SIGTERM: it outlives the exec, not us
if os.getppid() != int(sys.argv[1]):  # we are gone already
    sys.exit(1)
os.execv(sys.executable, [sys.executable, *sys.argv[2:]])
"""
_LOG_LINES: Final = 5  # of an engine that does not start
_LOG_BYTES: Final = 8_192


class EngineUnderTest:
    """``heliograph run`` in a process of its own: ``async with EngineUnderTest(workers=2) as engine``.

    The environment's ``HELIOGRAPH_…`` variables configure it; ports and runtime directory are its own. It is stopped
    when the block is left, whatever happened in it, and killed if it does not stop. Linux stops it, too, if this
    process is killed.

    Args:
        workers: broadcast processes; 0: all in one process.

    Attributes:
        url, admin_url: where it is; known in the block.
    """

    url: str
    admin_url: str

    def __init__(self, workers: int = 1) -> None:
        self._workers = workers

    async def __aenter__(self) -> Self:
        """Returns when it is ready.

        Raises:
            HeliographError: it did not start; with the end of its log.
        """
        self._directory = Path(tempfile.mkdtemp(prefix="helio-load-"))
        try:
            await self._start()
        except BaseException:
            await self._stop()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stop()

    _process: asyncio.subprocess.Process | None = None

    async def _start(self) -> None:
        options = ["--port", "0", "--admin-port", "0", "--workers", str(self._workers)]
        with (self._directory / "log").open("wb") as log:
            self._process = process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-c", _RUN, str(os.getpid()), "-m", "engine", "run", *options),
                env=os.environ | _found_by_child() | {"HELIOGRAPH_SERVER__RUNTIME_DIR": str(self._directory / "run")},
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
                start_new_session=True,  # Ctrl-C is the test's, which stops the engine when it is done
            )
        assert process.stdout is not None
        try:
            async with asyncio.timeout(START_TIMEOUT):
                words = (await process.stdout.readline()).decode().split()
        except TimeoutError:
            words = []
        if words[::2] != ["ready", "admin"]:
            raise HeliographError(f"the engine to be tested did not start: {self._log_end()}")
        self.url, self.admin_url = words[1::2]

    def _log_end(self) -> str:
        lines = (self._directory / "log").read_bytes()[-_LOG_BYTES:].decode(errors="replace").splitlines()
        lines = [line for line in lines if '"critical"' in line] or lines  # why, without what followed from it
        return "\n".join(lines[-_LOG_LINES:]) or "it said nothing"

    async def _stop(self) -> None:
        process = self._process
        try:
            if process is not None and process.returncode is None:
                process.terminate()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(STOP_TIMEOUT):
                        await process.wait()
        finally:
            if process is not None and process.returncode is None:  # too slow, or nobody waits any more
                process.kill()  # its children end when it does
                await process.wait()
            shutil.rmtree(self._directory, ignore_errors=True)


def _found_by_child() -> dict[str, str]:
    """A package that this process found beside itself (a checkout) is found by its child."""
    root = str(Path(__file__).parents[2])
    return {"PYTHONPATH": os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))}
