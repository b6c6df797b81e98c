"""The fields of an event that filters ask for, without decoding the rest of it."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import msgspec

from transport.filters import MISSING
from transport.messages import Publication

SHAPES_CACHED = 256  # sets of fields whose decoder is kept; making one takes 0.1 ms and more
_UNNAMEABLE = frozenset('"\\') | frozenset(map(chr, range(32)))  # in a name that msgspec gives to no field


class Fields:
    """Takes the values of ``names`` out of a publication, in that order.

    A dotted name goes deeper into objects, ``@type`` and ``@key`` are the envelope's. One pass over the JSON makes
    Python objects of the named members only. Making one of these is expensive: see :func:`fields_of`.
    """

    __slots__ = ("_decode", "_members", "_steps", "names")

    def __init__(self, names: Sequence[str]) -> None:
        self.names = tuple(names)
        paths = [name.split(".") for name in names]
        members = list(dict.fromkeys(path[0] for path in paths if path[0][0] != "@"))
        self._decode, self._members = _decoder(members)
        # Where each value is: in the members, behind which the envelope follows, and how deep. None: as they come.
        places = {member: place for place, member in enumerate((*members, "@type", "@key"))}
        self._steps = None if members == list(names) else [(places[path[0]], path[1:]) for path in paths]

    def of(self, publication: Publication) -> tuple[Any, ...]:
        """The values; ``MISSING`` where the event has no such field. Never raises."""
        try:
            found = self._members(self._decode(publication.data))
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return tuple(map(lookup(publication), self.names))
        if self._steps is None:
            return found
        key = publication.key
        found = (*found, publication.type, MISSING if key is None else key)
        return tuple([_deeper(found[place], rest) if rest else found[place] for place, rest in self._steps])


@lru_cache(SHAPES_CACHED)
def fields_of(names: tuple[str, ...]) -> Fields:
    """The :class:`Fields` of these names, made once."""
    return Fields(names)


def lookup(publication: Publication) -> Callable[[str], Any]:
    """``value_of(name)`` of a publication, from its whole data: plain, slow, and what :class:`Fields` must equal."""
    try:
        data = json.loads(publication.data, parse_constant=_refuse)
    except (ValueError, RecursionError):
        data = None

    def value_of(name: str) -> Any:
        if name == "@type":
            return publication.type
        if name == "@key":
            return MISSING if publication.key is None else publication.key
        return _deeper(data, name.split("."))

    return value_of


def _deeper(value: Any, path: list[str]) -> Any:
    for token in path:
        if not isinstance(value, dict) or token not in value:
            return MISSING
        value = value[token]
    return value


def _decoder(members: list[str]) -> tuple[Callable[[bytes], Any], Callable[[Any], tuple[Any, ...]]]:
    """What decodes an object, and what makes a tuple of these members of the result."""
    if _UNNAMEABLE.isdisjoint("".join(members)):
        attributes = {f"m{n}": member for n, member in enumerate(members)}
        kind = msgspec.defstruct("Members", [(name, Any, MISSING) for name in attributes], rename=attributes)
        return msgspec.json.Decoder(kind).decode, msgspec.structs.astuple
    return (
        msgspec.json.Decoder(dict[str, Any]).decode,
        lambda data: tuple([data.get(member, MISSING) for member in members]),
    )


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is no JSON")
