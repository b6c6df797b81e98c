"""Spans as OpenTelemetry has them, exported by OTLP over HTTP: the extra ``otel``. Without ``[tracing]`` no process
imports the SDK.

The SDK's own thread exports, in batches: while the collector is away 2,048 spans wait, of more the oldest are dropped,
and no event waits for any of it.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from engine.version import VERSION
from transport.errors import ConfigError

if TYPE_CHECKING:
    from actors.tracing import Span
    from engine.config import Config

EXPORT_TIMEOUT = 2.0  # s for a batch of spans
CLOSE_TIMEOUT = 1.0  # s for the last ones, when a process ends
SCOPE = "heliograph"
_HINT = "needs OpenTelemetry: pip install 'heliograph[otel]', or 0"


class OpenTelemetry:
    """The spans of one process (:class:`actors.tracing.Spans`).

    Args:
        process: its name, which its spans carry.

    Raises:
        ConfigError: the SDK is not installed.
    """

    def __init__(self, config: Config, process: str) -> None:
        try:
            from opentelemetry import trace
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
            from opentelemetry.sdk.resources import Resource
            from opentelemetry.sdk.trace import TracerProvider
            from opentelemetry.sdk.trace.export import BatchSpanProcessor
            from opentelemetry.sdk.trace.sampling import ALWAYS_ON
        except ImportError as error:
            raise ConfigError(f"{_HINT} ({error})", "tracing.sample") from None
        self._api = trace
        resource = Resource.create(
            {
                "service.name": os.environ.get("OTEL_SERVICE_NAME", SCOPE),
                "service.version": VERSION,
                "service.instance.id": config.server.node_name(),
                "heliograph.process": process,
            }
        )
        # Who publishes has decided: what comes here is to be recorded.
        self._provider = TracerProvider(ALWAYS_ON, resource, shutdown_on_exit=False)
        exporter = OTLPSpanExporter(config.tracing.endpoint, timeout=EXPORT_TIMEOUT)
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer(SCOPE, VERSION)

    def begin(self, name: str, at: int, parent: str | None, attributes: Mapping[str, str | int]) -> Span:
        """See :meth:`actors.tracing.Spans.begin`."""
        named = {f"heliograph.{key}": value for key, value in attributes.items()}
        context = None if parent is None else self._context(parent)
        return _Span(self._tracer.start_span(name, context, attributes=named, start_time=at))

    def _context(self, traceparent: str) -> Any:
        """What :class:`_Span` has written, in another process."""
        _, trace_id, span_id, _ = traceparent.split("-")
        api = self._api
        flags = api.TraceFlags(api.TraceFlags.SAMPLED)
        remote = api.SpanContext(int(trace_id, 16), int(span_id, 16), is_remote=True, trace_flags=flags)
        return api.set_span_in_context(api.NonRecordingSpan(remote))

    async def close(self) -> None:
        """Export what waits, for at most :data:`CLOSE_TIMEOUT`."""
        thread = threading.Thread(target=self._provider.shutdown, name="last spans", daemon=True)
        thread.start()
        await asyncio.get_running_loop().run_in_executor(None, thread.join, CLOSE_TIMEOUT)


class _Span:
    def __init__(self, span: Any) -> None:
        own = span.get_span_context()
        self.context = f"00-{own.trace_id:032x}-{own.span_id:016x}-01"  # W3C Trace Context, section 3.2
        self._span = span

    def end(self, at: int) -> None:
        self._span.end(at)


def start_tracing(config: Config, process: str) -> OpenTelemetry | None:
    """The spans of a process; ``None`` where nothing is traced."""
    return OpenTelemetry(config, process) if config.tracing.sample else None
