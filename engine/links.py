"""How the engine's processes join a bus."""

from __future__ import annotations

import zmq

from engine.config import Config
from transport.bus_client import BusClient, Handler


def bus_client(
    config: Config,
    context: zmq.Context[zmq.Socket[bytes]],
    endpoint: str,
    handler: Handler,
    name: str,
    *,
    window: int | None = None,
    auto_ack: bool = True,
) -> BusClient:
    """A link with the configuration's heartbeats; see :class:`~transport.bus_client.BusClient`.

    Args:
        window: none: ``delivery.bus_window``, as the hub has it.
    """
    return BusClient(
        context,
        endpoint,
        handler,
        name=name,
        window=config.delivery.bus_window if window is None else window,
        heartbeat_interval=config.server.heartbeat_interval,
        heartbeat_timeout=config.server.heartbeat_timeout,
        auto_ack=auto_ack,
    )
