"""Which topic the messages of a Redis channel go to: pure, compiled once per feed.

A name with ``*``, ``?``, ``[`` or ``\\`` is a glob, as Redis reads it, byte by byte: ``*`` is any bytes, also none,
``?`` one, ``[a-z]`` and ``[^a-z]`` one of a set, ``\\x`` an ``x``.
"""

from __future__ import annotations

import re
import string
from functools import lru_cache
from typing import Any, Final

from actors.feed_map import TOPICS_CACHED
from actors.paths import ABSENT, Path
from actors.upstream_values import NAME_CHARS, BadMessage, MappingError, token
from transport.errors import ConfigError, RequestError
from transport.topics import check_topic, is_system, topic

_GLOB: Final = re.compile(r"[*?\[\\]").search
_ELEMENT: Final = re.compile(
    rb"\\(?P<escaped>.)|\[(?P<set>(?:\\.|[^\\\]])+)\]|(?P<wild>[*?])|(?P<plain>[^\\\[])", re.DOTALL
)
_MEMBER: Final = re.compile(rb"\\(.)|([^\\-])-([^\\-])|([^\\-])", re.DOTALL)


class ChannelMap:
    """One entry of ``[redis.channels]``.

    Args:
        name: a channel, or a glob of channels.
        template: the topic; ``{1}`` is what the first ``*`` stands for, as one token. All stars but the last one take
            as little as they can. ``{name}`` is what the path ``name`` (:mod:`actors.paths`) leads to in the message.

    Attributes:
        is_glob: whether to ``PSUBSCRIBE``.

    Raises:
        ConfigError: it cannot work.
    """

    def __init__(self, name: str, template: str) -> None:
        self.is_glob = _GLOB(name) is not None
        glob = _compiled(name.encode())
        self._match = glob.fullmatch
        self._parts = _parts(template, stars=glob.groups)
        self._paths = tuple(source for _, source in self._parts if isinstance(source, Path))
        try:
            sample = check_topic("".join(text + ("x" if source else "") for text, source in self._parts))
        except RequestError as error:
            raise ConfigError(error.message) from None
        if is_system(sample):
            raise ConfigError("system.> belongs to the engine")
        self._render = lru_cache(TOPICS_CACHED)(self._rendered)

    def topic(self, channel: bytes, message: Any = None) -> str:
        """The topic of a message on a channel that Redis says is one of ours; remembered, for the last few thousand.

        Raises:
            MappingError: there is none.
        """
        return self._render(channel, *[_named(path, message) for path in self._paths])

    def _rendered(self, channel: bytes, *names: str) -> str:
        where = channel[:NAME_CHARS].decode("utf-8", "replace")
        found = self._match(channel)
        if found is None:
            raise MappingError(BadMessage.BAD_TOPIC, where, "is not what its pattern says")
        try:
            named = iter(names)
            tokens = [
                topic(next(named) if isinstance(source, Path) else found[source].decode()) if source else ""
                for _, source in self._parts
            ]
            address = check_topic("".join(text + token for (text, _), token in zip(self._parts, tokens, strict=True)))
        except UnicodeDecodeError:
            raise MappingError(BadMessage.BAD_TOPIC, where, "is not UTF-8") from None
        except RequestError as error:
            raise MappingError(BadMessage.BAD_TOPIC, where, error.message) from None
        if is_system(address):
            raise MappingError(BadMessage.BAD_TOPIC, where, "system.> belongs to the engine")
        return address


def _named(path: Path, message: Any) -> str:
    value = path.find(message)
    if value is ABSENT:
        raise MappingError(BadMessage.MISSING, path.text)
    return token(value, path.text)


def _compiled(glob: bytes) -> re.Pattern[bytes]:
    """A regular expression with a group per ``*``.

    What stands between two stars has a fixed length, so its first place is as good as any later one: atomic groups
    commit to it, and the time is linear in the channel's length, whatever a publisher calls it.
    """
    segments, at = [b""], 0
    while at < len(glob):
        element = _ELEMENT.match(glob, at)
        if element is None:
            raise ConfigError("a [ without members or ], or a \\ at the end")
        at = element.end()
        if element["wild"] == b"*":
            segments.append(b"")
        elif element["wild"]:
            segments[-1] += b"."
        elif element["set"]:
            segments[-1] += _set(element["set"])
        else:
            segments[-1] += re.escape(element["escaped"] or element["plain"])
    first, *between = segments
    last = [b"(.*)" + between.pop()] if between else []
    return re.compile(b"".join([first, *(b"(?>(.*?)" + segment + b")" for segment in between), *last]), re.DOTALL)


def _set(members: bytes) -> bytes:
    out, at = (b"[^", 1) if members[:1] == b"^" else (b"[", 0)
    if at == len(members):
        raise ConfigError("a [^ without members")
    while at < len(members):
        member = _MEMBER.match(members, at)
        if member is None:
            raise ConfigError("a - in [] is part of a range like a-z, or written \\-")
        at = member.end()
        escaped, low, high, plain = member.groups()
        if low is not None:
            out += re.escape(min(low, high)) + b"-" + re.escape(max(low, high))
        else:
            out += re.escape(escaped if plain is None else plain)
    return out + b"]"


def _parts(template: str, stars: int) -> list[tuple[str, int | Path]]:
    """Texts, each with the number of the star or the path after it; 0: neither."""
    parts: list[tuple[str, int | Path]] = []
    try:
        for text, name, spec, conversion in string.Formatter().parse(template):
            if name is not None and (not name or spec or conversion):
                raise ValueError("write {1} for what the first * stands for, {name} for what the message has there")
            if name is None:
                parts.append((text, 0))
            elif name.isascii() and name.isdigit():
                number = int(name)
                if not 1 <= number <= stars:
                    raise ValueError(f"{{{name}}} stands for nothing; the channel has {stars or 'no'} *")
                parts.append((text, number))
            else:
                parts.append((text, Path(name, "")))
    except (ValueError, ConfigError) as error:
        raise ConfigError(f"{template!r} is not a template: {error}") from None
    return parts
