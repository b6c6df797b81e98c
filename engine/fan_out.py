"""Clients, index and broadcaster actors, and the link to the hub: what workers and the services node have in common."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

import zmq

from actors.inner_client import InnerClient
from actors.messages import Downlink, HubFound, HubLost
from actors.supervisor import Supervisor
from engine import wiring
from engine.config import Config
from engine.links import bus_client
from engine.log import get_logger
from engine.tracing import start_tracing
from engine.version import VERSION
from transport.bus_client import STOPPED
from transport.meter import Meter

STOP_TIMEOUT = 2.0  # s for the actors to finish what is queued


class FanOut:
    """Takes sessions' part of the hub's events to them. Runs on one loop.

    Args:
        failed: called with the reason when an actor died; the process must end, its sessions begin anew elsewhere.
        name: of this peer of the hub.
        stats: the public figures, for the `stats` op.
    """

    def __init__(
        self,
        config: Config,
        context: zmq.Context[zmq.Socket[bytes]],
        endpoint: str,
        failed: Callable[[str], None],
        name: str,
        stats: Callable[[], Mapping[str, Any]] = dict,
    ) -> None:
        self.meter = Meter()
        self._failed = failed
        self._uplink = bus_client(config, context, endpoint, self, name, auto_ack=False)
        self._spans = start_tracing(config, name)
        self._actors = wiring.worker_actors(
            config, self._uplink, self.meter, version=VERSION, stats=stats, spans=self._spans
        )
        self._clients = self._actors.door
        self._index = self._actors.index_ref
        self._supervisor: Any = None
        self._hub = asyncio.Event()

    async def start(self) -> None:
        """Actors, then the link; returns when a hub answers."""
        self._supervisor = Supervisor.start(children=self._actors.specs, on_escalate=self._failed)
        self._uplink.start()
        await self._hub.wait()

    async def stop(self) -> None:
        """Leave; sessions that are still there are cut."""
        await self._supervisor.stop_async(timeout=STOP_TIMEOUT)
        self._uplink.stop()
        if self._spans is not None:
            await self._spans.close()

    def inner_client(self) -> InnerClient:
        """A client without a socket, for a part of this process; it is closed by its owner, before :meth:`stop`."""
        return InnerClient(self._clients)

    def configure(self, config: Config) -> None:
        """Take what a reload can of limits and delivery, for sessions to come and for pacing."""
        self._clients.configure(wiring.client_limits(config))
        self._clients.owned = config.owned_topics
        self._actors.broadcaster.configure(wiring.pacer(config))

    # the link to the hub ---------------------------------------------------------------------------------------------

    def on_server(self, incarnation: str) -> None:
        """A hub answers: tell it everything."""
        get_logger().info("hub_found", incarnation=incarnation)
        self._clients.hub_found()
        self._index.tell(HubFound(incarnation))
        self._hub.set()

    def on_batch(self, items: list[Any]) -> None:
        """Events, fences and answers."""
        self._index.hand(Downlink(items, self._uplink.received))

    def on_window(self, open: bool) -> None:
        """The hub is behind, or reads again."""
        if open:
            self._clients.release()

    def on_lost(self, reason: str) -> None:
        """The hub went; the link finds the next one by itself."""
        if reason != STOPPED:  # we left
            get_logger().warning("hub_lost", reason=reason)
        self._actors.clients_ref.tell(HubLost(f"the hub went away ({reason})"))
