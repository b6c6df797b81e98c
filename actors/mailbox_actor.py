"""What loop actors and blocking actors share: a mailbox, handlers by the class of a message, an end that is watched."""

from __future__ import annotations

import enum
import logging
import os
import re
import threading
from collections.abc import Callable
from typing import Any, Final, NamedTuple, Protocol

import pykka
from pykka import messages
from pykka._envelope import Envelope

from actors.mailbox import Mailbox
from actors.ref import Halt, Ref
from actors.reply import Reply
from actors.shown import shown
from transport.errors import ActorError

_log = logging.getLogger(__name__)

DEBUG: Final = bool(os.environ.get("HELIOGRAPH_DEBUG"))
"""Checks thread ownership on the hot way too, as asyncio's debug mode does."""

_HOOKS: Final = frozenset({"on_start", "on_stop", "on_failure", "on_receive"})
_PROXY_MESSAGES: Final = (messages.ProxyCall, messages.ProxyGetAttr, messages.ProxySetAttr)
_WORD_START: Final = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")


class ActorState(enum.Enum):
    """The life of one incarnation: forward only, changed by :meth:`MailboxActor._enter` alone."""

    NEW = "new"
    RUNNING = "running"
    """From before ``on_start``."""
    ENDING = "ending"
    ENDED = "ended"


class Watcher(Protocol):
    """Who wants to know how an actor fares. Called on the actor's thread."""

    def started(self, actor: MailboxActor) -> None:
        """``on_start`` is done."""

    def exited(self, actor: MailboxActor, error: BaseException | None) -> None:
        """It ended: ``error`` is what it failed with, ``None`` that it was stopped. Nothing of it runs any more."""


class Left(NamedTuple):
    """What an actor that missed its deadline left behind: messages that wait, and what may still be running."""

    name: str
    depth: int
    running: tuple[str, ...]


class MailboxActor(pykka.Actor):
    """A pykka actor that calls ``on_<class of the message in snake case>(message)`` and may be supervised.

    A handler that raises ends the actor when it was told, and answers the asker when it was asked (as in pykka).
    A message without a handler is counted, logged once for each class, and answered with ActorError when asked.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        assert isinstance(self.actor_inbox, Mailbox)
        self.mailbox = self.actor_inbox
        self.mailbox.name = type(self).__name__
        self._actor_ref = self.mailbox.ref
        self._actor_ref.bind(self)
        self.actor_urn = self._actor_ref.actor_urn
        self._watcher: Watcher | None = None
        self._state = ActorState.NEW
        self._handlers: dict[type, Callable[[Any], Any]] = {Envelope: self._on_envelope, Halt: self._on_halt}
        self._in_hand: Reply | None = None

    @property
    def name(self) -> str:
        """The mailbox's name."""
        return self.mailbox.name

    @property
    def actor_ref(self) -> Ref:
        """The ref for others; the same one before the start and, under a supervisor, for all incarnations."""
        ref: Ref = self._actor_ref  # type: ignore[assignment]
        return ref

    @classmethod
    def start(cls, *args: Any, **kwargs: Any) -> Ref:
        """Makes an actor from the arguments and starts it without a supervisor: one that fails is gone for good."""
        actor = cls(*args, **kwargs)
        actor._begin()
        return actor.actor_ref

    def launch(self, mailbox: Mailbox, watcher: Watcher) -> None:
        """Starts this new actor as the consumer of ``mailbox``. For supervisors; others use ``start()``.

        Refs taken in ``__init__`` name ``mailbox`` from here on, and what was told to them follows.

        Raises:
            ActorError: ``mailbox`` is closed or in use.
        """
        assert self._state is ActorState.NEW, f"{self} was started before"
        own, self.mailbox, self.actor_inbox, self._watcher = self.mailbox, mailbox, mailbox, watcher
        own.ref.redirect(mailbox)
        for item in own.items:
            mailbox.put(item)
        self._actor_ref = mailbox.ref
        self.actor_urn = mailbox.ref.actor_urn
        self._begin()

    def stop(self) -> None:
        """Ends this incarnation after what is queued now; any thread, returns at once."""
        self.mailbox.put_control(Halt(self))

    def kill(self) -> Left:
        """Ends this incarnation now, without its hooks and without telling its watcher. For supervisors."""
        raise NotImplementedError

    def retire(self) -> None:
        """No successor will come: the mailbox is closed, what waits are dead letters."""
        self.mailbox.close()

    def __str__(self) -> str:
        return f"{type(self).__name__} {self.name}"

    @staticmethod
    def _create_actor_inbox() -> Mailbox:
        return Mailbox("actor")

    @staticmethod
    def _create_future() -> Reply:
        return Reply()

    def _begin(self) -> None:
        pykka.ActorRegistry.register(self.mailbox.ref)
        try:
            self._start_actor_loop()
        except BaseException:
            pykka.ActorRegistry.unregister(self.mailbox.ref)
            self.mailbox.detach(self)
            raise

    def _enter(self, state: ActorState) -> None:
        if self._state is ActorState.ENDED:  # a killed blocking actor may come to and carry on
            return
        _log.debug("%s: %s", self, state.value)
        self._state = state

    def _learn(self, kind: type) -> Callable[[Any], Any]:
        """The handler for messages of class ``kind``, remembered for the next one."""
        name = "on_" + _WORD_START.sub("_", kind.__name__).lower()
        handler: Callable[[Any], Any] | None = None if name in _HOOKS else getattr(self, name, None)
        if handler is None and (kind in _PROXY_MESSAGES or type(self).on_receive is not pykka.Actor.on_receive):
            handler = self._handle_receive
        if handler is None:
            _log.warning("%s does not handle %s (no method %s)", self, kind.__name__, name)
            handler = self._on_unknown
        self._handlers[kind] = handler
        return handler

    def _on_unknown(self, message: Any) -> None:
        self.mailbox.unknown += 1

    def _on_envelope(self, envelope: Envelope[Any]) -> Any:
        raise NotImplementedError

    def _on_halt(self, halt: Halt) -> Any:
        raise NotImplementedError

    def _handler_for_ask(self, message: Any) -> Callable[[Any], Any]:
        kind = type(message)
        handler = self._handlers.get(kind) or self._learn(kind)
        if handler == self._on_unknown:
            self._on_unknown(message)
            raise ActorError(f"{self} does not handle {kind.__name__}")
        return handler

    def _log_failure(self, error: BaseException) -> None:
        _log.error("%s failed: %s", self, shown(error), exc_info=error)

    def _leave(self, error: BaseException | None) -> None:
        """The last step of an end, once: gives up the mailbox and tells the watcher."""
        self._enter(ActorState.ENDED)
        if not self._withdraw():
            return
        if self._watcher is not None:
            self._watcher.exited(self, error)
        else:
            self.retire()

    def _withdraw(self) -> bool:
        """Nobody finds this incarnation any more. False if that was so already."""
        self.actor_stopped.set()
        if not self.mailbox.detach(self):
            return False
        pykka.ActorRegistry.unregister(self.mailbox.ref)
        reply, self._in_hand = self._in_hand, None
        if reply is not None:
            reply.fail(pykka.ActorDeadError(f"{self} ended while it handled the message"))
        return True

    def check_thread(self) -> None:
        """Raises ActorError, naming both threads, when not on the actor's own thread. One comparison when it is."""
        here, own = threading.current_thread(), self.mailbox.thread
        if own is not None and here is not own:
            raise ActorError(f"{self} belongs to thread {own.name!r} and was used on thread {here.name!r}")
