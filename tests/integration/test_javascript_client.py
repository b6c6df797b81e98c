"""The JavaScript client in Node and in Chromium, with a real engine."""

from __future__ import annotations

import asyncio
import gzip
import json
import re
import shutil
import urllib.error
import urllib.request
from collections.abc import Coroutine, Iterator
from contextlib import AsyncExitStack
from typing import Any, TypeVar

import pytest

from engine.auth_config import Auth
from engine.cli_token import mint
from engine.client import Client
from engine.embedded import Engine
from tests.browser import Browser
from tests.clients.conftest import absent
from tests.fx.pages import served
from tests.integration.harness import ROOT, EngineProcess
from tests.javascript import NODE_MODULES, Node

CLIENT = ROOT / "clients/js/heliograph.js"
GUIDE = (ROOT / "docs/browser.md").read_text(encoding="utf-8")
CONFIG = '[topics."short.*"]\nhistory_size = 5\n'
DEADLINE = 25.0  # s
WATCH = """
globalThis.watch = async (url, options = {}) => {
  const client = new Heliograph(url, options);
  Object.assign(globalThis, { client, seen: [], gaps: [], errors: [], session: null, sessions: 0 });
  client.on("error", (error) => errors.push([error.code, error.field, error.message]));
  client.on("session", (now) => { session = now.session; sessions += 1; });
};
globalThis.follow = (topics, options = {}) => client.subscribe(topics,
  ({ topic, offset, data }) => seen.push([topic, offset, data]),
  { onGap: (gap) => gaps.push(gap), ...options }).ready;
undefined
"""
T = TypeVar("T")


class Machine:
    """A loop, a Node, and a Chromium on an empty page of this machine, with the client in both."""

    def __init__(self) -> None:
        self._runner = asyncio.Runner()
        self._stack = AsyncExitStack()
        self.run(self._start())

    def run(self, test: Coroutine[Any, Any, T]) -> T:
        async def bounded() -> T:
            async with asyncio.timeout(2 * DEADLINE):
                return await test

        return self._runner.run(bounded())

    async def _start(self) -> None:
        if not (NODE_MODULES / "ws").is_dir():
            absent("what `make node` installs into .venv/node")
        self.node = await self._stack.enter_async_context(Node(shutil.which("node") or absent("node")))
        self.page = await self._stack.enter_async_context(Browser(shutil.which("chromium") or absent("chromium")))
        empty = {"/": (b"<!DOCTYPE html><title>empty</title>", "text/html")}
        self.elsewhere = self._stack.enter_context(served(empty))

    async def ready(self, engine: EngineProcess | Engine) -> list[Node | Browser]:
        """Both, with a client of this engine that has subscribed to nothing yet."""
        base = engine.url.replace("ws", "http", 1).removesuffix("/ws")
        await self.node.evaluate(f"load({str(CLIENT)!r}).then((all) => void Object.assign(globalThis, all))")
        await self.node.evaluate("globalThis.WebSocket ??= require('ws').WebSocket; undefined")
        await self.node.evaluate("globalThis.crypto ??= require('node:crypto').webcrypto; undefined")  # Node 18
        await self.node.evaluate(WATCH)
        await self.page.open(self.elsewhere + "/")
        await self.page.evaluate(f"import('{base}/heliograph.js').then((all) => void Object.assign(globalThis, all))")
        await self.page.evaluate(WATCH)
        for place in (self.node, self.page):
            await place.evaluate(f"watch({engine.url!r})")
        return [self.node, self.page]

    async def done(self) -> None:
        """No client is left."""
        for place in (self.node, self.page):
            await place.evaluate("globalThis.client?.close()")

    def close(self) -> None:
        try:
            self.run(self._stack.aclose())
        finally:
            self._runner.close()


async def until(place: Node | Browser, condition: str) -> None:
    """Until an expression is true there."""
    try:
        async with asyncio.timeout(DEADLINE):
            while not await place.evaluate(condition):
                await asyncio.sleep(0.02)
    except TimeoutError:
        known = await place.evaluate("client.state + JSON.stringify([globalThis.seen?.length, globalThis.errors])")
        raise AssertionError(f"not so: {condition}; {known}") from None


@pytest.fixture(scope="module")
def machine() -> Iterator[Machine]:
    machine = Machine()
    yield machine
    machine.close()


def test_no_event_is_lost_or_doubled_by_dying_workers_and_a_restart(machine: Machine) -> None:
    first = EngineProcess(CONFIG, workers=2)
    engines = [first]

    async def scenario() -> None:
        places = await machine.ready(first)
        for place in places:
            await place.evaluate("follow('some.*')")
            await place.evaluate("follow('one', { where: { keep: true } })")
            await place.evaluate("follow(['two', 'three'])")
        stop = asyncio.Event()
        places_of: dict[str, list[int]] = {topic: [] for topic in ("some.a", "some.b", "one", "two", "three")}

        async def publish() -> None:
            async with Client(first.url, request_timeout=DEADLINE) as client:
                n = 0
                while not stop.is_set():
                    for topic, offsets in places_of.items():
                        data = {"n": n, "keep": True}
                        place = await client.publish(topic, data, idempotency_key=f"{topic}-{n}")
                        assert place is not None
                        offsets.append(place.offset)
                    n += 1

        publishing = asyncio.create_task(publish())
        for place in places:
            await until(place, "seen.length > 50")
        for place in places:  # each one's own worker
            while True:  # the other's worker may have been this one's, too
                await until(place, "client.state === 'open'")
                session, before = await place.evaluate("[session, sessions]")
                listed = (await asyncio.to_thread(first.admin, "/api/sessions"))[1]["sessions"]
                if workers := [found["worker"] for found in listed if found["id"] == session]:
                    break
            first.kill(workers[0])
            await until(place, f"sessions > {before} && client.state === 'open'")
        count = await machine.node.evaluate("[sessions, seen.length]")
        assert await asyncio.to_thread(first.stop) == 0
        engines.append(
            await asyncio.to_thread(EngineProcess, CONFIG, 2, first.port, server__runtime_dir=first.runtime_dir)
        )
        for place in places:
            await until(place, f"sessions > {count[0] if place is machine.node else 1} && seen.length > {count[1]}")
        stop.set()
        await publishing
        expected = {topic: list(range(1, len(offsets) + 1)) for topic, offsets in places_of.items()}
        assert places_of == expected
        total = sum(map(len, expected.values()))
        for place in places:
            await until(place, f"seen.length >= {total}")
            found: dict[str, list[int]] = {}
            for topic, offset, data in await place.evaluate("seen"):
                assert data["n"] == offset - 1
                found.setdefault(topic, []).append(offset)
            assert found == expected
            assert await place.evaluate("[gaps, errors]") == [[], []]
        await machine.done()

    try:
        machine.run(scenario())
    finally:
        for engine in reversed(engines):
            engine.stop()
            engine.destroy()
            print(engine.tail)


@pytest.fixture  # a new one for each test: guides publish to the same topics
def engine(machine: Machine) -> Iterator[Engine]:
    """On the machine's loop; it runs while that does."""

    async def start() -> Engine:
        return await Engine(workers=0, port=0, admin_port=0, topics={"short.*": {"history_size": 5}}).__aenter__()

    engine = machine.run(start())
    yield engine
    machine.run(engine.__aexit__(None, None, None))


def test_calls_go_from_page_to_node_and_back(machine: Machine, engine: Engine) -> None:
    async def scenario() -> None:
        node, page = await machine.ready(engine)
        await node.evaluate("""client.serve("robot", {
          move: ({ by }, caller) => ({ by, caller }),
          stop: () => { throw new RequestError("conflict", "it stands", "state"); },
        }).ready""")
        assert await page.evaluate("client.call('robot', 'move', { by: 3 })") == {"by": 3, "caller": None}
        refused = "client.call('robot', '%s').catch(({ name, code, field }) => [name, code, field])"
        assert await page.evaluate(refused % "stop") == ["RequestError", "conflict", "state"]
        assert (await page.evaluate(refused % "fly"))[:2] == ["RequestError", "not_found"]
        async with Client(engine.url) as client:
            assert await client.call("robot", "move", {"by": 1}) == {"by": 1, "caller": None}
            async with client.serve("arm", add=lambda params, caller: sum(params)):
                assert await page.evaluate("client.call('arm', 'add', [1, 2])") == 3
        await machine.done()

    machine.run(scenario())


LINE = """
globalThis.away = false;
globalThis.sockets = [];
globalThis.Line = class extends WebSocket {
  constructor(url, protocols) {
    super(away ? url + "/nowhere" : url, protocols);
    sockets.push(this);
  }
};
undefined
"""


def test_a_page_that_hears_of_its_network_comes_back_at_once_and_what_is_lost_is_told(
    machine: Machine, engine: Engine
) -> None:
    async def scenario() -> None:
        _, page = await machine.ready(engine)
        await page.evaluate("client.close()")
        await page.evaluate(LINE)
        await page.evaluate(f"watch({engine.url!r}, {{ WebSocket: Line }})")
        await page.evaluate("follow('short.*')")
        async with Client(engine.url) as client:
            await client.publish("short.a", 1)
            await until(page, "seen.length === 1")
            await page.evaluate("Math.random = () => 1e6; away = true; sockets[0].close()")  # days to the next attempt
            await until(page, "client.state === 'waiting'")
            for n in range(2, 21):
                await client.publish("short.a", n)
        await page.evaluate("dispatchEvent(new Event('online')); undefined")
        await until(page, "sockets.length === 2 && client.state === 'waiting'")
        await page.evaluate("away = false; dispatchEvent(new Event('online')); undefined")
        await until(page, "seen.length === 6")
        assert await page.evaluate("[gaps.map(({ from, to, reason }) => [from, to, reason]), sessions]") == [
            [[2, 15, "history_expired"]],
            2,
        ]
        assert [offset for _, offset, _ in await page.evaluate("seen")] == [1, *range(16, 21)]
        await machine.done()

    machine.run(scenario())


def test_a_page_of_another_site_is_told_why_it_gets_nothing(machine: Machine, engine: Engine) -> None:
    async def scenario() -> None:
        origin = machine.elsewhere.replace("localhost", "shop.example")
        await machine.page.open(origin + "/")
        base = engine.url.replace("ws", "http", 1).removesuffix("/ws")
        await machine.page.evaluate(
            f"import('{base}/heliograph.js').then((all) => void Object.assign(globalThis, all))"
        )
        await machine.page.evaluate(WATCH)
        await machine.page.evaluate(f"watch({engine.url!r})")
        await until(machine.page, "errors.length > 0")
        [[code, field, message]] = await machine.page.evaluate("errors")
        assert (code, field) == ("forbidden", "Origin")
        assert f'["{origin}"]' in message and "403" in message
        await machine.page.evaluate("client.close()")

    machine.run(scenario())


def blocks(kind: str) -> list[str]:
    return re.findall(rf"^```{kind}\n(.*?)^```", GUIDE, re.M | re.S)


def test_the_guides_page_shows_prices(machine: Machine, engine: Engine) -> None:
    [html] = blocks("html")
    assert html.count("127.0.0.1:8765") == 2
    html = html.replace("127.0.0.1:8765", engine.url.removeprefix("ws://").removesuffix("/ws"))

    async def scenario() -> None:
        page = machine.page
        async with Client(engine.url) as client:
            await client.publish("price.EUR_USD", {"bid": 1.1})
            with served({"/": (html.encode(), "text/html")}) as address:
                await page.open(address + "/")
                await page.until("document.querySelector('li')?.textContent === 'price.EUR_USD 1.1'")
                await client.publish("price.EUR_USD", {"bid": "<i>2</i>"})
                await page.until("document.querySelector('li').textContent === 'price.EUR_USD <i>2</i>'")
        assert await page.evaluate("document.getElementById('state').textContent") == "open"
        assert page.console == []

    machine.run(scenario())


@pytest.mark.parametrize("readme", ["README.md", "clients/js/README.md"])
def test_a_readmes_snippet_runs(machine: Machine, engine: Engine, readme: str) -> None:
    text = (ROOT / readme).read_text(encoding="utf-8")
    shown = re.findall(r"^```(?:html|js)\n(.*?^ *import .*?)^```", text, re.M | re.S)
    assert len(shown) == 1 and shown[0].count("127.0.0.1:8765") == 2
    script = shown[0] if "<script" in shown[0] else f'<script type="module">{shown[0]}</script>'
    html = script.replace("127.0.0.1:8765", engine.url.removeprefix("ws://").removesuffix("/ws"))

    async def scenario() -> None:
        async with Client(engine.url) as client, client.subscribe("chat.lobby") as lobby:
            with served({"/": (html.encode(), "text/html")}) as address:
                await machine.page.open(address + "/")
                assert (await anext(aiter(lobby))).data == {"text": "hello"}

    machine.run(scenario())


def test_the_guides_snippets_run(machine: Machine, engine: Engine) -> None:
    subscribe, publish, token, _ = blocks("js")

    async def scenario() -> None:
        node, _ = await machine.ready(engine)
        script = f"console.log = () => {{}};\n{subscribe}\n{publish}\nreturn [place.offset, last, events, answer];"
        offset, last, events, answer = await node.evaluate(f"(async () => {{ {script} }})()")
        assert (last["offset"], last["data"], last["key"]) == (offset, {"text": "hello"}, "alice")
        assert events == [last] and answer == {"moved": 3, "caller": None}
        await machine.done()

        secret = "a secret that is for this test alone"
        auth = Auth(secret=secret)
        async with Engine(workers=0, port=0, admin_port=0, auth={"secret": secret}) as guarded:
            tokens = [mint(auth, "alice", ttl, ["a"], publish) for ttl, publish in ((2, ["a"]), (3_600, ["a", "b"]))]
            await node.evaluate(
                f"globalThis.tokens = {json.dumps(tokens)}; globalThis.users = []; "
                "globalThis.fetch = async () => ({ text: async () => tokens.shift() }); undefined"
            )
            text = token.replace("wss://engine.example/ws", guarded.url).replace("const client", "globalThis.client")
            await node.evaluate(f"{text}; client.on('session', ({{ user }}) => users.push(user)); undefined")
            published = "client.publish('%s', 1).then(({ offset }) => offset, ({ code }) => code)"
            assert [await node.evaluate(published % topic) for topic in "ab"] == [1, "forbidden"]
            await until(node, "tokens.length === 0")  # before the first one ends
            async with asyncio.timeout(DEADLINE):
                while await node.evaluate(published % "b") != 1:
                    await asyncio.sleep(0.02)
            assert await node.evaluate("users") == ["alice"], "in the same session"
            await node.evaluate("client.close()")

    machine.run(scenario())


def get(url: str, **headers: str) -> tuple[int, dict[str, str], bytes]:
    """Status, headers, body."""
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=names), timeout=DEADLINE) as answer:
            return answer.status, {name.lower(): value for name, value in answer.headers.items()}, answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, {name.lower(): value for name, value in error.headers.items()}, error.read()


def test_both_ports_serve_the_client_to_everybody(machine: Machine, engine: Engine) -> None:
    async def scenario() -> None:
        base = engine.url.replace("ws", "http", 1).removesuffix("/ws")
        for address in (base, engine.admin_url):
            status, headers, body = await asyncio.to_thread(get, address + "/heliograph.js")
            assert (status, body, headers["content-type"].partition(";")[0]) == (
                200,
                CLIENT.read_bytes(),
                "text/javascript",
            )
            assert (headers["access-control-allow-origin"], headers["cache-control"]) == ("*", "no-cache")
            tag = headers["etag"]
            for known in (tag, f'"x", {tag.removeprefix("W/")}'):
                status, headers, body = await asyncio.to_thread(get, address + "/heliograph.js", If_None_Match=known)
                assert (status, body, headers["etag"]) == (304, b"", tag)
            assert (await asyncio.to_thread(get, address + "/heliograph.js", If_None_Match='"x"'))[0] == 200
            for accepted, coding in (("br, gzip;q=0.5", "gzip"), ("gzip;q=0", None), ("*", None)):
                path = address + "/heliograph.js"
                status, headers, body = await asyncio.to_thread(get, path, Accept_Encoding=accepted)
                assert (status, headers.get("content-encoding")) == (200, coding)
                assert (gzip.decompress(body) if coding else body) == CLIENT.read_bytes()

    machine.run(scenario())
