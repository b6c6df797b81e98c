"""What of the configuration reaches the actors."""

from __future__ import annotations

from actors.topic_policy import DEFAULT_POLICY, Strategy, TopicPolicy
from engine import config
from engine.wiring import topic_policies


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
