"""``docs/feeds.md`` says what is so: its tables, maps, commands and outputs are compared with the real ones."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, NoReturn

import msgspec
import pytest

from actors.failure import POLICIES, Failure, FailureKind
from actors.feed import Feed, FeedSpec
from actors.feed_protocol import FeedGap, MappedProtocol, ProtocolSpec
from actors.feed_state import TRANSITIONS, FeedState
from actors.mapping import BadMessage, FeedMap, Mapper, Row
from engine import config
from engine.cli import execute
from heliograph import Event, Fault
from transport.messages import Publish

ROOT = Path(__file__).parents[2]
GUIDE = (ROOT / "docs/feeds.md").read_text(encoding="utf-8")
START_TIMEOUT_S = 30.0
REPLAY_PORT, ADMIN = "8767", "localhost:8766"


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", GUIDE, re.M | re.S)


def table(head: str) -> list[list[str]]:
    """The cells below the table's first row, which begins with ``head``."""
    rows = re.search(rf"^\| {re.escape(head)}.*\n\|[-| ]+\n((?:\|.*\n)+)", GUIDE, re.M)
    assert rows is not None, head
    return [[cell.strip() for cell in row.strip("| ").split(" | ")] for row in rows[1].splitlines()]


def named(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


# tables and diagrams --------------------------------------------------------------------------------------------------


def test_the_table_of_failures_is_the_policies() -> None:
    told = {named(kind)[0]: rest for kind, _, *rest in table("kind | what happened")}
    real = {
        kind.value: [
            f"{policy.patience:g} ×",
            "counts" if policy.counts else "–",
            "yes" if policy.failover else "–",
            "needed" if policy.needs_token else "–",
        ]
        for kind, policy in POLICIES.items()
    }
    assert told == real
    assert set(real) == set(FailureKind)


def test_the_diagram_is_the_transitions() -> None:
    (diagram,) = blocks("mermaid")
    told = re.findall(r"^ *(\w+) --> (\w+)$", diagram, re.M)
    assert sorted(told) == sorted((old.value, new.value) for old, to in TRANSITIONS.items() for new in to)


class Told:
    """A publisher that keeps what a feed says of itself."""

    def __init__(self) -> None:
        self.events: list[Publish] = []

    def publish(self, batch: list[Publish]) -> None:
        self.events += batch

    @property
    def is_writable(self) -> bool:
        return True

    async def writable(self) -> None:
        raise AssertionError("nobody connects")


@pytest.fixture
def told() -> Told:
    return Told()


@pytest.fixture
def feed(told: Told) -> Feed:
    protocol = ProtocolSpec(MappedProtocol, {"maps": (FeedMap(topic="x"),)})
    return Feed(FeedSpec("fx", ("ws://localhost",), protocol), told)


def test_every_field_of_a_feed_is_explained(feed: Feed) -> None:
    assert sorted(name for field, _ in table("field | meaning") for name in named(field)) == sorted(feed.snapshot())
    breaker = next(meaning for field, meaning in table("field | meaning") if field == "`breaker`")
    assert set(named(breaker)) <= feed.snapshot()["breaker"].keys()


def test_every_reason_of_a_bad_message_is_named() -> None:
    (line,) = re.findall(r"^Reasons in `bad`: (.*?)\. ", GUIDE, re.M)
    assert named(line) == [reason.value for reason in BadMessage]


def test_a_feeds_own_events_look_as_shown(feed: Feed, told: Told) -> None:
    for _ in range(5):
        feed.recovery.failed(Failure(FailureKind.REFUSED, ""))
    feed.enter(FeedState.CONNECTING)
    told.publish([feed.gap(FeedGap("sequence", "EUR_USD", 9, 11))])
    real = {event.type: (event.topic, list(json.loads(event.data))) for event in told.events}
    shown = [json.loads(line) for line in outputs("heliograph subscribe 'system.feeds.*' --snapshot")]
    assert {event["type"]: (event["topic"], list(event["data"])) for event in shown} == real


@pytest.mark.parametrize("link", sorted(set(re.findall(r"\]\(([^)]+)\)", GUIDE))))
def test_a_link_leads_somewhere(link: str) -> None:
    file, _, anchor = link.partition("#")
    page = (ROOT / "docs" / file) if file else ROOT / "docs/feeds.md"
    assert page.exists()
    if anchor:
        heads = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.M)
        assert anchor in [re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads]


# configuration and maps -----------------------------------------------------------------------------------------------


def whole(toml: str) -> str:
    return toml if "url =" in toml else f'[feeds.x]\nurl = "ws://localhost"\n{toml}'


@pytest.mark.parametrize("toml", blocks("toml"))
def test_a_table_can_be_used(toml: str) -> None:
    assert config.loads(whole(toml)).feeds


RECIPES = re.findall(r"^```json\n(.*?)^```\n\n```toml\n(.*?)^```\n\n```json\n(.*?)^```", GUIDE, re.M | re.S)


def test_there_are_recipes() -> None:
    assert len(RECIPES) == len(re.findall(r"^\[feeds\.x\.map\]", GUIDE, re.M)) > 0


@pytest.mark.parametrize(("message", "toml", "events"), RECIPES, ids=range(len(RECIPES)))
def test_a_recipe_makes_these_events(message: str, toml: str, events: str) -> None:
    rows = Mapper(config.loads(whole(toml)).feeds["x"].map).map(message.strip()).rows
    assert [as_shown(row.event) for row in rows if isinstance(row, Row)] == events.splitlines()
    assert len(rows) == len(events.splitlines())


def as_shown(event: Publish) -> str:
    fields = {"topic": event.topic, "type": event.type, "key": event.key, "source_ts": event.source_ts}
    fields = {name: value for name, value in fields.items() if value is not None}
    return msgspec.json.encode({**fields, "data": msgspec.Raw(event.data)}).decode()


def test_the_sample_is_read_as_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    command = "heliograph check-config mine.toml --sample mine messages.ndjson"
    monkeypatch.chdir(tmp_path)
    for name, text in re.findall(r"`(mine\.toml|messages\.ndjson)`:\n\n```\w+\n(.*?)^```", GUIDE, re.M | re.S):
        Path(name).write_text(text)
    assert execute_code(command) == 1
    out, err = capfd.readouterr()
    shown = outputs(command)
    assert (out.splitlines(), err.splitlines()) == (shown[1:-1], [shown[0], shown[-1]])


# commands -------------------------------------------------------------------------------------------------------------


def commands() -> Iterator[tuple[str, list[str]]]:
    """Each command and what is shown below it."""
    for block in blocks("console"):
        for text in block.removeprefix("$ ").split("\n$ "):
            command, *lines = text.splitlines()
            yield command, lines


def outputs(command: str) -> list[str]:
    return next(lines for found, lines in commands() if found == command)


def execute_code(command: str) -> int:
    """Run a ``heliograph`` command in this process; its exit code."""
    try:
        code = execute(shlex.split(command)[1:])
    except SystemExit as ended:
        assert isinstance(ended.code, int)
        code = ended.code
    sys.stdout.flush()
    return code


class Servers:
    """``heliograph replay`` and ``run`` of the guide, on free ports."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._processes: list[subprocess.Popen[str]] = []

    def start(self, command: str, *options: str) -> list[str]:
        """The words of its ready line."""
        process = subprocess.Popen(
            [sys.executable, "-m", "engine", *shlex.split(command)[1:], *options],
            cwd=self._directory,
            env=os.environ | {"PYTHONPATH": str(ROOT), "HELIOGRAPH_SERVER__RUNTIME_DIR": str(self._directory / "run")},
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self._processes.append(process)
        assert process.stdout is not None
        ready = process.stdout.readline().split()
        assert ready, f"{command}: not ready, exit code {process.wait(START_TIMEOUT_S)}"
        return ready

    def stop(self) -> None:
        for process in reversed(self._processes):
            process.terminate()
            process.wait(START_TIMEOUT_S)
            assert process.stdout is not None
            process.stdout.close()


@pytest.fixture
def servers(monkeypatch: pytest.MonkeyPatch) -> Iterator[Servers]:
    directory = Path(os.path.realpath("/tmp")) / f"helio-guide-{os.getpid()}"  # short: a socket's path has 107 bytes
    directory.mkdir()
    (directory / "examples").symlink_to(ROOT / "examples")
    monkeypatch.chdir(directory)
    found = Servers(directory)
    yield found
    found.stop()
    shutil.rmtree(directory)


def test_every_command_does_what_is_shown(
    servers: Servers,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    missing: Callable[[str], NoReturn],
) -> None:
    if shutil.which("curl") is None:
        missing("curl")
    admin = ""
    for command, shown in commands():
        if command.startswith("heliograph replay"):
            ready = servers.start(command, "--port", "0")
            first = blocks("toml")[0].replace(REPLAY_PORT, ready[1].rpartition(":")[2].partition("/")[0])
            Path("feeds.toml").write_text(first)
        elif command.startswith("heliograph run"):
            ready = servers.start(command, "--port", "0", "--admin-port", "0", "--workers", "1")
            assert [*ready[::2]] == ["ready", "admin"] == [*shown[0].split()[::2]]
            admin = ready[3]
            monkeypatch.setenv("HELIOGRAPH_URL", ready[1])
            monkeypatch.setenv("HELIOGRAPH_ADMIN_URL", admin)
        elif command.startswith("heliograph subscribe"):
            assert execute_code(command if "--count" in command else f"{command} --count 1") == 0
            event = json.loads(capfd.readouterr().out)
            assert list(event) == list(json.loads(shown[0]))
        elif command.startswith("curl"):
            answer = json.loads(run(*shlex.split(command.replace(ADMIN, admin.removeprefix("http://")))))
            assert "error" not in answer, (command, answer)
        elif command.startswith("python"):
            assert run(sys.executable, *shlex.split(command)[1:]).splitlines() == shown
        elif "--sample" not in command:
            assert execute_code(command) == 0, command
            captured = capfd.readouterr()
            assert not shown or captured.err.splitlines() == shown


def run(*command: str) -> str:
    environ = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, timeout=60, env=environ).stdout


# a protocol of one's own ----------------------------------------------------------------------------------------------


def test_the_protocol_in_the_guide_works() -> None:
    (code,) = blocks("python")
    found: dict[str, Any] = {}
    exec(compile(code, "docs/feeds.md", "exec"), found)
    quotes = found["Quotes"](symbols=["BTC-USD"])
    quotes.opened()
    assert json.loads(quotes.outgoing[0]) == {"method": "SUBSCRIBE", "params": ["BTC-USD"]}
    assert quotes.receive(b'{"result":null,"id":1}') == []
    event = Event(topic="price.BTC-USD", type="price_update", payload=b'{"price":68900.10}')
    assert quotes.receive(b'{"e":"tick","s":"BTC-USD","p":"68900.10"}') == [event]


@pytest.fixture
def symbols() -> list[str]:
    return ["BTC-USD"]


@pytest.fixture
def heliograph_config(mock_exchange: Any, symbols: list[str], monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    feed = {
        "url": mock_exchange.url,
        "protocol": "my_feed:TickFeed",
        "options": {"symbols": symbols},
        "backoff_initial": 0.01,
        "backoff_max": 0.02,
    }
    return {"feeds": {"mine": feed}}


@pytest.mark.heliograph(exchange={"rate": 0, "resume": True})
def test_my_feed_loses_nothing(mock_exchange: Any, heliograph_client: Any) -> None:
    with heliograph_client.subscribe("price.*") as prices:
        mock_exchange.wait_request("SUBSCRIBE")
        ticks = mock_exchange.tick(2, "BTC-USD")
        events = [prices.get(timeout=5) for _ in range(2)]
        mock_exchange.reset()
        ticks += mock_exchange.tick(2, "BTC-USD")
        mock_exchange.wait_request("RESUME")
        ticks += mock_exchange.tick(1, "BTC-USD")
        events += [prices.get(timeout=5) for _ in range(3)]
    sent = [json.loads(tick.text)["p"] for tick in ticks]
    assert [f"{event.exact['price']}" for event in events] == sent
    assert all(b.exact["change"] == b.exact["price"] - a.exact["price"] for a, b in pairwise(events))


@pytest.mark.heliograph(exchange={"rate": 0, "resume": True})
def test_my_feed_notices_that_the_exchange_counts_anew(mock_exchange: Any, heliograph_client: Any) -> None:
    with heliograph_client.subscribe("price.*", "system.feeds.mine") as events:
        mock_exchange.wait_request("SUBSCRIBE")
        mock_exchange.tick(5, "BTC-USD")
        mock_exchange.restart()
        mock_exchange.tick(2, "BTC-USD")
        mock_exchange.wait_request("SUBSCRIBE", 2)
        mock_exchange.tick(1, "BTC-USD")
        found = []
        while len([event for event in found if event.type == "price_update"]) < 6:
            found.append(events.get(timeout=5))
    gaps = [event.data for event in found if event.type == "feed_gap"]
    assert gaps == [{"reason": "history_lost", "counter": "BTC-USD", "first": None, "last": None}]


@pytest.mark.heliograph(exchange={"rate": 0})
def test_my_feed_tells_holes_and_leaves_out_repetitions(
    mock_exchange: Any, heliograph_engine: Any, heliograph_client: Any, wait_until: Callable[..., None]
) -> None:
    with heliograph_client.subscribe("system.feeds.mine") as events:
        mock_exchange.wait_request("SUBSCRIBE")
        mock_exchange.tick(1, "BTC-USD")
        mock_exchange.inject(Fault.GAPS, share=1)
        mock_exchange.tick(2, "BTC-USD")
        mock_exchange.inject(Fault.DUPLICATES, share=1)
        mock_exchange.tick(1, "BTC-USD")
        while (event := events.get(timeout=5)).type != "feed_gap":
            pass
    assert event.data == {"reason": "sequence", "counter": "BTC-USD", "first": 2, "last": 3}
    wait_until(lambda: heliograph_engine.feed("mine")["repeated"] == 1)


@pytest.mark.heliograph(exchange={"rate": 0})
def test_my_feed_survives_what_it_cannot_read(
    mock_exchange: Any, heliograph_engine: Any, heliograph_client: Any, wait_until: Callable[..., None]
) -> None:
    with heliograph_client.subscribe("price.*") as prices:
        mock_exchange.wait_request("SUBSCRIBE")
        mock_exchange.inject(Fault.MALFORMED, share=0.5)
        mock_exchange.tick(14, "BTC-USD")
        assert [prices.get(timeout=5).offset for _ in range(14)] == [*range(1, 15)]
    wait_until(lambda: sum(heliograph_engine.feed("mine")["bad"].values()) == 14)
    bad = heliograph_engine.feed("mine")["bad"]
    assert bad == {"not_json": 4, "missing": 4, "wrong_type": 4, "not_finite": 2}
    assert mock_exchange.attempts == 1


@pytest.mark.heliograph(exchange={"rate": 0})
@pytest.mark.parametrize("symbols", [["NOPE"]])
def test_my_feed_reads_a_refusal(mock_exchange: Any, heliograph_engine: Any) -> None:
    feed = heliograph_engine.wait_feed("mine", "reconnecting")
    assert feed["kind"] == "rejected"
    assert "SUBSCRIBE NOPE" in feed["reason"]
