"""What parameters may be: a msgspec Struct, a pydantic model or a JSON Schema as one small protocol.

Each is an :class:`actors.parameter_book.Schema`. All its values need a default, so that there is a first version.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from actors.parameter_book import Schema
from transport.codes import ErrorCode
from transport.errors import ConfigError, RequestError
from transport.requests import refusal

MESSAGE_CHARACTERS = 500  # a schema's error may repeat the whole value
ModelT = TypeVar("ModelT")


def of_model(model: object, field: str) -> Schema:
    """The schema that a class declares.

    Args:
        field: of the configuration, for errors.

    Raises:
        ConfigError: it is neither a Struct nor a pydantic model, or one of its values has no default, or a wrong one.
    """
    if isinstance(model, type) and issubclass(model, msgspec.Struct):
        return _usable(StructSchema(model), field)
    if is_pydantic(model):
        return _usable(PydanticSchema(model), field)
    raise ConfigError(f"{model!r:.200} is no subclass of msgspec.Struct or pydantic.BaseModel", field)


def of_file(path: Path, field: str) -> Schema:
    """The schema in a file of JSON Schema.

    Raises:
        ConfigError: it cannot be read, is none, lacks defaults, or the package ``jsonschema`` is missing.
    """
    try:
        document = msgspec.json.decode(path.read_bytes())
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}", field) from None
    except msgspec.DecodeError as error:
        raise ConfigError(f"{path} is not JSON: {error}", field) from None
    return _usable(JsonSchema(document, field), field)


def reader(model: type[ModelT]) -> Callable[[Mapping[str, Any]], ModelT]:
    """What makes a ``model`` (as in :func:`of_model`; ``dict`` leaves them as they are) of values.

    What it returns raises :class:`RequestError` ``bad_request`` where they do not fit.
    """
    if is_pydantic(model):
        schema = PydanticSchema(model)
        return lambda values: schema.read(values)
    return lambda values: _converted(values, model)


def is_pydantic(model: object) -> bool:
    """Whether it is a model of pydantic's second version, which is imported only by who has one."""
    return isinstance(model, type) and hasattr(model, "model_validate") and hasattr(model, "model_json_schema")


def _usable(schema: Schema, field: str) -> Schema:
    """It, if its defaults fit."""
    try:
        schema.check(schema.defaults())
    except RequestError as error:
        of = f"of {error.field} " if error.field else ""
        raise ConfigError(f"each value needs a default that fits; that {of}does not: {error.message}", field) from None
    return schema


def _converted(values: Mapping[str, Any], kind: type[ModelT]) -> ModelT:
    try:
        return msgspec.convert(values, kind)
    except msgspec.ValidationError as error:
        raise refusal(error) from None


def _wrong(message: str, path: Iterable[object]) -> RequestError:
    field = ""
    for part in path:
        field += f"[{part}]" if isinstance(part, int) else f".{part}" if field else str(part)
    return RequestError(ErrorCode.BAD_REQUEST, f"{message:.{MESSAGE_CHARACTERS}}", field or None)


class StructSchema:
    """Of a msgspec Struct; bounds are ``Annotated[float, msgspec.Meta(ge=0, le=1)]``, and its own checks hold, too."""

    def __init__(self, struct: type[msgspec.Struct]) -> None:
        self._struct = struct
        self._fields = dict(zip(struct.__struct_encode_fields__, struct.__struct_fields__, strict=True))
        self.names = frozenset(self._fields)
        self.document: dict[str, Any] = msgspec.json.schema(struct)

    def defaults(self) -> dict[str, Any]:
        """Of the class; :class:`RequestError` where one is missing."""
        return self.check({})

    def check(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """See :meth:`actors.parameter_book.Schema.check`."""
        found = _converted(values, self._struct)
        # Field by field: as a whole it may leave out defaults, and have a tag.
        return {name: msgspec.to_builtins(getattr(found, field)) for name, field in self._fields.items()}


class PydanticSchema:
    """Of a pydantic model; how strict it is with types is its own affair (``ConfigDict(strict=True)``)."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self.document: dict[str, Any] = model.model_json_schema()
        self.names = frozenset(self.document.get("properties", ()))

    def defaults(self) -> dict[str, Any]:
        """Of the class; :class:`RequestError` where one is missing."""
        return self.check({})

    def check(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """See :meth:`actors.parameter_book.Schema.check`."""
        found: dict[str, Any] = self.read(values).model_dump(mode="json", by_alias=True)
        return {name: value for name, value in found.items() if name in self.names}

    def read(self, values: Mapping[str, Any]) -> Any:
        """``values`` as the model."""
        import pydantic  # who has a model has the package

        try:
            return self._model.model_validate(values)
        except pydantic.ValidationError as error:
            first = error.errors(include_url=False, include_context=False)[0]
            raise _wrong(f"{first['msg']}, not {first['input']!r:.100}", first["loc"]) from None


class JsonSchema:
    """Of a JSON Schema, of the draft that its ``$schema`` names; ``$ref`` reaches nothing outside it."""

    def __init__(self, document: Any, field: str) -> None:
        try:
            import jsonschema
            from referencing import Registry
        except ImportError:
            raise ConfigError("needs the extra: pip install 'heliograph[jsonschema]'", field) from None
        properties = document.get("properties") if isinstance(document, dict) else None
        if not isinstance(properties, dict) or not properties:
            raise ConfigError("the JSON Schema must describe a map: with `properties`", field)
        draft = jsonschema.validators.validator_for(document, default=jsonschema.Draft202012Validator)
        try:
            draft.check_schema(document)
        except jsonschema.SchemaError as error:
            raise ConfigError(f"no JSON Schema: {error.message:.{MESSAGE_CHARACTERS}}", field) from None
        self.document: dict[str, Any] = document
        self.names = frozenset(properties)
        self._validator = draft(document, registry=Registry())
        self._best = jsonschema.exceptions.best_match
        for name, about in properties.items():
            if not isinstance(about, dict) or "default" not in about:
                raise ConfigError(f"each value needs a default; that of {name} is missing", field)

    def defaults(self) -> dict[str, Any]:
        """Of the properties."""
        return {name: about["default"] for name, about in self.document["properties"].items()}

    def check(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """See :meth:`actors.parameter_book.Schema.check`."""
        from referencing.exceptions import Unresolvable

        try:
            error = self._best(self._validator.iter_errors(dict(values)))
        except Unresolvable as error:
            raise _wrong(f"the schema refers to what it does not have: {error}", ()) from None
        if error is not None:
            raise _wrong(error.message, error.absolute_path)
        return dict(values)
