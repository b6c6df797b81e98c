"""What ``GET /health`` says on the client port, where anybody may ask: which components are in trouble, not why."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

WELL: Mapping[str, Any] = {"status": "ok", "components": {}}
"""Until the daemon has said something else."""


def public_health(health: Mapping[str, Any]) -> dict[str, Any]:
    """Of the admin port's answer the status, and the components that are not ok with theirs."""
    components = health["components"].items()
    return {
        "status": health["status"],
        "components": {name: {"status": part["status"]} for name, part in components if part["status"] != "ok"},
    }
