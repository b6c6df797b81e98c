"""The engine as a Socket.IO namespace has it: an inner client that also knows how many clients there are."""

from __future__ import annotations

import asyncio
from typing import Final

from actors.clients import Clients
from actors.inner_client import InnerClient
from actors.occupancy import Census
from transport.codes import ErrorCode
from transport.errors import RequestError

CENSUS_TIMEOUT: Final = 5.0
"""Seconds for the hub to answer."""


class NamespaceEngine(InnerClient):
    """Publish, snapshot and history as :class:`InnerClient` has them; on the worker's loop."""

    def __init__(self, clients: Clients) -> None:
        super().__init__(clients)
        self._occupancy = clients.occupancy

    @property
    def clients(self) -> int:
        """Socket.IO clients of the whole engine, as last heard: by a census, or with the last seat that was given here.

        Where ``socketio.clients`` is not limited no seats are asked for.
        """
        return self._occupancy.known.clients

    async def census(self) -> Census:
        """Socket.IO clients of the whole engine and their subscriptions (:meth:`Namespace.subscriptions_of`).

        Raises:
            RequestError: ``unavailable``, no answer from the hub.
        """
        answer: asyncio.Future[Census] = asyncio.get_running_loop().create_future()
        ref = self._occupancy.ask(lambda census: None if answer.done() else answer.set_result(census))
        try:
            async with asyncio.timeout(CENSUS_TIMEOUT):
                return await answer
        except TimeoutError:
            text = f"no answer from the hub in {CENSUS_TIMEOUT:g} s"
            raise RequestError(ErrorCode.UNAVAILABLE, text) from None
        finally:
            self._occupancy.withdraw(ref)
