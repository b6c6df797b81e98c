"""An actor on a thread of its own, for work that blocks: files, SQLite, sampling of the system.

The thread is a daemon: a call that never returns keeps neither its supervisor nor the process from ending.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from types import CoroutineType
from typing import Any

import pykka
from pykka._envelope import Envelope

from actors.mailbox_actor import ActorState, Left, MailboxActor
from actors.ref import Halt
from transport.errors import ActorError


class BlockingActor(MailboxActor, pykka.ThreadingActor):
    """See the module. Handlers are plain methods, called on the actor's own thread, as are its hooks.

    Under a supervisor it is created on the loop's thread, like any child, and reports back there.
    """

    use_daemon_thread = True

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._signal: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._stop_reply: Any = None

    def kill(self) -> Left:
        """Leaves the thread to itself: it handles nothing more, should the call it hangs in ever return."""
        self._enter(ActorState.ENDED)
        thread = self.mailbox.thread
        self._withdraw()
        self._signal.put(None)
        running = (thread.name,) if thread is not None and thread.is_alive() else ()
        return Left(self.name, len(self.mailbox.items), running)

    def _start_actor_loop(self) -> None:
        thread = threading.Thread(target=self._actor_loop, name=f"actor-{self.name}", daemon=self.use_daemon_thread)
        self.mailbox.attach(self, thread, self._wake)
        self._enter(ActorState.RUNNING)
        thread.start()

    def _wake(self) -> None:
        self._signal.put(None)

    def _actor_loop(self) -> None:
        """The whole life of the thread."""
        error: BaseException | None = None
        try:
            self.on_start()
            if self._watcher is not None and self._runs():
                self._watcher.started(self)
            self._handle_all()
            if self._state is ActorState.ENDING:
                self.on_stop()
        except BaseException as failure:  # a thread has nobody above it: SystemExit too ends just this actor
            error = failure
            self._log_failure(failure)
            self._call_on_failure(failure)
        self._handlers.clear()
        self._leave(error)
        if self._stop_reply is not None:
            self._stop_reply.set(True)

    def _handle_all(self) -> None:
        mailbox = self.mailbox
        while self._runs():
            try:
                item = mailbox.items.popleft()
            except IndexError:
                if mailbox.rest():
                    self._signal.get()
                continue
            if not self._runs():  # killed between the two lines above: the successor's
                mailbox.items.appendleft(item)
                return
            kind = type(item)
            try:
                self._call(self._handlers.get(kind) or self._learn(kind), item)
            except BaseException:
                mailbox.failed += 1
                raise
            mailbox.handled += 1

    def _runs(self) -> bool:
        return self._state is ActorState.RUNNING  # another thread may have killed it since the last look

    def _on_envelope(self, envelope: Envelope[Any]) -> None:
        message, reply = envelope.message, envelope.reply_to
        if type(message) is Halt:
            self._stop_reply = reply
            self._on_halt(message)
            return
        if reply is None:
            self._call(self._handlers.get(type(message)) or self._learn(type(message)), message)
            return
        self._in_hand = reply  # type: ignore[assignment]  # the envelopes of a mailbox carry replies
        try:
            reply.set(self._call(self._handler_for_ask(message), message))
        except Exception:
            reply.set_exception()
        self._in_hand = None

    def _on_halt(self, halt: Halt) -> None:
        if halt.target is None or halt.target is self:
            self._enter(ActorState.ENDING)

    def _call(self, handler: Callable[[Any], Any], message: Any) -> Any:
        result = handler(message)
        if type(result) is CoroutineType:
            result.close()
            raise ActorError(f"{self} has no loop: its handler for {type(message).__name__} must not be `async def`")
        return result

    def _call_on_failure(self, failure: BaseException) -> None:
        try:
            self.on_failure(type(failure), failure, failure.__traceback__)
        except Exception as error:
            self._log_failure(error)
