"""Live parameters: keeps them, answers who reads or sets them, tells each new version on ``parameters.NAME``.

The order is: checked, on disk, in force, answered, told. So what was answered is never lost, and what was told holds.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import Callable
from typing import Annotated, Any, Final, NamedTuple, Protocol, TypeVar

import msgspec
from msgspec import Meta, Struct

from actors.inner_client import InnerClient
from actors.monitor_service import MonitorService
from actors.parameter_book import Change, Parameter, Proposal, Refusal, Schema, check_whole_numbers
from transport.codes import ErrorCode
from transport.errors import HeliographError, RequestError
from transport.requests import refusal

CHANGES: Final = 100
"""In an answer to ``history``, where it does not say."""
MAX_CHANGES: Final = 1_000
UNTOLD: Final = 1_000
"""Versions of a parameter that wait to be told; the oldest of more are not: who follows reads the newest then."""
AGAIN_S: Final = 0.5
"""Until the next attempt to tell a version, while the hub is away."""

Kind = TypeVar("Kind")
Result = TypeVar("Result")
_log = logging.getLogger(__name__)


class Page(Protocol):
    """Changes, newest first, and where older ones begin."""

    changes: list[Change]
    before: int | None


class Store(Protocol):
    """Where versions are kept; see :class:`engine.parameter_store.ParameterStore`. Used by one thread at a time."""

    name: str

    def latest(self, parameter: str, /) -> Change | None: ...
    def versions(self, parameter: str, after: int, limit: int, /) -> list[Change]: ...
    def page(self, parameter: str, limit: int, before: int | None, /) -> Any: ...
    def refused(self, parameter: str, /) -> int: ...
    def append(self, parameter: str, change: Change, /) -> None: ...
    def refuse(self, parameter: str, change: Change, refusal: Refusal, /) -> None: ...
    def close(self) -> None: ...


class ParameterSpec(NamedTuple):
    """A parameter that there is."""

    name: str
    topic: str
    schema: Schema


class _History(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    limit: Annotated[int, Meta(ge=1, le=MAX_CHANGES)] = CHANGES
    before: Annotated[int, Meta(ge=1, le=(1 << 63) - 1)] | None = None


class _Nothing(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    pass


class _Told(Struct):
    version: int
    at: float | None = None


_TOLD: Final = ("version", "values", "changed", "by", "at", "reason")  # of a version, in an event


class _Live:
    """A parameter, and its versions that are not told yet."""

    def __init__(self, spec: ParameterSpec, parameter: Parameter) -> None:
        self.spec, self.parameter = spec, parameter
        self.lock = asyncio.Lock()  # one change after the other
        self.untold: deque[Change] = deque(maxlen=UNTOLD)
        self.more = asyncio.Event()
        self.stuck: str | None = None  # why they cannot be told


class ParameterService(MonitorService):
    """All parameters of the engine.

    Methods of ``parameters.NAME``: ``get``, ``set``, ``history``, see ``docs/parameters.md``.

    Args:
        open_store: called in a thread; raises :class:`HeliographError`.
    """

    def __init__(
        self, *, name: str, engine: InnerClient, specs: tuple[ParameterSpec, ...], open_store: Callable[[], Store]
    ) -> None:
        super().__init__(name=name, options={}, engine=engine)
        self._specs, self._open_store = specs, open_store
        self._store: Store | None = None
        self._using = asyncio.Lock()  # the store
        self._live: dict[str, _Live] = {}
        self._work: set[asyncio.Task[Any]] = set()
        self._failing: str | None = None  # why the store could not be written last

    async def on_start(self) -> None:
        """Read all, then answer for all."""
        self._store = await asyncio.to_thread(self._open_store)
        for spec in self._specs:
            self._live[spec.name] = await self._begun(spec)
        for live in self._live.values():
            self._spawn(self._tell(live), f"parameter {live.spec.name}")
            await self.engine.serve(live.spec.topic, self._methods(live))
            if live.parameter.trouble is not None:
                found = {"parameter": live.spec.name, "version": live.parameter.current.version}
                _log.warning("parameter_does_not_fit", extra=found)
        self._report()

    async def on_stop(self) -> None:
        """Versions that are under way are kept yet."""
        tellers = [task for task in self._work if task.get_name().startswith("parameter ")]
        for task in tellers:
            task.cancel()
        if self._work:
            await asyncio.wait(self._work)
        if self._store is not None:
            await asyncio.to_thread(self._store.close)

    async def answer(self, method: str, params: dict[str, Any]) -> Any:
        """For the admin API: ``list``, and the methods of a parameter with ``{"name", "by", "params"}``."""
        if method == "list":
            return {"parameters": [await self._row(live) for live in self._live.values()]}
        live = self._live.get(params["name"])
        if live is None:
            raise RequestError(ErrorCode.NOT_FOUND, f"there is no parameter {params['name']!r:.100}", "name")
        return await self._methods(live)[method](params["params"], params["by"])

    # methods ---------------------------------------------------------------------------------------------------------

    def _methods(self, live: _Live) -> dict[str, Callable[[Any, str | None], Any]]:
        async def get(params: object, _caller: str | None) -> dict[str, Any]:
            _converted(params, _Nothing)
            now = live.parameter.current
            return {
                "name": live.spec.name,
                **_shown(now, _TOLD),
                "schema": live.spec.schema.document,
            }

        async def set_(params: object, caller: str | None) -> dict[str, Any]:
            check_whole_numbers(params)
            wanted = _converted(params, Proposal)
            # What has begun is done, whatever becomes of the caller: memory and disk must say the same.
            change = await asyncio.shield(self._spawn(self._set(live, wanted, caller), f"set {live.spec.name}"))
            return _shown(change, ("version", "values", "changed", "by", "at"))

        async def history(params: object, _caller: str | None) -> Any:
            asked = _converted(params, _History)
            page: Page = await self._stored(lambda store: store.page(live.spec.name, asked.limit, asked.before))
            return msgspec.to_builtins({"changes": page.changes, "before": page.before})

        return {"get": get, "set": set_, "history": history}

    async def _set(self, live: _Live, wanted: Proposal, by: str | None) -> Change:
        name, parameter = live.spec.name, live.parameter
        async with live.lock:
            now = max(time.time(), parameter.current.at)
            try:
                change = parameter.propose(wanted, by, now)
            except RequestError as error:
                await self._refused(parameter, wanted, by, now, error)
                raise
            if change is None:
                return parameter.current
            await self._written(lambda store: store.append(name, change))
            parameter.accept(change)
            live.untold.append(change)
            live.more.set()
        told = {"parameter": name, "version": change.version, "changed": ", ".join(change.changed), "user": by}
        _log.info("parameter_changed", extra=told)
        self._report()
        return change

    async def _refused(
        self, parameter: Parameter, wanted: Proposal, by: str | None, at: float, error: RequestError
    ) -> None:
        name = parameter.name
        _log.info("parameter_refused", extra={"parameter": name, "user": by, "code": error.code, "field": error.field})
        reason = None if error.field == "reason" else wanted.reason
        attempt = Change(
            version=parameter.current.version, values=wanted.values, changed=[], by=by, at=at, reason=reason
        )
        refused = Refusal(error.code.value, error.message, error.field)
        with contextlib.suppress(RequestError):  # it is reported, and the caller is to learn what is wrong with its own
            await self._written(lambda store: store.refuse(name, attempt, refused))

    async def _row(self, live: _Live) -> dict[str, Any]:
        name, current = live.spec.name, live.parameter.current
        refused = await self._stored(lambda store: store.refused(name))
        row = {"name": name, **_shown(current, ("version", "values", "by", "at", "reason"))}
        return {**row, "refused": refused, "trouble": live.parameter.trouble}

    # telling ---------------------------------------------------------------------------------------------------------

    async def _begun(self, spec: ParameterSpec) -> _Live:
        stored = await self._stored(lambda store: store.latest(spec.name))
        parameter = Parameter(spec.name, spec.schema, stored, time.time())
        if parameter.fresh:
            await self._stored(lambda store: store.append(spec.name, parameter.current))
        live = _Live(spec, parameter)
        last = await self._last_told(spec.topic)
        current = parameter.current
        if last is not None and last.version < current.version:
            after = last.version
            live.untold.extend(await self._stored(lambda store: store.versions(spec.name, after, UNTOLD)))
        elif last is None or (last.version, last.at) != (current.version, current.at):  # of a database that is lost
            live.untold.append(current)
        if live.untold:
            live.more.set()
        return live

    async def _last_told(self, topic: str) -> _Told | None:
        """What the topic's last event says, if it says something."""
        for event in await self.engine.snapshot(topic):
            try:
                return msgspec.json.decode(event.payload, type=_Told)
            except msgspec.DecodeError:
                pass
        return None

    async def _tell(self, live: _Live) -> None:
        """Each version in its order, until it is where it belongs."""
        assert self._store is not None, "it was opened"
        while True:
            await live.more.wait()
            live.more.clear()
            while live.untold:
                change = live.untold[0]
                data = {"name": live.spec.name, **_shown(change, _TOLD)}
                try:
                    # A version comes once, though it is repeated when nobody knows whether it has.
                    key = f"{self._store.name}:{change.version}"
                    await self.engine.publish(live.spec.topic, data, type="parameters", idempotency_key=key)
                    live.stuck = None
                    if live.untold[0] is change:  # else it has gone, as too many wait
                        live.untold.popleft()
                except HeliographError as error:
                    live.stuck = f"version {change.version} cannot be told: {error}"
                    await asyncio.sleep(AGAIN_S)
                finally:
                    self._report()

    # the store -------------------------------------------------------------------------------------------------------

    async def _stored(self, work: Callable[[Store], Result]) -> Result:
        async with self._using:
            assert self._store is not None, "it was opened"
            return await asyncio.to_thread(work, self._store)

    async def _written(self, work: Callable[[Store], None]) -> None:
        try:
            await self._stored(work)
        except RequestError as error:
            self._failing = error.message
            self._report()
            raise
        if self._failing is not None:
            self._failing = None
            self._report()

    def _spawn(self, work: Any, name: str) -> asyncio.Task[Any]:
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._work.add(task)
        task.add_done_callback(self._work.discard)
        return task

    def _report(self) -> None:
        troubles = [
            f"{name}: {trouble}"
            for name, live in self._live.items()
            for trouble in (live.parameter.trouble, live.stuck)
            if trouble is not None
        ]
        if self._failing is not None:
            troubles.insert(0, self._failing)
        self.report("degraded" if troubles else "ok", "; ".join(troubles)[:1_000] or None)


def _shown(change: Change, names: tuple[str, ...]) -> dict[str, Any]:
    return {name: getattr(change, name) for name in names}


def _converted(params: object, kind: type[Kind]) -> Kind:
    try:
        return msgspec.convert({} if params is None else params, kind)
    except msgspec.ValidationError as error:
        raise refusal(error) from None
