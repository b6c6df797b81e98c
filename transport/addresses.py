"""Where an address leads."""

from __future__ import annotations

from ipaddress import ip_address
from urllib.parse import urlsplit


def leads_here(url: str) -> bool:
    """Whether a URL's host is this machine by its very name, so that no proxy can be meant to be on the way.

    >>> leads_here("ws://localhost:8765/ws"), leads_here("ws://[::1]/"), leads_here("wss://exchange.example/")
    (True, True, False)
    """
    host = urlsplit(url).hostname or ""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach ``host``; a name other than localhost counts as reachable."""
    return host in ("::1", "localhost") or (host.startswith("127.") and host.replace(".", "").isdigit())
