"""``[auth]``: whose tokens let a client in."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from msgspec import Meta

from engine.tables import Masked, Name, Positive, about
from transport.errors import ConfigError

if TYPE_CHECKING:
    from actors.authenticator import Authenticator

SECRET_BYTES = 32  # RFC 7518 section 3.2: a key for HS256 has at least the size of its hash
KEYS = ("secret", "public_key", "jwks")
Algorithm = Literal["HS256", "HS384", "HS512", "RS256", "RS384", "RS512", "ES256", "ES384", "ES512"]


class Auth(Masked, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[auth]``: clients need a token as soon as one of ``secret``, ``public_key`` and ``jwks`` is given."""

    secret: Annotated[
        Name | None,
        about(
            "shared key of tokens signed with HS256, HS384 or HS512, at least 32 bytes",
            none="no such tokens",
            secret=True,
        ),
    ] = None
    public_key: Annotated[
        Name | None,
        about(
            "PEM of the public key of tokens signed with RS256 to RS512 or ES256 to ES512",
            none="no such tokens",
            secret=True,
        ),
    ] = None
    jwks: Annotated[
        Name | None,
        about(
            "the same for several keys: a JSON Web Key Set; a token's kid chooses", none="no such tokens", secret=True
        ),
    ] = None
    algorithms: Annotated[
        Annotated[tuple[Algorithm, ...], Meta(min_length=1)] | None,
        about("only tokens signed with one of these", none="all that the keys are for"),
    ] = None
    audience: Annotated[
        Name | None, about("`aud` that a token must have", none="tokens that name an audience are refused")
    ] = None
    issuer: Annotated[Name | None, about("`iss` that a token must have", none="any")] = None
    leeway: Annotated[float, about("how far the issuer's clock may be off", "s", ge=0, le=300)] = 0.0
    timeout: Annotated[Positive, about("from the handshake to a client's `auth`, if it sent no token with it", "s")] = (
        5.0
    )
    query_token: Annotated[
        bool, about("take tokens as ?token=, too; proxies and browsers keep addresses in logs and histories")
    ] = False
    anonymous: Annotated[
        bool, about("without keys: let in everybody who reaches server.host, even if that is not a loopback address")
    ] = False

    def __post_init__(self) -> None:
        given = [name for name in KEYS if getattr(self, name) is not None]
        if len(given) > 1:
            raise ConfigError(f"{given[0]} is given too; give one of them", given[1])
        if self.secret is not None and len(self.secret.encode()) < SECRET_BYTES:
            raise ConfigError(f"has at least {SECRET_BYTES} bytes; `openssl rand -base64 32` makes one", "secret")
        if given and self.anonymous:
            raise ConfigError(f"{given[0]} is given, so clients need a token", "anonymous")
        for name in ("algorithms", "audience", "issuer"):
            if not given and getattr(self, name) is not None:
                raise ConfigError("is for tokens, and there is no secret, public_key or jwks to check them", name)

    @property
    def required(self) -> bool:
        """Whether clients need a token."""
        return any(getattr(self, name) is not None for name in KEYS)

    def authenticator(self) -> Authenticator | None:
        """What checks tokens; ``None``: clients need none.

        Raises:
            ConfigError: a key cannot be used, or there is none for an algorithm.
        """
        if not self.required:
            return None
        from actors.authenticator import Authenticator, key_set, public_key, shared_key  # heavy, and seldom needed

        if self.secret is not None:
            keys = [shared_key(self.secret)]
        elif self.public_key is not None:
            keys = [public_key(self.public_key)]
        else:
            keys = key_set(self.jwks or "")
        return Authenticator(
            keys, algorithms=self.algorithms, audience=self.audience, issuer=self.issuer, leeway=self.leeway
        )
