"""The configuration: frozen, typed, every field with its unit, its default and the meaning of none.

:func:`load` reads TOML, then the environment, then overrides, each beating the one before. A wrong value is a
:class:`~transport.errors.ConfigError` that names the field and, if it came from the file, its line.

TOML has no null: where a field allows none, the string ``"none"`` says so. A field that is a secret can be given as
``<field>_file``, the path of a file that holds it.
"""

from __future__ import annotations

import os
import re
import socket
import stat
import sys
import tempfile
import tomllib
from collections.abc import Callable, Iterator, Mapping
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from engine import config_text, toml_text
from engine.admin_config import Admin, AdminKey
from engine.alert_config import Alert, Webhook
from engine.auth_config import Auth
from engine.feed_config import Feed, FeedMap
from engine.metrics_config import Metrics
from engine.parameter_config import Parameter
from engine.redis_config import REDIS, Redis
from engine.service_config import Service
from engine.socketio_config import SocketIo, SocketIoNamespace
from engine.state_path import state_path
from engine.tables import Masked, Name, Positive, Reader, Text, about, check_importable, join, put, read_text
from engine.tracing_config import Tracing
from transport.addresses import is_loopback
from transport.errors import ConfigError, RequestError
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

Port = Annotated[int, Meta(ge=0, le=65_535)]
Rate = Annotated[float, Meta(gt=0, le=1_000_000)]
_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://[^/?#@\s]+", re.IGNORECASE)


def _checked(check: Callable[[str], str], text: str, field: str) -> None:
    try:
        check(text)
    except RequestError as error:
        raise ConfigError(error.message, field) from None


def usable_cores() -> int:
    """Cores that this process may use."""
    usable = getattr(os, "sched_getaffinity", None)  # Linux; macOS has only cpu_count
    return len(usable(0)) if usable else os.cpu_count() or 1


class Server(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[server]``: the client port and the processes behind it."""

    host: Annotated[Name, about("address that clients connect to")] = "127.0.0.1"
    port: Annotated[Port, about("client port; 0 picks a free one")] = 8765
    workers: Annotated[
        Annotated[int, Meta(ge=0, le=1_024)] | None,
        about("broadcast workers; 0 runs everything in one process", "processes", none="one per core"),
    ] = None
    tls_cert_file: Annotated[
        Name | None,
        about("PEM file of the certificate for wss://, then those up to a root; read again by a reload", none="ws://"),
    ] = None
    tls_key_file: Annotated[Name | None, about("PEM file of its key, not encrypted", none="in tls_cert_file")] = None
    origins: Annotated[
        tuple[str, ...] | None,
        about(
            'sites whose pages may connect, "https://app.example"; "*" is any',
            none="the host that the page calls; on this machine local ones",
        ),
    ] = None
    trusted_proxies: Annotated[
        tuple[str, ...],
        about("addresses and networks, 10.0.0.0/8, whose X-Forwarded-For says where a client is"),
    ] = ()
    node: Annotated[Name | None, about("name of this machine in logs and `welcome`", none="host name")] = None
    runtime_dir: Annotated[
        Name | None,
        about(
            "directory of sockets and lock, created with mode 0700",
            none="$XDG_RUNTIME_DIR/heliograph-PORT, else TMPDIR/heliograph-UID-PORT",
        ),
    ] = None
    deflate: Annotated[
        bool,
        about("take compressed messages (permessage-deflate) from clients that offer them; events go uncompressed"),
    ] = False
    drain_timeout: Annotated[Positive, about("longest wait for clients to leave when stopping", "s")] = 10.0
    drain_spread: Annotated[
        Positive, about("clients are sent away over so long, at most half of drain_timeout; few at once", "s")
    ] = 5.0
    heartbeat_interval: Annotated[Positive, about("how often the processes say that they live", "s")] = 1.0
    heartbeat_timeout: Annotated[
        Positive, about("silence after which a process is dead; more than twice heartbeat_interval", "s")
    ] = 5.0

    def __post_init__(self) -> None:
        if self.tls_key_file is not None and self.tls_cert_file is None:
            raise ConfigError("needed because tls_key_file is given", "tls_cert_file")
        for i, origin in enumerate(self.origins or ()):
            if origin != "*" and _ORIGIN.fullmatch(origin) is None:
                raise ConfigError(f'{origin!r} must be "*" or like "https://app.example:8443"', f"origins[{i}]")
        for i, proxy in enumerate(self.trusted_proxies):
            try:
                ip_network(proxy)
            except ValueError as error:
                raise ConfigError(f"no address or network: {error}", f"trusted_proxies[{i}]") from None
        if self.heartbeat_timeout <= 2 * self.heartbeat_interval:
            raise ConfigError(
                f"{self.heartbeat_timeout:g} s is not above twice heartbeat_interval, {self.heartbeat_interval:g} s",
                "heartbeat_timeout",
            )

    @property
    def scheme(self) -> str:
        """Of the address that clients connect to."""
        return "ws" if self.tls_cert_file is None else "wss"

    def worker_count(self) -> int:
        """``workers``, or the number of cores that this process may use."""
        if self.workers is not None:
            return self.workers
        return usable_cores()

    def node_name(self) -> str:
        """``node``, or this machine's host name."""
        return self.node or socket.gethostname()

    def runtime_path(self, environ: Mapping[str, str] = os.environ) -> Path:
        """``runtime_dir``, or its default for this port. Creates nothing.

        With port 0 the caller's process id stands for the port: the daemon calls this once and tells its children.
        """
        if self.runtime_dir is not None:
            return Path(self.runtime_dir)
        name = str(self.port or f"pid{os.getpid()}")
        base = environ.get("XDG_RUNTIME_DIR")
        return (
            Path(base, f"heliograph-{name}")
            if base
            else Path(tempfile.gettempdir(), f"heliograph-{os.getuid()}-{name}")
        )


class Log(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[log]``: lines on stderr."""

    level: Annotated[Literal["debug", "info", "warning", "error", "critical"], about("least level that is written")] = (
        "info"
    )
    format: Annotated[
        Literal["auto", "text", "json"], about("form of a line; auto is text on a terminal, else json")
    ] = "auto"


class Limits(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[limits]``: what one client, worker or engine may use."""

    connections: Annotated[int, about("open client connections per worker", ge=1)] = 50_000
    connections_per_ip: Annotated[
        Annotated[int, Meta(ge=1)] | None,
        about("those from one IPv4 address or IPv6 /64, per worker", none="any number"),
    ] = None
    sessions_per_user: Annotated[
        Annotated[int, Meta(ge=1)] | None, about("sessions of one user, per worker", none="any number")
    ] = None
    connect_rate: Annotated[
        Rate | None,
        about(
            "connections from one IPv4 address or IPv6 /64, per worker, a second's worth at once; others get HTTP 429",
            "1/s",
            none="any number",
        ),
    ] = None
    message_rate: Annotated[
        Rate | None,
        about(
            "messages from one client, a second's worth at once; who sends more is read as fast as that",
            "1/s",
            none="any number",
        ),
    ] = None
    message_bytes: Annotated[int, about("largest message from a client", "bytes", ge=128, le=2**22)] = 262_144
    topics_per_request: Annotated[int, about("topics named in one request", ge=1)] = 1_000
    subscriptions: Annotated[int, about("subscriptions per session", ge=1)] = 10_000
    unacknowledged_publishes: Annotated[
        int, about("publishes per session not answered yet; beyond it the socket is not read", ge=1)
    ] = 1_000
    handshake_timeout: Annotated[Positive, about("from connect to a complete WebSocket handshake", "s")] = 10.0
    request_timeout: Annotated[Positive, about("longest wait for an answer from the hub", "s")] = 10.0
    topics: Annotated[int, about("topics that the hub knows at once", ge=1)] = 100_000
    routes: Annotated[int, about("topics whose receivers are remembered; the least recently used go", ge=1)] = 65_536
    route_ttl: Annotated[Positive, about("after it a topic's receivers are looked up anew", "s")] = 300.0
    group_events: Annotated[
        int, about("events per consumer group that wait for a member or an acknowledgement; the oldest go", ge=1)
    ] = 10_000


class Delivery(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[delivery]``: how events reach clients, and what happens to a client that does not keep up."""

    pacing: Annotated[
        Literal["adaptive"] | Annotated[float, Meta(ge=0, le=1)],
        about('"adaptive" rests as long as the last flush took; 0 flushes every turn; a number is the interval', "s"),
    ] = "adaptive"
    write_buffer: Annotated[
        int, about("bytes in a client's transport above which it goes to the slow lane", "bytes", ge=1_024)
    ] = 65_536
    outbox_bytes: Annotated[int, about("bytes that a slow client's outbox holds", "bytes", ge=1_024)] = 1_048_576
    outbox_events: Annotated[int, about("events that a slow client's outbox holds", "events", ge=1)] = 10_000
    slow_policy: Annotated[
        Literal["gap", "disconnect"], about("a full outbox: drop and say so with `gap`, or close with 4008")
    ] = "gap"
    user_rate: Annotated[
        Annotated[int, Meta(ge=1, le=1_000_000)] | None,
        about(
            "events per user_window that a user gets over all its sessions; more is a gap", "events", none="no limit"
        ),
    ] = None
    user_window: Annotated[Positive, about("sliding window of user_rate", "s")] = 1.0
    ping_interval: Annotated[Positive, about("between pings to a client", "s")] = 25.0
    ping_timeout: Annotated[Positive, about("longest wait for the pong", "s")] = 20.0
    bus_window: Annotated[
        int, about("bytes sent to a worker and not acknowledged; beyond it the worker gets gaps", "bytes", ge=65_536)
    ] = 8 * 2**20


class History(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[history]``: what the hub keeps, so that clients that were away can have it."""

    dir: Annotated[
        Name | None,
        about(
            "directory of the recent events of all topics; on a file system in memory nothing waits for a disk",
            none="history in server.runtime_dir",
        ),
    ] = None
    bytes: Annotated[
        int, about("room for recent events of all topics together; the oldest go", "bytes", ge=2**20, le=2**36)
    ] = 256 * 2**20
    size: Annotated[int, about("recent events that are kept of a topic; 0 keeps none", "events", ge=0, le=2**31)] = (
        10_000
    )
    age: Annotated[Positive, about("events that are older are not kept, but of durable topics", "s")] = 300.0
    durable_file: Annotated[
        Name | None,
        about(
            "SQLite database of durable topics",
            none="$STATE_DIRECTORY/history.db, else heliograph/history-PORT.db in $XDG_STATE_HOME or ~/.local/state",
        ),
    ] = None
    topic_idle: Annotated[Positive, about("a topic without event for so long is forgotten", "s")] = 3_600.0

    def durable_path(self, port: int, environ: Mapping[str, str] = os.environ) -> Path:
        """``durable_file``, or its default for an engine on this client port. Creates nothing."""
        path = state_path(self.durable_file, "history", port, environ)
        if path is None:
            raise ConfigError("is needed, as events are kept on disk and the port is picked", "history.durable_file")
        return path


class Topic(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[topics."PATTERN"]``: how events of these topics are routed. The most specific pattern wins."""

    strategy: Annotated[
        Literal["broadcast_all", "content_based", "priority_first", "load_balanced"],
        about(
            "broadcast_all ignores filters; content_based honours them; priority_first also sends what waits by "
            "priority; load_balanced gives each event to one member of each consumer group"
        ),
    ] = "content_based"
    window: Annotated[
        Annotated[float, Meta(ge=0, le=1)], about("events are collected for so long and sent together", "s")
    ] = 0.0
    acks: Annotated[bool, about("members of consumer groups acknowledge; what they do not goes to others")] = False
    ack_timeout: Annotated[Positive, about("after it an event not acknowledged goes to another member", "s")] = 30.0
    presence: Annotated[bool, about("the hub knows which users are subscribed to the exact topic")] = False
    durable: Annotated[
        bool, about("events are on disk before they are acknowledged and delivered; they outlive the machine")
    ] = False
    history_size: Annotated[
        Annotated[int, Meta(ge=0, le=2**31)] | None, about("events that are kept", "events", none="history.size")
    ] = None
    history_age: Annotated[
        Annotated[float, Meta(gt=0)] | None,
        about("for how long they are kept", "s", none="history.age; of durable topics: no limit"),
    ] = None
    announce: Annotated[bool, about("a user's coming and going is an event, `join` or `leave`, on the topic")] = False

    def __post_init__(self) -> None:
        if self.announce and not self.presence:
            raise ConfigError("needs presence = true", "announce")
        if self.acks and self.strategy != "load_balanced":
            raise ConfigError('needs strategy = "load_balanced"', "acks")


class Backplane(Masked, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[backplane]``: several engines that share their events over a Redis."""

    url: Annotated[
        Name | None,
        about("redis://, rediss:// or unix:// address of the Redis that all nodes share", none="this engine is alone"),
    ] = None
    password: Annotated[Name | None, about("of the Redis", none="none, or in the URL", secret=True)] = None
    prefix: Annotated[Name, about("of the keys; engines with the same one are nodes of one whole")] = "heliograph"
    on_outage: Annotated[
        Literal["refuse", "local"],
        about(
            "without Redis publishes are refused as `unavailable`, or delivered on this node, kept on disk, "
            "acknowledged as pending and sent on when Redis is back"
        ),
    ] = "refuse"
    spool_events: Annotated[
        int, about("events that wait on disk for Redis; more are refused", "events", ge=1, le=10_000_000)
    ] = 100_000


class Stage(Masked, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[stages.NAME]``: code of one's own on the events' way, in a thread of its own."""

    actor: Annotated[Name | None, about('class of the stage, "package.module:Class"', none="it is a function")] = None
    function: Annotated[
        Name | None,
        about(
            'or a function, "package.module:function": gets an event, returns one, none or a list', none="it is a class"
        ),
    ] = None
    topics: Annotated[tuple[str, ...], Meta(min_length=1), about("patterns of the events that it gets")] = (">",)
    options: Annotated[dict[str, Any], about("`self.options` of the class")] = {}
    timeout: Annotated[Positive, about("longest wait for a batch of at most 256 events", "s")] = 1.0
    on_error: Annotated[
        Literal["pass", "drop"],
        about("an event for which it does nothing, because it fails or is late, goes on as it came or is dropped"),
    ] = "pass"

    def __post_init__(self) -> None:
        if (self.actor is None) == (self.function is None):
            raise ConfigError("exactly one of actor and function", "actor" if self.actor is None else "function")
        for field, path, wanted in (("actor", self.actor, "Class"), ("function", self.function, "function")):
            if path is not None:
                check_importable(path, wanted, field)
        if self.function is not None and self.options:
            raise ConfigError("a function has none", "options")
        for i, pattern in enumerate(self.topics):
            _checked(check_pattern, pattern, f"topics[{i}]")


EXAMPLES: dict[str, Struct] = {
    "feeds.fx": Feed(
        url="wss://exchange.example/stream",
        subscribe=({"op": "subscribe", "channels": ["ticks"]},),
        map=(FeedMap(key="data.s", time="data.T", time_unit="ms", data={"bid": "data.b", "ask": "data.a"}),),
    ),
    'topics."price.>"': Topic(window=0.1),
    "admin.keys.deploy": AdminKey(key="at-least-16-random-characters", scopes=("read", "operate")),
    'socketio.namespaces."/chat"': SocketIoNamespace(actor="my_package.chat:Chat"),
    "stages.spread": Stage(actor="my_package.stages:Spread", topics=("price.>",)),
    "services.audit": Service(actor="my_package.services:Audit", topics=("price.>",)),
    "alerts.cpu": Alert(series="machine.cpu", when={"gte": 80}, until={"lt": 75}, for_seconds=10.0, webhooks=("ops",)),
    "webhooks.ops": Webhook(url="https://ops.example/alerts"),
    "parameters.momentum": Parameter(model="my_package.strategies:Momentum"),
}
"""What the commented default configuration shows of the tables that have names."""


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
            _checked(check_pattern, pattern, f"topics.{pattern}")
            if self.backplane.url is not None and self.topics[pattern].durable:
                text = "must be false with backplane.url: then Redis keeps all events, see docs/backplane.md"
                raise ConfigError(text, f"topics.{pattern}.durable")
        for name in self.feeds:
            _checked(lambda token: topic("system", "feeds", token), name, f"feeds.{name}")
        for name, alert in self.alerts.items():
            _checked(lambda token: topic("alert", token), name, f"alerts.{name}")
            for i, webhook in enumerate(alert.webhooks):
                if webhook not in self.webhooks:
                    raise ConfigError(f"there is no [webhooks.{webhook}]", f"alerts.{name}.webhooks[{i}]")
        for name in self.parameters:
            _checked(lambda token: topic("parameters", token), name, f"parameters.{name}")
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
