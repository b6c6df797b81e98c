"""Who may ask the admin API at all, decided from a request's head. Pure.

A browser on the operator's machine can be made to send requests here by any page. So the API answers only to its own
names (against DNS rebinding), not to pages of other origins, and changes something only on JSON, which a foreign page
cannot send unasked.
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from ipaddress import ip_address

from engine.config import is_loopback
from transport.codes import ErrorCode
from transport.errors import RequestError

OPEN_PATHS = frozenset({"/health", "/ready"})
JSON = "application/json"


class Gate:
    """Lets a request pass or refuses it.

    Args:
        host: the address that the API is bound to.
        api_key: what requests must carry as ``Authorization: Bearer KEY`` or ``X-API-Key: KEY``, but for
            :data:`OPEN_PATHS`; ``None`` asks for nothing.
    """

    def __init__(self, host: str, api_key: str | None) -> None:
        self._host, self._key = host.lower(), api_key

    def check(self, method: str, path: str, headers: Mapping[str, str]) -> None:
        """Return if the request may be answered; ``headers`` has lower-case names.

        Raises:
            RequestError: ``forbidden``, ``unauthorized`` or ``bad_request``, naming the header.
        """
        host = headers.get("host", "")
        if not self._is_ours(_hostname(host)):
            raise RequestError(ErrorCode.FORBIDDEN, f"{host!r} is not a name of this server", "Host")
        origin = headers.get("origin")
        if origin is not None and origin.lower().partition("://")[2] != host.lower():
            raise RequestError(ErrorCode.FORBIDDEN, f"pages of {origin!r} may not use this API", "Origin")
        if path not in OPEN_PATHS and not self._has_key(headers):
            raise RequestError(ErrorCode.UNAUTHORIZED, "send the API key", "Authorization")
        content_type = headers.get("content-type", "")
        if method == "POST" and content_type.partition(";")[0].strip().lower() != JSON:
            raise RequestError(ErrorCode.BAD_REQUEST, f"must be {JSON}, not {content_type!r}", "Content-Type")

    def _is_ours(self, name: str) -> bool:
        if not is_loopback(self._host):
            # Which names lead here cannot be known (a container's service name); the key, which configuration demands
            # for such an address and no browser sends unasked, does what the name would do.
            return self._key is not None or name == self._host
        if name in (self._host, "localhost"):
            return True
        try:
            return ip_address(name).is_loopback
        except ValueError:
            return False

    def _has_key(self, headers: Mapping[str, str]) -> bool:
        if self._key is None:
            return True
        scheme, _, bearer = headers.get("authorization", "").partition(" ")
        given = bearer.strip() if scheme.lower() == "bearer" else headers.get("x-api-key", "")
        return hmac.compare_digest(given.encode("latin-1"), self._key.encode())  # as it was on the wire


def _hostname(host: str) -> str:
    """The name in a Host header, without port and brackets."""
    if host.startswith("["):
        return host[1:].partition("]")[0].lower()
    return host.partition(":")[0].lower()
