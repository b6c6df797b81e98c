"""The hub: the router and the stages behind the bus, one per engine."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import zmq

from actors.messages import Arrived, PeerGone, WindowOpened
from actors.sqlite_history import database_bytes
from actors.supervisor import GetStatistics, Supervisor
from engine import wiring
from engine.child import Child, run_child
from engine.config import Config
from engine.log import get_logger
from engine.tracing import start_tracing
from transport.bus_server import BusServer, Peer
from transport.meter import Condition, Meter

START_TIMEOUT = 30.0  # s for stages to start
STOP_TIMEOUT = 5.0  # s for the hub's actors to finish what is queued


class Hub:
    """Owns the bus server, the router and the stages. Runs on one loop, in a process of its own or embedded.

    Args:
        endpoint: where workers, feeds and the daemon connect.
        failed: called with the reason when supervision gives up; the process must end.
        runtime_dir: of the engine, where the recent events are; ``None``: they are in memory.
    """

    def __init__(
        self,
        config: Config,
        context: zmq.Context[zmq.Socket[bytes]],
        endpoint: str,
        failed: Callable[[str], None],
        runtime_dir: Path | None = None,
    ) -> None:
        self.meter = Meter()
        self._bus = BusServer(
            context,
            endpoint,
            self,
            name="hub",
            window=config.delivery.bus_window,
            heartbeat_interval=config.server.heartbeat_interval,
            heartbeat_timeout=config.server.heartbeat_timeout,
        )
        self._spans = start_tracing(config, "hub")
        self._actors = wiring.hub_actors(
            config, self._bus.hurry, self.meter, self._drop_peers, runtime_dir, self._spans
        )
        self._router = self._actors.router_ref
        self._failed = failed
        self._supervisor: Any = None

    async def start(self) -> None:
        """Actors first, then the bus: nobody is heard before there is somebody to listen."""
        self._supervisor = Supervisor.start(children=self._actors.specs, on_escalate=self._failed)
        await self._supervisor.ask_async(GetStatistics(), timeout=START_TIMEOUT)
        self._bus.start()

    async def stop(self) -> None:
        """Finish what is queued, tell the peers, close."""
        self._bus.flush()
        await self._supervisor.stop_async(timeout=STOP_TIMEOUT)
        self._bus.stop()
        self._actors.closing.close()
        if self._spans is not None:
            await self._spans.close()

    async def drain(self) -> None:
        """Nothing to wait for: by the time the hub is drained, those who publish have gone."""

    async def reload(self, config: Config) -> None:
        """The hub takes nothing from a reload; what it would need says so (``needs_restart``)."""

    async def refresh(self) -> None:
        """Bring the gauges up to date."""
        meter, peers = self.meter, self._bus.peers
        meter.bus_queue = {name: len(peer.out) for name, peer in peers.items()}
        meter.bus_closed = {name: int(not peer.window_open) for name, peer in peers.items()}
        self._refresh_history()
        groups = self._actors.groups.counts()
        meter.group_members, meter.group_waiting, meter.group_unacknowledged, meter.group_returned = groups

    def _refresh_history(self) -> None:
        meter, actors = self.meter, self._actors
        meter.history_bytes = {"recent": actors.log.size}
        if actors.durable_file is not None:
            meter.history_bytes["durable"] = database_bytes(actors.durable_file)
        meter.history_topics = len(actors.log)
        meter.history_waiting = actors.watch.waiting
        meter.conditions = {**meter.conditions, "history": Condition(actors.watch.reason)}
        if (backplane := actors.backplane) is not None:
            meter.history_waiting += backplane.waiting
            meter.backplane_spooled = backplane.spooled
            meter.conditions["backplane"] = Condition(backplane.trouble, backplane.retry_in)

    async def topics(self, body: Mapping[str, Any]) -> list[dict[str, Any]]:
        """``{after, limit, containing}``: as :meth:`~actors.topic_log.TopicLog.page`, without the data."""
        return [
            {"topic": last.topic, "epoch": last.epoch, "offset": last.offset, "ts": last.ts, "type": last.type}
            for last in self._actors.log.page(body["after"], body["limit"], body["containing"])
        ]

    def _drop_peers(self) -> None:
        """Every peer comes again at once and tells the new router everything."""
        for peer in tuple(self._bus.peers.values()):
            self._bus.drop(peer, "the router was restarted")

    # the bus ---------------------------------------------------------------------------------------------------------

    def on_peer(self, peer: Peer) -> None:
        """A worker, the feeds or the daemon joined."""
        get_logger().info("bus_peer_joined", peer=peer.name, peer_pid=peer.pid)

    def on_batch(self, peer: Peer, items: list[Any]) -> None:
        """Publishes and interests."""
        self._router.hand(Arrived(peer, items))

    def on_window(self, peer: Peer, open: bool) -> None:
        """A worker fell behind, or reads again."""
        get_logger().info("bus_window", peer=peer.name, open=open)
        if open:
            self._router.tell(WindowOpened(peer))

    def on_gone(self, peer: Peer, reason: str) -> None:
        """A peer died or left."""
        get_logger().info("bus_peer_gone", peer=peer.name, reason=reason)
        self._router.tell(PeerGone(peer))


def main(argument: dict[str, Any], parent_fd: int) -> None:
    """The hub's process."""

    async def serve(child: Child) -> None:
        hub = Hub(child.config, child.context, child.endpoint("hub"), child.fail, Path(child.argument["runtime_dir"]))
        await hub.start()
        try:
            await child.serve(
                meter=hub.meter, drain=hub.drain, reload=hub.reload, refresh=hub.refresh, asks={"topics": hub.topics}
            )
        finally:
            await hub.stop()

    run_child(argument, parent_fd, serve)
