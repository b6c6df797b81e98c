"""``[tracing]`` without the SDK, and an engine without ``[tracing]``."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
from pathlib import Path

import pytest

from engine import tracing_config
from engine.config import Config, loads
from engine.tracing import OpenTelemetry, start_tracing
from engine.tracing_config import Tracing
from transport.errors import ConfigError


def test_what_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    with pytest.raises(ConfigError, match=r"pip install 'heliograph\[otel\]'") as caught:
        start_tracing(loads("[tracing]\nsample = 0.1"), "hub")
    assert caught.value.field == "tracing.sample"


def test_the_configuration_says_what_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracing_config, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install 'heliograph\[otel\]'") as caught:
        loads("[tracing]\nsample = 0.1")
    assert caught.value.field == "tracing.sample"
    assert loads("[tracing]\nsample = 0").tracing == Tracing()


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ("sample = 1.1", "tracing.sample"),
        ("sample = -0.1", "tracing.sample"),
        ('endpoint = "collector:4318"', "tracing.endpoint"),
        ('endpoint = "http://"', "tracing.endpoint"),
        ('endpoint = "http://a:b@collector/"', "tracing.endpoint"),
    ],
)
def test_what_cannot_work_is_refused(text: str, field: str) -> None:
    with pytest.raises(ConfigError) as caught:
        loads(f"[tracing]\n{text}")
    assert caught.value.field == field
    assert "a:b" not in str(caught.value)


def test_without_traces_nothing_of_the_sdk_is_there() -> None:
    assert start_tracing(Config(), "hub") is None
    code = (
        "import engine.feeds, engine.hub, engine.local, engine.worker, sys;"
        "sys.exit(any(name.startswith('opentelemetry') for name in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=30).returncode == 0


def test_a_context_that_another_process_has_written_is_the_parent() -> None:
    spans = OpenTelemetry(loads('[tracing]\nsample = 1.0\nendpoint = "http://127.0.0.1:1/"'), "hub")
    first = spans.begin("feed", 1, None, {})
    version, trace, parent, flags = first.context.split("-")
    assert (version, len(trace), len(parent), flags) == ("00", 32, 16, "01")
    second = spans.begin("route", 2, first.context, {"topic": "a"})
    assert second.context.split("-")[1] == trace
    assert second.context != first.context
    # Neither has ended, so there is nothing to export.
    asyncio.run(spans.close())


def test_the_guides_configuration_is_one() -> None:
    guide = (Path(__file__).parents[2] / "docs/tracing.md").read_text(encoding="utf-8")
    [text] = re.findall(r"^```toml\n(.*?)^```", guide, re.M | re.S)
    assert loads(text).tracing == Tracing(sample=0.01, endpoint=Tracing().endpoint)
