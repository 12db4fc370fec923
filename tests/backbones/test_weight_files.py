"""Weight files in every format and from every place. All on timm's ``test_vit``, 64 wide and 6 deep."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from sweeps import some
from timm.layers import resample_abs_pos_embed, resample_patch_embed
from weight_writers import NAME, SIZE, WRITERS, features, google_arrays, pictures, refusal, source, state

from vpbench.backbones import weights
from vpbench.backbones.named import backbone_card, resolve_backbone
from vpbench.backbones.weights import fill, load_backbone
from vpbench.core.cards import packaged_file
from vpbench.core.errors import UsageError, VpbenchError, WeightsError
from vpbench.core.hashing import file_sha256
from vpbench.core.tensor_files import unfit_values

pytestmark = pytest.mark.usefixtures("no_weights_folder")


@pytest.mark.parametrize("name", some(WRITERS, 3))
def test_formats(name: str, tmp_path: Path) -> None:
    WRITERS[name](state(), tmp_path / name)
    assert torch.equal(features(tmp_path / name), source()(pictures()))


@pytest.mark.parametrize("name", ["half.safetensors", "half.pth"])
def test_half_precision(name: str, tmp_path: Path) -> None:
    half = {key: tensor.half() for key, tensor in state().items()}
    WRITERS["plain" + Path(name).suffix](half, tmp_path / name)
    spec = resolve_backbone(NAME, str(tmp_path / name), SIZE)
    loaded = load_backbone(spec).vit.state_dict()
    assert all(torch.equal(loaded[key], tensor.float()) for key, tensor in half.items())
    assert {tensor.dtype for tensor in loaded.values()} == {torch.float32}


def test_classifier_is_dropped(tmp_path: Path) -> None:
    path = tmp_path / "head.safetensors"
    content = state(classes=1000)
    assert content["head.weight"].shape == (1000, 64)
    save_file(content, path)
    vit = source(classes=1000)
    assert torch.equal(features(path), vit.forward_head(vit.forward_features(pictures()), pre_logits=True))


def test_openai_clip_layout(tmp_path: Path) -> None:
    """timm knows foreign layouts; a file with a text tower beside the image tower is one."""
    vit = timm.create_model("vit_base_patch32_clip_224", num_classes=0, img_size=32, embed_dim=32, depth=1, num_heads=2)
    own = vit.state_dict()
    content = {
        "text.weight": torch.zeros(3),
        "visual.class_embedding": own["cls_token"][0, 0],
        "visual.positional_embedding": own["pos_embed"][0],
        "visual.conv1.weight": own["patch_embed.proj.weight"],
    }
    for ours, theirs in (("norm_pre", "ln_pre"), ("norm", "ln_post")):
        content.update({f"visual.{theirs}.{part}": own[f"{ours}.{part}"] for part in ("weight", "bias")})
    for ours, theirs in (
        ("norm1.", "ln_1."), ("norm2.", "ln_2."), ("attn.qkv.", "attn.in_proj_"),
        ("attn.proj.", "attn.out_proj."), ("mlp.fc1.", "mlp.c_fc."), ("mlp.fc2.", "mlp.c_proj."),
    ):  # fmt: skip
        for part in ("weight", "bias"):
            content[f"visual.transformer.resblocks.0.{theirs}{part}"] = own[f"blocks.0.{ours}{part}"]
    torch.save(content, tmp_path / "clip.pth")
    fresh = timm.create_model("vit_base_patch32_clip_224", num_classes=0, img_size=32, embed_dim=32, depth=1, num_heads=2)
    fill(fresh, tmp_path / "clip.pth")
    assert all(torch.equal(tensor, own[name]) for name, tensor in fresh.state_dict().items())


@pytest.mark.parametrize("prefix", ["", "opt/target/"])
def test_google_npz(prefix: str, tmp_path: Path) -> None:
    np.savez(tmp_path / "test_vit.npz", **{prefix + name: array for name, array in google_arrays(source()).items()})
    assert torch.equal(features(tmp_path / "test_vit.npz"), source()(pictures()))


# --- other sizes


def test_position_embeddings_are_resampled(tmp_path: Path) -> None:
    save_file(state(), tmp_path / "small.safetensors")
    vit = load_backbone(resolve_backbone(NAME, str(tmp_path / "small.safetensors"), 80)).vit
    expected = resample_abs_pos_embed(state()["pos_embed"], [5, 5], num_prefix_tokens=1)
    assert vit.pos_embed.shape == (1, 26, 64)
    assert torch.equal(vit.pos_embed, expected)
    assert torch.equal(vit.blocks[0].attn.qkv.weight, state()["blocks.0.attn.qkv.weight"])


def test_patch_embedding_is_resampled(tmp_path: Path) -> None:
    save_file(state(), tmp_path / "coarse.safetensors")
    vit = load_backbone(resolve_backbone(NAME, str(tmp_path / "coarse.safetensors"), 32, 8)).vit
    assert torch.equal(vit.patch_embed.proj.weight, resample_patch_embed(state()["patch_embed.proj.weight"], [8, 8]))
    assert vit.pos_embed.shape == (1, 17, 64)
    assert vit(pictures()).isfinite().all()


def test_google_npz_in_another_size(tmp_path: Path) -> None:
    np.savez(tmp_path / "test_vit.npz", **google_arrays(source()))
    vit = load_backbone(resolve_backbone(NAME, str(tmp_path / "test_vit.npz"), 48)).vit
    assert vit.pos_embed.shape == (1, 10, 64)
    assert torch.equal(vit.pos_embed[:, :1], state()["pos_embed"][:, :1])
    assert vit(pictures(48)).isfinite().all()


@pytest.mark.parametrize(("size", "patch", "nearest"), [(50, None, 48), (33, 8, 32), (5, None, 16)])
def test_impossible_size(size: int, patch: int | None, nearest: int) -> None:
    with pytest.raises(UsageError, match=f"take {nearest}"):
        resolve_backbone(NAME, "random", size, patch)


# --- folders


def test_folder(tmp_path: Path) -> None:
    save_file(state(), tmp_path / f"{NAME}.r160_in1k.safetensors")
    (tmp_path / f"{NAME}.txt").write_text("notes")
    (tmp_path / "vit_base_patch16_224.npz").write_bytes(b"another")
    spec = resolve_backbone(NAME, str(tmp_path), SIZE)
    assert spec.path == str(tmp_path / f"{NAME}.r160_in1k.safetensors")
    assert torch.equal(load_backbone(spec)(pictures()), source()(pictures()))


def test_folder_prefers_the_exact_name(tmp_path: Path) -> None:
    for name in ("test_vit.pth", "test_vit2.pth", "test_vit.r160_in1k.pth"):
        (tmp_path / name).write_bytes(b"")
    assert resolve_backbone("test_vit", str(tmp_path), SIZE).path == str(tmp_path / "test_vit.pth")
    assert resolve_backbone("test_vit.r160_in1k", str(tmp_path), SIZE).path == str(tmp_path / "test_vit.r160_in1k.pth")


def test_folder_with_several(tmp_path: Path) -> None:
    for name in ("test_vit.a.pth", "test_vit.b.npz"):
        (tmp_path / name).write_bytes(b"")
    message = refusal(tmp_path)
    assert "test_vit.a.pth, test_vit.b.npz" in message
    assert "name one" in message


def test_folder_without_match(tmp_path: Path) -> None:
    (tmp_path / "vit_base_patch16_224.npz").write_bytes(b"")
    assert "no file called test_vit*" in refusal(tmp_path)


def test_missing_file(tmp_path: Path) -> None:
    message = refusal(tmp_path / "nothing.safetensors")
    assert message.startswith("--weights")
    assert "no such file" in message


def test_weights_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own, other = tmp_path / "own" / f"{NAME}.safetensors", tmp_path / "other.safetensors"
    own.parent.mkdir()
    save_file(state(), own)
    save_file(state(classes=1000), other)
    monkeypatch.setenv("VPBENCH_WEIGHTS", str(own))
    assert resolve_backbone(NAME, image_size=SIZE).path == str(own)
    monkeypatch.setenv("VPBENCH_WEIGHTS", str(own.parent))
    assert resolve_backbone(NAME, image_size=SIZE).path == str(own)
    assert resolve_backbone("vit-nano").weights == "embedded"  # the folder has nothing for it
    assert resolve_backbone(NAME, str(other), SIZE).path == str(other)  # --weights goes first
    assert resolve_backbone(NAME, "random", SIZE).path is None
    monkeypatch.setenv("VPBENCH_WEIGHTS", str(tmp_path / "nowhere"))
    with pytest.raises(WeightsError, match=r"VPBENCH_WEIGHTS=.*nowhere"):
        resolve_backbone(NAME, image_size=SIZE)


# --- random and embedded weights


def test_random_weights() -> None:
    spec = resolve_backbone(NAME, "random", SIZE)
    assert (spec.weights, spec.path, spec.sha256) == ("random", None, None)
    before = torch.random.get_rng_state()
    first = load_backbone(spec).state_dict()
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(99)
    second = load_backbone(spec).state_dict()
    assert all(torch.equal(first[name], tensor) for name, tensor in second.items())
    assert first["vit.blocks.0.attn.qkv.weight"].std() > 0


def test_nothing_is_drawn_where_a_file_fills_all_tensors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would take longer than reading the file."""
    save_file(state(), tmp_path / "a.safetensors")
    build, states = weights._architecture, []

    def watched(*arguments: Any) -> Any:
        states.append(torch.get_rng_state())
        model = build(*arguments)
        states.append(torch.get_rng_state())
        return model

    monkeypatch.setattr(weights, "_architecture", watched)
    for chosen, draws in ((str(tmp_path / "a.safetensors"), False), ("random", True)):
        load_backbone(resolve_backbone(NAME, weights=chosen, image_size=SIZE))
        assert torch.equal(*states) != draws
        states.clear()


def test_finite_values_whose_sum_is_not(tmp_path: Path) -> None:
    large = torch.full((4,), 3e38)
    assert not large.sum().isfinite()
    assert unfit_values({"a": large}) == ""
    for broken in (float("nan"), float("inf"), float("-inf")):
        assert (
            unfit_values({"a": torch.tensor([0.0, broken, -broken])})
            == "a has NaN or infinite values, as after a training that diverged"
        )


def test_never_random_by_accident() -> None:
    """An architecture for which timm has no weights."""
    with pytest.raises(WeightsError, match="--weights FILE, or --weights random on purpose"):
        resolve_backbone("vit_small_patch16_36x1_224")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("vit_base_patch16_225", "Did you mean 'vit_base_patch16_224'"),
        ("vit-nana", "Did you mean 'vit-nano'"),
        ("test_vit.r161_in1k", "Did you mean 'test_vit.r160_in1k'"),
        ("", "Known:"),
    ],
)
def test_unknown_name(name: str, words: str) -> None:
    with pytest.raises(UsageError) as caught:
        resolve_backbone(name, "random")
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", some(["resnet18", "vit_small_patch16_18x2_224", "vit_small_r26_s32_224"], 1))
def test_other_families_are_named(name: str) -> None:
    with pytest.raises(VpbenchError) as caught:
        resolve_backbone(name, "random")
    assert caught.value.exit_code == 6


def test_vit_nano() -> None:
    card = backbone_card("vit-nano")
    path = packaged_file("backbones", card.file)
    assert file_sha256(path) == card.sha256
    assert path.stat().st_size < 8e6
    spec = resolve_backbone("vit-nano")
    assert (spec.weights, spec.sha256, spec.path) == ("embedded", card.sha256, str(path))
    adapter = load_backbone(spec)
    assert sum(tensor.numel() for tensor in adapter.parameters()) == card.parameters
    assert (adapter.shape.image_size, adapter.shape.patch_size) == (spec.image_size, spec.patch_size)
    stored = load_file(path)
    assert stored.keys() == adapter.vit.state_dict().keys()
    assert torch.equal(adapter.vit.norm.weight, stored["norm.weight"].float())
    found = adapter(pictures(spec.image_size))
    assert found.isfinite().all() and found.std() > 0.1


def test_create_method() -> None:
    import vpbench

    model = vpbench.create_method("vpt", "vit_tiny_patch16_224", 7, weights="random", image_size=64, prompt_length=3)
    assert model(pictures(64)).shape == (2, 7)
    own = {"own.prompts", "head.weight", "head.bias"}
    assert {name for name, tensor in model.named_parameters() if tensor.requires_grad} == own
    assert {name for name, _ in model.trainable()} == own
