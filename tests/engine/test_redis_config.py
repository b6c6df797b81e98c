from __future__ import annotations

from typing import Any

import pytest

from actors.feed import Tls
from actors.redis_protocol import RedisProtocol
from engine import feed_wiring, redis_config
from engine.config import Config, effective_toml, loads, masked, needs_restart
from transport.errors import ConfigError

REDIS = '[redis]\nurl = "redis://localhost"\n'
CHANNELS = '[redis.channels]\n"prices.*" = "price.{1}"\n'


def refused(text: str) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        loads(text)
    return caught.value


def test_without_url_there_is_none() -> None:
    assert (loads("").upstreams, loads("[redis]\nmax_retries = 9").upstreams) == ({}, {})
    assert feed_wiring.feed_specs(loads("")) == ()


def test_it_is_a_feed_named_redis() -> None:
    config = loads(REDIS + CHANNELS + '[feeds.fx]\nurl = "ws://a"')
    assert list(config.upstreams) == ["fx", "redis"]
    fx, redis = feed_wiring.feed_specs(config)
    assert (fx.name, redis.name, redis.urls) == ("fx", "redis", ("redis://localhost",))
    assert isinstance(redis.protocol.create(), RedisProtocol)


def test_every_field_reaches_the_feed() -> None:
    more = """password_file = "pass"
username = "me@home"
type = "tick"
tls_ca_file = "ca"
tls_cert_file = "cert"
tls_key_file = "key"
tls_server_name = "name"
tls_verify = false
connect_timeout = 1.5
idle_timeout = 2.5
ping_interval = 3.5
ping_timeout = 4.5
message_bytes = 77
backoff_initial = 5.5
backoff_max = 6.5
max_retries = 7
breaker_open = 8.5
breaker_open_max = 9.5
"""
    config = loads(REDIS.replace("redis:", "rediss:") + more + CHANNELS)
    (spec,) = feed_wiring.feed_specs(config)
    assert spec.urls == ("rediss://me%40home@localhost",)
    assert (spec.token.text, spec.token.file) == (None, "pass")
    assert spec.protocol.options == {"channels": {"prices.*": "price.{1}"}, "type": "tick", "message_bytes": 77}
    assert spec.tls == Tls("ca", "cert", "key", False, "name")
    assert (spec.connect_timeout_s, spec.idle_timeout_s) == (1.5, 2.5)
    assert (spec.ping_interval_s, spec.ping_timeout_s) == (3.5, 4.5)
    backoff, breaker = spec.recovery.backoff, spec.recovery.breaker
    assert (backoff.first_s, backoff.cap_s, breaker.failures) == (5.5, 6.5, 7)
    assert (breaker.open_s, breaker.open_max_s) == (8.5, 9.5)


@pytest.mark.parametrize(
    ("text", "field", "says"),
    [
        (REDIS, "redis.channels", "at least one"),
        (CHANNELS, "redis.url", "needed for channels"),
        (REDIS + '[redis.channels]\n"a.*" = "b.{2}"', "redis.channels.a.*", "stands for nothing"),
        (REDIS + '[redis.channels]\na = "b c"', "redis.channels.a", "not a topic"),
        (REDIS + '[redis.channels]\na = "system.x"', "redis.channels.a", "belongs to the engine"),
        (REDIS + '[redis.channels]\n"a[" = "b"', "redis.channels.a[", "without members"),
        (REDIS + "[redis.channels]\na = 1", "redis.channels.a", "Expected text"),
        (REDIS + "prot = 1\n" + CHANNELS, "redis.prot", "unknown"),
        (REDIS + 'username = "u"\n' + CHANNELS, "redis.password", "needed for a user"),
        (REDIS + 'password = "p"\npassword_file = "f"\n' + CHANNELS, "redis.password", "give one of"),
        (REDIS + 'tls_key_file = "f"\n' + CHANNELS, "redis.tls_cert_file", "needed for tls_key_file"),
        (REDIS + "backoff_max = 0.01\n" + CHANNELS, "redis.backoff_max", "backoff_initial"),
        (REDIS + "breaker_open_max = 1\n" + CHANNELS, "redis.breaker_open_max", "breaker_open"),
        (REDIS + "message_bytes = 99_999_999\n" + CHANNELS, "redis.message_bytes", "<= 2097152"),
        (REDIS + CHANNELS + '[feeds.redis]\nurl = "ws://a"', "feeds.redis", "name of the feed"),
    ],
)
def test_errors_name_the_field(text: str, field: str, says: str) -> None:
    error = refused(text)
    assert (error.field, error.line is not None) == (field, True)
    assert says in error.message


@pytest.mark.parametrize(
    "url",
    [
        "http://localhost",
        "redis://",
        "redis://h:0",
        "redis://h:x",
        "redis://h/x",
        "redis://h?db=1",
        "redis://h#x",
        "redis://a..b",
        "redis://h h",
        "localhost:6379",
    ],
)
def test_a_url_that_cannot_be_one_is_refused_without_showing_it(url: str) -> None:
    error = refused(REDIS.replace("redis://localhost", url.replace("//", "//:SECRET@")) + CHANNELS)
    assert error.field == "redis.url"
    assert "SECRET" not in str(error)


@pytest.mark.parametrize(
    ("url", "more", "field"),
    [
        ("redis://u:p@h", 'username = "u"', "redis.username"),
        ("redis://:p@h", 'password = "p"', "redis.password"),
        ("redis://u:p@h", 'password_file = "f"', "redis.password_file"),
        ("redis://u@h", "", "redis.password"),
    ],
)
def test_user_and_password_are_given_once(url: str, more: str, field: str) -> None:
    assert refused(REDIS.replace("redis://localhost", url) + more + "\n" + CHANNELS).field == field


def test_secrets_are_masked_everywhere() -> None:
    for text in (
        REDIS.replace("//", "//user:SECRET@") + CHANNELS,
        REDIS + 'username = "user"\npassword = "SECRET"\n' + CHANNELS,
    ):
        config = loads(text)
        shown: list[Any] = [masked(config), effective_toml(config), feed_wiring.feed_specs(config)]
        assert "SECRET" not in str(shown)
        assert masked(config)["redis"]["channels"] == {"prices.*": "price.{1}"}


def test_a_reload_takes_all_of_it() -> None:
    assert needs_restart(Config(), loads(REDIS + 'type = "x"\n' + CHANNELS)) == []


def test_it_says_when_its_package_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redis_config, "find_spec", lambda name: None)
    assert "pip install 'heliograph[redis]'" in refused(REDIS + CHANNELS).message
    assert loads("").upstreams == {}
