"""What a client serves: told to the engine, on each new connection again, and called."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping

from actors.called_methods import CalledMethods, Handler
from engine.client_calls import ServedTopic
from engine.client_connection import ClientConnection
from engine.client_link import REFUSED_FOR_NOW, ClientLink
from transport.client_messages import CallMessage, Ok
from transport.codes import ErrorCode
from transport.errors import RequestError
from transport.requests import Result, Serve

HANDLERS_END_S = 1.0  # for handlers of calls that are cancelled
_log = logging.getLogger("heliograph.client")


class ClientServed:
    """The :class:`engine.client_calls.Owner` of the topics that a client serves."""

    def __init__(self, link: ClientLink) -> None:
        self._link = link
        self._methods = CalledMethods()

    async def begin_serving(self, served: ServedTopic) -> None:
        """See :class:`engine.client_calls.Owner`."""
        self._link.check_open()
        if not served.methods:
            raise RequestError(ErrorCode.BAD_REQUEST, "name at least one method", "methods")
        if served.topic in self._methods.handlers:
            raise RequestError(ErrorCode.CONFLICT, f"this client serves {served.topic} already", "topic")
        self._methods.handlers[served.topic] = served.methods  # the first call may come with the answer
        try:
            await self._link.request(Serve(id=0, topic=served.topic, methods=list(served.methods)), Ok, insist=True)
        except BaseException:
            await self.end_serving(served)
            raise

    async def end_serving(self, served: ServedTopic) -> None:
        """See :class:`engine.client_calls.Owner`."""
        if self._methods.handlers.get(served.topic) is not served.methods:
            return  # it could not be served again
        del self._methods.handlers[served.topic]
        await self._link.renounce(Serve(id=0, topic=served.topic, methods=[]), Ok)

    # The keeper's side

    def called(self, connection: ClientConnection, message: CallMessage) -> None:
        """Somebody calls; the answer goes out on this connection or not at all."""

        async def answer(result: Result) -> None:
            await connection.request(result, Ok)

        self._methods.called(message, answer)

    def again(self, connection: ClientConnection, tasks: asyncio.TaskGroup) -> None:
        """A new connection, whose session serves nothing yet: serve everything, each in a task of its own."""
        for topic, methods in self._methods.handlers.items():
            tasks.create_task(self._again(connection, topic, methods), name="heliograph-client-serve")

    async def end(self) -> None:
        """Cancel what runs, and wait for it, ``HANDLERS_END_S`` at most."""
        await self._methods.end(HANDLERS_END_S)

    async def _again(self, connection: ClientConnection, topic: str, methods: Mapping[str, Handler]) -> None:
        backoff = self._link.patience()
        while self._methods.handlers.get(topic) is methods:
            try:
                await connection.request(Serve(id=0, topic=topic, methods=list(methods)), Ok)
                return
            except RequestError as error:
                if error.code not in REFUSED_FOR_NOW:
                    _log.error("%s cannot be served again: %s", topic, error)
                    self._methods.handlers.pop(topic, None)
                    return
                await asyncio.sleep(backoff.failed())
