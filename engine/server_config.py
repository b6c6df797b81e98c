"""The parts of the configuration that are about the processes: client port and log; see :mod:`engine.config`."""

from __future__ import annotations

import os
import re
import socket
import tempfile
from collections.abc import Mapping
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Literal

from msgspec import Meta, Struct

from engine.tables import Name, Positive, about
from transport.errors import ConfigError

Port = Annotated[int, Meta(ge=0, le=65_535)]
_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://[^/?#@\s]+", re.IGNORECASE)


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
