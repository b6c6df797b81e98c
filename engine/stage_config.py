"""The part of the configuration that is about stages; see :mod:`engine.config`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import Meta

from engine.tables import Masked, Name, Positive, about, check_importable, check_with
from transport.errors import ConfigError
from transport.topics import check_pattern


class Stage(Masked, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[stages.NAME]``: code of one's own on the events' way, in a thread of its own."""

    actor: Annotated[Name | None, about('class of the stage, "package.module:Class"', none="it is a function")] = None
    function: Annotated[
        Name | None,
        about(
            'or a function, "package.module:function": gets an event, returns one, none or a list', none="it is a class"
        ),
    ] = None
    topics: Annotated[tuple[str, ...], Meta(min_length=1), about("patterns of the events that it gets")] = (">",)
    options: Annotated[dict[str, Any], about("`self.options` of the class")] = {}
    timeout: Annotated[Positive, about("longest wait for a batch of at most 256 events", "s")] = 1.0
    on_error: Annotated[
        Literal["pass", "drop"],
        about("an event for which it does nothing, because it fails or is late, goes on as it came or is dropped"),
    ] = "pass"

    def __post_init__(self) -> None:
        if (self.actor is None) == (self.function is None):
            raise ConfigError("exactly one of actor and function", "actor" if self.actor is None else "function")
        for field, path, wanted in (("actor", self.actor, "Class"), ("function", self.function, "function")):
            if path is not None:
                check_importable(path, wanted, field)
        if self.function is not None and self.options:
            raise ConfigError("a function has none", "options")
        for i, pattern in enumerate(self.topics):
            check_with(check_pattern, pattern, f"topics[{i}]")
