"""The name under which others know an actor: valid before its start and across its restarts."""

from __future__ import annotations

import asyncio
import threading
import uuid
import weakref
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import pykka
from pykka._envelope import Envelope

from actors.reply import AskTimeout, Reply, check_may_block

if TYPE_CHECKING:
    from actors.mailbox import Mailbox

ASK_TIMEOUT_S: Final = 5.0
"""How long an ask waits for its answer where the asker does not say."""


class Halt(NamedTuple):
    """Stop after what was queued before this. ``target`` is the one incarnation meant, ``None`` whichever meets it."""

    target: pykka.Actor | None = None


class Ref(pykka.ActorRef[Any]):
    """A pykka ref that names a mailbox instead of one incarnation of an actor. Use it from any thread."""

    def __init__(self, mailbox: Mailbox) -> None:
        # Not pykka's __init__: there may be no actor yet, and the next one gets the same ref.
        self.mailbox = mailbox
        self.actor_class = pykka.Actor
        self.actor_urn = uuid.uuid4().urn
        self.actor_inbox = mailbox
        self.actor_stopped = threading.Event()
        self._actor_weakref = _nobody  # type: ignore[assignment]  # all that pykka does is call it

    def bind(self, actor: pykka.Actor) -> None:
        """From here on pykka's introspection (proxies, registry) sees this incarnation."""
        self.actor_class = type(actor)
        self.actor_stopped = actor.actor_stopped
        self._actor_weakref = weakref.ref(actor)

    def redirect(self, mailbox: Mailbox) -> None:
        """From here on this ref names ``mailbox``."""
        self.mailbox = mailbox
        self.actor_inbox = mailbox

    @property
    def name(self) -> str:
        """The mailbox's name: unique under one supervisor."""
        return self.mailbox.name

    def is_alive(self) -> bool:
        """False once the mailbox is closed, that is: no incarnation will come any more."""
        return not self.mailbox.closed

    def tell(self, message: Any) -> None:
        """Queues ``message`` and returns at once. Order holds per sending thread.

        Not promised: that it is handled. A full mailbox applies its :class:`~actors.mailbox.Overflow`, a closed one
        counts a dead letter, and a message in hand when its actor fails is lost (and counted as failed).

        Raises:
            MailboxFull: only with ``Overflow.REFUSE``.
        """
        self.mailbox.put(message)

    def hand(self, message: Any) -> None:
        """As :meth:`tell`; on the thread of a loop actor that rests it is handled before this returns, a turn of the
        loop earlier. For an event's way: the last thing that a callback or a handler does."""
        self.mailbox.hand(message)

    def ask(self, message: Any, *, block: bool = True, timeout: float | None = ASK_TIMEOUT_S) -> Any:
        """Asks and waits (not on the actor's own thread); with ``block=False`` returns an awaitable :class:`Reply`.

        Raises:
            WouldDeadlock: on the thread that has to answer.
            AskTimeout: no answer within ``timeout`` seconds (``None``: wait forever).
            pykka.ActorDeadError: the actor is stopped for good, or ended while it answered.
            MailboxFull: the question met a full mailbox.
            Exception: what the handler raised; that does not end the actor.
        """
        if block:
            check_may_block(self.mailbox, "ask")
        reply = Reply(self.mailbox)
        self.mailbox.put(Envelope(message, reply_to=reply))
        return reply.get(timeout=timeout) if block else reply

    async def ask_async(self, message: Any, *, timeout: float | None = ASK_TIMEOUT_S) -> Any:  # noqa: ASYNC109  # as ask
        """As :meth:`ask`, awaited on whichever loop runs; raises the same but WouldDeadlock."""
        reply = Reply(self.mailbox)
        self.mailbox.put(Envelope(message, reply_to=reply))
        return await self._awaited(reply, timeout)

    def stop(self, *, block: bool = True, timeout: float | None = ASK_TIMEOUT_S) -> Any:
        """Stops this incarnation after what is queued now; a supervisor decides whether another one comes.

        Returns:
            True if it stopped (an awaitable :class:`Reply` of that with ``block=False``), False if the mailbox was
            closed already. Raises WouldDeadlock and AskTimeout as :meth:`ask`.
        """
        if block:
            check_may_block(self.mailbox, "stop")
        reply = Reply(self.mailbox)
        self.mailbox.put_control(Envelope(Halt(), reply_to=reply))
        return reply.get(timeout=timeout) if block else reply

    async def stop_async(self, *, timeout: float | None = ASK_TIMEOUT_S) -> bool:  # noqa: ASYNC109  # as stop
        """As :meth:`stop`, awaited."""
        return bool(await self._awaited(self.stop(block=False), timeout))

    async def _awaited(self, reply: Reply, timeout_s: float | None) -> Any:
        try:
            async with asyncio.timeout(timeout_s) as deadline:
                return await reply
        except TimeoutError as error:
            if not deadline.expired():  # the handler's own TimeoutError is an answer
                raise
            raise AskTimeout(f"no answer from {self.name} in {timeout_s} s") from error

    def __str__(self) -> str:
        return f"{self.actor_class.__name__} {self.name}"


def _nobody() -> Any:
    return None
