"""Autobahn's suite against the engine's WebSocket, as server and as client: 0 FAILED, or it exits with 1.

    python -m tests.conformance.autobahn [server] [client] [--cases '1.*' '2.*'] [--wstest PATH]

Both without arguments; the whole suite. `wstest` comes from PyPI's autobahntestsuite, which needs Python 2.7: see the
environment `autobahn` in tox.ini. As server, `examples/ws_echo.py` is tested with and without permessage-deflate; as
client, `examples/ws_client_echo.py`.
"""

from __future__ import annotations

import argparse
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
PARTS = ("server", "client")
LIMIT_S = 1800.0  # of one command; compression takes minutes
START_S = 20.0
COMPRESSION = ["12.*", "13.*"]
GOOD = {"OK", "INFORMATIONAL", "NON-STRICT", "UNIMPLEMENTED"}
"""All but FAILED and WRONG CODE: what the suite itself does not count as a failure, in behavior and in closing."""

Report = dict[str, dict[str, Any]]


def run(command: Sequence[str], deadline: float, log: Path) -> None:
    """Run to the end.

    Raises:
        RuntimeError: it failed or did not end, with its last words.
    """
    with log.open("wb") as output:
        try:
            subprocess.run(
                command, cwd=ROOT, env=environment(), stdout=output, stderr=output, check=True, timeout=deadline
            )
        except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
            raise RuntimeError(f"{error}\n{log.read_text(errors='replace')[-2000:]}") from None


def environment() -> dict[str, str]:
    """With this directory's packages, for the examples; Python 2 has no use for them."""
    return os.environ | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}


@contextmanager
def running(command: Sequence[str], port: int, log: Path) -> Iterator[None]:
    """Run until the block ends; inside it ``port`` accepts connections."""
    with log.open("wb") as output:
        process = subprocess.Popen(command, cwd=ROOT, env=environment(), stdout=output, stderr=output)
        try:
            await_port(process, port, log)
            yield
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def await_port(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline and process.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), 1.0).close()
            return
        except OSError:
            select.select([], [], [], 0.05)
    raise RuntimeError(f"{process.args!r} does not listen\n{log.read_text(errors='replace')[-2000:]}")


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def spec(directory: Path, **fields: Any) -> Path:
    """A file for ``wstest -s``."""
    file = directory / "spec.json"
    file.write_text(json.dumps({"outdir": str(directory / "report"), "exclude-cases": [], **fields}))
    return file


def as_server(wstest: str, cases: list[str], directory: Path) -> Report:
    """The suite's client against our server; without permessage-deflate all but what tests that."""
    ports = {"deflate": free_port(), "plain": free_port()}
    echo = [sys.executable, "examples/ws_echo.py", "--port"]
    found: Report = {}
    for agent, port in ports.items():
        excluded = COMPRESSION if agent == "plain" else []
        with running(
            [*echo, str(port), f"--{'' if agent == 'deflate' else 'no-'}deflate"], port, directory / "echo.log"
        ):
            servers = [{"agent": agent, "url": f"ws://127.0.0.1:{port}"}]
            file = spec(directory, servers=servers, cases=cases, **{"exclude-cases": excluded})
            run([wstest, "-m", "fuzzingclient", "-s", str(file)], LIMIT_S, directory / "wstest.log")
        found |= report(directory)
    return found


def as_client(wstest: str, cases: list[str], directory: Path) -> Report:
    """Our client against the suite's server."""
    port = free_port()
    url = f"ws://127.0.0.1:{port}"
    file = spec(directory, url=url, cases=cases)
    with running([wstest, "-m", "fuzzingserver", "-s", str(file), "-u", "0"], port, directory / "wstest.log"):
        run([sys.executable, "examples/ws_client_echo.py", url], LIMIT_S, directory / "echo.log")
    return report(directory)


def report(directory: Path) -> Report:
    """What the suite wrote: agent to case to result."""
    return dict(json.loads((directory / "report" / "index.json").read_text()))


def bad(results: dict[str, Any]) -> list[str]:
    """Cases that failed, with what was wrong."""
    return [
        f"{case}: {result['behavior']}, closing {result['behaviorClose']}"
        for case, result in results.items()
        if result["behavior"] not in GOOD or result["behaviorClose"] not in GOOD
    ]


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="server|client")
    parser.add_argument("--cases", nargs="+", default=["*"])
    parser.add_argument("--wstest", default="wstest")
    options = parser.parse_args()
    if not set(options.parts) <= set(PARTS):
        parser.error(f"parts are {' and '.join(PARTS)}")
    failed = False
    for part in options.parts or PARTS:
        began = time.monotonic()
        with tempfile.TemporaryDirectory() as directory:
            test = as_server if part == "server" else as_client
            found = test(options.wstest, options.cases, Path(directory))
        for agent, results in found.items():
            counts = Counter(result["behavior"] for result in results.values())
            said = ", ".join(f"{count} {behavior}" for behavior, count in sorted(counts.items()))
            wrong = bad(results)
            print(f"{part} ({agent}): {len(results)} cases: {said}; {len(wrong)} failed")
            for line in wrong:
                print(f"    {line}")
            failed |= bool(wrong) or not results
        print(f"    {time.monotonic() - began:.0f} s", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
