"""A page that is one file, loads nothing and runs no script, and the parts that pages are made of.

The dashboard's style is in it, so that both are one family; the page's own policy forbids all but this style.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from hashlib import sha256
from importlib.resources import files
from typing import Final

from engine.loadtest.markup import Child, Markup, join, tag
from engine.version import VERSION

_SUN: Final = Markup(
    '<svg class="mark" viewBox="0 0 24 24" aria-hidden="true"><circle cx="12" cy="12" r="4.5"/><path d="M12 1.5v3M12 '
    '19.5v3M1.5 12h3M19.5 12h3M4.6 4.6l2.1 2.1M17.3 17.3l2.1 2.1M4.6 19.4l2.1-2.1M17.3 6.7l2.1-2.1"/></svg>'
)


def page(title: str, what: str, facts: Mapping[str, str], sections: Iterable[Child]) -> str:
    """A page, whole.

    Args:
        title: of the window.
        what: its heading.
        facts: what stands beside the heading.
    """
    style = _style()
    policy = f"default-src 'none'; img-src data:; style-src '{_hash(style)}'; base-uri 'none'; form-action 'none'"
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=policy),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("meta", name="referrer", content="no-referrer"),
        tag("title", f"{title} – heliograph"),
        tag("link", rel="icon", href="data:,"),
        tag("style", Markup(style)),
    )
    shown = [tag("div", tag("dt", name), tag("dd", value)) for name, value in facts.items()]
    body = tag(
        "body",
        tag("a", "Skip to the content", class_="skip", href="#main"),
        tag("header", tag("h1", _SUN, what), tag("dl", *shown, class_="facts")),
        tag("main", *sections, id="main", tabindex="-1"),
        tag("footer", tag("span", f"heliograph {VERSION}, heliograph loadtest")),
    )
    return f"<!doctype html>\n{tag('html', head, body, lang='en')}\n"


@cache
def _style() -> str:
    """The dashboard's, and what a report has beyond it."""
    static = (
        files("engine").joinpath("static", "dashboard", "style.css"),
        files(__package__).joinpath("static", "report.css"),
    )
    style = "\n".join(file.read_text(encoding="utf-8") for file in static)
    assert "</" not in style, "a style that ends its element"
    return style


def _hash(style: str) -> str:
    return f"sha256-{b64encode(sha256(style.encode()).digest()).decode()}"


def panel(title: str, *children: Child, half: bool = False) -> Markup:
    """A box with a heading, of the page's whole width or of half of it."""
    head = tag("div", tag("h2", title), class_="title")
    return tag("section", head, *children, class_=f"{'half' if half else 'wide'} panel", aria_label=title)


def table(
    head: Sequence[str], rows: Sequence[Sequence[Child]], numeric: Iterable[int] = (), kind: str | None = None
) -> Markup:
    """A table; where there is no room for it its rows become cards, in which each cell says what it is.

    Args:
        rows: the first cell of each is its name.
        numeric: columns of figures.
        kind: a class for the style.
    """
    right = dict.fromkeys(numeric, "numeric")
    names = [tag("th", name, scope="col", class_=right.get(column)) for column, name in enumerate(head)]
    body = []
    for first, *others in rows:
        cells = [
            tag("td", cell, class_=right.get(column), data_label=head[column]) for column, cell in enumerate(others, 1)
        ]
        body.append(tag("tr", tag("th", first, scope="row", class_=right.get(0)), *cells))
    if not rows:
        return tag("p", "None.", class_="empty")
    whole = tag("table", tag("thead", tag("tr", *names)), tag("tbody", *body), class_=kind)
    return tag("div", whole, class_="scroll", data_rows=len(rows))


def scroll(name: str, content: Markup) -> Markup:
    """What is long in a window of its own, which the keyboard reaches, too."""
    return tag("div", content, class_="seconds", tabindex="0", role="region", aria_label=name)


def definitions(items: Mapping[str, str]) -> Markup:
    """Names and what they are."""
    return tag("dl", *(join(tag("dt", name), tag("dd", value)) for name, value in items.items()), class_="list")


def state(kind: str, shape: str, word: str) -> Markup:
    """A state: never by its colour alone."""
    return tag("span", tag("span", shape, class_="shape", aria_hidden="true"), word, class_=f"state {kind}")


def many(count: int, one: str, more: str | None = None) -> str:
    """A count and its noun."""
    return f"{count:,} {one if count == 1 else more or one + 's'}"
