"""The processes of the server under test, where they are this machine's and this user's. Blocks; imports psutil."""

from __future__ import annotations

import ipaddress
import os
import socket
from collections.abc import Iterable
from contextlib import suppress
from typing import Any, Final, NamedTuple
from urllib.parse import urlsplit

import psutil

_WORKER: Final = "helio-worker-"  # how engine.forkserver titles them
_ANY: Final = frozenset({"0.0.0.0", "::"})
_PORTS: Final = {"ws": 80, "wss": 443, "http": 80, "https": 443}


class NoWorker(Exception):
    """There is no process that is surely a worker of the engine under test; the text says why."""


class ServerProcesses:
    """Found once, when the test begins; who is started or ends later is seen by :meth:`pids`.

    They are those that listen on the target's port and on that of its admin API, what they have started, and, for a
    worker of an engine, the daemon with all of its processes. Of a server on another machine, or of another user,
    there are none.

    Args:
        url: of the target.
        admin_url: of an engine's admin API, if it is known.
        others: process ids that are none of the server's, whoever started them.
    """

    def __init__(self, url: str, admin_url: str | None = None, others: Iterable[int] = ()) -> None:
        self._place, self._admin_known = _Place.of(url), admin_url is not None
        self._others = frozenset(others)
        places = [self._place, *([_Place.of(admin_url)] if admin_url is not None else [])]
        found = _listeners(places)
        self._daemons = _processes(found[1]) if self._admin_known else []
        listening = _processes(found[0])
        self._roots = {*self._daemons, *listening, *(daemon for process in listening for daemon in _daemon_of(process))}

    @property
    def local(self) -> bool:
        """Whether the target is this machine, whoever runs it."""
        return bool(self._place.addresses)

    def pids(self) -> dict[str, int]:
        """Those that run now, by name: ``worker-0``, ``hub``, else ``NAME-PID``. Some ms.

        Where this process is the server, it alone is counted: its children are the test's.
        """
        found: dict[int, str] = {}
        for root in self._roots:
            with suppress(psutil.Error):
                family = [root] if root.pid == os.getpid() else [root, *root.children(recursive=True)]
                found |= {process.pid: _named(process) for process in family if process.pid not in self._others}
        return {name: pid for pid, name in found.items()}

    def kill_worker(self) -> str:
        """SIGKILL to one worker of the engine under test; its name.

        It must be ours in every respect: a process of this user with a worker's title, which descends from the one that
        listens on the admin API's port and listens on the target's port itself.

        Raises:
            NoWorker: none is.
        """
        if not self._admin_known:
            raise NoWorker("that takes an engine on this machine whose admin API is known (--admin-url)")
        for daemon in self._daemons:
            with suppress(psutil.Error):
                for process in daemon.children(recursive=True):
                    if _is_worker(process) and any(map(self._place.is_listened_on, process.net_connections("tcp"))):
                        name = _named(process)
                        process.kill()  # psutil makes sure that the process id is still this process's
                        return name
        raise NoWorker(f"no process that listens on port {self._place.port} is a worker of an engine on this machine")


class _Place(NamedTuple):
    """Where a server listens, if that is this machine; else ``addresses`` is empty."""

    addresses: frozenset[str]
    port: int

    @classmethod
    def of(cls, url: str) -> _Place:
        try:
            parts = urlsplit(url)
            port = parts.port or _PORTS.get(parts.scheme, 0)
            addresses = {
                str(entry[4][0]) for entry in socket.getaddrinfo(parts.hostname, port, proto=socket.IPPROTO_TCP)
            }
        except (OSError, ValueError):
            return cls(frozenset(), 0)
        own = {address.address for card in psutil.net_if_addrs().values() for address in card}
        local = {address for address in addresses if address in own or ipaddress.ip_address(address).is_loopback}
        return cls(frozenset(local | _ANY if local else ()), port)

    def is_listened_on(self, connection: Any) -> bool:
        at = connection.laddr
        return connection.status == psutil.CONN_LISTEN and at.port == self.port and at.ip in self.addresses


def _listeners(places: list[_Place]) -> list[set[int]]:
    """Processes of this user that listen there, for each place."""
    try:
        sockets = psutil.net_connections("tcp") if any(place.addresses for place in places) else []
    except psutil.Error:  # macOS shows them to root only
        sockets = []
    return [
        {entry.pid for entry in sockets if entry.pid is not None and place.is_listened_on(entry)} for place in places
    ]


def _processes(pids: Iterable[int]) -> list[psutil.Process]:
    found = []
    for pid in sorted(pids):
        with suppress(psutil.Error):
            found.append(psutil.Process(pid))
    return found


def _daemon_of(process: psutil.Process) -> list[psutil.Process]:
    """A worker's parent is the forkserver, whose parent is the daemon."""
    with suppress(psutil.Error):
        if _is_worker(process):
            return [parent for parent in process.parents()[1:2] if parent.pid > 1]
    return []


def _is_worker(process: psutil.Process) -> bool:
    return bool(process.name().startswith(_WORKER) and process.uids().real == os.getuid())


def _named(process: psutil.Process) -> str:
    name = str(process.name())
    return name.removeprefix("helio-") if name.startswith("helio-") else f"{name}-{process.pid}"
