"""The admin port of a real engine: TLS, keys with scopes, both exchanged by a reload; what it does not start with."""

from __future__ import annotations

import os
import signal
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

import msgspec
import psutil
import pytest

from tests.integration.harness import COMMAND, ROOT, EngineProcess
from tests.transport.test_tls import certify

PATIENCE = 20.0  # s
MASTER, READER, LATER = "master-key-of-the-engine", "reader-key-of-the-engine", "later-key-of-the-engine"


def ask(engine: EngineProcess, trusted: Path, path: str, key: str | None, body: bytes | None = None) -> int:
    """The status that a request gets."""
    headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {})
    request = urllib.request.Request(engine.admin_url + path, body, headers)
    context = ssl.create_default_context(cafile=str(trusted))
    https = urllib.request.HTTPSHandler(context=context)
    opener = urllib.request.build_opener(https, urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=PATIENCE) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


def until_logged(engine: EngineProcess, event: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not any(line["event"] == event for line in engine.log()):
        assert time.monotonic() < deadline, event
        time.sleep(0.02)


def refused_by(command: list[str], environ: dict[str, str]) -> int:
    stats = subprocess.run([*command, "stats", "--json"], env=environ, cwd=ROOT, capture_output=True, timeout=60)
    assert stats.returncode == 0, stats.stderr
    count: int = msgspec.json.decode(stats.stdout)["admin_refused"].get("unauthorized", 0)
    return count


@pytest.mark.parametrize("workers", [0, 1])
def test_tls_scopes_and_a_reload_of_both(
    engine_process: Callable[..., EngineProcess], tmp_path: Path, workers: int
) -> None:
    cert, key = certify(tmp_path, "one")
    other, other_key = certify(tmp_path, "two")
    secret = tmp_path / "secret"
    secret.write_text(READER)
    config = (
        f'[admin]\napi_key = "{MASTER}"\ntls_cert_file = "{cert}"\ntls_key_file = "{key}"\n'
        f'[admin.keys.watch]\nkey_file = "{secret}"\nscopes = ["read"]\n'
    )
    engine = engine_process(config, workers=workers)
    assert engine.admin_url.startswith("https://127.0.0.1:")
    event = b'{"topic":"a.b","data":1}'
    assert ask(engine, cert, "/health", None) == 200
    for path, body, of_reader in (("/stats", None, 200), ("/api/publish", event, 403), ("/api/reload", b"{}", 403)):
        assert ask(engine, cert, path, None, body) == 401
        assert ask(engine, cert, path, "wrong", body) == 401
        assert ask(engine, cert, path, READER, body) == of_reader
        assert ask(engine, cert, path, MASTER, body) == 200

    environ = os.environ | {"SSL_CERT_FILE": str(cert), "HELIOGRAPH_API_KEY": READER}
    command = [sys.executable, "-m", "engine", "--admin-url", engine.admin_url]
    deadline = time.monotonic() + PATIENCE
    while refused_by(command, environ) < 6:  # the daemon counts itself once a second
        assert time.monotonic() < deadline
    reload = subprocess.run([*command, "reload"], env=environ, cwd=ROOT, capture_output=True, timeout=60)
    assert reload.returncode == 1
    assert b"scope operate" in reload.stderr
    environ["SSL_CERT_FILE"] = str(other)
    strange = subprocess.run([*command, "stats"], env=environ, cwd=ROOT, capture_output=True, timeout=60)
    assert strange.returncode == 1
    assert b"SSL_CERT_FILE" in strange.stderr

    secret.write_text(LATER)
    good = cert.read_bytes()
    cert.write_text("broken")
    os.kill(engine.pid, signal.SIGHUP)
    until_logged(engine, "reload_failed")
    cert.write_bytes(good)
    assert ask(engine, cert, "/stats", READER) == 200
    assert ask(engine, cert, "/stats", LATER) == 401

    cert.write_bytes(other.read_bytes())
    key.write_bytes(other_key.read_bytes())
    assert ask(engine, _first(tmp_path, good), "/api/reload", MASTER, b"{}") == 200
    assert ask(engine, other, "/stats", READER) == 401
    assert ask(engine, other, "/stats", LATER) == 200

    engine.stop()
    written = str(engine.log())
    assert "admin_refused" in written
    assert not any(hidden in written for hidden in (MASTER, READER, LATER, "wrong"))


def _first(directory: Path, pem: bytes) -> Path:
    path = directory / "first.pem"
    path.write_bytes(pem)
    return path


@pytest.mark.parametrize(
    ("config", "field"),
    [
        ('[admin]\nhost = "0.0.0.0"\n', b"admin.api_key"),
        ('[admin]\nhost = "::"\n', b"admin.api_key"),
        ('[admin]\ntls_cert_file = "/nowhere.pem"\n', b"admin.tls_cert_file"),
        ('[admin.keys.a]\nkey = "x"\nscopes = ["everything"]\n', b"admin.keys.a.scopes"),
    ],
)
def test_what_it_does_not_start_with(tmp_path: Path, config: str, field: bytes) -> None:
    file = tmp_path / "heliograph.toml"
    file.write_text(config)
    options = ["--config", str(file), "--port", "0", "--admin-port", "0", "--workers", "0"]
    done = subprocess.run([*COMMAND, *options], cwd=ROOT, capture_output=True, timeout=60)
    assert done.returncode == 2
    assert field in done.stderr
    assert done.stdout == b""


def test_the_bus_is_in_a_private_directory_and_on_no_port(engine_process: Callable[..., EngineProcess]) -> None:
    engine = engine_process(workers=1)
    directory = Path(engine.runtime_dir)
    assert directory.stat().st_mode & 0o777 == 0o700
    assert {"hub.sock", "control.sock"} <= {path.name for path in directory.iterdir()}
    ports = {
        connection.laddr.port
        for process in engine.processes()
        for connection in process.net_connections("tcp")
        if connection.status == psutil.CONN_LISTEN
    }
    assert ports == {engine.port, int(engine.admin_url.rpartition(":")[2])}
