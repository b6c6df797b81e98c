"""The part of the configuration that is about services; see :mod:`engine.config`."""

from __future__ import annotations

from typing import Annotated, Any

from engine.tables import Masked, Name, about, check_importable, check_with
from transport.topics import check_pattern


class Service(Masked, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[services.NAME]``: code of one's own beside the events' way; all of them share a process."""

    actor: Annotated[Name, about('class of the service, "package.module:Class"')]
    topics: Annotated[tuple[str, ...], about("patterns of the events that it gets; without any it gets none")] = ()
    options: Annotated[dict[str, Any], about("`self.options` of the class")] = {}

    def __post_init__(self) -> None:
        check_importable(self.actor, "Class", "actor")
        for i, pattern in enumerate(self.topics):
            check_with(check_pattern, pattern, f"topics[{i}]")
