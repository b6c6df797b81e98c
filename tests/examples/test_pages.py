"""Every page of the documentation: links lead somewhere, commands are understood, what is shown is run somewhere."""

from __future__ import annotations

import asyncio
import inspect
import json
import re
import sys
import tomllib
from pathlib import Path
from types import ModuleType

import pytest

import heliograph
from engine import config
from heliograph import Client, Engine
from tests.examples.snippets import (
    PAGES,
    ROOT,
    SHELL,
    anchors,
    blocks,
    calls_of,
    command_lines,
    links,
    once,
    understand,
)
from transport.requests import RequestDecoder

NAMES = {page.relative_to(ROOT).as_posix(): page for page in PAGES}
DEADLINE = 30.0

PYTHON = ("README.md", "docs/alerts.md", "docs/python.md", "docs/quickstart.md", "docs/users.md")
"""Their Python is run here, in order, each block seeing what those before it have defined."""
TOML = ("README.md", "docs/groups.md", "docs/python.md", "docs/quickstart.md", "docs/users.md")
"""Their tables are a configuration each."""
ELSEWHERE = {
    "README.md": "tests/integration/test_javascript_client.py",
    "clients/js/README.md": "tests/integration/test_javascript_client.py",
    "docs/alert-rules.md": "tests/examples/test_alert_rules_guide.py",
    "docs/backplane.md": "tests/examples/test_backplane_guide.py",
    "docs/browser.md": "tests/integration/test_javascript_client.py",
    "docs/calls.md": "tests/examples/test_calls_guide.py",
    "docs/deployment.md": "tests/examples/test_deployment_guide.py",
    "docs/durable.md": "tests/examples/test_durable_guide.py",
    "docs/feeds.md": "tests/examples/test_feeds_guide.py",
    "docs/loadtest.md": "tests/examples/test_loadtest_guide.py",
    "docs/logs.md": "tests/engine/test_logs_guide.py",
    "docs/metrics.md": "tests/integration/test_sampled.py",
    "docs/parameters.md": "tests/examples/test_parameters_guide.py",
    "docs/progress.md": "tests/examples/test_progress_guide.py",
    "docs/protocol.md": "tests/integration/test_protocol.py",
    "docs/recovery.md": "tests/examples/test_recovery_guide.py",
    "docs/redis.md": "tests/examples/test_redis_guide.py",
    "docs/security.md": "tests/examples/test_security_guide.py",
    "docs/services.md": "tests/examples/test_services_guide.py",
    "docs/socketio.md": "tests/examples/test_socketio_guide.py",
    "docs/testing.md": "tests/test_heliograph_pytest.py",
    "docs/tracing.md": "tests/engine/test_tracing.py",
}
"""What else they show is run, or compared, by that file."""
NOT_RUN = {
    (
        "docs/chaining.md",
        "toml",
    ): "its token is in a file of somebody's; tests/integration/test_chaining.py has such",
    ("docs/closing.md", "json"): "a message; tests/integration/test_closing.py gets one",
    ("docs/configuration.md", "toml"): "a feed; docs/feeds.md has it",
    ("docs/groups.md", "json"): "messages, read below; docs/protocol.md has the like, run",
    ("README.md", "js"): "a page of examples/fx, which tests/fx/test_example_clients.py opens",
}


def _languages(page: Path) -> set[str]:
    return {language for language, _ in blocks(page) if language not in ("", *SHELL)}


@pytest.mark.parametrize("name", NAMES)
def test_its_links_lead_somewhere(name: str) -> None:
    page = NAMES[name]
    for link in links(page):
        if re.match(r"\w+:", link):
            continue
        file, _, anchor = link.partition("#")
        target = (page.parent / file).resolve() if file else page
        assert target.exists(), link
        if anchor and target.suffix == ".md":
            assert anchor in anchors(target), link


def test_every_page_is_on_the_map() -> None:
    there = {(ROOT / "docs" / link.partition("#")[0]).resolve() for link in links(ROOT / "docs/README.md")}
    assert {page for page in PAGES if page.parent.name == "docs" and page.name != "README.md"} <= there


@pytest.mark.parametrize("name", NAMES)
def test_its_commands_are_understood(name: str) -> None:
    for language, text in blocks(NAMES[name]):
        for line in command_lines(text, console=language == "console") if language in SHELL else ():
            for arguments in calls_of(line):
                understand(arguments)


@pytest.mark.parametrize("name", NAMES)
def test_what_it_shows_is_run(name: str) -> None:
    for language in _languages(NAMES[name]):
        if (name in PYTHON and language == "python") or (name in TOML and language == "toml"):
            continue
        if (name, language) in NOT_RUN:
            continue
        assert name in ELSEWHERE, f"{language} of {name} is run by no test"
        assert Path(name).name in (ROOT / ELSEWHERE[name]).read_text(encoding="utf-8"), ELSEWHERE[name]


def test_the_lists_are_of_what_there_is() -> None:
    for name, language in [*NOT_RUN, *((name, "python") for name in PYTHON), *((name, "toml") for name in TOML)]:
        assert language in _languages(NAMES[name]), (name, language)
    assert all(_languages(NAMES[name]) for name in ELSEWHERE)


@pytest.mark.parametrize("name", TOML)
def test_its_tables_are_a_configuration(name: str) -> None:
    tables = [text for language, text in blocks(NAMES[name]) if language == "toml"]
    assert tables
    for text in tables:
        tomllib.loads(text)
        config.loads(text)


def test_the_messages_of_groups_are_ones() -> None:
    (text,) = [text for language, text in blocks(NAMES["docs/groups.md"]) if language == "json"]
    for line in text.splitlines():
        message = json.loads(line[2:].replace(",…", ""))
        if line.startswith("→"):
            RequestDecoder(binary=False).decode(json.dumps(message).encode())
        else:
            assert message["op"] == "event"


async def _keep_publishing(engine: Engine) -> None:
    """So that whoever subscribes gets something soon."""
    while True:
        for topic in ("price.EUR_USD", "alert.x", "jobs.a", "user.alice"):
            await engine.publish(topic, {"bid": 1.5, "tier": "daily", "confidence": 0.9}, key="k")
        await asyncio.sleep(0.01)


@pytest.mark.parametrize("name", PYTHON)
def test_its_python_runs(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("preferences.json").write_text("{}")
    snippets = [text for language, text in blocks(NAMES[name]) if language == "python"]
    assert snippets
    jobs = {"jobs.>": {"strategy": "load_balanced", "acks": True}}
    # What a page has introduced in its text.
    module = ModuleType("shown")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    names = vars(module)
    names |= {name: getattr(heliograph, name) for name in heliograph.__all__} | {"send": json.dumps}

    async def main() -> None:
        async with Engine(workers=0, port=0, admin_port=0, topics=jobs) as engine:
            monkeypatch.setenv("HELIOGRAPH_URL", engine.url)
            publishing = asyncio.create_task(_keep_publishing(engine))
            for text in snippets:
                here = (
                    text.replace("ws://127.0.0.1:8765/ws", engine.url)
                    .replace("http://127.0.0.1:8766", engine.admin_url)
                    .replace("Engine(workers=0, pipeline", "Engine(workers=0, port=0, admin_port=0, pipeline")
                )
                assert "Engine(workers=0)" not in here, "it would take the ports of an engine that is in use"
                code = once(here, name)
                async with asyncio.timeout(DEADLINE), Client(engine.url) as client:
                    names["client"] = client
                    if code.co_flags & inspect.CO_COROUTINE:
                        await eval(code, names)
                    else:
                        await asyncio.to_thread(exec, code, names)
            publishing.cancel()
            await asyncio.wait([publishing])

    asyncio.run(main())
