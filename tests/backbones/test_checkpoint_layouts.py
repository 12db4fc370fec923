"""Checkpoints as their authors publish them: every tensor is used or left out by name, and nothing else may be in a file."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from vpbench.backbones.weights import fill
from vpbench.core.errors import WeightsError

State = dict[str, Tensor]
BUILD: dict[str, Any] = {"img_size": 32, "num_classes": 0}
SWIN: dict[str, Any] = {
    "img_size": 32, "embed_dim": 24, "depths": (1, 2, 1), "num_heads": (2, 3, 4), "window_size": 4, "num_classes": 0,
}  # fmt: skip
EVA: dict[str, Any] = {"img_size": 64, "depth": 2, "embed_dim": 96, "num_heads": 3, "num_classes": 0}


def model(name: str = "test_vit", seed: int = 0, **build: Any) -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        made = timm.create_model(name, **(build or BUILD)).eval()
        with torch.no_grad():
            for tensor in made.parameters():
                tensor.add_(torch.randn_like(tensor), alpha=0.1)
    return made


@cache
def encoder() -> State:
    return {name: tensor.detach().clone() for name, tensor in model().state_dict().items()}


def prefixed(prefix: str, state: State) -> State:
    return {prefix + name: tensor for name, tensor in state.items()}


def zeros(*names: str) -> State:
    return {name: torch.zeros(2, 3) for name in names}


def loaded(path: Path, target: nn.Module, content: Any, **rules: Any) -> State:
    torch.save(content, path)
    fill(target, path, **rules)
    return dict(target.state_dict())


def equal(found: State, expected: State) -> bool:
    return found.keys() == expected.keys() and all(torch.equal(found[name], tensor) for name, tensor in expected.items())


def refusal(path: Path, target: nn.Module, content: Any, **rules: Any) -> str:
    before = {name: tensor.clone() for name, tensor in target.state_dict().items()}
    with pytest.raises(WeightsError) as caught:
        loaded(path, target, content, **rules)
    assert equal(dict(target.state_dict()), before)  # nothing is half filled
    message = str(caught.value)
    assert "\n" not in message and str(path) in message
    return message


def moco_linear(state: State) -> Any:
    """main_lincls.py: a distributed model with its linear classifier, and training's own state."""
    content = prefixed("module.", state | {"head.weight": torch.zeros(1000, 64), "head.bias": torch.zeros(1000)})
    optimizer = {"state": {0: {"momentum_buffer": torch.zeros(2)}}, "param_groups": [{"lr": 0.1}]}
    return {"epoch": 90, "arch": "vit_base", "state_dict": content, "best_acc1": torch.tensor(76.7), "optimizer": optimizer}


def moco_pretraining(state: State) -> Any:
    """main_moco.py: encoder and momentum encoder, each with a projector for a head, and a predictor."""
    projector = zeros("head.0.weight", "head.1.running_mean", "head.4.num_batches_tracked")
    content = prefixed("module.base_encoder.", state | projector)
    content |= prefixed("module.momentum_encoder.", {name: tensor + 1 for name, tensor in state.items()} | projector)
    content |= zeros("module.predictor.0.weight", "module.predictor.1.weight")
    return {"epoch": 300, "arch": "vit_base", "state_dict": content, "optimizer": {}, "scaler": {}}


def mae_encoder(state: State) -> Any:
    return {"model": dict(state)}


def mae_with_decoder(state: State) -> Any:
    decoder = zeros(
        "mask_token", "decoder_pos_embed", "decoder_embed.weight", "decoder_blocks.0.norm1.weight", "decoder_pred.bias"
    )
    return {"model": state | decoder, "epoch": 1600}


def dino_teacher(state: State) -> Any:
    """main_dino.py: student and teacher, of which the teacher is meant."""
    head = zeros("module.head.mlp.0.weight", "module.head.last_layer.weight_g")
    student = prefixed("module.backbone.", {name: tensor + 1 for name, tensor in state.items()}) | head
    return {"student": student, "teacher": prefixed("module.backbone.", state) | head, "epoch": 400}


def dino_bare_teacher(state: State) -> Any:
    return {"teacher": prefixed("backbone.", state) | zeros("head.mlp.0.weight"), "epoch": 400}


LAYOUTS: dict[str, Callable[[State], Any]] = {
    "MoCo v3, linear probe": moco_linear,
    "MoCo v3, pretraining": moco_pretraining,
    "MAE": mae_encoder,
    "MAE with its decoder": mae_with_decoder,
    "DINO": lambda state: dict(state),
    "DINO, pretraining": dino_teacher,
    "DINO, pretraining on one device": dino_bare_teacher,
}


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_encoder_is_found(layout: Callable[[State], Any], tmp_path: Path) -> None:
    assert equal(loaded(tmp_path / "a.pth.tar", model(seed=1), layout(encoder())), encoder())


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_unknown_key_is_named(layout: Callable[[State], Any], tmp_path: Path) -> None:
    content = layout(encoder())
    inner = next((content[key] for key in ("state_dict", "model", "teacher") if key in content), content)
    inner["adapter.weight"] = torch.zeros(2)
    assert "1 surplus (adapter.weight)" in refusal(tmp_path / "a.pth.tar", model(seed=1), content)


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_missing_and_misshapen_keys_are_named(layout: Callable[[State], Any], tmp_path: Path) -> None:
    state = dict(encoder())
    del state["blocks.3.attn.qkv.bias"]
    state["norm.weight"] = torch.zeros(7)
    message = refusal(tmp_path / "a.pth.tar", model(seed=1), layout(state))
    assert "1 missing (blocks.3.attn.qkv.bias)" in message
    assert "1 of another shape (norm.weight (7,) instead of (64,))" in message


@pytest.mark.parametrize("layout", [mae_encoder, mae_with_decoder])
def test_mae_read_by_its_mean(layout: Callable[[State], Any], tmp_path: Path) -> None:
    """The norm behind the mean is in no file of MAE's: it stays at weight 1 and bias 0, and the encoder's own gives way."""
    rules = {"unused": ("norm.weight", "norm.bias"), "fresh": ("fc_norm.weight", "fc_norm.bias")}
    target = timm.create_model("test_vit", **BUILD, global_pool="avg").eval()
    found = loaded(tmp_path / "a.pth", target, layout(encoder()), **rules)
    assert torch.equal(found["fc_norm.weight"], torch.ones(64))
    assert torch.equal(found["fc_norm.bias"], torch.zeros(64))
    shared = {name: tensor for name, tensor in encoder().items() if not name.startswith("norm.")}
    assert equal({name: tensor for name, tensor in found.items() if "fc_norm" not in name}, shared)
    x = torch.randn(2, 3, 32, 32)
    plain = model(seed=0)
    tokens = plain.forward_intermediates(x, indices=1, output_fmt="NLC", intermediates_only=True)[0]
    expected = nn.functional.layer_norm(tokens.mean(1), (64,), eps=target.fc_norm.eps)
    torch.testing.assert_close(target(x), expected, rtol=1e-4, atol=1e-5)


def test_mae_without_the_card_is_refused(tmp_path: Path) -> None:
    """A norm that the file does not have is never made up unless a card says so."""
    target = timm.create_model("test_vit", **BUILD, global_pool="avg")
    message = refusal(tmp_path / "a.pth", target, mae_encoder(encoder()))
    assert "2 missing (fc_norm.bias, fc_norm.weight); 2 surplus (norm.bias, norm.weight)" in message


# --- Swin


def official_swin(swin: Any) -> State:
    """microsoft/Swin-Transformer: merging at the end of a stage, stored masks and indices, and a classifier."""
    found = {}
    for name, tensor in swin.state_dict().items():
        parts = name.split(".")
        if "downsample" in parts:
            parts[1] = str(int(parts[1]) - 1)
        found[".".join(parts)] = tensor.detach().clone()
    found |= {"head.weight": torch.zeros(21841, 96), "head.bias": torch.zeros(21841)}
    found |= zeros("layers.0.blocks.0.attn.relative_position_index", "layers.1.blocks.1.attn_mask")
    return found


def test_official_swin(tmp_path: Path) -> None:
    swin = model("swin_tiny_patch4_window7_224", **SWIN)
    content = official_swin(swin)
    assert "layers.0.downsample.reduction.weight" in content
    found = loaded(tmp_path / "a.pth", model("swin_tiny_patch4_window7_224", 1, **SWIN), {"model": content})
    assert equal(found, dict(swin.state_dict()))


def test_timm_swin_in_another_size(tmp_path: Path) -> None:
    swin = model("swin_tiny_patch4_window7_224", **SWIN)
    save_file(dict(swin.state_dict()), tmp_path / "a.safetensors")
    target = model("swin_tiny_patch4_window7_224", 1, **{**SWIN, "img_size": 64, "window_size": 8})
    fill(target, tmp_path / "a.safetensors")
    assert target.layers[0].blocks[0].attn.relative_position_bias_table.shape == (225, 2)
    assert torch.equal(target.layers[1].blocks[1].mlp.fc1.weight, swin.layers[1].blocks[1].mlp.fc1.weight)


def test_swin_with_unknown_and_missing_keys(tmp_path: Path) -> None:
    content = official_swin(model("swin_tiny_patch4_window7_224", **SWIN))
    content["layers.0.adapter.weight"] = content.pop("layers.1.blocks.0.norm1.bias")
    message = refusal(tmp_path / "a.pth", model("swin_tiny_patch4_window7_224", 1, **SWIN), {"model": content})
    assert "1 missing (layers.1.blocks.0.norm1.bias); 1 surplus (layers.0.adapter.weight)" in message


def test_npz_is_google_s(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    path.write_bytes(b"")
    with pytest.raises(WeightsError, match=r"a\.npz: \.npz files hold Google's ViTs, and this backbone is a SwinTransformer"):
        fill(model("swin_tiny_patch4_window7_224", **SWIN), path)


# --- rotary embeddings


def test_timm_eva(tmp_path: Path) -> None:
    eva = model("eva02_tiny_patch14_224", **{**EVA, "img_size": 56})
    save_file(dict(eva.state_dict()), tmp_path / "a.safetensors")
    target = model("eva02_tiny_patch14_224", 1, **{**EVA, "img_size": 56})
    fill(target, tmp_path / "a.safetensors")
    assert equal(dict(target.state_dict()), dict(eva.state_dict()))


def official_dinov3(eva: Any) -> State:
    """facebookresearch/dinov3: other names, buffers of the rotation, and a joint bias that is zero."""
    names = {"reg_token": "storage_tokens", "gamma_1": "ls1.gamma", "gamma_2": "ls2.gamma"}
    found = {}
    for name, tensor in eva.state_dict().items():
        for ours, theirs in names.items():
            name = name.replace(ours, theirs)
        found[name] = tensor.detach().clone()
    found["mask_token"], found["rope_embed.periods"] = torch.zeros(1, 96), torch.zeros(8)
    for block in range(2):
        found[f"blocks.{block}.attn.qkv.bias"], found[f"blocks.{block}.attn.qkv.bias_mask"] = torch.zeros(288), torch.zeros(288)
    return found


def test_official_dinov3(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    eva = model("vit_small_patch16_dinov3", **EVA)
    content = official_dinov3(eva)
    found = loaded(tmp_path / "a.pth", model("vit_small_patch16_dinov3", 1, **EVA), content)
    assert equal(found, dict(eva.state_dict()))
    content["blocks.1.attn.qkv.bias"] += 1  # a bias that says something is not passed over
    message = refusal(tmp_path / "a.pth", model("vit_small_patch16_dinov3", 1, **EVA), content)
    assert "1 surplus (blocks.1.attn.qkv.bias)" in message


# --- CLIP


@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*deprecated")
def test_clip_archive_is_refused(tmp_path: Path) -> None:
    """OpenAI publishes archives of code, which are not run."""

    class Tower(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x + 1

    path = tmp_path / "ViT-B-16.pt"
    torch.jit.script(Tower()).save(str(path))  # type: ignore[no-untyped-call]
    with pytest.raises(WeightsError, match=r"TorchScript archive.* clip-vit-b16") as caught:
        fill(model(), path)
    assert "\n" not in str(caught.value)


def test_open_clip_file_with_both_towers(tmp_path: Path) -> None:
    content = prefixed("visual.trunk.", encoder()) | zeros(
        "visual.head.proj.weight", "text.token_embedding.weight", "logit_scale"
    )
    assert equal(loaded(tmp_path / "a.bin", model(seed=1), content), encoder())
    content |= zeros("visual.trunk.adapter.weight", "audio.pos_embed")
    assert "2 surplus (adapter.weight, audio.pos_embed)" in refusal(tmp_path / "a.bin", model(seed=1), content)
