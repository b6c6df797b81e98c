"""How the figures of a load test are written for people. ``None`` is a dash."""

from __future__ import annotations

from typing import Final

NONE: Final = "–"


def number(value: float | None) -> str:
    """0.42, 7.1, 123, 12,345, 1.23 M."""
    if value is None:
        return NONE
    size = abs(value)
    if size >= 1e6:
        return f"{_trim(value / 1e6, 2)} M"
    if size >= 100 or value == int(value):
        return f"{value:,.0f}"
    return _trim(value, 1 if size >= 10 else 2)


def ms(value: float | None) -> str:
    """Milliseconds: 0.42 ms, 7.1 ms, 123 ms, 1.2 s."""
    if value is None:
        return NONE
    if abs(value) >= 1_000:
        return f"{_trim(value / 1_000, 1 if abs(value) >= 10_000 else 2)} s"
    return f"{_trim(value, 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2)} ms"


def seconds(value: float | None) -> str:
    """Seconds: 0.24 s, 12.5 s, 300 s."""
    return NONE if value is None else f"{_trim(value, 2 if abs(value) < 10 else 1)} s"


def percentage(value: float | None) -> str:
    """Of something that is percent already: 0.42 %, 71 %."""
    return NONE if value is None else f"{_trim(value, 1 if abs(value) < 10 else 0)} %"


def megabytes(value: float | None) -> str:
    """12.3 MB, 123 MB."""
    return NONE if value is None else f"{_trim(value, 0 if abs(value) >= 100 else 1)} MB"


def _trim(value: float, digits: int) -> str:
    text = f"{value:,.{digits}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text
