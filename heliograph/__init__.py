"""heliograph: real-time fan-out. Events come in, and reach every client that subscribed, over all cores.

    import heliograph

    async with heliograph.Client("ws://127.0.0.1:8765/ws") as client:
        async with client.subscribe("price.*") as prices:
            async for event in prices:
                print(event.topic, event.data)

This package exports the public names of the packages ``engine``, ``actors`` and ``transport``. A name is imported when
it is first used, so that ``import heliograph`` costs next to nothing.
"""

from __future__ import annotations

import importlib
import os
import sys
from importlib.util import find_spec
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from actors.backoff import BackoffPolicy
    from actors.breaker import BreakerPolicy
    from actors.connection import Connect, Disconnect, FeedConnection, Reset, Send
    from actors.engine_handler import EngineHandler
    from actors.failure import FailureKind, UpstreamRefused
    from actors.feed import Feed, FeedSpec
    from actors.feed_map import FeedMap
    from actors.feed_protocol import FeedProtocol, MappedProtocol, ProtocolSpec
    from actors.loop_actor import LoopActor
    from actors.mapping import BadMessage, MappingError
    from actors.namespace import ConnectionRefused, Namespace, SocketClient, on
    from actors.occupancy import Census
    from actors.recovery import RecoveryPolicy
    from actors.sequence import FeedGap, Repeated
    from actors.service import Service, callable_on
    from actors.stage import Stage
    from actors.supervisor import ChildSpec, Supervisor
    from actors.token import TokenSource
    from engine import progress
    from engine.alert import Alert
    from engine.alert_book import AlertBook
    from engine.alert_subscription import AlertSubscription
    from engine.alerts import Alerts
    from engine.client import Client
    from engine.client_parameters import Parameters, ParametersChanged
    from engine.config import Config
    from engine.config import load as load_config
    from engine.embedded import Engine
    from engine.loadtest.broadcast import MessageBroadcastTester
    from engine.loadtest.connections import WebSocketConnectionManager
    from engine.loadtest.criteria import Criteria
    from engine.loadtest.report import Report
    from engine.loadtest.resources import WebSocketResourceMonitor
    from engine.loadtest.scenario import Scenario
    from engine.loadtest.scenario import load as load_scenario
    from engine.loadtest.stability import ConnectionStabilityTester
    from engine.loadtest.tester import WebSocketLoadTester
    from engine.market_alerts import MarketAlert, MarketContext, PatternAlert
    from engine.mock_exchange import MockExchange
    from engine.mock_faults import Fault, Phase
    from engine.pipeline import Pipeline
    from engine.preferences import PreferenceRule, Preferences, PreferencesBuilder
    from engine.recording import Instrument, Quote
    from engine.recording import instruments as recordings
    from transport.client_messages import Gap
    from transport.codes import ErrorCode, Priority
    from transport.errors import (
        ActorError,
        CodecError,
        ConfigError,
        ConnectionLost,
        HeliographError,
        MailboxFull,
        RequestError,
        Unsupported,
        WouldDeadlock,
    )
    from transport.event import Event
    from transport.messages import Publication, Publish
    from transport.position import Position
    from transport.topics import topic

_HOME = {
    "ActorError": "transport.errors",
    "Alert": "engine.alert",
    "AlertBook": "engine.alert_book",
    "AlertSubscription": "engine.alert_subscription",
    "Alerts": "engine.alerts",
    "BackoffPolicy": "actors.backoff",
    "BadMessage": "actors.mapping",
    "BreakerPolicy": "actors.breaker",
    "Census": "actors.occupancy",
    "ChildSpec": "actors.supervisor",
    "Client": "engine.client",
    "CodecError": "transport.errors",
    "Config": "engine.config",
    "ConfigError": "transport.errors",
    "Connect": "actors.connection",
    "ConnectionLost": "transport.errors",
    "ConnectionRefused": "actors.namespace",
    "ConnectionStabilityTester": "engine.loadtest.stability",
    "Criteria": "engine.loadtest.criteria",
    "Disconnect": "actors.connection",
    "Engine": "engine.embedded",
    "EngineHandler": "actors.engine_handler",
    "ErrorCode": "transport.codes",
    "Event": "transport.event",
    "FailureKind": "actors.failure",
    "Fault": "engine.mock_faults",
    "Feed": "actors.feed",
    "FeedConnection": "actors.connection",
    "FeedGap": "actors.sequence",
    "FeedMap": "actors.feed_map",
    "FeedProtocol": "actors.feed_protocol",
    "FeedSpec": "actors.feed",
    "Gap": "transport.client_messages",
    "HeliographError": "transport.errors",
    "Instrument": "engine.recording",
    "LoopActor": "actors.loop_actor",
    "MailboxFull": "transport.errors",
    "MappedProtocol": "actors.feed_protocol",
    "MappingError": "actors.mapping",
    "MarketAlert": "engine.market_alerts",
    "MarketContext": "engine.market_alerts",
    "MessageBroadcastTester": "engine.loadtest.broadcast",
    "MockExchange": "engine.mock_exchange",
    "Namespace": "actors.namespace",
    "Parameters": "engine.client_parameters",
    "ParametersChanged": "engine.client_parameters",
    "PatternAlert": "engine.market_alerts",
    "Phase": "engine.mock_faults",
    "Pipeline": "engine.pipeline",
    "Position": "transport.position",
    "PreferenceRule": "engine.preferences",
    "Preferences": "engine.preferences",
    "PreferencesBuilder": "engine.preferences",
    "Priority": "transport.codes",
    "ProtocolSpec": "actors.feed_protocol",
    "Publication": "transport.messages",
    "Publish": "transport.messages",
    "Quote": "engine.recording",
    "RecoveryPolicy": "actors.recovery",
    "Repeated": "actors.sequence",
    "Report": "engine.loadtest.report",
    "RequestError": "transport.errors",
    "Reset": "actors.connection",
    "Scenario": "engine.loadtest.scenario",
    "Send": "actors.connection",
    "SocketClient": "actors.namespace",
    "Service": "actors.service",
    "Stage": "actors.stage",
    "Supervisor": "actors.supervisor",
    "TokenSource": "actors.token",
    "Unsupported": "transport.errors",
    "UpstreamRefused": "actors.failure",
    "WebSocketConnectionManager": "engine.loadtest.connections",
    "WebSocketLoadTester": "engine.loadtest.tester",
    "WebSocketResourceMonitor": "engine.loadtest.resources",
    "WouldDeadlock": "transport.errors",
    "callable_on": "actors.service",
    "load_config": "engine.config:load",
    "load_scenario": "engine.loadtest.scenario:load",
    "on": "actors.namespace",
    "progress": "engine.progress:",
    "recordings": "engine.recording:instruments",
    "topic": "transport.topics",
}
"""Where each public name lives; ``module:name`` where it has another one there, ``module:`` is the module itself."""

__all__ = [
    "ActorError",
    "Alert",
    "AlertBook",
    "AlertSubscription",
    "Alerts",
    "BackoffPolicy",
    "BadMessage",
    "BreakerPolicy",
    "Census",
    "ChildSpec",
    "Client",
    "CodecError",
    "Config",
    "ConfigError",
    "Connect",
    "ConnectionLost",
    "ConnectionRefused",
    "ConnectionStabilityTester",
    "Criteria",
    "Disconnect",
    "Engine",
    "EngineHandler",
    "ErrorCode",
    "Event",
    "FailureKind",
    "Fault",
    "Feed",
    "FeedConnection",
    "FeedGap",
    "FeedMap",
    "FeedProtocol",
    "FeedSpec",
    "Gap",
    "HeliographError",
    "Instrument",
    "LoopActor",
    "MailboxFull",
    "MappedProtocol",
    "MappingError",
    "MarketAlert",
    "MarketContext",
    "MessageBroadcastTester",
    "MockExchange",
    "Namespace",
    "Parameters",
    "ParametersChanged",
    "PatternAlert",
    "Phase",
    "Pipeline",
    "Position",
    "PreferenceRule",
    "Preferences",
    "PreferencesBuilder",
    "Priority",
    "ProtocolSpec",
    "Publication",
    "Publish",
    "Quote",
    "RecoveryPolicy",
    "Repeated",
    "Report",
    "RequestError",
    "Reset",
    "Scenario",
    "Send",
    "Service",
    "SocketClient",
    "Stage",
    "Supervisor",
    "TokenSource",
    "Unsupported",
    "UpstreamRefused",
    "WebSocketConnectionManager",
    "WebSocketLoadTester",
    "WebSocketResourceMonitor",
    "WouldDeadlock",
    "__version__",
    "callable_on",
    "load_config",
    "load_scenario",
    "on",
    "progress",
    "recordings",
    "topic",
]


def _refuse_foreign_packages() -> None:
    """The packages have everyday names: say so at once where another one of that name comes first on the path."""
    home = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    for name in ("engine", "actors", "transport"):
        ours = os.path.join(home, name, "__init__.py")
        spec = getattr(sys.modules.get(name), "__spec__", None) or find_spec(name)
        found = spec.origin if spec else None
        if found is None or not os.path.exists(ours):  # a namespace package, a zip file: nothing to compare
            continue
        if os.path.realpath(found) != os.path.realpath(ours):
            raise ImportError(
                f"heliograph needs its own package {name!r} at {ours}, but Python finds another one first: {found}; "
                "rename that one or take it off the path",
                name=name,
                path=found,
            )


_refuse_foreign_packages()

from engine.version import VERSION as __version__  # noqa: E402, N811  only now is it certain whose engine it is


def __getattr__(name: str) -> object:
    try:
        module, colon, there = _HOME[name].partition(":")
    except KeyError:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from None
    home = importlib.import_module(module)
    value: object = home if colon and not there else getattr(home, there or name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
