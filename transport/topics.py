"""Topics and topic patterns: dot-separated tokens; ``*`` stands for one token, a final ``>`` for one or more.

A topic has at most 255 bytes. A token is printable ASCII without space, ``.``, ``*``, ``>``, quotes and backslash.
``system.>`` belongs to the engine: a leading wildcard does not match it.
"""

from __future__ import annotations

import re
from urllib.parse import quote

from transport.codes import ErrorCode
from transport.errors import RequestError

MAX_BYTES = 255
SYSTEM = "system"
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


def matches(pattern: str, name: str) -> bool:
    """Whether ``pattern`` matches topic ``name``: the specification, O(tokens); the index is the fast form.

    >>> matches("price.*", "price.EUR_USD"), matches("price.>", "price"), matches("*.metrics", "system.metrics")
    (True, False, False)
    """
    if pattern == name:
        return True
    want, have = pattern.split("."), name.split(".")
    if want[0] in ("*", ">") and have[0] == SYSTEM:
        return False
    for i, token in enumerate(want):
        if token == ">":
            return len(have) > i
        if i >= len(have) or token not in ("*", have[i]):
            return False
    return len(want) == len(have)
