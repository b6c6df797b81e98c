"""``[feeds.NAME]`` and ``[redis]`` as the actors want them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from actors.backoff import BackoffPolicy
from actors.breaker import BreakerPolicy
from actors.feed import FeedSpec, Publisher, Tls
from actors.feed_protocol import FeedProtocol, MappedProtocol, ProtocolSpec
from actors.feed_supervisor import FeedSupervisor
from actors.heliograph_protocol import HeliographProtocol
from actors.recovery import RecoveryPolicy
from actors.redis_protocol import RedisProtocol
from actors.supervisor import ChildSpec
from actors.token import TokenSource
from actors.tracing import PublishTracing
from engine.config import Config
from engine.feed_config import MAPPED
from engine.feed_config import Feed as FeedConfig
from engine.redis_config import REDIS, Redis
from engine.tables import join
from engine.user_code import imported, subclass
from engine.wiring import MAILBOX
from transport.errors import ConfigError


def feeds_actor(
    config: Callable[[], Config],
    publisher: Publisher,
    known: dict[str, dict[str, Any]],
    on_change: Callable[[], None],
    tracing: PublishTracing | None = None,
) -> ChildSpec:
    """The feed supervisor; it keeps the state that outlives each feed's connection actor.

    A successor takes over the present ``config`` and, in ``known``, what its predecessor knew of the feeds.
    """
    return ChildSpec(
        "feeds",
        lambda: FeedSupervisor(publisher, feed_specs(config()), known, on_change, tracing),
        capacity=MAILBOX,
    )


def feed_specs(config: Config) -> tuple[FeedSpec, ...]:
    """``[feeds.*]`` and ``[redis]`` as the actors want them.

    Raises:
        ConfigError: a protocol or a token function cannot be imported.
    """
    return tuple(
        _redis_spec(upstream) if isinstance(upstream, Redis) else _feed_spec(name, upstream)
        for name, upstream in config.upstreams.items()
    )


def _feed_spec(name: str, feed: FeedConfig) -> FeedSpec:
    function = None
    if feed.token_function is not None:
        field = f"feeds.{name}.token_function"
        function = imported(feed.token_function, field)
        if not callable(function):
            raise ConfigError(f"{feed.token_function!r} cannot be called", field)
    return FeedSpec(
        name=name,
        urls=(feed.url, *feed.failover),
        protocol=_protocol(name, feed),
        headers=feed.headers,
        token=TokenSource(feed.token, feed.token_file, function),
        tls=Tls(feed.tls_ca_file, feed.tls_cert_file, feed.tls_key_file, feed.tls_verify, feed.tls_server_name),
        proxy=feed.proxy,
        recovery=RecoveryPolicy(
            BackoffPolicy(feed.backoff_initial, feed.backoff_max, jitter=feed.jitter, stable_s=feed.stable_after),
            BreakerPolicy(feed.max_retries, feed.breaker_successes, feed.breaker_open, feed.breaker_open_max),
            feed.give_up,
        ),
        connect_timeout_s=feed.connect_timeout,
        handshake_timeout_s=feed.handshake_timeout,
        idle_timeout_s=feed.idle_timeout,
        stale_timeout_s=feed.stale_timeout,
        close_timeout_s=feed.close_timeout,
        ping_interval_s=feed.ping_interval,
        ping_timeout_s=feed.ping_timeout,
        heartbeat_interval_s=feed.heartbeat_interval,
        message_bytes=feed.message_bytes,
        max_invalid=feed.max_invalid,
        any_message_proves=feed.proof == "message",
    )


def _redis_spec(redis: Redis) -> FeedSpec:
    options = {"channels": redis.channels, "type": redis.type, "message_bytes": redis.message_bytes}
    return FeedSpec(
        name=REDIS,
        urls=(redis.address(),),
        protocol=ProtocolSpec(RedisProtocol, options),
        token=TokenSource(redis.password, redis.password_file),
        tls=Tls(redis.tls_ca_file, redis.tls_cert_file, redis.tls_key_file, redis.tls_verify, redis.tls_server_name),
        recovery=RecoveryPolicy(
            BackoffPolicy(redis.backoff_initial, redis.backoff_max),
            # A channel may be quiet for long: what proves a connection is the answer to its first subscription.
            BreakerPolicy(redis.max_retries, 1, redis.breaker_open, redis.breaker_open_max),
        ),
        connect_timeout_s=redis.connect_timeout,
        idle_timeout_s=redis.idle_timeout,
        ping_interval_s=redis.ping_interval,
        ping_timeout_s=redis.ping_timeout,
        any_message_proves=True,
    )


def _protocol(name: str, feed: FeedConfig) -> ProtocolSpec:
    if feed.protocol == MAPPED:
        return ProtocolSpec(MappedProtocol, feed.mapped())
    kind: type[FeedProtocol] = HeliographProtocol
    if feed.protocol != "heliograph":
        wanted = f"{MAPPED}, heliograph or package.module:Class"
        kind = subclass(feed.protocol, FeedProtocol, f"feeds.{name}.protocol", wanted)
    spec = ProtocolSpec(kind, feed.options)
    try:
        spec.create()
    except ConfigError as error:
        raise ConfigError(error.message, join(f"feeds.{name}.options", error.field or "")) from None
    return spec
