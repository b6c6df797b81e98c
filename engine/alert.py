"""A typed domain event: a class says what its fields are and where and how urgently it is published. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from functools import cache
from string import Formatter
from typing import Any, ClassVar, Self

import msgspec

from transport.codes import ErrorCode, Priority
from transport.errors import CodecError, ConfigError, RequestError
from transport.event import Event, to_json
from transport.requests import field_at_fault
from transport.topics import check_pattern, topic


class Alert(msgspec.Struct, frozen=True, kw_only=True):
    """Base of typed events; a subclass names its fields, with constraints, and says how it is published::

        class LiquidityAlert(Alert, frozen=True, kw_only=True):
            __topic__ = "alert.liquidity.{venue}"
            __key__ = "{symbol}"
            venue: str
            symbol: str
            spread: Annotated[float, Meta(ge=0)]

    Fields are checked when the alert is published (:meth:`to_event`) and when it is received (:meth:`of`), not when it
    is made. All of them are in ``data``, so filters can name each.

    Attributes:
        __topic__: template; ``{field}`` is one whole token, escaped.
        __key__: template of the key; ``None`` for events without one.
        __type__: the events' ``type``; ``None`` is the class's name as ``snake_case``.
        priority: ``None`` lets :meth:`urgency` say it when the alert is published.
    """

    __topic__: ClassVar[str]
    __key__: ClassVar[str | None] = None
    __type__: ClassVar[str | None] = None

    priority: Priority | None = None

    def urgency(self) -> Priority:
        """The priority of an alert that names none; called with checked fields."""
        return Priority.MEDIUM

    def to_event(self) -> Event:
        """The event that publishes this alert; it is also what a stage or a feed may emit. About 10 µs.

        Raises:
            RequestError: ``bad_request``: a field's value is not what its type says; ``invalid_topic`` or
                ``bad_request``: a value gives no topic or key. ``field`` names it.
            ConfigError: the class's templates are wrong.
        """
        form = form_of(type(self))
        try:
            # What goes out is what the receiver's decoder takes, so what is wrong for it is wrong here.
            checked = form.decoder.decode(self._payload())
        except msgspec.DecodeError as error:
            message = f"{form.name}: {str(error).partition(' - at ')[0]}"
            raise RequestError(ErrorCode.BAD_REQUEST, message, field_at_fault(error)) from None
        if checked.priority is None:
            checked = msgspec.structs.replace(checked, priority=Priority(checked.urgency()))
        return Event(
            topic=topic(*(checked._filled(part, form.name) for part in form.topic)),
            payload=checked._payload(),
            type=form.type,
            key=None if form.key is None else "".join(checked._filled(part, form.name) for part in form.key),
            priority=checked.priority,
        )

    @classmethod
    def of(cls, event: Event) -> Self:
        """The alert that ``event`` carries.

        Raises:
            CodecError: its data is no such alert; the message names the field.
        """
        form = form_of(cls)
        try:
            alert: Self = form.decoder.decode(event.payload)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise CodecError(f"{event.topic} at {event.offset}: no {form.name}: {error}") from None
        return alert

    def _payload(self) -> bytes:
        try:
            return to_json(self)
        except RequestError as error:
            field = (error.field or "").removeprefix("data").removeprefix(".")
            raise RequestError(error.code, f"{type(self).__name__}: {error.message}", field or None) from None

    def _filled(self, part: Part, name: str) -> str:
        if not part.field:
            return part.text
        value = plain(getattr(self, part.field))
        if isinstance(value, bool) or not isinstance(value, (str, int)) or value == "":
            message = f"{name}: {value!r:.100} is neither text nor an integer, which topics and keys are made of"
            raise RequestError(ErrorCode.BAD_REQUEST, message, part.field)
        return str(value)


class Part(msgspec.Struct, frozen=True):
    """A piece of a template: the value of ``field``, or ``text`` where there is none."""

    text: str
    field: str = ""


class Form(msgspec.Struct, frozen=True):
    """What a class of alerts says about itself, compiled once.

    Attributes:
        topic: its tokens.
        pattern: matches every topic of the class.
        names: attribute → its name in ``data``.
        types: attribute → its type.
    """

    name: str
    type: str
    topic: tuple[Part, ...]
    key: tuple[Part, ...] | None
    pattern: str
    names: Mapping[str, str]
    types: Mapping[str, Any]
    decoder: Any


@cache
def form_of(kind: type[Alert]) -> Form:
    """The compiled form of a class; compiled at its first use.

    Raises:
        ConfigError: a template is wrong; ``field`` is like ``PatternAlert.__topic__``.
    """
    fields = msgspec.structs.fields(kind)
    known = {field.name for field in fields}
    where, template = f"{kind.__name__}.__topic__", getattr(kind, "__topic__", "")
    tokens = [_parts(token, known, where) for token in template.split(".")]
    if any(len(token) != 1 for token in tokens):
        raise ConfigError(f"{template!r} is no topic: a field is one whole token, like alert.{{field}}", where)
    topic_parts = tuple(token[0] for token in tokens)
    pattern = ".".join("*" if part.field else part.text for part in topic_parts)
    try:
        check_pattern(pattern)
    except RequestError as error:
        raise ConfigError(error.message, where) from None
    return Form(
        name=kind.__name__,
        type=kind.__type__ or _snake_case(kind.__name__),
        topic=topic_parts,
        key=None if kind.__key__ is None else _parts(kind.__key__, known, f"{kind.__name__}.__key__"),
        pattern=pattern,
        names={field.name: field.encode_name for field in fields},
        types={field.name: field.type for field in fields},
        decoder=msgspec.json.Decoder(kind),
    )


def plain(value: Any) -> Any:
    """A field's value as ``data`` has it."""
    return value.value if isinstance(value, Enum) else value


def _parts(template: str, known: set[str], where: str) -> tuple[Part, ...]:
    parts: list[Part] = []
    try:
        for text, field, spec, conversion in Formatter().parse(template):
            if text:
                parts.append(Part(text))
            if field is None:
                continue
            if field not in known or spec or conversion:
                raise ValueError(f"there is no field {field!r}; fields are {', '.join(sorted(known))}")
            parts.append(Part("", field))
    except ValueError as error:
        raise ConfigError(f"{template!r}: {error}", where) from None
    return tuple(parts)


def _snake_case(name: str) -> str:
    return "".join(f"_{c.lower()}" if c.isupper() else c for c in name).lstrip("_")
