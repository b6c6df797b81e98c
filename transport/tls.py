"""A server's TLS: one context for all its connections, whose certificate can be exchanged while it serves."""

from __future__ import annotations

import os
import ssl
from typing import Final

from transport.errors import ConfigError

HANDSHAKE_TIMEOUT: Final = 10.0  # s from a connection to its last TLS handshake message


class ServerTls:
    """The certificate that a server shows, from PEM files. TLS 1.2 and later; clients show none.

    Args:
        cert_file: the certificate, then those of the authorities between it and a root.
        key_file: its key, not encrypted; ``None``: it is in ``cert_file``.
        table: of the configuration, for errors: ``server``, ``admin``.

    Attributes:
        context: for the server; the same object for its whole life.

    Raises:
        ConfigError: a file cannot be read, is not PEM, or the key is not the certificate's; names ``tls_cert_file``.
    """

    def __init__(self, cert_file: str | os.PathLike[str], key_file: str | os.PathLike[str] | None, table: str) -> None:
        self._cert_file, self._key_file, self._table = cert_file, key_file, table
        self._newest = self.context = self._load()
        # Also called for clients that name no server. To load anew into a context in use could leave it with a
        # certificate and without its key; another context for the handshake is all or nothing.
        self.context.sni_callback = self._choose

    def reload(self) -> None:
        """Read the files again, for handshakes to come; after a :class:`ConfigError` all is as it was."""
        self._newest = self._load()

    def _load(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        try:
            context.load_cert_chain(self._cert_file, self._key_file, password=self._no_password)
        except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
            files = " and ".join(str(file) for file in (self._cert_file, self._key_file) if file is not None)
            why = error.strerror or str(error) if isinstance(error, OSError) else str(error)
            raise ConfigError(f"cannot use {files}: {why}", f"{self._table}.tls_cert_file") from None
        return context

    @staticmethod
    def _no_password() -> str:
        raise ValueError("the key is encrypted")  # OpenSSL would ask at the terminal

    def _choose(self, connection: ssl.SSLObject, name: str | None, context: ssl.SSLContext) -> None:
        connection.context = self._newest
