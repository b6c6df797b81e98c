"""The parent of the engine's processes: starts, watches, restarts, drains and reloads them, and answers the admin API.

No event passes through it, but for what the admin API publishes. It holds the two ports: the admin API is served here,
so that it answers when the hub is down; the client port is only bound, so that nobody else takes it while the workers,
who listen on it, are restarted.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import os
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Any

import msgspec
import zmq

from actors.backoff import BackoffPolicy
from engine.admin import AdminServer, no_feed
from engine.admin_dashboard import ClientPort
from engine.admin_monitor import no_service
from engine.config import Config, for_children, needs_restart, reloaded
from engine.control import ControlServer
from engine.forkserver import ForkServer
from engine.hub_link import HubLink
from engine.log import get_logger
from engine.metrics import SERVICE, Figures
from engine.notify import Notifier
from engine.process_supervisor import ChildProcess, Process, ProcessState, ProcessSupervisor
from engine.public_health import public_health
from engine.rolling import NO_RESTART, Replacement, RollingRestart
from engine.runtime_dir import RuntimeDir, RuntimeDirTaken
from engine.sampling import Sampling
from engine.state_path import state_path
from engine.version import VERSION
from transport.codes import ErrorCode
from transport.errors import ConfigError, HeliographError, RequestError
from transport.listener import bind
from transport.messages import HistoryPage, Publish
from transport.meter import Meter
from transport.position import Position

HUB = "hub"
FEEDS = "feeds"
SERVICES = "services"
MONITOR = "monitor"
WORKER = "worker"
DEMO = "demo"
RELOAD_TIMEOUT = 10.0  # s that a reload waits for processes that are just starting
SHUT_TIMEOUT = 1.0  # s for the workers to stop accepting before they drain; one that hangs is not waited for
SERVICES_BACKOFF = BackoffPolicy(first_s=0.1, cap_s=30.0, jitter=False, stable_s=60.0)
"""Between two lives of the services' process, which an application's code may end as often as it likes."""
STOP_TIMEOUT = 10.0  # s that a process has to stop its actors; a worker has drain_timeout before


class EngineState(enum.StrEnum):
    """Where the daemon stands."""

    STARTING = "starting"
    RUNNING = "running"
    DRAINING = "draining"
    STOPPED = "stopped"


class Daemon:
    """An engine of several processes, for ``run`` and for an embedded engine; on one loop, one life.

    Implements :class:`engine.admin.Backend`.

    Args:
        demo_port: where to run a replay exchange, with a feed that reads it; ``None``: neither.
        notifier: the service manager; an embedded engine has none.
        load: reads the configuration anew, for the admin API; ``None``: there is nothing to read.
    """

    def __init__(
        self,
        config: Config,
        *,
        demo_port: int | None = None,
        notifier: Notifier | None = None,
        load: Callable[[], Config] | None = None,
    ) -> None:
        self._load = load
        self._demo_port = demo_port
        self._config = self._own(config)
        self._notifier = notifier or Notifier({})
        self._figures = Figures(VERSION)
        self._meter = Meter()
        self._over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._closing = AsyncExitStack()
        self._children: list[ChildProcess] = []
        self._supervisor: ProcessSupervisor | None = None
        self._restart: RollingRestart | None = None
        self._runtime_dir: RuntimeDir | None = None
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._told: dict[str, tuple[str, dict[str, Any]]] = {}  # worker to its life and the health that it knows
        self._state = EngineState.STARTING
        self.port = self.admin_port = 0
        """Bound ports; valid once :meth:`start` has begun to start processes."""

    # life ------------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Return when hub, feeds and all workers are ready; after an error :meth:`stop` must be called all the same.

        Raises:
            ConfigError: something configured cannot work.
            HeliographError: a port is taken, another daemon runs here, or a process cannot be kept running.
        """
        runtime_dir = await self._claim()
        server, loop = self._config.server, asyncio.get_running_loop()
        context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._closing.callback(context.term)

        forkserver = ForkServer(
            inherit=[runtime_dir.lock_fd],
            heartbeat_interval=server.heartbeat_interval,
            heartbeat_timeout=server.heartbeat_timeout,
        )
        self._closing.push_async_callback(forkserver.close)
        self._control = ControlServer(
            context,
            runtime_dir.endpoint("control"),
            self,
            heartbeat_interval=server.heartbeat_interval,
            heartbeat_timeout=server.heartbeat_timeout,
        )
        self._control.start()
        self._closing.callback(self._control.stop)
        self._link = HubLink(self._config, context, runtime_dir.endpoint(HUB), "daemon")
        self._closing.callback(self._link.stop)
        self.series = self._sampling()
        self._closing.push_async_callback(self.series.stop)

        self._children = self._specify(runtime_dir)
        self._supervisor = ProcessSupervisor(
            self._children,
            forkserver,
            on_change=self._on_change,
            on_escalate=self._fail,
            heartbeat_timeout=server.heartbeat_timeout,
        )
        self._tick(loop, server.heartbeat_interval, loop.time())
        refused = self._meter.admin_refused
        self._admin = AdminServer(
            self, self._config, self._admin_sock, load=self._load, refused=refused, on_death=self._fail
        )
        await self._admin.start()
        self._closing.push_async_callback(self._admin.stop)
        await self._supervisor.start()
        self._link.start()
        await self._link.wait_connected()
        self.series.start()
        self._state = EngineState.RUNNING
        self._notifier.ready(f"serving {self.port}")
        self._watchdog(loop)  # the manager counts from there, and takes only so many messages unread
        get_logger().info("engine_ready", port=self.port, admin_port=self.admin_port, workers=server.worker_count())

    async def wait(self) -> None:
        """Return when the engine was drained by request; raise :class:`HeliographError` when it cannot go on."""
        await asyncio.shield(self._over)

    async def stop(self) -> None:
        """Drain and stop everything: workers, feeds, hub; then free ports and directory. Idempotent."""
        if self._state is not EngineState.STOPPED:
            self._drain_begins()
            try:
                if self._restart is not None:
                    await self._restart.stop()
                if self._supervisor is not None:
                    await self._shut()
                    await self._supervisor.stop()
            finally:
                self._state = EngineState.STOPPED
                for timer in self._timers.values():
                    timer.cancel()
                await self._closing.aclose()
            if not self._over.done():
                self._over.cancel()
            get_logger().info("engine_stopped")

    async def _shut(self) -> None:
        """Have all workers stop accepting before the first of them sends somebody away: whoever that is, and however
        soon it is back, does not come to another one that is about to go."""
        asks = [asyncio.create_task(self._control.ask(name, "shut", None)) for name in self._ready_workers()]
        if asks:
            _, hanging = await asyncio.wait(asks, timeout=SHUT_TIMEOUT)
            for ask in hanging:
                ask.cancel()
            await asyncio.gather(*asks, return_exceptions=True)

    def kill(self) -> None:
        """Cut a :meth:`stop` short: every process is killed."""
        if self._supervisor is not None:
            self._supervisor.kill()

    async def _claim(self) -> RuntimeDir:
        """Take the client port, the runtime directory and the admin port, or say which of them is taken."""
        server, admin = self._config.server, self._config.admin
        if server.port == 0:
            client_sock = bind(server.host, 0)
            self._closing.callback(client_sock.close)
            server = msgspec.structs.replace(server, port=client_sock.getsockname()[1])
        self.port = server.port
        self._runtime_dir = runtime_dir = RuntimeDir(server.runtime_path(), lasting=self._lasting())
        try:
            await runtime_dir.acquire()
        except RuntimeDirTaken as error:
            raise HeliographError(f"cannot run on {server.host}:{self.port}: {error}") from None
        self._closing.callback(runtime_dir.release)
        if self._config.server.port != 0:
            # Sharing is for our workers. Not shared it cannot be had while anybody listens, another engine included.
            bind(server.host, self.port, reuse_port=False).close()
            client_sock = bind(server.host, self.port)
            self._closing.callback(client_sock.close)
        self._admin_sock = bind(admin.host, admin.port, reuse_port=False)
        self._closing.callback(self._admin_sock.close)
        self.admin_port = self._admin_sock.getsockname()[1]
        return runtime_dir

    def _lasting(self) -> bool:
        """Whether an engine that is started like this one has the same runtime directory."""
        return self._config.server.port != 0 or self._config.server.runtime_dir is not None

    def _specify(self, runtime_dir: RuntimeDir) -> list[ChildProcess]:
        server = self._config.server
        common = {
            "config": msgspec.to_builtins(for_children(self._config, self.admin_port)),
            "runtime_dir": str(runtime_dir.path),
            "client_port": self.port,
            "node": server.node_name(),
        }

        def child(
            role: str,
            index: int | None = None,
            wanted: bool = True,
            backoff: BackoffPolicy | None = None,
            **more: Any,
        ) -> ChildProcess:
            name = role if index is None else f"{role}-{index}"
            return ChildProcess(
                role=role,
                name=name,
                argument={**common, "name": name, "role": role, "index": index or 0, **more},
                shutdown=(server.drain_timeout if role == WORKER else 0) + STOP_TIMEOUT,
                wanted=wanted,
                backoff=backoff,
            )

        exchange = [] if self._demo_port is None else [child(DEMO, port=self._demo_port)]
        count = server.worker_count()
        # Twice as many names as workers: those of one half run, and are followed by those of the other at a restart.
        workers = [
            child(WORKER, index, wanted=index < count, predecessor=(index + count) % (2 * count))
            for index in range(2 * count)
        ]
        # Services before feeds: they get the first events, too, and the last ones.
        services = [child(SERVICES, backoff=SERVICES_BACKOFF)] if self._config.services else []
        services.append(child(MONITOR, wanted=bool(self._config.monitored), backoff=SERVICES_BACKOFF))
        return [*exchange, child(HUB), *services, child(FEEDS, wanted=bool(self._config.upstreams)), *workers]

    def _sampling(self) -> Sampling:
        metrics, port = self._config.metrics, self._config.server.port
        path = state_path(metrics.file, "metrics", port)
        return Sampling(metrics.interval, path, self._figures, self._pids, self._link.publish, self._meter)

    def _pids(self) -> dict[str, int]:
        """Of the engine's processes that live."""
        assert self._supervisor is not None
        children = self._supervisor.processes.items()
        return {"daemon": os.getpid()} | {name: child.pid for name, child in children if child.pid is not None}

    def _own(self, config: Config) -> Config:
        if self._demo_port is None:
            return config
        from engine.demo import with_demo  # the exchange's libraries are for its own process

        return with_demo(config, self._demo_port)

    def _drain_begins(self) -> None:
        if self._state in (EngineState.STARTING, EngineState.RUNNING):
            self._state = EngineState.DRAINING
            self._notifier.stopping("draining")
            get_logger().info("engine_draining")
            if self._runtime_dir is not None:
                self._runtime_dir.going()

    def _fail(self, reason: str) -> None:
        get_logger().critical("engine_failed", reason=reason)
        if not self._over.done():
            self._over.set_exception(HeliographError(f"the engine failed: {reason}"))
            self._over.exception()  # whoever waits raises it; nobody has to

    def _tick(self, loop: asyncio.AbstractEventLoop, interval: float, due: float) -> None:
        self._meter.loop_lag = max(0.0, loop.time() - due)
        self._meter.tasks = len(asyncio.all_tasks())
        self._figures.update("daemon", "daemon", self._meter.snapshot(), loop.time())
        self._tell_health()
        due = loop.time() + interval
        self._timers["tick"] = loop.call_at(due, self._tick, loop, interval, due)

    def _tell_health(self) -> None:
        """What anybody may know of it; to the workers that do not know it yet."""
        health = public_health(self.health())
        assert self._supervisor is not None
        for name in self._ready_workers():
            told = self._supervisor.processes[name].incarnation, health
            if self._told.get(name) != told:
                self._told[name] = told
                self._control.tell_one(name, "health", health)

    def _watchdog(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._notifier.watchdog_interval is not None:
            self._notifier.watchdog()
            self._timers["watchdog"] = loop.call_later(self._notifier.watchdog_interval, self._watchdog, loop)

    # what the children say -------------------------------------------------------------------------------------------

    def on_ready(self, body: dict[str, Any]) -> None:
        """A child is ready."""
        assert self._supervisor is not None
        self._supervisor.ready(body["name"], body["incarnation"], body)

    def on_report(self, body: dict[str, Any]) -> None:
        """A child's heartbeat and figures, and what its next life shall know."""
        assert self._supervisor is not None
        name, incarnation = body["name"], body["incarnation"]
        if not self._supervisor.heard(name, incarnation):
            return
        self._figures.update(name, incarnation, body["figures"], body["at"])
        process = self._supervisor.processes[name]
        if "state" in body:
            process.spec.argument["state"] = body["state"]
        if name == FEEDS:
            feeds = self._figures.feeds
            feeds.update(body["state"])
            if process.state is ProcessState.READY:  # else it is the word of one that has just died
                feeds.away = None

    def _on_change(self, process: Process) -> None:
        name, state = process.spec.name, process.state
        if name == FEEDS and state is not ProcessState.READY:  # ready is not enough: what it knows comes with a report
            self._figures.feeds.away = f"the feeds process is {state}"
        if state is ProcessState.RESTARTING:
            self._figures.restarted(name)
        elif state is ProcessState.STOPPED:
            self._figures.forget(name)
        write = get_logger().warning if state is ProcessState.RESTARTING else get_logger().info
        fields = {"reason": process.reason} if process.reason else {}
        write(f"process_{state}", name=name, child_pid=process.pid, restarts=process.restarts, **fields)

    # the admin API's backend -----------------------------------------------------------------------------------------

    def health(self) -> dict[str, Any]:
        """The contract's shape: a component per process and per feed."""
        processes = self._supervisor.processes if self._supervisor is not None else {}
        components = self._figures.components(
            {name: _component(process) for name, process in processes.items() if process.wanted}
        )
        for name in self._config.services:  # of which nothing is known while their process is away
            process = components.get(SERVICES, _STARTS)
            components.setdefault(SERVICE + name, _STARTS if process["status"] == "ok" else process)
        for name in self._config.monitored:
            process = components.get(MONITOR, _STARTS)
            components.setdefault(name, _STARTS if process["status"] == "ok" else process)
        return {
            "status": self._status(components),
            "version": VERSION,
            "node": self._config.server.node_name(),
            "components": components,
        }

    def _status(self, components: dict[str, Any]) -> str:
        if self._not_serving() is not None:
            return "down"
        return "ok" if all(part["status"] == "ok" for part in components.values()) else "degraded"

    def _not_serving(self) -> str | None:
        if self._supervisor is None:
            return str(self._state)
        processes = self._supervisor.processes.values()
        able = {process.spec.role for process in processes if process.state is ProcessState.READY}
        return "no hub" if HUB not in able else "no worker accepts clients" if WORKER not in able else None

    def ready(self) -> str | None:
        """``None``, or why not."""
        return self._not_serving() if self._state is EngineState.RUNNING else str(self._state)

    async def stats(self) -> dict[str, Any]:
        """The engine at a glance."""
        return self._figures.stats()

    async def metrics(self) -> bytes:
        """Prometheus text."""
        return self._figures.render()

    def feeds(self) -> dict[str, Any]:
        """Each feed as last reported."""
        return self._figures.feeds.shown()

    async def operate_feed(self, name: str, action: str) -> dict[str, Any]:
        """Have the feeds process do it."""
        assert self._supervisor is not None
        if name not in self._config.upstreams:
            raise no_feed(name)
        process = self._supervisor.processes[FEEDS]
        if process.state is not ProcessState.READY:
            raise RequestError(ErrorCode.UNAVAILABLE, f"the feeds process is {process.state}")
        snapshot: dict[str, Any] = await self._control.ask(FEEDS, "feed", {"name": name, "action": action})
        return snapshot

    async def ask_monitor(self, service: str, method: str, params: dict[str, Any]) -> Any:
        """Have the monitor do it."""
        if service not in self._config.monitored:
            raise no_service(service)
        return await self._control.ask(MONITOR, "ask", {"service": service, "method": method, "params": params})

    async def ask_workers(self, order: dict[str, Any]) -> list[Any]:
        """Ask all workers that are there at once."""
        return await asyncio.gather(*(self._control.ask(name, "sessions", order) for name in self._ready_workers()))

    def _ready_workers(self) -> list[str]:
        assert self._supervisor is not None
        return [
            process.spec.name
            for process in self._supervisor.processes.values()
            if process.spec.role == WORKER and process.state is ProcessState.READY
        ]

    def client_port(self) -> ClientPort:
        """As it is bound."""
        return ClientPort(self.port, self._config.server.tls_cert_file is not None, self._config.auth)

    async def topics(self, after: str, limit: int, containing: str) -> list[dict[str, Any]]:
        """Have the hub look."""
        asked = {"after": after, "limit": limit, "containing": containing}
        found: list[dict[str, Any]] = await self._control.ask(HUB, "topics", asked)
        return found

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
        """Give the running processes, and those to come, a new configuration.

        Returns:
            The names of what only a restart takes; the rest is in force.

        Raises:
            ConfigError: nothing has changed; or a process refused what it says, the others have taken it.
            HeliographError: a process did not answer; the others have taken it.
        """
        config = self._own(config)
        left = needs_restart(self._config, config)
        taken = reloaded(self._config, config)
        self._admin.reload(taken.admin)
        self._notifier.reloading()
        before, self._config = self._config, taken
        plain = msgspec.to_builtins(for_children(self._config, self.admin_port))
        for child in self._children:
            child.argument["config"] = plain
            if child.role == FEEDS and "state" in child.argument:  # of a process that is dead now, maybe
                same = {name for name, table in config.upstreams.items() if before.upstreams.get(name) == table}
                child.argument["state"] = {n: state for n, state in child.argument["state"].items() if n in same}
        assert self._supervisor is not None
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(RELOAD_TIMEOUT):
                await self._supervisor.wait_started()  # they were forked with the old one and cannot be asked before
        refused = await self._control.reload(for_children(self._config, self.admin_port))
        for name, wanted in ((FEEDS, self._config.upstreams), (MONITOR, self._config.monitored)):
            if wanted and not self._supervisor.processes[name].wanted:
                try:
                    await self._supervisor.attempt([name])
                except HeliographError as error:
                    text = f"it does not start, its log says why ({error})"
                    refused[name] = RequestError(ErrorCode.BAD_REQUEST, text)
        self._notifier.ready("reloaded")
        get_logger().info("engine_reloaded", needs_restart=left, refused={name: str(e) for name, e in refused.items()})
        if refused:
            bad = all(isinstance(e, RequestError) and e.code is ErrorCode.BAD_REQUEST for e in refused.values())
            text = "; ".join(f"{name}: {getattr(e, 'message', e)}" for name, e in refused.items())
            raise (ConfigError if bad else HeliographError)(f"{text}; the other processes have taken it")
        return left

    def restart(self) -> dict[str, Any]:
        """Begin to put other workers in the place of those that run; see :mod:`engine.rolling`."""
        if self._supervisor is None or self._state is not EngineState.RUNNING:
            raise RequestError(ErrorCode.CONFLICT, f"the engine is {self._state}")
        if self._restart is not None and not self._restart.over:
            raise RequestError(ErrorCode.CONFLICT, "a restart is under way")
        workers = [process for process in self._supervisor.processes.values() if process.spec.role == WORKER]
        old = [process.spec.name for process in workers if process.wanted]
        new = [process.spec.name for process in workers if not process.wanted]
        self._restart = RollingRestart(self._supervisor, self._control, list(map(Replacement, old, new)))
        self._restart.start()
        return self._restart.shown()

    def restart_state(self) -> dict[str, Any]:
        """How the last one stands."""
        return NO_RESTART if self._restart is None else self._restart.shown()

    async def drain(self) -> None:
        """Begin to stop, by request: :meth:`wait` returns, and its owner stops the engine."""
        self._drain_begins()
        if not self._over.done():
            self._over.set_result(None)


def run(config: Config, demo: bool = False, load: Callable[[], Config] | None = None) -> int:
    """Run an engine in this process until a signal ends it; see :func:`engine.runner.run`."""
    from engine.runner import run  # it is built on this module

    return run(config, demo, load)


_STARTS = {"status": "degraded", "reason": "it starts", "retry_in": None}


def _component(process: Process) -> dict[str, Any]:
    if process.state is ProcessState.READY:
        return {"status": "ok", "reason": None, "retry_in": None}
    reason = f"{process.state}: {process.reason}" if process.reason else str(process.state)
    return {"status": "down", "reason": reason, "retry_in": None}
