"""Parameters that change while what uses them runs: values, versions, compare-and-set. Pure.

A parameter is a map of named values under one schema. Its versions rise by one, and a change names the one that it was
made for: who has not seen the newest is refused, so of two that change at once none overwrites the other.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final, Protocol

import msgspec
from msgspec import Struct

from transport.codes import ErrorCode
from transport.errors import RequestError

VALUES_BYTES: Final = 16_384
"""Of one parameter's values as JSON."""
REASON_CHARACTERS: Final = 500


class Refusal(Struct, frozen=True):
    """Why a change was none; see :class:`~transport.errors.RequestError`."""

    code: str
    message: str
    field: str | None


class Change(Struct, frozen=True, kw_only=True):
    """A version of a parameter, or the attempt to make one.

    Attributes:
        version: that it made; of one refused, the version that stood then.
        values: all of them; of one refused, those that were asked for, none where they were too large to be kept.
        changed: names of the values that differ from the version before.
        by: the user, or the admin key as ``admin:KEY``; none: nobody had to say, or the engine itself at its start.
        at: Unix seconds.
        refused: why, where it was.
    """

    version: int
    values: dict[str, Any] | None
    changed: list[str]
    by: str | None
    at: float
    reason: str | None = None
    refused: Refusal | None = None


class Schema(Protocol):
    """What the values of a parameter may be. They are what JSON can hold."""

    @property
    def names(self) -> frozenset[str]:
        """Of the values, all of which a parameter always has."""

    @property
    def document(self) -> dict[str, Any]:
        """It as JSON Schema."""

    def defaults(self) -> dict[str, Any]:
        """The first version's values."""

    def check(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """``values``, one of each name, as they are to be kept.

        Raises:
            RequestError: ``bad_request``; ``field`` names the value (``threshold``), the text says the bound.
        """


class Proposal(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is asked for.

    Attributes:
        values: those that shall change; one that is a map or list is replaced as a whole.
        version: that it was made for; none: whichever there is.
        reason: for people.
    """

    values: dict[str, Any]
    version: int | None = None
    reason: str | None = None


class Parameter:
    """One parameter as it stands.

    Args:
        stored: its newest version, none: there never was one.
        at: now, Unix seconds.

    Attributes:
        current: the newest version; not yet on disk where it is :attr:`fresh`.
        fresh: whether the schema asked for another version than ``stored``: the first one, or one that lacks what the
            schema has no longer and has the defaults of what is new in it. To be stored before anybody sees it.
        trouble: why its values do not fit its schema, which was changed since; they hold until somebody sets others.
    """

    def __init__(self, name: str, schema: Schema, stored: Change | None, at: float) -> None:
        self.name, self.schema = name, schema
        values = schema.defaults()
        before: dict[str, Any] = {}
        if stored is not None and stored.values is not None:
            before = stored.values
            values |= {name: value for name, value in before.items() if name in schema.names}
        changed = _differing(before, values)
        self.fresh = stored is None or bool(changed)
        if stored is None:
            self.current = Change(version=1, values=values, changed=changed, by=None, at=at, reason="its defaults")
        elif changed:
            text = "its schema has other names"
            self.current = Change(
                version=stored.version + 1, values=values, changed=changed, by=None, at=at, reason=text
            )
        else:
            self.current = stored
        self.trouble: str | None = None
        self._look()

    @property
    def values(self) -> dict[str, Any]:
        """Of the newest version."""
        assert self.current.values is not None, "only a refused change may have none"
        return self.current.values

    def propose(self, wanted: Proposal, by: str | None, at: float) -> Change | None:
        """The version that ``wanted`` makes, ``None``: all is so already. Nothing has changed before :meth:`accept`.

        Raises:
            RequestError: ``conflict``: there is a newer version; ``bad_request``, ``field`` like ``values.threshold``;
                ``limit_exceeded``.
        """
        if wanted.reason is not None and len(wanted.reason) > REASON_CHARACTERS:
            text = f"{len(wanted.reason)} characters, at most {REASON_CHARACTERS}"
            raise RequestError(ErrorCode.LIMIT_EXCEEDED, text, "reason")
        if not wanted.values:
            raise RequestError(ErrorCode.BAD_REQUEST, "name at least one value to set", "values")
        for name in wanted.values:
            if name not in self.schema.names:
                text = f"{self.name} has no value {name!r:.100}, but {_listed(self.schema.names)}"
                raise RequestError(ErrorCode.BAD_REQUEST, text, f"values.{name:.100}")
        version = self.current.version
        if wanted.version is not None and wanted.version != version:
            text = f"{self.name} is at version {version}, not {wanted.version}: read it, then decide anew"
            raise RequestError(ErrorCode.CONFLICT, text, "version")
        values = self._checked({**self.values, **wanted.values}, wanted.values)
        changed = _differing(self.values, values)
        if not changed:
            return None
        return Change(version=version + 1, values=values, changed=changed, by=by, at=at, reason=wanted.reason)

    def accept(self, change: Change) -> None:
        """It is on disk: from now on it holds."""
        assert change.version == self.current.version + 1, "versions rise by one"
        self.current = change
        self._look()

    def _look(self) -> None:
        try:
            self.schema.check(self.values)
        except RequestError as error:
            self.trouble = f"version {self.current.version} does not fit its schema, set {error.field}: {error.message}"
        else:
            self.trouble = None

    def _checked(self, values: dict[str, Any], given: Iterable[str]) -> dict[str, Any]:
        size = len(msgspec.json.encode(values))  # first: what looks at them may take its time
        if size > VALUES_BYTES:
            raise RequestError(ErrorCode.LIMIT_EXCEEDED, f"{size} bytes in all, at most {VALUES_BYTES}", "values")
        try:
            found = self.schema.check(values)
        except RequestError as error:
            field, message = error.field, error.message
            if field and field.partition(".")[0].partition("[")[0] not in given:
                message += f" ({field} is so already: set it, too)"
            raise RequestError(error.code, message, f"values.{field}" if field else "values") from None
        if msgspec.json.decode(msgspec.json.encode(found)) != found:  # a model may make NaN of text
            raise RequestError(ErrorCode.BAD_REQUEST, "these are not what JSON can hold", "values")
        return found


def check_whole_numbers(asked: Any) -> None:
    """Raise :class:`RequestError` where a request has one that not every client and no disk here can hold.

    Args:
        asked: what JSON can hold.
    """
    try:
        msgspec.msgpack.encode(asked)
    except OverflowError:
        raise RequestError(ErrorCode.BAD_REQUEST, "a whole number needs more than 64 bits", "values") from None


def _differing(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """Names, sorted, of what is another text as JSON: ``1`` is not ``true``, and not ``1.0``."""
    return sorted(
        name
        for name in {*before, *after}
        if name not in before or name not in after or not _same(before[name], after[name])
    )


def _same(one: Any, other: Any) -> bool:
    return msgspec.json.encode(one, order="sorted") == msgspec.json.encode(other, order="sorted")


def _listed(names: Iterable[str]) -> str:
    text = ", ".join(sorted(names))
    return text if len(text) <= 200 else f"{text[:200]}…"
