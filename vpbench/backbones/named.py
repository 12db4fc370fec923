"""Backbones by name: vpbench's cards, or any ViT or Swin Transformer of timm. Reading cards imports no torch."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from vpbench.core.cards import card_file, card_names, is_packaged, read_card
from vpbench.core.errors import UsageError, WeightsError
from vpbench.core.frozen_model import FrozenModel
from vpbench.core.hashing import file_sha256
from vpbench.core.names import nearest, unknown
from vpbench.core.user_folders import user_path
from vpbench.spec.run_spec import BackboneSpec

HINT = "Every ViT and Swin Transformer of timm works too."
_TIMM_NAME = re.compile(r"[a-z0-9_]+(\.[a-z0-9_]+)?")
MOST_TOKENS = 2**20  # in a sequence; no machine attends over as many
WEIGHT_SUFFIXES = (".safetensors", ".npz", ".pth", ".pt", ".bin", ".tar")


class BackboneCard(FrozenModel):
    """A named backbone: an architecture, its weights, how its input is normalised, and what the classifier reads.

    The architecture is either ``timm`` (a model name, with ``arguments``) or ``vit`` (arguments of timm's
    ``VisionTransformer``). The weights are one of ``file``, ``tag`` (timm's, on the hub) and ``url``.
    """

    title: str
    timm: str | None = Field(None, description="architecture: name of a timm model, without a tag")
    arguments: dict[str, Any] = Field(default_factory=dict, description="of timm.create_model, beside sizes and pooling")
    vit: dict[str, Any] | None = Field(None, description="architecture: arguments of timm.models.VisionTransformer")
    file: str | None = Field(None, description="weights: a file, from the card's folder on")
    tag: str | None = Field(None, description="weights: timm's tag for them, on the hub")
    url: str | None = Field(None, description="weights: the address of the official file")
    sha256: str | None = Field(None, description="of the weight file")
    md5: str | None = Field(None, pattern="^[0-9a-f]{6,32}$", description="of the file at url, or its published beginning")
    names: tuple[str, ...] = Field((), description="what these weights' files are called elsewhere, to find them in a folder")
    feature: Literal["class", "mean", "attention"] = Field(
        "class", description="what is read: the class token, the mean of patch tokens, or the output of an attention pooling"
    )
    pool_prompts: bool = Field(False, description="whether prompts are part of the mean")
    unused: tuple[str, ...] = Field((), description="tensors of the file that this feature does not need")
    fresh: tuple[str, ...] = Field((), description="tensors that the file does not have: they keep timm's initial values")
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    parameters: int = Field(ge=1, description="without a classifier")
    pretraining: str
    licence: str
    source: str

    @model_validator(mode="after")
    def _one_of_each(self) -> Self:
        for word, choices in (("an architecture", ("timm", "vit")), ("weights", ("file", "tag", "url"))):
            given = [choice for choice in choices if getattr(self, choice) is not None]
            if len(given) != 1:
                raise ValueError(f"{word} by exactly one of {', '.join(choices)}, not by {', '.join(given) or 'none'}")
        if self.tag is not None and self.timm is None:
            raise ValueError("a tag belongs to a timm architecture, and the card has none")
        if self.file is not None and self.sha256 is None:
            raise ValueError("a file needs its sha256")
        if self.url is not None and self.sha256 is None and self.md5 is None:
            raise ValueError("a url needs the sha256 or md5 of its file")
        if self.pool_prompts and self.feature != "mean":
            raise ValueError("pool_prompts needs feature = 'mean'")
        return self

    @property
    def global_pool(self) -> str:
        """timm's word for the feature."""
        return {"class": "token", "mean": "avg", "attention": "map"}[self.feature]

    @property
    def stems(self) -> tuple[str, ...]:
        """What a file with these weights may be called, without the ending, beside the card's own name."""
        tagged = (f"{self.timm}.{self.tag}",) if self.tag else ()
        return (*tagged, *self.names, *((_stem(self.url.rsplit("/", 1)[-1]),) if self.url else ()))


def backbone_names() -> list[str]:
    """The backbones that have a card; every ViT and Swin Transformer of timm works beside them."""
    return card_names("backbones")


def check_backbone_name(name: str) -> None:
    """
    Raises:
        UsageError: for what is neither a card's name nor of the form of timm's; whether timm has it, timm is not asked.
    """
    if name not in backbone_names() and not _TIMM_NAME.fullmatch(name):
        raise unknown("backbone", name, backbone_names(), HINT)


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
        UnsupportedError: for a timm model that cannot carry prompts.
        WeightsError: when the file is missing, or a folder holds none or several that fit.
    """
    path: str | None = None
    stems: tuple[str, ...] = ()
    if name in backbone_names():
        card = backbone_card(name)
        mean, std, stems = card.mean, card.std, card.stems
        sizes = _card_sizes(card)
        if card.file:
            file = card_file("backbones", name, "backbone")
            source, path = "embedded" if is_packaged(file) else "file", str(file.parent.absolute() / card.file)
        else:
            source = f"hub:{_hub_file(f'{card.timm}.{card.tag}')}" if card.tag else f"url:{card.url}"
    else:
        mean, std, sizes, hub = _timm_facts(name)
        source = f"hub:{hub}" if hub else ""
    image_size, patch_size = image_size or sizes[0], patch_size or sizes[1]
    if image_size % patch_size:
        raise UsageError(
            f"image size {image_size} is no multiple of the patch size {patch_size} of {name}: "
            f"take {_nearest(image_size, patch_size)}."
        )
    if (tokens := (image_size // patch_size) ** 2) > MOST_TOKENS:
        raise UsageError(
            f"image size {image_size} makes {tokens:,} tokens of {patch_size} px patches, and {MOST_TOKENS:,} are the most: "
            "take a smaller --image-size."
        )
    if weights == "random":
        source, path = "random", None
    elif found := _weight_file(weights, name, stems):
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


def _weight_file(weights: str | None, name: str, stems: tuple[str, ...]) -> Path | None:
    """The file that ``--weights`` or ``VPBENCH_WEIGHTS`` means for this backbone, if any.

    In a folder that is, for a card, the one called like the card or one of its ``stems``; for a timm model, the one called
    like it, with its tag or without, or else the only one whose name begins with the architecture's.
    """
    given = weights or os.environ.get("VPBENCH_WEIGHTS")
    if not given:
        return None
    path = user_path(given)
    origin = f"--weights {given}" if weights else f"VPBENCH_WEIGHTS={given}"
    if not path.exists():
        raise WeightsError(f"{origin}: there is no such file or folder.")
    if path.is_file():
        return path
    files = sorted(file for file in path.iterdir() if file.name.endswith(WEIGHT_SUFFIXES))
    if name in backbone_names():
        known = (name, *stems)
        fitting = [file for file in files if _stem(file.name) in known]
        wanted, expected = known, " or ".join(known)
    else:
        stem = name.split(".")[0]
        fitting = [file for file in files if file.name.startswith(stem)]
        wanted, expected = (name, stem), f"{stem}*"
    for stem in wanted:
        called = [file for file in fitting if _stem(file.name) == stem]
        if len(called) == 1:
            return called[0]
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        raise WeightsError(
            f"{origin}: {len(fitting)} files fit {name} ({', '.join(file.name for file in fitting)}); name one of them."
        )
    if weights:
        raise WeightsError(
            f"{origin}: the folder has no file called {expected} with one of the endings {', '.join(WEIGHT_SUFFIXES)}."
        )
    return None


def _stem(filename: str) -> str:
    """A weight file's name without its ending, which can be ``.pth.tar``."""
    for suffix in (".pth.tar", *WEIGHT_SUFFIXES):
        if filename.endswith(suffix):
            return filename.removesuffix(suffix)
    return filename


def _card_sizes(card: BackboneCard) -> tuple[int, int]:
    """Image and patch size of pretraining, pixels."""
    if card.vit is not None:
        return int(card.vit["img_size"]), int(card.vit["patch_size"])
    return _sizes(str(card.timm), {**card.arguments, "global_pool": card.global_pool})


def _sizes(architecture: str, arguments: dict[str, Any] | None = None) -> tuple[int, int]:
    """Image and patch size that a timm architecture has of itself; an unsupported one raises here."""
    import torch

    from vpbench.backbones.family import adapter_for, create

    with torch.device("meta"):
        shape = adapter_for(create(architecture, arguments)).shape
    return shape.image_size, shape.patch_size


def _hub_file(name: str) -> str | None:
    """``repository/file`` of a timm model's weights, None where timm has none on the hub."""
    import timm

    facts = timm.get_pretrained_cfg(name)
    if not facts or not facts.has_weights or not facts.hf_hub_id:
        return None
    return f"{facts.hf_hub_id}/{facts.hf_hub_filename or 'model.safetensors'}"


def _timm_facts(name: str) -> tuple[Any, Any, tuple[int, int], str | None]:
    """Mean, std, (image size, patch size) and hub file of a timm model."""
    check_backbone_name(name)
    import timm

    architecture = name.split(".")[0]
    if not timm.is_model(architecture):
        raise unknown("backbone", name, [*backbone_names(), *nearest(name, _models_like_ours(timm), 3)], HINT)
    try:
        facts = timm.get_pretrained_cfg(name)
    except RuntimeError as error:
        tags = [listed for listed in timm.list_models(pretrained=True) if listed.startswith(architecture + ".")]
        raise unknown("backbone", name, [architecture, *tags]) from error
    mean, std = (facts.mean, facts.std) if facts else ((0.5,) * 3, (0.5,) * 3)
    return mean, std, _sizes(architecture), _hub_file(name)


def timm_facts(name: str) -> tuple[str, str, str]:
    """Architecture, tag of the weights ("" where timm has none), and the feature that timm's classifier reads, as on a card."""
    import timm
    import torch

    architecture = name.partition(".")[0]
    facts = timm.get_pretrained_cfg(name)
    with torch.device("meta"):
        model = timm.create_model(architecture)
    feature = {"token": "class", "map": "attention"}.get(model.global_pool, "mean")
    return architecture, facts.tag if facts and facts.has_weights else "", feature


def _models_like_ours(timm: Any) -> list[str]:
    """timm's models of the families that work here, by its modules; names alone are no sign (vit_base_mci is a FastViT)."""
    return [*timm.list_models("vit_*", module="vision_transformer"), *timm.list_models("swin_*", module="swin_transformer")]
