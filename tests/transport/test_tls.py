"""A certificate that is exchanged under connections that go on, and files of which none can be made."""

from __future__ import annotations

import asyncio
import ssl
import subprocess
from pathlib import Path

import pytest
import uvloop

from transport.errors import ConfigError
from transport.tls import ServerTls


def certify(directory: Path, name: str) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1 and localhost that vouches for itself, and its key."""
    cert, key = directory / f"{name}.pem", directory / f"{name}.key"
    make = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    names = "subjectAltName=IP:127.0.0.1,DNS:localhost"
    options = ["-days", "2", "-subj", f"/CN={name}", "-addext", names, "-keyout", str(key), "-out", str(cert)]
    subprocess.run([*make, *options], check=True, capture_output=True)
    return cert, key


def der(cert: Path) -> bytes:
    return ssl.PEM_cert_to_DER_cert(cert.read_text())


@pytest.mark.parametrize("server_name", ["localhost", "127.0.0.1"])  # the latter is not sent to the server
def test_new_handshakes_get_the_new_certificate(tmp_path: Path, server_name: str) -> None:
    cert, key = certify(tmp_path, "served")
    old = cert.read_bytes()

    async def shown(port: int, trusted: bytes) -> tuple[bytes, asyncio.StreamReader, asyncio.StreamWriter]:
        context = ssl.create_default_context(cadata=trusted.decode())
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname=server_name)
        peer: bytes = writer.get_extra_info("ssl_object").getpeercert(True)
        return peer, reader, writer

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            writer.write(line)
        writer.close()

    async def main() -> None:
        tls = ServerTls(cert, key, "admin")
        async with await asyncio.start_server(echo, "127.0.0.1", 0, ssl=tls.context) as server:
            port = server.sockets[0].getsockname()[1]
            first, reader, writer = await shown(port, old)
            assert first == der(cert)

            other, its_key = certify(tmp_path, "other")
            cert.write_bytes(other.read_bytes())
            with pytest.raises(ConfigError, match=r"^admin\.tls_cert_file: cannot use .*served\.key: "):
                tls.reload()  # the key is still the old one
            again, _, second = await shown(port, old)
            assert again == first

            key.write_bytes(its_key.read_bytes())
            tls.reload()
            new, _, third = await shown(port, other.read_bytes())
            assert new == der(other) != first
            writer.write(b"still here\n")
            assert await asyncio.wait_for(reader.readline(), 20) == b"still here\n"
            for each in (writer, second, third):
                each.close()
                await each.wait_closed()

    uvloop.run(main())


def test_files_that_will_not_do(tmp_path: Path) -> None:
    cert, key = certify(tmp_path, "a")
    _, foreign = certify(tmp_path, "b")
    text, locked = tmp_path / "text", tmp_path / "locked"
    text.write_text("no PEM")
    lock = ["openssl", "ec", "-in", str(key), "-aes128", "-passout", "pass:x", "-out", str(locked)]
    subprocess.run(lock, check=True, capture_output=True)
    for cert_file, key_file, why in (
        (tmp_path / "nowhere", key, "No such file"),
        (cert, foreign, "MISMATCH"),
        (cert, None, "PEM"),
        (text, key, "PEM"),
        (cert, locked, "the key is encrypted"),
    ):
        with pytest.raises(ConfigError, match=why) as caught:
            ServerTls(cert_file, key_file, "server")
        assert caught.value.field == "server.tls_cert_file"
    both = tmp_path / "both.pem"
    both.write_bytes(cert.read_bytes() + key.read_bytes())
    ServerTls(both, None, "server")
