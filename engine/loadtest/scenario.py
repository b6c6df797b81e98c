"""What a load test does: how many connections, how many messages, for how long, in which phases, against whom.

Three scenarios are built in, :data:`LIGHT`, :data:`MEDIUM` and :data:`HEAVY`; others come from TOML with the same
names (:func:`load`). A wrong value is a :class:`~transport.errors.ConfigError` that names the field and the line.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Final, Literal
from urllib.parse import urlsplit

import msgspec
from msgspec import Meta, Struct

from engine import toml_text
from engine.loadtest.criteria import Criteria
from engine.tables import Masked, Name, Positive, Reader, Text, about, put, read_text
from transport.errors import ConfigError

PHASES: Final = ("broadcast", "stability", "recovery", "sustained")
"""In this order, after the ramp-up. Connections are cut in the third."""
UNJUDGED: Final = frozenset({"recovery"})
"""Phases of which deliveries and uptime are reported, not judged: there the tester itself cuts connections."""
LEAST_PHASE_S: Final = 2.0
"""A phase is not scaled below this: it must hold samples enough for a p99, and a reconnect."""
LEAST_PAYLOAD: Final = 48
"""Bytes of the stamp: the largest time, the largest number, the names, and an empty filling."""
MOST_RATE, MOST_CONNECTIONS = 1_000_000.0, 1_000_000
_USER_OR_QUERY: Final = re.compile(r"(?<=//)[^/@?#]*@|\?[^#]*")

Share = Annotated[float, Meta(ge=0, le=1)]
Kind = Literal["native", "socketio", "plain"]


class Phases(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Shares of ``seconds``, 1 together; a phase with share 0 is left out."""

    broadcast: Annotated[Share, about("everything runs undisturbed", "share of seconds")] = 0.4
    stability: Annotated[Share, about("as before; who is lost, and when", "share of seconds")] = 0.2
    recovery: Annotated[Share, about("connections are cut, workers killed", "share of seconds")] = 0.2
    sustained: Annotated[Share, about("as the first one, after all that", "share of seconds")] = 0.2

    def __post_init__(self) -> None:
        if abs(sum(getattr(self, name) for name in PHASES) - 1.0) > 1e-6:
            raise ConfigError(f"the shares of {', '.join(PHASES)} must be 1 together")


class Faults(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What goes wrong on purpose in the recovery phase."""

    cut: Annotated[Share, about("connections that the tester cuts", "share of the open ones")] = 0.1
    kill_workers: Annotated[int, about("workers of a local engine that get SIGKILL", ge=0, le=64)] = 0


class TargetConfig(Masked, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The server, and how to speak with it."""

    url: Annotated[str, about("where clients connect")] = "ws://127.0.0.1:8765/ws"
    kind: Annotated[Kind, about("what it speaks: this engine, Socket.IO, or messages of its own")] = "native"
    subscribe: Annotated[
        str | None,
        about(
            "plain: the message that subscribes, with {topic}; socketio: the event, a JSON list of name and arguments",
            none="plain: who connects gets everything; socketio: as this engine has it",
        ),
    ] = None
    publish: Annotated[
        str, about("plain: a published message, with {data} and perhaps {topic}; socketio: the event, a JSON list")
    ] = "{data}"
    token: Annotated[str | None, about("who the clients are", none="none is shown", secret=True)] = None
    ca_file: Annotated[str | None, about("PEM file of whom wss:// trusts", none="those the system trusts")] = None
    admin_url: Annotated[
        str | None, about("the engine's admin API: its processes, for figures and kills", none="unknown")
    ] = None

    def __post_init__(self) -> None:
        url = urlsplit(self.url)
        if url.scheme not in ("ws", "wss") or not url.hostname:
            raise ConfigError(f"{self.url!r} must be ws://HOST:PORT/PATH or wss://…", "url")
        if "{data}" not in self.publish:
            raise ConfigError("must have {data}, where the data of a message goes", "publish")


class PublishConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which way messages come in."""

    via: Annotated[Literal["websocket", "redis"], about("to the server itself, or to a Redis that it reads")] = (
        "websocket"
    )
    redis_url: Annotated[str, about("the Redis")] = "redis://127.0.0.1:6379/0"
    channel: Annotated[str | None, about("its channel", none="the topic")] = None

    def __repr__(self) -> str:
        return f"PublishConfig(via={self.via!r}, redis_url={public_url(self.redis_url)!r}, channel={self.channel!r})"


class Scenario(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A load test. Publishing is open-loop: message n is due at start + n / rate, whatever the server does."""

    name: Annotated[Name, about("how reports call it")] = "light"
    connections: Annotated[int, about("that are opened, each subscribed", ge=1, le=MOST_CONNECTIONS)] = 100
    rate: Annotated[
        float, Meta(gt=0, le=MOST_RATE), about("published; each goes to every connection", "messages/s")
    ] = 50.0
    seconds: Annotated[Positive, about("all phases together, without the ramp-up", "s")] = 60.0
    payload_bytes: Annotated[int, about("of a message's data", "bytes", ge=LEAST_PAYLOAD, le=1_000_000)] = 123
    topic: Annotated[Name, about("what is subscribed and published")] = "loadtest"
    ramp_batch: Annotated[int, about("connections begun together; the next ones when these are settled", ge=1)] = 50
    connect_timeout: Annotated[Positive, about("until a connection counts as failed", "s")] = 10.0
    processes: Annotated[int, about("client processes; 0 is as many as are needed", ge=0, le=256)] = 0
    phases: Phases = Phases()
    faults: Faults = Faults()
    target: TargetConfig = TargetConfig()
    publish: PublishConfig = PublishConfig()
    criteria: Criteria = Criteria()

    def lengths(self) -> dict[str, float]:
        """The phases that there are, in order, and how many seconds each lasts."""
        shares = {name: getattr(self.phases, name) for name in PHASES}
        return {name: share * self.seconds for name, share in shares.items() if share}

    def scaled(self, time_scale: float) -> Scenario:
        """The same load for ``time_scale`` times as long, but no phase below :data:`LEAST_PHASE_S`.

        A phase that was shorter than that stays as it was.

        Raises:
            ConfigError: ``time_scale`` is not above 0.
        """
        if not 0 < time_scale <= 1_000:
            raise ConfigError("must be above 0, and 1,000 at most", "time_scale")
        if time_scale == 1:
            return self
        lengths = {name: max(time_scale * s, min(s, LEAST_PHASE_S)) for name, s in self.lengths().items()}
        seconds = sum(lengths.values())
        shares = Phases(**{name: lengths.get(name, 0.0) / seconds for name in PHASES})
        return msgspec.structs.replace(self, seconds=seconds, phases=shares)

    def without_secrets(self) -> Scenario:
        """As a report may show it: no token, no users and queries in URLs."""
        admin_url = None if self.target.admin_url is None else public_url(self.target.admin_url)
        target = msgspec.structs.replace(self.target, url=public_url(self.target.url), token=None, admin_url=admin_url)
        publish = msgspec.structs.replace(self.publish, redis_url=public_url(self.publish.redis_url))
        return msgspec.structs.replace(self, target=target, publish=publish)


KILLING: Final = Faults(kill_workers=1)
LIGHT: Final = Scenario(faults=KILLING)
MEDIUM: Final = Scenario(name="medium", connections=500, rate=250.0, seconds=120.0, faults=KILLING)
HEAVY: Final = Scenario(name="heavy", connections=1_000, rate=500.0, seconds=300.0, faults=KILLING)
BUILT_IN: Final = {scenario.name: scenario for scenario in (LIGHT, MEDIUM, HEAVY)}


def public_url(url: str) -> str:
    """``url`` without user, password and query, which may be secrets."""
    return _USER_OR_QUERY.sub("", url)


def load(name: str, overrides: Mapping[str, object] | None = None) -> Scenario:
    """A built-in scenario by its name, or one from a TOML file by its path.

    Args:
        name: ``light``, ``medium``, ``heavy``, or a path.
        overrides: dotted names to values, e.g. ``{"target.url": "ws://…"}``; ``None`` is "not given".

    Raises:
        ConfigError: names the field and, in a file, the line; or there is no such scenario.
    """
    if name in BUILT_IN:
        return loads(_toml(BUILT_IN[name]), overrides)
    path = Path(name)
    if not path.suffix and not path.exists():
        raise ConfigError(f"there is no scenario {name!r}: it is {', '.join(BUILT_IN)}, or the path of a TOML file")
    return loads(read_text(path), overrides, path.stem)


def loads(text: str, overrides: Mapping[str, object] | None = None, name: str | None = None) -> Scenario:
    """As :func:`load`, from TOML text; ``name`` is the scenario's where the text says none."""
    try:
        tables = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        message, line = toml_text.syntax_error(error)
        raise ConfigError(f"not TOML: {message}", None, line) from None
    if name:
        tables.setdefault("name", name)
    given = {field: value for field, value in (overrides or {}).items() if value is not None}
    for field, value in given.items():
        put(tables, field.split("."), Text(value) if isinstance(value, str) else value)
    try:
        return Reader(list(given)).struct(Scenario, tables)
    except ConfigError as error:
        line = None if error.field in given else toml_text.line_of(text, error.field or "")
        raise ConfigError(error.message, error.field, line) from None


def _toml(scenario: Scenario) -> str:
    """What a built-in scenario says beyond the defaults."""
    names = ("name", "connections", "rate", "seconds")
    lines = [f"{name} = {toml_text.literal(getattr(scenario, name))}\n" for name in names]
    return "".join([*lines, f"[faults]\nkill_workers = {scenario.faults.kill_workers}\n"])
