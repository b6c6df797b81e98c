"""Targets around what is kept: where to go on from, the files of the log, and what operators ask and publish."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from functools import cache
from itertools import count
from pathlib import Path
from typing import Final

from starlette.requests import Request

from actors.history import Accepted
from actors.recall import recall
from actors.segment import HEADER, MAGIC, SIGNATURE, Segment
from actors.topic_log import TopicLog
from engine.admin import publishes
from engine.admin_history import asked
from engine.admin_http import parameters
from transport.codec import join, pack, unpack_batch
from transport.codes import GapReason
from transport.errors import CodecError, RequestError
from transport.messages import Fence, Publication, Publish
from transport.requests import Rejected, RequestDecoder, Subscribe

EVENTS: Final = 3  # of each topic in the log

_decoder: Final = RequestDecoder(binary=False)


@cache
def _log() -> TopicLog:
    numbers = count()
    log = TopicLog(10, lambda: f"e{next(numbers)}")
    log.append([Publish(0, topic, "t", b"1") for topic in ("a", "b.c") * EVENTS], 1.0)
    return log


def since(data: bytes) -> None:
    """``since`` of a subscription, in JSON: what was missed, or a gap; and the hub can say so."""
    try:
        request = _decoder.decode(b'{"op":"subscribe","id":1,"topics":["a","b.*"],"since":' + data + b"}")
    except Rejected:
        return
    assert isinstance(request, Subscribe)
    if request.since is None:
        return
    places = request.since
    if isinstance(places, dict):
        places = {topic: (place.epoch, place.offset) for topic, place in places.items() if topic == "a"}
    found = recall(_log(), request.topics, places)
    assert len(found.events) <= 2 * EVENTS
    # A gap without events says that the epoch is another.
    assert all(gap.first <= gap.last + (gap.reason == GapReason.EPOCH_CHANGED) for gap in found.gaps)
    pack(Fence(1, _log().position, {}, [], found.complete, found.gaps))


@cache
def _sealed() -> tuple[bytes, bytes]:
    """A segment with an index, as files have them."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, "000000000001.log")
        segment = Segment.create(path, "l", "e")
        packed = pack(next(iter(unpack_batch(join(_log().read("a", 0, 1))))))
        for number in range(EVENTS):
            start = segment.size
            segment.write(HEADER.pack(len(packed), 1, 1, number + 1) + b"k" + packed)
            event = Publication("a", "e0", number + 1, 0.0, "t", b"")
            segment.enter([Accepted(event, packed, number + 1)], [start])
        segment.seal()
        segment.close()
        return path.read_bytes(), path.with_suffix(".index").read_bytes()


def _open(log: bytes, index: bytes | None) -> None:
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as directory:
        path = Path(directory, "000000000001.log")
        path.write_bytes(log)
        if index is not None:
            path.with_suffix(".index").write_bytes(index)
        try:
            segment = Segment.open(path)
        except CodecError:
            assert index is None, "whatever an index says, the file is there to be read"
            return
        if index is None:  # what was cut off is no event, and all else is
            assert len(list(segment.events(range(len(segment.starts))))) == len(segment.starts) == len(segment.marks)
            assert path.stat().st_size == segment.size <= len(log)
        segment.close()


def segment(data: bytes) -> None:
    """A file of the log behind a good head."""
    head = _sealed()[0][: -len(_records())]
    _open(head + data, None)


def segment_file(data: bytes) -> None:
    """A whole file of the log."""
    _open(data, None)


def segment_index(data: bytes) -> None:
    """The index beside a file of the log."""
    _open(_sealed()[0], data)


def _records() -> bytes:
    data, _ = _sealed()
    return data[data.index(HEADER.pack(1, 0, 3, 0)) + HEADER.size + 1 :]


def history_query(data: bytes) -> None:
    """The query of ``GET /api/history``."""
    request = Request({"type": "http", "method": "GET", "path": "/", "headers": [], "query_string": data})
    try:
        found = asked(parameters(request, ("topic", "limit", "epoch", "offset")))
    except RequestError:
        return
    assert 1 <= found.limit <= 1_000


def publish_body(data: bytes) -> None:
    """The body of ``POST /api/publish``: what is taken the bus takes too."""
    try:
        found, _ = publishes(data)
    except RequestError:
        return
    assert unpack_batch(join([pack(publish) for publish in found])) == found


TARGETS: Final[dict[str, Callable[[bytes], None]]] = {
    "since": since,
    "segment": segment,
    "segment-file": segment_file,
    "segment-index": segment_index,
    "history-query": history_query,
    "publish-body": publish_body,
}
SEEDS: Final[dict[str, list[bytes]]] = {
    "since": [b'"e0:1"', b'"e0:1:2"', b'{"a":{"epoch":"e0","offset":1}}', b'{"a":{"epoch":"x","offset":9}}'],
    "segment": [_records()],
    "segment-file": [_sealed()[0], MAGIC + SIGNATURE + b"\x01"],  # the last was a finding: a torn head
    "segment-index": [_sealed()[1]],
    "history-query": [b"topic=a.b&limit=10&epoch=e&offset=3", b"topic=%E2%82%AC&limit=%31"],
    "publish-body": [
        b'[{"topic":"a","data":1},{"topic":"b","data":{"x":1.50},"key":"k","idempotency_key":"i","source_ts":1.5}]',
        b'{"topic":"a","data":"\\ud83d\\ude00","priority":"high","type":"t"}',
    ],
}
