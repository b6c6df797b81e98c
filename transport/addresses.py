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
