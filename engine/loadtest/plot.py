"""A plot as SVG within HTML: it needs no script, follows the width of the page and its colours, and prints.

What is drawn is stretched in one direction (``preserveAspectRatio="none"``), what is written stands beside or on it at
places in percent, so that letters and strokes keep their size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from statistics import median
from typing import Final, NamedTuple

from engine.loadtest.axis import Axis
from engine.loadtest.markup import Markup, tag

WIDTH: Final = 1_000  # units of what is stretched
HEIGHT: Final = 170  # px, of the drawing
TOP: Final = 16  # px above it, for the names of bands
BOTTOM: Final = 20  # px below it, for ticks
SCALE_WIDTH: Final = 58  # px left of it
LEAST_NAMED: Final = 0.14  # of the width: a narrower band has no room for its name
MOST_LETTERS: Final = 12  # of such a name
MOST_STEPS: Final = 300  # places at which the pointer is told the values

Format = Callable[[float | None], str]


class Line(NamedTuple):
    """Points in order; where a value is ``None`` the line is interrupted."""

    label: str
    points: Sequence[tuple[float, float | None]]
    hue: int = 1
    dashed: bool = False


class Band(NamedTuple):
    """A stretch of the horizontal axis with a name."""

    label: str
    start: float
    end: float


class Mark(NamedTuple):
    """Something that happened at one place."""

    label: str
    x: float


class Plot(NamedTuple):
    """A plot to be drawn: ``format_x`` and ``format_y`` write values, at ticks and where the pointer is."""

    title: str
    lines: Sequence[Line]
    x: Axis
    y: Axis
    format_x: Format
    format_y: Format
    bands: Sequence[Band] = ()
    marks: Sequence[Mark] = ()
    note: str = ""


def draw(plot: Plot) -> Markup:
    """A ``figure``; where no line has a value it says so."""
    title = tag("figcaption", plot.title, tag("span", plot.note, class_="note") if plot.note else None)
    if not any(value is not None for line in plot.lines for _, value in line.points):
        return tag("figure", title, tag("p", "Not measured.", class_="empty"), class_="chart")
    area = tag(
        "svg",
        *_written(plot),
        tag(
            "svg",
            *_drawn(plot),
            y=TOP,
            width="100%",
            height=HEIGHT,
            viewBox=f"0 0 {WIDTH} {HEIGHT}",
            preserveAspectRatio="none",
        ),
        class_="area",
        height=TOP + HEIGHT + BOTTOM,
        role="img",
        aria_label=_told(plot),
    )
    return tag("figure", title, tag("div", _scale(plot), area, class_="drawing"), _legend(plot), class_="chart")


def _scale(plot: Plot) -> Markup:
    texts = [
        tag("text", plot.format_y(tick), x=SCALE_WIDTH - 6, y=TOP + _y(plot, tick) + 4, text_anchor="end")
        for tick in plot.y.ticks
    ]
    height = TOP + HEIGHT + BOTTOM
    return tag("svg", *texts, class_="scale", width=SCALE_WIDTH, height=height, aria_hidden="true")


def _written(plot: Plot) -> Iterator[Markup]:
    """Ticks of the horizontal axis and names of bands, in percent of the width."""
    for tick in plot.x.ticks:
        at = plot.x.at(tick)
        anchor = "start" if at < 0.02 else "end" if at > 0.98 else "middle"
        yield tag("text", plot.format_x(tick), x=f"{100 * at:.2f}%", y=TOP + HEIGHT + 14, text_anchor=anchor)
    for band in plot.bands:
        start, end = plot.x.at(band.start), plot.x.at(band.end)
        if end - start >= LEAST_NAMED:
            middle = f"{50 * (start + end):.2f}%"
            yield tag("text", _shortened(band.label), x=middle, y=TOP - 5, text_anchor="middle")


def _shortened(name: str) -> str:
    return name if len(name) <= MOST_LETTERS else f"{name[: MOST_LETTERS - 1]}…"


def _drawn(plot: Plot) -> Iterator[Markup]:
    for number, band in enumerate(plot.bands):
        left, right = _x(plot, band.start), _x(plot, band.end)
        kind = "band odd" if number % 2 else "band"
        yield tag("rect", class_=kind, x=left, width=right - left, height=HEIGHT)
    for tick in plot.y.ticks:
        y = f"{_y(plot, tick):.1f}"
        yield tag("path", class_="grid", d=f"M0 {y}H{WIDTH}")
    for line in plot.lines:
        yield tag("path", class_=f"line line-{line.hue}{' dashed' if line.dashed else ''}", d=_path(plot, line))
    yield from _readings(plot)
    for mark in plot.marks:
        text = tag("title", f"{plot.format_x(mark.x)}: {mark.label}")
        yield tag("path", text, class_="mark-line", d=f"M{_x(plot, mark.x):.1f} 0V{HEIGHT}")


def _path(plot: Plot, line: Line) -> str:
    parts, drawing = [], False
    for x, value in line.points:
        if value is None:
            drawing = False
            continue
        at, y = f"{_x(plot, x):.1f}", f"{_y(plot, value):.1f}"
        if drawing:
            parts.append(f"L{at} {y}")
        else:
            parts.append(f"M{at} {y}h0")  # with round ends a single point is a dot
        drawing = True
    return "".join(parts)


def _readings(plot: Plot) -> Iterator[Markup]:
    """Where the pointer is the browser shows the values there."""
    values: dict[float, list[str]] = {}
    for line in plot.lines:
        for x, value in line.points:
            values.setdefault(x, []).append(f"{line.label} {plot.format_y(value)}")
    places = sorted(values)
    places = places[:: max(1, -(-len(places) // MOST_STEPS))]
    edges = [0.0, *((_x(plot, a) + _x(plot, b)) / 2 for a, b in pairwise(places)), float(WIDTH)]
    for x, (left, right) in zip(places, pairwise(edges), strict=True):
        text = tag("title", "\n".join([plot.format_x(x), *values[x]]))
        yield tag("rect", text, class_="reading", x=left, width=max(0.0, right - left), height=HEIGHT)


def _legend(plot: Plot) -> Markup:
    items = [
        tag("li", tag("svg", _SWATCH, class_=_swatch(line), viewBox="0 0 18 10", aria_hidden="true"), line.label)
        for line in plot.lines
        if any(value is not None for _, value in line.points)
    ]
    if plot.marks:
        mark = tag("svg", _MARK, class_="key", viewBox="0 0 18 10", aria_hidden="true")
        items.append(tag("li", mark, "fault"))
    return tag("ul", *items, class_="legend")


_SWATCH: Final = tag("path", d="M1 5H17")
_MARK: Final = tag("path", class_="mark-line", d="M9 0V10")


def _swatch(line: Line) -> str:
    return f"key line-{line.hue}{' dashed' if line.dashed else ''}"


def _told(plot: Plot) -> str:
    """What who cannot see it is told."""
    told = []
    for line in plot.lines:
        seen = [value for _, value in line.points if value is not None]
        if seen:
            low, middle, high = (plot.format_y(value) for value in (min(seen), median(seen), max(seen)))
            told.append(f"{line.label} from {low} to {high}, median {middle}")
    marks = [f"{mark.label} at {plot.format_x(mark.x)}" for mark in plot.marks]
    return f"{plot.title}. {'; '.join([*told, *marks])}."


def _x(plot: Plot, value: float) -> float:
    return WIDTH * plot.x.at(value)


def _y(plot: Plot, value: float) -> float:
    return HEIGHT * (1 - plot.y.at(value))
