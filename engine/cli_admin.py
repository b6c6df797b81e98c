"""``heliograph stats`` and ``reload``: the admin API."""

from __future__ import annotations

import http.client
import ssl
import sys
import time
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

import msgspec

from engine.cli import nobody_reads, note
from transport.codes import ErrorCode
from transport.errors import ConfigError, ConnectionLost, RequestError

if TYPE_CHECKING:
    from rich.console import Group
    from rich.table import Table

TIMEOUT_S = 10.0
RATES = ("events_published", "deliveries")  # counters whose growth per second is worth a look
RESTART_LOOK_S = 0.2
RESTART_TEXTS = {
    "starting": "starting {workers} workers",
    "draining": "{gone} of {workers} workers replaced",
    "done": "restarted",
    "failed": "the restart failed, the old workers go on: {reason}",
}
ABSENT = "–"
WHOLE = 1e6  # from here on a float is written without its fraction, but to the last digit


def ask(method: str, admin_url: str, path: str, api_key: str | None = None, body: bytes = b"{}") -> Any:
    """The answer of the admin API, decoded. ``body`` is JSON, sent with POST.

    Raises:
        ConfigError: ``admin_url`` is no URL of an HTTP server.
        ConnectionLost: nobody answers there.
        RequestError: refused.
    """
    url = urlsplit(admin_url)
    kind = {"http": http.client.HTTPConnection, "https": http.client.HTTPSConnection}.get(url.scheme)
    try:
        if kind is None or not url.hostname:
            raise ValueError
        connection = kind(url.hostname, url.port, timeout=TIMEOUT_S)
    except ValueError:
        raise ConfigError(f"{admin_url!r} is not http://HOST:PORT", "--admin-url") from None
    headers = {"Content-Type": "application/json"} if method == "POST" else {}
    if api_key:
        headers["Authorization"] = f"Bearer {api_key}"
    try:
        connection.request(method, url.path.rstrip("/") + path, body if method == "POST" else None, headers)
        response = connection.getresponse()
        status, content = response.status, response.read()
    except ssl.SSLCertVerificationError as error:
        why = f"{error.verify_message}; SSL_CERT_FILE can name the PEM file of whom to trust"
        raise ConnectionLost(f"{admin_url}: {why}") from error
    except (OSError, http.client.HTTPException) as error:
        why = "connection refused" if isinstance(error, ConnectionRefusedError) else str(error) or type(error).__name__
        raise ConnectionLost(f"{admin_url}: {why}") from error
    finally:
        connection.close()
    try:
        answer = msgspec.json.decode(content)
    except msgspec.DecodeError:
        raise ConnectionLost(f"{admin_url}{path} answered HTTP {status} without JSON; is it the admin API?") from None
    if status >= http.HTTPStatus.BAD_REQUEST:
        raise _refusal(status, answer)
    return answer


def _refusal(status: int, answer: Any) -> RequestError:
    try:
        error = answer["error"]
        return RequestError(error["code"], error["message"], error.get("field"))
    except (KeyError, TypeError, ValueError):
        return RequestError(ErrorCode.INTERNAL, f"the admin API answered HTTP {status}")


def reload(admin_url: str, api_key: str | None) -> int:
    """Ask the engine to read its configuration again, and say what of it needs a restart."""
    answer = ask("POST", admin_url, "/api/reload", api_key)
    note("reloaded")
    if fields := answer.get("needs_restart"):
        note(f"only a restart takes {', '.join(fields)}")
    return 0


def restart(admin_url: str, api_key: str | None) -> int:
    """Have the workers replaced, and tell how it goes until it is done; 1 if it failed."""
    answer = ask("POST", admin_url, "/api/restart", api_key)
    told = ""
    while True:
        text = RESTART_TEXTS[answer["state"]].format_map(answer)
        if text != told:
            note(text)
            told = text
        if answer["state"] in ("done", "failed"):
            return int(answer["state"] == "failed")
        time.sleep(RESTART_LOOK_S)
        answer = ask("GET", admin_url, "/api/restart", api_key)


def feed(admin_url: str, api_key: str | None, name: str, action: str) -> int:
    """Reset, disconnect or connect a feed, and say how it is then."""
    answer = ask("POST", admin_url, f"/api/feeds/{quote(name, safe='')}/{action}", api_key)
    why = f": {shown(answer['reason'])}" if answer["reason"] else ""
    note(f"{shown(name)} is {answer['state']}{why}")
    return 0


def stats(admin_url: str, api_key: str | None, interval: float | None, as_json: bool) -> int:
    """Write the figures, with ``interval`` every so many seconds: a table on a terminal, else lines or JSON."""
    looks = _looks(admin_url, api_key, interval)
    try:
        if as_json:
            for figures, _ in looks:
                sys.stdout.write(msgspec.json.encode(figures).decode() + "\n")
                sys.stdout.flush()
        elif sys.stdout.isatty():
            _show(looks, interval)
        else:
            for figures, rates in looks:
                sys.stdout.writelines(
                    f"{name} {value}{rate and ' ' + rate}\n" for name, value, rate in rows(figures, rates)
                )
                sys.stdout.flush()
    except KeyboardInterrupt:
        pass  # the usual way to end --watch
    except BrokenPipeError:
        return nobody_reads()
    return 0


def _looks(
    admin_url: str, api_key: str | None, interval: float | None
) -> Iterator[tuple[Mapping[str, Any], dict[str, float]]]:
    before: Mapping[str, Any] = {}
    before_at = 0.0
    while True:
        try:
            figures, now = ask("GET", admin_url, "/stats", api_key), time.monotonic()
        except ConnectionLost as error:
            if interval is None or not before:
                raise
            note(str(error))  # it may be back soon
        else:
            yield figures, _rates(before, figures, now - before_at)
            before, before_at = figures, now
        if interval is None:
            return
        time.sleep(interval)


def _rates(before: Mapping[str, Any], now: Mapping[str, Any], seconds: float) -> dict[str, float]:
    return {
        name: max(0.0, now[name] - before[name]) / seconds  # a restarted engine counts from 0
        for name in RATES
        if isinstance(before.get(name), (int, float)) and isinstance(now.get(name), (int, float)) and seconds > 0
    }


def rows(figures: Mapping[str, Any], rates: Mapping[str, float], prefix: str = "") -> Iterator[tuple[str, str, str]]:
    """Name, value and rate of each figure; nested ones have dotted names."""
    for name, value in figures.items():
        if isinstance(value, dict):
            yield from rows(value, {}, f"{prefix}{name}.")
        else:
            yield prefix + name, shown(value), f"{rates[name]:,.0f}/s" if name in rates else ""


def shown(value: Any) -> str:
    """A value for people, on one line and without control characters."""
    if value is None:
        return ABSENT
    if isinstance(value, float):
        return f"{value:.6g}" if abs(value) < WHOLE else f"{value:.0f}"
    text = str(value)
    return text if text.isprintable() else repr(text)[1:-1]  # an upstream's words must not steer the terminal


def _show(looks: Iterator[tuple[Mapping[str, Any], dict[str, float]]], interval: float | None) -> None:
    from rich.console import Console
    from rich.live import Live

    if interval is None:
        Console().print(_tables(*next(looks)))
        return
    with Live(auto_refresh=False) as live:
        for figures, rates in looks:
            live.update(_tables(figures, rates), refresh=True)


def _tables(figures: Mapping[str, Any], rates: Mapping[str, float]) -> Group:
    from rich.console import Group

    layers, feeds = figures.get("layers"), figures.get("feeds")
    rest = {name: value for name, value in figures.items() if name not in ("layers", "feeds")}
    parts: list[Table | str] = [_table(rest, rates)]
    if layers:
        parts += ["", _layers_table(layers)]
    if feeds:
        parts += ["", _feeds_table(feeds)]
    return Group(*parts)


def _table(figures: Mapping[str, Any], rates: Mapping[str, float]) -> Table:
    from rich.table import Table

    table = Table("figure", show_edge=False)
    table.add_column("value", justify="right")
    if rates:
        table.add_column("rate", justify="right")
    for name, value, rate in rows(figures, rates):
        table.add_row(name, value, *([rate] if rates else []))
    return table


def _layers_table(layers: Mapping[str, Mapping[str, float | None]]) -> Table:
    """How long each layer takes, along an event's way, and how often it need not look."""
    from rich.table import Table

    table = Table("layer", show_edge=False)
    for column in ("p50", "p99", "cache hits"):
        table.add_column(column, justify="right")
    for name, layer in layers.items():
        times = (_latency(layer[q]) for q in ("p50", "p99"))
        rate = layer["hit_rate"]
        table.add_row(name, *times, ABSENT if rate is None else f"{rate:.1%}")
    return table


def _latency(seconds: float | None) -> str:
    if seconds is None:
        return ABSENT
    if seconds < 0.1:
        return f"{seconds * 1e6:.0f} µs" if seconds < 1e-3 else f"{seconds * 1e3:.3g} ms"
    return _duration(seconds)


def _feeds_table(feeds: Mapping[str, Mapping[str, Any]]) -> Table:
    """Why each feed is not connected, when it is tried again, and how those are that are connected."""
    from rich.table import Table
    from rich.text import Text

    table = Table(show_edge=False)
    table.add_column("feed", overflow="fold")  # a name that is cut cannot be typed
    table.add_column("state", no_wrap=True)
    table.add_column("breaker", no_wrap=True)
    table.add_column("why", overflow="fold")
    for column in ("next try", "rate", "lag"):
        table.add_column(column, justify="right", no_wrap=True)
    for name, feed in feeds.items():
        lag, wait, rate = feed["lag"], feed["retry_in"], feed["rate"]
        row = (
            shown(name),
            feed["state"],
            feed["breaker"]["state"],
            shown(feed["reason"] or _complaint(feed)),
            ABSENT if wait is None else f"in {_duration(wait)}",
            f"{rate:,.0f}/s",
            ABSENT if lag is None else _duration(lag),
        )
        table.add_row(*map(Text, row))  # not markup: the reason may be an upstream's
    return table


def _complaint(feed: Mapping[str, Any]) -> str | None:
    """What is wrong with a feed that is connected."""
    bad = sum(feed["bad"].values())
    return f"{bad:,} of {feed['messages']:,} messages bad" if bad else None


def _duration(seconds: float) -> str:
    """As long as one reads at a glance: ``42 ms``, ``9.5 s``, ``3.0 h``; a replay's events may be years old."""
    if abs(seconds) < 1:
        return f"{seconds * 1000:.0f} ms"
    for unit, length in (("s", 1), ("min", 60), ("h", 3_600)):
        if abs(seconds) < 100 * length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds / 86_400:,.0f} d"
