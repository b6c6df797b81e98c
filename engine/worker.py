"""A worker: client sockets and fan-out, one per core."""

from __future__ import annotations

import asyncio
import math
import socket
import time
from collections.abc import Callable, Mapping
from typing import Any

import msgspec
import zmq

from actors.explanation import Explanation
from actors.index_check import problems
from actors.session import Session
from actors.session_directory import SessionDirectory
from engine import wiring
from engine.child import Child, run_child
from engine.config import Config
from engine.fan_out import FanOut
from engine.handover import Handover, take_over
from engine.public_health import WELL
from engine.socketio_wiring import SocketIoDoors
from engine.static_files import CLIENT_PATH, javascript_client
from transport.gate import Gate
from transport.handoff import Handoff
from transport.listener import Listener, bind
from transport.messages import Publication
from transport.static_file import StaticFile
from transport.websocket import WebSocketConnection

WAVE_INTERVAL = 0.1  # s between two groups of clients that are sent away
LEAST_WAVE = 100  # clients; so many may come back elsewhere at once
ANSWERS = 0.75  # of drain_timeout: so long a publisher may wait for its answers before it is sent away
HANDSHAKE_GRACE = 2.0  # s for handshakes under way when a successor has taken over
LOOK_AGAIN = 0.01  # s between two looks at who is still there, in a drain
SLICE = 0.002  # s for which an operator's question may hold up the loop, more or less
CHECK_TIMEOUT = 15.0  # s that a check of the index may take in all
PROBLEMS = 100  # that a check names; with so many it ends


class Worker(FanOut):
    """Fan-out to the clients of a listener, which it owns.

    Args:
        sock: bound client socket, shared by port with the other workers.
        directory: the runtime directory, where the workers find each other; ``None``: this is the only one.
    """

    path = "/ws"

    def __init__(
        self,
        config: Config,
        context: zmq.Context[zmq.Socket[bytes]],
        endpoint: str,
        sock: socket.socket,
        failed: Callable[[str], None],
        name: str = "worker-0",
        directory: str | None = None,
    ) -> None:
        super().__init__(config, context, endpoint, failed, name, self._stats)
        self._config, self._sock, self._runtime_dir = config, sock, directory
        self._directory = SessionDirectory(self._clients, name, time.time)
        self._policies = wiring.topic_policies(config)
        self._tls = wiring.client_tls(config)
        self._gate = wiring.gate_policy(config)
        self._listener: Listener | None = None
        self._socketio: SocketIoDoors | None = None
        self._handoff: Handoff | None = None
        self._health = msgspec.json.encode(WELL)

    async def start(self) -> None:
        """Actors, then the link, then the listener: a client is accepted when the worker can serve it."""
        await super().start()
        loop = asyncio.get_running_loop()
        if self._config.socketio.enabled:
            if self._runtime_dir is not None:
                self._handoff = Handoff(self._runtime_dir, self._adopt, loop)
            self._socketio = SocketIoDoors(self._config, self._actors, loop, self._handoff)
        self._listener = Listener(
            loop,
            self._sock,
            self,
            wiring.connection_limits(self._config),
            Gate(self._gate, loop.time),
            None if self._tls is None else self._tls.context,
            self.meter.refused,
            None if self._socketio is None else self._socketio.mounts,
        )
        await self._listener.start()
        if self._handoff is not None:
            self._handoff.start()

    async def drain(self) -> None:
        """Stop accepting, send `bye` and 1012 to everybody, wait for them to go; at the deadline cut the rest.

        Many are sent away in groups, ``drain_spread``, so that whoever takes them in next is not overrun.
        """
        if self._listener is None:
            return
        loop, server = asyncio.get_running_loop(), self._config.server
        began = loop.time()
        deadline = began + server.drain_timeout
        await self._listener.stop_accepting()
        spread = min(server.drain_spread, server.drain_timeout / 2)
        wave = max(LEAST_WAVE, math.ceil(len(self._clients.sessions) * WAVE_INTERVAL / spread))
        patience = began + ANSWERS * server.drain_timeout
        left = self._clients.send_away(wave)
        while left:
            await asyncio.sleep(WAVE_INTERVAL)
            left = self._clients.send_away(wave, patient=loop.time() < patience)
        await _until(lambda: not self._clients.sessions, deadline)  # all have been told
        self._listener.drop_unfinished()
        if (doors := self._socketio) is not None:
            # Who polls comes for what it is told, perhaps through another worker.
            await _until(lambda: not doors.sessions, deadline)
        patience = max(0.0, deadline - loop.time())
        await asyncio.gather(self._listener.wait_closed(patience), self._end_handoff(patience))

    async def shut(self) -> None:
        """Stop accepting: the engine is about to drain, and who is sent away by another worker shall not come here."""
        assert self._listener is not None, "only a worker that is ready is asked"
        await self._listener.stop_accepting()

    async def leave(self) -> None:
        """A successor listens on the same socket: stop accepting; returns when handshakes under way are done.

        Nobody notices: who waits in the kernel's queue is the successor's.
        """
        assert self._listener is not None, "only a worker that is ready is asked"
        await self._listener.stop_accepting()
        for _ in range(round(HANDSHAKE_GRACE / WAVE_INTERVAL)):
            if all(connection.open or connection.closing for connection in self._listener.connections):
                break
            await asyncio.sleep(WAVE_INTERVAL)

    async def stop(self) -> None:
        """Leave; clients that are still there are cut."""
        await self._end_handoff(0.0)
        if self._listener is not None:
            await self._listener.stop()
        if self._socketio is not None:
            self._socketio.close()
        await super().stop()

    async def _end_handoff(self, patience: float) -> None:
        if self._handoff is not None:
            await self._handoff.end(patience)

    def _adopt(self, sock: socket.socket, peer: tuple[str, int], received: bytes) -> None:
        """Another worker has accepted a connection of a client that is here."""
        assert self._listener is not None, "it began before"
        self._listener.adopt(sock, peer, received)

    async def reload(self, config: Config) -> None:
        """Take what a reload can: keys of tokens, limits and delivery, for sessions to come and for pacing."""
        if self._tls is not None:
            self._tls.reload()
        self._config = config
        self._clients.configure_auth(wiring.auth_policy(config))
        self.configure(config)
        if self._listener is not None:
            self._listener.limits = wiring.connection_limits(config)
            if self._socketio is not None:
                self._socketio.configure(config)
            if (policy := wiring.gate_policy(config)) != self._gate:
                self._gate = policy
                self._listener.gate.configure(policy)

    async def refresh(self) -> None:
        """Bring the gauges up to date."""
        meter, audiences = self.meter, self._actors.table.audiences
        meter.outbox_bytes = self._clients.slow_lane.size
        meter.filtered, meter.selections = audiences.filtered, audiences.selections()
        meter.held_events = self._actors.broadcaster.held_events()
        meter.accept_paused = int(self._listener is not None and self._listener.paused)

    def know(self, health: Mapping[str, Any]) -> None:
        """How the engine is, for who asks on the client port; see :mod:`engine.public_health`."""
        self._health = msgspec.json.encode(health)

    async def order(self, order: Mapping[str, Any]) -> Any:
        """An operator's question about sessions, or order to them; see :class:`SessionDirectory`.

        ``{"do": "explain", "topic", "type", "data", "key", "session", "limit"}`` is answered with
        :attr:`Explanation.summary`, ``{"do": "index", "check"}`` as :mod:`engine.admin_index` says.

        Raises:
            RequestError: why a session refused it.
        """
        if order["do"] == "explain":
            return await self._explain(order)
        if order["do"] == "index":
            return await self._inspect(order["check"])
        return self._directory.execute(order)

    async def _explain(self, order: Mapping[str, Any]) -> dict[str, Any]:
        """Look at all sessions, in slices: meanwhile events are delivered, and sessions may come and go."""
        topic, sessions = order["topic"], self._clients.sessions
        event = Publication(topic, "", 0, 0.0, order["type"], order["data"], order["key"])
        explanation = Explanation(event, self._policies.of(topic), order["limit"])
        if order["session"] is not None:
            if (session := sessions.get(order["session"])) is not None:
                explanation.look_closely(session)
            return explanation.summary
        began = time.monotonic()
        for session in list(sessions.values()):
            explanation.look(session)
            if time.monotonic() - began > SLICE:
                await asyncio.sleep(0)
                began = time.monotonic()
        return explanation.summary

    async def _inspect(self, check: bool) -> dict[str, Any]:
        """How much is in the index and, if asked for, whether it is sound; in slices, too."""
        audiences = self._actors.table.audiences
        found: dict[str, Any] = {"worker": self._uplink.name, **audiences.statistics()._asdict()}
        if not check:
            return found
        wrong: list[str] = []
        unchecked: list[str] = []
        found |= {"problems": wrong, "complete": False}
        began = sliced = time.monotonic()
        for problem in problems(audiences, self._clients.everybody, unchecked):
            if problem is not None:
                wrong.append(problem)
            now = time.monotonic()
            if now - began > CHECK_TIMEOUT or len(wrong) >= PROBLEMS:
                return found
            if now - sliced > SLICE:
                await asyncio.sleep(0)
                sliced = time.monotonic()
        found["complete"] = not unchecked
        return found

    def _stats(self) -> dict[str, Any]:
        meter = self.meter
        return {
            "worker": self._uplink.name,
            "connections": meter.connections,
            "subscriptions": meter.subscriptions,
            "deliveries": meter.deliveries,
            "slow_sessions": meter.slow_sessions,
        }

    # the door --------------------------------------------------------------------------------------------------------

    @property
    def subprotocols(self) -> list[str]:
        """What a client may speak."""
        return self._clients.subprotocols

    def open(self, connection: WebSocketConnection) -> Session:
        """A client's handshake is done."""
        return self._clients.open(connection)

    def http(self, method: str, path: str) -> tuple[int, str, bytes] | StaticFile | None:
        """Health on the client port, and the JavaScript client."""
        if path == "/health":
            return 200, "application/json", self._health
        if path == "/ready":
            ready = self._uplink.connected
            body = {"ready": ready} if ready else {"ready": False, "reason": "no hub"}
            return (200 if ready else 503), "application/json", msgspec.json.encode(body)
        if path == CLIENT_PATH:
            return javascript_client()
        return None


async def _until(condition: Callable[[], bool], deadline: float) -> None:
    loop = asyncio.get_running_loop()
    while True:
        if condition() or loop.time() >= deadline:
            return
        await asyncio.sleep(LOOK_AGAIN)


def main(argument: dict[str, Any], parent_fd: int) -> None:
    """A worker's process."""

    async def serve(child: Child) -> None:
        directory, index, predecessor = argument["runtime_dir"], argument["index"], argument["predecessor"]
        sock = take_over(directory, predecessor) or bind(child.config.server.host, argument["client_port"])
        handover = Handover(directory, index, sock)

        async def leave(_: Any) -> None:
            handover.stop()
            await worker.leave()

        async def health(news: Any) -> None:
            worker.know(news)

        async def shut(_: Any) -> None:
            handover.stop()
            await worker.shut()

        worker = Worker(
            child.config, child.context, child.endpoint("hub"), sock, child.fail, argument["name"], directory
        )
        try:
            await worker.start()
            handover.start()
            await child.serve(
                meter=worker.meter,
                drain=worker.drain,
                reload=worker.reload,
                refresh=worker.refresh,
                asks={"sessions": worker.order, "leave": leave, "shut": shut, "health": health},
            )
        finally:
            handover.stop()
            await worker.stop()

    run_child(argument, parent_fd, serve)
