"""``docs/backplane.md`` says what is so."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from actors.backoff import BackoffPolicy
from actors.history import KEY_LIFETIME
from actors.redis_history import CALL_TIMEOUT_S, LOG_EVENTS
from actors.tailer import RESUME_EVENTS, RETRY
from bench import backplane, outage
from engine import config
from engine.backplane_config import Backplane
from transport.errors import ConfigError

GUIDE = (Path(__file__).parents[2] / "docs/backplane.md").read_text(encoding="utf-8")


def test_the_configuration_is_one() -> None:
    (text,) = re.findall(r"^```toml\n(.*?)^```", GUIDE, re.M | re.S)
    assert config.loads(text).backplane == Backplane(url="redis://127.0.0.1:6379/0")
    assert config.loads(text.replace("# spool", "spool").replace('"refuse"', '"local"')).backplane.on_outage == "local"
    variables = dict(re.findall(r"(HELIOGRAPH_\w+)=(\S+)", GUIDE))
    assert config.load(None, {}, variables).backplane.url == "redis://127.0.0.1:6379/0"


def test_durable_topics_are_refused_with_a_backplane() -> None:
    text = '[backplane]\nurl = "redis://127.0.0.1"\n[topics."a.>"]\ndurable = true\n'
    with pytest.raises(ConfigError, match=r"docs/backplane\.md") as error:
        config.loads(text)
    assert error.value.field == "topics.a.>.durable"


def test_the_numbers_are_those_of_the_code() -> None:
    assert BackoffPolicy(0.1, 2.0) == RETRY
    assert (KEY_LIFETIME, CALL_TIMEOUT_S, LOG_EVENTS, RESUME_EVENTS) == (300, 5, 1_000_000, 100_000)
    assert Backplane().spool_events == 100_000
    assert {module.__name__ for module in (backplane, outage)} <= set(re.findall(r"python -m (\S+)", GUIDE))
