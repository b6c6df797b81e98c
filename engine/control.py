"""The control bus between the daemon and its children: who is ready, how it goes, and drain, reload, stop.

Each child says ``ready`` once and then, every ``heartbeat_interval`` and when something important has changed,
``report``; both carry its name and the incarnation that the daemon gave to this life of it. A child that stops
reporting is taken for dead (:mod:`engine.process_supervisor` kills it): the report comes from the loop that does the
child's work. All of it are tells and asks (:mod:`actors.remote`) to an actor called ``control``.

| to the daemon | body |
|---|---|
| tell ``ready`` | ``{name, incarnation, pid, …}`` and the child's own facts |
| tell ``report`` | ``{name, incarnation, at, figures}`` and ``state``, where there is one for its next life to know |

| to a child | body |
|---|---|
| tell ``drain`` | none: finish, then end; SIGTERM says the same |
| ask ``reload`` | the new configuration as plain values; answered when it is in force |
| ask ``feed`` | feeds only: ``{name, action}``; answered with the feed's snapshot |
| ask ``sessions`` | workers only: an order of :class:`actors.session_directory.SessionDirectory` |
| ask ``leave`` | workers only, once a successor listens: accept no more; answered when no handshake is under way |
| tell ``health`` | workers only: what ``GET /health`` says on the client port, see :mod:`engine.public_health` |
| ask ``ask`` | the monitor only: ``{service, method, params}``; answered by that service |
| ask ``topics`` | the hub only: ``{after, limit}``; answered with a page of topics |
| tell ``stop`` | none: end now |

What a ``reload`` or another ask has changed is reported before it is answered.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any, Protocol

import msgspec
import zmq

from actors.remote import Dispatcher, RemoteLink
from engine.config import Config
from engine.links import bus_client
from engine.log import get_logger
from engine.runtime_dir import endpoint
from transport.bus import WINDOW_BYTES
from transport.bus_server import BusServer, Peer
from transport.codes import ErrorCode
from transport.errors import ConnectionLost, HeliographError, RequestError

ACTOR = "control"
LINK_TIMEOUT = 10.0  # s for a child to find the daemon
ASK_TIMEOUT = 20.0  # s for a child to do what it is asked; above what it gives its own actors
REPORT_SPACING = 0.02  # s at least between two reports
ORPHAN_TIMEOUT = 4.5  # s from the daemon's death to this child's, whatever it does


class Daemon(Protocol):
    """Whom the children talk to; called on the loop, must not block."""

    def on_ready(self, body: dict[str, Any], /) -> None:
        """A child said ``ready``."""

    def on_report(self, body: dict[str, Any], /) -> None:
        """A child's ``report``."""


class ControlServer:
    """The daemon's end."""

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        address: str,
        daemon: Daemon,
        *,
        heartbeat_interval: float,
        heartbeat_timeout: float,
    ) -> None:
        self._dispatcher = Dispatcher()
        self._dispatcher.register(ACTOR, daemon, ("ready", "report"))
        self._links: dict[str, RemoteLink] = {}
        self._bus = BusServer(
            context,
            address,
            self,
            name="daemon",
            heartbeat_interval=heartbeat_interval,
            heartbeat_timeout=heartbeat_timeout,
        )

    def start(self) -> None:
        """Listen; raises :class:`HeliographError` where that is impossible."""
        self._bus.start()

    def stop(self) -> None:
        """Send what waits, and close."""
        self._bus.stop()

    def tell(self, method: str) -> None:
        """``drain`` or ``stop`` to every child that is there."""
        for link in self._links.values():
            link.ref(ACTOR).tell(method)

    def tell_one(self, name: str, method: str, body: Any) -> None:
        """Something to one child; lost where it is away."""
        try:
            if (link := self._links.get(name)) is not None:
                link.ref(ACTOR).tell(method, body)
        except ConnectionLost:
            pass

    async def ask(self, name: str, method: str, body: Any) -> Any:
        """The answer of a child.

        Raises:
            RequestError: why it refused; ``unavailable`` where it is away or goes meanwhile: the outcome is unknown.
        """
        link = self._links.get(name)
        if link is None:
            raise RequestError(ErrorCode.UNAVAILABLE, f"the {name} process is away")
        return await link.ref(ACTOR).ask(method, body, timeout=ASK_TIMEOUT)

    async def reload(self, config: Config) -> dict[str, Exception]:
        """Give every child ``config``; what went wrong, by the child's name."""
        body = msgspec.to_builtins(config)
        links = dict(self._links)
        answers = await asyncio.gather(
            *(link.ref(ACTOR).ask("reload", body, timeout=ASK_TIMEOUT) for link in links.values()),
            return_exceptions=True,
        )
        return {name: answer for name, answer in zip(links, answers, strict=True) if isinstance(answer, Exception)}

    def on_peer(self, peer: Peer) -> None:
        """A child's link is up; it counts when it says ready."""
        self._links[peer.name] = RemoteLink(peer, self._dispatcher)

    def on_batch(self, peer: Peer, items: list[Any]) -> None:
        """What children say."""
        for item in items:
            self._links[peer.name].receive(item)

    def on_window(self, peer: Peer, is_open: bool) -> None:
        """Too little is said here to fill a window."""

    def on_gone(self, peer: Peer, reason: str) -> None:
        """The link only; whether the child lives is told by its exit or its silence."""
        self._links.pop(peer.name).lost(reason)


class ControlClient:
    """A child's end; all on its main thread's loop. Also watches SIGTERM and the pipe from the daemon.

    Args:
        argument: what ``main`` was given.
        parent_fd: end of file there means that the daemon is dead.
        on_drain: finish what is going on; it is over when this returns. After the daemon's death it has
            :data:`ORPHAN_TIMEOUT`, then the process is killed.
        on_reload: takes a new configuration; what it raises is the daemon's answer.
        report: ``{"figures": …}``, plain values; given the time in seconds that the last heartbeat's timer was late.
        asks: what else the daemon may ask; each is called with the ask's body, and what it returns or raises is the
            answer.
        context: shared with the child's other links, not terminated here; ``None`` makes one of its own.
    """

    def __init__(
        self,
        argument: Mapping[str, Any],
        parent_fd: int,
        on_drain: Callable[[], Awaitable[None]],
        on_reload: Callable[[Config], Awaitable[None] | None],
        report: Callable[[float], Awaitable[Mapping[str, Any]]],
        asks: Mapping[str, Callable[[Any], Awaitable[Any]]] | None = None,
        context: zmq.Context[zmq.Socket[bytes]] | None = None,
    ) -> None:
        config = msgspec.convert(argument["config"], Config)
        self._who = {"name": argument["name"], "incarnation": argument["incarnation"]}
        self._interval = config.server.heartbeat_interval
        self._parent_fd = parent_fd
        self._drained_by, self._reloaded_by, self._report = on_drain, on_reload, report
        self._loop = asyncio.get_running_loop()
        self._context = context or zmq.Context()
        self._owns_context = context is None
        self._link = bus_client(
            config,
            self._context,
            endpoint(argument["runtime_dir"], "control"),
            self,
            argument["name"],
            window=WINDOW_BYTES,
        )
        self._dispatcher = Dispatcher()
        self._dispatcher.register(ACTOR, self, ("drain", "reload", "stop"))
        self._dispatcher.register(ACTOR, _Asked(asks or {}, self.report), asks or ())
        self._remote = RemoteLink(self._link, self._dispatcher)
        self._daemon = self._remote.ref(ACTOR)
        self._stopped: asyncio.Future[str] = self._loop.create_future()
        self._draining: asyncio.Task[None] | None = None
        self._heartbeat: asyncio.TimerHandle | None = None
        self._due = self._late = 0.0  # loop time of the next heartbeat; how late the last one was
        self._news = asyncio.Event()
        self._reporter: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Find the daemon; from here on drain, stop and the daemon's death are heeded.

        Raises:
            HeliographError: it did not answer within :data:`LINK_TIMEOUT`.
        """
        self._loop.add_reader(self._parent_fd, self._on_parent_gone)
        self._loop.add_signal_handler(signal.SIGTERM, self.drain, "SIGTERM")
        self._link.start()
        try:
            async with asyncio.timeout(LINK_TIMEOUT):
                await self._link.writable()
        except TimeoutError:
            raise HeliographError(f"the daemon did not answer within {LINK_TIMEOUT:g} s") from None

    async def ready(self, **info: Any) -> None:
        """Tell the daemon, and report from here on."""
        await self._link.writable()
        self._daemon.tell("ready", {**info, **self._who, "pid": os.getpid()})
        self._due = self._loop.time()
        self._beat()
        self._reporter = asyncio.create_task(self._report_on(), name="report")

    def report_soon(self) -> None:
        """Something important has changed: report before the next heartbeat, however often this is called meanwhile."""
        self._news.set()

    async def report(self) -> None:
        """Report now; returns when the report is on its way, before anything that is said after it."""
        try:
            body = await self._report(self._late)
            self._daemon.tell("report", {**body, **self._who, "at": time.monotonic()})
        except ConnectionLost:
            pass  # the next report goes to the next link

    async def wait_stopped(self) -> str:
        """Return, with the reason, when the process has to end: drained, told so, or the daemon is dead."""
        return await asyncio.shield(self._stopped)

    def drain(self, reason: str) -> None:
        """Begin to drain; again is without effect."""
        if self._draining is None and not self._stopped.done():
            get_logger().info("draining", reason=reason)
            self._draining = asyncio.create_task(self._drain(reason), name="drain")

    async def close(self) -> None:
        """Say goodbye. After it nothing is watched any more."""
        self._loop.remove_reader(self._parent_fd)
        self._loop.remove_signal_handler(signal.SIGTERM)
        if self._heartbeat is not None:
            self._heartbeat.cancel()
        for task in (self._reporter, self._draining):
            if task is not None:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
        await self._dispatcher.close()
        self._link.stop()
        if self._owns_context:
            self._context.term()

    async def _drain(self, reason: str) -> None:
        try:
            await self._drained_by()
        except Exception as error:
            get_logger().error("drain_failed", error=str(error), exc_info=error)
        self._stop(reason)

    def _stop(self, reason: str) -> None:
        if not self._stopped.done():
            self._stopped.set_result(reason)

    def _on_parent_gone(self) -> None:
        self._loop.remove_reader(self._parent_fd)
        # The kernel's timer: it comes also to a loop that hangs. The default action of SIGALRM ends the process.
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_REAL, ORPHAN_TIMEOUT)
        self.drain("the daemon is dead")

    def _beat(self) -> None:
        now = self._loop.time()
        self._late, self._due = max(0.0, now - self._due), now + self._interval
        self._heartbeat = self._loop.call_at(self._due, self._beat)
        self.report_soon()

    async def _report_on(self) -> None:
        while True:
            await self._news.wait()
            self._news.clear()
            try:
                await self.report()
            except Exception as error:  # silence would have us killed; the log shall say for what
                get_logger().error("report_failed", error=str(error), exc_info=error)
            await asyncio.sleep(REPORT_SPACING)

    # what the daemon says --------------------------------------------------------------------------------------------

    def on_drain(self, body: Any) -> None:
        """See :meth:`drain`."""
        self.drain("the daemon said so")

    def on_stop(self, body: Any) -> None:
        """End now."""
        self._stop("the daemon said so")

    async def on_reload(self, body: Any) -> None:
        """A new configuration."""
        try:
            done = self._reloaded_by(msgspec.convert(body, Config))
            if done is not None:
                await done
        except HeliographError as error:
            get_logger().error("reload_failed", error=str(error))
            raise RequestError("bad_request", str(error)) from error
        get_logger().info("reloaded")
        await self.report()

    # the link to the daemon ------------------------------------------------------------------------------------------

    def on_server(self, incarnation: str) -> None:
        """The link is up."""

    def on_batch(self, items: list[Any]) -> None:
        """Tells, asks and answers."""
        for item in items:
            self._remote.receive(item)

    def on_window(self, is_open: bool) -> None:
        """Too little is said here to fill a window."""

    def on_lost(self, reason: str) -> None:
        """The pipe tells whether the daemon is dead."""
        self._remote.lost(reason)


class _Asked:
    """What a node answers to the daemon, as the dispatcher wants it: ``on_<ask>``. First it is reported."""

    def __init__(
        self, asks: Mapping[str, Callable[[Any], Awaitable[Any]]], report: Callable[[], Awaitable[None]]
    ) -> None:
        self._report = report
        for name, handler in asks.items():
            setattr(self, f"on_{name}", partial(self._answer, handler))

    async def _answer(self, handler: Callable[[Any], Awaitable[Any]], body: Any) -> Any:
        answer = await handler(body)
        await self._report()
        return answer
