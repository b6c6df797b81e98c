"""Who may ask the admin API for what, decided from a request's head. Pure.

A browser on the operator's machine can be made to send requests here by any page. So the API answers only to its own
names (against DNS rebinding), not to pages of other origins, and changes something only on JSON, which a foreign page
cannot send unasked.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from ipaddress import ip_address

from engine.admin_config import Admin, Scope
from transport.addresses import is_loopback
from transport.codes import ErrorCode
from transport.errors import RequestError

ANY = "*"
NEEDS: tuple[tuple[str, str, Scope | None], ...] = (
    (ANY, "/health", None),
    (ANY, "/ready", None),
    ("GET", "/", None),  # the dashboard's page holds no data
    ("HEAD", "/", None),
    ("GET", "/heliograph.js", None),
    ("HEAD", "/heliograph.js", None),
    ("GET", "/static/*", None),
    ("HEAD", "/static/*", None),
    ("POST", "/api/publish", "publish"),
    ("POST", "/api/explain", "read"),  # publishes nothing
    ("GET", ANY, "read"),
    ("HEAD", ANY, "read"),
    (ANY, ANY, "operate"),
)
"""Method, path and the scope that a key needs for it, ``None``: no key; the first row that fits is the one. A final
``*`` stands for any rest."""
JSON = "application/json"


def needed(method: str, path: str) -> Scope | None:
    """What a request needs by :data:`NEEDS`."""
    return next(scope for m, p, scope in NEEDS if m in (ANY, method) and _fits(p, path))


def _fits(pattern: str, path: str) -> bool:
    return path.startswith(pattern[:-1]) if pattern.endswith(ANY) else path == pattern


class Gate:
    """Lets a request pass or refuses it; without any key in ``admin`` none is asked for."""

    def __init__(self, admin: Admin) -> None:
        self._host = admin.host.lower()
        self.exchange(admin)

    def exchange(self, admin: Admin) -> None:
        """From now on ``admin``'s keys count; its host does not."""
        self._keys = [(_digest(key.encode()), name, scopes) for name, (key, scopes) in admin.all_keys().items()]

    def check(self, method: str, path: str, headers: Mapping[str, str]) -> str | None:
        """Return if the request may be answered: the name of the key that it carries, ``None`` where none was needed.

        Takes the same time whichever key is given, or nearly one. ``headers`` has lower-case names.

        Raises:
            RequestError: ``forbidden``, ``unauthorized`` or ``bad_request``, naming the header.
        """
        host = headers.get("host", "")
        if not self._is_ours(_hostname(host)):
            raise RequestError(ErrorCode.FORBIDDEN, f"{host!r} is not a name of this server", "Host")
        origin = headers.get("origin")
        if origin is not None and origin.lower().partition("://")[2] != host.lower():
            raise RequestError(ErrorCode.FORBIDDEN, f"pages of {origin!r} may not use this API", "Origin")
        name = self._caller(needed(method, path), headers)
        content_type = headers.get("content-type", "")
        if method in ("POST", "PATCH") and content_type.partition(";")[0].strip().lower() != JSON:
            raise RequestError(ErrorCode.BAD_REQUEST, f"must be {JSON}, not {content_type!r}", "Content-Type")
        return name

    def may(self, scope: Scope, headers: Mapping[str, str]) -> bool:
        """Whether the key that a request carries is also for this."""
        try:
            self._caller(scope, headers)
        except RequestError:
            return False
        return True

    def _is_ours(self, name: str) -> bool:
        if not is_loopback(self._host):
            # Which names lead here cannot be known (a container's service name); the key, which configuration demands
            # for such an address and no browser sends unasked, does what the name would do.
            return bool(self._keys) or name == self._host
        if name in (self._host, "localhost"):
            return True
        try:
            return ip_address(name).is_loopback
        except ValueError:
            return False

    def _caller(self, scope: Scope | None, headers: Mapping[str, str]) -> str | None:
        if scope is None or not self._keys:
            return None
        scheme, _, bearer = headers.get("authorization", "").partition(" ")
        given = bearer.strip() if scheme.lower() == "bearer" else headers.get("x-api-key", "")
        digest = _digest(given.encode("latin-1"))  # as it was on the wire
        found = [(name, scopes) for key, name, scopes in self._keys if hmac.compare_digest(key, digest)]
        if not found:
            raise RequestError(ErrorCode.UNAUTHORIZED, "send the API key", "Authorization")
        [(name, scopes)] = found
        if scope not in scopes:
            raise RequestError(ErrorCode.FORBIDDEN, f"this needs a key with scope {scope}", "Authorization")
        return name


def _digest(key: bytes) -> bytes:
    # Of one length, so that the time of comparing says nothing of the length of a key.
    return hashlib.sha256(key).digest()


def _hostname(host: str) -> str:
    """The name in a Host header, without port and brackets."""
    if host.startswith("["):
        return host[1:].partition("]")[0].lower()
    return host.partition(":")[0].lower()
