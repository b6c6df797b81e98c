"""What the commented default configuration shows of the tables that have names."""

from __future__ import annotations

from msgspec import Struct

from engine.admin_config import AdminKey
from engine.alert_config import Alert, Webhook
from engine.feed_config import Feed, FeedMap
from engine.parameter_config import Parameter
from engine.service_config import Service
from engine.socketio_config import SocketIoNamespace
from engine.stage_config import Stage
from engine.topic_config import Topic

EXAMPLES: dict[str, Struct] = {
    "feeds.fx": Feed(
        url="wss://exchange.example/stream",
        subscribe=({"op": "subscribe", "channels": ["ticks"]},),
        map=(FeedMap(key="data.s", time="data.T", time_unit="ms", data={"bid": "data.b", "ask": "data.a"}),),
    ),
    'topics."price.>"': Topic(window=0.1),
    "admin.keys.deploy": AdminKey(key="at-least-16-random-characters", scopes=("read", "operate")),
    'socketio.namespaces."/chat"': SocketIoNamespace(actor="my_package.chat:Chat"),
    "stages.spread": Stage(actor="my_package.stages:Spread", topics=("price.>",)),
    "services.audit": Service(actor="my_package.services:Audit", topics=("price.>",)),
    "alerts.cpu": Alert(series="machine.cpu", when={"gte": 80}, until={"lt": 75}, for_seconds=10.0, webhooks=("ops",)),
    "webhooks.ops": Webhook(url="https://ops.example/alerts"),
    "parameters.momentum": Parameter(model="my_package.strategies:Momentum"),
}
"""By their dotted names."""
