"""The server under load: where it is, and which kind of WebSocket server it is."""

from __future__ import annotations

import ssl
from typing import Final
from urllib.parse import urlsplit

import msgspec

from engine.loadtest.scenario import Kind, Scenario
from transport.errors import ConfigError

PATHS: Final[dict[Kind, str]] = {"native": "/ws", "socketio": "/socket.io/?EIO=4&transport=websocket", "plain": "/"}
"""Where a kind of server is asked, if the URL has no path."""
ANYTHING: Final = "{data}"
"""A published message that is nothing but its data."""


class Target(msgspec.Struct, frozen=True, kw_only=True):
    """A server, as its clients see it.

    Attributes:
        url: ``ws://`` or ``wss://``; without a path, the kind's own is asked.
        kind: ``native`` (an engine), ``socketio`` (Socket.IO 5 over WebSockets), ``plain`` (messages are what you say).
        topic: what all subscribe to; ``{topic}`` in templates.
        subscribe: ``plain``: the message that subscribes; none or empty: who connects gets everything. ``socketio``:
            the event that does so, as a JSON list of its name and arguments; none: as this engine has it, and its
            acknowledgement is waited for; empty: nothing is sent.
        publish: ``plain``: a published message, with ``{data}`` for its data. ``socketio``: an event, as a JSON list;
            nothing but ``{data}``: as this engine has it.
        token: sent as ``Authorization: Bearer``.
        ca_file: PEM file of authorities that are trusted for ``wss://``; none: the system's.

    Raises:
        ConfigError: a field that cannot be used, by its name.
    """

    url: str
    kind: Kind = "native"
    topic: str = "loadtest"
    subscribe: str | None = None
    publish: str = ANYTHING
    token: str | None = None
    ca_file: str | None = None

    def __post_init__(self) -> None:
        try:
            parts = urlsplit(self.url)
            host, _ = parts.hostname, parts.port
        except ValueError as error:
            raise ConfigError(str(error), "target.url") from None
        if parts.scheme not in ("ws", "wss") or not host:
            raise ConfigError("must be ws://HOST[:PORT][/PATH] or wss://…", "target.url")
        if "{data}" not in self.publish:
            raise ConfigError("must have {data}, where the data of a message goes", "target.publish")

    @classmethod
    def of(cls, scenario: Scenario) -> Target:
        """What a scenario says of its target."""
        config = scenario.target
        return cls(
            url=config.url,
            kind=config.kind,
            topic=scenario.topic,
            subscribe=config.subscribe,
            publish=config.publish,
            token=config.token,
            ca_file=config.ca_file,
        )

    def __repr__(self) -> str:
        return f"Target(url={self.url!r}, kind={self.kind!r}, topic={self.topic!r})"

    @property
    def recovers(self) -> bool:
        """Whether it speaks as this engine does: it answers subscriptions, and who comes back gets what was missed."""
        return self.kind == "native" or (self.kind == "socketio" and self.subscribe is None)

    @property
    def full_url(self) -> str:
        """With a path."""
        parts = urlsplit(self.url)
        if parts.path in ("", "/") and not parts.query:
            path, _, query = PATHS[self.kind].partition("?")
            parts = parts._replace(path=path, query=query)
        return parts.geturl()

    def ssl_context(self) -> ssl.SSLContext | None:
        """For ``wss://``.

        Raises:
            ConfigError: ``ca_file`` cannot be used.
        """
        if urlsplit(self.url).scheme != "wss":
            return None
        try:
            return ssl.create_default_context(cafile=self.ca_file)
        except OSError as error:  # an SSLError is one
            raise ConfigError(f"cannot use {self.ca_file}: {error.strerror or error}", "target.ca_file") from None
