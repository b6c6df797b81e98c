"""``heliograph token``: a token of one's own, for development and for tests."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path

from engine import config
from engine.auth_config import Auth
from engine.tables import read_text
from transport.errors import ConfigError


def token(
    user: str,
    subscribe: list[str],
    publish: list[str],
    call: list[str],
    ttl: float,
    file: Path | None,
    secret_file: Path | None,
) -> int:
    """Write a token to stdout, signed with the secret in ``secret_file`` or else with the configuration's.

    Raises:
        ConfigError: there is no secret.
    """
    if secret_file is not None:
        auth = Auth(secret=read_text(secret_file, "--secret-file").strip())
    else:
        auth = config.load(file).auth
    sys.stdout.write(mint(auth, user, ttl, subscribe, publish, call) + "\n")
    return 0


def mint(auth: Auth, user: str, ttl: float, subscribe: list[str], publish: list[str], call: Sequence[str] = ()) -> str:
    """A token that an engine with this ``[auth]`` takes for ``ttl`` seconds from now."""
    import jwt  # heavy, and for this command only

    if auth.secret is None:
        other = auth.public_key is not None or auth.jwks is not None
        text = "tokens are made by whoever has the private key; here is" if other else "there is"
        raise ConfigError(f"{text} no secret to sign with: give --secret-file, or --config", "auth.secret")
    now = int(time.time())
    claims = {
        "sub": user,
        "iat": now,
        "exp": now + ttl,
        "heliograph": {"subscribe": subscribe, "publish": publish, "call": list(call)},
        **({} if auth.audience is None else {"aud": auth.audience}),
        **({} if auth.issuer is None else {"iss": auth.issuer}),
    }
    algorithm = "HS256" if auth.algorithms is None else auth.algorithms[0]
    made = jwt.encode(claims, auth.secret, algorithm)
    authenticator = auth.authenticator()
    assert authenticator is not None, "it has a secret"
    authenticator.identify(made, now)  # a user or a pattern that no engine would take is told here
    return made
