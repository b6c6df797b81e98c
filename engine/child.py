"""What hub, feeds and worker processes share: logging, loop, the link to the daemon, and how they end."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import msgspec
import uvloop
import zmq

from engine import log
from engine.config import Config
from engine.control import ControlClient
from engine.descriptors import raise_descriptor_limit
from engine.runtime_dir import endpoint
from transport.errors import HeliographError
from transport.meter import Meter


class Child:
    """One process of the engine, on its main thread's loop.

    Attributes:
        argument: what the daemon gave: name, role, incarnation, runtime_dir, client_port, config; and state, where an
            earlier life has reported one.
        config: the configuration at its start.
        context: for all of the process's bus links.
    """

    def __init__(self, argument: dict[str, Any], parent_fd: int) -> None:
        self.argument = argument
        self.config = msgspec.convert(argument["config"], Config)
        self.context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._parent_fd = parent_fd
        self._failed: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._control: ControlClient | None = None

    def endpoint(self, name: str) -> str:
        """Address of a bus of this engine."""
        return endpoint(self.argument["runtime_dir"], name)

    def fail(self, reason: str) -> None:
        """Supervision has given up: the process ends with 1, the daemon starts another."""
        if not self._failed.done():
            self._failed.set_result(reason)

    def report_soon(self) -> None:
        """Something that the daemon should know at once has changed; of no effect before :meth:`serve`."""
        if self._control is not None:
            self._control.report_soon()

    async def serve(
        self,
        *,
        meter: Meter,
        drain: Callable[[], Awaitable[None]],
        reload: Callable[[Config], Awaitable[None]],
        refresh: Callable[[], Awaitable[None]] | None = None,
        state: Callable[[], Any] | None = None,
        asks: Mapping[str, Callable[[Any], Awaitable[Any]]] | None = None,
    ) -> None:
        """Say ready and report until told to end.

        Args:
            meter: the node's figures.
            drain: finish what is going on.
            reload: take a new configuration.
            refresh: brings meter and state up to date, before each report. One that fails or takes long is logged, and
                the report goes out without it: the daemon would take silence for death.
            state: plain values that the next life of this process finds in ``argument["state"]``, as last reported.
            asks: what else the daemon may ask, see :class:`~engine.control.ControlClient`.

        Raises:
            HeliographError: supervision has given up, or the daemon does not answer.
        """
        patience = self.config.server.heartbeat_timeout / 2

        async def report(late: float) -> dict[str, Any]:
            meter.loop_lag, meter.tasks = late, len(asyncio.all_tasks())
            if refresh is not None:
                try:
                    async with asyncio.timeout(patience):
                        await refresh()
                except Exception as error:
                    log.get_logger().error("refresh_failed", error=str(error) or type(error).__name__)
            return {"figures": meter.snapshot(), **({} if state is None else {"state": state()})}

        async def take(config: Config) -> None:
            await reload(config)
            self._configure_log(config)

        control = self._control = ControlClient(
            self.argument,
            self._parent_fd,
            drain,
            take,
            report,
            asks,
            context=self.context,
        )
        await control.start()
        try:
            await control.ready()
            stopped = asyncio.ensure_future(control.wait_stopped())
            await asyncio.wait((stopped, self._failed), return_when=asyncio.FIRST_COMPLETED)
            stopped.cancel()
            if self._failed.done():
                raise HeliographError(self._failed.result())
        finally:
            await control.close()

    def _configure_log(self, config: Config) -> None:
        log.configure(self.argument["name"], config.server.node_name(), config.log.level, config.log.format)


def run_child(argument: dict[str, Any], parent_fd: int, serve: Callable[[Child], Awaitable[None]]) -> None:
    """A process's whole life: ``serve`` starts the node, calls :meth:`Child.serve` and stops the node."""

    async def main() -> None:
        child = Child(argument, parent_fd)
        child._configure_log(child.config)
        try:
            await serve(child)
        finally:
            child.context.term()

    raise_descriptor_limit()
    uvloop.run(main())
