"""The service of ``[alerts.*]``, made of the configuration."""

from __future__ import annotations

import os
from collections.abc import Mapping

from actors.alert_service import AlertService
from actors.alert_store import AlertStore
from actors.service_runner import ServiceSpec
from actors.webhook import Webhook
from engine.config import Config
from engine.state_path import state_path

TABLE = "alerts"
"""Of the configuration; the service's name, and its database's."""


def alert_store(config: Config, environ: Mapping[str, str] = os.environ) -> AlertStore:
    """What alerts remember, also over reloads; nothing is opened yet."""
    return AlertStore(state_path(None, TABLE, config.server.port, environ))


def alert_service(config: Config, store: AlertStore) -> ServiceSpec:
    """What there is to run. Webhooks, with their breakers, outlive the lives of the service."""
    rules = [table.rule(name) for name, table in config.alerts.items()]
    webhooks = {name: Webhook(name, table.url, table.headers) for name, table in config.webhooks.items()}
    return ServiceSpec(
        TABLE,
        lambda engine: AlertService(name=TABLE, engine=engine, rules=rules, webhooks=webhooks, store=store),
        tuple(dict.fromkeys(rule.pattern for rule in rules)),
    )
