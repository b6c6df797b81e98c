"""Is a worker's index sound? What it says is compared with what its sessions say they have."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from actors.audience import Audience
from actors.audiences import Audiences
from actors.session import Session

FILTERS: Final = 100_000
"""On one pattern; of more it is looked at who has them, not at what the filter index makes of them: a worker must not
stand still for more than 1.5 s."""


def problems(audiences: Audiences, sessions: Iterable[Session], unchecked: list[str]) -> Iterator[str | None]:
    """Look at a pattern, an audience or a session per step: what is wrong there, ``None`` where all is well.

    Between two steps sessions may come, go and change. Cost: that of everything there is; a step takes as long as
    :meth:`FilterIndex.check` for one pattern, 15 µs per filter.

    Args:
        sessions: all of them.
        unchecked: the patterns with more than :data:`FILTERS` filters are put here.
    """
    patterns = list(audiences)
    for pattern in patterns:
        if pattern in audiences:
            yield _of_pattern(audiences, pattern, unchecked)
    for audience in {audience: None for pattern in patterns for audience in audiences.of(pattern)}:
        if audience in audiences.of(audience.patterns[0]):  # else it has gone meanwhile
            yield _of_audience(audiences, audience)
    for session in list(sessions):
        yield _of_session(audiences, session)


def _of_pattern(audiences: Audiences, pattern: str, unchecked: list[str]) -> str | None:
    held = {session: (session.subscriptions or {}).get(pattern) for session in audiences.members(pattern)}
    if strangers := [session.id for session, subscription in held.items() if subscription is None]:
        return f"{pattern}: listed without a subscription: {_some(strangers)}"
    index = audiences.filters(pattern)
    listed = set(index) if index is not None else set()
    filtered = {each for each in held.values() if each is not None and each.filter is not None}
    if listed != filtered:
        return f"{pattern}: {len(listed)} filters are indexed, {len(filtered)} in force, {len(listed & filtered)} both"
    if len(listed) > FILTERS:
        unchecked.append(pattern)
        return None
    try:
        if index is not None:
            index.check()
    except AssertionError as error:
        return f"{pattern}: the filter index does not agree with the filters: {error}"
    return None


def _of_audience(audiences: Audiences, audience: Audience) -> str | None:
    name = " and ".join(audience.patterns)
    members = {session: None for pattern in audience.patterns for session in audiences.members(pattern)}
    placed = 0
    for session in members:
        route = audience.cohort(session)
        placed += route is not None
        if (None if route is None else route.delivery) != audience.wanted(session):
            return f"{name}: {session.id} is not in the cohort that its subscriptions ask for"
    if not audience.placed == placed == sum(route.size for route in audience.routes):
        return f"{name}: cohorts of {audience.placed} sessions, of which {placed} subscribe"
    return None


def _of_session(audiences: Audiences, session: Session) -> str | None:
    missing = [
        pattern
        for pattern, subscription in (session.subscriptions or {}).items()
        if subscription.group is None and session not in audiences.members(pattern)
    ]
    return f"{session.id}: subscribes where it is not listed: {_some(missing)}" if missing else None


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
