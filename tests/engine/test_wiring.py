"""What of the configuration reaches the actors."""

from __future__ import annotations

from pathlib import Path

import pytest

from actors import file_lock
from actors.service import Service
from actors.spool import Spool
from actors.topic_policy import DEFAULT_POLICY, Strategy, TopicPolicy
from engine import config
from engine.user_code import service_specs
from engine.wiring import HubActors, check_nothing_waits, hub_actors, topic_policies
from transport.errors import ConfigError
from transport.event import Event
from transport.messages import Publish
from transport.meter import Meter


def test_each_field_of_a_topics_table_reaches_its_policy() -> None:
    text = """
    [topics."jobs.>"]
    strategy = "load_balanced"
    window = 0.25
    acks = true
    ack_timeout = 7.5
    presence = true
    announce = true

    [topics."a.*"]
    """
    policies = topic_policies(config.loads(text))
    assert policies.of("jobs.x") == TopicPolicy(Strategy.LOAD_BALANCED, 0.25, True, 7.5, True, True)
    assert policies.of("a.b") == DEFAULT_POLICY, "the defaults are said twice, and are the same"


def test_acknowledged_events_that_wait_are_not_forgotten_with_another_configuration(tmp_path: Path) -> None:
    refuse = config.loads(f"history.durable_file = '{tmp_path}/x.db'\nbackplane.url = 'redis://127.0.0.1'")
    check_nothing_waits(refuse)
    assert not list(tmp_path.iterdir())
    spool = Spool(tmp_path / "x.spool", 10, lambda: "name")
    spool.add(spool.numbers(2), [Publish(0, "a", "t", b"1")] * 2)
    spool.close()
    with pytest.raises(
        ConfigError, match=r'backplane\.on_outage: must be "local" until 2 acknowledged events in .*x\.spool'
    ):
        check_nothing_waits(refuse)
    spool = Spool(tmp_path / "x.spool", 10, lambda: "name")
    spool.remove(spool.oldest(1, 1)[0], 2)
    spool.close()
    check_nothing_waits(refuse)


def test_a_durable_file_is_one_engines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def hub(directory: str) -> HubActors:
        text = f"history.durable_file = '{tmp_path}/new/x.db'\n[topics.'order.>']\ndurable = true"
        return hub_actors(config.loads(text), lambda: None, Meter(), lambda: None, tmp_path / directory)

    monkeypatch.setattr(file_lock, "LOCK_TIMEOUT", 0.0)
    one = hub("a")
    with pytest.raises(ConfigError, match=r"history\.durable_file: another process uses .*x\.db"):
        hub("b")
    one.closing.close()
    hub("b").closing.close()


class Listens(Service):
    async def on_events(self, batch: list[Event]) -> None: ...


class Blocks(Service):
    def on_events(self, batch: list[Event]) -> None:  # type: ignore[override]
        ...


class Works(Service): ...


@pytest.mark.parametrize(
    ("actor", "topics", "complaint"),
    [
        ("Nothing", ["a"], "cannot import"),
        ("TopicPolicy", ["a"], r"not a subclass of heliograph\.Service"),
        ("Blocks", ["a"], "on_events must be `async def`"),
        ("Works", ["a"], r"must define on_events\(batch\)"),
        ("Works", [], None),
        ("Listens", ["a"], None),
    ],
)
def test_a_service_that_cannot_work_is_an_error_of_the_configuration(
    actor: str, topics: list[str], complaint: str | None
) -> None:
    loaded = config.loads(f"[services.s]\nactor = '{__name__}:{actor}'\ntopics = {topics}")
    if complaint is None:
        [spec] = service_specs(loaded)
        assert (spec.name, spec.topics) == ("s", tuple(topics))
        return
    with pytest.raises(ConfigError, match=complaint) as error:
        service_specs(loaded)
    assert error.value.field == "services.s.actor"
