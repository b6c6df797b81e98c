"""The processes of the server under test, where they are this machine's and this user's. Blocks; imports psutil."""

from __future__ import annotations

import ipaddress
import os
import socket
from collections.abc import Iterable
from contextlib import suppress
from typing import Final
from urllib.parse import SplitResult, urlsplit

import psutil

_WORKER: Final = "helio-worker-"  # how engine.forkserver titles them
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
        self._url, self._admin_url = urlsplit(url), urlsplit(admin_url) if admin_url else None
        self.others = set(others)
        roots = _listeners(self._url)
        if self._admin_url is not None:
            roots |= _listeners(self._admin_url)
        for pid in tuple(roots):
            roots |= _daemon_of(pid)
        self._roots: list[psutil.Process] = []
        for pid in sorted(roots):
            with suppress(psutil.Error):
                self._roots.append(psutil.Process(pid))

    def pids(self) -> dict[str, int]:
        """Those that run now, by name: ``worker-0``, ``hub``, else ``NAME-PID``. Some ms.

        Where this process is the server, it alone is counted: its children are the test's.
        """
        found: dict[int, str] = {}
        for root in self._roots:
            with suppress(psutil.Error):
                family = [root] if root.pid == os.getpid() else [root, *root.children(recursive=True)]
                found |= {process.pid: _named(process) for process in family if process.pid not in self.others}
        return {name: pid for pid, name in found.items()}

    def kill_worker(self) -> str:
        """SIGKILL to one worker of the engine under test; its name.

        It must be ours in every respect: a process of this user with a worker's title, which descends from the one that
        listens on the admin API's port and listens on the target's port itself.

        Raises:
            NoWorker: none is.
        """
        if self._admin_url is None:
            raise NoWorker("the engine's admin API is not known; name it with --admin-url")
        listeners = _listeners(self._url)
        for daemon in _listeners(self._admin_url):
            with suppress(psutil.Error):
                for process in psutil.Process(daemon).children(recursive=True):
                    if process.pid in listeners and _is_worker(process):
                        process.kill()  # psutil makes sure that the process id is still this process's
                        return _named(process)
        raise NoWorker(f"no process that listens on {self._url.netloc} is a worker of the engine on this machine")


def _listeners(url: SplitResult) -> set[int]:
    """Processes of this user that listen where ``url`` leads, if that is this machine."""
    try:
        port = url.port or _PORTS.get(url.scheme, 0)
        addresses = {str(entry[4][0]) for entry in socket.getaddrinfo(url.hostname, port, type=socket.SOCK_STREAM)}
    except (OSError, ValueError):
        return set()
    own = {address.address for card in psutil.net_if_addrs().values() for address in card}
    local = {address for address in addresses if address in own or ipaddress.ip_address(address).is_loopback}
    if not local:
        return set()
    try:
        sockets = psutil.net_connections("tcp")
    except psutil.Error:  # macOS shows them to root only
        return set()
    return {
        entry.pid
        for entry in sockets
        if entry.status == psutil.CONN_LISTEN
        and entry.pid is not None
        and entry.laddr.port == port
        and (entry.laddr.ip in local or entry.laddr.ip in ("0.0.0.0", "::"))
    }


def _daemon_of(pid: int) -> set[int]:
    """A worker's parent is the forkserver, whose parent is the daemon."""
    with suppress(psutil.Error):
        process = psutil.Process(pid)
        if _is_worker(process):
            return {parent.pid for parent in process.parents()[1:2] if parent.pid > 1}
    return set()


def _is_worker(process: psutil.Process) -> bool:
    return bool(process.name().startswith(_WORKER) and process.uids().real == os.getuid())


def _named(process: psutil.Process) -> str:
    name = str(process.name())
    return name.removeprefix("helio-") if name.startswith("helio-") else f"{name}-{process.pid}"
