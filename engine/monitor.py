"""The monitor node: what the engine itself does with events beside their way. It exists where that is configured.

Its services are of the kind that users write, see :mod:`engine.services`, but those may block the loop that they share:
so these have a process of their own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from actors.alert_store import AlertStore
from actors.inner_client import InnerClient
from actors.monitor_service import MonitorService
from actors.service_runner import ServiceSpec
from engine.alert_wiring import alert_service, alert_store
from engine.child import Child, run_child
from engine.config import MONITORED, Config
from engine.fan_out import FanOut
from engine.parameter_store import ParameterStore
from engine.parameter_wiring import parameter_service, parameter_store
from engine.services import Services
from transport.codes import ErrorCode
from transport.errors import RequestError
from transport.meter import Meter

MONITOR = "monitor"
TABLES = (*MONITORED, "webhooks")
"""What the services are made of."""


def monitor_specs(
    config: Config,
    alerts: AlertStore | None = None,
    parameters: Callable[[], ParameterStore] | None = None,
    before: Config | None = None,
) -> list[ServiceSpec]:
    """What the configuration asks for: one for each of :attr:`Config.monitored`, under that name.

    Args:
        alerts, parameters: what they remember, where it is in use already.
        before: what was in force; where the last rule of it went, its alerts are still to be cleared.

    Raises:
        ConfigError: it cannot work.
    """
    made: list[ServiceSpec] = []
    if config.alerts or (before is not None and before.alerts):
        made.append(alert_service(config, alerts or alert_store(config)))
    if config.parameters:
        made.append(parameter_service(config, parameters or parameter_store(config)))
    return made


class Monitor:
    """Owns the services, and begins anew with others at a reload. Runs on one loop.

    Args: see :class:`engine.services.Services`.
    """

    def __init__(
        self, config: Config, client: Callable[[], InnerClient], meter: Meter, failed: Callable[[str], None]
    ) -> None:
        self._config, self._client, self._meter, self._failed = config, client, meter, failed
        self._stores = alert_store(config), parameter_store(config)
        self._services = self._serving(monitor_specs(config, *self._stores))

    async def start(self) -> None:
        """See :meth:`Services.start`."""
        await self._services.start()

    async def stop(self) -> None:
        """See :meth:`Services.stop`."""
        await self._services.stop()

    async def refresh(self) -> None:
        """Bring the figures up to date."""
        await self._services.refresh()

    async def reload(self, config: Config) -> None:
        """Where one of their tables has changed, put other services in the place of those that run; they go on where
        those have stopped.

        Raises:
            ConfigError: they cannot work; nothing has changed.
        """
        if all(getattr(config, name) == getattr(self._config, name) for name in TABLES):
            return
        services = self._serving(monitor_specs(config, *self._stores, before=self._config))
        await self._services.stop()
        self._services, self._config = services, config
        await services.start()

    async def ask(self, body: dict[str, Any]) -> Any:
        """The answer of a service to ``{"service", "method", "params"}``.

        Raises:
            RequestError: why it refused; ``unavailable``: it does not run at this moment.
        """
        service = self._services.running(body["service"])
        if not isinstance(service, MonitorService):
            raise RequestError(ErrorCode.UNAVAILABLE, f"{body['service']} are not there at this moment, try again")
        return await service.answer(body["method"], body["params"])

    def _serving(self, specs: list[ServiceSpec]) -> Services:
        return Services(specs, self._client, self._meter, self._failed, prefix="")


def main(argument: dict[str, Any], parent_fd: int) -> None:
    """The monitor's process."""

    async def serve(child: Child) -> None:
        fan_out = FanOut(child.config, child.context, child.endpoint("hub"), child.fail, MONITOR)
        monitor = Monitor(child.config, fan_out.inner_client, fan_out.meter, child.fail)

        async def reload(config: Config) -> None:
            fan_out.configure(config)
            await monitor.reload(config)

        async def drain() -> None:
            pass  # stopping lets the services finish

        await fan_out.start()
        await monitor.start()
        try:
            await child.serve(
                meter=fan_out.meter,
                drain=drain,
                reload=reload,
                refresh=monitor.refresh,
                asks={"ask": monitor.ask},
            )
        finally:
            await monitor.stop()
            await fan_out.stop()

    run_child(argument, parent_fd, serve)
