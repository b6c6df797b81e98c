from __future__ import annotations

from engine.public_health import WELL, public_health


def test_what_is_well_is_not_listed() -> None:
    ok = {"status": "ok", "reason": None, "retry_in": None}
    assert public_health({"status": "ok", "version": "1", "node": "a", "components": {"hub": ok}}) == WELL


def test_strangers_are_not_told_why() -> None:
    hub = {"status": "ok", "reason": None, "retry_in": None}
    redis = {"status": "degraded", "reason": "10.1.2.3 refuses the password", "retry_in": 2.5}
    health = {"status": "degraded", "version": "1", "node": "a", "components": {"hub": hub, "feed:redis": redis}}
    assert public_health(health) == {"status": "degraded", "components": {"feed:redis": {"status": "degraded"}}}
