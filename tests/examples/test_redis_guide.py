"""``docs/redis.md`` says what is so."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from actors.failure import POLICIES, FailureKind
from actors.redis_protocol import RedisMessage, RedisProtocol
from engine import config
from transport.messages import Publish

ROOT = Path(__file__).parents[2]
GUIDE = (ROOT / "docs/redis.md").read_text(encoding="utf-8")


def rows(head: str) -> list[list[str]]:
    found = re.search(rf"^\| {re.escape(head)} \|.*\n\|[-| ]+\n((?:\|.*\n)+)", GUIDE, re.M)
    assert found is not None, head
    return [[cell.strip("` ") for cell in row.strip("| ").split(" | ")] for row in found[1].splitlines()]


def event_of(protocol: RedisProtocol, subscription: str, channel: str, payload: str = "1") -> Publish:
    push = [b"pmessage", subscription.encode(), channel.encode(), payload.encode()]
    (event,) = protocol.receive(RedisMessage.of(push))
    assert isinstance(event, Publish), event
    return event


def test_the_configuration_can_be_used() -> None:
    (toml,) = re.findall(r"^```toml\n(.*?)^```", GUIDE, re.M | re.S)
    redis = config.loads(toml).redis
    event = event_of(RedisProtocol(redis.channels), "prices.*", "prices.EUR_USD", '{"bid":1.121340,"ask":1.121720}')
    assert (event.topic, event.data) == ("price.EUR_USD", b'{"bid":1.121340,"ask":1.121720}')


@pytest.mark.parametrize(("name", "template", "published", "topic"), rows("channel | topic"))
def test_channels_become_these_topics(name: str, template: str, published: str, topic: str) -> None:
    assert event_of(RedisProtocol({name: template}), name, published).topic == topic


@pytest.mark.parametrize(("payload", "data"), rows("payload"))
def test_payloads_become_this_data(payload: str, data: str) -> None:
    assert event_of(RedisProtocol({"a": "a"}), "a", "a", payload).data.decode() == data


def test_what_follows_is_the_policies() -> None:
    patience = {"twice the wait": 2.0, "ten times the wait": 10.0}
    for _, kind, follows in rows("what happens"):
        policy = POLICIES[FailureKind(kind)]
        assert policy.patience == patience.get(follows, 1.0), kind
        assert policy.needs_token is follows.startswith("no attempt"), kind


@pytest.mark.parametrize("link", sorted(set(re.findall(r"\]\(([^)h][^)]*)\)", GUIDE))))
def test_a_link_leads_somewhere(link: str) -> None:
    file, _, anchor = link.partition("#")
    heads = re.findall(r"^#+ (.*)$", (ROOT / "docs" / file).read_text(encoding="utf-8"), re.M)
    assert anchor in [re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads]
