"""Who may knock at the client port, decided by address and origin, before anybody looks at who it is. Pure."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final

from transport.codes import RefusalReason
from transport.http import Headers, HttpError, Request, is_local, same_host, same_site
from transport.peers import Proxies, is_here, network
from transport.token_bucket import TokenBucket

REFUSALS: Final[dict[int, RefusalReason]] = {
    HTTPStatus.TOO_MANY_REQUESTS: RefusalReason.CONNECT_RATE,
    HTTPStatus.FORBIDDEN: RefusalReason.ORIGIN,
    HTTPStatus.REQUEST_TIMEOUT: RefusalReason.TIMEOUT,
}
"""What it means to operators that a client gets such an answer; others are a wrong request."""
ADDRESSES: Final = 65_536  # whose connects are counted at once, about 20 MB; the least recently seen are forgotten


@dataclass(frozen=True, slots=True)
class GatePolicy:
    """What :class:`Gate` goes by.

    Attributes:
        origins: of pages that may connect, lower case, ``*``: any; none: the server's own, and local ones locally.
        trusted_proxies: addresses and CIDRs whose ``X-Forwarded-For`` counts.
        connect_rate: connections a second from one address, a second's worth at once; none: any number.
        admin_port: of this engine: its own pages, the dashboard's, may connect, whatever ``origins`` says.
    """

    origins: tuple[str, ...] | None = None
    trusted_proxies: tuple[str, ...] = ()
    connect_rate: float | None = None
    admin_port: int | None = None


class Gate:
    """One per listener.

    Args:
        policy: may be exchanged by :meth:`configure`.
        clock: seconds that never go back.
    """

    def __init__(self, policy: GatePolicy, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._buckets: OrderedDict[str, TokenBucket] = OrderedDict()
        self.configure(policy)

    def configure(self, policy: GatePolicy) -> None:
        """Go by another policy; what addresses have used is forgotten."""
        self._policy = policy
        self._proxies = Proxies(policy.trusted_proxies)
        self._buckets.clear()

    def wait(self, peer: str) -> float:
        """A connection from ``peer`` is there, unread: 0.0, or it is refused for so many seconds. Costs 1 µs.

        A trusted proxy's is not counted: its clients are, see :meth:`admit`.
        """
        if self._policy.connect_rate is None or self._proxies.trusts(peer):
            return 0.0
        return self._count(peer, self._policy.connect_rate)

    def admit(self, peer: str, request: Request) -> str:
        """The address of the client whose request it is, seen through trusted proxies.

        Raises:
            HttpError: 429, it connects too often; 403, it is a page that may not.
        """
        client, proxied = self._client(peer, request, True, True)
        if request.upgrade:
            self._check(peer, request, proxied)
        return client

    def visit(self, peer: str, request: Request, begins: bool, counted: bool) -> tuple[str, Headers]:
        """As :meth:`admit`, for a request whose answer a page wants to read: also the headers that let it (CORS).

        Args:
            begins: it counts as a connection; those that go on with something do not.
            counted: its connection was, by :meth:`wait`, and this is the first request on it.

        Raises:
            HttpError: 429 and 403, as above.
        """
        client, proxied = self._client(peer, request, begins, counted)
        origin = request.headers.get("origin")
        if origin is None:
            return client, ()
        self._check(peer, request, proxied)
        if self._policy.origins is not None and "*" in self._policy.origins:
            return client, (("Access-Control-Allow-Origin", "*"),)
        return client, (
            ("Access-Control-Allow-Origin", origin),
            ("Access-Control-Allow-Credentials", "true"),
            ("Vary", "Origin"),
        )

    def _client(self, peer: str, request: Request, begins: bool, counted: bool) -> tuple[str, bool]:
        proxied = self._proxies.trusts(peer)
        client = self._proxies.client(peer, request.headers.get("x-forwarded-for")) if proxied else peer
        uncounted = client != peer if proxied else not counted
        if begins and uncounted and self._policy.connect_rate is not None:
            wait = self._count(client, self._policy.connect_rate)
            if wait:
                raise too_often(wait)
        return client, proxied

    def _check(self, peer: str, request: Request, proxied: bool) -> None:
        origin = request.headers.get("origin")
        if origin is not None and not self._allows(origin, request.headers.get("host", ""), peer, proxied):
            # A browser lets any page connect anywhere; what a page of another site may read is for the server to say.
            raise HttpError(HTTPStatus.FORBIDDEN, f"pages of {origin} may not connect here; see server.origins")

    def _allows(self, origin: str, host: str, peer: str, proxied: bool) -> bool:
        origins = self._policy.origins
        if origins is not None and ("*" in origins or origin.lower() in origins):
            return True
        if is_here(peer) and not proxied and not is_local(host):
            # A name of somebody else's that leads to this machine (DNS rebinding): page and Host agree, but lie.
            return False
        if self._policy.admin_port is not None and same_host(origin, self._policy.admin_port, host):
            return True
        return origins is None and same_site(origin, host)

    def _count(self, host: str, rate: float) -> float:
        key, now, buckets = network(host), self._clock(), self._buckets
        bucket = buckets.get(key)
        if bucket is None:
            bucket = buckets[key] = TokenBucket(rate, now)
            if len(buckets) > ADDRESSES:
                buckets.popitem(last=False)
        else:
            buckets.move_to_end(key)
        return bucket.take(rate, now)


def too_often(wait: float) -> HttpError:
    """What who connects too often is told: 429."""
    seconds = str(max(1, math.ceil(wait)))
    return HttpError(
        HTTPStatus.TOO_MANY_REQUESTS, "too many connections from this address", (("Retry-After", seconds),)
    )
