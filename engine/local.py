"""Everything in one process on one loop: hub, feeds and one worker over ``inproc://``, with the admin API.

The same nodes as in processes of their own; a failure that supervision gives up on ends the engine.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import zmq

from engine.admin import AdminServer, no_feed
from engine.admin_dashboard import ClientPort
from engine.admin_monitor import no_service
from engine.config import Config, for_children, needs_restart, reloaded
from engine.control import REPORT_SPACING
from engine.feeds import Feeds
from engine.hub import Hub
from engine.hub_link import HubLink
from engine.log import get_logger
from engine.metrics import Figures
from engine.monitor import Monitor
from engine.notify import Notifier
from engine.public_health import public_health
from engine.rolling import NO_RESTART
from engine.sampling import Sampling
from engine.services import Services
from engine.user_code import service_specs
from engine.version import VERSION
from engine.worker import Worker
from transport.codes import ErrorCode
from transport.errors import HeliographError, RequestError
from transport.listener import bind
from transport.messages import HistoryPage, Publish
from transport.position import Position

ENDPOINT = "inproc://hub"


class LocalEngine:
    """``workers = 0``. Implements :class:`engine.admin.Backend`.

    Args:
        load: reads the configuration again, for ``/api/reload``; ``None``: there is nothing to read.
        notifier: the service manager; an embedded engine has none.

    Stopping leaves no thread, task, socket or file behind.
    """

    def __init__(
        self, config: Config, load: Callable[[], Config] | None = None, notifier: Notifier | None = None
    ) -> None:
        self._config, self._load = config, load
        self._notifier = notifier or Notifier({})
        self._figures = Figures(VERSION)
        self._over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._changed = asyncio.Event()  # something of a feed
        self._draining = False
        self._closing = AsyncExitStack()
        self.port = self.admin_port = 0
        """Bound ports; valid once :meth:`start` has begun."""

    async def start(self) -> None:
        """Bind both ports first: a taken one is an error before anything runs.

        After an error :meth:`stop` must be called all the same.
        """
        config, closing = self._config, self._closing
        client_sock = bind(config.server.host, config.server.port)
        closing.callback(client_sock.close)
        admin_sock = bind(config.admin.host, config.admin.port, reuse_port=False)
        closing.callback(admin_sock.close)
        self.port, self.admin_port = client_sock.getsockname()[1], admin_sock.getsockname()[1]
        context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        closing.callback(context.term)
        self._hub = Hub(config, context, ENDPOINT, self._fail)
        self._worker = Worker(for_children(config, self.admin_port), context, ENDPOINT, client_sock, self._fail)
        self._feeds = Feeds(config, context, ENDPOINT, self._fail, changed=self._changed.set)
        specs = service_specs(config)
        self._services = Services(specs, self._worker.inner_client, self._worker.meter, self._fail)
        self._monitor = Monitor(config, self._worker.inner_client, self._worker.meter, self._fail)
        self._link = HubLink(config, context, ENDPOINT, "engine")
        self.series = Sampling(
            config.metrics.interval,
            None if config.metrics.file is None else Path(config.metrics.file),
            self._figures,
            lambda: {"engine": os.getpid()},
            self._link.publish,
            self._hub.meter,
            self._refresh_nodes,
        )
        refused = self._worker.meter.admin_refused
        self._admin = admin = AdminServer(
            self, config, admin_sock, load=self._load, refused=refused, on_death=self._fail
        )
        # Stopped in reverse order: along the event's way, then the admin API, which tells of the drain.
        await self._hub.start()
        closing.push_async_callback(self._hub.stop)
        self._link.start()
        closing.callback(self._link.stop)
        closing.push_async_callback(admin.stop)
        closing.push_async_callback(self._worker.stop)  # also one that fails when it has its link
        await self._worker.start()
        closing.push_async_callback(self._worker.drain)
        await self._services.start()
        closing.push_async_callback(self._services.stop)
        await self._monitor.start()
        closing.push_async_callback(self._monitor.stop)
        await self._feeds.start()
        closing.push_async_callback(self._feeds.stop)
        interval = config.server.heartbeat_interval
        for look in (self._look(interval), self._look_at_feeds(interval)):
            closing.callback(asyncio.create_task(look, name="look at the nodes").cancel)
        closing.push_async_callback(self.series.stop)
        await self._link.wait_connected()
        await admin.start()
        self.series.start()
        self._notifier.ready(f"serving {self.port}")
        self._watchdog(asyncio.get_running_loop())
        get_logger().info("engine_ready", port=self.port, admin_port=self.admin_port, workers=0)

    async def stop(self) -> None:
        """Send the clients away and stop everything. Idempotent."""
        self._drain_begins()
        await self._closing.aclose()
        self._over.cancel()

    async def wait(self) -> None:
        """Return when the engine was drained by request; raise :class:`HeliographError` when it cannot go on."""
        await asyncio.shield(self._over)

    async def _look(self, interval: float) -> None:
        """Measure how late the loop is and take the figures, as the heartbeats of processes do."""
        clock = asyncio.get_running_loop().time
        while True:
            due = clock() + interval
            await asyncio.sleep(interval)
            self._worker.meter.loop_lag = max(0.0, clock() - due)
            self._worker.meter.tasks = len(asyncio.all_tasks())
            await self._refresh_nodes()
            self._worker.know(public_health(self.health()))

    async def _look_at_feeds(self, interval: float) -> None:
        """Keep up to date what health says of them: at each change and, for what changes all the time, now and then."""
        while True:
            self._changed.clear()
            try:
                await self._refresh_feeds()
            except Exception as error:
                get_logger().error("refresh_failed", error=str(error))
            await asyncio.sleep(REPORT_SPACING)
            try:
                async with asyncio.timeout(interval):
                    await self._changed.wait()
            except TimeoutError:
                pass

    async def _refresh_feeds(self) -> None:
        await self._feeds.refresh()
        self._figures.feeds.update(self._feeds.status)

    def _drain_begins(self) -> None:
        if not self._draining:
            self._draining = True
            self._notifier.stopping("draining")

    def _watchdog(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._notifier.watchdog_interval is not None and not self._draining:
            self._notifier.watchdog()
            loop.call_later(self._notifier.watchdog_interval, self._watchdog, loop)

    def _fail(self, reason: str) -> None:
        get_logger().error("engine_failed", reason=reason)
        if not self._over.done():
            self._over.set_exception(HeliographError(f"the engine failed: {reason}"))
            self._over.exception()  # whoever waits raises it; nobody has to

    # the admin API's backend -----------------------------------------------------------------------------------------

    def health(self) -> dict[str, Any]:
        """The contract's shape."""
        failed = self._over.done() and not self._draining
        status = "down" if failed else "ok"
        components = self._figures.components(
            {name: {"status": status, "reason": None, "retry_in": None} for name in ("hub", "worker-0", "feeds")}
        )
        if status == "ok" and any(component["status"] != "ok" for component in components.values()):
            status = "degraded"
        return {
            "status": status,
            "version": VERSION,
            "node": self._config.server.node_name(),
            "components": components,
        }

    def ready(self) -> str | None:
        """``None``, or why not."""
        return "draining" if self._draining else None if self._link.connected else "no hub"

    async def stats(self) -> dict[str, Any]:
        """The engine at a glance."""
        await self._collect()
        return self._figures.stats()

    async def metrics(self) -> bytes:
        """Prometheus text."""
        await self._collect()
        return self._figures.render()

    async def _collect(self) -> None:
        if not self._draining:  # the feeds go first
            await self._refresh_feeds()
        await self._refresh_nodes()

    async def _refresh_nodes(self) -> None:
        await self._hub.refresh()
        await self._worker.refresh()
        await self._services.refresh()
        await self._monitor.refresh()
        for name, meter in (("hub", self._hub.meter), ("worker-0", self._worker.meter), ("feeds", self._feeds.meter)):
            self._figures.update(name, "local", meter.snapshot(), time.monotonic())

    def feeds(self) -> dict[str, Any]:
        """Each feed as it was at its last change of state, or a heartbeat ago."""
        return self._figures.feeds.shown()

    async def operate_feed(self, name: str, action: str) -> dict[str, Any]:
        """Do it at once."""
        if name not in self._config.upstreams:
            raise no_feed(name)
        if self._draining:
            raise RequestError(ErrorCode.UNAVAILABLE, "the engine is draining")
        snapshot = await self._feeds.operate({"name": name, "action": action})
        await self._refresh_feeds()
        return snapshot

    async def ask_monitor(self, service: str, method: str, params: dict[str, Any]) -> Any:
        """Have the monitor node do it."""
        if service not in self._config.monitored:
            raise no_service(service)
        return await self._monitor.ask({"service": service, "method": method, "params": params})

    async def ask_workers(self, order: dict[str, Any]) -> list[Any]:
        """Ask the one."""
        return [await self._worker.order(order)]

    def client_port(self) -> ClientPort:
        """As it is bound."""
        return ClientPort(self.port, self._config.server.tls_cert_file is not None, self._config.auth)

    async def topics(self, after: str, limit: int, containing: str) -> list[dict[str, Any]]:
        """Look at the hub's log."""
        return await self._hub.topics({"after": after, "limit": limit, "containing": containing})

    async def history(self, topic: str, limit: int, since: Position | None) -> HistoryPage:
        """See :meth:`engine.hub_link.HubLink.history`."""
        return await self._link.history(topic, limit, since)

    async def users(self, topic: str) -> list[str]:
        """Have the hub look."""
        return await self._link.users(topic)

    def owned_topics(self) -> frozenset[str]:
        """By the configuration in force."""
        return self._config.owned_topics

    async def publish(self, batch: list[Publish]) -> list[Position]:
        """Publish in order; see :meth:`engine.hub_link.HubLink.publish`."""
        return await self._link.publish(batch)

    async def reload(self, config: Config) -> list[str]:
        """Take a new configuration; the names of what only a restart takes."""
        left = needs_restart(self._config, config)
        taken = reloaded(self._config, config)
        self._admin.reload(taken.admin)
        self._notifier.reloading()
        self._config = taken
        try:
            await self._worker.reload(for_children(self._config, self.admin_port))
            await self._feeds.reload(self._config)
            await self._monitor.reload(self._config)
            await self._refresh_feeds()
        finally:  # also of one that fails: the service manager would take the engine for reloading for ever
            self._notifier.ready("reloaded")
        get_logger().info("engine_reloaded", needs_restart=left)
        return left

    def restart(self) -> dict[str, Any]:
        """There is nothing that could be restarted."""
        raise RequestError(ErrorCode.UNSUPPORTED, "this engine is one process, without workers to restart")

    def restart_state(self) -> dict[str, Any]:
        """There never was one."""
        return NO_RESTART

    async def drain(self) -> None:
        """Begin to stop, by request: :meth:`wait` returns, and its owner stops the engine."""
        self._drain_begins()
        if not self._over.done():
            self._over.set_result(None)
