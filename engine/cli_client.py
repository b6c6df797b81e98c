"""``heliograph subscribe``, ``history`` and ``publish``: the client, with stdin and stdout."""

from __future__ import annotations

import logging
import sys
import time
from collections import deque
from collections.abc import Iterable
from concurrent.futures import Future

import msgspec

from engine.cli import FAILED, complain, nobody_reads, note
from engine.client import Client
from engine.client_subscription import SubscribeArguments
from engine.sync_client import SyncClient
from transport.codes import Priority
from transport.errors import HeliographError
from transport.event import Event
from transport.position import Position

WINDOW = 500  # publishes under way at once; the engine allows a session 1,000
ERRORS_SHOWN = 20
PROGRESS_S = 0.2


class Line(msgspec.Struct, omit_defaults=True):
    """An event as a line of NDJSON: what ``subscribe`` writes and ``publish -`` reads; the digits are kept."""

    topic: str
    data: msgspec.Raw
    type: str = "message"
    key: str | None = None
    priority: Priority | None = None
    source_ts: float | None = None
    epoch: str = ""
    offset: int = 0
    ts: float = 0.0


_encode_line = msgspec.json.Encoder().encode
_lines = msgspec.json.Decoder(Line)
_values = msgspec.json.Decoder(msgspec.Raw)


def line_of(event: Event) -> bytes:
    """One line, with its end."""
    line = {
        "topic": event.topic,
        "type": event.type,
        "offset": event.offset,
        "epoch": event.epoch,
        "ts": event.ts,
        **{name: value for name in ("key", "priority", "source_ts") if (value := getattr(event, name)) is not None},
        "data": msgspec.Raw(event.payload),
    }
    return _encode_line(line) + b"\n"


def subscribe(
    url: str, token: str | None, topics: list[str], options: SubscribeArguments, count: int | None, ack: bool
) -> int:
    """Write events to stdout until ``count`` have come or somebody interrupts.

    With ``ack`` each event is acknowledged when it is written, the last one too.
    """
    notices(logging.INFO)
    write, flush = sys.stdout.buffer.write, sys.stdout.buffer.flush
    try:
        with (
            Client.sync(url, token=token) as client,
            client.subscribe(*topics, **options) as events,
        ):
            for number, event in enumerate(events, 1):
                write(line_of(event))
                if ack:
                    flush()
                    client.ack(event)
                if number == count:
                    break
                if not events.waiting:
                    flush()
            flush()
    except KeyboardInterrupt:
        pass  # the usual way to end it
    except BrokenPipeError:
        return nobody_reads()
    return 0


def history(url: str, token: str | None, topic: str, limit: int, since: Position | None) -> int:
    """Write a topic's last events, or the first after ``since``, oldest first. What is no longer kept is told."""
    notices(logging.WARNING)
    with Client.sync(url, token=token) as client:
        events = client.history(topic, limit, since)
    try:
        sys.stdout.buffer.writelines(map(line_of, events))
        sys.stdout.buffer.flush()
    except BrokenPipeError:
        return nobody_reads()
    return 0


def publish(
    url: str, token: str | None, topic: str, data: bytes, kind: str, key: str | None, priority: Priority | None
) -> int:
    """Publish one event and write its position."""
    notices(logging.WARNING)
    with Client.sync(url, token=token) as client:
        position = client.publish(topic, msgspec.Raw(data), kind, key, priority)
    sys.stdout.buffer.write(_encode_line({"pending": True} if position is None else position) + b"\n")
    return 0


def publish_lines(
    url: str,
    token: str | None,
    topic: str | None,
    kind: str,
    key: str | None,
    priority: Priority | None,
    source: Iterable[bytes],
) -> int:
    """Publish each line: its data where ``topic`` is given, else a whole event. Bad lines are told and left out."""
    notices(logging.WARNING)
    with Client.sync(url, token=token) as client:
        lines = _Lines(client)
        try:
            for number, text in enumerate(source, 1):
                if not text.strip():
                    continue
                try:
                    if topic is None:
                        line = _lines.decode(text.decode())
                    else:
                        line = Line(topic, _values.decode(text.decode()), kind, key, priority)
                except (msgspec.DecodeError, UnicodeDecodeError) as error:
                    lines.failed(number, str(error))
                    continue
                lines.publish(number, line)
            lines.settle(0)
        except KeyboardInterrupt:
            note("interrupted")
            lines.settle(0)
            lines.failures += 1
        return lines.summary()


class _Lines:
    """Publishes under way, oldest first."""

    def __init__(self, client: SyncClient) -> None:
        self._client = client
        self._pending: deque[tuple[int, Future[Position | None]]] = deque()
        self._shown_at = 0.0
        self._terminal = sys.stderr.isatty()
        self.published = self.failures = 0

    def publish(self, number: int, line: Line) -> None:
        self.settle(WINDOW - 1)
        future = self._client.publish_soon(line.topic, line.data, line.type, line.key, line.priority)
        self._pending.append((number, future))

    def settle(self, leave: int) -> None:
        """Take the results that are there; wait until at most ``leave`` are missing."""
        while self._pending and (len(self._pending) > leave or self._pending[0][1].done()):
            number, future = self._pending[0]
            try:
                future.result()
                self.published += 1
            except HeliographError as error:
                self.failed(number, str(error))
            self._pending.popleft()
        self._progress()

    def failed(self, number: int, why: str) -> None:
        self.failures += 1
        if self.failures <= ERRORS_SHOWN:
            complain(f"line {number}: {why}")

    def summary(self) -> int:
        if self._terminal:
            sys.stderr.write("\r\x1b[K")
        note(f"{self.published:,} published" + (f", {self.failures:,} failed" if self.failures else ""))
        return FAILED if self.failures else 0

    def _progress(self) -> None:
        if self._terminal and (now := time.monotonic()) - self._shown_at >= PROGRESS_S:
            self._shown_at = now
            sys.stderr.write(f"\r\x1b[K{self.published:,} published")
            sys.stderr.flush()


def notices(level: int) -> None:
    """Show people what the client tells of its connection, from this level."""
    logging.basicConfig(format="heliograph: %(message)s", stream=sys.stderr, level=logging.ERROR, force=True)
    logging.getLogger("heliograph.client").setLevel(level)
