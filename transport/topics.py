"""Topics and topic patterns: dot-separated tokens; ``*`` stands for one token, a final ``>`` for one or more.

A topic has at most 255 bytes. A token is printable ASCII without space, ``.``, ``*``, ``>``, quotes and backslash.
A leading wildcard does not match what is reserved: ``system.>``, which belongs to the engine, and ``user.ID`` with what
is below it, which belongs to the sessions of that user.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from urllib.parse import quote

from transport.codes import ErrorCode
from transport.errors import RequestError

MAX_BYTES = 255
SYSTEM = "system"
METRICS = "system.metrics"
"""Where what is sampled of machine, processes and engine is published while somebody is subscribed."""
USER = "user"
RESERVED = (SYSTEM, USER)
"""First tokens that a leading wildcard does not match."""
_TOKEN = r"[!#-&(-)+-\-/-=?-\[\]-~]+"
_TOPIC = re.compile(rf"{_TOKEN}(?:\.{_TOKEN})*")
_PATTERN = re.compile(rf"(?:{_TOKEN}|\*)(?:\.(?:{_TOKEN}|\*))*(?:\.>)?|>")


def topic(*tokens: object) -> str:
    """Join tokens to a topic, escaping what a token may not hold.

    >>> topic("price", "EUR/USD"), topic("note", "a.b *")
    ('price.EUR/USD', 'note.a%2Eb%20%2A')
    """
    if not tokens:
        raise RequestError(ErrorCode.INVALID_TOPIC, "a topic needs at least one token")
    return check_topic(".".join(_escape(str(token)) for token in tokens))


def _escape(token: str) -> str:
    return quote(token, safe="!#$&()+,-/:;<=?@[]^_`{|}~").replace(".", "%2E")


def check_topic(name: str, field: str = "topic") -> str:
    """Return ``name`` if it is a topic, else raise :class:`RequestError` naming ``field``."""
    if len(name) <= MAX_BYTES and _TOPIC.fullmatch(name):
        return name
    raise RequestError(ErrorCode.INVALID_TOPIC, _why(name, "topic"), field)


def check_pattern(name: str, field: str = "topics") -> str:
    """Return ``name`` if it is a topic or a pattern, else raise :class:`RequestError` naming ``field``."""
    if len(name) <= MAX_BYTES and _PATTERN.fullmatch(name):
        return name
    raise RequestError(ErrorCode.INVALID_TOPIC, _why(name, "topic pattern"), field)


def _why(name: str, what: str) -> str:
    if len(name) > MAX_BYTES:
        return f"a {what} has at most {MAX_BYTES} bytes, this one has {len(name)}"
    return (
        f"{name!r} is not a {what}: tokens joined by dots, each of printable ASCII without space, quotes, backslash"
        + ("; '*' is one whole token, '>' the last one" if "pattern" in what else ", '*' and '>'")
    )


def is_pattern(name: str) -> bool:
    """Whether a valid pattern has a wildcard."""
    return name.endswith(">") or name.startswith("*") or ".*" in name


def is_system(name: str) -> bool:
    """Whether a topic or pattern lies in the engine's own ``system.>``."""
    return name == SYSTEM or name.startswith(SYSTEM + ".")


def is_user(name: str) -> bool:
    """Whether a topic or pattern lies in ``user.>``."""
    return name == USER or name.startswith(USER + ".")


def user_topic(user: str) -> str:
    """What reaches all sessions of a user."""
    return f"{USER}.{user}"


def check_user(user: str, field: str = "user") -> str:
    """Return ``user`` if it can name one, which is to be one token of a topic; else raise :class:`RequestError`."""
    if "." not in user and len(user) < MAX_BYTES - len(USER) and _TOPIC.fullmatch(user):
        return user
    text = (
        f"{user!r} is not a user: one token of a topic, at most {MAX_BYTES - len(USER) - 1} characters, "
        "of printable ASCII without space, dot, quotes, backslash, '*' and '>'"
    )
    raise RequestError(ErrorCode.BAD_REQUEST, text, field)


def check_readable(pattern: str, user: str | None, field: str = "topics") -> None:
    """Raise :class:`RequestError` where ``pattern`` is another user's; ``user`` is who wants to read it."""
    if is_user(pattern):
        own = None if user is None else user_topic(user)
        if own is None or (pattern != own and not pattern.startswith(own + ".")):
            text = f"{pattern} is for the sessions of that user only" + ("" if own is None else f"; yours is {own}")
            raise RequestError(ErrorCode.FORBIDDEN, text, field)


def matches(pattern: str, name: str) -> bool:
    """Whether ``pattern`` matches topic ``name``: the specification, O(tokens); the index is the fast form.

    >>> matches("price.*", "price.EUR_USD"), matches("price.>", "price"), matches("*.metrics", "system.metrics")
    (True, False, False)
    """
    if pattern == name:
        return True
    want, have = pattern.split("."), name.split(".")
    if want[0] in ("*", ">") and have[0] in RESERVED:
        return False
    for i, token in enumerate(want):
        if token == ">":
            return len(have) > i
        if i >= len(have) or token not in ("*", have[i]):
            return False
    return len(want) == len(have)


def matcher(pattern: str) -> Callable[[str], object]:
    """:func:`matches` for one valid pattern and many topics; what it returns is true or false in a condition."""
    one = r"[^.]+"
    parts = [one if token == "*" else ".+" if token == ">" else re.escape(token) for token in pattern.split(".")]
    guard = rf"(?!(?:{'|'.join(RESERVED)})(?:\.|$))" if pattern[0] in "*>" else ""
    return re.compile(guard + r"\.".join(parts)).fullmatch
