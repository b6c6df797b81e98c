"""The services node: one supervised runner per service of ``[services.*]``, beside the events' way."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from typing import Any

from actors.inner_client import InnerClient
from actors.reply import AskTimeout
from actors.service import Service
from actors.service_runner import Finish, ServiceSpec, Standing
from actors.supervisor import GetStatistics, Supervisor
from engine import wiring
from engine.child import Child, run_child
from engine.config import Config
from engine.fan_out import FanOut
from engine.log import get_logger
from engine.metrics import SERVICE
from engine.user_code import service_specs
from transport.meter import Meter

START_TIMEOUT = 10.0  # s for the supervisor to start the runners
FINISH_TIMEOUT = 4.0  # s for the batches in hand to come to their end, and for all on_stop
STOP_TIMEOUT = 4.0  # s for runners that have not finished, whose services are cancelled and stopped then


class Services:
    """Owns the runners. Runs on one loop, in a process of its own or embedded.

    Args:
        specs: of :func:`engine.user_code.service_specs`.
        client: makes a session for each life of a service; they are all closed after :meth:`stop`.
        meter: of the process.
        failed: called with the reason when a runner cannot be kept running.
        prefix: of the names of components of health.
    """

    def __init__(
        self,
        specs: Sequence[ServiceSpec],
        client: Callable[[], InnerClient],
        meter: Meter,
        failed: Callable[[str], None],
        prefix: str = SERVICE,
    ) -> None:
        self._meter, self._failed, self._prefix = meter, failed, prefix
        self._standings = {spec.name: Standing(spec.policy.backoff) for spec in specs}
        self._children = [wiring.service_actor(spec, client, self._standings[spec.name]) for spec in specs]
        self._supervisor: Any = None

    async def start(self) -> None:
        """Begin; what keeps a service from starting is its own affair, see ``/health``."""
        self._supervisor = Supervisor.start(children=self._children, on_escalate=self._failed)
        await self._supervisor.ask_async(GetStatistics(), timeout=START_TIMEOUT)
        await self.refresh()

    def running(self, name: str) -> Service | None:
        """The service of that name in its present life; ``None`` between two lives."""
        standing = self._standings.get(name)
        return None if standing is None else standing.service

    async def stop(self) -> None:
        """Let each service take the batch in hand, and stop it; who hangs is cancelled."""
        finishing = [child.ref.ask_async(Finish(), timeout=FINISH_TIMEOUT) for child in self._children]
        for child, result in zip(self._children, await asyncio.gather(*finishing, return_exceptions=True), strict=True):
            if isinstance(result, BaseException):
                text = "it has not finished" if isinstance(result, AskTimeout) else str(result)
                get_logger().error("service_cut", service=child.name, error=text)
        with contextlib.suppress(TimeoutError):
            await self._supervisor.stop_async(timeout=STOP_TIMEOUT)
        gone = {self._prefix + name for name in self._standings}
        conditions = self._meter.conditions
        self._meter.conditions = {name: conditions[name] for name in conditions if name not in gone}

    async def refresh(self) -> None:
        """Bring the figures up to date."""
        meter, standings = self._meter, self._standings
        meter.service_events |= {name: standing.events for name, standing in standings.items()}
        meter.service_failures |= {name: standing.failures for name, standing in standings.items()}
        meter.service_missed |= {name: standing.missed for name, standing in standings.items()}
        conditions = {self._prefix + name: standing.condition for name, standing in standings.items()}
        meter.conditions = {**meter.conditions, **conditions}


def main(argument: dict[str, Any], parent_fd: int) -> None:
    """The services' process."""

    async def serve(child: Child) -> None:
        specs = service_specs(child.config)
        fan_out = FanOut(child.config, child.context, child.endpoint("hub"), child.fail, "services")
        services = Services(specs, fan_out.inner_client, fan_out.meter, child.fail)

        async def reload(config: Config) -> None:
            fan_out.configure(config)

        async def drain() -> None:
            pass  # stopping lets the services finish

        await fan_out.start()
        await services.start()
        try:
            await child.serve(meter=fan_out.meter, drain=drain, reload=reload, refresh=services.refresh)
        finally:
            await services.stop()
            await fan_out.stop()

    run_child(argument, parent_fd, serve)
