"""What clients may ask, checked: pure. Everything here comes from strangers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

ALL = "*"
NAMES_MAX = 1_000
"""Pairs in one request."""
SHOWN_MAX = 20
"""Names that an error repeats."""


class BadRequest(ValueError):
    """A request that cannot be understood; ``field`` says where."""

    def __init__(self, field: str, message: str) -> None:
        self.field = field
        super().__init__(message)


class Choice(NamedTuple):
    """Pairs that a request names.

    Attributes:
        pairs: those that there are, each once, in the request's order.
        invalid: names that are no pair of this server, as far as an error shows them.
    """

    pairs: list[str]
    invalid: list[str]


def chosen(request: Any, known: Sequence[str]) -> Choice:
    """The pairs of ``{"pairs": ["EUR_USD", …]}`` or ``{"pairs": "*"}``.

    Raises:
        BadRequest: it is neither.
    """
    if not isinstance(request, dict):
        raise BadRequest("pairs", f'a map like {{"pairs": ["EUR_USD"]}} is needed, not {_shown(request)}')
    names = request.get("pairs")
    if names == ALL:
        return Choice(list(known), [])
    if not isinstance(names, list):
        raise BadRequest("pairs", f'pairs is a list of pairs or "*", not {_shown(names)}')
    if not 0 < len(names) <= NAMES_MAX:
        raise BadRequest("pairs", f"pairs names 1 to {NAMES_MAX} pairs, not {len(names)}")
    named = dict.fromkeys(name if isinstance(name, str) else _shown(name) for name in names)
    invalid = [_shortened(name) for name in named if name not in known]
    return Choice([name for name in named if name in known], invalid[:SHOWN_MAX])


def instrument(request: Any, known: Sequence[str]) -> str:
    """The pair of ``{"instrument": "EUR_USD"}``.

    Raises:
        BadRequest: there is none, or it is none of ours.
    """
    if not isinstance(request, dict):
        raise BadRequest("instrument", f'a map like {{"instrument": "EUR_USD"}} is needed, not {_shown(request)}')
    name = request.get("instrument")
    if not isinstance(name, str):
        raise BadRequest("instrument", f"instrument is the name of a pair, not {_shown(name)}")
    if name not in known:
        raise BadRequest("instrument", f"Invalid pair: {_shortened(name)}")
    return name


def _shown(value: Any) -> str:
    return "nothing" if value is None else _shortened(repr(value))


def _shortened(text: str) -> str:
    return text if len(text) <= 40 else f"{text[:40]}…"
