"""The configuration: frozen, typed, every field with its unit, its default and the meaning of none.

:func:`load` reads TOML, then the environment, then overrides, each beating the one before. A wrong value is a
:class:`~transport.errors.ConfigError` that names the field and, if it came from the file, its line.

TOML has no null: where a field allows none, the string ``"none"`` says so. A field that is a secret can be given as
``<field>_file``, the path of a file that holds it.
"""

from __future__ import annotations

import os
import stat
import sys
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from engine import config_text, toml_text
from engine.admin_config import Admin
from engine.alert_config import Alert, Webhook
from engine.auth_config import Auth
from engine.backplane_config import Backplane
from engine.config_examples import EXAMPLES
from engine.delivery_config import Delivery
from engine.feed_config import Feed
from engine.history_config import History
from engine.limits_config import Limits
from engine.metrics_config import Metrics
from engine.parameter_config import Parameter
from engine.redis_config import REDIS, Redis
from engine.server_config import Log, Server
from engine.service_config import Service
from engine.socketio_config import SocketIo
from engine.stage_config import Stage
from engine.tables import Reader, Text, check_with, join, put, read_text
from engine.topic_config import Topic
from engine.tracing_config import Tracing
from transport.addresses import is_loopback
from transport.errors import ConfigError
from transport.topics import check_pattern, topic

FILE_VARIABLE = "HELIOGRAPH_CONFIG"
ENVIRONMENT_PREFIX = "HELIOGRAPH_"
NOT_BUILT = frozenset({"store"})
RELOADABLE = frozenset(
    {"admin", "auth", "log", "limits", "delivery", "feeds", "redis", "alerts", "webhooks", "parameters"}
)
FIXED = frozenset(
    {
        "admin.host",
        "admin.port",
        "admin.tls_cert_file",
        "admin.tls_key_file",
        "delivery.bus_window",
        "delivery.user_rate",
        "delivery.user_window",
        "limits.group_events",
        "limits.request_timeout",
        "limits.route_ttl",
        "limits.routes",
        "limits.topics",
    }
)
"""Fields of those tables that a reload does not take."""
MONITORED: tuple[str, ...] = ("alerts", "parameters")
"""Tables that are each a service of the monitor node, see :mod:`engine.monitor`."""


class Config(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The whole configuration, one attribute a table."""

    server: Server = Server()
    admin: Admin = Admin()
    log: Log = Log()
    tracing: Tracing = Tracing()
    auth: Auth = Auth()
    limits: Limits = Limits()
    delivery: Delivery = Delivery()
    history: History = History()
    backplane: Backplane = Backplane()
    metrics: Metrics = Metrics()
    topics: dict[str, Topic] = {}
    feeds: dict[str, Feed] = {}
    redis: Redis = Redis()
    socketio: SocketIo = SocketIo()
    stages: dict[str, Stage] = {}
    services: dict[str, Service] = {}
    alerts: dict[str, Alert] = {}
    webhooks: dict[str, Webhook] = {}
    parameters: dict[str, Parameter] = {}

    def __post_init__(self) -> None:
        if self.admin.port and (self.admin.host, self.admin.port) == (self.server.host, self.server.port):
            raise ConfigError("is server.port already", "admin.port")
        if not (is_loopback(self.server.host) or self.auth.required or self.auth.anonymous):
            text = (
                f"{self.server.host!r} is not a loopback address: give auth.secret, auth.public_key_file or "
                "auth.jwks_file, so that clients need tokens, or say auth.anonymous = true to let in everybody"
            )
            raise ConfigError(text, "server.host")
        for pattern in self.topics:
            check_with(check_pattern, pattern, f"topics.{pattern}")
            if self.backplane.url is not None and self.topics[pattern].durable:
                text = "must be false with backplane.url: then Redis keeps all events, see docs/backplane.md"
                raise ConfigError(text, f"topics.{pattern}.durable")
        for name in self.feeds:
            check_with(lambda token: topic("system", "feeds", token), name, f"feeds.{name}")
        for name, alert in self.alerts.items():
            check_with(lambda token: topic("alert", token), name, f"alerts.{name}")
            if alert.series is not None and not self.metrics.interval:
                raise ConfigError("there are no series with metrics.interval = 0", f"alerts.{name}.series")
            for i, webhook in enumerate(alert.webhooks):
                if webhook not in self.webhooks:
                    raise ConfigError(f"there is no [webhooks.{webhook}]", f"alerts.{name}.webhooks[{i}]")
        for name in self.parameters:
            check_with(lambda token: topic("parameters", token), name, f"parameters.{name}")
        if self.redis.url is not None and REDIS in self.feeds:
            raise ConfigError("is the name of the feed that [redis] is", f"feeds.{REDIS}")

    @property
    def upstreams(self) -> dict[str, Feed | Redis]:
        """What the feeds' process reads, by its name: ``[feeds.*]`` and ``[redis]``."""
        redis = {} if self.redis.url is None else {REDIS: self.redis}
        return {**self.feeds, **redis}

    @property
    def owned_topics(self) -> frozenset[str]:
        """Topics on which only the engine publishes and answers: those of alert rules and parameters."""
        owned = (("alert", self.alerts), ("parameters", self.parameters))
        return frozenset(topic(first, name) for first, names in owned for name in names)

    @property
    def monitored(self) -> tuple[str, ...]:
        """The services of the monitor node that are wanted, by the names of their tables: without any there is none."""
        return tuple(name for name in MONITORED if getattr(self, name))


def load(
    path: str | os.PathLike[str] | None = None,
    overrides: Mapping[str, object] | None = None,
    environ: Mapping[str, str] = os.environ,
) -> Config:
    """The effective configuration: file < ``HELIOGRAPH_<TABLE>__<FIELD>`` < overrides.

    Args:
        path: TOML file; ``None`` takes ``$HELIOGRAPH_CONFIG``, and without that there is no file.
        overrides: dotted names to values, e.g. ``{"server.port": 0}``. ``None`` is "not given"; ``"none"`` is none.
        environ: an empty variable is not given.

    Raises:
        ConfigError: names the field, and the line or the variable that set it.
    """
    path = path or environ.get(FILE_VARIABLE) or None
    config = loads(read_text(Path(path)) if path else "", overrides, environ)
    directory = Path(path).resolve().parent if path else Path.cwd()
    found = {name: table.beside(directory) for name, table in config.parameters.items()}
    return msgspec.structs.replace(config, parameters=found)


def import_beside(path: str | os.PathLike[str] | None, environ: Mapping[str, str] = os.environ) -> None:
    """Let what lies beside the configuration file be imported, behind all else; in processes started later, too.

    Not from where everybody may put files: an optional module that is not installed would be found there.
    """
    path = path or environ.get(FILE_VARIABLE) or None
    if path is None:
        return
    directory = Path(path).resolve().parent
    if str(directory) not in sys.path and not directory.stat().st_mode & stat.S_IWOTH:
        sys.path.append(str(directory))


def loads(text: str, overrides: Mapping[str, object] | None = None, environ: Mapping[str, str] | None = None) -> Config:
    """As :func:`load`, from TOML text; without ``environ`` the environment has no say."""
    try:
        tables = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        message, line = toml_text.syntax_error(error)
        raise ConfigError(f"not TOML: {message}", None, line) from None
    origins: dict[str, str] = {}
    for names, value, origin in _layers(environ or {}, overrides or {}):
        field = put(tables, names, value)
        origins.pop(field, None)  # the strongest last
        origins[field] = origin
    try:
        config = Reader(origins, NOT_BUILT).struct(Config, tables)
        _check_keys(config.auth)
        return config
    except ConfigError as error:
        raise _located(error, text, origins) from None


def _check_keys(auth: Auth) -> None:
    """A key that is none shall not be found by a worker."""
    try:
        auth.authenticator()
    except ConfigError as error:
        raise ConfigError(error.message, join("auth", error.field or "")) from None


def _layers(environ: Mapping[str, str], overrides: Mapping[str, object]) -> Iterator[tuple[list[str], object, str]]:
    for name in sorted(environ):
        if name.startswith(ENVIRONMENT_PREFIX) and "__" in name and environ[name]:
            yield name.removeprefix(ENVIRONMENT_PREFIX).lower().split("__"), Text(environ[name]), name
    for field, value in overrides.items():
        if value is not None:
            whole = isinstance(value, Mapping) and field.startswith("topics.")  # a pattern's dots are its own
            yield field.split(".", 1 if whole else -1), value, "override"


def _located(error: ConfigError, text: str, origins: Mapping[str, str]) -> ConfigError:
    field = error.field or ""
    origin = origins.get(field.split("[")[0])
    if origin is not None:
        return ConfigError(f"{error.message} (from {origin})", error.field)
    return ConfigError(error.message, error.field, toml_text.line_of(text, field))


def needs_restart(old: Config, new: Config) -> list[str]:
    """The fields (``server.port``, ``stages.x``) in which ``new`` differs and that a reload can not take."""
    return [
        join(table, name)
        for table in Config.__struct_fields__
        for name in _differing(getattr(old, table), getattr(new, table))
        if not reload_takes(join(table, name))
    ]


def reload_takes(field: str) -> bool:
    """Whether a reload puts a field or table in force, by its dotted name."""
    return field.split(".")[0] in RELOADABLE and field not in FIXED


def reloaded(old: Config, new: Config) -> Config:
    """``old`` with what a reload to ``new`` can take.

    Raises:
        ConfigError: that does not go with what only a restart changes.
    """
    config = msgspec.structs.replace(old, **{table: getattr(new, table) for table in RELOADABLE})
    for field in FIXED:
        table, name = field.split(".")
        try:
            kept = msgspec.structs.replace(getattr(config, table), **{name: getattr(getattr(old, table), name)})
        except ConfigError as error:
            raise ConfigError(f"{error.message} until a restart", join(table, error.field or "")) from None
        config = msgspec.structs.replace(config, **{table: kept})
    return config


def for_children(config: Config, admin_port: int = 0) -> Config:
    """``config`` without ``[admin]``: of who speaks with strangers none knows the keys of the admin API.

    All that is left of it is the port, as it is bound: pages from there may connect.
    """
    return msgspec.structs.replace(config, admin=Admin(port=admin_port))


def _differing(old: Any, new: Any) -> list[str]:
    if isinstance(old, dict):
        return [name for name in sorted({*old, *new}) if old.get(name) != new.get(name)]
    return [name for name in old.__struct_fields__ if getattr(old, name) != getattr(new, name)]


def masked(config: Config) -> dict[str, Any]:
    """The configuration as plain tables in which no secret can be read; none is the string ``"none"``."""
    return config_text.masked(config)


def effective_toml(config: Config) -> str:
    """:func:`masked` as TOML."""
    return config_text.effective(config)


def defaults_toml() -> str:
    """The default configuration as TOML with a comment per field; :func:`load` takes it as it is."""
    return config_text.defaults(Config, EXAMPLES, reload_takes)


def reference() -> str:
    """The tables of ``docs/configuration.md``."""
    return config_text.reference(Config, reload_takes)
