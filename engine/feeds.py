"""The feeds node: one supervised connection actor per upstream feed, and the link to the hub."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import zmq

from actors.feed_supervisor import OPERATE_TIMEOUT_S, ApplyFeeds, GetFeeds, OperateFeed
from actors.reply import AskTimeout
from actors.supervisor import GetStatistics, Supervisor
from actors.tracing import PublishTracing
from engine import feed_wiring
from engine.child import Child, run_child
from engine.config import Config
from engine.links import bus_client
from engine.log import get_logger
from engine.tracing import start_tracing
from transport.bus_client import STOPPED
from transport.codec import pack
from transport.codes import ErrorCode
from transport.errors import RequestError
from transport.messages import Publish
from transport.meter import Meter

START_TIMEOUT = 10.0  # s for the feed supervisor to start
STOP_TIMEOUT = 5.0  # s for all connections to close
ASK_TIMEOUT = 5.0  # s for the feed supervisor to answer
OPERATE_TIMEOUT = OPERATE_TIMEOUT_S + ASK_TIMEOUT  # s for a connection to do what an operator asks
HELD = 100_000  # events that wait for a hub; beyond it the oldest are dropped


class Feeds:
    """Owns the feed supervisor. Runs on one loop, in a process of its own or embedded.

    It is the feeds' way to the hub (:class:`actors.connection.Publisher`): while the hub is away or behind, no upstream
    socket is read; the batch in hand is held.

    Args:
        failed: called with the reason when the feed supervisor cannot be kept running.
        changed: called after each change of a feed's state or circuit breaker; :meth:`refresh` then brings the news.
        known: the feeds' snapshots from an earlier life of the process.

    Raises:
        ConfigError: a protocol, its options or a token function cannot be used.

    Attributes:
        status: the feeds' snapshots (:class:`actors.feed_supervisor.GetFeeds`) at the last :meth:`refresh`.
    """

    def __init__(
        self,
        config: Config,
        context: zmq.Context[zmq.Socket[bytes]],
        endpoint: str,
        failed: Callable[[str], None],
        *,
        changed: Callable[[], None],
        known: Mapping[str, dict[str, Any]] | None = None,
    ) -> None:
        feed_wiring.feed_specs(config)  # what cannot work is an error now, not a child that will not start
        self.meter = Meter()
        self.status = {name: snapshot for name, snapshot in (known or {}).items() if name in config.upstreams}
        self._config = config
        # One batch per feed, for nothing is read meanwhile; and what feeds say of themselves.
        self._held: list[bytes] = []
        self._uplink = bus_client(config, context, endpoint, self, "feeds")
        self._spans = start_tracing(config, "feeds")
        tracing = None if self._spans is None else PublishTracing(self._spans, config.tracing.sample)
        self._spec = feed_wiring.feeds_actor(lambda: self._config, self, dict(self.status), changed, tracing)
        self._failed = failed
        self._supervisor: Any = None

    async def start(self) -> None:
        """The link first, so that the feeds have somewhere to publish."""
        self._uplink.start()
        self._supervisor = Supervisor.start(children=[self._spec], on_escalate=self._failed)
        await self._supervisor.ask_async(GetStatistics(), timeout=START_TIMEOUT)

    async def stop(self) -> None:
        """Close the feeds, then the link."""
        await self._supervisor.stop_async(timeout=STOP_TIMEOUT)
        self._uplink.stop()
        if self._spans is not None:
            await self._spans.close()

    async def reload(self, config: Config) -> None:
        """Add, remove and change feeds; those that stay the same notice nothing."""
        await self._spec.ref.ask_async(ApplyFeeds(feed_wiring.feed_specs(config)), timeout=ASK_TIMEOUT)
        self._config = config

    async def operate(self, body: Mapping[str, str]) -> dict[str, Any]:
        """An operator's ``{name, action}``, see :class:`actors.feed_supervisor.OperateFeed`; the feed's snapshot.

        Raises:
            RequestError: ``not_found``, ``conflict``; ``unavailable``: no answer, the outcome is unknown.
        """
        try:
            snapshot: dict[str, Any] = await self._spec.ref.ask_async(
                OperateFeed(body["name"], body["action"]), timeout=OPERATE_TIMEOUT
            )
        except AskTimeout as error:
            raise RequestError(ErrorCode.UNAVAILABLE, str(error)) from None
        return snapshot

    async def drain(self) -> None:
        """Nothing to wait for: stopping closes the upstream sockets and passes on the batch in hand."""

    async def refresh(self) -> None:
        """Look at the feeds: brings :attr:`status` up to date."""
        self.status = await self._spec.ref.ask_async(GetFeeds(), timeout=ASK_TIMEOUT)

    # the feeds' publisher --------------------------------------------------------------------------------------------

    def publish(self, batch: list[Publish]) -> None:
        """Pass on a batch, in order."""
        packed = [pack(publish) for publish in batch]
        if self._uplink.connected:
            self._uplink.out.extend(packed)
            self._uplink.wake()
        else:
            self._held += packed
            if (excess := len(self._held) - HELD) > 0:
                del self._held[:excess]
                self.meter.dropped["refused"] = self.meter.dropped.get("refused", 0) + excess

    @property
    def is_writable(self) -> bool:
        """Whether the hub is there and keeps up."""
        return self._uplink.connected and self._uplink.window_open

    async def writable(self) -> None:
        """Return when it is."""
        await self._uplink.writable()

    # the link to the hub ---------------------------------------------------------------------------------------------

    def on_server(self, incarnation: str) -> None:
        """A hub answers: what was held goes first."""
        get_logger().info("hub_found", incarnation=incarnation)
        held, self._held = self._held, []
        self._uplink.out.extend(held)
        self._uplink.wake()

    def on_batch(self, items: list[Any]) -> None:
        """The hub has nothing to say to feeds: their publishes ask for no answer."""

    def on_window(self, open: bool) -> None:
        """Those who wait in :meth:`writable` are woken by the link."""

    def on_lost(self, reason: str) -> None:
        """The hub went; the link finds the next one by itself."""
        if reason != STOPPED:  # we left
            get_logger().warning("hub_lost", reason=reason)


def main(argument: dict[str, Any], parent_fd: int) -> None:
    """The feeds' process."""

    async def serve(child: Child) -> None:
        feeds = Feeds(
            child.config,
            child.context,
            child.endpoint("hub"),
            child.fail,
            changed=child.report_soon,
            known=argument.get("state"),
        )
        await feeds.start()
        try:
            await child.serve(
                meter=feeds.meter,
                drain=feeds.drain,
                reload=feeds.reload,
                refresh=feeds.refresh,
                state=lambda: feeds.status,
                asks={"feed": feeds.operate},
            )
        finally:
            await feeds.stop()

    run_child(argument, parent_fd, serve)
