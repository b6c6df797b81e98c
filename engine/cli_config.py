"""``heliograph config`` and ``check-config``."""

from __future__ import annotations

import sys
from pathlib import Path

import msgspec

from actors.mapping import Mapper
from engine import config
from engine.cli import FAILED, complain, note
from transport.errors import CodecError, ConfigError, RequestError


def show(path: Path | None, defaults: bool) -> int:
    """Write the effective configuration, or the default one."""
    sys.stdout.write(config.defaults_toml() if defaults else config.effective_toml(config.load(path)))
    return 0


def check(path: Path, sample: tuple[str, Path] | None) -> int:
    """Check a file by itself, whatever the environment says.

    Raises:
        ConfigError: names the field and the line.
    """
    loaded = config.load(path, None, {})
    note(f"{path} is fine")
    if sample is None:
        return 0
    feed, messages = sample
    if feed not in loaded.feeds:
        known = ", ".join(loaded.feeds) or "none"
        raise ConfigError(f"there is no such feed in {path}; there are: {known}", f"feeds.{feed}")
    return _map(Mapper(loaded.feeds[feed].map), messages)


def _map(mapper: Mapper, messages: Path) -> int:
    """Write the events that come of recorded messages, one a line."""
    mapped = ignored = failed = 0
    try:
        lines = messages.read_bytes().splitlines()
    except OSError as error:
        raise ConfigError(f"cannot read {messages}: {error.strerror}", "--sample") from None
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            publish = mapper.map(line)
        except (CodecError, RequestError) as error:
            failed += 1
            complain(f"{messages} line {number}: {error}")
            continue
        if publish is None:
            ignored += 1
            continue
        mapped += 1
        fields = {"topic": publish.topic, "type": publish.type}
        more = {name: value for name in ("key", "source_ts") if (value := getattr(publish, name)) is not None}
        event = {**fields, **more, "data": msgspec.Raw(publish.data)}
        sys.stdout.write(msgspec.json.encode(event).decode() + "\n")
    note(f"{mapped} mapped, {ignored} not for this feed, {failed} failed")
    return FAILED if failed else 0
