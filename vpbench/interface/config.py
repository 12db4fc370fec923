"""What a method can be set to, and where each setting comes from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Fidelity = Literal["paper", "released-code", "both-differ", "approximate"]


def option(default: Any, description: str, source: str, **constraints: Any) -> Any:
    """One documented setting of a method.

    Args:
        default: its value unless said otherwise.
        description: what it does, in one line.
        source: where default and meaning come from: a paper's equation, a file of a released code, or "assumption: ...".
        constraints: what pydantic's ``Field`` takes, e.g. ``ge=1``.
    """
    return Field(default, description=description, json_schema_extra={"source": source}, **constraints)


class MethodConfig(BaseModel):
    """Settings that every method has. Frozen; unknown settings are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=False, allow_inf_nan=False)

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
