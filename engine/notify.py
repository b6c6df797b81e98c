"""Telling the service manager how it goes: systemd's sd_notify protocol, see sd_notify(3). Silent without one."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping


class Notifier:
    """Sends states to ``$NOTIFY_SOCKET``; each method tells whether they went out, and none raises or blocks.

    Args:
        environ: where ``NOTIFY_SOCKET``, ``WATCHDOG_USEC`` and ``WATCHDOG_PID`` are looked up, once.
    """

    def __init__(self, environ: Mapping[str, str] = os.environ) -> None:
        path = environ.get("NOTIFY_SOCKET", "")
        # "@" stands for the zero byte that begins a Linux abstract address; vsock is for virtual machines only.
        self._address = "\0" + path[1:] if path.startswith("@") else path if path.startswith("/") else None
        self._watchdog_interval = _watchdog_interval(environ)

    @property
    def watchdog_interval(self) -> float | None:
        """Seconds between two :meth:`watchdog`: half of what the manager waits. ``None``: it does not watch us."""
        return self._watchdog_interval

    def ready(self, status: str = "") -> bool:
        """Start or reload has ended."""
        return self._send("READY=1", _status(status))

    def stopping(self, status: str = "") -> bool:
        """The drain has begun."""
        return self._send("STOPPING=1", _status(status))

    def reloading(self) -> bool:
        """A reload has begun; :meth:`ready` ends it."""
        # systemd wants CLOCK_MONOTONIC to tell this reload from an earlier one (Type=notify-reload).
        return self._send("RELOADING=1", f"MONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")

    def watchdog(self) -> bool:
        """Still alive."""
        return self._send("WATCHDOG=1")

    def status(self, text: str) -> bool:
        """One line for ``systemctl status``."""
        return self._send(_status(text))

    def _send(self, *states: str) -> bool:
        if self._address is None:
            return False
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:  # close-on-exec by PEP 446
                sender.setblocking(False)
                sender.sendto("\n".join(filter(None, states)).encode(), self._address)
        except OSError:  # the manager is gone, or does not read: no reason for us to stop
            return False
        return True


def _status(text: str) -> str:
    return f"STATUS={' '.join(text.split())}" if text else ""  # a newline would begin another state


def _watchdog_interval(environ: Mapping[str, str]) -> float | None:
    pid, microseconds = environ.get("WATCHDOG_PID", ""), environ.get("WATCHDOG_USEC", "")
    if (pid and pid != str(os.getpid())) or not microseconds.isdigit() or int(microseconds) == 0:
        return None
    return int(microseconds) / 2e6
