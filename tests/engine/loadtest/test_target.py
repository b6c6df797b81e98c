"""Which targets there are, and that a token stays where it is needed."""

from __future__ import annotations

import pytest

from engine.loadtest import commands
from engine.loadtest.commands import Load, Publishing
from engine.loadtest.dialect import dialect_of
from engine.loadtest.dialer import PER_ADDRESS, source
from engine.loadtest.scenario import LIGHT
from engine.loadtest.target import Target
from transport.errors import ConfigError


@pytest.mark.parametrize(
    ("url", "kind", "asked"),
    [
        ("ws://h:1", "native", "ws://h:1/ws"),
        ("ws://h:1/", "native", "ws://h:1/ws"),
        ("ws://h:1/other", "native", "ws://h:1/other"),
        ("wss://h", "socketio", "wss://h/socket.io/?EIO=4&transport=websocket"),
        ("ws://h", "plain", "ws://h/"),
        ("ws://h/?room=1", "plain", "ws://h/?room=1"),
    ],
)
def test_a_path_is_the_kinds_where_none_is_given(url, kind, asked) -> None:  # type: ignore[no-untyped-def]
    assert Target(url=url, kind=kind).full_url == asked


@pytest.mark.parametrize("url", ["http://h", "h:1", "ws://", "ws://h:x", "ws://[::1"])
def test_other_urls_are_none(url: str) -> None:
    with pytest.raises(ConfigError, match=r"^target\.url: "):
        Target(url=url)


def test_data_must_have_its_place() -> None:
    with pytest.raises(ConfigError, match=r"target\.publish: .*\{data\}"):
        Target(url="ws://h", publish="hello")


def test_who_recovers() -> None:
    assert Target(url="ws://h").recovers
    assert Target(url="ws://h", kind="socketio").recovers
    assert not Target(url="ws://h", kind="socketio", subscribe='["join"]').recovers
    assert not Target(url="ws://h", kind="plain").recovers


def test_a_file_of_authorities_that_cannot_be_used(tmp_path) -> None:  # type: ignore[no-untyped-def]
    assert Target(url="ws://h").ssl_context() is None
    for file in (tmp_path / "none", tmp_path):
        with pytest.raises(ConfigError, match=r"target\.ca_file: cannot use"):
            Target(url="wss://h", ca_file=str(file)).ssl_context()


def test_a_token_is_shown_to_the_server_alone() -> None:
    target = Target(url="ws://h", token="hush")
    orders = (Load(target=target, number=0, connect_timeout=1.0, pings=1.0), _publishing(target))
    assert not any("hush" in repr(shown) or "pass" in repr(shown) for shown in (target, *orders))
    assert [commands.command(commands.line(order)) for order in orders] == [*orders]
    assert dialect_of(target).headers == {"Authorization": "Bearer hush"}


def _publishing(target: Target) -> Publishing:
    return Publishing(target=target, payload_bytes=60, connect_timeout=1.0, redis_url="redis://u:pass@h", channel="c")


def test_of_a_scenario() -> None:
    assert Target.of(LIGHT) == Target(url=LIGHT.target.url, topic=LIGHT.topic)


def test_many_clients_come_from_several_addresses_of_this_machine() -> None:
    assert source("127.0.0.1", PER_ADDRESS - 1) is None
    assert source("127.0.0.1", PER_ADDRESS) == ("127.0.1.1", 0)
    assert source("127.0.0.1", 3 * PER_ADDRESS) == ("127.0.1.3", 0)
    assert source("::1", PER_ADDRESS) is None
    assert source("192.0.2.1", PER_ADDRESS) is None
