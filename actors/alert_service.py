"""The alerts of ``[alerts]``: a service of the monitor that sees events and tells who fires, who clears.

A change is on disk before anybody is told, with what is to be told of it; what is told has a name by which the hub
knows a repetition. So whatever is killed, each change is told once as an event, and at least once to its webhooks.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, TypeVar

import msgspec

from actors.alarms import Alarms, News
from actors.alert_rule import PRIORITY, AlertRule, Turn
from actors.alert_store import AlertStore, Waiting
from actors.inner_client import InnerClient
from actors.monitor_service import MonitorService
from actors.webhook import Webhook
from transport.codes import ErrorCode, Priority
from transport.errors import RequestError
from transport.event import Event
from transport.meter import Condition

LATENESS: Final = 0.2
"""Seconds that events may be under way: so long after its time a subject fires without having heard anything."""
LONGEST_SLEEP: Final = 60.0
"""Seconds after which the machine's clock is looked at again."""
PAUSE: Final = 0.5
"""Seconds between attempts to publish while the hub is away."""
PATIENCE: Final = 10.0
"""Seconds of such attempts; then this life ends, and the next one tells what is untold."""
POSITION_SPACING: Final = 10.0
"""Seconds at least between two positions that are kept without a change; after a crash so much is read again."""
HOPELESS: Final = frozenset(
    {ErrorCode.BAD_REQUEST, ErrorCode.INVALID_TOPIC, ErrorCode.FORBIDDEN, ErrorCode.LIMIT_EXCEEDED}
)
"""What the hub refuses so is not told as an event: one topic too many must not keep all rules from being looked at."""
EVENT: Final = ""
"""The target of what is told as an event."""

Result = TypeVar("Result")
_log = logging.getLogger(__name__)


class _Told(msgspec.Struct):
    """What is told, to everybody in the same form."""

    id: str
    type: Turn
    topic: str
    key: str
    priority: Priority
    data: dict[str, Any]


_told = msgspec.json.Decoder(_Told)


class _Acknowledge(msgspec.Struct, forbid_unknown_fields=True):
    rule: str
    subject: str | None = None
    note: str | None = None
    by: str | None = None


class AlertService(MonitorService):
    """See the module.

    Args:
        rules: of the configuration.
        webhooks: by name; they outlive this object.
        store: opened here; used by one life at a time.
        clock: Unix seconds.
    """

    def __init__(
        self,
        *,
        name: str,
        engine: InnerClient,
        rules: Sequence[AlertRule],
        webhooks: Mapping[str, Webhook],
        store: AlertStore,
        clock: Callable[[], float] = time.time,
    ) -> None:
        super().__init__(name=name, options={}, engine=engine)
        self._rules, self._webhooks, self._store, self._clock = rules, webhooks, store, clock
        self._alarms = Alarms(rules)
        self._position: str | None = None
        self._kept_at = 0.0  # when a position was kept, by the loop's clock
        self._lock = asyncio.Lock()  # hooks, calls, the admin API, the timer and webhooks come between each other
        self._level = False  # all events up to now have been seen
        self._news = asyncio.Event()  # for the timer
        self._tasks: list[asyncio.Task[None]] = []
        self._trouble: Exception | None = None
        self._refused: str | None = None  # why the last event was not told

    async def on_start(self) -> None:
        """Take up where the last life ended."""
        await asyncio.to_thread(self._store.open)
        kept, waiting, self._position = await asyncio.to_thread(self._store.load)
        self._alarms = Alarms(self._rules, kept, self._clock())
        for webhook in self._webhooks.values():
            self._begin_task(webhook.run(self._sent), f"webhook {webhook.name}")
        await asyncio.sleep(0)  # they begin with nothing
        async with self._lock:
            await self._hand_over([told for told in waiting if told.target in self._webhooks])
            await self._publish([told for told in waiting if told.target == EVENT])
            await self._commit()
            gone = [told.number for told in waiting if told.target not in (EVENT, *self._webhooks)]
            await self._on_disk(self._store.done, gone)
        self._begin_task(self._keep_time(), "alerts' time")
        for rule in self._rules:
            await self.engine.serve(rule.topic, {"acknowledge": self._acknowledge_call(rule.name)})

    async def on_stop(self) -> None:
        """Let go of everything; what is not told yet is told by the next life."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        async with self._lock:
            await asyncio.to_thread(self._store.close)

    async def position(self) -> str | None:
        """Up to where events were seen."""
        return self._position

    async def on_events(self, batch: list[Event]) -> None:
        """See the module."""
        self._check()
        async with self._lock:
            for event in batch:
                self._alarms.see(event, self._clock())
            await self._commit()

    async def on_position(self, position: str) -> None:
        """Everything before was seen."""
        self._check()
        now = asyncio.get_running_loop().time()
        async with self._lock:
            self._position = position
            if not self._level or now - self._kept_at >= POSITION_SPACING:
                self._kept_at = now
                await self._on_disk(self._store.keep, (), (), (), position)
        self._level = True
        self._news.set()

    async def answer(self, method: str, params: dict[str, Any]) -> Any:
        """``list``, and ``acknowledge`` of ``{"rule", "subject", "note", "by"}``."""
        self._check_for_others()
        if method == "list":
            return self._alarms.listed()
        if method == "acknowledge":
            asked = msgspec.convert(params, _Acknowledge)
            return await self._acknowledge(asked.rule, asked.subject, asked.by, asked.note)
        raise RequestError(ErrorCode.NOT_FOUND, f"alerts have no method {method!r}")

    @property
    def condition(self) -> Condition:
        """What is in the way of telling everybody everything."""
        if self._trouble is not None:
            return Condition(str(self._trouble))
        if self._refused is not None:
            return Condition(self._refused)
        for name, subjects in self._alarms.unwatched.items():
            return Condition(f"rule {name} has too many subjects: {subjects} events were not looked at")
        troubles = [webhook.condition for webhook in self._webhooks.values()]
        return next((trouble for trouble in troubles if trouble.reason is not None), Condition())

    def _acknowledge_call(self, rule: str) -> Callable[[Any, str | None], Any]:
        async def acknowledge(params: Any, caller: str | None) -> Any:
            try:
                asked = msgspec.convert({**params, "rule": rule, "by": caller}, _Acknowledge)
            except (TypeError, msgspec.ValidationError):
                text = 'what is wanted is {"subject": text or null, "note": text or null}'
                raise RequestError(ErrorCode.BAD_REQUEST, text, "params") from None
            return await self._acknowledge(rule, asked.subject, asked.by, asked.note)

        return acknowledge

    async def _acknowledge(self, rule: str, subject: str | None, by: str | None, note: str | None) -> dict[str, Any]:
        async with self._lock:
            self._check_for_others()
            data = self._alarms.acknowledge(rule, subject, by, note, self._clock())
            await self._commit()
        return data

    # telling ---------------------------------------------------------------------------------------------------------

    async def _commit(self) -> None:
        """Keep what has changed, then tell it."""
        changed, forgotten, news = self._alarms.changes()
        if not (changed or forgotten or news):
            return
        rows = [row for one in news for row in self._rows(one)]
        waiting = await self._on_disk(self._store.keep, changed, forgotten, rows, self._position)
        self._alarms.taken()
        self._news.set()
        for one in news:
            _say(one)
        await self._hand_over([told for told in waiting if told.target != EVENT])
        try:
            await self._publish([told for told in waiting if told.target == EVENT])
        except Exception as error:
            self._trouble = error  # what comes later must not be told before it
            raise

    def _rows(self, news: News) -> list[tuple[str, bytes]]:
        rule, data = news.rule, news.data
        priority = PRIORITY[rule.severity]
        told = _Told(secrets.token_hex(8), news.turn, rule.topic, data["subject"] or rule.name, priority, data)
        body = msgspec.json.encode(told)
        return [(target, body) for target in (EVENT, *rule.webhooks) if target == EVENT or target in self._webhooks]

    async def _publish(self, waiting: Sequence[Waiting]) -> None:
        for each in waiting:
            await self._publish_one(_told.decode(each.body))
        if waiting:
            await self._on_disk(self._store.done, [each.number for each in waiting])

    async def _publish_one(self, told: _Told) -> None:
        clock = asyncio.get_running_loop().time
        began = clock()
        while True:
            try:
                await self.engine.publish(
                    told.topic,
                    told.data,
                    type=told.type,
                    key=told.key,
                    priority=told.priority,
                    idempotency_key=told.id,
                )
                self._refused = None
                return
            except RequestError as error:
                if error.code in HOPELESS:
                    self._refused = f"the last event on {told.topic} was refused: {error}"
                    fields = {"rule": told.data["rule"], "topic": told.topic, "error": str(error)}
                    _log.error("alert_not_told", extra=fields)
                    return
                if error.code is not ErrorCode.UNAVAILABLE or clock() - began > PATIENCE:
                    raise
            await asyncio.sleep(PAUSE)

    async def _hand_over(self, waiting: Sequence[Waiting]) -> None:
        dropped = [self._webhooks[each.target].put(each.number, each.body) for each in waiting]
        if numbers := [number for number in dropped if number is not None]:
            await self._on_disk(self._store.done, numbers)

    async def _sent(self, number: int) -> None:
        async with self._lock:
            await self._on_disk(self._store.done, [number])

    async def _on_disk(self, work: Callable[..., Result], *args: Any) -> Result:
        """The disk may take its time, and others share this loop. To its end, also if the caller is cancelled: else
        another one would use the database at the same time."""
        task = asyncio.ensure_future(asyncio.to_thread(work, *args))
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            with contextlib.suppress(Exception):
                await task
            raise

    # time ------------------------------------------------------------------------------------------------------------

    async def _keep_time(self) -> None:
        """Have those fire who are due without an event, once all earlier events were seen."""
        while True:
            self._news.clear()
            if not self._level or (due := self._alarms.due) is None:
                await self._news.wait()
                continue
            wait = due + LATENESS - self._clock()
            if wait > 0:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(min(wait, LONGEST_SLEEP)):
                        await self._news.wait()
                continue
            async with self._lock:
                self._alarms.advance(self._clock() - LATENESS)
                await self._commit()

    def _begin_task(self, work: Any, name: str) -> None:
        task = asyncio.get_running_loop().create_task(work, name=name)
        task.add_done_callback(self._ended)
        self._tasks.append(task)

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("%s failed", task.get_name(), exc_info=error)
            if isinstance(error, Exception):
                self._trouble = error

    def _check(self) -> None:
        """End this life where a task of it has ended: the next hook raises what it failed with."""
        if self._trouble is not None:
            raise self._trouble

    def _check_for_others(self) -> None:
        """The same for who asks something of it."""
        if self._trouble is not None:
            raise RequestError(ErrorCode.UNAVAILABLE, f"alerts begin anew: {self._trouble}")


def _say(news: News) -> None:
    rule, data = news.rule, news.data
    write = _log.warning if news.turn is Turn.FIRED and rule.severity != "info" else _log.info
    write(
        news.turn.value,
        extra={"rule": rule.name, "subject": data["subject"], "severity": rule.severity, "value": data["value"]},
    )
