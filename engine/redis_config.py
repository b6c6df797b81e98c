"""The part of the configuration that is about Redis; see :mod:`engine.config`."""

from __future__ import annotations

import re
from importlib.util import find_spec
from typing import Annotated
from urllib.parse import SplitResult, quote, urlsplit

from actors.redis_protocol import RedisProtocol
from engine.feed_config import check_waits
from engine.tables import Masked, Name, Positive, about
from transport.errors import ConfigError

REDIS = "redis"
"""Its name among the feeds."""
MESSAGE_BYTES_MAX = 2**21
"""As a JSON string a text may be six times as long, and has to fit into an event."""

_DATABASE = re.compile(r"/?[0-9]*").fullmatch


class Redis(Masked, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[redis]``: channels of a Redis whose messages become events. It is a feed, named redis."""

    url: Annotated[
        str | None, about("redis://[USER:PASSWORD@]HOST[:PORT] or rediss://… for TLS", none="no Redis is read")
    ] = None
    channels: Annotated[
        dict[str, Name],
        about("channel, or glob of channels, to topic; {1} is what the first `*` stands for, {name} a message's field"),
    ] = {}
    type: Annotated[Name, about("type of the events")] = "message"
    username: Annotated[Name | None, about("user of its ACL", none="the URL's, else its default user")] = None
    password: Annotated[Name | None, about("password", none="the URL's, else none", secret=True)] = None
    password_file: Annotated[Name | None, about("file of the password, read before each connect", none="no file")] = (
        None
    )
    tls_ca_file: Annotated[Name | None, about("PEM file of trusted authorities", none="the system's")] = None
    tls_cert_file: Annotated[Name | None, about("PEM file of our own certificate", none="no certificate")] = None
    tls_key_file: Annotated[Name | None, about("PEM file of its key", none="in tls_cert_file")] = None
    tls_server_name: Annotated[Name | None, about("name in its certificate", none="the URL's host")] = None
    tls_verify: Annotated[bool, about("check its certificate; false trusts anybody")] = True
    connect_timeout: Annotated[Positive, about("for TCP, TLS and password", "s")] = 10.0
    idle_timeout: Annotated[
        Positive | None,
        about("without any message for so long, the connection is renewed", "s", none="never, pings decide"),
    ] = None
    ping_interval: Annotated[Positive, about("between PINGs", "s")] = 10.0
    ping_timeout: Annotated[Positive, about("longest wait for the answer", "s")] = 10.0
    message_bytes: Annotated[
        int, about("largest message; a longer one is counted and left out", "bytes", ge=1, le=MESSAGE_BYTES_MAX)
    ] = 2**20
    backoff_initial: Annotated[Positive, about("upper bound of the first wait before a reconnect", "s")] = 0.1
    backoff_max: Annotated[Positive, about("upper bound of every wait before a reconnect", "s")] = 30.0
    max_retries: Annotated[
        int, about("attempts in a row that may fail; then the circuit breaker opens", ge=1, le=1_000)
    ] = 5
    breaker_open: Annotated[Positive, about("how long the breaker stays open at first; it doubles each time", "s")] = (
        10.0
    )
    breaker_open_max: Annotated[Positive, about("how long the breaker stays open at most", "s")] = 80.0

    def __post_init__(self) -> None:
        check_waits(self)
        if self.tls_key_file is not None and self.tls_cert_file is None:
            raise ConfigError("is needed for tls_key_file", "tls_cert_file")
        if self.password is not None and self.password_file is not None:
            raise ConfigError("give one of password, password_file", "password")
        if self.url is None:
            if self.channels:
                raise ConfigError("is needed for channels", "url")
            return
        self._check_user(_checked_url(self.url))
        RedisProtocol(self.channels)  # raises ConfigError where it cannot work
        if find_spec("redis") is None:
            raise ConfigError("needs the package redis: pip install 'heliograph[redis]'", "url")

    def _check_user(self, url: SplitResult) -> None:
        given = next((name for name in ("password", "password_file") if getattr(self, name) is not None), None)
        if self.username is not None and url.username:
            raise ConfigError("the URL has one; give one of them", "username")
        if given is not None and url.password:
            raise ConfigError("the URL has one; give one of them", given)
        if (self.username or url.username) and not (given or url.password):
            raise ConfigError("is needed for a user", "password")

    def address(self) -> str:
        """``url`` with ``username`` in it."""
        url = self.url or ""
        return url if self.username is None else url.replace("//", f"//{quote(self.username, safe='')}@", 1)


def _checked_url(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        (parts.hostname or "").encode("idna")  # a label that is empty or too long
        valid = parts.scheme in ("redis", "rediss") and bool(parts.hostname) and parts.port != 0
        valid = valid and _DATABASE(parts.path) is not None and not parts.query and not parts.fragment
        valid = valid and url.isprintable() and " " not in url
    except ValueError:
        valid = False
    if not valid:  # the text may hold a password
        raise ConfigError("must be redis://[USER:PASSWORD@]HOST[:PORT][/DATABASE] or rediss://…", "url")
    return parts
