"""Live parameters, as a program follows and sets them.

async with client.parameters("momentum", Momentum) as parameters:
    parameters.deliver_to(strategy)          # an actor's ref: each version comes as a message
    await parameters.set(threshold=0.7)
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Generic, NamedTuple, Protocol, Self, TypeVar

import msgspec
import pykka

from engine.parameter_schema import reader
from transport.codes import ErrorCode
from transport.errors import ConnectionLost, HeliographError, RequestError
from transport.topics import topic

if TYPE_CHECKING:
    from engine.client import Client
    from engine.client_subscription import Subscription
    from engine.sync_client import SyncClient
    from transport.client_messages import Gap
    from transport.event import Event

AGAIN_S: Final = 0.5
"""Seconds between attempts to read the newest version, while nobody answers."""
OPEN_S: Final = 5.0
"""Seconds for which entering waits for somebody who answers: an engine that has just started may need them."""
_AWAY: Final = (ErrorCode.NOT_FOUND, ErrorCode.UNAVAILABLE)

ModelT = TypeVar("ModelT")
_log = logging.getLogger("heliograph.client")


class ParametersChanged(NamedTuple):
    """There is another version: a message to an actor.

    Attributes:
        values: all of them, as the model that the follower has named.
        changed: names of those that differ from the version that the receiver was told before.
        by: who has changed them; none: nobody had to say who they are.
    """

    name: str
    version: int
    values: Any
    changed: tuple[str, ...]
    by: str | None


class Receiver(Protocol):
    """Whom changes are told: a ref of a pykka actor, of a LoopActor, or what has the same method."""

    def tell(self, message: Any, /) -> None:
        """Take it, without waiting."""


class _Version(msgspec.Struct):
    version: int
    values: dict[str, Any]
    at: float
    by: str | None = None


_event = msgspec.json.Decoder(_Version)


class Parameters(Generic[ModelT]):
    """The parameter ``name`` as it is now, from ``async with`` to its end.

    Each version comes once, in order. After a gap, or where the engine lost what it had, the newest is read: then
    versions between may be missing, the newest never is. A version that does not fit the model is logged, and the one
    before it holds.

    Args:
        model: a msgspec Struct or pydantic model; ``dict``: the values as they are.

    Attributes:
        name: of the parameter.
    """

    def __init__(self, client: Client, name: str, model: type[ModelT]) -> None:
        self.name = name
        self._client, self._topic, self._read = client, topic("parameters", name), reader(model)
        self._raw: dict[str, Any] = {}
        self._values: ModelT | None = None
        self._version, self._at = 0, 0.0
        self._by: str | None = None
        self._receivers: list[Receiver] = []
        self._task: asyncio.Task[None] | None = None
        self._closing = contextlib.AsyncExitStack()

    async def __aenter__(self) -> Self:
        async with contextlib.AsyncExitStack() as closing:
            # Before it is read: what comes meanwhile waits.
            subscription = await closing.enter_async_context(
                self._client.subscribe(self._topic, on_gap=self._after_gap)
            )
            await self._open()
            self._task = asyncio.create_task(self._follow(subscription), name=f"heliograph-parameters {self.name}")
            self._closing = closing.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._task is not None, "it was entered"
        self._task.cancel()
        await asyncio.wait({self._task})
        await self._closing.aclose()

    @property
    def values(self) -> ModelT:
        """The newest that is known here; another object with each version."""
        if self._values is None:
            raise HeliographError("the parameters are not open: use `async with client.parameters(…) as parameters`")
        return self._values

    @property
    def version(self) -> int:
        """Of :attr:`values`."""
        return self._version

    def deliver_to(self, receiver: Receiver) -> None:
        """Tell a :class:`ParametersChanged` at once, with all names as changed, then one with each version.

        One that is dead by then is told no more.
        """
        self._tell(receiver, tuple(sorted(self._raw)))
        self._receivers.append(receiver)

    async def set(self, values: Mapping[str, Any] | None = None, /, *, reason: str | None = None, **more: Any) -> int:
        """Change some values, if :attr:`version` is the newest still; returns the version that has them.

        :attr:`values` are the new ones then, unless an even newer version has come.

        Args:
            values: by name; one that is a map or list is replaced as a whole. Keywords are more of them.
            reason: for people, in the history.

        Raises:
            RequestError: nothing has changed. ``conflict``: there is a newer version, see :meth:`refresh`;
                ``bad_request``: ``field`` names the value, ``values.threshold``, the text says the bound.
            RequestError, ConnectionLost: ``unavailable``, or the connection is lost: the outcome is unknown.
        """
        wanted = {"values": {**(values or {}), **more}, "version": self._version, "reason": reason}
        answer = msgspec.convert(await self._client.call(self._topic, "set", wanted), _Version)
        if answer.version == self._version + 1:  # else it has come already, and maybe another one
            with contextlib.suppress(RequestError):  # it is made, whether or not the model here can hold it
                self._apply(answer)
        return answer.version

    async def refresh(self) -> None:
        """Read the newest version.

        Raises:
            RequestError: ``not_found``: there is no such parameter; ``bad_request``: it does not fit the model.
        """
        before = self._version
        found = msgspec.convert(await self._client.call(self._topic, "get"), _Version)
        if found.version >= self._version or self._version == before:  # else a newer one has come meanwhile
            self._apply(found)

    # following --------------------------------------------------------------------------------------------------------

    async def _follow(self, subscription: Subscription) -> None:
        try:
            async for event in subscription:
                await self._meet(event)
        except HeliographError as error:
            _log.error("parameter %s is followed no more: %s", self.name, error)

    async def _meet(self, event: Event) -> None:
        try:
            found = _event.decode(event.payload)
        except msgspec.DecodeError as error:
            _log.warning("parameter %s: an event that is none of it: %s", self.name, error)
            return
        if found.version == self._version + 1:
            with contextlib.suppress(RequestError):
                self._apply(found)
        elif found.version > self._version or found.at > self._at:
            await self._reread()  # one is missing, or the engine has lost what it had and begins anew

    async def _after_gap(self, _gap: Gap) -> None:
        await self._reread()

    async def _reread(self) -> None:
        while True:
            try:
                return await self.refresh()
            except HeliographError as error:
                if isinstance(error, RequestError) and error.code is ErrorCode.BAD_REQUEST:
                    return None
                if self._client.state == "closed":
                    raise
                _log.warning("parameter %s cannot be read, tries again: %s", self.name, error)
            await asyncio.sleep(AGAIN_S)

    async def _open(self) -> None:
        clock = asyncio.get_running_loop().time
        until = clock() + OPEN_S
        while True:
            try:
                return await self.refresh()
            except RequestError as error:
                if error.code not in _AWAY or clock() > until:
                    raise
            await asyncio.sleep(AGAIN_S / 5)

    def _apply(self, found: _Version) -> None:
        """It is the newest."""
        if found.version == self._version and found.values == self._raw:
            return
        try:
            values = self._read(found.values)
        except RequestError as error:
            text = "parameter %s: version %d does not fit the model: %s"
            _log.error(text, self.name, found.version, error)
            raise
        names = {*found.values, *self._raw}
        changed = tuple(sorted(n for n in names if found.values.get(n, self) != self._raw.get(n, self)))
        self._raw, self._values = found.values, values
        self._version, self._at, self._by = found.version, found.at, found.by
        for receiver in list(self._receivers):
            self._tell(receiver, changed)

    def _tell(self, receiver: Receiver, changed: tuple[str, ...]) -> None:
        message = ParametersChanged(self.name, self._version, self.values, changed, self._by)
        try:
            receiver.tell(message)
        except pykka.ActorDeadError:
            if receiver in self._receivers:
                self._receivers.remove(receiver)
        except (
            Exception
        ) as error:  # of a full mailbox, or whatever: it is the receiver's, the others are told all the same
            _log.error("version %d of parameter %s is not told to %r: %s", self._version, self.name, receiver, error)


class SyncParameters(Generic[ModelT]):
    """As :class:`Parameters`, for :class:`~engine.sync_client.SyncClient`: with ``with``, and methods that block.

    ``values`` and ``version`` may be read on any thread.
    """

    def __init__(self, client: SyncClient, parameters: Parameters[ModelT]) -> None:
        self._client, self._parameters = client, parameters

    @property
    def values(self) -> ModelT:
        """See :attr:`Parameters.values`."""
        return self._parameters.values

    @property
    def version(self) -> int:
        """See :attr:`Parameters.version`."""
        return self._parameters.version

    def __enter__(self) -> Self:
        self._client.run(self._parameters.__aenter__())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(ConnectionLost):  # nothing left to end
            self._client.run(self._parameters.__aexit__(None, None, None))

    def deliver_to(self, receiver: Receiver) -> None:
        """See :meth:`Parameters.deliver_to`; ``tell`` is called on the client's thread."""

        async def deliver() -> None:
            self._parameters.deliver_to(receiver)

        self._client.run(deliver())

    def set(self, values: Mapping[str, Any] | None = None, /, *, reason: str | None = None, **more: Any) -> int:
        """See :meth:`Parameters.set`."""
        return self._client.run(self._parameters.set(values, reason=reason, **more))

    def refresh(self) -> None:
        """See :meth:`Parameters.refresh`."""
        self._client.run(self._parameters.refresh())
