"""``docs/protocol.md`` and its schema against a real engine: the page's examples, and every message in both directions.

In the page ``→`` is sent and ``←`` must come; of what differs from run to run the page's names stand for the real ones.
"""

from __future__ import annotations

import asyncio
import json
import re
import time
import urllib.request
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, get_args

import jsonschema
import jwt
from websockets.asyncio.client import ClientConnection, connect

from heliograph import Engine
from tests.integration.harness import RawClient
from transport.client_messages import Message
from transport.requests import Request

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "protocol.md").read_text(encoding="utf-8")
SCHEMA = json.loads((DOCS / "protocol.v1.schema.json").read_text(encoding="utf-8"))
DEADLINE = 20.0
SECRET = "a secret that has at least 32 bytes"
NAMED = frozenset({"epoch", "position", "session", "node", "server", "call"})
"""Strings that the engine makes: the page's own stand for them, and the same ones for the same."""
MEASURED = frozenset({"ts", "expires", "stats", "message"})
"""What is of no interest here."""

Eventually = Callable[..., Awaitable[None]]


def _strict(definition: dict[str, Any]) -> dict[str, Any]:
    """A definition that has no unknown fields: the engine sends none but those of the schema."""
    return {"additionalProperties": False, **definition} if definition.get("type") == "object" else definition


DEFS = {name: _strict(definition) for name, definition in SCHEMA["$defs"].items()}


def validator(name: str) -> jsonschema.Draft202012Validator:
    return jsonschema.Draft202012Validator({"$ref": f"#/$defs/{name}", "$defs": DEFS})


SENT, GOT = validator("ClientMessage"), validator("ServerMessage")
ANSWERS = {
    definition["properties"]["op"]["enum"][0]: validator(definition["x-answer"]["$ref"].rpartition("/")[2])
    for definition in DEFS.values()
    if "x-answer" in definition
}


def check(sent: list[dict[str, Any]], got: list[dict[str, Any]]) -> None:
    """What went over a connection is in the schema, each answer that of its request; what is not was refused."""
    ops = {request["id"]: request["op"] for request in sent}
    refused = {message["id"] for message in got if message.get("code") == "bad_request"}
    for request in sent:
        assert request["id"] in refused or SENT.is_valid(request), request
    for message in got:
        GOT.validate(message)
        if message["op"] == "ok":
            ANSWERS[ops[message["id"]]].validate(message)


# the page's examples --------------------------------------------------------------------------------------------------

Step = tuple[list[dict[str, Any]], list[dict[str, Any]]]


def examples() -> dict[str, list[Step]]:
    """Per section what is sent, one request each time, and what comes then."""
    found: dict[str, list[Step]] = {}
    for section, block in re.findall(r"^#+ ([^\n]+)\n(?:(?!^#).)*?^```json\n(.*?)^```", PAGE, re.M | re.S):
        steps = found.setdefault(section, [])
        for line in block.splitlines():
            message = json.loads(line[2:])
            if line.startswith("→") or not steps:
                steps.append(([], []))
            steps[-1]["←→".index(line[0]) ^ 1].append(message)
    return found


class Reader:
    """Follows the page over one connection; ``real`` maps the page's names to those of this run."""

    def __init__(self, connection: ClientConnection, real: dict[str, str]) -> None:
        self._connection, self._real = connection, real
        self.sent: list[dict[str, Any]] = []
        self.got: list[dict[str, Any]] = []

    async def follow(self, steps: list[Step]) -> None:
        for requests, expected in steps:
            for request in requests:
                self.sent.append(self._translated(request))
                await self._connection.send(json.dumps(self.sent[-1]))
            came = [await self._next() for _ in expected]
            # An answer and the event that it tells of have no order.
            for page, real in zip(sorted(expected, key=_kind), sorted(came, key=_kind), strict=True):
                self._compare(page, real, page["op"])

    async def _next(self) -> dict[str, Any]:
        while True:
            async with asyncio.timeout(DEADLINE):
                message: dict[str, Any] = json.loads(await self._connection.recv())
            self.got.append(message)
            if message["op"] != "position":  # these come as time goes by
                return message

    def _translated(self, value: Any) -> Any:
        if isinstance(value, dict):
            return {name: self._translated(item) for name, item in value.items()}
        return self._real.get(value, value) if isinstance(value, str) else value

    def _compare(self, page: Any, real: Any, at: str) -> None:
        assert type(page) is type(real), (at, page, real)
        if isinstance(page, dict):
            assert set(page) == set(real), (at, page, real)
            for name in page:
                if name in NAMED and isinstance(page[name], str):
                    assert self._real.setdefault(page[name], real[name]) == real[name], (at, name)
                elif name not in MEASURED:
                    self._compare(page[name], real[name], f"{at}.{name}")
        elif isinstance(page, list):
            assert len(page) == len(real), (at, page, real)
            for n, (one, other) in enumerate(zip(page, real, strict=True)):
                self._compare(one, other, f"{at}[{n}]")
        else:
            assert page == real, (at, page, real)


def _kind(message: dict[str, Any]) -> tuple[str, str]:
    return message["op"], str(message.get("id"))


def test_the_pages_examples(tmp_path: Path) -> None:
    (table,) = re.findall(r"^```toml\n(.*?)^```", PAGE, re.M | re.S)
    file = tmp_path / "heliograph.toml"
    file.write_text(table)
    sections = examples()
    del sections["What comes unasked"]  # below
    with_token = sections.pop("auth")
    token = jwt.encode({"sub": "alice", "exp": 1_900_000_000, "heliograph": {"subscribe": ["price.*"]}}, SECRET)
    assert len(sections) == 11

    async def main() -> None:
        async with (
            Engine(file, workers=0, port=0, admin_port=0) as engine,
            connect(engine.url, proxy=None) as connection,
        ):
            reader = Reader(connection, {})
            for steps in sections.values():
                await reader.follow(steps)
            check(reader.sent, reader.got)
        async with (
            Engine(workers=0, port=0, admin_port=0, auth={"secret": SECRET}) as engine,
            connect(engine.url, proxy=None) as connection,
        ):
            reader = Reader(connection, {"TOKEN": token})
            await reader.follow(with_token)
            check(reader.sent, reader.got)

    asyncio.run(main())
    assert {request["op"] for steps in (*sections.values(), with_token) for sent, _ in steps for request in sent} == {
        kind.__struct_config__.tag for kind in get_args(Request)
    }


# what comes unasked ---------------------------------------------------------------------------------------------------


class Recorder(RawClient):
    """Keeps what it sends, too."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.sent: list[dict[str, Any]] = []

    def send(self, op: str, **fields: Any) -> asyncio.Future[dict[str, Any]]:
        answer = super().send(op, **fields)
        self.sent.append({"op": op, "id": len(self.sent) + 1, **fields})
        return answer


async def ordered(engine: Engine, path: str, method: str, body: dict[str, Any] | None = None) -> Any:
    """What the admin API answers."""

    def ask() -> Any:
        data = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(f"{engine.admin_url}{path}", data, headers, method=method)
        with urllib.request.urlopen(request, timeout=DEADLINE) as answer:
            return json.load(answer)

    return await asyncio.to_thread(ask)


def test_what_comes_unasked(eventually: Eventually) -> None:
    [(_, examples_of)] = examples()["What comes unasked"]
    delivery = {"outbox_bytes": 100_000, "write_buffer": 1_024}

    async def come(client: RawClient, *ops: str) -> None:
        await eventually(lambda: all(client.of(op) for op in ops), DEADLINE)

    async def main() -> None:
        async with (
            Engine(workers=0, port=0, admin_port=0, delivery=delivery) as engine,
            Recorder(f"{engine.url}?user=alice") as client,
            Recorder(engine.url) as slow,
        ):
            await come(client, "welcome", "subscribed")
            await client.subscribe("together", window=0.05, batch=True)
            await client.subscribe("price.*", max_rate=5, conflate=True)
            for n in range(3):
                await client.request("publish", topic="together", data=n)
                await client.request("publish", topic="price.a", data={"n": n}, key="a", priority="low")
            await come(client, "events", "skipped", "event")

            at = f"/api/sessions/{client.of('welcome')[0]['session']}"
            await ordered(engine, f"{at}/subscribe", "POST", {"topics": ["news"]})
            await ordered(engine, f"{at}/unsubscribe", "POST", {"topics": ["news"]})
            await come(client, "unsubscribed")

            await slow.subscribe("much")
            slow.stop_reading()
            dropped, deadline = 0, time.monotonic() + DEADLINE
            while not dropped and time.monotonic() < deadline:
                await asyncio.gather(*[engine.publish("much", "x" * 60_000) for _ in range(20)])
                found = (await ordered(engine, "/api/sessions", "GET"))["sessions"]
                dropped = sum(session["dropped"] for session in found)
            slow.read_on()
            await come(slow, "slow", "gap", "position")

            await client.request("nonsense")
            await ordered(engine, at, "DELETE")
            await come(client, "bye")
            for one in (client, slow):
                check(one.sent, one.messages)
            came = [*client.messages, *slow.messages]
        for example in examples_of:
            GOT.validate(example)
            shapes = [set(message) for message in came if message["op"] == example["op"]]
            assert set(example) in shapes or (example["op"] == "bye" and set(example) - {"reconnect_in"} in shapes)
        seen = {message["op"] for message in came}
        assert seen == {kind.__struct_config__.tag for kind in get_args(Message)} - {"call"}, (
            "the page's examples have it"
        )

    asyncio.run(main())
