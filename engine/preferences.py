"""Which alerts a user wants: a value that becomes a filter of the engine's index. Pure."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import cache
from typing import Annotated, Any, Self, TypeAlias

import msgspec
from msgspec import Meta

from engine.alert import Alert, Form, form_of, plain
from transport.codes import ErrorCode, Priority
from transport.errors import RequestError
from transport.requests import field_at_fault

Names: TypeAlias = Annotated[Collection[Annotated[str, Meta(min_length=1)]], Meta(min_length=1)]

_RANKED = tuple(Priority)
_ANY_OF = (("tiers", "tier"), ("symbols", "symbol"), ("patterns", "pattern"))
"""A preference, and the alert's field that it is about."""


class PreferenceRule(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """All that is named must hold. ``None`` is no condition, nor is a preference about a field that an alert lacks.

    Attributes:
        tiers, symbols, patterns: any of these; the constructor takes any list, tuple or set of texts.
        min_confidence: 0 to 1, itself included.
        min_priority: this one or a more urgent one.

    Raises:
        RequestError: ``bad_request``, naming the field.
    """

    tiers: Names | None = None
    symbols: Names | None = None
    patterns: Names | None = None
    min_confidence: Annotated[float, Meta(ge=0, le=1)] | None = None
    min_priority: Priority | None = None

    def __post_init__(self) -> None:
        # Constructors are not checked by msgspec, decoders are: this is for the former, and brings into one form.
        for name, kind in _types(type(self)).items():
            try:
                value = msgspec.convert(getattr(self, name), kind)
            except msgspec.ValidationError as error:
                raise _refused(error, name) from None
            if name in _LISTS:
                value = value and tuple(sorted(set(value)))
            elif isinstance(value, list):
                value = tuple(value)
            msgspec.structs.force_setattr(self, name, value)

    def condition(self, kind: type[Alert]) -> dict[str, Any]:
        """The map of the protocol's ``where`` that alerts of this kind must satisfy.

        Raises:
            RequestError: ``bad_request``: a value that this kind's field can never have.
        """
        form = form_of(kind)
        out: dict[str, Any] = {"@type": form.type}
        for name, field in _ANY_OF:
            wanted = getattr(self, name)
            if wanted is not None and field in form.names:
                for i, value in enumerate(wanted):
                    _check_possible(value, form, field, f"{name}[{i}]")
                out[form.names[field]] = list(wanted)
        if self.min_confidence is not None and "confidence" in form.names:
            _check_possible(self.min_confidence, form, "confidence", "min_confidence")
            out[form.names["confidence"]] = {"gte": self.min_confidence}
        if (urgent := self._priorities()) is not None:
            out[form.names["priority"]] = [str(priority) for priority in urgent]
        return out

    def holds(self, alert: Alert) -> bool:
        """Whether an alert as published satisfies this rule: what the index says of :meth:`condition`."""
        names = form_of(type(alert)).names
        for name, field in _ANY_OF:
            wanted = getattr(self, name)
            if wanted is not None and field in names and plain(getattr(alert, field)) not in wanted:
                return False
        if self.min_confidence is not None and "confidence" in names:
            confidence = getattr(alert, "confidence", None)
            if confidence is None or confidence < self.min_confidence:
                return False
        urgent = self._priorities()
        return urgent is None or alert.priority in urgent

    def _priorities(self) -> tuple[Priority, ...] | None:
        if self.min_priority in (None, _RANKED[0]):
            return None
        return _RANKED[_RANKED.index(self.min_priority) :]


class Preferences(PreferenceRule, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """What one user wants: alerts for which this rule holds, or any of ``or_else``. JSON has only what is set.

    Attributes:
        or_else: more rules; one that holds is enough.
        per_hour: of the alerts that are wanted, at most so many in any 3,600 s; critical ones come beyond it.
    """

    or_else: Sequence[PreferenceRule] = ()
    per_hour: Annotated[int, Meta(ge=1)] | None = None

    @property
    def rules(self) -> tuple[PreferenceRule, ...]:
        """This one and those of ``or_else``."""
        return (self, *self.or_else)

    def where(self, *kinds: type[Alert]) -> list[dict[str, Any]]:
        """The protocol's ``where`` for alerts of these kinds: a map per rule and kind, any of which may hold.

        ``per_hour`` is not in it: a filter looks at one event.

        Raises:
            RequestError: ``bad_request``: a value that a kind's field can never have; ``field`` is like
                ``or_else[0].tiers[1]``.
        """
        out: list[dict[str, Any]] = []
        for i, rule in enumerate(self.rules):
            for kind in kinds:
                try:
                    condition = rule.condition(kind)
                except RequestError as error:
                    field = f"or_else[{i - 1}].{error.field}" if i else error.field
                    raise RequestError(error.code, error.message, field) from None
                if condition not in out:
                    out.append(condition)
        return out

    def accepts(self, alert: Alert) -> bool:
        """Whether an alert as published is wanted, but for ``per_hour``."""
        return any(rule.holds(alert) for rule in self.rules)

    def encode(self) -> bytes:
        """As JSON."""
        return msgspec.json.encode(self)

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """From JSON, e.g. what a browser's form sent.

        Raises:
            RequestError: ``bad_request``, naming the field.
        """
        try:
            return msgspec.json.decode(data, type=cls)
        except msgspec.ValidationError as error:
            raise _refused(error) from None
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise RequestError(ErrorCode.BAD_REQUEST, f"preferences are not JSON: {error}") from None


_LISTS = frozenset(name for name, _ in _ANY_OF)


class PreferencesBuilder:
    """Preferences step by step; each step returns a new builder, so that a beginning can be shared.

    >>> urgent = PreferencesBuilder().min_priority("high")
    >>> urgent.tiers("daily").or_else().symbols("SPY", "QQQ").per_hour(20).build().rules[1].symbols
    ('QQQ', 'SPY')
    """

    def __init__(self) -> None:
        self._rules: tuple[dict[str, Any], ...] = ({},)
        self._per_hour: int | None = None

    def tiers(self, *tiers: str) -> Self:
        """Any of these, besides those named before."""
        return self._also("tiers", tiers)

    def symbols(self, *symbols: str) -> Self:
        """Any of these, besides those named before."""
        return self._also("symbols", symbols)

    def patterns(self, *patterns: str) -> Self:
        """Any of these, besides those named before."""
        return self._also("patterns", patterns)

    def min_confidence(self, confidence: float) -> Self:
        """0 to 1, itself included."""
        return self._set(min_confidence=confidence)

    def min_priority(self, priority: Priority | str) -> Self:
        """This one or a more urgent one."""
        return self._set(min_priority=priority)

    def or_else(self) -> Self:
        """What follows is another rule; one that holds is enough."""
        return self._copy((*self._rules, {}), self._per_hour)

    def per_hour(self, limit: int) -> Self:
        """At most so many alerts in any hour, over all rules; critical ones come beyond it."""
        return self._copy(self._rules, limit)

    def build(self) -> Preferences:
        """The preferences.

        Raises:
            RequestError: ``bad_request``, naming the field.
        """
        first, *others = self._rules
        return Preferences(**first, or_else=tuple(others), per_hour=self._per_hour)  # type: ignore[arg-type]

    def _also(self, name: str, values: tuple[str, ...]) -> Self:
        return self._set(**{name: (*self._rules[-1].get(name, ()), *values)})

    def _set(self, **named: Any) -> Self:
        return self._copy((*self._rules[:-1], {**self._rules[-1], **named}), self._per_hour)

    def _copy(self, rules: tuple[dict[str, Any], ...], per_hour: int | None) -> Self:
        other = type(self)()
        other._rules, other._per_hour = rules, per_hour
        return other


@cache
def _types(kind: type[PreferenceRule]) -> dict[str, Any]:
    return {field.name: field.type for field in msgspec.structs.fields(kind)}


def _check_possible(value: Any, form: Form, field: str, preference: str) -> None:
    # A tier that no alert can have would never match, in silence.
    try:
        msgspec.convert(value, form.types[field])
    except msgspec.ValidationError as error:
        message = f"no {form.name} has {field} {value!r}: {error}"
        raise RequestError(ErrorCode.BAD_REQUEST, message, preference) from None


def _refused(error: msgspec.ValidationError, name: str = "") -> RequestError:
    inner = field_at_fault(error) or ""
    field = name + inner if inner.startswith("[") or not name else ".".join(filter(None, (name, inner)))
    return RequestError(ErrorCode.BAD_REQUEST, str(error).partition(" - at ")[0], field or None)
