"""Whether a server passed, and why: each criterion with a sentence that says what to look at. Pure.

A run whose own load client was too slow says nothing about the server: it is neither passed nor failed but invalid.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from statistics import fmean
from typing import Final, NamedTuple

import msgspec

from engine.loadtest.criteria import Criteria
from engine.loadtest.report import Judgement, Phase, Report, Verdict
from engine.loadtest.scenario import UNJUDGED

BUSY_MOST: Final = 0.1
"""Share of the measured seconds in which a process of the load client may need more than 90 % of a core."""
LATE_MOST_MS: Final = 50.0
"""The publisher may be so late of its own (p99)."""
STEAL_MOST: Final = 5.0
"""Percent of the machine's CPU that its host may withhold (mean); above it nobody knows whose fault lateness is."""
OWN_SILENCE: Final = 0.5
"""Share of a silence that a process of the load client may have stood still itself."""
_MS: Final = 1_000.0
_OF_TIME: Final = frozenset({"delivery_p99_ms", "delivery_mean_ms", "cpu"})
_CAME: Final = ("delivered", "duplicates", "out_of_order")
MOST_REASONS: Final = 3
"""Told in a sentence."""


class _Found(NamedTuple):
    value: float | None
    passed: bool | None
    text: str


class _Rule(NamedTuple):
    goal: str  # {} is the limit
    unit: str
    judge: Callable[[Report, float], _Found]


def judged(report: Report) -> Report:
    """``report`` with criteria, verdict, and why it is invalid, behind the reasons that it has already."""
    criteria = judge(report, report.scenario.criteria)
    invalid = [*report.invalid, *why_invalid(report), *_own_lateness(report, criteria)]
    if all(judgement.passed is None for judgement in criteria):
        invalid.append("no criterion could be measured")
    failed = any(judgement.passed is False for judgement in criteria)
    verdict: Verdict = "invalid" if invalid else "failed" if failed else "passed"
    return msgspec.structs.replace(report, criteria=criteria, invalid=invalid, verdict=verdict)


def judge(report: Report, criteria: Criteria) -> list[Judgement]:
    """Each criterion that has a limit, in their order."""
    judgements = []
    for name, rule in _RULES.items():
        limit = getattr(criteria, name)
        if limit is None:
            continue
        if name == "longest_silence_s":  # a message every ten seconds leaves more than that between two
            limit = max(limit, 2.0 / report.scenario.rate)
        found = rule.judge(report, limit)
        goal = rule.goal.format(f"{100 * limit:g} %" if rule.unit == "share" else f"{limit:g}")
        judgements.append(
            Judgement(
                name=name,
                goal=goal,
                value=found.value,
                limit=limit,
                unit=rule.unit,
                passed=found.passed,
                explanation=found.text,
            )
        )
    return judgements


def why_invalid(report: Report) -> list[str]:
    """Why the load client, and not the server, may be what was measured; empty where it was not."""
    why = [
        f"the load client was the bottleneck: {client.name} needed more than 90 % of a core in {percent(client.busy)} "
        "of the seconds; give it more processes (processes = N), or a machine of its own"
        for client in report.clients
        if client.busy > BUSY_MOST
    ]
    late = report.publishing.late_p99_ms
    if late > LATE_MOST_MS:
        why.append(
            f"the publisher was {late:,.0f} ms behind its schedule (p99) while the server read what it sent; "
            "the machine has too little left for the load client: lower rate, or give it a machine of its own"
        )
    return why


def _own_lateness(report: Report, criteria: Iterable[Judgement]) -> list[str]:
    """Why what failed may be what a process of the load client was late itself, while it did not run."""
    failed = {judgement.name: judgement.value for judgement in criteria if judgement.passed is False}
    why = []
    silence = failed.get("longest_silence_s")
    stood = max(report.clients, key=lambda client: client.lag_worst_ms, default=None)
    if silence is not None and stood is not None and stood.lag_worst_ms >= OWN_SILENCE * _MS * silence:
        why.append(
            f"{stood.name} itself stood still for {stood.lag_worst_ms / _MS:.1f} s, so that silence may be the load "
            "client's; give it a machine of its own"
        )
    if silence is not None and report.publishing.pause >= OWN_SILENCE * silence:
        why.append(
            f"the load tester needed {report.publishing.pause:.1f} s between two phases, so that silence may be its "
            "own; give it a machine of its own"
        )
    late = max(report.clients, key=lambda client: client.late, default=None)
    if failed.keys() & {"delivery_p99_ms", "delivery_mean_ms"} and late is not None and late.late > BUSY_MOST:
        why.append(
            f"{late.name} itself was more than 50 ms late in {percent(late.late)} of the seconds, so that late "
            "messages may be the load client's; give it more processes (processes = N), or a machine of its own"
        )
    stolen = _stolen(report)
    if failed and failed.keys() <= _OF_TIME and stolen > STEAL_MOST:
        why.append(
            f"the host of this virtual machine withheld {stolen:.0f} % of its CPU (steal), which may be all that "
            "failed; run it again in a calmer hour, or on another machine"
        )
    return why


def _stolen(report: Report) -> float:
    """Percent of the machine's CPU that its host withheld, in the mean."""
    seen = _measured(report, report.series.machine_steal)
    return fmean(seen) if seen else 0.0


def percent(share: float) -> str:
    """0.99999 as ``99.99 %``: what is not whole never looks whole."""
    if 0.9 < share < 1.0:
        return f"{math.floor(round(1e4 * share, 6)) / 1e2:g} %"
    return f"{100 * share:.3g} %"


def listed(reasons: Mapping[str, int]) -> str:
    """``10 × HTTP 503, 2 × timeout``, the most frequent first."""
    most = sorted(reasons.items(), key=lambda reason: -reason[1])
    shown = [f"{count:,} × {text}" for text, count in most[:MOST_REASONS]]
    if len(most) > MOST_REASONS:
        shown.append(f"{sum(count for _, count in most[MOST_REASONS:]):,} for other reasons")
    return ", ".join(shown)


def _connections(report: Report, limit: float) -> _Found:
    connects = report.connects
    if not connects.attempted:
        return _Found(None, None, "no connection was begun")
    share = connects.opened / connects.attempted
    if not connects.failed:
        text = f"all {connects.opened:,} connections were open after {connects.seconds:.1f} s"
    else:
        why = f": {listed(connects.reasons)}" if connects.reasons else ""
        text = f"{connects.failed:,} of {connects.attempted:,} connections were refused or failed{why}"
    return _Found(share, share >= limit, text)


def _nothing(report: Report) -> _Found | None:
    """What can be said of deliveries where there was none to judge."""
    if report.latency.count:
        return None
    if not report.connects.opened:
        return _Found(None, None, "no connection was open")
    if not report.publishing.published:
        return _Found(None, None, "nothing was published")
    return _Found(None, None, "nothing came")


def _p99(report: Report, limit: float) -> _Found:
    latency = report.latency
    if (nothing := _nothing(report)) is not None:
        return nothing
    text = (
        f"99 % of the deliveries took at most {_ms(latency.p99)}, half of them {_ms(latency.p50)}, "
        f"the worst {_ms(latency.worst)}"
    )
    passed = latency.p99 <= limit
    if not passed and (worst := _worst_second(report)) is not None:
        text += f"; the worst second was at {worst[0]:.0f} s, with a p99 of {_ms(worst[1])}"
    return _Found(latency.p99, passed, text)


def _mean(report: Report, limit: float) -> _Found:
    nothing = _nothing(report)
    if nothing is not None:
        return nothing
    mean = report.latency.mean
    return _Found(mean, mean <= limit, f"{report.latency.count:,} deliveries took {_ms(mean)} in the mean")


def _rate(report: Report, limit: float) -> _Found:
    publishing, goal = report.publishing, report.scenario.rate
    if not report.phases:
        return _Found(None, None, "it ended before anything was to be published")
    share = publishing.rate / goal
    text = f"{publishing.rate:,.1f} of {goal:,g} messages a second were published ({percent(min(share, 1.0))})"
    if publishing.blocked >= 0.1:
        text += f"; the server held the publisher up: it did not read for {publishing.blocked:.1f} s"
    elif share < limit and publishing.errors:
        text += f"; the server refused {listed(publishing.errors)}"
    return _Found(share, share >= limit, text)


def _delivered(report: Report, limit: float) -> _Found:
    phases = _judged_phases(report)
    expected, missing = sum(phase.expected for phase in phases), sum(phase.missing for phase in phases)
    if not expected:
        return _nothing(report) or _Found(None, None, "nothing was expected")
    share = 1.0 - missing / expected
    if not missing:
        return _Found(share, share >= limit, f"each of {expected:,} messages came")
    connections = max(phase.missing_connections for phase in phases)
    first = min((phase.missing_at for phase in phases if phase.missing_at is not None), default=None)
    text = f"{percent(missing / expected)} of the messages never came: {missing:,} of {expected:,}"
    if connections:
        more = " or more" if sum(1 for phase in phases if phase.missing_connections) > 1 else ""
        text += f", at {connections:,}{more} of {report.connects.opened:,} connections"
    if first is not None:
        text += f", the first at {first:.1f} s"
    if report.publishing.errors:
        text += f"; the server refused to publish {listed(report.publishing.errors)}"
    if report.gaps:
        text += f"; it told its clients of {report.gaps:,} gaps"
    return _Found(share, share >= limit, text)


def _in_order(report: Report, limit: float) -> _Found:
    phases = _judged_phases(report)
    came, twice, late = (sum(getattr(phase, name) for phase in phases) for name in _CAME)
    if not came:
        return _nothing(report) or _Found(None, None, "nothing came outside the recovery phase")
    share = 1.0 - (twice + late) / came
    if share == 1.0:
        return _Found(share, True, "each message came once, and none was overtaken")
    return _Found(share, share >= limit, f"of {came:,} deliveries {twice:,} were duplicates and {late:,} out of order")


def _uptime(report: Report, limit: float) -> _Found:
    if report.uptime is None:
        return _Found(None, None, "no connection was watched outside the recovery phase")
    text = f"the connections were open {percent(report.uptime)} of the time"
    if report.lost:
        killed = sum(fault.affected for fault in report.faults if fault.kind == "kill")
        of_them = f", {killed:,} of them with a killed worker" if killed else ""
        text += f"; {sum(report.lost.values()):,} went unasked{of_them}: {listed(report.lost)}"
    return _Found(report.uptime, report.uptime >= limit, text)


def _recovery(report: Report, limit: float) -> _Found:
    affected, recovered = _recoveries(report)
    if not affected:
        return _Found(None, None, "no connection was cut")
    if not recovered:
        return _Found(None, False, f"none of {affected:,} connections came back")
    told = [fault for fault in report.faults if fault.mean_s is not None]
    mean = sum((fault.mean_s or 0.0) * fault.recovered for fault in told) / sum(fault.recovered for fault in told)
    worst = max(fault.worst_s or 0.0 for fault in told)
    text = f"{recovered:,} connections were back after {mean:.2f} s in the mean, the last one after {worst:.2f} s"
    return _Found(mean, mean <= limit, text)


def _recovered(report: Report, limit: float) -> _Found:
    affected, recovered = _recoveries(report)
    if not affected:
        return _Found(None, None, "no connection was cut")
    what = ", ".join(fault.what for fault in report.faults)
    share = recovered / affected
    text = f"{recovered:,} of {affected:,} connections came back ({what})"
    return _Found(share, share >= limit, text)


def _cpu(report: Report, limit: float) -> _Found:
    seen = _measured(report, report.series.machine_cpu)
    if (absent := _elsewhere(report, seen)) is not None:
        return absent
    mean = fmean(seen)
    text = f"the machine's {report.machine.cores} cores were {mean:.0f} % busy in the mean, {max(seen):.0f} % at most"
    if stolen := round(_stolen(report)):
        text += f", {stolen} % withheld by the host of this virtual machine"
    server = _measured(report, report.series.server_cpu)
    clients = [client.cpu_mean for client in report.clients]
    if server and clients:
        text += f"; of one core the server needed {fmean(server):.0f} %, the load client {sum(clients):.0f} %"
        if mean > limit and 2 * (fmean(server) + sum(clients)) < mean * report.machine.cores:
            text += "; most of it went to other programs: end them and run this again"
    return _Found(mean, mean <= limit, text)


def _memory(report: Report, limit: float) -> _Found:
    seen = _measured(report, report.series.machine_memory)
    if (absent := _elsewhere(report, seen)) is not None:
        return absent
    text = f"at most {max(seen):.0f} % of the machine's {report.machine.memory_gb:.0f} GB were in use"
    if server := _measured(report, report.series.server_memory_mb):
        text += f", {max(server):,.0f} MB by the server"
    return _Found(max(seen), max(seen) <= limit, text)


def _silence(report: Report, limit: float) -> _Found:
    if (nothing := _nothing(report)) is not None and not report.publishing.published:
        return nothing
    phases = _judged_phases(report)
    if not phases:
        return _Found(None, None, "it ended before anything was to come")
    worst = max(phases, key=lambda phase: phase.silence)
    if worst.silence <= limit:
        return _Found(worst.silence, True, f"something came at least every {max(worst.silence, 0.001):.3g} s")
    when = "" if worst.silence_at is None else f" at {worst.silence_at:.1f} s"
    text = (
        f"nothing came for {worst.silence:.1f} s{when} although {report.scenario.rate:,g} messages a second "
        "were to be published"
    )
    return _Found(worst.silence, False, text)


def _judged_phases(report: Report) -> list[Phase]:
    return [phase for phase in report.phases if phase.name not in UNJUDGED]


def _recoveries(report: Report) -> tuple[int, int]:
    return sum(fault.affected for fault in report.faults), sum(fault.recovered for fault in report.faults)


def _measured(report: Report, values: Iterable[float | None]) -> list[float]:
    """Of the seconds within phases, as far as the series goes back."""
    if not report.phases:
        return []
    start, end = report.phases[0].start, report.phases[-1].end
    pairs = zip(report.series.t, values, strict=False)
    return [value for t, value in pairs if value is not None and start <= t <= end]


def _worst_second(report: Report) -> tuple[float, float] | None:
    judged = _judged_phases(report)
    pairs = zip(report.series.t, report.series.p99, strict=False)
    seconds = [
        (p99, t) for t, p99 in pairs if p99 is not None and any(phase.start <= t <= phase.end for phase in judged)
    ]
    if not seconds:
        return None
    p99, t = max(seconds)
    return t, p99


def _elsewhere(report: Report, seen: list[float]) -> _Found | None:
    if not report.phases:
        return _Found(None, None, "it ended before anything was measured")
    if not report.target.local:
        return _Found(None, None, "the server runs on another machine, which was not watched")
    return None if seen else _Found(None, None, "the machine was not watched")


def _ms(ms: float) -> str:
    return f"{ms:,.0f} ms" if ms >= 100 else f"{ms:.3g} ms"


_RULES: Final[Mapping[str, _Rule]] = {
    "connections": _Rule("at least {} of the connections open", "share", _connections),
    "delivery_p99_ms": _Rule("p99 of delivery at most {} ms", "ms", _p99),
    "delivery_mean_ms": _Rule("mean delivery at most {} ms", "ms", _mean),
    "rate": _Rule("at least {} of the rate published", "share", _rate),
    "delivered": _Rule("at least {} of the messages come", "share", _delivered),
    "in_order": _Rule("at least {} come once and in order", "share", _in_order),
    "uptime": _Rule("open for at least {} of the time", "share", _uptime),
    "recovery_mean_s": _Rule("back within {} s in the mean", "s", _recovery),
    "recovered": _Rule("at least {} of the cut connections back", "share", _recovered),
    "cpu": _Rule("at most {} % of the machine's CPU", "percent", _cpu),
    "memory": _Rule("at most {} % of the machine's memory", "percent", _memory),
    "longest_silence_s": _Rule("never silent for more than {} s", "s", _silence),
}
"""By the names of :class:`Criteria`."""
