"""Logs: one line per state change on stderr, text on a terminal and JSON otherwise.

Keys: ``ts`` (RFC 3339, UTC), ``level``, ``event``, ``process``, ``pid``, ``node``, then what the caller gave. An event
is a constant name (``feed_lost``); what varies goes into fields, so that repeats can be told and counted. The standard
library's logging (websockets, pykka, uvicorn) comes the same way from ``warning`` up. What our own packages log
with it, since they know no other, has its fields in ``extra``; with ``event`` among them its text is for applications
only. ``docs/logs.md`` lists all events.

A line is one write of one string: processes may share stderr. Nothing here holds a lock or a thread, so that a process
can be forked at any time; the child calls :func:`configure` with its own name.
"""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Callable, MutableMapping
from datetime import UTC, datetime
from typing import Any, NamedTuple

import msgspec

_had_rich = sys.modules.get("rich")
if _had_rich is None:
    # structlog's console renderer, not used here, imports rich where it finds it: 4 MB in every process.
    sys.modules["rich"] = None  # type: ignore[assignment]
try:
    import structlog
finally:
    if _had_rich is None:
        del sys.modules["rich"]

REPEATS = 20
"""Lines of one level and event that are written within :data:`PERIOD`; more are counted."""
PERIOD = 10.0
KEYS_WATCHED = 1_000
"""Distinct events that are counted at once; with more, the oldest count is closed early."""
MASK = "***"
_FIRST = ("ts", "level", "event", "process", "pid", "node")
_SECRET = frozenset({"token", "api_key", "password", "secret", "authorization", "headers", "payload"})
_FIELDS = ("session", "user", "address", "topic", "feed", "code", "error")  # of a standard library's record, if there
_SUBJECTS = (*_FIELDS, "parameter", "rule", "service", "stage", "subject", "webhook")  # repeats are those about one
_STANDARD = frozenset({*vars(logging.makeLogRecord({})), "message", "asctime", "taskName"})
_OURS = ("actors", "engine", "transport")  # of other packages only warnings and worse are written
_LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40, "critical": 50}
_COLOURS = {"debug": "2", "warning": "33", "error": "31", "critical": "1;31"}

Line = MutableMapping[str, Any]
Key = tuple[str, str]


class Suppressed(NamedTuple):
    """So many lines of an event were not written."""

    level: str
    event: str
    lines: int


class RepeatLimiter:
    """Decides which lines are repeats too many. Pure: the caller brings the clock. O(1) per line, but for what ends."""

    def __init__(self, limit: int = REPEATS, period: float = PERIOD, capacity: int = KEYS_WATCHED) -> None:
        self._limit, self._period, self._capacity = limit, period, capacity
        self._seen: dict[Key, tuple[float, int]] = {}  # start of the window and lines in it, the oldest window first

    def __len__(self) -> int:
        return len(self._seen)

    def admit(self, level: str, event: str, now: float) -> bool:
        """Count a line at ``now`` (seconds, monotonic); whether it may be written. Call :meth:`ended` before."""
        key = (level, event)
        start, count = self._seen.get(key, (now, 0))
        self._seen[key] = (start, count + 1)
        return count < self._limit

    def ended(self, now: float) -> list[Suppressed]:
        """Forget the windows that are over by ``now``, and what is beyond the capacity; tell what they hid."""
        out = []
        while self._seen:
            key, (start, count) = next(iter(self._seen.items()))
            if now - start < self._period and len(self._seen) < self._capacity:
                break
            del self._seen[key]
            if count > self._limit:
                out.append(Suppressed(*key, count - self._limit))
        return out


class Renderer:
    """The last structlog processor: a line's fields as text, after the lines that tell of suppressed ones.

    Args:
        write_line: fields to one line of text.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        write_line: Callable[[Line], str],
        limiter: RepeatLimiter | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._write_line, self._clock = write_line, clock
        self._limiter = RepeatLimiter() if limiter is None else limiter

    def __call__(self, logger: object, method: str, line: Line) -> str:
        now, repeat_key = self._clock(), str(line.pop("repeat_key", line["event"]))
        told = [
            self._write_line({**_common(line), "level": level, "event": event, "suppressed": lines})
            for level, event, lines in self._limiter.ended(now)
        ]
        if self._limiter.admit(line["level"], repeat_key, now):
            told.append(self._write_line(line))
        if not told:
            raise structlog.DropEvent
        return "\n".join(told)


def _common(line: Line) -> dict[str, Any]:
    return {name: line.get(name) for name in _FIRST}


def as_json(line: Line) -> str:
    """``line`` as one JSON map."""
    return msgspec.json.encode(line, enc_hook=repr).decode(errors="replace")


def as_text(line: Line, colours: bool = False) -> str:
    """``line`` for people: time, level, process, event, then ``field=value``; a traceback follows on its own lines."""
    level, trace = line["level"], line.get("exception")
    word = f"{level:8}"
    if colours and level in _COLOURS:
        word = f"\x1b[{_COLOURS[level]}m{word}\x1b[0m"
    rest = " ".join(f"{name}={_quoted(value)}" for name, value in line.items() if name not in (*_FIRST, "exception"))
    head = f"{line['ts']} {word} {line['process']:8} {_one_line(str(line['event']))}"
    return "\n".join(filter(None, (f"{head} {rest}".rstrip(), trace)))


def _quoted(value: object) -> str:
    text = str(value)
    return _one_line(text) if text and " " not in text else repr(text)


def _one_line(text: str) -> str:
    # A value from outside must not forge a line of its own or steer the terminal.
    return text if text.isprintable() else repr(text)[1:-1]


class _Stderr:
    """structlog's wrapped logger: writes to the stderr of the moment, and never fails its caller."""

    def msg(self, text: str) -> None:
        try:
            sys.stderr.write(text + "\n")
            sys.stderr.flush()
        except (OSError, ValueError, AttributeError):
            pass  # closed, or the reader is gone: there is nowhere left to say so

    debug = info = warning = error = critical = msg


class _FromStandardLibrary(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        ours = record.name.partition(".")[0] in _OURS
        fields = {
            name: value
            for name, value in vars(record).items()
            if (name not in _STANDARD if ours else name in _FIELDS) and value is not None
        }
        event = str(fields.pop("event", None) or record.getMessage())
        subject = [str(fields[name]) for name in _SUBJECTS if name in fields]
        try:
            get_logger().log(
                max(10, min(record.levelno // 10 * 10, 50)),  # structlog knows only the named levels
                event,
                logger=record.name,
                repeat_key=" ".join([record.name, str(record.msg), *subject]),
                exc_info=record.exc_info or None,
                **fields,
            )
        except Exception:
            self.handleError(record)

    def createLock(self) -> None:  # noqa: N802
        self.lock = None  # a fork must not inherit a lock that is held


def configure(process: str, node: str, level: str = "info", format: str = "auto") -> None:
    """Set up the logs of this process; again after a fork or when ``level`` or ``format`` have changed.

    Takes over the standard library's root logger. An embedded engine does not call it: there the application decides.

    Args:
        process: who speaks: ``daemon``, ``hub``, ``feeds``, ``worker-0``.
        level: least level written: debug, info, warning, error or critical.
        format: ``text``, ``json`` or ``auto``.
    """
    _configure_structlog(process, node, level, format)
    logging.basicConfig(level=max(logging.WARNING, _LEVELS[level]), handlers=[_FromStandardLibrary()], force=True)
    for package in _OURS:
        logging.getLogger(package).setLevel(_LEVELS[level])


def _configure_structlog(process: str, node: str, level: str, form: str) -> None:
    terminal = sys.stderr is not None and sys.stderr.isatty()
    text = form == "text" or (form == "auto" and terminal)

    def stamp(logger: object, method: str, line: Line) -> Line:
        first: dict[str, Any] = {
            "ts": datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": method,
            "event": line.pop("event"),
            "process": process,
            "pid": os.getpid(),
            "node": node,
        }
        # These are the speaker's; a field of the same name that the caller gave (a child's pid) steps aside.
        return first | {f"{name}_" if name in first else name: value for name, value in line.items()}

    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            stamp,
            _mask,
            structlog.processors.format_exc_info,
            Renderer((lambda line: as_text(line, terminal)) if text else as_json),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[level]),
        logger_factory=_Stderr,
        cache_logger_on_first_use=False,  # a logger that a module keeps follows a reload
    )


def _mask(logger: object, method: str, line: Line) -> Line:
    for name in _SECRET.intersection(line):
        line[name] = MASK
    return line


def get_logger(**fields: object) -> structlog.typing.FilteringBoundLogger:
    """A logger whose lines carry ``fields`` too: ``get_logger(feed="fx").warning("feed_lost", error=str(error))``.

    Where neither :func:`configure` nor an application has configured structlog, lines go to stderr all the same.
    """
    if not structlog.is_configured():
        _configure_structlog("embedded", os.uname().nodename, "info", "auto")
    logger: structlog.typing.FilteringBoundLogger = structlog.get_logger(**fields)
    return logger
