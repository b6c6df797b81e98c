"""Clients through a real nginx with ``deploy/nginx.conf``, of which only the ports and the places of files differ."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

import pytest
from websockets.asyncio.client import connect

from engine.delivery_config import Delivery
from tests.integration.harness import EngineProcess, RawClient

SHIPPED = Path(__file__).parents[2] / "deploy/nginx.conf"
START_TIMEOUT_S = 20.0
STOP_TIMEOUT_S = 10.0
TRUSTING = '[server]\ntrusted_proxies = ["127.0.0.1/32"]\n'
UPGRADE = {
    "Connection": "Upgrade",
    "Upgrade": "websocket",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
}


class Nginx:
    """In front of an engine, on a free port.

    Attributes:
        port: for clients.
        tls_port: where TLS was asked for, else 0.
    """

    def __init__(self, command: str, directory: Path, engine_port: int, changes: dict[str, str]) -> None:
        with contextlib.ExitStack() as taken:
            socks = [taken.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(2)]
            self.port, self.tls_port = (sock.getsockname()[1] for sock in socks)
        text = SHIPPED.read_text(encoding="utf-8")
        # Built-in places that only root may use; nothing is kept there.
        kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        places = "".join(f"    {kind}_temp_path {directory / kind};\n" for kind in kinds)
        changes = {
            "listen 80 ": f"listen 127.0.0.1:{self.port} ",
            "server 127.0.0.1:8765 ": f"server 127.0.0.1:{engine_port} ",
            "error_log /var/log/nginx/": f"error_log {directory}/",
            "access_log /var/log/nginx/": f"access_log {directory}/",
            "http {\n": f"http {{\n{places}",
            **{name: value.replace("TLS_PORT", str(self.tls_port)) for name, value in changes.items()},
        }
        for shipped, here in changes.items():
            assert text.count(shipped) == 1, shipped
            text = text.replace(shipped, here)
        file = directory / "nginx.conf"
        file.write_text(text, encoding="utf-8")
        self._errors = directory / "error.log"
        own = f"daemon off; pid {directory}/pid;"
        self._process = subprocess.Popen([command, "-p", directory, "-c", file, "-e", self._errors, "-g", own])
        self._access = directory / "access.log"

    def wait_started(self) -> None:
        """Returns when it accepts."""
        give_up = time.monotonic() + START_TIMEOUT_S
        while True:
            try:
                with socket.create_connection(("127.0.0.1", self.port)):
                    return
            except ConnectionRefusedError:
                if self._process.poll() is not None or time.monotonic() > give_up:
                    raise AssertionError(f"no nginx: {self.errors()}") from None
                time.sleep(0.005)

    @property
    def url(self) -> str:
        """What clients connect to."""
        return f"ws://127.0.0.1:{self.port}/ws"

    def errors(self) -> str:
        """The error log so far."""
        return self._errors.read_text(encoding="utf-8")

    def get(self, path: str, **headers: str) -> int:
        """The status of a request; header names with underscores."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            connection.request("GET", path, headers={name.replace("_", "-"): value for name, value in headers.items()})
            return connection.getresponse().status
        finally:
            connection.close()

    def stop(self) -> str:
        """End it; the access log, which is complete only now."""
        self._process.send_signal(signal.SIGTERM)
        assert self._process.wait(STOP_TIMEOUT_S) == 0
        return self._access.read_text(encoding="utf-8")

    def kill(self) -> None:
        """Whatever state it is in. Idempotent."""
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()


@pytest.fixture
def nginx(missing: Callable[[str], NoReturn]) -> Iterator[Callable[..., Nginx]]:
    """``nginx(engine, {"what the file says": "what it says here"})``."""
    path = os.pathsep.join([os.environ["PATH"], "/usr/sbin"])
    command = shutil.which("nginx", path=path) or missing("nginx")
    with contextlib.ExitStack() as running:

        def start(engine: EngineProcess, changes: dict[str, str] | None = None) -> Nginx:
            directory = Path(running.enter_context(tempfile.TemporaryDirectory(prefix="nginx-")))
            directory.chmod(0o755)  # its workers are somebody else, if we are root
            it = Nginx(command, directory, engine.port, changes or {})
            running.callback(it.kill)
            it.wait_started()
            return it

        yield start


def test_a_client_gets_everything_in_order(
    engine_process: Callable[..., EngineProcess], nginx: Callable[..., Nginx]
) -> None:
    async def main() -> None:
        engine = engine_process(workers=2)
        proxy = nginx(engine)
        async with asyncio.timeout(20), RawClient(proxy.url) as client, RawClient(proxy.url) as publisher:
            await client.subscribe("a.*")
            answers = [publisher.send("publish", topic="a.b", data=n) for n in range(500)]
            assert {answer["op"] for answer in await asyncio.gather(*answers)} == {"ok"}
            big = "x" * 60_000
            answer = await publisher.request("publish", topic="a.b", data=big)
            assert answer["op"] == "ok", answer
            while len(client.of("event")) < 501:
                await asyncio.sleep(0.01)
            assert [event["data"] for event in client.of("event")] == [*range(500), big]
            assert client.offsets("a.b") == list(range(1, 502))
        assert (proxy.get("/health"), proxy.get("/ready"), proxy.get("/api/sessions")) == (200, 200, 404)

    asyncio.run(main())


def test_the_end_of_an_engine_is_told(
    engine_process: Callable[..., EngineProcess], nginx: Callable[..., Nginx]
) -> None:
    async def main() -> None:
        engine = engine_process(workers=1)
        proxy = nginx(engine)
        async with asyncio.timeout(20), RawClient(proxy.url) as client:
            await client.request("ping")
            assert await asyncio.to_thread(engine.stop) == 0
            while client.closed is None:
                await asyncio.sleep(0.01)
            assert (client.closed, client.messages[-1]["op"], client.messages[-1]["reason"]) == (1012, "bye", "drain")
        assert proxy.get("/health") == 502

    asyncio.run(main())


def test_pages_of_the_same_host_are_let_in_and_no_others(
    engine_process: Callable[..., EngineProcess], nginx: Callable[..., Nginx]
) -> None:
    proxy = nginx(engine_process(TRUSTING, workers=1))
    for origin, status in (("https://desk.example", 101), ("https://elsewhere.example", 403)):
        answer = proxy.get("/ws", Host="desk.example", Origin=origin, **UPGRADE)
        assert answer == status, origin


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has all of 127.0.0.0/8")
def test_the_address_of_a_client_arrives_whatever_it_claims(
    engine_process: Callable[..., EngineProcess], nginx: Callable[..., Nginx]
) -> None:
    async def main() -> None:
        engine = engine_process(TRUSTING, workers=1)
        proxy = nginx(engine)
        claim = {"X-Forwarded-For": "192.0.2.1"}
        async with connect(proxy.url, local_addr=("127.0.0.2", 0), additional_headers=claim, proxy=None) as client:
            assert '"welcome"' in str(await client.recv(decode=True))
            (session,) = engine.admin("/api/sessions")[1]["sessions"]
            assert session["address"] == "127.0.0.2"

    asyncio.run(main())


def test_tls_as_the_file_has_it_ready(
    engine_process: Callable[..., EngineProcess],
    nginx: Callable[..., Nginx],
    missing: Callable[[str], NoReturn],
    tmp_path: Path,
) -> None:
    async def main() -> None:
        openssl = shutil.which("openssl") or missing("openssl")
        cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
        make = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=localhost"
        names = "-addext subjectAltName=DNS:localhost"
        files = ["-keyout", key, "-out", cert]
        subprocess.run([openssl, *make.split(), *names.split(), *files], check=True, capture_output=True)
        lines = re.findall(r"# ((?:listen 443|ssl_)[^\n]*)", SHIPPED.read_text(encoding="utf-8"))
        changes = {f"# {line}": line for line in lines}
        changes |= {
            "listen 443 ": "listen 127.0.0.1:TLS_PORT ",
            "/etc/ssl/certs/heliograph.pem": str(cert),
            "/etc/ssl/private/heliograph.key": str(key),
        }
        proxy = nginx(engine_process(workers=1), changes)
        url = f"wss://localhost:{proxy.tls_port}/ws"
        trusting = ssl.create_default_context(cafile=cert)
        async with asyncio.timeout(20), connect(url, ssl=trusting, host="127.0.0.1", proxy=None) as client:
            assert '"welcome"' in str(await client.recv(decode=True))

    asyncio.run(main())


def test_too_many_requests_of_an_address_are_refused(
    engine_process: Callable[..., EngineProcess], nginx: Callable[..., Nginx]
) -> None:
    proxy = nginx(engine_process(workers=1), {"rate=200r/s": "rate=1r/m", "burst=1000 ": "burst=2 "})
    assert [proxy.get("/health") for _ in range(5)] == [200, 200, 200, 429, 429]


def test_the_query_is_not_logged(engine_process: Callable[..., EngineProcess], nginx: Callable[..., Nginx]) -> None:
    async def main() -> None:
        proxy = nginx(engine_process(workers=1))
        async with asyncio.timeout(20), RawClient(f"{proxy.url}?user=alice") as client:
            await client.request("ping")
        log = proxy.stop()
        assert " GET /ws 101 " in log
        assert "alice" not in log + proxy.errors()

    asyncio.run(main())


def test_nginx_is_more_patient_than_the_engine_with_silence() -> None:
    delivery = Delivery()
    for name in ("proxy_read_timeout", "proxy_send_timeout"):
        (seconds,) = re.findall(rf"^ *{name} (\d+)s;", SHIPPED.read_text(encoding="utf-8"), re.M)
        assert float(seconds) > 2 * (delivery.ping_interval + delivery.ping_timeout)
