"""The part of the configuration that is about the admin port; see :mod:`engine.config`."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from engine.tables import Masked, Name, about
from transport.addresses import is_loopback
from transport.errors import ConfigError

Scope = Literal["publish", "read", "operate"]
"""What a key is for; which request needs which is in :mod:`engine.admin_gate`."""
API_KEY = "api_key"
"""The name, among the keys, of the one that has all scopes."""


class AdminKey(Masked, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[admin.keys.NAME]``: a key for some of what the admin API can do. Give it 16 random characters or more."""

    key: Annotated[Name, about("what requests carry as `Authorization: Bearer KEY` or `X-API-Key`", secret=True)]
    scopes: Annotated[
        tuple[Scope, ...],
        Meta(min_length=1),
        about("publish: POST /api/publish; read: all that changes nothing; operate: all else"),
    ]

    def __post_init__(self) -> None:
        check_key(self.key, "key")


class Admin(Masked, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[admin]``: the admin HTTP port."""

    host: Annotated[Name, about("address of the admin HTTP server")] = "127.0.0.1"
    port: Annotated[int, about("admin port; 0 picks a free one", ge=0, le=65_535)] = 8766
    api_key: Annotated[
        Name | None,
        about(
            "key for all that the API can do; it, or one of keys, is required unless host is loopback",
            none="no such key",
            secret=True,
        ),
    ] = None
    keys: Annotated[dict[str, AdminKey], about("keys for some of it")] = {}
    tls_cert_file: Annotated[
        Name | None, about("PEM file of the certificate, read again by a reload", none="HTTP without TLS")
    ] = None
    tls_key_file: Annotated[Name | None, about("PEM file of its key", none="in tls_cert_file")] = None

    def __post_init__(self) -> None:
        if not self.all_keys() and not is_loopback(self.host):
            raise ConfigError(f"needed because admin.host {self.host!r} is not a loopback address", API_KEY)
        if self.api_key is not None:
            check_key(self.api_key, API_KEY)
        if API_KEY in self.keys:
            raise ConfigError("is admin.api_key's name in logs; choose another", f"keys.{API_KEY}")
        owners: dict[str, str] = {}
        for name, (key, _) in self.all_keys().items():
            if (owner := owners.setdefault(key, name)) != name:
                raise ConfigError(f"is the key of {owner}, too", f"keys.{name}.key")
        if self.tls_key_file is not None and self.tls_cert_file is None:
            raise ConfigError("needed because tls_key_file is given", "tls_cert_file")

    def all_keys(self) -> dict[str, tuple[str, frozenset[Scope]]]:
        """Each key and what it is for, by its name."""
        found: dict[str, tuple[str, frozenset[Scope]]] = {}
        if self.api_key is not None:
            found[API_KEY] = self.api_key, frozenset(("publish", "read", "operate"))
        return found | {name: (key.key, frozenset(key.scopes)) for name, key in self.keys.items()}

    @property
    def scheme(self) -> str:
        """``https`` or ``http``."""
        return "http" if self.tls_cert_file is None else "https"


def check_key(key: str, field: str) -> None:
    """Raises :class:`ConfigError` for what no header can carry as it is."""
    if key != key.strip() or not key.isprintable():
        raise ConfigError("has blanks around it or characters that no header can carry", field)
