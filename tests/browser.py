"""A headless Chromium for tests, over the DevTools protocol (https://chromedevtools.github.io/devtools-protocol/)."""

from __future__ import annotations

import asyncio
import base64
import itertools
import json
import os
import signal
import subprocess
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

START_TIMEOUT_S = 30.0
STOP_TIMEOUT_S = 10.0
REQUEST_TIMEOUT_S = 20.0
STEP_S = 0.02
OPTIONS = (
    "--headless=new",
    "--no-sandbox",  # tests run as root in containers
    "--disable-gpu",
    "--disable-dev-shm-usage",  # containers have little of it
    "--no-first-run",
    "--no-default-browser-check",
    "--no-proxy-server",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-extensions",
    "--disable-sync",
    "--host-resolver-rules=MAP *.example 127.0.0.1",  # sites that are not this machine's, to their browser
    "--disable-features=BackForwardCache",  # a page that was left has gone, and so have its connections
    "--remote-debugging-port=0",
)


class Browser:
    """The page of a browser with a profile of its own: ``async with Browser("chromium") as page``.

    Args:
        command: its binary.

    Attributes:
        console: what pages have written to the console, and errors that they did not catch, in order.
        asked: addresses that were answered from what :meth:`serve` was given.
    """

    def __init__(self, command: str) -> None:
        self._command = command
        self.console: list[str] = []
        self.asked: list[str] = []
        self._served: dict[str, tuple[bytes, str]] = {}
        self._ids = itertools.count(1)
        self._answers: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        self._session: str | None = None
        self._preferred: list[dict[str, str]] = []
        self._loaded = asyncio.Event()

    async def __aenter__(self) -> Self:
        self._profile = tempfile.TemporaryDirectory(prefix="chromium-", ignore_cleanup_errors=True)
        self._process = subprocess.Popen(
            [self._command, *OPTIONS, f"--user-data-dir={self._profile.name}", "about:blank"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # it is a dozen processes, which end together
        )
        try:
            async with asyncio.timeout(START_TIMEOUT_S):
                await self._attach()
        except BaseException:
            self._kill()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._connection.transport.abort()
        await asyncio.wait([self._reader, *self._tasks])
        self._kill()

    def _kill(self) -> None:
        try:
            os.killpg(self._process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self._process.wait(STOP_TIMEOUT_S)
        self._profile.cleanup()

    async def _attach(self) -> None:
        file = Path(self._profile.name, "DevToolsActivePort")
        while not file.exists() or not (lines := file.read_text().split()):
            assert self._process.poll() is None, f"{self._command} ended with {self._process.returncode}"
            await asyncio.sleep(STEP_S)
        self._connection: ClientConnection = await connect(
            f"ws://127.0.0.1:{lines[0]}{lines[1]}", max_size=None, ping_interval=None, compression=None, proxy=None
        )
        self._reader = asyncio.create_task(self._read(), name="browser")
        pages = (await self._send("Target.getTargets"))["targetInfos"]
        (page,) = (target["targetId"] for target in pages if target["type"] == "page")
        self._session = (await self._send("Target.attachToTarget", targetId=page, flatten=True))["sessionId"]
        await self._send("Page.enable")
        await self._send("Runtime.enable")

    async def _send(self, method: str, **params: Any) -> dict[str, Any]:
        request_id = next(self._ids)
        answer: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._answers[request_id] = answer
        request = {"id": request_id, "method": method, "params": params}
        if self._session is not None:
            request["sessionId"] = self._session
        await self._connection.send(json.dumps(request))
        async with asyncio.timeout(REQUEST_TIMEOUT_S):
            return await answer

    async def _read(self) -> None:
        try:
            async for raw in self._connection:
                message = json.loads(raw)
                if "id" in message:
                    answer = self._answers.pop(message["id"])
                    if answer.done():
                        continue
                    if "error" in message:
                        answer.set_exception(AssertionError(message["error"]))
                    else:
                        answer.set_result(message["result"])
                else:
                    self._on_event(message["method"], message["params"])
        except ConnectionClosed:
            pass

    def _on_event(self, method: str, params: dict[str, Any]) -> None:
        match method:
            case "Runtime.consoleAPICalled":
                texts = [str(arg.get("value", arg.get("description", ""))) for arg in params["args"]]
                self.console.append(" ".join(texts))
            case "Runtime.exceptionThrown":
                details = params["exceptionDetails"]
                self.console.append(details.get("exception", {}).get("description", details["text"]))
            case "Page.loadEventFired":
                self._loaded.set()
            case "Fetch.requestPaused":
                task = asyncio.create_task(self._fulfil(params["requestId"], params["request"]["url"]))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)

    async def _fulfil(self, request_id: str, url: str) -> None:
        body, media_type = self._served[url]
        self.asked.append(url)
        headers = [{"name": "Content-Type", "value": media_type}, {"name": "Access-Control-Allow-Origin", "value": "*"}]
        content = base64.b64encode(body).decode()
        await self._send(
            "Fetch.fulfillRequest", requestId=request_id, responseCode=200, responseHeaders=headers, body=content
        )

    async def serve(self, url: str, body: bytes, media_type: str) -> None:
        """Answer an address from here, as if its server had."""
        self._served[url] = body, media_type
        await self._send("Fetch.enable", patterns=[{"urlPattern": served} for served in self._served])

    async def open(self, url: str) -> None:
        """Go to a page; returns when its scripts have run. Console and :attr:`asked` begin anew."""
        self.console.clear()
        self.asked.clear()
        self._loaded.clear()
        answer = await self._send("Page.navigate", url=url)
        assert "errorText" not in answer, (url, answer)
        async with asyncio.timeout(REQUEST_TIMEOUT_S):
            await self._loaded.wait()

    async def evaluate(self, script: str) -> Any:
        """The value of a JavaScript expression; of a promise, what it resolves to."""
        answer = await self._send(
            "Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True, userGesture=True
        )
        assert "exceptionDetails" not in answer, (script, answer["exceptionDetails"])
        return answer["result"].get("value")

    async def until(self, script: str, deadline: float = REQUEST_TIMEOUT_S) -> None:
        """Wait until an expression is true."""
        try:
            async with asyncio.timeout(deadline):
                while not await self.evaluate(script):
                    await asyncio.sleep(STEP_S)
        except TimeoutError:
            raise AssertionError(f"not so within {deadline:g} s: {script}; console: {self.console}") from None

    async def click(self, selector: str) -> None:
        """As a user does, on the element's middle."""
        place = await self.evaluate(
            f"(box => [box.x + box.width / 2, box.y + box.height / 2])"
            f"(document.querySelector({json.dumps(selector)}).getBoundingClientRect())"
        )
        for kind in ("mousePressed", "mouseReleased"):
            await self._send("Input.dispatchMouseEvent", type=kind, x=place[0], y=place[1], button="left", clickCount=1)

    async def look(self, width: int, height: int, dark: bool = False) -> None:
        """The size of the window, in CSS pixels, and the colours that its user prefers."""
        await self._send(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False
        )
        self._preferred = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        await self._send("Emulation.setEmulatedMedia", media="", features=self._preferred)

    async def printing(self) -> None:
        """The page as on paper, until :meth:`look` is called."""
        await self._send("Emulation.setEmulatedMedia", media="print", features=self._preferred)

    async def screenshot(self, file: Path) -> None:
        """The page as PNG."""
        file.write_bytes(base64.b64decode((await self._send("Page.captureScreenshot"))["data"]))
