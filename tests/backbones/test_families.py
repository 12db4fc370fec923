"""Which of timm's architectures work, and what is said of the others when a run is planned."""

from __future__ import annotations

from functools import partial

import pytest
import timm
import torch
from sweeps import case, some
from typer.testing import CliRunner

from vpbench.backbones.family import adapter_for
from vpbench.backbones.named import resolve_backbone
from vpbench.backbones.weights import load_backbone
from vpbench.cli.app import app
from vpbench.core.errors import UnsupportedError


@pytest.mark.parametrize(
    ("name", "word"),
    some([
        ("resnet50", "ResNet"), ("convnext_tiny", "ConvNeXt"), ("mixer_s32_224", "MlpMixer"), ("beit_base_patch16_224", "Beit"),
        ("swinv2_tiny_window8_256", "SwinTransformerV2"), ("vit_small_r26_s32_224", "HybridEmbed"),
        ("vit_small_patch16_18x2_224", "ParallelThingsBlock"), ("vit_relpos_small_patch16_224", "VisionTransformerRelPos"),
        ("samvit_base_patch16_224", "VisionTransformerSAM"), ("naflexvit_base_patch16_gap", "NaFlexVit"),
    ], 3),
)  # fmt: skip
def test_unsupported(name: str, word: str) -> None:
    with pytest.raises(UnsupportedError, match=word) as caught:
        resolve_backbone(name, "random")
    assert "\n" not in str(caught.value)


@pytest.mark.sweep
def test_command_says_so_in_one_line() -> None:
    found = CliRunner().invoke(app, ["run", "--backbone", "resnet50", "--weights", "random", "--dry-run"])
    assert isinstance(found.exception, UnsupportedError) or found.exit_code == 6
    assert "ResNet cannot carry prompts" in str(found.exception) + found.output


def known(name: str) -> None:
    if not timm.is_model(name):
        pytest.skip(f"timm {timm.__version__} has no {name}")


of_each_family = partial(
    case, always={"vit_tiny_patch16_224", "vit_small_patch14_reg4_dinov2", "eva02_tiny_patch14_224", "swin_s3_tiny_224"}
)


@pytest.mark.parametrize(
    ("name", "family", "prefix"),
    some([
        of_each_family("vit_tiny_patch16_224", "vit", 1), of_each_family("deit3_small_patch16_224", "vit", 1),
        of_each_family("deit_tiny_distilled_patch16_224", "vit", 2), of_each_family("vit_small_patch14_reg4_dinov2", "vit", 5),
        of_each_family("vit_base_patch16_clip_224", "vit", 1), of_each_family("vit_base_patch16_siglip_224", "vit", 0),
        of_each_family("vit_little_patch16_reg4_gap_256", "vit", 4), of_each_family("vit_dwee_patch16_reg1_gap_256", "vit", 1),
        of_each_family("eva02_tiny_patch14_224", "vit", 1), of_each_family("vit_small_patch16_dinov3", "vit", 5),
        of_each_family("swin_tiny_patch4_window7_224", "swin", 0), of_each_family("swin_s3_tiny_224", "swin", 0),
    ], 5),
)  # fmt: skip
def test_supported(name: str, family: str, prefix: int) -> None:
    known(name)
    spec = resolve_backbone(name, "random")
    with torch.device("meta"):
        adapter = load_backbone(spec).to_empty(device="meta")  # all of it: some of timm's buffers are made on the CPU
        features = adapter(torch.empty(1, 3, spec.image_size, spec.image_size))
    assert (adapter.shape.family, adapter.shape.prefix) == (family, prefix)
    assert features.shape == (1, adapter.feature_width)


@pytest.mark.parametrize(
    "name",
    [
        "vit_base_patch16_siglip_224",
        "vit_dwee_patch16_reg1_gap_256",
        "vit_little_patch16_reg4_gap_256",
        "deit3_small_patch16_224",
    ],
)
def test_published_architectures_equal_timm(name: str) -> None:
    """Attention pooling, differential attention, registers, layer scale: timm's own arguments, in a small build."""
    known(name)
    vit = timm.create_model(name, num_classes=0, img_size=48, depth=2, embed_dim=96, num_heads=4).eval()
    x = torch.randn(2, 3, 48, 48)
    assert torch.equal(adapter_for(vit)(x), vit(x))
