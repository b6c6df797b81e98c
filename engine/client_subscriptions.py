"""What a client is subscribed to, told to the engine, on each new connection again."""

from __future__ import annotations

import asyncio
import logging
from functools import partial

from engine.client_connection import ClientConnection
from engine.client_link import REFUSED_FOR_NOW, ClientLink
from engine.client_routes import ClientRoutes
from engine.client_subscription import Subscription
from transport.client_messages import Message, Subscribed, Unsubscribed
from transport.errors import HeliographError, RequestError
from transport.requests import Unsubscribe

_log = logging.getLogger("heliograph.client")


class ClientSubscriptions:
    """The :class:`engine.client_subscription.Owner` of a client's subscriptions."""

    def __init__(self, link: ClientLink) -> None:
        self._link = link
        self._routes = ClientRoutes()
        self._room = asyncio.Event()

    async def enter(self, subscription: Subscription) -> None:
        """Subscribe; see :class:`engine.client_subscription.Owner`."""
        if subscription.inbox:
            self._link.check_open()
            self._routes.add_inbox(subscription)
            return
        self._routes.add(subscription)
        try:
            request = subscription.options.request(list(subscription.topics))
            await self._link.request(request, Subscribed, on_answer=partial(self._routes.accepted, subscription))
        except BaseException:
            subscription.end()
            await self.leave(subscription)
            raise

    async def leave(self, subscription: Subscription) -> None:
        """Unsubscribe; see :class:`engine.client_subscription.Owner`."""
        gone = self._routes.remove(subscription)
        if gone:
            await self._link.renounce(Unsubscribe(id=0, topics=gone), Unsubscribed)

    async def unsubscribe(self, topics: tuple[str, ...]) -> list[str]:
        """End these patterns in all subscriptions, empty: all; returns the patterns left."""

        def accepted(answer: Unsubscribed) -> None:
            # Only here: what the engine sent before its answer still belongs to the subscriptions.
            self._routes.unsubscribed(topics, answer.topics)

        request = Unsubscribe(id=0, topics=list(topics) or "*")
        return (await self._link.request(request, Unsubscribed, on_answer=accepted)).topics

    # The keeper's side

    @property
    def blocking(self) -> bool:
        """Whether the client should not read on before some of what is here was consumed."""
        return self._routes.blocking

    def room_made(self) -> None:
        """Look again whether to read on; see :class:`engine.client_subscription.Owner`."""
        self._room.set()

    async def room(self) -> None:
        """Until the next :meth:`room_made`."""
        self._room.clear()
        await self._room.wait()

    def deliver(self, message: Message) -> None:
        """A message of the engine that is no answer; see :meth:`ClientRoutes.deliver`."""
        self._routes.deliver(message)

    def again(self, connection: ClientConnection, tasks: asyncio.TaskGroup) -> None:
        """A new connection, whose session has nothing yet: ask for everything, each in a task of its own."""
        for subscription in self._routes.reconnected():
            tasks.create_task(self._again(connection, subscription), name="heliograph-client-resubscribe")

    def end(self, failure: HeliographError | None) -> None:
        """Nothing more will come: iterations end, with ``failure`` if there is one."""
        self._routes.end(failure)
        self._room.set()

    async def _again(self, connection: ClientConnection, subscription: Subscription) -> None:
        accepted = partial(self._routes.accepted, subscription)
        backoff = self._link.patience()
        resume = True
        while subscription.live:
            since = subscription.since if resume else None
            try:
                request = subscription.options.request(list(subscription.topics), since)
                await connection.request(request, Subscribed, on_answer=accepted)
                return
            except RequestError as error:
                if since is not None and (error.field or "").startswith("since"):
                    _log.warning("%s cannot be recovered: %s", ", ".join(subscription.topics), error)
                    resume = False  # an engine without history; the first event of each topic shows the hole
                    continue
                if error.code not in REFUSED_FOR_NOW:
                    _log.error("could not subscribe to %s again: %s", ", ".join(subscription.topics), error)
                    subscription.end(error)
                    return
                await asyncio.sleep(backoff.failed())
