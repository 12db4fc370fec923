"""The base class of vpbench's immutable pydantic models."""

from __future__ import annotations

from typing import Any, Self, get_args

from pydantic import BaseModel, ConfigDict, ValidationError

from vpbench.core.cards import first_error
from vpbench.core.errors import UsageError
from vpbench.core.names import unknown


class FrozenModel(BaseModel):
    """Data that does not change: no field can be set, an unknown field is an error, and numbers are finite."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @classmethod
    def from_keywords(cls, **values: Any) -> Self:
        """The model with these fields, validated; None leaves a field its default where the field itself cannot be None.

        Raises:
            UsageError: for an unknown field, with a suggestion, or for a value that does not fit.
        """
        for name in values:
            if name not in cls.model_fields:
                raise unknown("argument", name, cls.model_fields)
        given = {
            name: value
            for name, value in values.items()
            if value is not None or type(None) in get_args(cls.model_fields[name].annotation)
        }
        try:
            return cls.model_validate(given)
        except ValidationError as error:
            raise UsageError(first_error(error)) from error
