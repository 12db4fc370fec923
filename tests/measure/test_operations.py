"""Operations: against published figures, a formula, and each other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from sweeps import case
from torch.utils.flop_counter import FlopCounterMode

from vpbench.backbones.named import resolve_backbone
from vpbench.measure.operations import count_by_dispatch, count_operations, count_plain
from vpbench.models.build import build_empty
from vpbench.models.registry import method_registry, resolve_method
from vpbench.spec.run_spec import BackboneSpec

METHODS = sorted(path.stem for path in (Path(__file__).parents[2] / "methods").glob("[!_]*.py"))


def vit_flops(length: int, patches: int, width: int, depth: int, patch: int, classes: int) -> int:
    """2 per multiply-add: patch embedding; q, k, v and projection; scores and mixing; MLP of 4 D; classifier."""
    embedding = 2 * patches * 3 * patch**2 * width
    block = 2 * length * width * 4 * width + 2 * 2 * length**2 * width + 2 * length * width * 8 * width
    return embedding + depth * block + 2 * width * classes


@pytest.mark.parametrize(
    ("method", "prompts", "billions"), [pytest.param("linear", 0, 35.13, marks=pytest.mark.sweep), ("vpt", 10, 36.97)]
)
def test_vit_b16(method: str, prompts: int, billions: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vpbench.measure.operations._fvcore_macs", lambda model: None)  # seconds, and tested below
    backbone = resolve_backbone("vit_base_patch16_224", "random")
    settings = {"prompt_length": prompts} if prompts else {}
    counted = count_operations(resolve_method(method, settings), backbone, 100)["flops_forward"]
    assert counted is not None
    assert counted == vit_flops(197 + prompts, 196, 768, 12, 16, 100)
    assert round(counted / 1e9, 2) == billions


def forward_flops(method: str, backbone: str, monkeypatch: pytest.MonkeyPatch) -> int:
    """Of one image, with the method's own ten prompts and 100 classes."""
    monkeypatch.setattr("vpbench.measure.operations._fvcore_macs", lambda model: None)  # seconds, and tested below
    counted = count_operations(resolve_method(method), resolve_backbone(backbone, "random"), 100)["flops_forward"]
    assert counted is not None
    return counted


@pytest.mark.sweep
@pytest.mark.parametrize(
    ("name", "patches", "width", "depth", "patch", "billions"),
    [("vit-l16-in21k", 196, 1024, 24, 16, 129.54), ("vit-h14-in21k", 256, 1280, 32, 14, 348.03)],
)
def test_larger_vits(
    name: str, patches: int, width: int, depth: int, patch: int, billions: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted = forward_flops("vpt", name, monkeypatch)
    assert counted == vit_flops(1 + 10 + patches, patches, width, depth, patch, 100)
    assert round(counted / 1e9, 2) == billions


@pytest.mark.sweep
def test_swin_b(monkeypatch: pytest.MonkeyPatch) -> None:
    """The Swin paper's table 1 prints 15.4 G "FLOPs", which are multiply-adds; its classifier of 1,000 classes is 1 M of them."""
    counted = forward_flops("linear", "swin-b-in22k", monkeypatch)
    assert counted == 30_860_050_432
    assert round(counted / 2e9, 1) == 15.4


@pytest.mark.sweep
def test_table_8_of_ivpt(monkeypatch: pytest.MonkeyPatch) -> None:
    """It prints 17.732 G for VPT and 17.733 G for iVPT: multiply-adds, those of attention left out. See docs/flops.md."""
    length, width, depth, heads = 207, 768, 12, 12
    layers = 196 * width**2 + depth * length * 12 * width**2 + 100 * width
    attention = depth * 2 * length**2 * width
    vpt = forward_flops("vpt", "vit-b16-in21k", monkeypatch)
    assert vpt == 2 * (layers + attention) == 36_973_897_728

    # As thop counts: linear layers and convolutions, 4 for each element of a layer norm, 3 n - 1 for a softmax of n.
    printed = layers + (2 * depth + 1) * length * width * 4 + depth * heads * length * (3 * length - 1)
    assert f"{printed / 1e9:.3f}" == "17.732"
    aggregation, additions = 11 * 10 * 10 * width, 2 * 11 * 10 * width
    assert f"{(printed + aggregation) / 1e9:.3f}" == "17.732"
    assert f"{(printed + aggregation + additions) / 1e9:.3f}" == "17.733"

    class_rows = 11 * length * width  # the attention that reinforcement reads
    assert forward_flops("ivpt", "vit-b16-in21k", monkeypatch) - vpt == 2 * (aggregation + class_rows) == 5_187_072


@pytest.mark.parametrize(
    ("method", "settings", "prompts"), [pytest.param("linear", {}, 0, marks=pytest.mark.sweep), ("vpt", {"prompt_length": 5}, 5)]
)
def test_tiny_vit(method: str, settings: dict[str, Any], prompts: int, tiny: BackboneSpec) -> None:
    counted = count_operations(resolve_method(method, settings), tiny, 10)
    forward = vit_flops(17 + prompts, 16, 192, 6, 8, 10)
    assert counted["flops_forward"] == forward
    # Of a linear probe's backward pass only the head's weight is left; prompts need the gradient of every activation.
    assert counted["flops_train_step"] is not None
    step = counted["flops_train_step"] / forward
    assert 1 < step < 1.001 if not prompts else 1.9 < step < 2.1
    # fvcore counts multiply-adds, and normalisation and the like at other rates.
    assert counted["macs_fvcore"] == pytest.approx(forward / 2, rel=0.02)


@pytest.mark.parametrize("method", [case(method, always={"vpt"}) for method in METHODS])
def test_every_method_is_counted(method: str, tiny: BackboneSpec) -> None:
    assert method in method_registry().names()
    before = torch.random.get_rng_state()
    counted = count_operations(resolve_method(method), tiny, 10)
    assert torch.equal(torch.random.get_rng_state(), before)
    plain = vit_flops(17, 16, 192, 6, 8, 10)
    assert counted["flops_forward"] is not None and counted["flops_train_step"] is not None and counted["macs_fvcore"] is not None
    assert plain <= counted["flops_forward"] < 12 * plain
    assert counted["flops_train_step"] > counted["flops_forward"]
    assert counted["macs_fvcore"] == pytest.approx(counted["flops_forward"] / 2, rel=0.1)


@pytest.mark.sweep
def test_units_and_merging(tiny: BackboneSpec) -> None:
    """iVPT folds its links: fewer operations afterwards, and the trained form keeps its own count."""
    linear, vpt, ivpt = (
        count_by_dispatch(build_empty(resolve_method(name), tiny, 10, "meta")) for name in ("linear", "vpt", "ivpt")
    )
    for counted in (linear, vpt, ivpt):
        assert 2 * counted["macs_forward"] == counted["flops_forward"]
        assert counted["flops_inference"] < counted["flops_forward"]  # patch tokens are not read behind the last block
    assert linear["flops_forward"] == count_plain(tiny) + 2 * 192 * 10
    # The folded links leave nothing; in all blocks but the last the class token's query meets all keys once more.
    assert ivpt["flops_inference"] - vpt["flops_inference"] == 5 * 2 * 192 * (17 + 10)


@pytest.mark.sweep
def test_the_kernel_in_use_changes_nothing(tiny: BackboneSpec) -> None:
    models = [build_empty(resolve_method("ivpt"), tiny, 10, "meta") for _ in range(2)]
    for fused, model in zip((True, False), models, strict=True):
        model.backbone.use_fused_attention(fused)
    assert count_by_dispatch(models[0]) == count_by_dispatch(models[1])


@pytest.mark.sweep
@pytest.mark.parametrize("method", ["vpt", "e2vpt"])  # timm's attention, and the one with key and value prompts
def test_kernels_count_the_same(method: str, tiny: BackboneSpec) -> None:
    found = set()
    for fused in (True, False):
        model = build_empty(resolve_method(method), tiny, 10, "meta")
        model.backbone.use_fused_attention(fused)
        counter = FlopCounterMode(display=False)
        with counter:
            loss, _ = model.training_loss(
                torch.zeros(1, 3, 32, 32, device="meta"), torch.zeros(1, dtype=torch.long, device="meta")
            )
            loss.backward()
        found.add(counter.get_total_flops())
    assert len(found) == 1
