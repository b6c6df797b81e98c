"""``heliograph config`` and ``check-config``."""

from __future__ import annotations

import sys
from pathlib import Path

import typer

from actors.mapping import Mapper
from engine import config, feed_wiring, user_code
from engine.cli import FAILED, note
from engine.feed_config import MAPPED
from engine.mapping_text import lines, samples, unstyled
from engine.monitor import monitor_specs
from engine.socketio_wiring import check_socketio
from engine.tables import read_text
from engine.toml_text import line_of
from transport.errors import ConfigError


def show(path: Path | None, defaults: bool) -> int:
    """Write the effective configuration, or the default one."""
    sys.stdout.write(config.defaults_toml() if defaults else config.effective_toml(config.load(path)))
    return 0


def check(path: Path, sample: tuple[str, Path] | None) -> int:
    """Check a file by itself, whatever the environment says, and show what a feed's maps make of sample messages.

    Raises:
        ConfigError: names the field and the line.
    """
    loaded = config.load(path, None, {})
    config.import_beside(path)
    try:
        for name, table in loaded.stages.items():
            user_code.stage_maker(name, table)
        feed_wiring.feed_specs(loaded)
        user_code.service_specs(loaded)
        monitor_specs(loaded)
        check_socketio(loaded)
    except ConfigError as error:
        raise ConfigError(error.message, error.field, line_of(read_text(path), error.field or "")) from None
    note(f"{path} is fine")
    if sample is None:
        return 0
    name, messages = sample
    if name not in loaded.feeds:
        known = ", ".join(loaded.feeds) or "none"
        raise ConfigError(f"there is no such feed in {path}; there are: {known}", f"feeds.{name}")
    feed = loaded.feeds[name]
    if feed.protocol != MAPPED:
        raise ConfigError(
            f"{feed.protocol!r} reads messages in its own way: what becomes of a sample can be shown for "
            f"{MAPPED!r} only",
            f"feeds.{name}.protocol",
        )
    return _show(Mapper(feed.map, feed.sequence), len(feed.map), messages)


def _show(mapper: Mapper, maps: int, file: Path) -> int:
    try:
        found = samples(file.read_bytes())
    except OSError as error:
        raise ConfigError(f"cannot read {file}: {error.strerror}", "--sample") from None
    mapped = ignored = failed = 0
    style = _coloured if sys.stdout.isatty() else unstyled
    for sample in found:
        report = mapper.explain(sample.raw)
        mapped, failed = mapped + report.mapped, failed + report.bad
        ignored += not (report.mapped or report.bad)
        sys.stdout.writelines(f"{line}\n" for line in lines(sample.place, report, maps, style))
    sys.stdout.flush()
    note(f"{mapped} mapped, {ignored} not for this feed, {failed} failed")
    return FAILED if failed else 0


def _coloured(text: str, kind: str) -> str:
    return typer.style(text, fg="red") if kind == "bad" else typer.style(text, bold=True)
