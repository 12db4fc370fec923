"""What a method can be set to, and where each setting comes from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator

MOST = 10_000
"""Of prompts, hidden units, ranks, clusters ...: no paper comes near, and many more exhaust the memory while a model is built."""

Fidelity = Literal["paper", "released-code", "both-differ", "approximate"]


def option(default: Any, description: str, source: str, *, former_name: str | None = None, **constraints: Any) -> Any:
    """One documented setting of a method.

    Args:
        default: its value unless said otherwise.
        description: what it does, in one line.
        source: where default and meaning come from: a paper's equation, a file of a released code, or "assumption: ...".
        former_name: by which the option is accepted too, and hashed, so that run ids stay.
        constraints: what pydantic's ``Field`` takes, e.g. ``ge=1``. A whole number without ``le`` is at most :data:`MOST`.
    """
    extra: dict[str, Any] = {"source": source, **({"former_name": former_name} if former_name else {})}
    return Field(default, description=description, json_schema_extra=extra, **constraints)


def renamed_options(options: Mapping[str, Any], former: Mapping[str, str]) -> dict[str, Any]:
    """Options by their present names.

    Args:
        former: present name by former name.

    Raises:
        ValueError: when an option is there by both of its names.
    """
    for old, new in former.items():
        if old in options and new in options:
            raise ValueError(f"{old} is the former name of {new}; set one of them")
    return {former.get(name, name): value for name, value in options.items()}


class MethodConfig(BaseModel):
    """Settings that every method has. Frozen; unknown settings are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=False, allow_inf_nan=False)

    @classmethod
    def former_names(cls) -> dict[str, str]:
        """Options that were renamed: present name by former name."""
        extras = {name: field.json_schema_extra for name, field in cls.model_fields.items()}
        return {
            str(extra["former_name"]): name
            for name, extra in extras.items()
            if isinstance(extra, dict) and "former_name" in extra
        }

    @model_validator(mode="before")
    @classmethod
    def _accept_former_names(cls, values: Any) -> Any:
        return renamed_options(values, cls.former_names()) if isinstance(values, dict) else values

    @field_validator("*")
    @classmethod
    def _at_most(cls, value: Any, info: ValidationInfo) -> Any:
        """A mistyped count is refused before a model is built of it."""
        own = any(hasattr(constraint, "le") for constraint in cls.model_fields[info.field_name or ""].metadata)
        if isinstance(value, int) and value > MOST and not own:
            raise ValueError(f"must be at most {MOST}")
        return value

    head_init: Literal["torch", "vpt"] = option(
        "torch",
        "initial values of the linear head: PyTorch's, or Kaiming-normal (fan-out) with bias -log(99)",
        "torch: timm's reset_classifier, as InsVP; vpt: KMnP/vpt src/models/mlp.py",
    )


@dataclass(frozen=True)
class Preset:
    """A named set of settings, e.g. the released code's where it differs from the paper.

    Attributes:
        summary: what the preset stands for, in one line.
        settings: method options that differ from the defaults.
        differences: (topic, default, this preset) for every way in which the two differ, also those that no option shows.
    """

    summary: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    differences: tuple[tuple[str, str, str], ...] = ()
