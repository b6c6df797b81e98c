"""The part of the configuration that is about traces; see :mod:`engine.config`."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Annotated
from urllib.parse import urlsplit

from msgspec import Meta, Struct

from engine.tables import about
from transport.errors import ConfigError


class Tracing(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[tracing]``: events' ways as OpenTelemetry traces; needs `pip install heliograph[otel]`."""

    sample: Annotated[
        Annotated[float, Meta(ge=0, le=1)], about("share of events that are traced, decided where they come in; 0: off")
    ] = 0.0
    endpoint: Annotated[
        str,
        about("URL to which spans are sent, OTLP over HTTP; headers come from $OTEL_EXPORTER_OTLP_HEADERS"),
    ] = "http://127.0.0.1:4318/v1/traces"

    def __post_init__(self) -> None:
        try:
            parts = urlsplit(self.endpoint)
            valid = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        except ValueError:
            valid = False
        if not valid:
            raise ConfigError("must be http://HOST[:PORT]/PATH or https://…", "endpoint")
        if parts.username is not None:
            raise ConfigError("must hold no password: give a header in $OTEL_EXPORTER_OTLP_HEADERS", "endpoint")
        if self.sample and find_spec("opentelemetry") is None:
            raise ConfigError("needs OpenTelemetry: pip install 'heliograph[otel]', or 0", "sample")
