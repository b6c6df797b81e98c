"""The part of the configuration that is about live parameters; see :mod:`engine.config`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec

from engine.tables import Masked, Name, about, check_importable
from transport.errors import ConfigError


class Parameter(Masked, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[parameters.NAME]``: values that change while what uses them runs, on the topic ``parameters.NAME``."""

    model: Annotated[
        Name | None,
        about('their types, bounds and defaults: msgspec or pydantic, "package.module:Class"', none="in a file"),
    ] = None
    schema: Annotated[
        Name | None,
        about("or a file of JSON Schema, looked for beside the configuration file", none="in a class"),
    ] = None

    def __post_init__(self) -> None:
        if (self.model is None) == (self.schema is None):
            raise ConfigError("exactly one of model and schema", "model" if self.model is None else "schema")
        if self.model is not None:
            check_importable(self.model, "Class", "model")

    def beside(self, directory: Path) -> Parameter:
        """With ``schema`` as a whole path; what is one already stays."""
        if self.schema is None:
            return self
        return msgspec.structs.replace(self, schema=str(directory / self.schema))
