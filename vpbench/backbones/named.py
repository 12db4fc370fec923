"""Backbones by name: vpbench's own cards, or any ``VisionTransformer`` of timm. Reading cards imports no torch."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from pydantic import Field

from vpbench.core.cards import card_names, packaged_file, read_card
from vpbench.core.errors import UsageError, WeightsError
from vpbench.core.hashing import file_sha256
from vpbench.core.names import unknown
from vpbench.execution.spec import BackboneSpec, Frozen

WEIGHT_SUFFIXES = (".safetensors", ".npz", ".pth", ".pt", ".bin", ".tar")


class BackboneCard(Frozen):
    """A named backbone: an architecture together with its weights and their normalisation.

    ``vit`` holds arguments of ``timm.models.VisionTransformer``; ``file`` is a weight file that ships with vpbench.
    """

    title: str
    vit: dict[str, Any]
    file: str
    sha256: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    parameters: int = Field(ge=1)
    pretraining: str
    licence: str
    source: str


def backbone_names() -> list[str]:
    """The backbones that have a card; every timm ViT works beside them."""
    return card_names("backbones")


def backbone_card(name: str) -> BackboneCard:
    """The card of a named backbone."""
    return read_card("backbones", name, BackboneCard, "backbone")


def resolve_backbone(
    name: str, weights: str | None = None, image_size: int | None = None, patch_size: int | None = None
) -> BackboneSpec:
    """Settle what a backbone's name means, down to the hash of its weight file, without loading it.

    Args:
        name: a card's name, or a timm model, with or without a tag.
        weights: None for the backbone's own; ``"random"``; or a file or folder. ``VPBENCH_WEIGHTS`` names a file or folder
            that is looked at when ``weights`` is None.
        image_size: pixels; None for the size of pretraining.
        patch_size: pixels; None for the architecture's own.

    Raises:
        UsageError: for an unknown name or impossible sizes.
        WeightsError: when the file is missing, or a folder holds none or several that fit.
    """
    if name in backbone_names():
        card = backbone_card(name)
        mean, std = card.mean, card.std
        sizes = int(card.vit["img_size"]), int(card.vit["patch_size"])
        source: str = "embedded"
        path: str | None = str(packaged_file("backbones", card.file))
    else:
        mean, std, sizes, hub = _timm_facts(name)
        source, path = f"hub:{hub}" if hub else "", None
    image_size, patch_size = image_size or sizes[0], patch_size or sizes[1]
    if image_size % patch_size:
        raise UsageError(
            f"image size {image_size} is no multiple of the patch size {patch_size} of {name}: "
            f"take {_nearest(image_size, patch_size)}."
        )
    if weights == "random":
        source, path = "random", None
    elif found := _weight_file(weights, name):
        source, path = "file", str(found)
    elif not source:
        raise WeightsError(f"timm has no pretrained weights for {name}: give --weights FILE, or --weights random on purpose.")
    return BackboneSpec(
        name=name, weights=source, sha256=weights_sha256(Path(path)) if path else None, image_size=image_size,
        patch_size=patch_size, mean=mean, std=std, path=path,
    )  # fmt: skip


def weights_sha256(path: Path) -> str:
    """SHA-256 of a weight file.

    Raises:
        WeightsError: when it cannot be read.
    """
    try:
        return file_sha256(path)
    except OSError as error:
        raise WeightsError(
            f"weight file {path} cannot be read: {error.strerror or error}. Name another with --weights."
        ) from error


def _nearest(size: int, patch: int) -> int:
    return max(1, round(size / patch)) * patch


def _weight_file(weights: str | None, name: str) -> Path | None:
    """The file that ``--weights`` or ``VPBENCH_WEIGHTS`` means for this backbone, if any.

    In a folder that is the one file called like the backbone, with its tag or without; or else the only one whose name
    begins with the architecture's.
    """
    given = weights or os.environ.get("VPBENCH_WEIGHTS")
    if not given:
        return None
    path = Path(given).expanduser()
    origin = f"--weights {given}" if weights else f"VPBENCH_WEIGHTS={given}"
    if not path.exists():
        raise WeightsError(f"{origin}: there is no such file or folder.")
    if path.is_file():
        return path
    stem = name.split(".")[0]
    fitting = sorted(file for file in path.iterdir() if file.name.startswith(stem) and file.name.endswith(WEIGHT_SUFFIXES))
    for wanted in (name, stem):
        called = [file for file in fitting if file.name in {wanted + suffix for suffix in WEIGHT_SUFFIXES}]
        if len(called) == 1:
            return called[0]
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        raise WeightsError(
            f"{origin}: {len(fitting)} files fit {stem} ({', '.join(file.name for file in fitting)}); name one of them."
        )
    if weights:
        raise WeightsError(
            f"{origin}: the folder has no file called {stem}* with one of the endings {', '.join(WEIGHT_SUFFIXES)}."
        )
    return None


def _timm_facts(name: str) -> tuple[Any, Any, tuple[int, int], str | None]:
    """Mean, std, (image size, patch size) and hub repository of a timm model."""
    import timm
    import torch

    architecture = name.split(".")[0]
    if not timm.is_model(architecture):
        raise unknown(
            "backbone", name, [*backbone_names(), *_similar(timm.list_models("vit_*"), name)], "Every ViT of timm works too."
        )
    try:
        facts = timm.get_pretrained_cfg(name)
    except RuntimeError as error:
        tags = [listed for listed in timm.list_models(pretrained=True) if listed.startswith(architecture + ".")]
        raise unknown("backbone", name, [architecture, *tags]) from error
    with torch.device("meta"):
        model = timm.create_model(architecture, num_classes=0)
    from vpbench.backbones.vit import ViTAdapter

    shape = ViTAdapter(model).shape
    has_weights = bool(facts and facts.has_weights)
    hub = f"{facts.hf_hub_id}/{facts.hf_hub_filename or 'model.safetensors'}" if has_weights and facts.hf_hub_id else None
    mean, std = (facts.mean, facts.std) if facts else ((0.5,) * 3, (0.5,) * 3)
    return mean, std, (shape.image_size, shape.patch_size), hub


def _similar(names: list[str], name: str) -> list[str]:
    from difflib import get_close_matches

    return get_close_matches(name, names, n=3, cutoff=0.6)
