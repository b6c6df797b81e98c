"""``docs/protocol.v1.schema.json`` is what the code makes, and takes the requests that the engine's decoder takes."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any, get_args

import jsonschema
import pytest

from transport.client_messages import Message
from transport.codes import ErrorCode
from transport.errors import RequestError
from transport.filters import Filter
from transport.protocol_schema import ANSWERS, schema, text
from transport.requests import Rejected, Request, RequestDecoder

FILE = Path(__file__).parents[2] / "docs/protocol.v1.schema.json"
SCHEMA = json.loads(FILE.read_text(encoding="utf-8"))
DECODER = RequestDecoder(binary=False)
PLACE = {"epoch": "e", "offset": 1}
# One request of each op, with every field that it may have.
REQUESTS: dict[str, dict[str, Any]] = {
    "subscribe": {
        "topics": ["a"],
        "snapshot": True,
        "where": {"a": 1},
        "conflate": True,
        "max_rate": 2.5,
        "window": 0.5,
        "batch": True,
        "group": "g",
        "since": "log:1",
    },
    "unsubscribe": {"topics": ["a"]},
    "publish": {"topic": "a", "data": 1, "type": "t", "key": "k", "priority": "low", "idempotency_key": "i"},
    "snapshot": {"topics": ["a"]},
    "history": {"topic": "a", "limit": 10, "since": PLACE},
    "subscriptions": {},
    "presence": {"topic": "a"},
    "ack": {"topic": "a", "epoch": "e", "offset": 1},
    "auth": {"token": "t"},
    "call": {"topic": "a", "method": "m", "params": {}},
    "serve": {"topic": "a", "methods": ["m"]},
    "result": {"call": "c", "result": 1, "error": {"code": "conflict", "message": "m", "field": "f"}},
    "stats": {},
    "ping": {},
}
# What might stand where something else belongs.
VALUES: list[Any] = [
    None,
    True,
    0,
    1,
    -1,
    2**63,
    0.0005,
    1.5,
    1000000.5,  # 1e6 would be an integer for JSON Schema, and is none for the engine
    "",
    "x",
    "x" * 65,
    "x" * 129,
    [],
    ["x"],
    [1],
    ["x"] * 101,
    {},
    {"a": PLACE},
    {"a": {"epoch": "e"}},
    {"a": {**PLACE, "x": 1}},
    {**PLACE, "x": 1},
    {"code": "no_such_code", "message": "m"},
]


def validator(name: str) -> jsonschema.Draft202012Validator:
    return jsonschema.Draft202012Validator({"$ref": f"#/$defs/{name}", "$defs": SCHEMA["$defs"]})


SENT, WHERE = validator("ClientMessage"), validator("Where")


def takes(request: dict[str, Any]) -> bool:
    try:
        DECODER.decode(json.dumps(request).encode())
    except Rejected:
        return False
    return True


def whole(op: str) -> dict[str, Any]:
    return {"op": op, "id": 1, **copy.deepcopy(REQUESTS[op])}


def test_the_file_is_what_the_code_makes() -> None:
    again = "python -m transport.protocol_schema > docs/protocol.v1.schema.json"
    assert schema() == SCHEMA, again
    assert FILE.read_text(encoding="utf-8") == text(), again


def test_it_is_a_schema() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    for name, definition in SCHEMA["$defs"].items():
        assert ":`" not in definition.get("description", ""), name


def test_every_message_is_in_it() -> None:
    assert set(REQUESTS) == {kind.__struct_config__.tag for kind in get_args(Request)}
    assert set(ANSWERS) == set(get_args(Request))
    there = {ref["$ref"].rpartition("/")[2] for ref in SCHEMA["$defs"]["ServerMessage"]["anyOf"]}
    assert there == {kind.__name__ for kind in (*get_args(Message), *ANSWERS.values())}


@pytest.mark.parametrize("op", REQUESTS)
def test_it_takes_what_the_decoder_takes_and_nothing_else(op: str) -> None:
    request = whole(op)
    assert SENT.is_valid(request) and takes(request)
    for field in request:
        without = {name: value for name, value in request.items() if name != field}
        assert SENT.is_valid(without) == takes(without), f"without {field}"
        # `op` itself: another op's fields are another request. `where`: see the test of filters.
        for value in VALUES if field not in ("op", "where") else []:
            other = {**request, field: value}
            assert SENT.is_valid(other) == takes(other), (field, value)
    unknown = {**request, "nonsense": 1}
    assert not SENT.is_valid(unknown)
    with pytest.raises(Rejected) as refused:
        DECODER.decode(json.dumps(unknown).encode())
    assert (refused.value.error.code, refused.value.error.field) == (ErrorCode.BAD_REQUEST, "nonsense")


def test_an_unknown_op_is_none() -> None:
    for op in ("nonsense", None, 1):
        assert not SENT.is_valid({"op": op, "id": 1}) and not takes({"op": op, "id": 1})


@pytest.mark.parametrize(
    "where",
    [
        {},
        {"a": 1},
        {"a.b": None, "@type": "t", "@key": ["k", True]},
        [{"a": {"gt": 1, "lte": 2}}, {"b": {"not": ["x"]}}],
        {"a": {"in": [1], "eq": 1, "exists": True}},
        {"é": {"gte": "2020", "lt": "2021"}},
        [],
        [1],
        "a",
        {"a": []},
        {"a": [[1]]},
        {"a": {}},
        {"a": {"over": 1}},
        {"a": {"in": 1}},
        {"a": {"gt": None}},
        {"a": {"exists": 1}},
        {"a": {"eq": {}}},
        {"@other": 1},
        {"": 1},
        {"a..b": 1},
        {".a": 1},
        {"a.": 1},
        [{}] * 33,
        {"a": list(range(1_001))},
        {f"f{n}": 1 for n in range(65)},
    ],
    ids=lambda where: json.dumps(where)[:40],
)
def test_it_takes_the_filters_that_the_engine_takes(where: Any) -> None:
    try:
        Filter.parse(where)
    except RequestError:
        assert not WHERE.is_valid(where)
    else:
        assert WHERE.is_valid(where)
        assert SENT.is_valid({"op": "subscribe", "id": 1, "topics": ["a"], "where": where})
