"""The MessagePack subprotocol from end to end, beside JSON clients: the same operations, the same maps, every digit."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from decimal import Decimal
from types import TracebackType
from typing import Any, Self

import msgpack  # a decoder of another house than the engine's
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.typing import Subprotocol

from tests.integration.harness import EngineProcess, RawClient

Start = Callable[..., EngineProcess]
SUBPROTOCOL = Subprotocol("heliograph.v1.msgpack")
JSON = Subprotocol("heliograph.v1.json")
DECIMAL = 1  # ExtType
TIMEOUT = 5.0


class PackedClient:
    """A client that speaks MessagePack and keeps what comes beside the answers in ``messages``."""

    def __init__(self, url: str, *subprotocols: Subprotocol) -> None:
        self._url, self._subprotocols = url, subprotocols or (SUBPROTOCOL,)
        self._ids = itertools.count(1)
        self.messages: list[dict[str, Any]] = []

    async def __aenter__(self) -> Self:
        self.connection: ClientConnection = await connect(
            self._url, subprotocols=self._subprotocols, compression=None, proxy=None
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.connection.close()

    async def receive(self) -> dict[str, Any]:
        async with asyncio.timeout(TIMEOUT):
            data = await self.connection.recv()
        assert isinstance(data, bytes), "binary frames only"
        found: dict[str, Any] = msgpack.unpackb(data, strict_map_key=False)
        return found

    async def request(self, op: str, **fields: Any) -> dict[str, Any]:
        request_id = next(self._ids)
        await self.connection.send(msgpack.packb({"op": op, "id": request_id, **fields}, default=_decimal))
        while (message := await self.receive()).get("id") != request_id:
            self.messages.append(message)
        return message

    async def event(self) -> dict[str, Any]:
        """The next event."""
        while not self.messages or self.messages[0]["op"] != "event":
            self.messages = [*self.messages[1:], await self.receive()]
        return self.messages.pop(0)


def _decimal(value: object) -> msgpack.ExtType:
    assert isinstance(value, Decimal)
    return msgpack.ExtType(DECIMAL, str(value).encode())


def run(engine: EngineProcess, scenario: Callable[[PackedClient, RawClient], Any]) -> None:
    async def main() -> None:
        async with PackedClient(engine.url) as packed, RawClient(engine.url) as plain:
            await scenario(packed, plain)

    asyncio.run(main())


def test_every_operation(engine_process: Start) -> None:
    async def scenario(packed: PackedClient, plain: RawClient) -> None:
        assert packed.connection.subprotocol == SUBPROTOCOL
        welcome = await packed.receive()
        assert (welcome["op"], welcome["protocol"]) == ("welcome", 1)
        (other,) = plain.of("welcome") or [await _first(plain)]
        assert {**welcome, "session": ""} == {**other, "session": ""}, "the same map"

        answer = await packed.request("subscribe", topics=["a.b", "c.*"], snapshot=True)
        assert answer["op"] == "ok" and answer["topics"] == ["a.b", "c.*"]
        assert set(answer["positions"]) == {"a.b"} and answer["positions"]["a.b"]["offset"] == 0
        published = await packed.request("publish", topic="a.b", data={"x": [1, None, True, "é"]}, type="t", key="k")
        assert (published["op"], published["offset"]) == ("ok", 1)
        assert published["epoch"] == answer["positions"]["a.b"]["epoch"]
        event = await packed.event()
        assert {**event, "ts": 0} == {
            "op": "event",
            "topic": "a.b",
            "type": "t",
            "offset": 1,
            "epoch": published["epoch"],
            "ts": 0,
            "key": "k",
            "data": {"x": [1, None, True, "é"]},
        }
        assert isinstance(event["ts"], float)
        assert (await packed.request("snapshot", topics=["a.*"]))["events"] == [event]
        assert (await packed.request("subscriptions"))["subscriptions"] == ["a.b", "c.*"]
        assert (await packed.request("stats"))["stats"]["connections"] == 2
        assert (await packed.request("ping"))["ts"] > 0
        assert (await packed.request("unsubscribe", topics=["a.b"]))["topics"] == ["c.*"]
        assert (await packed.request("unsubscribe", topics="*"))["topics"] == []

        refused = await packed.request("subscribe", topics=["a..b"])
        assert (refused["op"], refused["code"], refused["field"]) == ("error", "invalid_topic", "topics[0]")
        refused = await packed.request("subscribe", topics=["a"], where=[])
        assert (refused["code"], refused["field"]) == ("invalid_filter", "where")
        assert (await packed.request("history", topic="a.b"))["events"] == [event]
        refused = await packed.request("publish", topic="system.x", data=1)
        assert refused["code"] == "forbidden"

    run(engine_process(), scenario)


async def _first(client: RawClient) -> dict[str, Any]:
    async with asyncio.timeout(TIMEOUT):
        while not client.messages:
            await asyncio.sleep(0.002)
    return client.messages[0]


DIGITS = [
    # JSON, and what a MessagePack client gets
    ("1.5", 1.5),
    ("0", 0),
    ("-0.25", -0.25),
    ("1.121200", "1.121200"),
    ("0.1", "0.1"),
    ("105433.60000", "105433.60000"),
    ("0.00027625", "0.00027625"),
    ("1e400", "1e400"),
    ("9007199254740993.0", "9007199254740993.0"),
    ("9223372036854775807", 2**63 - 1),
    ("18446744073709551615", 2**64 - 1),
    ("-9223372036854775808", -(2**63)),
    ("18446744073709551616", "18446744073709551616"),
    ("-123456789012345678901234567890", "-123456789012345678901234567890"),
]


def test_numbers_without_an_exact_float_come_as_their_digits(engine_process: Start) -> None:
    async def scenario(packed: PackedClient, plain: RawClient) -> None:
        await packed.request("subscribe", topics=["n"])
        for text, _ in DIGITS:
            # By hand, as a JSON encoder would not keep them.
            await plain._connection.send(f'{{"op":"publish","id":"{text}","topic":"n","data":{{"v":[{text}]}}}}')
        for text, expected in DIGITS:
            (value,) = (await packed.event())["data"]["v"]
            if isinstance(expected, str):
                assert value == msgpack.ExtType(DECIMAL, expected.encode()), text
            else:
                assert (type(value), value) == (type(expected), expected), text
        events = (await packed.request("snapshot", topics=["n"]))["events"]
        assert events[0]["data"]["v"] == [msgpack.ExtType(DECIMAL, DIGITS[-1][0].encode())]

    run(engine_process(), scenario)


@pytest.mark.parametrize("workers", [0, 2])
def test_what_is_published_in_messagepack_arrives_as_json_with_its_digits(engine_process: Start, workers: int) -> None:
    engine = engine_process(workers=workers)
    values: list[tuple[Any, bytes]] = [
        (Decimal("1.12000"), b"1.12000"),
        ({"p": Decimal("105433.60000"), "q": 1}, b'{"p":105433.60000,"q":1}'),
        ([Decimal("-0.10"), 1.5, 2**64 - 1, -(2**63)], b"[-0.10,1.5,18446744073709551615,-9223372036854775808]"),
        (Decimal("123456789012345678901234567890"), b"123456789012345678901234567890"),
        ("é😀", '"é😀"'.encode()),
        (None, b"null"),
    ]

    async def scenario() -> None:
        # The raw text is needed, so the subscriber is a bare socket.
        async with (
            connect(engine.url, subprotocols=[JSON], compression=None, proxy=None) as plain,
            PackedClient(engine.url) as packed,
        ):
            assert plain.subprotocol == JSON
            await plain.send('{"op":"subscribe","id":1,"topics":["n"]}')
            while b'"op":"ok"' not in await plain.recv(decode=False):
                pass
            for value, _ in values:
                assert (await packed.request("publish", topic="n", data=value))["op"] == "ok"
            for _, expected in values:
                async with asyncio.timeout(TIMEOUT):
                    frame = await plain.recv(decode=False)
                assert frame.endswith(b'"data":' + expected + b"}")

    asyncio.run(scenario())


def test_both_forms_get_the_same_events_in_the_same_order(engine_process: Start) -> None:
    async def scenario(packed: PackedClient, plain: RawClient) -> None:
        await packed.request("subscribe", topics=["m.*"])
        await plain.subscribe("m.*")
        for n in range(200):
            publisher = packed if n % 2 else plain
            assert (await publisher.request("publish", topic=f"m.{n % 3}", data=n))["op"] == "ok"
        got = [await packed.event() for _ in range(200)]
        async with asyncio.timeout(TIMEOUT):
            while len(plain.of("event")) < 200:
                await asyncio.sleep(0.002)
        for one, other in zip(got, plain.of("event"), strict=True):
            assert {**one, "ts": round(one["ts"], 6)} == other

    run(engine_process(), scenario)


@pytest.mark.parametrize(
    ("offered", "spoken"),
    [
        ([SUBPROTOCOL, JSON], SUBPROTOCOL),
        ([JSON, SUBPROTOCOL], JSON),
        ([Subprotocol("other"), SUBPROTOCOL], SUBPROTOCOL),
    ],
)
def test_the_first_known_subprotocol_of_the_client_is_spoken(
    engine_process: Start, offered: list[Subprotocol], spoken: Subprotocol
) -> None:
    async def scenario() -> None:
        async with connect(engine_process(workers=0).url, subprotocols=offered, proxy=None) as connection:
            assert connection.subprotocol == spoken
            assert isinstance(await connection.recv(), bytes if spoken == SUBPROTOCOL else str)

    asyncio.run(scenario())


def test_a_drain_says_bye_in_messagepack(engine_process: Start) -> None:
    engine = engine_process(workers=0)

    async def scenario() -> None:
        async with PackedClient(engine.url) as packed:
            await packed.receive()
            stopping = asyncio.create_task(asyncio.to_thread(engine.stop))
            bye = await packed.receive()
            assert (bye["op"], bye["code"], bye["reason"]) == ("bye", 1012, "drain")
            await packed.connection.wait_closed()
            assert packed.connection.close_code == 1012
            assert await stopping == 0

    asyncio.run(scenario())
