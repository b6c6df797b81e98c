"""The dashboard and the rules of examples/observability: each figure in them is one that a real engine shows."""

from __future__ import annotations

import asyncio
import json
import re
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import promql_parser
import pytest
import yaml  # comes with pre-commit
from prometheus_client.parser import text_string_to_metric_families

from heliograph import Engine, MockExchange

DIRECTORY = Path(__file__).parents[2] / "examples/observability"
BOARD = json.loads((DIRECTORY / "grafana-dashboard.json").read_text(encoding="utf-8"))
RULES = yaml.safe_load((DIRECTORY / "prometheus-rules.yml").read_text(encoding="utf-8"))["groups"][0]["rules"]
TIMEOUT = 30.0
PROMETHEUS = {"job", "instance"}  # labels that Prometheus adds
OURS = "heliograph_"


def panels() -> list[dict[str, Any]]:
    return [panel for panel in BOARD["panels"] if panel["type"] != "row"]


def expressions() -> Iterator[str]:
    for panel in panels():
        for target in panel["targets"]:
            yield target["expr"].replace("$__rate_interval", "1m")
    for rule in RULES:
        yield rule["expr"]


def selectors(expression: Any) -> Iterator[Any]:
    """All that select a metric, anywhere in a parsed expression."""
    if isinstance(expression, promql_parser.VectorSelector):
        yield expression
    for name in ("expr", "lhs", "rhs", "vector_selector"):
        if (inner := getattr(expression, name, None)) is not None:
            yield from selectors(inner)
    for argument in getattr(expression, "args", ()):
        yield from selectors(argument)


async def exposition() -> str:
    """What an engine with a feed shows, once it has sampled its machine."""
    async with asyncio.timeout(TIMEOUT), MockExchange(rate=0) as exchange:
        feeds = exchange.feed_config("mock")
        async with Engine(workers=0, port=0, admin_port=0, feeds=feeds, metrics={"interval": 0.1}) as engine:
            await exchange.wait_request("SUBSCRIBE", timeout=TIMEOUT)
            while True:
                with await asyncio.to_thread(urllib.request.urlopen, f"{engine.admin_url}/metrics") as answer:
                    text = answer.read().decode()
                if "heliograph_machine_cpu_percent" in text and 'state="connected"} 1.0' in text:
                    return text
                await asyncio.sleep(0.05)


@pytest.fixture(scope="module")
def shown() -> dict[str, set[str]]:
    """The labels of each metric that an engine shows; none of those that have no samples yet."""
    found: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(asyncio.run(exposition())):
        names = {"counter": ["_total"], "histogram": ["_bucket", "_sum", "_count"]}.get(family.type, [""])
        found |= {family.name + suffix: set() for suffix in names}
        for sample in family.samples:
            found.setdefault(sample.name, set()).update(sample.labels)
    return found


def test_each_figure_is_one_of_an_engine(shown: dict[str, set[str]]) -> None:
    recorded = {rule["record"]: rule for rule in RULES if "record" in rule}
    looked_at = 0
    for text in expressions():
        for selector in selectors(promql_parser.parse(text)):
            looked_at += 1
            matched = {matcher.name for matcher in selector.matchers.matchers} - PROMETHEUS
            if selector.name.startswith(OURS):
                assert selector.name in shown, text
                labels = shown[selector.name]
                assert not labels or matched <= labels, f"{sorted(matched - labels)} in {text}"
            else:
                assert selector.name in recorded or selector.name == "up", text
    assert looked_at >= 70, "of all those that were written"


def test_nothing_is_left_out_by_the_test() -> None:
    for text in expressions():
        named = set(re.findall(rf"(?<![:\w]){OURS}\w+", text))
        assert named == {s.name for s in selectors(promql_parser.parse(text)) if s.name.startswith(OURS)}, text


def test_the_panels_do_not_overlap_and_have_the_data_source_that_was_chosen() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in BOARD["panels"]:
        place = panel["gridPos"]
        fields = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not fields & taken, panel["title"]
        assert place["x"] + place["w"] <= 24
        taken |= fields
    assert len({panel["id"] for panel in BOARD["panels"]}) == len(BOARD["panels"])
    rows = [panel["title"] for panel in BOARD["panels"] if panel["type"] == "row"]
    assert rows[1:] == ["Traffic", "Latency", "Clients", "Feeds", "Processes", "History"]
    for panel in panels():
        assert {target["datasource"]["uid"] for target in panel["targets"]} == {"${datasource}"}, panel["title"]
        assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])


def test_each_alert_says_what_to_do() -> None:
    for rule in RULES:
        if "alert" in rule:
            assert rule["labels"]["severity"] in ("critical", "warning")
            assert len(rule["annotations"]["runbook"]) > 40, rule["alert"]
            assert "{{ $labels." in rule["annotations"]["summary"], rule["alert"]


def test_prometheus_reads_these_rules_and_the_admin_port() -> None:
    config = yaml.safe_load((DIRECTORY / "prometheus.yml").read_text(encoding="utf-8"))
    assert [(DIRECTORY / name).exists() for name in config["rule_files"]] == [True]
    [scraped] = config["scrape_configs"]
    assert scraped["job_name"] == "heliograph"
    assert scraped["static_configs"] == [{"targets": ["127.0.0.1:8766"]}]
