"""Who a client is by its token, and what it may do. Pure.

A pattern is allowed if every topic that it can match is: ``price.*`` is not, where only ``price.EUR_USD`` is. What the
patterns of a token cannot allow: ``user.ID`` of somebody else, which nobody reads, and publishing below ``system``.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from functools import lru_cache
from typing import Any, NamedTuple

import msgspec

from actors.subscriptions import PatternIndex
from transport.codes import ErrorCode
from transport.errors import RequestError
from transport.topics import check_pattern, check_readable, is_system, is_user

GRANTS_CACHED = 1_024  # distinct permissions that are shared by the sessions which have them
_ANY = " "  # a token that no pattern names: what holds for it holds for every token that a wildcard stands for


class Patterns:
    """A set of allowed patterns. Cost of a question: as :meth:`PatternIndex.match`, times the tokens for a final ``>``.

    Raises:
        RequestError: one of them is no pattern; names it as ``[i]``.
    """

    __slots__ = ("_depth", "_index")

    def __init__(self, patterns: Iterable[str]) -> None:
        self._index = PatternIndex()
        self._depth = 0  # tokens of the longest
        for i, pattern in enumerate(patterns):
            self._index.add(check_pattern(pattern, f"[{i}]"))
            self._depth = max(self._depth, pattern.count(".") + 1)

    def allow(self, pattern: str) -> bool:
        """Whether every topic that a valid ``pattern`` can match is matched by one of these.

        One example for each number of tokens decides: with a token that nobody names for each ``*``, only wildcards
        match it, and they match every other one, too. With more tokens than any of these has, all is said.
        """
        tokens = [_ANY if token == "*" else token for token in pattern.split(".")]
        if tokens[-1] != ">":
            return bool(self._index.match(".".join(tokens)))
        tokens[-1] = _ANY
        while self._index.match(".".join(tokens)):
            if len(tokens) > self._depth:
                return True
            tokens.append(_ANY)
        return False


class Grants(NamedTuple):
    """What the claim ``heliograph`` of a token allows; what it does not name is forbidden."""

    subscribe: Patterns
    publish: Patterns
    call: Patterns
    presence: Patterns


class Identity(NamedTuple):
    """What a token says.

    Attributes:
        user: one token of a topic: ``sub``, escaped where it needs to be.
        expires: Unix seconds, ``exp``.
        ends: the same and the leeway for clocks that differ: then the session is closed.
    """

    user: str
    expires: float
    ends: float
    grants: Grants

    def may_subscribe(self, pattern: str) -> bool:
        """Whether it may read this topic or pattern, its own user's topics aside."""
        return self.grants.subscribe.allow(pattern)


class _Claim(msgspec.Struct):
    """``heliograph``. What a later version may add is not read; it allows nothing."""

    subscribe: tuple[str, ...] = ()
    publish: tuple[str, ...] = ()
    call: tuple[str, ...] = ()
    presence: tuple[str, ...] | None = None  # as `subscribe`


def grants(claim: Any) -> Grants:
    """The claim ``{"subscribe", "publish", "call", "presence": [patterns]}``; ``None``, no claim, allows nothing.

    Raises:
        RequestError: it is something else; names the field.
    """
    try:
        known = msgspec.convert({} if claim is None else claim, _Claim)
    except msgspec.ValidationError as error:
        raise RequestError(ErrorCode.UNAUTHORIZED, f"its claim `heliograph` is malformed: {error}", "token") from None
    presence = known.subscribe if known.presence is None else known.presence
    return _grants(known.subscribe, known.publish, known.call, presence)


@lru_cache(GRANTS_CACHED)
def _grants(*of: tuple[str, ...]) -> Grants:
    found = []
    for name, patterns in zip(Grants._fields, of, strict=True):
        try:
            found.append(Patterns(patterns))
        except RequestError as error:
            text = f"its claim `heliograph.{name}{error.field}`: {error.message}"
            raise RequestError(ErrorCode.UNAUTHORIZED, text, "token") from None
    return Grants(*found)


def check_subscribe(identity: Identity | None, user: str | None, pattern: str, field: str) -> None:
    """Whether a session may read a valid topic or pattern: subscribe to it, ask for last events or for history.

    Args:
        identity: of its token; ``None``: tokens are not asked for.
        user: whose session it is. Its own topics, ``user.ID`` and below, need no permission.

    Raises:
        RequestError: ``forbidden``, naming ``field``.
    """
    check_readable(pattern, user, field)
    if identity is not None and not is_user(pattern) and not identity.grants.subscribe.allow(pattern):
        raise _forbidden("subscribe to", pattern, field)


def check_presence(identity: Identity | None, user: str | None, topic: str, field: str) -> None:
    """Whether a session may ask who is subscribed to a valid topic; as :func:`check_subscribe`."""
    check_readable(topic, user, field)
    if identity is not None and not is_user(topic) and not identity.grants.presence.allow(topic):
        raise _forbidden("ask who is on", topic, field)


def check_unowned(topic: str, owned: Collection[str], field: str) -> None:
    """On topics that the engine owns (alert rules, parameters) nobody else speaks or answers."""
    if topic in owned:
        raise RequestError(ErrorCode.FORBIDDEN, f"{topic} belongs to the engine, by its configuration", field)


def check_publish(identity: Identity | None, topic: str, field: str) -> None:
    """Whether a session may publish on a valid topic; as :func:`check_subscribe`."""
    if is_system(topic):
        raise RequestError(ErrorCode.FORBIDDEN, "system.> belongs to the engine", field)
    if identity is not None and not identity.grants.publish.allow(topic):
        raise _forbidden("publish on", topic, field)


def check_call(identity: Identity | None, topic: str, field: str) -> None:
    """Whether a session may call methods of a valid topic; as :func:`check_subscribe`."""
    if identity is not None and not identity.grants.call.allow(topic):
        raise _forbidden("call methods of", topic, field)


def check_serve(identity: Identity | None, topic: str, field: str) -> None:
    """Whether a session may answer calls of a valid topic: only who may publish there; as :func:`check_subscribe`."""
    if is_system(topic) or is_user(topic):
        raise RequestError(ErrorCode.FORBIDDEN, f"no client answers for {topic.partition('.')[0]}.>", field)
    if identity is not None and not identity.grants.publish.allow(topic):
        raise _forbidden("publish, and so to answer calls, on", topic, field)


def _forbidden(what: str, pattern: str, field: str) -> RequestError:
    return RequestError(ErrorCode.FORBIDDEN, f"this token does not allow to {what} {pattern}", field)
