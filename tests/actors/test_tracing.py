"""Which events are traced, and what becomes of their spans; see also tests/integration/test_tracing.py."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import count

from hypothesis import given
from hypothesis import strategies as st

from actors import tracing
from actors.history import Accepted
from actors.tracing import PublishTracing, RouteTracing, WriteTracing
from transport.codes import ErrorCode
from transport.errors import RequestError
from transport.messages import Publication, Publish, Traced


class FakeSpan:
    def __init__(
        self, spans: FakeSpans, name: str, at: int, parent: str | None, attributes: dict[str, str | int]
    ) -> None:
        self.context = f"{name}{len(spans.begun)}"
        self.name, self.began, self.parent, self.attributes = name, at, parent, attributes
        self.ended: int | None = None

    def end(self, at: int) -> None:
        assert self.ended is None, "a span ends once"
        self.ended = at


class FakeSpans:
    def __init__(self) -> None:
        self.begun: list[FakeSpan] = []

    def begin(self, name: str, at: int, parent: str | None, attributes: Mapping[str, str | int]) -> FakeSpan:
        span = FakeSpan(self, name, at, parent, dict(attributes))
        self.begun.append(span)
        return span


def publish(topic: str = "a", trace: str | None = None) -> Publish:
    return Publish(0, topic, "t", b"1", trace=trace)


def accepted(offset: int, topic: str = "a", again: bool = False) -> Accepted:
    return Accepted(Publication(topic, "e", offset, 0.0, "t", b"1"), b"", offset, again)


@given(st.lists(st.floats(0, 1, exclude_max=True)), st.floats(0, 1))
def test_a_share_is_chosen_and_nothing_else_is_touched(draws: list[float], share: float) -> None:
    spans, chance = FakeSpans(), iter(draws)
    publisher = PublishTracing(spans, share, random=lambda: next(chance), clock=lambda: 9)
    batch = [publish(str(n)) for n in range(len(draws))]
    out = publisher.chosen("feed", batch, 5, feed="fx")
    assert [event._replace(trace=None) for event in out] == batch
    assert [event.trace is not None for event in out] == [draw < share for draw in draws]
    assert [event.trace for event in out if event.trace is not None] == [span.context for span in spans.begun]
    assert all(span.ended is None for span in spans.begun)
    publisher.published()
    publisher.published()
    assert all((span.began, span.ended, span.parent) == (5, 9, None) for span in spans.begun)
    assert all(span.attributes["feed"] == "fx" for span in spans.begun)


def test_a_clients_event_is_chosen_where_it_is_made() -> None:
    spans = FakeSpans()
    assert PublishTracing(spans, 0.5, random=lambda: 0.5).publish(1, "a", "t", b"1").trace is None
    made = PublishTracing(spans, 0.5, random=lambda: 0.4).publish(1, "a", "t", b"1", idempotency_key="k")
    assert made == Publish(1, "a", "t", b"1", idempotency_key="k", trace="publish0")
    assert spans.begun[0].ended is not None


def test_the_router_traces_what_is_new_and_tells_the_workers_once() -> None:
    spans = FakeSpans()
    router = RouteTracing(spans, clock=lambda: 5_000_000_000)
    events = [accepted(1), accepted(2), accepted(3, again=True)]
    refused = RequestError(ErrorCode.LIMIT_EXCEEDED, "too much")
    pairs = [(publish(trace="x"), events[0]), (publish(), events[1]), (publish(trace="y"), events[2])]
    router.accepted([*pairs, (publish(trace="z"), refused)], 2.0)
    assert router.distributing(events) == [Traced("a", "e", 1, "x")]
    router.distributed()
    assert router.distributing(events) == []
    router.distributed()
    [span] = spans.begun
    assert (span.name, span.parent, span.began, span.ended) == ("route", "x", 3_000_000_000, 5_000_000_000)
    assert span.attributes == {"topic": "a", "offset": 1}


def test_a_worker_traces_each_time_at_which_an_event_is_written() -> None:
    spans, clock = FakeSpans(), count(1)
    worker = WriteTracing(spans, clock=lambda: next(clock))
    first, second = accepted(1).publication, accepted(2).publication
    worker.writing([first], 7)
    worker.written()
    assert spans.begun == []
    assert worker.arrived(Traced("a", "e", 1, "x"), [])
    worker.writing([first, second], 2)
    worker.writing([first], 3)
    worker.written()
    worker.written()
    worker.writing([first], 4)  # of a route that holds
    worker.written()
    assert [(span.name, span.parent, span.began, span.ended) for span in spans.begun] == [
        ("broadcast", "x", 1, 2),
        ("broadcast", "x", 1, 3),
    ]
    assert [span.attributes["clients"] for span in spans.begun] == [5, 4]


def test_what_is_never_distributed_or_written_is_forgotten() -> None:
    most = tracing.REMEMBERED
    spans = FakeSpans()
    router, worker = RouteTracing(spans), WriteTracing(spans)
    router.accepted(((publish(trace="x"), accepted(n)) for n in range(most + 1)), 0.0)
    assert [traced.offset for traced in router.distributing([accepted(0), accepted(1)])] == [1]
    for n in range(most + 1):
        worker.arrived(Traced("a", "e", n, "x"), [])
    worker.writing([accepted(0).publication, accepted(most).publication], 1)
    worker.written()
    assert spans.begun[-1].attributes["offset"] == most
