"""CurveZMQ (RFC 26) for a bus over TCP: each side knows the other by its key, and nobody between them can read.

What is in one machine, ``ipc://`` in a private directory or ``inproc://``, needs none of it. Everything else is refused
without: :func:`check_endpoint`.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import os
import stat
from collections.abc import Collection
from typing import Final, NamedTuple, Self

import zmq
from zmq.utils import z85

from transport.errors import ConfigError, HeliographError
from transport.poller import Poller

ZAP: Final = "inproc://zeromq.zap.01"  # where zmq asks for a decision: RFC 27
VERSION: Final = b"1.0"
MECHANISM: Final = b"CURVE"
LOCAL: Final = ("ipc://", "inproc://")
KEY_BYTES: Final = 40  # of a key as Z85

_log = logging.getLogger(__name__)


class KeyPair(NamedTuple):
    """A side's keys as Z85 text, 40 bytes each."""

    public: bytes
    secret: bytes

    def __repr__(self) -> str:
        return f"<KeyPair {self.public.decode()}>"

    @classmethod
    def generate(cls) -> Self:
        """A new one."""
        return cls(*zmq.curve_keypair())

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """What :meth:`save` wrote.

        Raises:
            ConfigError: it cannot be read, is none, or somebody else could have read or written it.
        """
        try:
            with open(path, "rb", opener=_not_through_links) as file:
                found, lines = os.fstat(file.fileno()), file.read(1_000).split()
        except OSError as error:
            raise ConfigError(f"cannot read {path}: {error.strerror}") from None
        if not stat.S_ISREG(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
            raise ConfigError(f"{path} must be a file of this user with mode 0600")
        if len(lines) != 2 or not all(len(key) == KEY_BYTES for key in lines) or not _belong(*lines):
            raise ConfigError(f"{path} holds no pair of keys")
        return cls(*lines)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write to a new file of mode 0600; :class:`FileExistsError` where there is one."""
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with open(fd, "wb") as file:
            file.write(self.public + b"\n" + self.secret + b"\n")


class ServerKeys(NamedTuple):
    """For a server: its own pair, and the public keys of the clients that it lets in."""

    own: KeyPair
    clients: Collection[bytes]


class ClientKeys(NamedTuple):
    """For a client: its own pair, and the public key of the only server that it speaks to."""

    own: KeyPair
    server: bytes


def check_endpoint(endpoint: str, keys: ServerKeys | ClientKeys | None) -> None:
    """Raise :class:`ConfigError` if ``keys`` is none and ``endpoint`` can be reached from elsewhere."""
    if keys is None and not endpoint.startswith(LOCAL):
        raise ConfigError(f"a bus on {endpoint} needs CURVE keys: without them anybody may join it and read it")


def secure_server(sock: zmq.Socket[bytes], keys: ServerKeys) -> None:
    """Before ``bind``. Without an :class:`Authenticator` the socket lets nobody in."""
    sock.curve_server = True
    sock.curve_publickey, sock.curve_secretkey = keys.own
    sock.setsockopt(zmq.ZAP_DOMAIN, b"heliograph")
    sock.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, 1)  # else everybody is let in where nobody decides


def secure_client(sock: zmq.Socket[bytes], keys: ClientKeys) -> None:
    """Before ``connect``."""
    sock.curve_publickey, sock.curve_secretkey = keys.own
    sock.curve_serverkey = keys.server


class Authenticator:
    """Decides for all secured servers of a context who is let in; on the thread of ``loop``. One per context.

    Attributes:
        denied: clients that were not, so far. Each is logged, too.

    Raises:
        HeliographError: the context has one already.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, context: zmq.Context[zmq.Socket[bytes]], clients: Collection[bytes]
    ) -> None:
        self.denied = 0
        self._clients = [z85.decode(key) for key in clients]
        self._sock = context.socket(zmq.ROUTER)
        self._sock.linger = 0
        try:
            self._sock.bind(ZAP)
        except zmq.ZMQError as error:
            self._sock.close()
            raise HeliographError(f"one bus with CURVE keys per ZeroMQ context: {error}") from None
        self._poller = Poller(loop, self._sock, self._on_frames)

    def close(self) -> None:
        """From now on nobody is let in."""
        self._poller.close()
        self._sock.unbind(ZAP)  # at once, for a successor; closing does it later
        self._sock.close()

    def _on_frames(self, frames: list[bytes]) -> None:
        # RFC 27: identity, delimiter, version, request, domain, address, identity of the peer, mechanism, its key
        envelope, request_id, address, mechanism, key = frames[:2], frames[3], frames[5], frames[7], frames[-1]
        known = [hmac.compare_digest(key, client) for client in self._clients]
        is_in = mechanism == MECHANISM and any(known)
        if not is_in:
            self.denied += 1
            _log.warning("a client without a known key is kept off the bus", extra={"address": address.decode()})
        status, text = (b"200", b"OK") if is_in else (b"400", b"no known key")
        self._sock.send_multipart((*envelope, VERSION, request_id, status, text, b"", b""))
        self._poller.kick()


def _not_through_links(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)


def _belong(public: bytes, secret: bytes) -> bool:
    try:
        return bool(zmq.curve_public(secret) == public)
    except (ValueError, zmq.ZMQError):
        return False
