"""Code of users that the configuration names, found and looked at before anything runs."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

from actors.service import Service
from actors.service_runner import ServiceSpec
from actors.stage import FunctionStage, Stage
from engine.config import Config
from engine.service_config import Service as ServiceConfig
from engine.stage_config import Stage as StageConfig
from transport.errors import ConfigError

Kind = TypeVar("Kind")


def imported(path: str, field: str, wanted: str = "package.module:name") -> Any:
    """What ``package.module:name`` names; :class:`ConfigError` where there is nothing."""
    module, _, qualified = path.partition(":")
    try:
        found: Any = importlib.import_module(module)
        for part in qualified.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(f"cannot import {path!r}, which must be {wanted}: {error}", field) from error
    return found


def subclass(path: str, base: type[Kind], field: str, wanted: str = "package.module:Class") -> type[Kind]:
    """The subclass of ``heliograph``'s ``base`` that ``path`` names; :class:`ConfigError` where it is none."""
    found = imported(path, field, wanted)
    if not (isinstance(found, type) and issubclass(found, base)):
        raise ConfigError(f"{path!r} is not a subclass of heliograph.{base.__name__}", field)
    return found


def stage_maker(name: str, table: StageConfig) -> Callable[[], Stage]:
    """What makes the stage that ``[stages.NAME]`` names; :class:`ConfigError` where there is none."""
    path = table.function or table.actor or ""
    field = f"stages.{name}.{'function' if table.function else 'actor'}"
    found = imported(path, field)
    if table.function:
        work = found if inspect.isroutine(found) else getattr(found, "__call__", None)  # noqa: B004  it is looked at
        if isinstance(found, type) or not callable(found):
            raise ConfigError(f"{path!r} is no function", field)
    elif isinstance(found, type) and issubclass(found, Stage):
        work = found.on_events
        if work is Stage.on_events:
            raise ConfigError(f"{path!r} must define on_events(batch)", field)
    else:
        raise ConfigError(f"{path!r} is not a subclass of heliograph.Stage", field)
    if inspect.iscoroutinefunction(work) or inspect.isasyncgenfunction(work):
        raise ConfigError(f"{path!r} must not be async: a stage runs in a thread of its own, without a loop", field)
    return partial(FunctionStage, found) if table.function else partial(found, options=table.options)


def stage_path(what: object, field: str) -> str:
    """A class or function of a program as the configuration would name it.

    Raises:
        ConfigError: it cannot be imported by a name: something local, a lambda, an object.
    """
    path = f"{getattr(what, '__module__', None)}:{getattr(what, '__qualname__', None)}"
    if imported(path, field, "a class or a function of a module") is not what:
        raise ConfigError(f"{path!r} is something else when it is imported", field)
    return path


_HOOKS = ("on_start", "on_stop", "position", "on_events", "on_gap", "on_position")


def service_specs(config: Config) -> tuple[ServiceSpec, ...]:
    """``[services.*]`` as the actors want them; :class:`ConfigError`: there is no such service."""
    return tuple(_service_spec(name, table) for name, table in config.services.items())


def _service_spec(name: str, table: ServiceConfig) -> ServiceSpec:
    field = f"services.{name}.actor"
    found = subclass(table.actor, Service, field)
    for hook in _HOOKS:
        if not inspect.iscoroutinefunction(getattr(found, hook)):
            raise ConfigError(f"{table.actor!r}: {hook} must be `async def`", field)
    if table.topics and found.on_events is Service.on_events:
        raise ConfigError(f"{table.actor!r} must define on_events(batch), as it has topics", field)
    return ServiceSpec(name, lambda engine: found(name=name, options=table.options, engine=engine), table.topics)
