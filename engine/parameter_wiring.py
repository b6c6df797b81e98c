"""The service of ``[parameters.*]``, made of the configuration."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from functools import cache, partial
from pathlib import Path

from actors.parameter_book import Schema
from actors.parameter_service import ParameterService, ParameterSpec
from actors.service_runner import ServiceSpec
from engine.config import Config
from engine.parameter_config import Parameter
from engine.parameter_schema import of_file, of_model
from engine.parameter_store import ParameterStore
from engine.state_path import state_path
from engine.user_code import imported
from transport.topics import topic

TABLE = "parameters"
"""Of the configuration; the service's name, its database's, and its topics' first token."""


def parameter_store(config: Config, environ: Mapping[str, str] = os.environ) -> Callable[[], ParameterStore]:
    """Opens what parameters remember; one in memory is the same each time, so that it outlives a reload."""
    path = state_path(None, TABLE, config.server.port, environ)
    return cache(partial(ParameterStore, None)) if path is None else partial(ParameterStore, path)


def parameter_service(config: Config, open_store: Callable[[], ParameterStore]) -> ServiceSpec:
    """What there is to run.

    Raises:
        ConfigError: there is no such class or file, or it cannot be used.
    """
    specs = [
        ParameterSpec(name, topic(TABLE, name), _schema(table, f"{TABLE}.{name}"))
        for name, table in config.parameters.items()
    ]
    create = partial(ParameterService, name=TABLE, specs=tuple(specs), open_store=open_store)
    return ServiceSpec(TABLE, lambda engine: create(engine=engine), ())


def _schema(table: Parameter, field: str) -> Schema:
    if table.schema is not None:
        return of_file(Path(table.schema), f"{field}.schema")
    assert table.model is not None, "the configuration demands one of them"
    field = f"{field}.model"
    return of_model(imported(table.model, field, "package.module:Class"), field)
