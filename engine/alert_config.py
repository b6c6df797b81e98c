"""The part of the configuration that is about alerts and webhooks; see :mod:`engine.config`."""

from __future__ import annotations

from typing import Annotated, Any

from msgspec import Meta

from actors.alert_rule import METRICS, VALUE, AlertRule, Severity
from actors.feed import is_header
from engine.series_names import check_series
from engine.tables import Masked, Name, about, check_with
from transport.errors import ConfigError, RequestError
from transport.filters import Filter
from transport.http_post import OURS, Target
from transport.topics import check_pattern

MESSAGE = 1_000
"""Characters of a message."""


class Webhook(Masked, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[webhooks.NAME]``: who is told of alerts by HTTP. Its JSON is described in docs/alert-rules.md."""

    url: Annotated[Name, about("address that gets a POST, https:// or http://", secret=True)]
    headers: Annotated[dict[str, str], about("further headers", secret=True)] = {}

    def __post_init__(self) -> None:
        try:
            Target.of(self.url)
        except ValueError as error:
            raise ConfigError(str(error), "url") from None
        for name, value in self.headers.items():
            if not is_header(name, value):
                raise ConfigError("is no HTTP header", f"headers.{name}")
            if name.lower() in OURS:
                raise ConfigError("is not yours to choose", f"headers.{name}")


class Alert(Masked, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[alerts.NAME]``: a rule; what fires and clears is told on the topic ``alert.NAME``: docs/alert-rules.md."""

    series: Annotated[Name | None, about("series of the engine's metrics to watch", none="a field of events")] = None
    topic: Annotated[
        Name | None, about("or a topic or pattern; each topic of a pattern is a subject of its own", none="a series")
    ] = None
    field: Annotated[Name | None, about("and the path of the value in its events, as in `where`", none="a series")] = (
        None
    )
    where: Annotated[dict[str, Any], about("other events are not looked at; as in a subscription")] = {}
    when: Annotated[dict[str, Any], about("what it fires on: { gte = 80 }, or any other operators")]
    until: Annotated[
        dict[str, Any], about("what it clears on, where that is more than that `when` does not hold: { lt = 75 }")
    ] = {}
    for_seconds: Annotated[float, about("`when` must have held for so long", "s", ge=0, le=86_400)] = 0.0
    severity: Annotated[
        Severity, about("its events have priority low, medium, critical, the last ahead of all that waits")
    ] = "warning"
    message: Annotated[
        Annotated[str, Meta(min_length=1, max_length=MESSAGE)] | None, about("for people", none="the value is named")
    ] = None
    webhooks: Annotated[tuple[str, ...], about("names of those who are told too")] = ()

    def __post_init__(self) -> None:
        if (self.series is None) == (self.topic is None):
            raise ConfigError("exactly one of series and topic", "series" if self.series is None else "topic")
        if (self.field is None) == (self.series is None):
            raise ConfigError("goes with topic, and only with it", "field")
        if self.topic is not None:
            check_with(check_pattern, self.topic, "topic")
            if self.topic == METRICS:
                raise ConfigError("give a series of it as series", "topic")
        if self.series is not None:
            check_series(self.series)
        if self.series is not None and self.where:
            raise ConfigError("goes with topic only", "where")
        for field, asked in (("when", self.when), ("until", self.until)):
            if "exists" in asked:
                raise ConfigError("events without the value are not looked at", f"{field}.exists")
        self.rule("rule")

    def rule(self, name: str) -> AlertRule:
        """As the actors want it; :class:`ConfigError` names the field that cannot work."""
        field = self.series or self.field or ""
        if self.topic is not None:
            _filter({field: {"exists": True}}, "field", field)
        return AlertRule(
            name=name,
            pattern=self.topic or METRICS,
            field=field,
            when=_filter({VALUE: self.when}, "when", VALUE),
            until=_filter({VALUE: self.until}, "until", VALUE) if self.until else None,
            where=_filter(self.where, "where", "") if self.where else None,
            for_s=self.for_seconds,
            severity=self.severity,
            message=self.message,
            webhooks=self.webhooks,
        )


def _filter(where: dict[str, Any], table: str, inside: str) -> Filter:
    """A filter; an error names the field of ``table`` in which it is."""
    try:
        return Filter.parse(where, table)
    except RequestError as error:
        path = (error.field or table).removeprefix(table).removeprefix(f".{inside}" if inside else "")
        raise ConfigError(error.message, f"{table}{path}") from None
