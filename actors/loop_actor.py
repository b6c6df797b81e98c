"""An actor on the asyncio (uvloop) loop that runs where it is started; an event's way through it changes no thread.

It handles one message at a time, also across awaits: while an ``async def`` handler waits, the mailbox rests. Long
waits belong in owned tasks (:meth:`LoopActor.spawn`) that tell their result back.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Coroutine
from types import CoroutineType
from typing import Any, Final

from pykka._envelope import Envelope

from actors.mailbox_actor import DEBUG, ActorState, Left, MailboxActor
from actors.ref import Halt
from actors.reply import Reply
from transport.errors import ActorError, MailboxFull

TASK_CANCEL_TIMEOUT_S: Final = 5.0
"""How long an ending actor waits for its cancelled tasks before it leaves them behind."""


class Timer:
    """A message that an actor will tell itself; made by :meth:`LoopActor.later`."""

    __slots__ = ("_actor", "_handle", "_message")

    def __init__(self, actor: LoopActor, delay_s: float, message: Any) -> None:
        self._actor, self._message = actor, message
        self._handle = actor.loop.call_later(delay_s, self._ring)

    def cancel(self) -> None:
        """On the actor's thread; the message will not come, unless it waits in the mailbox already."""
        self._handle.cancel()
        self._actor._timers.discard(self)

    def _ring(self) -> None:
        self._actor._timers.discard(self)
        with contextlib.suppress(MailboxFull):  # counted and logged there, and nobody else to tell
            self._actor.mailbox.put(self._message)


class LoopActor(MailboxActor):
    """See the module. Subclasses write ``on_<message>`` handlers, plain or ``async def``.

    ``on_start``, ``on_stop`` and ``on_failure`` may be ``async def`` too. They run on the loop's thread like all the
    rest; ``on_stop`` and ``on_failure`` after the actor's timers and tasks have been cancelled and have ended.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._debug = DEBUG
        self._current: asyncio.Task[Any] | None = None  # the handler, or hook, that the mailbox waits for
        self._tasks: set[asyncio.Task[Any]] = set()
        self._timers: set[Timer] = set()

    # Typed Any so that subclasses may make them coroutines.
    def on_start(self) -> Any:
        """Before the first message; an error ends the actor."""

    def on_stop(self) -> Any:
        """After the last message of an actor that was stopped."""

    def on_failure(self, exception_type: Any, exception_value: Any, traceback: Any) -> Any:
        """Instead of :meth:`on_stop` after a failure."""

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The loop that it was started on. Raises ActorError before."""
        if self._loop is None:
            raise ActorError(f"{self} has no loop before it is started")
        return self._loop

    def spawn(self, coroutine: Coroutine[Any, Any, Any], *, name: str) -> asyncio.Task[Any]:
        """Runs ``coroutine`` beside the mailbox as a task that this actor owns.

        It is cancelled when the actor ends; its exception, unlike its cancellation, fails the actor.

        Raises:
            ActorError: on another thread, or when the actor does not run.
        """
        if self._state is not ActorState.RUNNING:
            coroutine.close()
            raise ActorError(f"{self} is {self._state.value}: it cannot own task {name}")
        self.check_thread()
        task = self._own(coroutine, name)
        task.add_done_callback(self._task_done)
        return task

    def later(self, delay_s: float, message: Any) -> Timer:
        """Tells itself ``message`` after ``delay_s`` seconds, unless it has ended or the timer was cancelled by then.

        Raises:
            ActorError: on another thread, or when the actor does not run.
        """
        if self._state is not ActorState.RUNNING:
            raise ActorError(f"{self} is {self._state.value}: it cannot own a timer")
        self.check_thread()
        timer = Timer(self, delay_s, message)
        self._timers.add(timer)
        return timer

    def kill(self) -> Left:
        """Cancels everything and leaves at once: no hook runs, the watcher is not told. On the loop's thread."""
        self._enter(ActorState.ENDED)
        self._cancel_owned()
        running = tuple(sorted(task.get_name() for task in self._tasks))
        self._withdraw()
        self._handlers.clear()
        return Left(self.name, len(self.mailbox.items), running)

    # The hooks that pykka documents for new actor types (also in MailboxActor).

    def _start_actor_loop(self) -> None:
        try:
            self._loop = asyncio.get_running_loop()
        except RuntimeError:
            raise ActorError(f"{self} must be started on a running loop") from None
        self._debug = DEBUG or self._loop.get_debug()
        self.mailbox.attach(self, threading.current_thread(), self._wake, self._drain)
        self._enter(ActorState.RUNNING)
        try:
            result = self.on_start()
        except Exception as error:
            self._fail(error)
            return
        if type(result) is CoroutineType:
            self._suspend(result, "on_start", self._start_done)
        else:
            self._ready()

    def _start_done(self, task: asyncio.Task[Any]) -> None:
        if self._settle(task):
            self._ready()

    def _ready(self) -> None:
        if self._watcher is not None:
            self._watcher.started(self)
        if not self.mailbox.rest():
            self.loop.call_soon(self._drain)

    # The way of a message.

    def _wake(self) -> None:
        """On the sender's thread."""
        assert self._loop is not None
        try:
            if threading.current_thread() is self.mailbox.thread:
                self._loop.call_soon(self._drain)
            else:
                self._loop.call_soon_threadsafe(self._drain)
        except RuntimeError:  # the loop was closed over this actor's head; the sender notices nothing
            self._leave(ActorError(f"the loop of {self} was closed"))

    def _drain(self) -> None:
        """Handles what is queued now and no more, so that an actor that feeds itself does not starve the loop."""
        if self._current is not None or self._state is not ActorState.RUNNING:
            return
        if self._debug:
            self.check_thread()
        mailbox, handlers = self.mailbox, self._handlers
        items = mailbox.items
        handled = 0
        try:
            for _ in range(len(items)):
                try:
                    item = items.popleft()
                except IndexError:  # Overflow.DROP_OLDEST took some
                    break
                kind = type(item)
                try:
                    handler = handlers[kind]
                except KeyError:
                    handler = self._learn(kind)
                result = handler(item)
                # Not inspect.iscoroutine: a type comparison is all that the fast way can afford.
                if type(result) is CoroutineType:
                    self._suspend(result, kind.__name__, self._handler_done)
                    return
                handled += 1
        except BaseException as error:
            mailbox.failed += 1
            self._fail(error)
            if not isinstance(error, Exception):
                raise  # KeyboardInterrupt, SystemExit: the loop's business too
            return
        finally:
            mailbox.handled += handled
        if not mailbox.rest():
            self.loop.call_soon(self._drain)

    def _on_envelope(self, envelope: Envelope[Any]) -> Any:
        message, reply = envelope.message, envelope.reply_to
        if type(message) is Halt:
            return self._on_halt(message, reply)
        if reply is None:
            return (self._handlers.get(type(message)) or self._learn(type(message)))(message)
        try:
            result = self._handler_for_ask(message)(message)
        except Exception:
            reply.set_exception()
            return None
        if type(result) is not CoroutineType:
            reply.set(result)
            return None
        assert isinstance(reply, Reply)
        self._in_hand = reply
        return self._answer(reply, result)

    async def _answer(self, reply: Reply, coroutine: Coroutine[Any, Any, Any]) -> None:
        try:
            reply.set(await coroutine)
        except Exception:
            reply.set_exception()

    def _on_halt(self, halt: Halt, reply: Any = None) -> Any:
        if halt.target is not None and halt.target is not self:  # meant for a predecessor
            return None
        self._enter(ActorState.ENDING)  # now, so that a task that fails meanwhile does not end it a second time
        return self._wind_down(None, reply)

    def _suspend(self, coroutine: Coroutine[Any, Any, Any], name: str, done: Any) -> None:
        """The mailbox waits for ``coroutine``. Senders keep seeing it as armed, so that nobody wakes it."""
        self._current = self._own(coroutine, f"{self.name}.{name}")
        self._current.add_done_callback(done)

    def _handler_done(self, task: asyncio.Task[Any]) -> None:
        if self._settle(task):
            self.mailbox.handled += 1
            self._drain()
        elif self._state is not ActorState.ENDED or task.cancelled():
            self.mailbox.failed += 1

    def _settle(self, task: asyncio.Task[Any]) -> bool:
        """True if what the mailbox waited for went well and the actor still runs."""
        self._current = None
        error = asyncio.CancelledError() if task.cancelled() else task.exception()
        if self._state is not ActorState.RUNNING:
            return False
        self._in_hand = None
        if error is not None:
            self._fail(error)
        return error is None

    # The end.

    def _own(self, coroutine: Coroutine[Any, Any, Any], name: str) -> asyncio.Task[Any]:
        task = self.loop.create_task(coroutine, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _task_done(self, task: asyncio.Task[Any]) -> None:
        error = None if task.cancelled() else task.exception()
        if error is None:
            return
        if self._state is ActorState.RUNNING:
            self._fail(error)
        else:
            self._log_failure(error)

    def _fail(self, error: BaseException) -> None:
        assert self._state is ActorState.RUNNING, f"{self} failed twice"
        self._log_failure(error)
        self._enter(ActorState.ENDING)
        self._own(self._wind_down(error, None), f"{self.name}.end")

    async def _wind_down(self, error: BaseException | None, reply: Any) -> None:
        """Tasks end, then the hook runs, then the watcher hears of it: no two incarnations overlap."""
        self.actor_stopped.set()
        own = asyncio.current_task()
        self._cancel_owned(own)
        try:
            if tasks := self._tasks - {own}:
                _, stuck = await asyncio.wait(tasks, timeout=TASK_CANCEL_TIMEOUT_S)
                for task in stuck:
                    self._log_failure(ActorError(f"task {task.get_name()} does not end when cancelled; left behind"))
            hook = self.on_stop() if error is None else self.on_failure(type(error), error, error.__traceback__)
            if type(hook) is CoroutineType:
                await hook
        except Exception as hook_error:
            self._log_failure(hook_error)
            error = error or hook_error
        finally:  # also when killed meanwhile, or cancelled with the whole loop
            self._handlers.clear()  # bound methods: a cycle that would keep the actor until the next collection
            self._leave(error)
            if reply is not None:
                reply.set(True)

    def _cancel_owned(self, but: asyncio.Task[Any] | None = None) -> None:
        for timer in tuple(self._timers):
            timer.cancel()
        for task in self._tasks - {but}:
            task.cancel()
