"""HTML that is put together from elements: what is no markup already is escaped, so that nothing can forget to."""

from __future__ import annotations

from html import escape
from typing import Final

_VOID: Final = frozenset({"br", "link", "meta"})


class Markup(str):
    """Text that is HTML, or SVG within it."""

    __slots__ = ()


Child = str | None
"""Text is escaped, :class:`Markup` is taken as it is, ``None`` is left out."""


def tag(name: str, /, *children: Child, **attributes: str | float | None) -> Markup:
    """An element: ``tag("td", "a < b", class_="numeric")``.

    Args:
        attributes: ``_`` in their names is ``-``, one at the end is dropped; those that are ``None`` are left out.
    """
    parts = [f"<{name}"]
    for key, value in attributes.items():
        if value is not None:
            parts.append(f' {key.rstrip("_").replace("_", "-")}="{escape(_text(value))}"')
    parts.append(">")
    parts.append(join(*children))
    if name not in _VOID:
        parts.append(f"</{name}>")
    return Markup("".join(parts))


def join(*children: Child) -> Markup:
    """One behind the other."""
    return Markup("".join(child if isinstance(child, Markup) else escape(child) for child in children if child))


def _text(value: str | float) -> str:
    return value if isinstance(value, str) else f"{value:.1f}".removesuffix(".0")
