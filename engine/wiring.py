"""The one place that names concrete actors and knows where each of them lives; for feeds :mod:`engine.feed_wiring`.

Every function here returns child specs, in starting order, for one node of the engine; :mod:`engine.hub`,
:mod:`engine.worker` and :mod:`engine.feeds` supervise them, in processes of their own or together on one loop.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from actors.admission import AuthPolicy
from actors.backplane_desk import ToBackplaneDesk
from actors.backplane_watch import BackplaneWatch
from actors.broadcaster import Broadcaster
from actors.clients import ClientLimits, Clients
from actors.file_lock import lock
from actors.groups import Groups
from actors.history_watch import HistoryWatch
from actors.index import Index
from actors.inner_client import InnerClient
from actors.keeper import Keeper
from actors.keeper_desk import take_over
from actors.messages import TailState
from actors.redis_history import RedisHistory
from actors.ref import Ref
from actors.router import Router
from actors.seats import Seats
from actors.service_runner import ServiceRunner, ServiceSpec, Standing
from actors.spool import Spool
from actors.spooling_keeper import SpoolingKeeper
from actors.sqlite_history import SqliteHistory
from actors.stage_runner import Forward, StagePolicy, StageRunner
from actors.stages import Stages
from actors.supervision import Restart
from actors.supervisor import ChildSpec
from actors.tailer import Tailer, catch_up_at_start
from actors.topic_log import TopicLog
from actors.topic_policy import Strategy, TopicPolicies, TopicPolicy
from actors.tracing import PublishTracing, RouteTracing, Spans, WriteTracing
from actors.user_shares import UserShares
from engine.config import Config
from engine.runtime_dir import HISTORY
from engine.server_config import usable_cores
from engine.stage_config import Stage as StageConfig
from engine.topic_config import Topic as TopicConfig
from engine.user_code import stage_maker
from transport.bus_client import BusClient
from transport.errors import ConfigError
from transport.gate import GatePolicy
from transport.messages import Publish
from transport.meter import Meter
from transport.pacing import Pacer
from transport.tls import ServerTls
from transport.websocket import ConnectionLimits

KEEPER_PAUSE = 1.0  # s in which nothing is tried after Redis has failed
SPOOL = ".spool"
"""Ending of the file beside ``history.durable_file`` in which events wait for Redis."""
MAILBOX = 1_000_000
"""Messages on an event's way. The bus's window bounds events long before; this bounds what clients can cause."""


class HubActors(NamedTuple):
    """The hub's children; ``router`` is where the bus delivers, ``log`` what the hub knows of topics, ``watch`` whether
    events can be kept, ``durable_file`` where those of durable topics are, ``backplane`` whether others are reached;
    ``closing`` lets go the files."""

    specs: list[ChildSpec]
    router_ref: Ref
    log: TopicLog
    groups: Groups
    watch: HistoryWatch
    durable_file: Path | None
    backplane: BackplaneWatch | None
    closing: contextlib.ExitStack


def hub_actors(
    config: Config,
    wake: Callable[[], None],
    meter: Meter,
    begin_anew: Callable[[], None],
    runtime_dir: Path | None,
    spans: Spans | None = None,
) -> HubActors:
    """The router and the stages on the way to it. Log and groups belong to the hub and survive the router; the log
    survives the hub, in ``runtime_dir``.

    A router's successor knows nobody's interest: ``begin_anew`` makes the peers tell it again.
    """
    policies = topic_policies(config)
    with contextlib.ExitStack() as closing:  # an embedded engine's process lives on, if this fails
        log = _topic_log(config, policies, runtime_dir)
        closing.callback(log.close)
        return _hub_actors(config, log, policies, wake, meter, begin_anew, closing, spans)


def _topic_log(config: Config, policies: TopicPolicies, runtime_dir: Path | None) -> TopicLog:
    return TopicLog(
        config.limits.topics,
        new_epoch=lambda: secrets.token_hex(4),
        directory=history_dir(config, runtime_dir),
        max_bytes=config.history.bytes,
        policies=policies,
        shared=config.backplane.url is not None,
        idle=config.history.topic_idle,
        now=time.time(),
    )


def _hub_actors(
    config: Config,
    log: TopicLog,
    policies: TopicPolicies,
    wake: Callable[[], None],
    meter: Meter,
    begin_anew: Callable[[], None],
    closing: contextlib.ExitStack,
    spans: Spans | None,
) -> HubActors:
    delivery = config.delivery
    groups = Groups(config.limits.group_events, meter.dropped)
    watch = HistoryWatch()
    routers: list[Router] = []

    open_history = durable_history(config, policies)
    if open_history is not None:
        closing.callback(os.close, _lock_durable(config))
        with contextlib.closing(open_history()) as history:
            take_over(history, log)
    open_shared = shared_history(config, policies)
    backplane = None if open_shared is None else join_backplane(open_shared(), log)

    def make_router() -> Router:
        if routers:
            begin_anew()
        router = Router(
            log=log,
            watch=watch,
            keeper=None if keeper is None else keeper.ref,
            tailer=None if tailer is None else tailer.ref,
            backplane=backplane,
            spools=config.backplane.on_outage == "local",
            wake=wake,
            meter=meter,
            stages=stages,
            policies=policies,
            groups=groups,
            shares=None if delivery.user_rate is None else UserShares(delivery.user_rate, delivery.user_window),
            seats=_seats(config),
            tracing=None if spans is None else RouteTracing(spans),
            topic_idle=config.history.topic_idle,
            routes=config.limits.routes,
            route_ttl=config.limits.route_ttl,
        )
        routers[:] = [router]
        return router

    router = ChildSpec("router", make_router, capacity=MAILBOX)
    keeper = tailer = None
    if open_shared is not None:
        keeper = _shared_keeper(config, lambda: router.ref, open_shared)
        tailer = ChildSpec(
            "tailer", lambda: Tailer(router=ToBackplaneDesk(router.ref), history=open_shared), capacity=MAILBOX
        )
    elif open_history is not None:
        keeper = ChildSpec("keeper", lambda: Keeper(router=router.ref, history=open_history), capacity=MAILBOX)
    stages = Stages(router.ref)
    runners: list[ChildSpec] = []
    for step, (name, table) in enumerate(config.stages.items(), 1):
        runner = _stage_runner(name, table, partial(stages.forward, step=step), meter)
        stages.add(runner.ref, table.topics)
        runners.append(runner)
    durable_file = None if open_history is None else config.history.durable_path(config.server.port)
    specs = [router, *(spec for spec in (keeper, tailer) if spec is not None), *runners]
    return HubActors(specs, router.ref, log, groups, watch, durable_file, backplane, closing.pop_all())


def _seats(config: Config) -> Seats | None:
    if not config.socketio.enabled:
        return None
    # A worker that has no link by then is restarting, or gone.
    return Seats(config.socketio.clients, max(1, config.server.worker_count()), config.server.heartbeat_timeout)


def _lock_durable(config: Config) -> int:
    """Two engines with one database would give the same places to different events."""
    path = config.history.durable_path(config.server.port)
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        return lock(path.with_name(f"{path.name}.lock"), path, "history.durable_file")
    except OSError as error:
        raise ConfigError(f"cannot use {path}: {error.strerror}", "history.durable_file") from None


def _shared_keeper(config: Config, router: Callable[[], Ref], history: Callable[[], RedisHistory]) -> ChildSpec:
    if config.backplane.on_outage == "refuse":
        check_nothing_waits(config)
        return ChildSpec(
            "keeper", lambda: Keeper(router=router(), history=history, pause=KEEPER_PAUSE), capacity=MAILBOX
        )
    spool = partial(_open_spool, config, config.history.durable_path(config.server.port))
    spool().close()  # what is wrong with it is said at the start
    return ChildSpec("keeper", lambda: SpoolingKeeper(router=router(), history=history, spool=spool), capacity=MAILBOX)


def _open_spool(config: Config, durable_file: Path) -> Spool:
    path = durable_file.with_suffix(SPOOL)
    return Spool(path, config.backplane.spool_events, partial(secrets.token_hex, 8))


def check_nothing_waits(config: Config) -> None:
    """Raise :class:`ConfigError` if acknowledged events wait in a spool, which nobody looks into with ``refuse``."""
    try:
        durable_file = config.history.durable_path(config.server.port)
    except ConfigError:
        return  # nor could there have been a spool
    if not durable_file.with_suffix(SPOOL).exists():
        return
    with contextlib.closing(_open_spool(config, durable_file)) as spool:
        if waiting := len(spool):
            path = durable_file.with_suffix(SPOOL)
            text = f'must be "local" until {waiting} acknowledged events in {path} are in Redis; or move the file away'
            raise ConfigError(text, "backplane.on_outage")


def shared_history(config: Config, policies: TopicPolicies) -> Callable[[], RedisHistory] | None:
    """What connects to the log that engines share; ``None``: this one is alone. :class:`ConfigError`: it cannot be."""
    shared = config.backplane
    if shared.url is None:
        return None
    new_epoch = partial(secrets.token_hex, 4)
    return partial(RedisHistory, shared.url, shared.password, shared.prefix, policies, config.limits.topics, new_epoch)


def join_backplane(history: RedisHistory, log: TopicLog) -> BackplaneWatch:
    """Begin where the other engines are, if Redis answers; else the tailer goes on trying."""
    watch = BackplaneWatch()
    reason = catch_up_at_start(history, log)
    history.close()
    watch.met = reason is None
    if reason is not None:
        watch.heard(TailState(reason))
    return watch


def durable_history(config: Config, policies: TopicPolicies) -> Callable[[], SqliteHistory] | None:
    """What opens the history of durable topics; ``None``: there are none."""
    if not any(policy.durable for policy in policies):
        return None
    path = config.history.durable_path(config.server.port)
    return partial(SqliteHistory, path, policies, config.limits.topics, lambda: secrets.token_hex(4))


def history_dir(config: Config, runtime_dir: Path | None) -> Path | None:
    """Where the recent events are; ``None``: in memory, of an engine in one process that has no such directory."""
    own = None if runtime_dir is None else runtime_dir / HISTORY
    directory = own if config.history.dir is None else Path(config.history.dir)
    # Marks of a log of one's own must not be taken for those of a shared one.
    return directory if directory is None or config.backplane.url is None else directory / "shared"


def _stage_runner(name: str, table: StageConfig, forward: Forward, meter: Meter) -> ChildSpec:
    create = stage_maker(name, table)
    policy = StagePolicy(table.timeout, drop=table.on_error == "drop")
    return ChildSpec(
        f"stage {name}",
        lambda: StageRunner(stage=name, create=create, forward=forward, meter=meter, policy=policy),
        capacity=MAILBOX,
    )


def service_actor(spec: ServiceSpec, client: Callable[[], InnerClient], standing: Standing) -> ChildSpec:
    """The runner of one service; its standing outlives it."""
    return ChildSpec(
        f"service {spec.name}", lambda: ServiceRunner(spec=spec, client=client, standing=standing), capacity=MAILBOX
    )


def topic_policies(config: Config) -> TopicPolicies:
    """``[topics."PATTERN"]`` as hub and workers want them."""
    return TopicPolicies(
        {
            pattern: TopicPolicy(
                strategy=Strategy(topic.strategy),
                window_s=topic.window,
                acks=topic.acks,
                ack_timeout_s=topic.ack_timeout,
                presence=topic.presence,
                announce=topic.announce,
                durable=topic.durable,
                history_size=config.history.size if topic.history_size is None else topic.history_size,
                history_age_s=_history_age(config, topic),
            )
            for pattern, topic in config.topics.items()
        },
        TopicPolicy(history_size=config.history.size, history_age_s=config.history.age),
    )


def _history_age(config: Config, topic: TopicConfig) -> float | None:
    if topic.history_age is not None:
        return topic.history_age
    return None if topic.durable else config.history.age


class WorkerActors(NamedTuple):
    """A worker's children. The death of one ends the worker: its clients recover elsewhere."""

    specs: list[ChildSpec]
    index_ref: Ref
    clients_ref: Ref
    door: Clients
    table: Index
    broadcaster: Broadcaster


def worker_actors(
    config: Config,
    uplink: BusClient,
    meter: Meter,
    *,
    version: str,
    stats: Callable[[], Mapping[str, Any]],
    spans: Spans | None = None,
) -> WorkerActors:
    """Broadcaster, index, clients. None restarts: they share the sessions of one process."""
    spec: dict[str, ChildSpec] = {}
    tracing = None if spans is None else WriteTracing(spans)
    door = Clients(
        version=version,
        node=config.server.node_name(),
        limits=client_limits(config),
        index=_Later(spec, "index"),
        uplink=uplink,
        meter=meter,
        now=time.time,
        stats=stats,
        user_window=None if config.delivery.user_rate is None else config.delivery.user_window,
        auth=auth_policy(config),
        publish=Publish if spans is None else PublishTracing(spans, config.tracing.sample).publish,
    )
    door.owned = config.owned_topics
    broadcaster = Broadcaster(
        pacer=pacer(config),
        meter=meter,
        processed=uplink.processed,
        sessions=lambda: door.everybody,
        tracing=tracing,
    )
    spec["broadcaster"] = _mortal("broadcaster", lambda: broadcaster)
    index = Index(
        broadcaster=spec["broadcaster"].ref,
        clients=lambda: spec["clients"].ref,
        uplink=uplink,
        meter=meter,
        policies=topic_policies(config),
        request_timeout=config.limits.request_timeout,
        route_ttl=config.limits.route_ttl,
        tracing=tracing,
    )
    spec["index"] = _mortal("index", lambda: index)
    spec["clients"] = _mortal("clients", lambda: door)
    return WorkerActors(list(spec.values()), spec["index"].ref, spec["clients"].ref, door, index, broadcaster)


class _Later:
    """The ref of an actor that is specified after this one."""

    def __init__(self, specs: Mapping[str, ChildSpec], name: str) -> None:
        self._specs, self._name = specs, name

    def tell(self, message: Any) -> None:
        self._specs[self._name].ref.tell(message)


def _mortal(name: str, create: Callable[[], Any]) -> ChildSpec:
    return ChildSpec(name, create, restart=Restart.PERMANENT, intensity=0, capacity=MAILBOX)


def pacer(config: Config) -> Pacer:
    """``delivery.pacing``. Adaptive, a worker rests as long as all who share its core flush, not only itself.

    Measured: two workers on one core that rested for their own flush alone wrote 1.28 times as often as one.
    """
    pacing = config.delivery.pacing
    sharing = max(1.0, config.server.worker_count() / usable_cores())
    return Pacer(None if isinstance(pacing, str) else pacing, factor=sharing)


def client_limits(config: Config) -> ClientLimits:
    """Bounds of a session, from ``[limits]`` and ``[delivery]``."""
    limits, delivery = config.limits, config.delivery
    return ClientLimits(
        connections=limits.connections,
        message_bytes=limits.message_bytes,
        topics_per_request=limits.topics_per_request,
        subscriptions=limits.subscriptions,
        unacknowledged_publishes=limits.unacknowledged_publishes,
        outbox_bytes=delivery.outbox_bytes,
        outbox_events=delivery.outbox_events,
        write_chunk=delivery.write_buffer,
        disconnect_slow=delivery.slow_policy == "disconnect",
        connections_per_ip=limits.connections_per_ip,
        sessions_per_user=limits.sessions_per_user,
        ping_interval=delivery.ping_interval,
    )


def auth_policy(config: Config) -> AuthPolicy:
    """``[auth]``: whether clients need a token, and which."""
    return AuthPolicy(config.auth.authenticator(), config.auth.timeout, config.auth.query_token)


def gate_policy(config: Config) -> GatePolicy:
    """Who may knock at the client port."""
    server = config.server
    origins = None if server.origins is None else tuple(origin.lower() for origin in server.origins)
    return GatePolicy(origins, server.trusted_proxies, config.limits.connect_rate, config.admin.port or None)


def client_tls(config: Config) -> ServerTls | None:
    """The client port's certificate; :class:`ConfigError` where it cannot be used."""
    server = config.server
    return None if server.tls_cert_file is None else ServerTls(server.tls_cert_file, server.tls_key_file, "server")


def connection_limits(config: Config) -> ConnectionLimits:
    """Bounds of a client's connection."""
    limits, delivery = config.limits, config.delivery
    return ConnectionLimits(
        message_bytes=limits.message_bytes,
        handshake_timeout=limits.handshake_timeout,
        message_rate=limits.message_rate,
        write_buffer=delivery.write_buffer,
        ping_interval=delivery.ping_interval,
        ping_timeout=delivery.ping_timeout,
        deflate=config.server.deflate,
    )
