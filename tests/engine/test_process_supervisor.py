"""The process supervisor over a real forkserver and a real control bus."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
import zmq

from actors.backoff import BackoffPolicy
from engine.config import Config, loads
from engine.control import ControlServer
from engine.forkserver import ForkServer
from engine.process_supervisor import ChildProcess, Process, ProcessState, ProcessSupervisor
from engine.runtime_dir import RuntimeDir
from transport.errors import ConfigError, HeliographError, RequestError

ROLE = "tests.engine.roles"
SELDOM = loads("", {"server.heartbeat_interval": 60.0, "server.heartbeat_timeout": 300.0})
CONFIG = loads("", {"server.heartbeat_interval": 0.1, "server.heartbeat_timeout": 0.5})


class Node:
    """What the daemon is to its children, and no more."""

    def __init__(self, runtime: Path, ready_timeout: float = 10.0, config: Config = CONFIG) -> None:
        self.config, self.heartbeat_timeout = config, config.server.heartbeat_timeout
        self.runtime_dir = RuntimeDir(runtime)
        self.forkserver = ForkServer(preload=[ROLE])
        self.children: list[ChildProcess] = []
        self.history: list[tuple[str, ProcessState, str]] = []
        self.escalated: list[str] = []
        self.reports: dict[str, dict[str, Any]] = {}
        self.ready_timeout = ready_timeout
        self.changed = asyncio.Event()

    def child(
        self,
        name: str,
        role: str = ROLE,
        shutdown: float = 5.0,
        backoff: BackoffPolicy | None = None,
        **argument: Any,
    ) -> None:
        config = msgspec.to_builtins(self.config)
        base = {"do": "serve", "name": name, "config": config, "runtime_dir": str(self.runtime_dir.path)}
        self.children.append(
            ChildProcess(role=role, name=name, argument=base | argument, shutdown=shutdown, backoff=backoff)
        )

    async def start(self) -> None:
        self.supervisor = ProcessSupervisor(
            self.children,
            self.forkserver,
            on_change=self.on_change,
            on_escalate=self.escalated.append,
            heartbeat_timeout=self.heartbeat_timeout,
            ready_timeout=self.ready_timeout,
        )
        await self.supervisor.start()

    def on_change(self, process: Process) -> None:
        self.history.append((process.spec.name, process.state, process.reason))
        self.changed.set()

    def on_ready(self, body: dict[str, Any]) -> None:
        self.supervisor.ready(body["name"], body["incarnation"], body)

    def on_report(self, body: dict[str, Any]) -> None:
        if self.supervisor.heard(body["name"], body["incarnation"]):
            self.reports[body["name"]] = body["figures"]
            self.changed.set()

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(10):
            while not condition():
                self.changed.clear()
                await self.changed.wait()

    def __getitem__(self, name: str) -> Process:
        return self.supervisor.processes[name]


@asynccontextmanager
async def node(path: Path, **options: Any) -> AsyncIterator[Node]:
    it = Node(path / "run", **options)
    await it.runtime_dir.acquire()
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    it.control = ControlServer(  # type: ignore[attr-defined]
        context,
        it.runtime_dir.endpoint("control"),
        it,
        heartbeat_interval=it.config.server.heartbeat_interval,
        heartbeat_timeout=it.heartbeat_timeout,
    )
    it.control.start()  # type: ignore[attr-defined]
    try:
        yield it
    finally:
        await it.supervisor.stop()
        it.control.stop()  # type: ignore[attr-defined]
        context.term()
        await it.forkserver.close()
        it.runtime_dir.release()


def test_starts_in_order_and_stops_in_reverse(tmp_path: Path) -> None:
    async def scenario() -> None:
        trace = tmp_path / "trace"
        async with node(tmp_path) as engine:
            engine.child("first", trace=str(trace))
            engine.child("second", role="tests.engine.roles_too", trace=str(trace))
            await engine.start()
            states = [(name, str(state)) for name, state, _ in engine.history]
            assert states == [(name, state) for name in ("first", "second") for state in ("starting", "ready")]
            assert engine["first"].info["pid"] == engine["first"].pid
            await engine.supervisor.stop()
            assert trace.read_text() == "second\nfirst\n"
            assert {process.state for process in engine.supervisor.processes.values()} == {ProcessState.STOPPED}
            assert not engine.escalated

    asyncio.run(scenario())


def test_children_of_a_role_start_and_stop_together(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with node(tmp_path) as engine:
            for i in range(3):
                engine.child(f"worker-{i}", drain=0.4)
            await engine.start()
            assert [str(state) for _, state, _ in engine.history[:3]] == ["starting"] * 3
            loop = asyncio.get_running_loop()
            begun = loop.time()
            await engine.supervisor.stop()
            assert loop.time() - begun < 1.0, "three drains of 0.4 s, at the same time"

    asyncio.run(scenario())


def test_a_killed_child_is_restarted_at_once_and_alone(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with node(tmp_path) as engine:
            engine.child("one")
            engine.child("other")
            await engine.start()
            former, other = engine["one"].pid, engine["other"].pid
            assert former is not None
            os.kill(former, signal.SIGKILL)
            await engine.until(lambda: engine["one"].restarts == 1 and engine["one"].state is ProcessState.READY)
            assert ("one", ProcessState.RESTARTING, "killed by SIGKILL") in engine.history
            assert engine["one"].pid not in (None, former)
            assert engine["other"].pid == other
            assert engine["other"].restarts == 0

    asyncio.run(scenario())


@pytest.mark.parametrize("number", [signal.SIGSTOP])
def test_a_silent_child_is_killed_and_restarted(tmp_path: Path, number: signal.Signals) -> None:
    async def scenario() -> None:
        async with node(tmp_path) as engine:
            engine.child("one")
            await engine.start()
            await engine.until(lambda: "one" in engine.reports)
            former = engine["one"].pid
            assert former is not None
            os.kill(former, number)
            await engine.until(lambda: engine["one"].restarts == 1 and engine["one"].state is ProcessState.READY)
            assert ("one", ProcessState.RESTARTING, "silent for 0.5 s") in engine.history

    asyncio.run(scenario())


def test_a_child_that_reports_lives_on(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with node(tmp_path) as engine:
            engine.child("one")
            await engine.start()
            await engine.until(lambda: engine.reports.get("one", {}).get("reported", 0) > 8)  # 0.8 s, and 0.5 s to die
            assert engine["one"].restarts == 0

    asyncio.run(scenario())


def test_a_child_whose_loop_hangs_is_silent(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with node(tmp_path) as engine:
            engine.child("one", mute=True)
            starting = asyncio.create_task(engine.start())
            await engine.until(lambda: ("one", ProcessState.RESTARTING, "silent for 0.5 s") in engine.history)
            starting.cancel()
            await asyncio.gather(starting, return_exceptions=True)

    asyncio.run(scenario())


def test_a_child_that_does_not_get_ready_is_killed(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with node(tmp_path, ready_timeout=0.3) as engine:
            engine.child("one", do="hang")
            starting = asyncio.create_task(engine.start())
            await engine.until(lambda: ("one", ProcessState.RESTARTING, "not ready after 0.3 s") in engine.history)
            starting.cancel()
            await asyncio.gather(starting, return_exceptions=True)

    asyncio.run(scenario())


def test_one_that_keeps_dying_escalates(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with node(tmp_path) as engine:
            engine.child("fine")
            engine.child("doomed", role="tests.engine.roles_too", do="exit", code=3)
            with pytest.raises(HeliographError, match=r"doomed needs more than 10 restarts within 60 s.*code 3"):
                await engine.start()
            assert engine["doomed"].restarts == 10
            assert len(engine.escalated) == 1
            assert engine["fine"].state is ProcessState.READY, "stopping is the daemon's decision"

    asyncio.run(scenario())


def test_an_applications_process_may_die_as_often_as_it_likes(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with node(tmp_path) as engine:
            quick, slow = (
                BackoffPolicy(first_s=0.001, cap_s=0.002),
                BackoffPolicy(first_s=3_600, cap_s=3_600, jitter=False),
            )
            engine.child("doomed", role="tests.engine.roles_too", do="exit", code=3, backoff=quick)
            engine.child("once", role="tests.engine.roles_too", do="exit", code=3, backoff=slow)
            engine.child("fine")
            await engine.start()
            assert engine["fine"].state is ProcessState.READY
            await engine.until(lambda: engine["doomed"].restarts > 12)
            assert not engine.escalated
            assert (engine["once"].state, engine["once"].restarts) == (ProcessState.RESTARTING, 1)
            assert engine["once"].reason == "exited with code 3"
            async with asyncio.timeout(10):
                await engine.supervisor.stop()  # does not wait for the next life
            assert engine["once"].state is ProcessState.STOPPED

    asyncio.run(scenario())


def test_also_an_applications_process_may_refuse_its_configuration_at_the_start(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with node(tmp_path) as engine:
            engine.child("one", do="refuse", backoff=BackoffPolicy(first_s=3_600, cap_s=3_600, jitter=False))
            with pytest.raises(ConfigError, match="one refuses its configuration"):
                await engine.start()

    asyncio.run(scenario())


def test_a_refused_configuration_is_not_tried_again(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with node(tmp_path) as engine:
            engine.child("one", do="refuse")
            with pytest.raises(ConfigError, match="one refuses its configuration"):
                await engine.start()
            assert engine["one"].restarts == 0

    asyncio.run(scenario())


def test_one_that_does_not_stop_is_killed_at_its_deadline(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with node(tmp_path) as engine:
            engine.child("slow", drain=60, shutdown=0.3)
            await engine.start()
            loop = asyncio.get_running_loop()
            begun = loop.time()
            await engine.supervisor.stop()
            assert 0.3 <= loop.time() - begun < 2
            assert engine["slow"].restarts == 0

    asyncio.run(scenario())


def test_kill_cuts_a_stop_short(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with node(tmp_path) as engine:
            engine.child("slow", drain=60, shutdown=60)
            await engine.start()
            stopping = asyncio.create_task(engine.supervisor.stop())
            await engine.until(lambda: engine["slow"].state is ProcessState.STOPPING)
            engine.supervisor.kill()
            await asyncio.wait_for(stopping, 5)

    asyncio.run(scenario())


def test_stop_in_the_middle_of_the_start(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with node(tmp_path) as engine:
            engine.child("one", do="hang", shutdown=0.1)
            engine.child("never", role="tests.engine.roles_too")
            starting = asyncio.create_task(engine.start())
            await engine.until(lambda: ("one", ProcessState.STARTING, "") in engine.history)
            starting.cancel()
            await asyncio.gather(starting, return_exceptions=True)
            await asyncio.wait_for(engine.supervisor.stop(), 5)
            assert all(name == "one" for name, _, _ in engine.history)

    asyncio.run(scenario())


def test_words_from_an_earlier_life_do_not_count(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with node(tmp_path) as engine:
            engine.child("one")
            await engine.start()
            assert engine.supervisor.heard("one", engine["one"].incarnation)
            assert not engine.supervisor.heard("one", "an earlier one")
            assert not engine.supervisor.heard("nobody", engine["one"].incarnation)
            engine.supervisor.ready("one", "an earlier one", {"pid": 0})
            assert engine["one"].info["pid"] == engine["one"].pid

    asyncio.run(scenario())


def test_reload_reaches_all_and_says_who_refused(tmp_path: Path) -> None:
    def configured(connections: int) -> Config:
        return loads("", {"limits.connections": connections})

    async def scenario() -> None:
        async with node(tmp_path) as engine:
            engine.child("one")
            engine.child("two")
            await engine.start()
            control: ControlServer = engine.control  # type: ignore[attr-defined]
            assert await control.reload(configured(7)) == {}
            refused = await control.reload(configured(13))
            assert set(refused) == {"one", "two"}
            assert "limits.connections: unlucky" in str(refused["one"])
            await engine.until(
                lambda: {name: r["reloads"] for name, r in engine.reports.items()} == {"one": [7], "two": [7]}
            )

    asyncio.run(scenario())


def test_what_an_ask_changed_is_reported_before_it_is_answered(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with node(tmp_path) as engine:
            engine.child("one")
            await engine.start()
            control: ControlServer = engine.control  # type: ignore[attr-defined]
            for n in range(20):
                assert await control.ask("one", "tell", n) == n
                assert engine.reports["one"]["news"] == list(range(n + 1))
            with pytest.raises(RequestError) as caught:
                await control.ask("one", "tell", "refuse")
            assert (caught.value.code, caught.value.field) == ("conflict", "body")
            with pytest.raises(RequestError) as caught:
                await control.ask("two", "tell", 1)
            assert caught.value.code == "unavailable"
            assert await control.reload(CONFIG) == {}
            assert engine.reports["one"]["reloads"] == [CONFIG.limits.connections]

    asyncio.run(scenario())


def test_changes_are_reported_at_once_but_together(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with node(tmp_path, config=SELDOM) as engine:
            engine.child("one", changes=1_000)
            await engine.start()
            await engine.until(lambda: engine.reports.get("one", {}).get("reported") == 1)
            control: ControlServer = engine.control  # type: ignore[attr-defined]
            for expected in (3, 5, 7):  # one with the answer, one for a thousand changes
                await control.ask("one", "tell", expected)
                await engine.until(lambda: engine.reports["one"]["reported"] >= expected)  # noqa: B023  (used at once)
            assert engine.reports["one"]["reported"] == 7

    asyncio.run(scenario())


def test_a_report_says_what_holds_now(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with node(tmp_path, config=SELDOM) as engine:
            engine.child("one", do="node")
            await engine.start()
            await engine.until(lambda: "one" in engine.reports)
            assert engine.reports["one"]["connections"] == 1, "it was looked at before"

    asyncio.run(scenario())


@pytest.mark.parametrize("refresh", ["hang", "raise"])
def test_a_child_that_cannot_be_looked_at_is_not_taken_for_dead(tmp_path: Path, refresh: str) -> None:
    async def scenario() -> None:
        async with node(tmp_path) as engine:
            engine.child("one", do="node", refresh=refresh)
            await engine.start()
            await engine.until(lambda: engine.reports.get("one", {}).get("connections", 0) > 2)
            assert engine["one"].restarts == 0

    asyncio.run(scenario())


def test_stop_by_word(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with node(tmp_path) as engine:
            engine.child("one")
            await engine.start()
            engine.control.tell("stop")  # type: ignore[attr-defined]
            await engine.until(lambda: ("one", ProcessState.RESTARTING, "exited with code 0") in engine.history)

    asyncio.run(scenario())
