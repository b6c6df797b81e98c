"""The report of a run, without its verdict."""

from __future__ import annotations

from engine.loadtest.connections import Opened, PhaseCounts
from engine.loadtest.latency import Latency
from engine.loadtest.report import Connects, Machine, Phase, Publishing, Report, Series, TargetFacts, Throughput
from engine.loadtest.run import Run, Span
from engine.loadtest.scenario import UNJUDGED


def assembled(run: Run, *, started: str, time_scale: float, machine: Machine, server: str) -> Report:
    """What ``run`` has found so far.

    Args:
        started: RFC 3339.
        time_scale: with which the scenario was scaled.
        server: what the server says of itself.
    """
    scenario = run.scenario.without_secrets()
    counts = run.collection.phases
    latency, answers = Latency(), Latency()
    for name, phase in counts.items():
        if name not in UNJUDGED:
            latency.merge(phase.latency)
            answers.merge(phase.answers)
    timeline, stability = run.timeline, run.stability
    throughput = Throughput()
    if timeline is not None and run.spans:
        throughput = timeline.throughput(run.spans[0].start, run.spans[-1].end or run.t)
    return Report(
        name=scenario.name,
        started=started,
        scenario=scenario,
        time_scale=time_scale,
        target=TargetFacts(
            url=scenario.target.url,
            kind=scenario.target.kind,
            server=server,
            local=run.servers is not None and run.servers.local,
        ),
        machine=machine,
        invalid=list(run.invalid),
        notes=list(run.notes),
        phases=[_phase(run, span, counts.get(span.name, PhaseCounts())) for span in run.spans],
        latency=latency.percentiles(),
        answers=answers.percentiles(),
        distribution=latency.distribution(),
        connects=_connects(run.opened),
        publishing=_publishing(run),
        throughput=throughput,
        series=Series() if timeline is None else timeline.series(run.monitor.history),
        stability=[] if stability is None else stability.samples,
        uptime=None if stability is None else stability.uptime,
        lost=dict(run.collection.losses),
        gaps=sum(run.collection.gaps.values()),
        faults=[] if stability is None else stability.faults,
        clients=[load.told() for load in run.loads.values()],
    )


def _connects(opened: Opened) -> Connects:
    return Connects(
        attempted=opened.attempted,
        opened=opened.opened,
        failed=opened.failed,
        reasons=dict(opened.reasons),
        seconds=opened.seconds,
        times=opened.times.percentiles(),
    )


def _publishing(run: Run) -> Publishing:
    published = sum(span.published for span in run.spans)
    seconds = sum(span.publishing for span in run.spans)
    return Publishing(
        published=published,
        rate=published / seconds if seconds else 0.0,
        late_p99_ms=run.late.percentiles().p99,
        blocked=run.blocked,
        pause=run.pause,
        errors=dict(run.errors),
    )


def _phase(run: Run, span: Span, counts: PhaseCounts) -> Phase:
    missing_at = None
    if counts.first_missing is not None:  # when it was due
        missing_at = span.start + (counts.first_missing - span.first) / run.scenario.rate
    return Phase(
        name=span.name,
        start=span.start,
        end=run.t if span.end is None else span.end,
        published=span.published,
        delivered=counts.delivered,
        expected=counts.expected,
        missing=counts.missing,
        missing_connections=counts.lacking,
        missing_at=missing_at,
        duplicates=counts.duplicates,
        out_of_order=counts.out_of_order,
        silence=counts.silence,
        silence_at=counts.silence_at - run.began if counts.silence else None,
        latency=counts.latency.percentiles(),
        answers=counts.answers.percentiles(),
    )
