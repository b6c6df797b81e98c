"""Who a client is by its address: behind proxies, and as one of a network. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Final

MAX_HOPS: Final = 32  # entries of X-Forwarded-For that are looked at, from the right
REMEMBERED: Final = 4_096  # addresses of which is known what they are; the least recently used go
IPV6_PREFIX: Final = 64  # bits: what one customer has at least, so what one stranger can choose from


@lru_cache(REMEMBERED)
def network(host: str) -> str:
    """What counts as one address in limits: the IPv4 address, of IPv6 the /64; what is no address is itself."""
    address = _parsed(host)
    if isinstance(address, IPv6Address):
        return str(ip_network((int(address), IPV6_PREFIX), strict=False))
    return host if address is None else str(address)


@lru_cache(REMEMBERED)
def is_here(host: str) -> bool:
    """Whether a peer of this address is on this machine."""
    address = _parsed(host)
    return address is not None and address.is_loopback


class Proxies:
    """The proxies whose word counts.

    Args:
        networks: addresses and CIDRs, IPv4 and IPv6.

    Raises:
        ValueError: one of them is none.
    """

    def __init__(self, networks: Sequence[str] = ()) -> None:
        self._networks = [ip_network(text) for text in networks]
        self._trusts = lru_cache(REMEMBERED)(self._look)

    def trusts(self, host: str) -> bool:
        """Whether a peer of this address is one of them."""
        return bool(self._networks) and self._trusts(host)

    def _look(self, host: str) -> bool:
        address = _parsed(host)
        return address is not None and any(
            address.version == network.version and address in network for network in self._networks
        )

    def client(self, peer: str, forwarded: str | None) -> str:
        """The client's address: the right-most one of ``X-Forwarded-For`` that is no trusted proxy's.

        That is the last one that somebody trusted has seen; what is left of it anybody may have written. A header
        with anything but addresses up to there, or more than :data:`MAX_HOPS`, says nothing: it is ``peer`` then.

        Args:
            peer: whom the connection is from.
            forwarded: the header's value; several headers joined by commas.
        """
        if forwarded is None or not self.trusts(peer):
            return peer
        hops = forwarded.rsplit(",", MAX_HOPS)[-MAX_HOPS:]
        client = peer
        for hop in reversed(hops):
            address = _parsed(hop.strip(" \t"))
            if address is None:
                return peer
            client = str(address)
            if not self._trusts(client):
                return client
        return client if len(hops) < MAX_HOPS else peer


def _parsed(host: str) -> IPv4Address | IPv6Address | None:
    try:
        address = ip_address(host)
    except ValueError:
        return None
    # A socket that listens for IPv6 shows IPv4 peers so.
    return (isinstance(address, IPv6Address) and address.ipv4_mapped) or address
