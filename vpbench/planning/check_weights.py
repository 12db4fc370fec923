"""The weight files of a plan that is shown: read as a run reads them, which a plan to be executed leaves to its runs."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

from vpbench.backbones.fetch import on_this_machine
from vpbench.backbones.named import backbone_card, backbone_names
from vpbench.spec.run_spec import BackboneSpec


def check_weights(backbones: Iterable[BackboneSpec]) -> tuple[list[str], list[BackboneSpec]]:
    """Load each backbone whose weight file is on this machine, once.

    Returns:
        what there is to say of the files, and the backbones whose files are not here.

    Raises:
        WeightsError: for a file with which a run would stop.
    """
    notes: list[str] = []
    absent: list[BackboneSpec] = []
    for spec in {backbone.model_dump_json(): backbone for backbone in backbones}.values():
        if spec.weights == "random":
            continue
        if (path := on_this_machine(spec)) is None:
            absent.append(spec)
        elif note := _note_on(spec.model_copy(update={"path": str(path)}).model_dump_json()):
            notes.append(f"note on the weights: {note}")
    return list(dict.fromkeys(notes)), absent


@lru_cache(maxsize=64)  # an experiment has many commands on the same weights
def _note_on(backbone: str) -> str:
    from vpbench.backbones.weights import load_backbone

    return load_backbone(BackboneSpec.model_validate_json(backbone)).note


def least_bytes(backbone: BackboneSpec) -> int | None:
    """How large a weight file is at least that is not here, in float32; None where no card counts the parameters."""
    return 4 * backbone_card(backbone.name).parameters if backbone.name in backbone_names() else None
