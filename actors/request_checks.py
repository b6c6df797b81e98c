"""What is wrong with a request, whoever sends it. Pure; each raises :class:`RequestError` that names the field."""

from __future__ import annotations

from collections.abc import Collection

from transport.codes import ErrorCode
from transport.errors import RequestError
from transport.requests import Subscribe
from transport.topics import check_pattern, is_pattern


def check_patterns(topics: list[str], most: int, field: str = "topics") -> None:
    """One to ``most`` topics or patterns."""
    if not topics:
        raise RequestError(ErrorCode.BAD_REQUEST, "name at least one topic", field)
    if len(topics) > most:
        raise RequestError(ErrorCode.LIMIT_EXCEEDED, f"at most {most} topics in one request", field)
    for i, pattern in enumerate(topics):
        check_pattern(pattern, f"{field}[{i}]")


def check_room(held: Collection[str], topics: list[str], most: int) -> None:
    """Whether a session that has ``held`` can have ``topics``, too."""
    if len(held) + len(topics) > most and len({*held, *topics}) > most:
        raise RequestError(ErrorCode.LIMIT_EXCEEDED, f"at most {most} subscriptions a session", "topics")


def check_since(request: Subscribe) -> None:
    """Offsets, where there are any, are of topics that are subscribed to."""
    if request.since is None or isinstance(request.since, str):
        return
    if request.where is not None:
        text = "offsets say nothing of what a filter selects: give a position"
        raise RequestError(ErrorCode.BAD_REQUEST, text, "since")
    here = set(request.topics)
    for topic in request.since:
        if is_pattern(topic) or topic not in here:
            text = "offsets are of topics without wildcards that are subscribed to here; else give a position"
            raise RequestError(ErrorCode.BAD_REQUEST, text, f"since.{topic}")


def check_group(request: Subscribe) -> None:
    """Nothing that a member of a consumer group cannot have."""
    if request.group is None:
        return
    for field in ("where", "conflate", "max_rate", "window", "batch", "snapshot", "since"):
        if getattr(request, field):
            message = "a member of a consumer group gets every event that is assigned to it, as it comes"
            raise RequestError(ErrorCode.BAD_REQUEST, message, field)
