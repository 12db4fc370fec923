"""The named backbones: their cards agree with timm, and build what they say."""

from __future__ import annotations

from typing import Any

import pytest
import timm
import torch
from pydantic import ValidationError
from sweeps import case

from vpbench.backbones.base import Backbone
from vpbench.backbones.named import BackboneCard, backbone_card, backbone_names, resolve_backbone
from vpbench.backbones.weights import load_backbone

NAMES = (
    "clip-vit-b16", "clip-vit-l14", "swin-b-in22k", "vit-b14-dinov2", "vit-b14-dinov2-reg", "vit-b14-eva02",
    "vit-b16-augreg-in21k", "vit-b16-deit3", "vit-b16-deit3-in21k", "vit-b16-dino", "vit-b16-dinov3", "vit-b16-in21k",
    "vit-b16-mae", "vit-b16-mae-released", "vit-b16-mocov3", "vit-b16-siglip2", "vit-h14-in21k", "vit-h14-mae",
    "vit-l14-dinov2", "vit-l14-dinov2-reg", "vit-l14-eva02", "vit-l16-dinov3", "vit-l16-in21k", "vit-l16-mae",
    "vit-l16-siglip2", "vit-nano", "vit-s14-dinov2", "vit-s14-dinov2-reg", "vit-s16-augreg-in21k", "vit-s16-dinov3",
    "vit-tiny-augreg",
)  # fmt: skip
SMALL = {"vit-nano", "vit-s14-dinov2-reg"}  # always; a large one takes long


@pytest.fixture(autouse=True)
def no_weights_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VPBENCH_WEIGHTS", raising=False)


def without_values(name: str, image_size: int | None = None) -> Backbone:
    with torch.device("meta"):
        return load_backbone(resolve_backbone(name, "random", image_size))


def test_names() -> None:
    assert backbone_names() == list(NAMES)


@pytest.mark.parametrize("name", [case(name, always=SMALL) for name in NAMES])
def test_card_agrees_with_the_model(name: str) -> None:
    card, adapter, spec = backbone_card(name), without_values(name), resolve_backbone(name)
    assert sum(tensor.numel() for tensor in adapter.parameters()) == card.parameters
    assert (adapter.shape.image_size, adapter.shape.patch_size) == (spec.image_size, spec.patch_size)
    assert (spec.mean, spec.std, spec.name) == (card.mean, card.std, name)
    model: Any = adapter.swin if adapter.shape.family == "swin" else adapter.vit
    assert model.global_pool == card.global_pool
    assert getattr(adapter, "pool_prompts", False) is card.pool_prompts
    state = model.state_dict()
    assert set(card.fresh) <= state.keys()
    assert not set(card.unused) & state.keys()


@pytest.mark.parametrize("name", [case(name, always=SMALL) for name in NAMES if backbone_card(name).tag])
def test_card_agrees_with_timm(name: str) -> None:
    card = backbone_card(name)
    facts = timm.get_pretrained_cfg(f"{card.timm}.{card.tag}")
    assert (card.mean, card.std) == (facts.mean, facts.std)
    assert resolve_backbone(name).weights == f"hub:{facts.hf_hub_id}/{facts.hf_hub_filename or 'model.safetensors'}"
    assert facts.input_size[1] == resolve_backbone(name).image_size


@pytest.mark.parametrize("name", [name for name in NAMES if backbone_card(name).tag])
def test_licences_are_those_that_timm_knows(name: str) -> None:
    """But for CLIP, whose own repository says MIT."""
    card = backbone_card(name)
    known = timm.get_pretrained_cfg(f"{card.timm}.{card.tag}").license
    assert name.startswith("clip") or known is None or card.licence.lower().replace(" ", "-").startswith(known.lower())


def test_moco() -> None:
    """timm has no tag for it, and the fields agree on one file, so that the address is the card's own."""
    spec = resolve_backbone("vit-b16-mocov3")
    assert spec.weights == "url:https://dl.fbaipublicfiles.com/moco-v3/vit-b-300ep/linear-vit-b-300ep.pth.tar"
    assert backbone_card("vit-b16-mocov3").md5 == "8f39ce"


def test_two_weights_with_one_architecture_are_told_apart() -> None:
    one, other = resolve_backbone("vit-b16-in21k"), resolve_backbone("vit-b16-augreg-in21k")
    assert (one.image_size, one.mean) == (other.image_size, other.mean)
    assert one.weights != other.weights


def test_readouts_are_told_apart() -> None:
    one, other = resolve_backbone("vit-b16-mae"), resolve_backbone("vit-b16-mae-released")
    assert one.weights == other.weights
    assert one != other


@pytest.mark.parametrize("name", [case(name, always=SMALL) for name in NAMES])
@pytest.mark.parametrize("steps", [-4, pytest.param(3, marks=pytest.mark.sweep)])
def test_other_image_sizes(name: str, steps: int) -> None:
    spec = resolve_backbone(name)
    size = spec.image_size + steps * spec.patch_size * (8 if name.startswith("swin") else 1)
    adapter = without_values(name, size)
    shape = adapter.shape
    assert (shape.image_size, shape.patches) == (size, (size // spec.patch_size) ** 2)
    features = adapter(torch.empty(1, 3, size, size, device="meta"))
    assert features.shape == (1, adapter.feature_width)


GOOD: dict[str, Any] = {
    "title": "T", "timm": "test_vit", "tag": "r160_in1k", "mean": (0.5,) * 3, "std": (0.5,) * 3, "parameters": 1,
    "pretraining": "none", "licence": "none", "source": "here",
}  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"timm": None, "tag": None, "url": "x", "md5": "012345"}, "an architecture by exactly one of timm, vit, not by none"),
        ({"vit": {"depth": 1}}, "an architecture by exactly one of timm, vit, not by timm, vit"),
        ({"tag": None}, "weights by exactly one of file, tag, url, not by none"),
        ({"url": "https://example.org/a.pth", "md5": "012345"}, "weights by exactly one of file, tag, url, not by tag, url"),
        ({"timm": None, "vit": {}}, "a tag belongs to a timm architecture"),
        ({"tag": None, "file": "a.safetensors"}, "a file needs its sha256"),
        ({"tag": None, "url": "https://example.org/a.pth"}, "a url needs the sha256 or md5"),
        ({"md5": "xyz"}, "md5"),
        ({"pool_prompts": True}, "pool_prompts needs feature = 'mean'"),
        ({"feature": "median"}, "feature"),
        ({"typo": 1}, "typo"),
    ],
)
def test_card_has_one_architecture_and_one_weight_file(changes: dict[str, Any], words: str) -> None:
    BackboneCard.model_validate(GOOD)
    with pytest.raises(ValidationError) as caught:
        BackboneCard.model_validate(GOOD | changes)
    assert words in str(caught.value)
