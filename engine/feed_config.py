"""The part of the configuration that is about feeds; see :mod:`engine.config`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib.util import find_spec
from typing import Annotated, Any, Literal, Protocol
from urllib.parse import urlsplit

from msgspec import Meta

from actors import feed_map
from actors.feed import check_url, is_header
from actors.feed_protocol import MappedProtocol
from actors.upstream_values import Scalar, TimeUnit, ValueType
from engine.tables import Masked, Name, Positive, about
from transport.errors import ConfigError

SOCKS = ("socks5h", "socks5", "socks4a", "socks4")
MAPPED = "mapped"
"""The protocol that the configuration describes; another one is a class."""
Wanted = Scalar | tuple[Scalar, ...] | dict[str, bool]


class FeedMap(feed_map.FeedMap, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[feeds.NAME.map]``: rows of an upstream message as events. A path is names joined by dots, into the row."""

    each: Annotated[
        Name | None,
        about("path of the message's rows, each an event; `*`: every item of a list", none="the message is the row"),
    ] = None
    topic: Annotated[Name, about("topic; {name} is that name of `data`, else a path; {symbol} also the key")] = (
        "price.{symbol}"
    )
    type: Annotated[Name, about("the event's type")] = "message"
    key: Annotated[
        Name | None, about("path of the event's key; `$.` begins a path into the whole message", none="no key")
    ] = None
    time: Annotated[Name | None, about("path of the source's time", none="no source time")] = None
    time_unit: Annotated[TimeUnit, about("unit of the source's time; iso is ISO 8601")] = "s"
    sequence: Annotated[
        Name | None, about("path of the row's number, one more than the last of its key", none="rows are not numbered")
    ] = None
    symbols: Annotated[dict[str, str], about("renames for key and topic: upstream name to ours")] = {}
    symbol_replace: Annotated[
        dict[str, str], about("text to text, replaced in this order in names that are not in `symbols`")
    ] = {}
    data: Annotated[dict[str, Name], about("name to path, `?` at its end: may be absent; empty: all as it came")] = {}
    types: Annotated[
        dict[str, ValueType], about("name in `data` to number, text or bool, as which it must come; text stays text")
    ] = {}
    filter: Annotated[
        dict[str, Wanted],
        about("path to the value, list of values or { exists = true } that it must have; other rows are ignored"),
    ] = {}

    def __post_init__(self) -> None:
        feed_map.CompiledMap(self)  # raises ConfigError where the map cannot work


class Feed(Masked, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[feeds.NAME]``: an upstream WebSocket."""

    url: Annotated[str, about("address of the feed, ws:// or wss://")]
    failover: Annotated[tuple[str, ...], about("further addresses, tried in turn while the ones before fail")] = ()
    protocol: Annotated[
        Name, about('"mapped": as configured here; "heliograph": another engine; "package.module:Class": your own')
    ] = MAPPED
    options: Annotated[dict[str, Any], about("keyword arguments of a protocol other than mapped")] = {}
    map: Annotated[tuple[FeedMap, ...], about("what to take from its messages")] = (FeedMap(),)
    subscribe: Annotated[
        tuple[dict[str, Any], ...], about("messages sent as JSON after each connect, in this order")
    ] = ()
    resume: Annotated[
        tuple[dict[str, Any], ...],
        about('messages sent before those after a reconnect, per key: "{counter}", "{number}" are the last one seen'),
    ] = ()
    resync: Annotated[
        tuple[dict[str, Any], ...],
        about('messages sent when numbers were skipped: "{counter}", "{number}" before them, "{first}" to "{last}"'),
    ] = ()
    sequence: Annotated[
        Name | None, about("path of a number that all messages of a connection count up", none="not numbered")
    ] = None
    heartbeat: Annotated[
        dict[str, Any] | str | None, about("message sent every heartbeat_interval: a table, or a text", none="none")
    ] = None
    ignore: Annotated[tuple[str, ...], about('whole messages that say nothing, e.g. "pong"')] = ()
    refusal: Annotated[
        dict[str, Wanted],
        about("path to the value, or list of values, of a message that refuses what we asked; it ends the connection"),
    ] = {}
    heartbeat_interval: Annotated[Positive | None, about("between heartbeats", "s", none="none are sent")] = None
    ping_interval: Annotated[Positive | None, about("between WebSocket pings", "s", none="none are sent")] = 20.0
    ping_timeout: Annotated[Positive | None, about("longest wait for the pong", "s", none="for ever")] = 20.0
    headers: Annotated[dict[str, str], about("HTTP headers of the handshake", secret=True)] = {}
    token: Annotated[Name | None, about("bearer token of the handshake", none="no token", secret=True)] = None
    token_file: Annotated[Name | None, about("file of the token, read before each connect", none="no file")] = None
    token_function: Annotated[
        Name | None, about('function that makes a token before each connect, "package.module:name"', none="none")
    ] = None
    proxy: Annotated[
        str | None,
        about("URL of a proxy, empty for none", none="as the environment says, but none for this machine", secret=True),
    ] = None
    tls_ca_file: Annotated[Name | None, about("PEM file of trusted authorities", none="the system's")] = None
    tls_cert_file: Annotated[Name | None, about("PEM file of our own certificate", none="no certificate")] = None
    tls_key_file: Annotated[Name | None, about("PEM file of its key", none="in tls_cert_file")] = None
    tls_server_name: Annotated[Name | None, about("name in the upstream's certificate", none="the URL's host")] = None
    tls_verify: Annotated[bool, about("check the upstream's certificate; false trusts anybody")] = True
    connect_timeout: Annotated[Positive, about("for TCP, proxy and TLS", "s")] = 10.0
    handshake_timeout: Annotated[Positive, about("for the WebSocket handshake", "s")] = 10.0
    close_timeout: Annotated[float, about("for the closing handshake", "s", ge=0.001, le=3.0)] = 1.0
    idle_timeout: Annotated[
        Positive | None, about("without any message for so long, the connection is renewed", "s", none="never")
    ] = 30.0
    stale_timeout: Annotated[
        Positive | None, about("without an event for so long, the connection is renewed", "s", none="never")
    ] = None
    message_bytes: Annotated[int, about("largest message; a longer one ends the connection", "bytes", ge=128)] = 2**20
    max_invalid: Annotated[
        Annotated[int, Meta(ge=1)] | None,
        about("messages in a row that cannot be read, after which the connection is renewed", none="never"),
    ] = None
    proof: Annotated[
        Literal["event", "message"], about("what counts as a success for the breaker: an event, or any valid message")
    ] = "event"
    backoff_initial: Annotated[Positive, about("upper bound of the first wait before a reconnect", "s")] = 0.1
    backoff_max: Annotated[Positive, about("upper bound of every wait before a reconnect", "s")] = 30.0
    jitter: Annotated[bool, about("wait a random part of the bound, so that clients do not return together")] = True
    stable_after: Annotated[Positive, about("a connection that lasted so long lets the backoff begin anew", "s")] = 10.0
    max_retries: Annotated[
        int, about("attempts in a row that may fail; then the circuit breaker opens", ge=1, le=1_000)
    ] = 5
    give_up: Annotated[bool, about("then stop trying, until an operator says connect")] = False
    breaker_open: Annotated[Positive, about("how long the breaker stays open at first; it doubles each time", "s")] = (
        10.0
    )
    breaker_open_max: Annotated[Positive, about("how long the breaker stays open at most", "s")] = 80.0
    breaker_successes: Annotated[int, about("successes that close a half-open breaker", ge=1, le=1_000)] = 3

    def __post_init__(self) -> None:
        check_url(self.url, "url")
        for i, url in enumerate(self.failover):
            check_url(url, f"failover[{i}]")
        check_waits(self)
        self._check_handshake()
        given = [name for name in ("token", "token_file", "token_function") if getattr(self, name) is not None]
        if given and any(name.lower() == "authorization" for name in self.headers):
            raise ConfigError(f"{given[0]} makes it; give one of them", "headers.Authorization")
        if sum(token is not None for token in (self.token, self.token_file, self.token_function)) > 1:
            raise ConfigError("give one of token, token_file, token_function", "token")
        if self.tls_key_file is not None and self.tls_cert_file is None:
            raise ConfigError("is needed for tls_key_file", "tls_cert_file")
        if self.protocol == MAPPED:
            if self.options:
                raise ConfigError("are for a protocol other than mapped", "options")
            if (self.heartbeat is None) != (self.heartbeat_interval is None):
                missing = "heartbeat" if self.heartbeat is None else "heartbeat_interval"
                raise ConfigError("heartbeat and heartbeat_interval need each other", missing)
            MappedProtocol(**self.mapped())  # raises ConfigError where it cannot work
            self._check_templates()
            return
        for field in ("map", "subscribe", "resume", "resync", "sequence", "heartbeat", "ignore", "refusal"):
            if getattr(self, field) != getattr(_NOT_MAPPED, field):
                raise ConfigError(f"is for protocol = {MAPPED!r} only", field)

    def _check_handshake(self) -> None:
        for name, value in self.headers.items():
            if not is_header(name, value):
                raise ConfigError("name or value holds what no HTTP header may", f"headers.{name}")
        if self.token is not None and not (self.token.isascii() and self.token.isprintable()):
            raise ConfigError("must be printable ASCII", "token")
        tokens = (self.token, self.token_file, self.token_function)
        if any("@" in urlsplit(url).netloc for url in (self.url, *self.failover)) and any(tokens):
            raise ConfigError("a user in the URL is an Authorization already; give one of them", "token")
        if self.proxy:
            _check_proxy(self.proxy)

    def _check_templates(self) -> None:
        known = {"resume": {"{counter}", "{number}"}, "resync": {"{counter}", "{number}", "{first}", "{last}"}}
        for field, names in known.items():
            messages = getattr(self, field)
            if messages and not any(feed_map.sequence for feed_map in self.map):
                raise ConfigError("needs a map with a sequence, whose numbers it names", field)
            for i, message in enumerate(messages):
                for text in _texts(message):
                    if _PLACE.fullmatch(text) and text not in names:
                        raise ConfigError(
                            f"{text} stands for nothing; there are {', '.join(sorted(names))}", f"{field}[{i}]"
                        )

    def mapped(self) -> dict[str, Any]:
        """Arguments of :class:`~actors.feed_protocol.MappedProtocol`."""
        return {
            "maps": self.map,
            "subscribe": self.subscribe,
            "resume": self.resume,
            "resync": self.resync,
            "heartbeat": self.heartbeat,
            "sequence": self.sequence,
            "ignore": self.ignore,
            "refusal": self.refusal,
        }


class _Waits(Protocol):
    """What all upstreams have."""

    @property
    def backoff_initial(self) -> float: ...
    @property
    def backoff_max(self) -> float: ...
    @property
    def breaker_open(self) -> float: ...
    @property
    def breaker_open_max(self) -> float: ...


def check_waits(table: _Waits) -> None:
    """Raise ConfigError where a longest wait is less than the first."""
    if table.backoff_max < table.backoff_initial:
        raise ConfigError(f"must not be less than backoff_initial ({table.backoff_initial:g} s)", "backoff_max")
    if table.breaker_open_max < table.breaker_open:
        raise ConfigError(f"must not be less than breaker_open ({table.breaker_open:g} s)", "breaker_open_max")


_PLACE = re.compile(r"\{\w+\}")


def _texts(message: Any) -> Iterator[str]:
    if isinstance(message, str):
        yield message
    elif isinstance(message, dict):
        for value in message.values():
            yield from _texts(value)
    elif isinstance(message, (list, tuple)):
        for item in message:
            yield from _texts(item)


def _check_proxy(proxy: str) -> None:
    try:
        parts = urlsplit(proxy)
        valid = parts.scheme in ("http", "https", *SOCKS) and bool(parts.hostname) and parts.port != 0
    except ValueError:
        valid = False
    if not valid:  # the text may hold a password
        raise ConfigError(f"must be http://[USER:PASSWORD@]HOST:PORT, https:// or {SOCKS[0]}://", "proxy")
    if parts.scheme in SOCKS and find_spec("python_socks") is None:
        raise ConfigError("a SOCKS proxy needs the package python-socks: pip install python-socks", "proxy")


_NOT_MAPPED = Feed(url="ws://localhost")
