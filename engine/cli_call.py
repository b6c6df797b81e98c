"""``heliograph call``: ask whoever serves a topic."""

from __future__ import annotations

import logging
import sys

import msgspec

from engine.cli_client import notices
from engine.client import Client


def call(url: str, token: str | None, topic: str, method: str, params: bytes | None, timeout: float) -> int:
    """Call and write the result as JSON, one line."""
    notices(logging.WARNING)
    with Client.sync(url, token=token) as client:
        result = client.call(topic, method, None if params is None else msgspec.Raw(params), timeout=timeout)
    sys.stdout.buffer.write(msgspec.json.encode(result) + b"\n")
    return 0
