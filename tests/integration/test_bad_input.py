"""What strangers send to the client port: each mistake gets its documented answer, and nobody else notices.

Beside every test here lives a healthy client to whom events flow all the time; it may not lose one.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any, Self

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.integration.harness import EngineProcess, Publisher, RawClient
from transport.codes import ErrorCode

Start = Callable[..., EngineProcess]

TIMEOUT = 5.0  # s for an answer; reached only where there is none
RATE = 100.0  # events/s to the healthy client
TOPIC = "healthy.t"
MSGPACK = "heliograph.v1.msgpack"
TEXT, BINARY, CONTINUATION, CLOSE, PING, PONG = 0x1, 0x2, 0x0, 0x8, 0x9, 0xA
OPS = ("subscribe", "unsubscribe", "publish", "snapshot", "subscriptions", "stats", "ping", "presence", "ack", "auth")
CALLS = ("call", "serve", "result")


class Stranger:
    """A TCP socket whose every byte the test decides; with :meth:`knock` it becomes a WebSocket."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), TIMEOUT)
        self._received = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.socket.close()

    def knock(self, subprotocol: str | None = None, more: bytes = b"") -> dict[str, Any]:
        """The opening handshake, and ``more`` at once with it; the welcome."""
        lines = [
            "GET /ws HTTP/1.1",
            "Host: engine",
            "Upgrade: websocket",
            "Connection: Upgrade",
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
            "Sec-WebSocket-Version: 13",
        ]
        if subprotocol is not None:
            lines.append(f"Sec-WebSocket-Protocol: {subprotocol}")
        self.raw("\r\n".join(lines).encode() + b"\r\n\r\n" + more)
        while b"\r\n\r\n" not in self._received:
            self._more()
        head, _, self._received = self._received.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 101 "), head
        self.binary = subprotocol == MSGPACK
        welcome = self.message()
        assert welcome["op"] == "welcome"
        return welcome

    def raw(self, data: bytes) -> None:
        self.socket.sendall(data)

    def frame(self, opcode: int, payload: bytes, *, fin: bool = True, reserved: int = 0, masked: bool = True) -> None:
        self.raw(frame(opcode, payload, fin=fin, reserved=reserved, masked=masked))

    def text(self, payload: str | bytes) -> None:
        self.frame(TEXT, payload.encode() if isinstance(payload, str) else payload)

    def ask(self, **fields: Any) -> dict[str, Any]:
        """A request; its answer, past events."""
        if self.binary:
            self.frame(BINARY, msgspec.msgpack.encode(fields))
        else:
            self.text(json.dumps(fields))
        return self.answer()

    def answer(self) -> dict[str, Any]:
        while (message := self.message())["op"] not in ("ok", "error"):
            assert message["op"] in ("event", "gap", "slow"), message
        return message

    def message(self) -> dict[str, Any]:
        """The next message of the server; its pings are not answered."""
        while (received := self.read())[0] == PING:
            pass
        opcode, payload = received
        assert opcode == (BINARY if self.binary else TEXT), (opcode, payload)
        found: dict[str, Any] = msgspec.msgpack.decode(payload) if self.binary else msgspec.json.decode(payload)
        return found

    def closed(self) -> tuple[int, str]:
        """The code of the server's close frame, which is answered, so that the server ends TCP, and the reason of the
        `bye` before it."""
        last = (0, b"")
        while (received := self.read())[0] != CLOSE:
            last = received
        payload = received[1]
        code = int.from_bytes(payload[:2], "big")
        bye = (msgspec.msgpack if self.binary else msgspec.json).decode(last[1])
        assert (bye["op"], bye["code"], bye["reconnect"]) == ("bye", code, True), bye
        try:
            self.frame(CLOSE, payload[:2])
        except OSError:  # it has hung up already
            pass
        self.hung_up()
        return code, bye["reason"]

    def hung_up(self) -> bytes:
        """Wait until the server has ended TCP; what came before."""
        try:
            while True:
                self._more()
        except (EOFError, ConnectionResetError):
            return self._received

    def read(self) -> tuple[int, bytes]:
        """One frame: opcode and payload."""
        first, size = struct.unpack("!BB", self._take(2))
        assert first & 0x70 == 0 and first & 0x80 and size & 0x80 == 0, "a server's frames are whole and not masked"
        if size >= 126:
            size = int.from_bytes(self._take(2 if size == 126 else 8), "big")
        return first & 0x0F, self._take(size)

    def _take(self, size: int) -> bytes:
        while len(self._received) < size:
            self._more()
        taken, self._received = self._received[:size], self._received[size:]
        return taken

    def _more(self) -> None:
        data = self.socket.recv(65_536)
        if not data:
            raise EOFError("the server hung up")
        self._received += data


def frame(opcode: int, payload: bytes, *, fin: bool = True, reserved: int = 0, masked: bool = True) -> bytes:
    """A frame of a client, RFC 6455 section 5.2. The mask is zeros: any four bytes will do."""
    size, mask = len(payload), 0x80 if masked else 0
    head = bytes([fin << 7 | reserved << 4 | opcode])
    if size < 126:
        head += bytes([mask | size])
    elif size < 65_536:
        head += bytes([mask | 126]) + size.to_bytes(2, "big")
    else:
        head += bytes([mask | 127]) + size.to_bytes(8, "big")
    return head + bytes(4 if masked else 0) + payload


class Healthy:
    """A client on a thread of its own to which :data:`RATE` events a second flow."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._loop = asyncio.new_event_loop()
        self._ready, self._enough = threading.Event(), asyncio.Event()
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=(self._live(),))

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._ready.wait(TIMEOUT)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._enough.set)
        self._thread.join(TIMEOUT)
        self._loop.close()

    async def _live(self) -> None:
        async with RawClient(self._url) as self._client, RawClient(self._url) as publisher:
            await self._client.subscribe(TOPIC)
            async with Publisher(publisher, TOPIC, RATE) as self._publisher:
                self._ready.set()
                await self._enough.wait()

    def check(self) -> None:
        """Another event gets through now, and of all until it none is missing."""
        asyncio.run_coroutine_threadsafe(self._check(), self._loop).result(TIMEOUT)

    async def _check(self) -> None:
        client, publisher = self._client, self._publisher
        accepted = len(publisher.accepted)
        while len(publisher.accepted) <= accepted or client.offsets(TOPIC)[-1:] < [accepted + 1]:
            assert client.closed is None, client.closed
            await asyncio.sleep(0.002)
        offsets = client.offsets(TOPIC)
        assert offsets == list(range(1, len(offsets) + 1))
        assert not client.of("gap") and not publisher.refused


@pytest.fixture(scope="module")
def engine() -> Iterator[EngineProcess]:
    environ = {name: os.environ.pop(name) for name in list(os.environ) if name.startswith("HELIOGRAPH_")}
    process = EngineProcess(limits__handshake_timeout=1.0)
    os.environ.update(environ)
    try:
        yield process
        assert process.stop() == 0
    finally:
        left = process.destroy()
    assert not left


@pytest.fixture(scope="module")
def healthy(engine: EngineProcess) -> Iterator[Healthy]:
    with Healthy(engine.url) as client:
        yield client


@pytest.fixture(autouse=True)
def nobody_else_notices(request: pytest.FixtureRequest) -> Iterator[None]:
    """Around each test that uses the common engine."""
    if "engine" not in request.fixturenames:
        yield
        return
    engine, healthy = request.getfixturevalue("engine"), request.getfixturevalue("healthy")
    children = engine.children()
    yield
    healthy.check()
    assert engine.children() == children, "no process was restarted"
    assert [line for line in engine.log() if line["level"] in ("error", "critical")] == []


@pytest.fixture
def stranger(engine: EngineProcess) -> Iterator[Stranger]:
    with Stranger(engine.port) as it:
        yield it


# requests: answered, and the connection goes on -----------------------------------------------------------------------

BAD_REQUESTS: dict[str, tuple[str, dict[str, Any]]] = {
    "no JSON": ("{", {"id": None, "code": "bad_request"}),
    "nothing": ("", {"id": None, "code": "bad_request"}),
    "no map": ("[1,2]", {"id": None, "code": "bad_request"}),
    "no op": ('{"id":1}', {"id": 1, "code": "bad_request"}),
    "no id": ('{"op":"ping"}', {"id": None, "code": "bad_request"}),
    "an unknown op": ('{"op":"dance","id":1}', {"id": 1, "code": "bad_request", "field": "op"}),
    "an op of the wrong type": ('{"op":7,"id":1}', {"id": 1, "code": "bad_request", "field": "op"}),
    "an id of the wrong type": ('{"op":"ping","id":true}', {"id": None, "code": "bad_request", "field": "id"}),
    "a fraction as id": ('{"op":"ping","id":1.5}', {"id": None, "code": "bad_request", "field": "id"}),
    "an unknown field": ('{"op":"ping","id":1,"x":2}', {"id": 1, "code": "bad_request", "field": "x"}),
    "topics as text": (
        '{"op":"subscribe","id":"a","topics":"t"}',
        {"id": "a", "code": "bad_request", "field": "topics"},
    ),
    "a topic that is a number": (
        '{"op":"subscribe","id":1,"topics":["t",7]}',
        {"id": 1, "code": "bad_request", "field": "topics[1]"},
    ),
    "no topics": ('{"op":"subscribe","id":1}', {"id": 1, "code": "bad_request", "field": "topics"}),
    "no topic": ('{"op":"subscribe","id":1,"topics":[]}', {"id": 1, "code": "bad_request", "field": "topics"}),
    "unsubscribe from text": (
        '{"op":"unsubscribe","id":1,"topics":"t"}',
        {"id": 1, "code": "bad_request", "field": "topics"},
    ),
    "no data": ('{"op":"publish","id":1,"topic":"t"}', {"id": 1, "code": "bad_request", "field": "data"}),
    "a wrong priority": (
        '{"op":"publish","id":1,"topic":"t","data":1,"priority":"urgent"}',
        {"id": 1, "code": "bad_request", "field": "priority"},
    ),
    "NaN": ('{"op":"publish","id":1,"topic":"t","data":NaN}', {"code": "bad_request"}),
    "Infinity": ('{"op":"publish","id":1,"topic":"t","data":[-Infinity]}', {"code": "bad_request"}),
    "the engine's topic": (
        '{"op":"publish","id":1,"topic":"system.x","data":1}',
        {"id": 1, "code": "forbidden", "field": "topic"},
    ),
    "publishing to a pattern": (
        '{"op":"publish","id":1,"topic":"a.*","data":1}',
        {"id": 1, "code": "invalid_topic", "field": "topic"},
    ),
    "an id of 5,000 digits": ('{"op":"ping","id":%s}' % ("9" * 5_000), {"code": "bad_request"}),
    "deep nesting": ('{"op":"subscribe","id":1,"topics":%s}' % ("[" * 100_000), {"code": "bad_request"}),
    "deep data": ('{"op":"publish","id":1,"topic":"t","data":%s1' % ("[" * 100_000), {"code": "bad_request"}),
    "10,000 topics": (
        json.dumps({"op": "subscribe", "id": 1, "topics": [f"t.{n}" for n in range(10_000)]}),
        {"id": 1, "code": "limit_exceeded", "field": "topics"},
    ),
}


@pytest.mark.parametrize("mistake", BAD_REQUESTS)
def test_a_bad_request_is_answered_and_closes_nothing(stranger: Stranger, mistake: str) -> None:
    text, expected = BAD_REQUESTS[mistake]
    stranger.knock()
    stranger.text(text)
    answer = stranger.answer()
    assert {"op": "error", **expected} == {name: answer.get(name) for name in ("op", *expected)}, answer
    assert answer["message"]
    assert stranger.ask(op="ping", id=2)["op"] == "ok"
    assert stranger.ask(op="subscriptions", id=3)["subscriptions"] == []


@pytest.mark.parametrize("topic", ["", "a..b", ".a", "a.", "a b", "a.>.b", "a*", "é", "a\0", "'", "a" * 256])
@pytest.mark.parametrize("op", ["subscribe", "snapshot", "unsubscribe"])
def test_an_invalid_topic_is_named_by_its_place(stranger: Stranger, op: str, topic: str) -> None:
    stranger.knock()
    answer = stranger.ask(op=op, id=1, topics=["fine", topic])
    assert (answer["code"], answer["field"]) == ("invalid_topic", "topics[1]")
    assert stranger.ask(op="subscriptions", id=2)["subscriptions"] == [], "as a whole or not at all"


@pytest.mark.parametrize(
    ("op", "field", "value"),
    [
        ("subscribe", "since", 7),
        ("subscribe", "since", ""),
        ("subscribe", "since", "p" * 129),
        ("subscribe", "since.u", {"u": {"epoch": "e", "offset": 1}}),
        ("subscribe", "since[...].offset", {"t": {"epoch": "e", "offset": 2**63}}),
        ("subscribe", "since[...].epoch", {"t": {"epoch": "e" * 65, "offset": 1}}),
        ("publish", "idempotency_key", ""),
        ("publish", "idempotency_key", 7),
        ("history", "limit", 1_001),
        ("history", "since", "position"),
        ("history", "topic", "t.*"),
    ],
)
def test_where_to_go_on_from_is_checked(stranger: Stranger, op: str, field: str, value: object) -> None:
    stranger.knock()
    body = {"subscribe": {"topics": ["t"]}, "publish": {"topic": "t", "data": 1}, "history": {"topic": "t"}}[op]
    answer = stranger.ask(op=op, id=1, **(body | {re.split(r"[.\[]", field)[0]: value}))
    assert (answer["id"], answer["field"]) == (1, field), answer
    assert answer["code"] in ("bad_request", "invalid_topic")
    assert stranger.ask(op="subscriptions", id=2)["subscriptions"] == []


@pytest.mark.parametrize(
    ("op", "field", "value"),
    [
        ("call", "topic", "t.*"),
        ("call", "topic", "t" * 256),
        ("call", "method", ""),
        ("call", "method", "m" * 65),
        ("call", "timeout", 1),
        ("serve", "topic", "user.alice"),
        ("serve", "topic", "system.x"),
        ("serve", "methods", "m"),
        ("serve", "methods", ["m"] * 101),
        ("serve", "methods[1]", ["m", ""]),
        ("result", "call", "c" * 65),
        ("result", "error", "it failed"),
        ("result", "error.code", {"code": "sad", "message": ""}),
        ("result", "error.colour", {"code": "internal", "message": "", "colour": "red"}),
        ("result", "error.message", {"code": "internal", "message": "m" * 4_097}),
    ],
)
def test_what_is_wrong_with_a_call_is_named(stranger: Stranger, op: str, field: str, value: object) -> None:
    stranger.knock()
    body = {"call": {"topic": "t", "method": "m"}, "serve": {"topic": "t", "methods": ["m"]}, "result": {"call": "c"}}
    answer = stranger.ask(op=op, id=1, **(body[op] | {re.split(r"[.\[]", field)[0]: value}))
    assert (answer["id"], answer["field"]) == (1, field), answer
    assert answer["code"] in ("bad_request", "invalid_topic", "forbidden")


@pytest.mark.parametrize(
    "data",
    [
        "9" * 5_000,
        "-" + "9" * 5_000,
        "1e999999999999999999999",
        "1e-400",
        "0." + "3" * 5_000,
        "[" * 900 + "]" * 900,
        '{"a":' * 900 + "1e400" + "}" * 900,
        '{"a":1,"a":2}',
        '"\\u0000"',
        '"😀"',
    ],
    ids=range(10),
)
def test_odd_data_reaches_clients_of_both_forms_and_harms_nobody(
    stranger: Stranger, engine: EngineProcess, data: str
) -> None:
    """What is legal JSON, but hard to hold: to MessagePack it is transcoded, or it is told as a gap."""
    stranger.knock()
    with Stranger(engine.port) as packed:
        packed.knock(MSGPACK)
        for subscriber in (stranger, packed):
            subscriber.ask(op="subscribe", id=1, topics=["odd"])
        stranger.text(f'{{"op":"publish","id":2,"topic":"odd","data":{data}}}')
        got: dict[str, bytes] = {}
        while len(got) < 2:
            _, payload = stranger.read()
            if b'"op":"position"' not in payload[:20]:  # comes once a second is over
                got["answer" if b'"op":"ok"' in payload[:20] else "event"] = payload
        assert got["event"].endswith(b'"data":' + data.encode() + b"}"), "as it came, to the digit"
        while (op := packed.message()["op"]) == "position":
            pass
        assert op in ("event", "gap")
        assert packed.ask(op="snapshot", id=3, topics=["odd"])["op"] == "ok"


# frames: legal ones are taken, others close with a code ---------------------------------------------------------------


def test_fragments_are_joined(stranger: Stranger) -> None:
    stranger.knock()
    request = json.dumps({"op": "publish", "id": "é😀", "topic": "t", "data": 1}, ensure_ascii=False).encode()
    last = len(request) - 1
    for i in range(len(request)):  # each byte by itself: also within a character
        opcode = TEXT if i == 0 else CONTINUATION
        stranger.frame(opcode, request[i : i + 1], fin=i == last)
        if i == 7:
            stranger.frame(PING, b"between")  # RFC 6455 section 5.4: control frames may come in the middle
    assert stranger.read() == (PONG, b"between")
    assert stranger.answer()["id"] == "é😀"


BAD_FRAMES: dict[str, tuple[bytes, int]] = {
    "binary where text is due": (frame(BINARY, b'{"op":"ping","id":1}'), 1003),
    "invalid UTF-8": (frame(TEXT, b'{"op":"ping","id":"\xff"}'), 1007),
    "invalid UTF-8 over fragments": (
        frame(TEXT, b'{"op":"ping","id":"\xe2', fin=False) + frame(CONTINUATION, b'\x28"}'),
        1007,
    ),
    "a character that is not finished": (frame(TEXT, b'"\xe2', fin=False) + frame(CONTINUATION, b"\x82"), 1007),
    "a surrogate": (frame(TEXT, b'"\xed\xa0\x80"'), 1007),
    "1 MiB": (frame(TEXT, b'"' + b"x" * (1 << 20) + b'"'), 1009),
    "1 MiB in fragments": (
        frame(TEXT, b'"', fin=False) + frame(CONTINUATION, b"x" * (1 << 16), fin=False) * 16,
        1009,
    ),
    "a size of 2^62": (b"\x81\xff" + (1 << 62).to_bytes(8, "big") + bytes(4), 1009),
    "an unmasked frame": (frame(TEXT, b'{"op":"ping","id":1}', masked=False), 1002),
    "a reserved bit": (frame(TEXT, b'{"op":"ping","id":1}', reserved=4), 1002),
    "all reserved bits": (frame(TEXT, b'{"op":"ping","id":1}', reserved=7), 1002),
    "a reserved opcode": (frame(0x3, b"x"), 1002),
    "a continuation of nothing": (frame(CONTINUATION, b"x"), 1002),
    "a message within another": (frame(TEXT, b'{"op"', fin=False) + frame(TEXT, b'{"op"'), 1002),
    "a fragmented ping": (frame(PING, b"x", fin=False), 1002),
    "a long ping": (frame(PING, b"x" * 126), 1002),
    "a close frame of one byte": (frame(CLOSE, b"\x03"), 1002),
    "a close code that is never sent": (frame(CLOSE, (1006).to_bytes(2, "big")), 1002),
    "a close reason that is not UTF-8": (frame(CLOSE, (1000).to_bytes(2, "big") + b"\xff"), 1007),
}


@pytest.mark.parametrize("mistake", BAD_FRAMES)
def test_a_bad_frame_closes_with_its_code(stranger: Stranger, mistake: str) -> None:
    data, code = BAD_FRAMES[mistake]
    stranger.knock()
    assert stranger.ask(op="subscribe", id=1, topics=[TOPIC])["op"] == "ok"  # events are on their way to it meanwhile
    try:
        stranger.raw(data)
    except (BrokenPipeError, ConnectionResetError):  # the close came before the last of it was written
        pass
    assert stranger.closed() == (code, "limit" if code == 1009 else "protocol")


def test_text_on_a_msgpack_session_closes(stranger: Stranger) -> None:
    stranger.knock(MSGPACK)
    stranger.text('{"op":"ping","id":1}')
    assert stranger.closed() == (1003, "protocol")


def test_bad_messagepack_is_answered(stranger: Stranger) -> None:
    stranger.knock(MSGPACK)
    for payload in (b"", b"\xc1", b"\x81", b"\x81\xa2op", b"\x93\x01\x02\x03", b"\xdf\xff\xff\xff\xff", b"\xa1\xff"):
        stranger.frame(BINARY, payload)
        assert stranger.answer()["code"] == "bad_request", payload
    assert stranger.ask(op="publish", id=1, topic="t", data=float("nan"))["code"] == "bad_request"
    assert stranger.ask(op="publish", id=1, topic="t", data=float("inf"))["field"].startswith("data")
    assert stranger.ask(op="publish", id=1, topic="t", data=msgspec.msgpack.Ext(1, b"NaN"))["code"] == "bad_request"
    assert stranger.ask(op="publish", id=1, topic="t", data=msgspec.msgpack.Ext(1, b"1x"))["code"] == "bad_request"
    assert stranger.ask(op="publish", id=1, topic="t", data=msgspec.msgpack.Ext(9, b"1"))["code"] == "bad_request"
    assert stranger.ask(op="publish", id=1, topic="t", data={1: 2})["op"] in ("ok", "error")
    assert stranger.ask(op="ping", id=2)["op"] == "ok"


# silence --------------------------------------------------------------------------------------------------------------


def test_half_a_frame_and_silence_is_cut_and_who_answers_pings_is_not(engine_process: Start) -> None:
    engine = engine_process(delivery__ping_interval=0.4, delivery__ping_timeout=0.4)
    with (
        Healthy(engine.url) as healthy,
        Stranger(engine.port) as half,
        Stranger(engine.port) as silent,
        Stranger(engine.port) as alive,
    ):
        for stranger in (half, silent, alive):
            stranger.knock()
        half.raw(frame(TEXT, b'{"op":"ping","id":1}')[:-5])

        def answer_pings() -> None:
            try:
                while True:
                    opcode, payload = alive.read()
                    if opcode == PING:
                        alive.frame(PONG, payload)
            except (EOFError, OSError):
                return

        answering = threading.Thread(target=answer_pings)
        answering.start()
        for stranger in (half, silent):
            assert stranger.read() == (PING, b"")
            assert stranger.closed() == (1001, "idle")
        healthy.check()
        alive.text('{"op":"ping","id":1}')  # it was as silent as the others, but for its pongs
        alive.frame(CLOSE, (1000).to_bytes(2, "big"))
        answering.join(TIMEOUT)
        assert not answering.is_alive()
        found = engine.admin("/metrics")[1].decode()
    assert "heliograph_disconnects_total" in found


# not a WebSocket ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("request_line", "status"),
    [
        ("GET / HTTP/1.1", 404),
        ("GET /nothing?x=1 HTTP/1.1", 404),
        ("GET /ws HTTP/1.1", 426),
        ("GET /health HTTP/1.1", 200),
        ("GET /ready HTTP/1.1", 200),
        ("GET /health HTTP/1.0", 200),
        ("POST /ws HTTP/1.1", 405),
        ("POST / HTTP/1.1", 405),
        ("PUT /health HTTP/1.1", 405),
        ("OPTIONS * HTTP/1.1", 405),
        ("GET / HTTP/2.0", 400),
        ("get / http/1.1", 400),
        ("GET /\x01 HTTP/1.1", 400),
    ],
)
def test_plain_http_on_the_client_port(stranger: Stranger, request_line: str, status: int) -> None:
    stranger.raw(request_line.encode() + b"\r\nHost: engine\r\n\r\n")
    head, _, body = stranger.hung_up().partition(b"\r\n\r\n")
    assert int(head.split()[1]) == status
    assert f"Content-Length: {len(body)}".encode() in head.split(b"\r\n")
    answer = json.loads(body)
    if status >= 400:
        assert answer["error"]["code"] and answer["error"]["message"]
    if status == 405:
        assert b"Allow: GET" in head.split(b"\r\n")
    if status == 426:
        assert b"Upgrade: websocket" in head.split(b"\r\n")


MORE = {
    "another request": ("GET /health", b"GET /ready HTTP/1.1\r\nHost: engine\r\n\r\n"),
    "junk": ("GET /health", b"\0\xff\r\n" * 5_000),
    "a body": ("GET /health\r\nContent-Length: 5", b"hello"),
    "a chunked body": ("GET /health\r\nTransfer-Encoding: chunked", b"5\r\nhello\r\n0\r\n\r\n"),
    "a post": ("POST /health\r\nContent-Type: application/json\r\nContent-Length: 2", b"{}"),
    "a post of 1 MiB": ("POST /ws\r\nContent-Length: 1048576", b"x" * (1 << 20)),
    "a post that waits": ("POST /ws\r\nContent-Length: 9\r\nExpect: 100-continue", b""),
}


@pytest.mark.parametrize("more", MORE)
@pytest.mark.parametrize("apart", [False, True])
def test_what_follows_a_request_is_not_looked_at(stranger: Stranger, more: str, apart: bool) -> None:
    asked, rest = MORE[more]
    line, *headers = asked.split("\r\n")
    head = "\r\n".join([f"{line} HTTP/1.1", "Host: engine", *headers]).encode() + b"\r\n\r\n"
    for part in (head, rest) if apart else (head + rest,):
        stranger.raw(part)
    answer, _, body = stranger.hung_up().partition(b"\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 200 " if line == "GET /health" else b"HTTP/1.1 405 ")
    assert f"Content-Length: {len(body)}".encode() in answer.split(b"\r\n"), "one answer, and whole"
    assert json.loads(body)


@pytest.mark.parametrize(
    ("junk", "code"), [(b"GET / HTTP/1.1\r\n\r\n", 1002), (b"\0" * 100, 1002), (frame(BINARY, b"x"), 1003)]
)
def test_what_follows_the_handshake_is_taken_for_frames(stranger: Stranger, junk: bytes, code: int) -> None:
    stranger.knock(more=junk)
    assert stranger.closed() == (code, "protocol")


@pytest.mark.parametrize(
    "handshake",
    [
        "GET /ws HTTP/1.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
        "GET /ws HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 12\r\n"
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
        "GET /ws HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
        "Sec-WebSocket-Key: short\r\n\r\n",
        "GET /else HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
        "GET /ws HTTP/1.1\r\nHost: " + "x" * 20_000,
    ],
    ids=["no host", "another version", "a bad key", "another path", "20 kB of header"],
)
def test_a_bad_handshake_is_answered_in_http(stranger: Stranger, handshake: str) -> None:
    stranger.raw(handshake.encode())
    answer = stranger.hung_up()
    assert answer.startswith(b"HTTP/1.1 4")
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["message"]


@pytest.mark.parametrize("garbage", [b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"\0" * 4096, bytes(range(256))])
def test_garbage_is_answered_and_hung_up_on(stranger: Stranger, garbage: bytes) -> None:
    stranger.raw(garbage)
    assert stranger.hung_up().startswith(b"HTTP/1.1 400 ")


def test_a_handshake_that_never_ends_is_cut(stranger: Stranger) -> None:
    began = time.monotonic()
    stranger.raw(b"GET /ws HTTP/1.1\r\nHost: engine\r\n")
    with pytest.raises((EOFError, ConnectionResetError)):  # handshake_timeout counts from the start, not from silence
        while time.monotonic() < began + TIMEOUT:
            stranger.raw(b"x: y\r\n")
            stranger.socket.settimeout(0.05)
            try:
                stranger._more()
            except TimeoutError:
                continue
    assert time.monotonic() - began >= 0.9, "not before its time"


def test_who_hangs_up_anywhere_leaves_nothing(engine: EngineProcess, wait_until: Callable[..., None]) -> None:
    # Those of `healthy`; who has hung up in the test before this one may be counted for another moment.
    wait_until(lambda: engine.admin("/stats")[1]["connections"] == 2, 10.0)
    before = engine.admin("/stats")[1]
    whole = frame(TEXT, b'{"op":"subscribe","id":1,"topics":["healthy.t"]}')
    for size in range(0, len(whole), 7):
        with Stranger(engine.port) as stranger:
            stranger.knock()
            stranger.raw(whole + whole[:size])
    wait_until(lambda: engine.admin("/stats")[1]["connections"] == before["connections"], 10.0)
    assert engine.admin("/stats")[1]["subscriptions"] == before["subscriptions"]


# whatever -------------------------------------------------------------------------------------------------------------

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
FIELDS = ("id", "topics", "topic", "data", "snapshot", "type", "key", "priority", "where", "since", "x")
topics = st.sampled_from(["t", "a.*", ">", "", "a..", "system.x", TOPIC]) | st.text(max_size=6)
requests = st.fixed_dictionaries(
    {"op": st.sampled_from([*OPS, *CALLS]) | json_values},
    optional={
        **dict.fromkeys(FIELDS, json_values),
        "id": st.integers(0, 9) | json_values,
        "topics": st.lists(topics, max_size=4) | json_values,
        "topic": st.just("t") | topics,
        "snapshot": st.booleans() | json_values,
    },
)


def _packed(fields: dict[str, Any]) -> bytes:
    try:
        return msgspec.msgpack.encode(fields)
    except OverflowError:  # an integer of more than 64 bits
        return b""


payloads = (
    st.binary(max_size=200)
    | st.text(max_size=100).map(str.encode)
    | requests.map(json.dumps).map(str.encode)
    | requests.map(_packed)
)


@settings(max_examples=60, deadline=None)
@given(
    frames=st.lists(st.tuples(st.sampled_from([TEXT, BINARY]), payloads), min_size=1, max_size=6),
    subprotocol=st.sampled_from([None, MSGPACK]),
)
def test_random_frames_are_answered_or_closed_by_the_rules(
    engine: EngineProcess, frames: list[tuple[int, bytes]], subprotocol: str | None
) -> None:
    with Stranger(engine.port) as stranger:
        stranger.knock(subprotocol)
        for opcode, payload in frames:
            expected = _fate(opcode, payload, BINARY if stranger.binary else TEXT)
            stranger.frame(opcode, payload)
            if expected is not None:
                assert stranger.closed() == (expected, "protocol")
                return
            answer = stranger.answer()
            if answer["op"] == "error":
                assert answer["code"] in set(ErrorCode) - {ErrorCode.INTERNAL}, answer
        assert stranger.ask(op="ping", id="last")["id"] == "last"


def _fate(opcode: int, payload: bytes, spoken: int) -> int | None:
    """The close code that a frame earns; none: an answer."""
    if opcode == TEXT:
        try:
            payload.decode()
        except UnicodeDecodeError:
            return 1007
    return None if opcode == spoken else 1003


@settings(max_examples=60, deadline=None)
@given(data=st.binary(min_size=1, max_size=300), upgraded=st.booleans())
def test_random_bytes_end_only_their_own_connection(engine: EngineProcess, data: bytes, upgraded: bool) -> None:
    with Stranger(engine.port) as stranger:
        if upgraded:
            stranger.knock()
        stranger.raw(data)
        stranger.socket.shutdown(socket.SHUT_WR)
        stranger.hung_up()
