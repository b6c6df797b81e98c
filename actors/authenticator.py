"""Tokens: JSON Web Tokens (RFC 7519) of one key or several, checked and made an :class:`Identity`. Pure.

Imported only where tokens are asked for: the libraries behind it weigh 10 MB a process.

Who may sign how is decided by the key and never by the token: a shared secret takes HS, a public RSA key RS, a public
EC key the ES of its curve. So a token that is signed with the text of a public key as if it were a secret, and one
that says it is not signed at all, find no key.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable
from typing import Any, Final, NamedTuple

import jwt
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from actors.identity import Identity, grants
from transport.codes import ErrorCode
from transport.errors import ConfigError, RequestError
from transport.topics import USER, check_user, topic

TOKEN_BYTES: Final = 8_192
HMAC: Final = ("HS256", "HS384", "HS512")
RSA: Final = ("RS256", "RS384", "RS512")
CURVES: Final = {"secp256r1": "ES256", "secp384r1": "ES384", "secp521r1": "ES512"}
RSA_BITS: Final = 2_048  # RFC 7518 section 3.3
KEYS: Final = 100  # of a key set

# Times are checked here, by the caller's clock.
_OPTIONS: Final = {
    "require": ["exp", "sub"],
    "verify_exp": False,
    "verify_nbf": False,
    "verify_iat": False,
    "verify_sub": False,
    "verify_jti": False,
}


class Key(NamedTuple):
    """What one key verifies; ``name`` is its ``kid``."""

    key: Any
    algorithms: tuple[str, ...]
    name: str | None = None

    def __repr__(self) -> str:
        return f"<Key {self.name or ''} {'/'.join(self.algorithms)}>"


def shared_key(secret: str) -> Key:
    """The key of HS256, HS384 and HS512."""
    return Key(secret.encode(), HMAC)


def public_key(pem: str, field: str = "public_key") -> Key:
    """An RSA or EC key, PEM; :class:`ConfigError` where it is something else."""
    try:
        return _public(load_pem_public_key(pem.encode()), field)
    except ConfigError:
        raise
    except Exception as error:  # the library raises what it likes
        text = "a private key: give its public key" if "PRIVATE KEY" in pem else "no PEM of an RSA or EC public key"
        raise ConfigError(f"is {text} ({type(error).__name__})", field) from None


def key_set(text: str, field: str = "jwks") -> list[Key]:
    """The keys of a JWKS (RFC 7517) that are meant for signatures; :class:`ConfigError` where one cannot be used."""
    try:
        found = jwt.PyJWKSet.from_json(text).keys
    except Exception as error:
        raise ConfigError(f"is no JSON of a key set with keys of type RSA or EC: {error}", field) from None
    if len(found) > KEYS:
        raise ConfigError(f"has {len(found)} keys; at most {KEYS}", field)
    keys = []
    for jwk in found:
        if jwk.public_key_use in (None, "sig"):
            key = _public(jwk.key, field)
            keys.append(key._replace(name=jwk.key_id))
    if not keys:
        raise ConfigError("has no key for signatures", field)
    names = [key.name for key in keys]
    if len(keys) > 1 and (None in names or len({*names}) < len(names)):
        raise ConfigError("with several keys each needs a `kid` of its own", field)
    return keys


def _public(key: Any, field: str) -> Key:
    if isinstance(key, RSAPublicKey):
        if key.key_size < RSA_BITS:
            raise ConfigError(f"an RSA key has at least {RSA_BITS} bits, this one {key.key_size}", field)
        return Key(key, RSA)
    if isinstance(key, EllipticCurvePublicKey) and key.curve.name in CURVES:
        return Key(key, (CURVES[key.curve.name],))
    raise ConfigError(f"keys are public ones, RSA or EC ({', '.join(CURVES)}), and no {type(key).__name__}", field)


class Authenticator:
    """Checks tokens.

    A token needs ``sub`` and ``exp``. ``aud`` and ``iss`` must be the configured ones; with no audience configured a
    token that names one is meant for somebody else and refused (RFC 7519 section 4.1.3).

    Args:
        keys: with several, the token's ``kid`` chooses.
        algorithms: none other is taken; ``None``: those of the keys.
        leeway: seconds by which clocks may differ.
    """

    def __init__(
        self,
        keys: Iterable[Key],
        *,
        algorithms: Collection[str] | None = None,
        audience: str | None = None,
        issuer: str | None = None,
        leeway: float = 0.0,
    ) -> None:
        self._keys = [
            key._replace(algorithms=tuple(a for a in key.algorithms if algorithms is None or a in algorithms))
            for key in keys
        ]
        self._audience, self._issuer, self._leeway = audience, issuer, leeway
        for algorithm in algorithms or ():
            if not any(algorithm in key.algorithms for key in self._keys):
                raise ConfigError(f"there is no key for {algorithm}", "algorithms")

    def identify(self, token: str, now: float) -> Identity:
        """Who sent ``token``.

        Raises:
            RequestError: ``unauthorized``; says why, and nothing of the token.
        """
        if len(token) > TOKEN_BYTES:
            raise _refused(f"it has more than {TOKEN_BYTES} bytes")
        try:
            header = jwt.get_unverified_header(token)
            key = self._find(header)
            claims = jwt.decode(
                token,
                key.key,
                algorithms=list(key.algorithms),
                audience=self._audience,
                issuer=self._issuer,
                options=_OPTIONS,  # type: ignore[arg-type]  # a TypedDict of its own
            )
        except jwt.InvalidSignatureError:
            raise _refused("its signature is wrong") from None
        except jwt.InvalidAudienceError:
            raise _refused("it is meant for another audience") from None
        except jwt.InvalidIssuerError:
            raise _refused("it comes from another issuer") from None
        except jwt.MissingRequiredClaimError as error:
            raise _refused(f"it has no {error.claim}") from None
        except (jwt.PyJWTError, ValueError, TypeError, RecursionError):
            raise _refused("it is no JSON Web Token") from None
        expires = self._times(claims, now)
        return Identity(_user(claims["sub"]), expires, expires + self._leeway, grants(claims.get("heliograph")))

    def _find(self, header: dict[str, Any]) -> Key:
        algorithm, name = header.get("alg"), header.get("kid")
        named = [key for key in self._keys if key.name == name] if name is not None else self._keys
        # A single key may have no name, and then takes tokens whatever key they name.
        if name is not None and not named and len(self._keys) == 1 and self._keys[0].name is None:
            named = self._keys
        if not named:
            raise _refused("there is no key with its kid")
        if len(named) > 1:
            raise _refused("there are several keys and it has no kid")
        if algorithm not in named[0].algorithms:
            raise _refused(f"it is not signed with {' or '.join(named[0].algorithms) or 'an allowed algorithm'}")
        return named[0]

    def _times(self, claims: dict[str, Any], now: float) -> float:
        expires, begins = _number(claims["exp"], "exp"), _number(claims.get("nbf", 0), "nbf")
        if expires + self._leeway <= now:
            raise _refused("it has expired")
        if begins - self._leeway > now:
            raise _refused("it is not valid yet")
        return expires


def _number(value: Any, name: str) -> float:
    try:
        if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value):
            return float(value)
    except OverflowError:
        pass
    raise _refused(f"its {name} is no time")


def _user(subject: Any) -> str:
    """``sub`` as one token of a topic; ``alice@example.com`` is ``alice@example%2Ecom``."""
    try:
        if isinstance(subject, str) and subject:
            return check_user(topic(USER, subject).removeprefix(f"{USER}."))
    except (RequestError, UnicodeEncodeError):  # JSON can say half a character
        pass
    raise _refused("its sub is no user, or too long")


def _refused(why: str) -> RequestError:
    return RequestError(ErrorCode.UNAUTHORIZED, f"this token is refused: {why}", "token")
