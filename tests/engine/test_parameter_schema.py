"""A Struct, a pydantic model and a JSON Schema say the same of the same values."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import msgspec
import pydantic
import pytest
from msgspec import Meta, Struct

from actors.parameter_book import Schema
from engine.parameter_schema import of_file, of_model, reader
from transport.errors import ConfigError, RequestError


class Momentum(Struct, omit_defaults=True, rename="camel", tag=True):
    threshold: Annotated[float, Meta(ge=0, le=1)] = 0.5
    look_back: Annotated[int, Meta(ge=1, le=500)] = 20
    symbols: list[str] = []


class Modelled(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(strict=True)
    threshold: float = pydantic.Field(0.5, ge=0, le=1)
    look_back: int = pydantic.Field(20, ge=1, le=500, alias="lookBack")
    symbols: list[str] = []


SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "threshold": {"type": "number", "minimum": 0, "maximum": 1, "default": 0.5},
        "lookBack": {"type": "integer", "minimum": 1, "maximum": 500, "default": 20},
        "symbols": {"type": "array", "items": {"type": "string"}, "default": []},
    },
}


def written(directory: Path, document: object) -> Path:
    file = directory / "p.schema.json"
    file.write_bytes(msgspec.json.encode(document))
    return file


@pytest.fixture(params=["struct", "pydantic", "file"])
def schema(request: pytest.FixtureRequest, tmp_path: Path) -> Schema:
    if request.param == "file":
        return of_file(written(tmp_path, SCHEMA), "f")
    return of_model(Momentum if request.param == "struct" else Modelled, "f")


DEFAULTS = {"threshold": 0.5, "lookBack": 20, "symbols": []}


def test_all_names_and_their_defaults(schema: Schema) -> None:
    assert schema.names == frozenset(DEFAULTS)
    assert schema.defaults() == DEFAULTS
    assert schema.check(DEFAULTS) == DEFAULTS
    assert set(msgspec.json.decode(msgspec.json.encode(schema.document))) >= {"properties"} or "$ref" in schema.document


@pytest.mark.parametrize(
    ("name", "value", "field", "texts"),
    [
        ("threshold", 1.5, "threshold", ["1"]),
        ("threshold", -0.1, "threshold", ["0"]),
        ("threshold", "0.7", "threshold", ["float", "number"]),
        ("threshold", True, "threshold", ["float", "number"]),
        ("lookBack", 501, "lookBack", ["500"]),
        ("symbols", ["A", 1], "symbols[1]", ["str"]),
    ],
)
def test_a_wrong_value_is_named_with_its_bound(
    schema: Schema, name: str, value: object, field: str, texts: list[str]
) -> None:
    with pytest.raises(RequestError) as caught:
        schema.check(DEFAULTS | {name: value})
    assert caught.value.field == field.replace("[1]", "[...]" if "[...]" in str(caught.value.field) else "[1]")
    assert any(text in caught.value.message for text in texts), caught.value.message


class Needs(Struct):
    size: int


class NeedsToo(pydantic.BaseModel):
    size: int


class Wrong(Struct):
    size: Annotated[int, Meta(le=3)] = 4


@pytest.mark.parametrize("model", [Needs, NeedsToo, Wrong])
def test_without_defaults_that_fit_there_is_no_first_version(model: type) -> None:
    with pytest.raises(ConfigError, match=r"needs a default that fits.*size"):
        of_model(model, "parameters.x.model")


@pytest.mark.parametrize("model", [int, "text", object()])
def test_what_is_no_model(model: object) -> None:
    with pytest.raises(ConfigError, match=r"no subclass of msgspec.Struct or pydantic.BaseModel"):
        of_model(model, "parameters.x.model")


@pytest.mark.parametrize(
    ("document", "text"),
    [
        ([1], "must describe a map"),
        ({"type": "object"}, "must describe a map"),
        ({"properties": {"a": {"type": "nonsense", "default": 1}}}, "no JSON Schema"),
        ({"properties": {"a": {"type": "integer"}}}, "that of a is missing"),
        ({"properties": {"a": {"type": "integer", "default": "x"}}}, "that of a does not: 'x' is not"),
        ({"properties": {"a": {"$ref": "https://a.example/x.json", "default": 1}}}, "refers to what it does not have"),
    ],
)
def test_a_file_that_is_none(tmp_path: Path, document: object, text: str) -> None:
    with pytest.raises(ConfigError, match=text) as caught:
        of_file(written(tmp_path, document), "parameters.x.schema")
    assert caught.value.field == "parameters.x.schema"


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        of_file(tmp_path / "none.json", "f")
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(ConfigError, match="is not JSON"):
        of_file(tmp_path / "bad.json", "f")


def test_without_the_package_it_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jsonschema", None)
    with pytest.raises(ConfigError, match=r"pip install 'heliograph\[jsonschema\]'"):
        of_file(written(tmp_path, SCHEMA), "f")


@pytest.mark.parametrize("model", [Momentum, Modelled])
def test_values_as_the_model(model: type[Any]) -> None:
    read = reader(model)
    assert read(DEFAULTS | {"threshold": 0.7}).threshold == 0.7
    with pytest.raises(RequestError) as caught:
        read(DEFAULTS | {"threshold": 2})
    assert caught.value.field == "threshold"
    assert reader(dict)(DEFAULTS) == DEFAULTS
