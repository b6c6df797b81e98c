"""Runs one connection actor per configured feed, each under a supervisor of its own, and follows reloads.

Feeds do not share a fate: one that crashes more often than its supervisor allows is paused for ``FAILED_RETRY_S`` and
tried again, the others do not notice. A feed's backoff and counters are kept here, so that they outlive its actors.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from actors.backoff import Backoff
from actors.connection import FeedConnection, FeedSpec, FeedState, FeedStatus, Publisher
from actors.loop_actor import LoopActor
from actors.mailbox import Mailbox
from actors.mailbox_actor import Left, MailboxActor
from actors.mapping import Mapper
from actors.reply import AskTimeout
from actors.supervisor import ChildSpec, Supervisor
from transport.errors import ConfigError

FAILED_RETRY_S = 30.0
STOP_TIMEOUT_S = 4.0  # for one connection; below a child's own default, so that this actor ends before its deadline
CONNECTION_CAPACITY = 1_000  # a connection tells itself a few messages per turn of the loop and gets none from others


class ApplyFeeds(NamedTuple):
    """Ask: these are the feeds from now on. The answer is :class:`FeedsApplied`.

    A bad one raises ConfigError (``feeds.NAME.map.FIELD``) to the asker, and nothing has changed.
    """

    specs: tuple[FeedSpec, ...]


class FeedsApplied(NamedTuple):
    """Names of what was started, stopped and restarted."""

    added: tuple[str, ...]
    removed: tuple[str, ...]
    changed: tuple[str, ...]


class GetFeeds(NamedTuple):
    """Ask: ``{name: FeedStatus.snapshot()}``, plain values."""


class FeedGaveUp(NamedTuple):
    """To itself: a feed's supervisor has escalated."""

    feed: _Feed
    supervisor: MailboxActor
    reason: str


class RetryFeed(NamedTuple):
    """To itself: the pause of a feed that gave up is over."""

    feed: _Feed


class _Feed:
    """One feed: what outlives its actors, and its present supervisor, which this watches."""

    def __init__(self, spec: FeedSpec, publisher: Publisher, tell: Callable[[FeedGaveUp], None]) -> None:
        self.spec = spec
        self.status = FeedStatus()
        self.supervisor: Supervisor | None = None
        self._backoff = Backoff(spec.backoff)
        self._publisher = publisher
        self._tell = tell

    def change(self, spec: FeedSpec) -> None:
        """Takes effect with the next start; counters go on, the backoff begins anew."""
        self.spec, self._backoff = spec, Backoff(spec.backoff)

    def start(self) -> None:
        spec, status, backoff = self.spec, self.status, self._backoff
        child = ChildSpec(
            spec.name,
            lambda: FeedConnection(spec, self._publisher, backoff, status),
            shutdown_timeout=STOP_TIMEOUT_S,
            capacity=CONNECTION_CAPACITY,
        )
        self.supervisor = Supervisor(children=[child])
        self.supervisor.launch(Mailbox(f"feed {spec.name}"), self)

    async def stop(self) -> None:
        supervisor, self.supervisor = self.supervisor, None
        if supervisor is None:
            return
        try:
            await supervisor.actor_ref.stop_async(timeout=STOP_TIMEOUT_S)
        except AskTimeout:
            supervisor.kill()
            supervisor.retire()
        if self.status.state is not FeedState.DISCONNECTED:  # killed, or between two incarnations
            self.status.enter(FeedState.DISCONNECTED, self.spec.name)

    # The Watcher protocol; a supervisor is a LoopActor of our own loop, so this is our thread.

    def started(self, actor: MailboxActor) -> None:
        """The connection says itself how it fares."""

    def exited(self, actor: MailboxActor, error: BaseException | None) -> None:
        """``error`` is why the supervisor gave up, ``None`` that it was stopped."""
        actor.retire()
        if error is not None:
            self._tell(FeedGaveUp(self, actor, str(error)))


class FeedSupervisor(LoopActor):
    """See the module.

    Args:
        publisher: where all feeds publish.
        specs: the feeds at start, and again after a restart of this actor.

    Raises:
        ConfigError: a name twice or a map that cannot work.
    """

    def __init__(self, publisher: Publisher, specs: Iterable[FeedSpec] = ()) -> None:
        super().__init__()
        self._publisher = publisher
        self._specs = _checked(specs)
        self._feeds: dict[str, _Feed] = {}

    async def on_start(self) -> None:  # type: ignore[override]  # pykka's hooks are not coroutines
        await self._reconcile(self._specs)

    async def on_stop(self) -> None:  # type: ignore[override]
        await self._stop_feeds(self._feeds.values())

    async def on_failure(  # type: ignore[override]
        self, exception_type: Any, exception_value: Any, traceback: Any
    ) -> None:
        await self._stop_feeds(self._feeds.values())

    def kill(self) -> Left:
        """Its feeds first, so that none is left without an owner."""
        for feed in self._feeds.values():
            if feed.supervisor is not None:
                feed.supervisor.kill()
        return super().kill()

    async def on_apply_feeds(self, apply: ApplyFeeds) -> FeedsApplied:
        return await self._reconcile(_checked(apply.specs))

    def on_get_feeds(self, _: GetFeeds) -> dict[str, dict[str, Any]]:
        return {name: feed.status.snapshot() for name, feed in self._feeds.items()}

    def on_feed_gave_up(self, message: FeedGaveUp) -> None:
        feed = message.feed
        if feed.supervisor is not message.supervisor:
            return  # stopped or started anew meanwhile
        feed.supervisor = None
        feed.status.enter(FeedState.FAILED, feed.spec.name, message.reason, FAILED_RETRY_S)
        self.later(FAILED_RETRY_S, RetryFeed(feed))

    def on_retry_feed(self, retry: RetryFeed) -> None:
        feed = retry.feed
        if self._feeds.get(feed.spec.name) is feed and feed.supervisor is None:
            feed.start()

    async def _reconcile(self, specs: dict[str, FeedSpec]) -> FeedsApplied:
        removed = [name for name in self._feeds if name not in specs]
        changed = [name for name, feed in self._feeds.items() if name in specs and specs[name] != feed.spec]
        added = [name for name in specs if name not in self._feeds]
        await self._stop_feeds(self._feeds[name] for name in removed + changed)
        for name in removed:
            del self._feeds[name]
        for name in changed:
            self._feeds[name].change(specs[name])
        for name in added:
            self._feeds[name] = _Feed(specs[name], self._publisher, self.actor_ref.tell)
        for name in changed + added:
            self._feeds[name].start()
        return FeedsApplied(tuple(added), tuple(removed), tuple(changed))

    async def _stop_feeds(self, feeds: Iterable[_Feed]) -> None:
        await asyncio.gather(*(feed.stop() for feed in feeds))


def _checked(specs: Iterable[FeedSpec]) -> dict[str, FeedSpec]:
    checked: dict[str, FeedSpec] = {}
    for spec in specs:
        if spec.name in checked:
            raise ConfigError("a second feed of this name", f"feeds.{spec.name}")
        try:
            Mapper(spec.map)
        except ConfigError as error:
            raise ConfigError(error.message, f"feeds.{spec.name}.map.{error.field}") from None
        checked[spec.name] = spec
    return checked
