"""What strangers reach, as functions of bytes: each takes anything, and raises only what would be a bug.

Errors that are documented are caught; whatever else comes out is a finding. ``tests/fuzz/test_targets.py`` feeds them
with hypothesis, ``python -m tests.fuzz`` with atheris.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final

import msgspec

from actors.failure import UpstreamRefused
from actors.feed_map import FeedMap
from actors.feed_protocol import FeedGap, MappingError, Repeated
from actors.heliograph_protocol import HeliographProtocol
from actors.mapping import Mapper, Row
from actors.redis_protocol import RedisMessage, RedisProtocol
from tests.fuzz import engine, history, tokens
from tests.fuzz.sockets import Findings, Owner, Transport
from transport import bus, client_messages, codec, http
from transport.errors import CodecError, RequestError
from transport.filters import Filter
from transport.keepalive import Keepalive
from transport.messages import Fence, HistoryPage, Interest, Missed, Publication, Publish, Ready
from transport.requests import Rejected, RequestDecoder, Subscribe
from transport.topics import check_pattern, check_topic, matcher, matches
from transport.websocket import ConnectionLimits, WebSocketConnection

MAPS: Final = (
    FeedMap(each="a.*.b", key="$.c", data={"v": "0"}),
    FeedMap(topic="price.{symbol}", key="s", time="t", time_unit="ms", sequence="n", data={"price": "p"}),
)
HANDSHAKE: Final = (
    b"GET /ws?user=u HTTP/1.1\r\nHost: here\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
)
DEFLATE: Final = b"Sec-WebSocket-Extensions: permessage-deflate\r\n"
LIMIT: Final = 1_000  # bytes of a message

_decoders: Final = {binary: RequestDecoder(binary=binary) for binary in (False, True)}


def request(data: bytes, binary: bool) -> None:
    """What a client asks, with its filter and topics."""
    try:
        asked = _decoders[binary].decode(data)
        if isinstance(asked, Subscribe):
            Filter.parse(asked.where)
            for name in asked.topics:
                check_pattern(name)
    except (Rejected, RequestError):
        pass


def where(data: bytes) -> None:
    """A filter in JSON: what it is kept as means the same."""
    try:
        parsed = Filter.parse(msgspec.json.decode(data))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, RequestError):
        return
    assert Filter.parse(msgspec.json.decode(parsed.source)) == parsed


def topics(data: bytes) -> None:
    """A pattern and a name, a line each: what both sides take, both ways of matching agree on."""
    pattern, _, name = data.decode("utf-8", "replace").partition("\n")
    try:
        check_pattern(pattern)
        check_topic(name)
    except RequestError:
        return
    assert bool(matcher(pattern)(name)) == matches(pattern, name)


def head(data: bytes) -> None:
    """An HTTP head and the handshake in it."""
    try:
        found = http.parse(data)
        if found is not None:
            http.accept(found[0], ("v1",))
    except http.HttpError as error:
        assert error.response().startswith(b"HTTP/1.1 4")


class _Place(Owner):
    """Door, owner and handler of one connection."""

    path = "/ws"
    subprotocols = ("v1",)

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop)
        self.closed = 0

    def open(self, connection: WebSocketConnection) -> _Place:
        self._connection = connection
        return self

    def http(self, method: str, path: str) -> None: ...

    def on_message(self, data: bytes, binary: bool) -> None:
        assert len(data) <= LIMIT
        if not binary:
            data.decode()
        self._connection.write(self._connection.frame(data, binary))

    def on_paused(self) -> None: ...

    def on_resumed(self) -> None: ...

    def last_words(self, code: int) -> bytes:
        return b""

    def on_closed(self, code: int, reason: str) -> None:
        self.closed += 1


def connection(data: bytes) -> None:
    """What comes in on a client's connection.

    Of the first byte, bit 0 says whether the handshake is done, bit 1 whether with permessage-deflate, the others how
    large the pieces are.
    """
    if not data:
        return
    how, rest = data[0], data[1:]
    loop = asyncio.new_event_loop()
    log, findings = logging.getLogger("transport.websocket"), Findings(logging.ERROR)
    log.addHandler(findings)
    try:
        place = _Place(loop)
        keepalive = Keepalive(loop, 1.0)
        client = WebSocketConnection(place, ConnectionLimits(message_bytes=LIMIT, deflate=True), keepalive, place)
        transport = Transport()
        client.connection_made(transport)  # type: ignore[arg-type]
        if how & 1:
            client.data_received(HANDSHAKE + (DEFLATE if how & 2 else b"") + b"\r\n")
            assert client.open
        size = max(how >> 2, 1)
        for start in range(0, len(rest), size):
            if not transport.closing:
                client.data_received(rest[start : start + size])
        client.connection_lost(None)
        loop.run_until_complete(asyncio.sleep(0))
        assert place.closed == hasattr(place, "_connection"), "told of its end exactly once"
    finally:
        log.removeHandler(findings)
        loop.close()


def batch(data: bytes) -> None:
    """The body of a message on the bus."""
    try:
        codec.unpack_batch(data)
    except CodecError:
        pass


def header(data: bytes) -> None:
    """The head of a message on the bus."""
    try:
        found = bus.unpack_header(data)
    except CodecError:
        return
    assert bus.unpack_header(found.packed()) == found


def from_engine(data: bytes) -> None:
    """What a client is told by an engine."""
    try:
        client_messages.decode(data)
    except CodecError:
        pass


def mapping(data: bytes) -> None:
    """What a feed is told by an upstream of somebody else's protocol."""
    assert all(isinstance(row, (Row, MappingError)) for row in Mapper(MAPS).map(data).rows)


def upstream_engine(data: bytes) -> None:
    """What a feed is told by another engine."""
    protocol = HeliographProtocol(topics=["a"])
    try:
        items = list(protocol.receive(data))
    except UpstreamRefused:
        return
    assert all(isinstance(item, (Publish, FeedGap, Repeated, MappingError)) for item in items)


def redis_message(data: bytes) -> None:
    """What is published on a Redis: a channel's name and a payload, a line each."""
    channel, _, payload = data.partition(b"\n")
    protocol = RedisProtocol({"prices.*": "price.{1}", "alerts": "alert.all"})
    kind = [b"message"] if channel == b"alerts" else [b"pmessage", b"prices.*"]
    (item,) = protocol.receive(RedisMessage.of([*kind, channel, payload]))
    assert isinstance(item, (Publish, MappingError))


TARGETS: Final[dict[str, Callable[[bytes], None]]] = {
    "request-json": lambda data: request(data, binary=False),
    "request-msgpack": lambda data: request(data, binary=True),
    "filter": where,
    "topics": topics,
    "http": head,
    "connection": connection,
    "bus-batch": batch,
    "bus-header": header,
    "from-engine": from_engine,
    "mapping": mapping,
    "upstream-engine": upstream_engine,
    "redis": redis_message,
    **engine.TARGETS,
    **history.TARGETS,
    **tokens.TARGETS,
}
SEEDS: Final[dict[str, list[bytes]]] = {
    "request-json": [
        b'{"op":"subscribe","id":1,"topics":["a.*"],"where":{"p":{"gte":1.5,"not":[2]}},"since":{"a":{"epoch":"e"}}}',
        b'{"op":"publish","id":"x","topic":"a","data":{"v":[1,null]},"priority":"high"}',
        b'{"op":"ack","id":2,"topic":"a","epoch":"e","offset":3}',
        b'{"op":"unsubscribe","id":3,"topics":"*"}',
        b'{"op":"history","id":4,"topic":"a","limit":10,"since":{"epoch":"e","offset":1}}',
        b'{"op":"auth","id":5,"token":"a.b.c"}',
        b'{"op":"subscribe","id":6,"topics":["a","b.*"],"since":"log:12:3"}',
        b'{"op":"publish","id":7,"topic":"a","data":1,"idempotency_key":"once"}',
    ],
    "filter": [b'{"a":{"gte":1,"lt":2.5},"@key":["x",{"not":3}]}', b'[{"a":1},{"b":{"exists":true}}]'],
    "topics": [b"a.*.>\na.b.c", b"price.EUR/USD\nprice.EUR/USD"],
    "http": [HANDSHAKE + b"\r\n", HANDSHAKE + DEFLATE + b"Sec-WebSocket-Protocol: v1, v2\r\n\r\n"],
    "connection": [
        b"\xfd\x81\x85\0\0\0\0hello\x88\x82\0\0\0\0\x03\xe8",
        b"\xfd\x01\x83\0\0\0\0\xe2\x82\xac\x89\x80\0\0\0\0\x80\x81\0\0\0\0x",
        b"\x0f\xc1\x87\0\0\0\0\xf2\x48\xcd\xc9\xc9\x07\x00",
        b"\xfc" + HANDSHAKE + b"\r\n",
    ],
    "bus-batch": [
        codec.join([codec.pack(Publication("a", "e", 1, 1.5, "t", b"1", key="k")), codec.pack(Ready("log:1"))]),
        codec.join([codec.pack(Interest(1, ["a"], ["b.*"], ["a"], [], {"a": ("e", 1)})), codec.pack(Ready(None))]),
        codec.join(
            [
                codec.pack(Fence(1, "log:1", {"a": ("e", 1)}, [], False, [Missed("a", "e", 1, 2, "slow")])),
                codec.pack(HistoryPage(1, b"", Missed("a", "e", 1, 2, "slow"))),
            ]
        ),
    ],
    "bus-header": [bus.Header(bus.Kind.BATCH, "x", "y", 1, 0).packed()],
    "from-engine": [
        b'{"op":"event","topic":"a","epoch":"e","offset":1,"ts":1,"type":"t","data":1}',
        b'{"op":"bye","code":1012,"reason":"drain","reconnect":true,"reconnect_in":1.5}',
        b'{"op":"position","position":"log:12:3"}',
        b'{"op":"ok","id":1,"topics":["a"],"positions":{"a":{"epoch":"e","offset":1}},"recovered":true}',
        b'{"op":"snapshot","id":1,"events":[],"gap":{"topic":"a","epoch":"e","from":1,"to":2,"reason":"slow"}}',
    ],
    "mapping": [b'{"a":[{"b":{"c":"x","0":1.50}}],"s":"BTC","t":1,"n":2,"p":"1e400"}'],
    "upstream-engine": [
        b'{"op":"event","topic":"a","epoch":"e","offset":1,"ts":1,"type":"t","data":1}',
        b'{"op":"gap","topic":"a","epoch":"e","from":1,"to":2,"reason":"slow"}',
        b'{"op":"ok","id":0,"topics":["a"],"positions":{"a":{"epoch":"e","offset":1}}}',
        b'{"op":"ok","id":0,"topics":["a"],"positions":{"\xff":{}}}',  # a finding: not UTF-8 where only ok has a field
    ],
    "redis": [b'alerts\n{"a":1}', b"prices.x\ntext"],
    **engine.SEEDS,
    **history.SEEDS,
    **tokens.SEEDS,
}
SEEDS["request-msgpack"] = [msgspec.msgpack.encode(msgspec.json.decode(seed)) for seed in SEEDS["request-json"]]
"""What a target would take: where mutations begin."""
