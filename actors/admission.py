"""Which sessions of a worker have shown a token, and until when. Pure.

By configuration clients need one or they do not. Who needs one and has sent none with its handshake sends `auth`
before the timeout; whose token ends is sent away unless another one came before. Both are looked at now and then, see
:class:`actors.deadlines.Deadlines`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, Protocol

from actors.deadlines import Deadlines
from actors.identity import Identity
from actors.session import Session
from transport.codes import ErrorCode
from transport.errors import RequestError


class Identifies(Protocol):
    """Checks tokens (see :class:`actors.authenticator.Authenticator`)."""

    def identify(self, token: str, now: float) -> Identity: ...


class AuthPolicy(NamedTuple):
    """``authenticator``: none: clients need no token. ``timeout``: seconds to the first `auth`."""

    authenticator: Identifies | None = None
    timeout: float = 5.0
    query_token: bool = False  # whether one is taken from the address


class Due(NamedTuple):
    """Who has to go."""

    late: list[Session]
    expired: list[Session]


class Admission:
    """One per worker.

    Args:
        now: Unix seconds, for tokens.
        clock: seconds that never go back, for the timeout.
    """

    def __init__(self, policy: AuthPolicy, now: Callable[[], float], clock: Callable[[], float]) -> None:
        self._policy, self._now, self._clock = policy, now, clock
        self._waiting: Deadlines[Session] = Deadlines()
        self._ends: Deadlines[Session] = Deadlines()
        self._guests: set[Session] = set()

    @property
    def required(self) -> bool:
        """Whether clients need a token."""
        return self._policy.authenticator is not None

    def configure(self, policy: AuthPolicy, sessions: Iterable[Session]) -> None:
        """Take other keys. Who has shown a token keeps what it allows until it ends, or for good where none is needed
        any more; who has shown none, and needs one now, has the timeout for it, as a guest."""
        was_required = self.required
        self._policy = policy
        for session in sessions:
            if not self.required:
                self.forget(session)
            elif session.identity is not None:
                self._ends.set(session, session.identity.ends)
            elif not was_required:
                self._waiting.set(session, self._clock() + policy.timeout)
                self._guests.add(session)

    def is_guest(self, session: Session) -> bool:
        """Whether it came while no token was needed, and has shown none since: what it has, no token allows."""
        return session in self._guests

    def arrive(self, session: Session) -> None:
        """Take what the handshake said; after that the session has its user and, by its token, its identity.

        Raises:
            RequestError: ``unauthorized``; the session is nobody's and must go.
        """
        connection = session.connection
        token, connection.token = connection.token, None  # tokens are long, and nobody needs it again
        if not self.required:
            return
        named, session.user = session.user, None
        if named is not None:
            text = "the token says who the user is here; connect without ?user="
            raise RequestError(ErrorCode.UNAUTHORIZED, text, "user")
        if connection.token_in_query and not self._policy.query_token:
            text = "tokens in addresses are not taken here (auth.query_token): send `auth`, or Authorization: Bearer"
            raise RequestError(ErrorCode.UNAUTHORIZED, text, "token")
        if token is None:
            self._waiting.set(session, self._clock() + self._policy.timeout)
        else:
            self.admit(session, self.identify(token))
            assert session.identity is not None
            session.user = session.identity.user

    def greeting(self, session: Session) -> dict[str, Any]:
        """What `welcome` says of it."""
        if session.identity is not None:
            return {"user": session.identity.user, "expires": session.identity.expires}
        return {"auth_within": self._policy.timeout} if self.required else {}

    def identify(self, token: str) -> Identity:
        """Who sent this; :class:`RequestError`, ``unauthorized``, where it is refused."""
        authenticator = self._policy.authenticator
        if authenticator is None:
            raise RequestError(ErrorCode.BAD_REQUEST, "this engine asks for no tokens: it has no key in [auth]", "op")
        return authenticator.identify(token, self._now())

    def admit(self, session: Session, identity: Identity) -> None:
        """From now on the session may do what ``identity`` may, until that ends."""
        session.identity = identity
        self._guests.discard(session)
        self._waiting.forget(session)
        self._ends.set(session, identity.ends)

    def forget(self, session: Session) -> None:
        """It has gone."""
        self._guests.discard(session)
        self._waiting.forget(session)
        self._ends.forget(session)

    def due(self) -> Due:
        """Who has to go now, each told once."""
        return Due(self._waiting.due(self._clock()), self._ends.due(self._now()))
