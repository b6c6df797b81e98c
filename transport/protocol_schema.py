"""The JSON Schema of the client protocol, made of the message types: ``docs/protocol.v1.schema.json``.

``python -m transport.protocol_schema > docs/protocol.v1.schema.json`` writes it anew; a test holds the file to it.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Iterable
from enum import Enum
from typing import Any, get_args, get_type_hints

import msgspec

from transport import client_messages as server
from transport import requests as client
from transport.codes import ByeReason, CloseCode, ErrorCode, GapReason
from transport.filters import ENVELOPE, MAX_CLAUSES, MAX_CONSTRAINTS, MAX_LIST

ANSWERS: dict[type[msgspec.Struct], type[server.Ok]] = {
    client.Subscribe: server.Subscribed,
    client.Unsubscribe: server.Unsubscribed,
    client.Publish: server.PublishedAt,
    client.Snapshot: server.SnapshotEvents,
    client.History: server.HistoryEvents,
    client.Subscriptions: server.HeldSubscriptions,
    client.Presence: server.PresentUsers,
    client.Ack: server.Ok,
    client.Auth: server.Authenticated,
    client.Call: server.Called,
    client.Serve: server.Ok,
    client.Result: server.Ok,
    client.Stats: server.Figures,
    client.Ping: server.Pong,
}
"""What a request is answered with, if not with ``error``."""

_REF = "#/$defs/{name}"
_EMPTY: dict[str, Any] = {"params": {}, "result": None}
"""What stands for a field of JSON that was left out."""

# Fields of which a later engine may know more values: a client must not fail at one, so none is excluded.
_VALUES: dict[tuple[str, str], type[Enum]] = {
    ("Bye", "code"): CloseCode,
    ("Bye", "reason"): ByeReason,
    ("GapMessage", "reason"): GapReason,
    ("Refusal", "code"): ErrorCode,
}


def schema() -> dict[str, Any]:
    """JSON Schema 2020-12 of every message: ``#/$defs/ClientMessage`` is what a client may send, and nothing else is;
    ``#/$defs/ServerMessage`` is what it gets, where more fields may come. ``x-answer`` of a request refers to the
    answer's definition."""
    sent = [_describable(kind) for kind in get_args(client.Request)]
    got = [kind for kind in get_args(server.Message) if kind is not server.Ok]
    answers = list(dict.fromkeys(ANSWERS.values()))
    _, defs = msgspec.json.schema_components([*sent, *got, *answers], ref_template=_REF)
    for definition in defs.values():
        if "description" in definition:
            definition["description"] = _words(definition["description"])
    for request, answer in ANSWERS.items():
        defs[request.__name__]["x-answer"] = {"$ref": _REF.format(name=answer.__name__)}
    for (name, field), values in _VALUES.items():
        defs[name]["properties"][field]["examples"] = [value.value for value in values]
    defs["Subscribe"]["properties"]["where"] |= {"anyOf": [{"$ref": "#/$defs/Where"}, {"type": "null"}]}
    defs["Where"] = _where()
    defs["ClientMessage"] = _any_of(sent)
    defs["ServerMessage"] = _any_of([*got, *answers])
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "The native client protocol of heliograph, version 1",
        "description": "JSON text frames at /ws; protocol.md beside this file describes them. MessagePack frames hold "
        "the same maps, with numbers that float64 cannot hold as ExtType 1: their ASCII digits.",
        "anyOf": [{"$ref": "#/$defs/ClientMessage"}, {"$ref": "#/$defs/ServerMessage"}],
        "$defs": {name: defs[name] for name in sorted(defs)},
    }


def _any_of(kinds: Iterable[type[msgspec.Struct]]) -> dict[str, Any]:
    return {"anyOf": [{"$ref": _REF.format(name=kind.__name__)} for kind in kinds]}


def _describable(kind: type[msgspec.Struct]) -> type[msgspec.Struct]:
    """The same struct for msgspec, which cannot write down a default that is raw JSON."""
    fields = msgspec.structs.fields(kind)
    if not any(isinstance(field.default, msgspec.Raw) for field in fields):
        return kind
    hints = get_type_hints(kind, include_extras=True)
    return msgspec.defstruct(
        kind.__name__,
        [_describable_field(field, hints[field.name]) for field in fields],
        tag_field=kind.__struct_config__.tag_field,
        tag=kind.__struct_config__.tag,
        forbid_unknown_fields=True,
        kw_only=True,
    )


def _describable_field(field: msgspec.structs.FieldInfo, hint: Any) -> tuple[str, Any, Any]:
    default = _EMPTY[field.name] if isinstance(field.default, msgspec.Raw) else field.default
    return field.name, hint, msgspec.field(default_factory=dict) if default == {} else msgspec.field(default=default)


def _words(docstring: str) -> str:
    """Its first paragraph in plain text."""
    paragraph = inspect.cleandoc(docstring).partition("\n\n")[0].replace("\n", " ")
    return re.sub(r":\w+:`~?(?:[\w.]+\.)?(\w+)`", r"\1", paragraph).replace("``", "`")


def _where() -> dict[str, Any]:
    """What :mod:`transport.filters` takes, but for the limits on all maps together."""
    scalar: dict[str, Any] = {"type": ["string", "number", "boolean", "null"]}
    several = {"type": "array", "items": scalar, "minItems": 1, "maxItems": MAX_LIST}
    bound = {"type": ["string", "number"]}
    operators = {
        "type": "object",
        "properties": {
            **dict.fromkeys(("gt", "gte", "lt", "lte"), bound),
            "eq": scalar,
            "in": several,
            "not": {"anyOf": [scalar, several]},
            "exists": {"type": "boolean"},
        },
        "additionalProperties": False,
        "minProperties": 1,
    }
    envelope = "|".join(ENVELOPE)
    clause = {
        "type": "object",
        "propertyNames": {"pattern": rf"^({envelope}|[^@.][^.]*(\.[^.]+)*)$"},
        "additionalProperties": {"anyOf": [scalar, several, operators]},
        "maxProperties": MAX_CONSTRAINTS,
    }
    return {
        "title": "Where",
        "description": "Fields that must all hold, or maps of which any may hold.",
        "anyOf": [clause, {"type": "array", "items": clause, "minItems": 1, "maxItems": MAX_CLAUSES}],
    }


def text() -> str:
    """The file's text."""
    return msgspec.json.format(msgspec.json.encode(schema()), indent=2).decode() + "\n"


if __name__ == "__main__":
    sys.stdout.write(text())
