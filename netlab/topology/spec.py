"""What every part of a file that users write has in common, before it is a value of the model."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, model_validator


class Spec(BaseModel):
    """Part of a topology file. An empty value (`checks:` with nothing after it) means the default, as in Kubernetes."""

    model_config = ConfigDict(extra="forbid", strict=True, hide_input_in_errors=True, defer_build=True)

    @model_validator(mode="before")
    @classmethod
    def _empty_means_default(cls, value: Any) -> Any:
        if isinstance(value, dict) and None in value.values():
            return {name: field for name, field in value.items() if field is not None}
        return value


def field_names(model: type[BaseModel]) -> list[str]:
    """Return the names that a model's fields have in the file, those that it needs first."""
    fields = sorted(model.model_fields.items(), key=lambda item: not item[1].is_required())
    return [field.alias or name for name, field in fields]
