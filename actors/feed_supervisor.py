"""Runs one connection actor per configured feed, each under a supervisor of its own, and follows reloads.

Feeds do not share a fate: one that crashes more often than its supervisor allows is paused for ``FAILED_RETRY_S`` and
tried again, the others do not notice. A feed's memory (:class:`actors.feed.Feed`) is kept here, so that it outlives its
actors, and as plain values in ``known``, so that it outlives this one and its process.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import pykka

from actors.connection import Connect, Disconnect, FeedConnection, Reset
from actors.failure import Failure, FailureKind
from actors.feed import Feed, FeedSpec, Publisher
from actors.feed_state import FeedState
from actors.loop_actor import LoopActor
from actors.mailbox import Mailbox
from actors.mailbox_actor import Left, MailboxActor
from actors.ref import Ref
from actors.reply import AskTimeout
from actors.supervisor import ChildSpec, Supervisor
from actors.tracing import PublishTracing
from transport.codes import ErrorCode
from transport.errors import ConfigError, RequestError
from transport.topics import topic

FAILED_RETRY_S = 30.0
STOP_TIMEOUT_S = 4.0  # for one connection; below a child's own default, so that this actor ends before its deadline
OPERATE_TIMEOUT_S = 10.0  # for a connection to do what an operator asks; its closing handshake takes longest
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
    """Ask: ``{name: Feed.snapshot()}``, plain values."""


class OperateFeed(NamedTuple):
    """Ask: ``reset``, ``disconnect`` or ``connect`` a feed; the answer is its snapshot afterwards.

    Raises RequestError: ``not_found``; ``conflict`` for a connect of what is connected.
    """

    name: str
    action: str


_ACTIONS: dict[str, type[Reset | Disconnect | Connect]] = {
    "reset": Reset,
    "disconnect": Disconnect,
    "connect": Connect,
}


class FeedGaveUp(NamedTuple):
    """To itself: a feed's supervisor has escalated."""

    feed: _Watched
    supervisor: MailboxActor
    reason: str


class RetryFeed(NamedTuple):
    """To itself: the pause of a feed that gave up is over."""

    feed: _Watched


class _Watched:
    """One feed and its present supervisor, which this watches."""

    def __init__(self, feed: Feed, tell: Callable[[FeedGaveUp], None]) -> None:
        self.feed = feed
        self.supervisor: Supervisor | None = None
        self.ref: Ref | None = None
        self._tell = tell

    def start(self) -> None:
        feed = self.feed
        child = ChildSpec(
            feed.spec.name,
            lambda: FeedConnection(feed),
            shutdown_timeout=STOP_TIMEOUT_S,
            capacity=CONNECTION_CAPACITY,
        )
        self.ref = child.ref
        self.supervisor = Supervisor(children=[child])
        self.supervisor.launch(Mailbox(f"feed {feed.spec.name}"), self)

    async def stop(self) -> None:
        supervisor, self.supervisor = self.supervisor, None
        if supervisor is not None:
            try:
                await supervisor.actor_ref.stop_async(timeout=STOP_TIMEOUT_S)
            except AskTimeout:
                supervisor.kill()
                supervisor.retire()
        self.feed.end()  # if it was killed, between two incarnations, or had given up

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
        known: ``{name: Feed.snapshot()}`` of a predecessor; kept up to date here for the next one.
        on_change: called after each change of a feed's state or breaker, with ``known`` up to date.
        tracing: of the feeds' events; ``None``: none are traced.

    Raises:
        ConfigError: a name twice or unfit for a topic, or a protocol that cannot work.
    """

    def __init__(
        self,
        publisher: Publisher,
        specs: Iterable[FeedSpec] = (),
        known: dict[str, dict[str, Any]] | None = None,
        on_change: Callable[[], None] = lambda: None,
        tracing: PublishTracing | None = None,
    ) -> None:
        super().__init__()
        self._publisher, self._on_change, self._tracing = publisher, on_change, tracing
        self._specs = _checked(specs)
        self._known = {} if known is None else known
        self._feeds: dict[str, _Watched] = {}

    async def on_start(self) -> None:  # type: ignore[override]  # pykka's hooks are not coroutines
        await self._reconcile(self._specs)

    async def on_stop(self) -> None:  # type: ignore[override]
        await self._stop_feeds(self._feeds.values())

    async def on_failure(  # type: ignore[override]
        self, exception_type: Any, exception_value: Any, traceback: Any
    ) -> None:
        known = self.on_get_feeds(GetFeeds())
        await self._stop_feeds(self._feeds.values())
        self._known |= known  # as they were: the successor waits as they did, and leaves what has failed

    def kill(self) -> Left:
        """Its feeds first, so that none is left without an owner."""
        for watched in self._feeds.values():
            if watched.supervisor is not None:
                watched.supervisor.kill()
        return super().kill()

    async def on_apply_feeds(self, apply: ApplyFeeds) -> FeedsApplied:
        return await self._reconcile(_checked(apply.specs))

    def on_get_feeds(self, _: GetFeeds) -> dict[str, dict[str, Any]]:
        for watched in self._feeds.values():
            self._note(watched.feed)
        return {name: self._known[name] for name in self._feeds}

    async def on_operate_feed(self, operate: OperateFeed) -> dict[str, Any]:
        watched = self._feeds.get(operate.name)
        if watched is None:
            raise RequestError(ErrorCode.NOT_FOUND, f"there is no feed {operate.name!r}", "feed")
        if watched.supervisor is None:  # it gave up: what an operator says cannot wait
            watched.feed.enter(FeedState.RECONNECTING)
            watched.start()
        assert watched.ref is not None
        try:
            snapshot: dict[str, Any] = await watched.ref.ask_async(
                _ACTIONS[operate.action](), timeout=OPERATE_TIMEOUT_S
            )
        except pykka.ActorDeadError:
            raise RequestError(ErrorCode.UNAVAILABLE, f"{operate.name} is being restarted; repeat it") from None
        self._changed(watched.feed)
        return snapshot

    def on_feed_gave_up(self, message: FeedGaveUp) -> None:
        watched = message.feed
        if watched.supervisor is not message.supervisor:
            return  # stopped or started anew meanwhile
        watched.supervisor = None
        failure = Failure(FailureKind.CRASHED, message.reason)
        watched.feed.enter(FeedState.FAILED, failure, FAILED_RETRY_S)
        self.later(FAILED_RETRY_S, RetryFeed(watched))

    def on_retry_feed(self, retry: RetryFeed) -> None:
        watched = retry.feed
        if self._feeds.get(watched.feed.spec.name) is watched and watched.supervisor is None:
            watched.feed.enter(FeedState.RECONNECTING)
            watched.start()

    async def _reconcile(self, specs: dict[str, FeedSpec]) -> FeedsApplied:
        running = {name: watched.feed.spec for name, watched in self._feeds.items()}
        removed = [name for name in running if name not in specs]
        changed = [name for name, spec in running.items() if name in specs and specs[name] != spec]
        added = [name for name in specs if name not in running]
        await self._stop_feeds(self._feeds[name] for name in removed + changed)
        for name in removed:
            del self._feeds[name]
            self._known.pop(name, None)
        for name in changed:
            self._feeds[name].feed.change(specs[name])
        for name in added:
            self._feeds[name] = _Watched(self._make(specs[name]), self.actor_ref.tell)
        for name in changed + added:
            self._feeds[name].start()
        return FeedsApplied(tuple(added), tuple(removed), tuple(changed))

    def _make(self, spec: FeedSpec) -> Feed:
        feed = Feed(spec, self._publisher, on_change=lambda: self._changed(feed), tracing=self._tracing)
        if spec.name in self._known:
            feed.restore(self._known[spec.name])
        self._note(feed)
        return feed

    def _changed(self, feed: Feed) -> None:
        self._note(feed)
        self._on_change()

    def _note(self, feed: Feed) -> None:
        self._known[feed.spec.name] = feed.snapshot()

    async def _stop_feeds(self, feeds: Iterable[_Watched]) -> None:
        await asyncio.gather(*(watched.stop() for watched in feeds))


def _checked(specs: Iterable[FeedSpec]) -> dict[str, FeedSpec]:
    checked: dict[str, FeedSpec] = {}
    for spec in specs:
        if spec.name in checked:
            raise ConfigError("a second feed of this name", f"feeds.{spec.name}")
        try:
            topic("system", "feeds", spec.name)  # where it will tell of itself
        except RequestError as error:
            raise ConfigError(f"is no name of a feed: {error.message}", f"feeds.{spec.name}") from None
        try:
            spec.protocol.create()
        except ConfigError as error:
            field = ".".join(filter(None, ("feeds", spec.name, error.field)))
            raise ConfigError(error.message, field) from None
        checked[spec.name] = spec
    return checked
