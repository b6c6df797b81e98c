"""What tests of feeds share."""

from __future__ import annotations

from tests.feeds.redis_server import redis_server as redis_server
