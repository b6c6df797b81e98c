"""The FX server as its operators start it: the engine with two workers, a Redis that brings prices, and clients."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import socket
import tempfile
import urllib.request
from collections.abc import Coroutine, Iterator
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import pytest

from tests.browser import Browser
from tests.feeds.redis_server import RedisServer, running
from tests.fx.clients import Client, JavaScriptClient, PythonClient, expect
from tests.fx.pages import served
from tests.integration.harness import ROOT, EngineProcess
from tests.javascript import CLIENT, NODE_MODULES, SCRIPTS, Node, browser_client

KINDS = ("python", "node", "chromium")
CONFIG = ROOT / "examples/fx/engine.toml"
T = TypeVar("T")


def absent(component: str) -> NoReturn:
    """As the fixture ``missing``, for fixtures of a module."""
    if os.environ.get("CI", "").lower() in ("1", "true"):
        pytest.fail(f"{component} is missing, and CI must have it")
    pytest.skip(f"{component} is missing")


def needs(command: str) -> str:
    """Where it is."""
    return shutil.which(command) or absent(command)


def needs_packages() -> None:
    """JavaScript's clients."""
    if not (NODE_MODULES / CLIENT).is_dir():
        absent("what `make node` installs into .venv/node")


@contextmanager
def guides_port() -> Iterator[int]:
    """5001, for one of the processes that run tests; 0, any, for the others and where somebody else has it."""
    with socket.socket(socket.AF_UNIX) as claim:  # an engine needs a moment to take its port
        try:
            claim.bind("\0heliograph-tests-5001")
            socket.create_server(("127.0.0.1", 5001)).close()
            port = 5001
        except OSError:
            port = 0
        yield port


class Site:
    """The engine and its Redis.

    Attributes:
        url: where clients connect.
        store: the database that the services keep things in.
    """

    def __init__(self, engine: EngineProcess, redis: RedisServer, store: str) -> None:
        self.engine, self.redis, self.store = engine, redis, store
        self.url = f"http://localhost:{engine.port}"

    def publish(self, channel: str, **data: Any) -> int:
        """As another program; how many subscriptions of Redis got it."""
        (count,) = self.redis.publish(channel, json.dumps(data))
        return count

    def health(self) -> dict[str, Any]:
        """Of the client port."""
        with urllib.request.urlopen(f"{self.url}/health", timeout=10) as answer:
            found: dict[str, Any] = json.load(answer)
            return found


@pytest.fixture(scope="session")
def site() -> Iterator[Site]:
    """Started once; what tests publish stays, so that each has pairs of its own."""
    with (
        running(needs("redis-server")) as redis,
        tempfile.TemporaryDirectory(prefix="fx-") as directory,
        guides_port() as port,
    ):
        store = f"sqlite:///{Path(directory, 'fx.db')}"
        os.environ["FX_DSN"] = store
        quick: dict[str, Any] = {f"redis__{name}": 0.2 for name in ("backoff_max", "breaker_open", "breaker_open_max")}
        try:
            engine = EngineProcess(CONFIG, 2, port, redis__url=redis.url, server__heartbeat_interval=0.5, **quick)
        finally:
            del os.environ["FX_DSN"]
        try:
            yield Site(engine, redis, store)
            code = engine.stop()
        finally:
            left = engine.destroy()
            print(engine.tail)
        assert (code, left) == (0, [])


class Machine:
    """Where clients run: a loop, and what is started on it when it is first needed."""

    def __init__(self) -> None:
        self._runner = asyncio.Runner()
        self._stack = AsyncExitStack()
        self._node: Node | None = None
        self._browser: Browser | None = None
        self._has_clients = False  # the page that the browser shows

    def run(self, test: Coroutine[Any, Any, T]) -> T:
        """On the loop."""
        return self._runner.run(test)

    def close(self) -> None:
        """End everything."""
        try:
            self.run(self._stack.aclose())
        finally:
            self._runner.close()

    def client(self, kind: str) -> Client:
        """A new one, not yet open."""
        if kind == "python":
            return PythonClient()
        needs_packages()
        if kind == "node":
            if self._node is None:
                self._node = self.run(self._stack.enter_async_context(Node(needs("node"))))
            return JavaScriptClient(self._node)
        if not self._has_clients:
            self.run(self._open_clients(self.browser()))
            self._has_clients = True
        return JavaScriptClient(self.browser())

    def browser(self) -> Browser:
        """With whatever page."""
        if self._browser is None:
            self._browser = self.run(self._stack.enter_async_context(Browser(needs("chromium"))))
        return self._browser

    def page(self) -> Browser:
        """The same, for a test that opens a page of its own."""
        needs_packages()
        self._has_clients = False
        return self.browser()

    async def _open_clients(self, page: Browser) -> None:
        script = browser_client(CLIENT) + b"\n" + (SCRIPTS / "clients.js").read_bytes()
        html = b"<!DOCTYPE html><title>clients</title><script src=clients.js></script>"
        with served({"/": (html, "text/html"), "/clients.js": (script, "text/javascript")}) as address:
            await page.open(address)


@pytest.fixture(scope="session")
def machine() -> Iterator[Machine]:
    """One loop, one Node, one browser for all tests."""
    machine = Machine()
    yield machine
    machine.close()


class Fx:
    """What a scenario needs, for one kind of client."""

    def __init__(self, site: Site, machine: Machine, kind: str) -> None:
        self.site, self.run, self.kind = site, machine.run, kind
        self._machine = machine
        self._open: list[Client] = []

    def clients(self, count: int) -> list[Client]:
        """Of this kind, not connected; closed with the test."""
        new = [self._machine.client(self.kind) for _ in range(count)]
        self._open += new
        return new

    async def connect(self, client: Client) -> dict[str, Any]:
        """What ``connection_established`` says."""
        await client.open(self.site.url)
        found: dict[str, Any] = await expect(client, "connection_established")
        return found

    def close(self) -> None:
        """All clients."""
        for client in self._open:
            self.run(client.close())


@pytest.fixture(params=KINDS)
def fx(request: pytest.FixtureRequest, site: Site, machine: Machine) -> Iterator[Fx]:
    """The site, for one kind of client."""
    fx = Fx(site, machine, request.param)
    yield fx
    fx.close()
