"""The weights of an earlier run's backbone on this machine."""

from __future__ import annotations

from pathlib import Path

from vpbench.backbones.named import backbone_card, resolve_backbone
from vpbench.core.cards import packaged_file
from vpbench.core.errors import WeightsError
from vpbench.spec.run_spec import BackboneSpec


def find_weights(backbone: BackboneSpec, given: str | Path | None = None) -> BackboneSpec:
    """The backbone with the path of its weights on this machine; None where the hub has them.

    Args:
        backbone: of the run.
        given: a file or folder; None: whatever ``VPBENCH_WEIGHTS`` names, or the backbone's own.

    Raises:
        WeightsError: when they are not there, or are others than the run's.
    """
    if backbone.weights == "random":
        return backbone
    if given is None and backbone.weights == "embedded" and (file := backbone_card(backbone.name).file):
        # Whatever VPBENCH_WEIGHTS names; loading checks the hash.
        return backbone.model_copy(update={"path": str(packaged_file("backbones", file))})
    for path in dict.fromkeys((given,) if given else (backbone.path, None)):
        found = resolve_backbone(backbone.name, str(path) if path else None, backbone.image_size, backbone.patch_size)
        same_file = path is not None and found.sha256 == backbone.sha256
        if same_file or (found.weights == backbone.weights and not _other_hash(found, backbone)):
            return backbone.model_copy(update={"path": found.path})
    raise WeightsError(
        f"the stored run used weights '{backbone.weights}' of {backbone.name}"
        f"{f' with sha256 {backbone.sha256[:8]}...' if backbone.sha256 else ''}, and here are '{found.weights}'"
        f"{f' with {found.sha256[:8]}...' if found.sha256 else ''}: let VPBENCH_WEIGHTS name the run's file."
    )


def _other_hash(found: BackboneSpec, wanted: BackboneSpec) -> bool:
    return bool(found.sha256 and wanted.sha256 and found.sha256 != wanted.sha256)
