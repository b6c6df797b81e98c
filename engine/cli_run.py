"""``heliograph run``: options to configuration to daemon. Imports as little as it can, see :mod:`engine.cli`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from functools import partial

_EXAMPLES = """\
examples:
  heliograph run --demo                      recorded market data on ws://127.0.0.1:8765/ws
  heliograph run --config heliograph.toml    as configured; SIGHUP reads the file again
  heliograph run --port 0 --admin-port 0     free ports; the line `ready …` tells which

Every field of the configuration is also a variable HELIOGRAPH_<TABLE>__<FIELD>; see `heliograph config --defaults`.
SIGTERM and Ctrl-C let clients go and stop.
"""


def parser() -> argparse.ArgumentParser:
    """The command's options; none of them is what the configuration says."""
    options = argparse.ArgumentParser(
        prog="heliograph run",
        description="Run the engine until it is told to stop. One line on stdout when it is ready.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    options.add_argument("--config", metavar="FILE", help="TOML configuration [env: HELIOGRAPH_CONFIG]")
    options.add_argument("--host", help="address that clients connect to")
    options.add_argument("--port", type=int, help="port that clients connect to; 0 picks a free one")
    options.add_argument("--admin-host", metavar="HOST", help="address of the admin API")
    options.add_argument("--admin-port", metavar="PORT", type=int, help="port of the admin API; 0 picks a free one")
    options.add_argument("--workers", metavar="N", type=int, help="broadcast processes; 0: all in this process")
    options.add_argument("--demo", action="store_true", help="add a replay exchange and a feed connected to it")
    return options


def run(arguments: Sequence[str]) -> int:
    """Run the daemon; returns its exit code. Raises :class:`transport.errors.ConfigError`."""
    given = parser().parse_args(arguments)
    overrides = {
        "server.host": given.host,
        "server.port": given.port,
        "admin.host": given.admin_host,
        "admin.port": given.admin_port,
        "server.workers": given.workers,
    }
    from engine import config, daemon  # after the options: --help and mistakes are answered at once

    load = partial(config.load, given.config, overrides)
    loaded = load()
    config.import_beside(given.config)
    return daemon.run(loaded, given.demo, load)
