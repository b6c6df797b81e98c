"""The way of an event, of a feed and of a client, as a collector of OpenTelemetry gets it from a real engine."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from heliograph import Engine, MockExchange

TIMEOUT = 30.0


class Span(NamedTuple):
    name: str
    trace: bytes
    id: bytes
    parent: bytes
    began: int
    ended: int
    process: str
    attributes: dict[str, Any]


class Collector:
    """Keeps what is sent to it by OTLP over HTTP, of a thread of its own."""

    def __init__(self) -> None:
        self.spans: list[Span] = []
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                collector.take(ExportTraceServiceRequest.FromString(body))
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}/v1/traces"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def take(self, request: ExportTraceServiceRequest) -> None:
        for resource in request.resource_spans:
            of_process = _map(resource.resource.attributes)
            assert of_process["service.name"] == "heliograph"
            self.spans += [
                Span(
                    span.name,
                    span.trace_id,
                    span.span_id,
                    span.parent_span_id,
                    span.start_time_unix_nano,
                    span.end_time_unix_nano,
                    of_process["heliograph.process"],
                    _map(span.attributes),
                )
                for scope in resource.scope_spans
                for span in scope.spans
            ]

    def way_of(self, topic: str) -> list[Span]:
        return sorted((span for span in self.spans if span.attributes["heliograph.topic"] == topic), key=_began)

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


def _began(span: Span) -> int:
    return span.began


def _map(pairs: Any) -> dict[str, Any]:
    return {pair.key: getattr(pair.value, pair.value.WhichOneof("value")) for pair in pairs}


@pytest.fixture
def collector() -> Iterator[Collector]:
    collector = Collector()
    yield collector
    collector.close()


async def one_of_each(workers: int, endpoint: str) -> None:
    """The life of an engine that delivers a tick and a client's event."""
    async with asyncio.timeout(TIMEOUT), MockExchange(rate=0) as exchange:
        feeds, tracing = exchange.feed_config("mock"), {"sample": 1.0, "endpoint": endpoint}
        async with (
            Engine(workers=workers, port=0, admin_port=0, feeds=feeds, tracing=tracing) as engine,
            engine.client() as client,
            client.subscribe("price.*", "order.1") as events,
        ):
            await exchange.wait_request("SUBSCRIBE", timeout=TIMEOUT)
            exchange.tick(1, "BTC-USD")
            assert (await anext(events)).topic == "price.BTC-USD"
            await client.publish("order.1", {})
            assert (await anext(events)).topic == "order.1"


@pytest.mark.parametrize("workers", [0, 1])
def test_an_events_way_is_one_trace_over_all_processes(collector: Collector, workers: int) -> None:
    asyncio.run(one_of_each(workers, collector.endpoint))  # what waits is exported at the end
    for topic, first, process in (("price.BTC-USD", "feed", "feeds"), ("order.1", "publish", "worker-0")):
        root, route, broadcast = way = collector.way_of(topic)
        assert [(span.name, span.process) for span in way] == [
            (first, process),
            ("route", "hub"),
            ("broadcast", "worker-0"),
        ]
        assert {span.trace for span in way} == {root.trace}
        assert (root.parent, route.parent, broadcast.parent) == (b"", root.id, root.id)
        assert all(span.began <= span.ended for span in way)
        assert route.attributes["heliograph.offset"] == broadcast.attributes["heliograph.offset"] == 1
        assert broadcast.attributes["heliograph.clients"] == 1
    assert collector.way_of("price.BTC-USD")[0].attributes["heliograph.feed"] == "mock"
    assert len({span.trace for span in collector.spans}) == 2


def test_a_collector_that_hangs_harms_nothing() -> None:
    """It is waited for a moment at the end, no longer."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        asyncio.run(one_of_each(0, f"http://127.0.0.1:{silent.getsockname()[1]}/"))
