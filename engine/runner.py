"""``heliograph run``: an engine until a signal ends it.

SIGTERM and SIGINT drain and stop it, a second one stops it at once; SIGHUP reloads the configuration.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Protocol

import uvloop

from engine import log
from engine.config import Config
from engine.daemon import Daemon
from engine.descriptors import raise_descriptor_limit, shortage
from engine.log import get_logger
from engine.notify import Notifier
from transport.errors import ConfigError, HeliographError
from transport.listener import bind

OK, FAILED, BAD_CONFIG = 0, 1, 2


class Runnable(Protocol):
    """An engine: :class:`engine.daemon.Daemon` or :class:`engine.local.LocalEngine`."""

    port: int
    admin_port: int

    async def start(self) -> None: ...
    async def wait(self) -> None: ...
    async def stop(self) -> None: ...
    async def reload(self, config: Config, /) -> list[str]: ...


def run(config: Config, with_demo: bool = False, load: Callable[[], Config] | None = None) -> int:
    """Run the engine in this process; returns the exit code.

    Args:
        config: what to run.
        with_demo: with a replay exchange and a feed that reads it.
        load: reads the configuration again, for SIGHUP; ``None``: there is nothing to read.
    """
    log.configure("daemon", config.server.node_name(), config.log.level, config.log.format)
    if short := shortage(config.limits.connections, raise_descriptor_limit()):
        get_logger().warning("descriptors_short", reason=short)
    try:
        uvloop.run(_Runner(config, with_demo, load).run())
    except ConfigError as error:
        get_logger().critical("config_error", error=str(error))
        return BAD_CONFIG
    except HeliographError as error:
        get_logger().critical("engine_stopped", error=str(error))
        return FAILED
    return OK


class _Runner:
    def __init__(self, config: Config, with_demo: bool, load: Callable[[], Config] | None) -> None:
        self._config, self._with_demo = config, with_demo
        self._read_again = load
        self._load = self._reload_log if load is not None else None
        self._engine: Runnable | None = None
        self._reloading: asyncio.Task[None] | None = None
        self._started = asyncio.Event()
        self._asked = asyncio.Event()  # to stop
        self._complete: Callable[[Config], Config] = lambda config: config

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_stop_signal)
        loop.add_signal_handler(signal.SIGHUP, self._on_reload_signal)
        async with AsyncExitStack() as stack:
            engine = self._engine = await self._make(stack)
            running = asyncio.create_task(self._run(engine), name="engine")
            asked = asyncio.create_task(self._asked.wait(), name="signals")
            try:
                await asyncio.wait((running, asked), return_when=asyncio.FIRST_COMPLETED)
            finally:
                tasks = [task for task in (running, asked, self._reloading) if task is not None]
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
                await engine.stop()
        if not running.cancelled():
            running.result()

    async def _make(self, stack: AsyncExitStack) -> Runnable:
        workers = self._config.server.worker_count()
        if not self._with_demo:
            if workers:
                return Daemon(self._config, notifier=Notifier(), load=self._load)
            return self._local(self._config)
        from engine import demo  # the exchange's libraries are not for every daemon

        if workers:
            with bind(demo.HOST, 0, reuse_port=False) as sock:
                port = sock.getsockname()[1]
            return Daemon(self._config, demo_port=port, notifier=Notifier(), load=self._load)
        exchange = await stack.enter_async_context(demo.exchange(0))
        self._complete = lambda config: demo.with_demo(config, exchange.port)  # a Daemon does it itself
        return self._local(self._complete(self._config))

    def _local(self, config: Config) -> Runnable:
        from engine.local import LocalEngine  # not for a daemon, which is as small as it can be

        return LocalEngine(config, None if self._load is None else self._load_complete, Notifier())

    async def _run(self, engine: Runnable) -> None:
        await engine.start()
        self._started.set()
        config = self._config
        client, admin = _shown(config.server.host, engine.port), _shown(config.admin.host, engine.admin_port)
        admin = f"{config.admin.scheme}://{admin}"
        url = f"{config.server.scheme}://{client}/ws"
        print(f"ready {url} admin {admin}", flush=True)  # noqa: T201 - the contract's line
        if self._with_demo:
            get_logger().info(
                "demo_runs",
                look=f"heliograph subscribe 'price.>' --url {url}",
                dashboard=f"{admin}/",
            )
        await engine.wait()

    def _on_stop_signal(self) -> None:
        if not self._asked.is_set():
            self._asked.set()
            get_logger().info("stop_asked")
        elif isinstance(self._engine, Daemon):
            self._engine.kill()
        else:
            sys.stdout.flush()
            os._exit(OK)  # one process: nothing outside of it is left

    def _on_reload_signal(self) -> None:
        if self._engine is not None and (self._reloading is None or self._reloading.done()):
            self._reloading = asyncio.create_task(self._reload(self._engine), name="reload")

    async def _reload(self, engine: Runnable) -> None:
        if self._load is None:
            get_logger().warning("reload_failed", error="there is no configuration file")
            return
        try:
            await self._started.wait()
            await engine.reload(self._load_complete())
        except HeliographError as error:
            get_logger().error("reload_failed", error=str(error))

    def _load_complete(self) -> Config:
        assert self._load is not None
        return self._complete(self._load())

    def _reload_log(self) -> Config:
        """The configuration as it is now; this process's own part of it, the log, is put in force at once."""
        assert self._read_again is not None
        config = self._read_again()
        log.configure("daemon", config.server.node_name(), config.log.level, config.log.format)
        return config


def _shown(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
