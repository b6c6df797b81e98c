"""Targets around tokens: as they come, and signed with the right key, with any claims and header."""

from __future__ import annotations

import base64
import hmac
from collections.abc import Callable
from typing import Final

from actors.authenticator import Authenticator, shared_key
from transport.codes import ErrorCode
from transport.errors import RequestError

SECRET: Final = "s" * 32
NOW: Final = 1_000.0

_authenticator: Final = Authenticator([shared_key(SECRET)], audience="here")


def _encoded(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")


def _signed(header: bytes, claims: bytes) -> str:
    body = _encoded(header) + b"." + _encoded(claims)
    return (body + b"." + _encoded(hmac.digest(SECRET.encode(), body, "sha256"))).decode()


HEADER: Final = b'{"alg":"HS256"}'
CLAIMS: Final = (
    b'{"sub":"ann@example.com","exp":2000,"nbf":1e2,"aud":["here"],"heliograph":{"subscribe":["a.*",">"],"publish":[]}}'
)


def token(data: bytes) -> None:
    """A token: who it is, or ``unauthorized``, with nothing of the token in it."""
    try:
        found = _authenticator.identify(data.decode("utf-8", "surrogateescape"), NOW)
    except RequestError as error:
        assert error.code is ErrorCode.UNAUTHORIZED
        return
    assert found.expires > NOW
    assert found.user
    found.may_subscribe("a.b")


def claims(data: bytes) -> None:
    """Header and claims, a line each, under a good signature."""
    header, newline, rest = data.partition(b"\n")
    token(_signed(header if newline else HEADER, rest if newline else data).encode())


TARGETS: Final[dict[str, Callable[[bytes], None]]] = {"token": token, "token-claims": claims}
SEEDS: Final[dict[str, list[bytes]]] = {
    "token": [_signed(HEADER, CLAIMS).encode(), _signed(b'{"alg":"none","kid":"x"}', CLAIMS).encode()],
    "token-claims": [
        CLAIMS,
        b'{"sub":"\\ud800","exp":2000}',
        HEADER + b"\n" + CLAIMS,
        b'{"alg":"HS256","kid":7,"crit":["b64"],"b64":false}\n' + CLAIMS,
    ],
}
