"""The engine for code without a loop: an embedded :class:`engine.embedded.Engine` in a thread of its own."""

from __future__ import annotations

import time
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, Self, TypeVar, cast

from engine.cli_admin import ask
from engine.client import Client
from engine.embedded import Engine
from engine.loop_thread import LoopThread
from transport.errors import HeliographError

if TYPE_CHECKING:
    from engine.sync_client import SyncClient
    from transport.position import Position

START_TIMEOUT_S = 10.0
STOP_TIMEOUT_S = 10.0
CALL_TIMEOUT_S = 10.0
WAIT_TIMEOUT_S = 5.0
LOOK_EVERY_S = 0.005
T = TypeVar("T")


class EngineThread:
    """``with EngineThread(feeds={...}) as engine: engine.publish(…)``: hub, feeds and one worker in one thread.

    Every method may be called from any thread but the engine's own, and blocks only that one.

    Args:
        config, settings: as :class:`engine.embedded.Engine`; without others, the ports are free ones.

    Raises:
        ConfigError: naming the field; when it starts.
    """

    def __init__(self, config: Any = None, **settings: Any) -> None:
        if config is None:
            settings = {"workers": 0, "port": 0, "admin_port": 0} | settings
        self._make: Callable[[], Engine] = lambda: Engine(config, **settings)
        self._engine: Engine | None = None
        self._thread: LoopThread[Engine] | None = None

    def __enter__(self) -> Self:
        if self._thread is not None:
            raise HeliographError("the engine runs already")
        self._thread = LoopThread("heliograph-engine", self._make)
        try:
            self._engine = self._thread.start(START_TIMEOUT_S)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        thread, self._thread = self._thread, None
        ended = thread is None or thread.stop(STOP_TIMEOUT_S)
        self._engine = None
        if not ended:
            raise HeliographError(f"the engine did not stop within {STOP_TIMEOUT_S:g} s")

    @property
    def url(self) -> str:
        """Where clients connect."""
        return self._running().url

    @property
    def admin_url(self) -> str:
        """The admin API."""
        return self._running().admin_url

    def client(self, **options: Any) -> SyncClient:
        """A client of this engine for code without a loop; use it with ``with``."""
        return Client.sync(self.url, **options)

    def publish(
        self, topic: str, data: Any, type: str = "message", key: str | None = None, priority: str | None = None
    ) -> Position:
        """As :meth:`engine.embedded.Engine.publish`."""
        return self._call(self._running().publish(topic, data, type=type, key=key, priority=priority))

    def stats(self) -> dict[str, Any]:
        """The engine at a glance: ``GET /stats``."""
        return cast("dict[str, Any]", self._ask("GET", "/stats"))

    def feeds(self) -> dict[str, dict[str, Any]]:
        """All feeds as ``GET /api/feeds`` has them."""
        return cast("dict[str, dict[str, Any]]", self._ask("GET", "/api/feeds")["feeds"])

    def feed(self, name: str) -> dict[str, Any]:
        """One feed; :class:`LookupError` where there is none of that name."""
        feeds = self.feeds()
        if name not in feeds:
            raise LookupError(f"no feed {name!r}; there are {sorted(feeds)}")
        return feeds[name]

    def operate_feed(self, name: str, action: str) -> dict[str, Any]:
        """``reset``, ``disconnect`` or ``connect`` it, as an operator does; the feed afterwards.

        Raises:
            RequestError: ``not_found``; ``conflict``: it cannot be connected while it is.
        """
        return cast("dict[str, Any]", self._ask("POST", f"/api/feeds/{name}/{action}"))

    def wait_feed(self, name: str, state: str = "connected", timeout: float = WAIT_TIMEOUT_S) -> dict[str, Any]:
        """The feed once it is in this state.

        Raises:
            TimeoutError: it is in another one after ``timeout`` seconds; the message says in which, and why.
        """
        until = time.monotonic() + timeout
        while True:
            feed = self.feeds().get(name, {"state": "not there", "reason": None})
            if feed["state"] == state:
                return feed
            if time.monotonic() > until:
                raise TimeoutError(
                    f"feed {name!r} is {feed['state']} after {timeout:g} s, not {state}: {feed['reason']}"
                )
            time.sleep(LOOK_EVERY_S)

    def _running(self) -> Engine:
        if self._engine is None:
            raise HeliographError("the engine does not run")
        return self._engine

    def _call(self, work: Coroutine[Any, Any, T]) -> T:
        if self._thread is None:
            work.close()
            raise HeliographError("the engine does not run")
        return self._thread.run(work, CALL_TIMEOUT_S)

    def _ask(self, method: str, path: str) -> Any:
        return ask(method, self.admin_url, path, self._running().config.admin.api_key)
