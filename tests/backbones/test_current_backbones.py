"""DINOv2, DINOv3, SigLIP 2, EVA-02, CLIP, MAE, DeiT III and AugReg by their cards: timm's model bit by bit, and the files of
their authors, which these tests write. Two blocks of little width stand for the whole."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from test_checkpoint_layouts import official_dinov3
from torch import Tensor
from weight_writers import google_arrays

from vpbench.backbones import named, weights
from vpbench.backbones.base import Backbone
from vpbench.backbones.family import adapter_for
from vpbench.backbones.named import BackboneCard, backbone_card, resolve_backbone
from vpbench.backbones.weights import load_backbone
from vpbench.core.errors import UnsupportedError, WeightsError
from vpbench.models.build import add_method
from vpbench.models.registry import resolve_method

State = dict[str, Tensor]
SMALL: dict[str, Any] = {"depth": 2, "embed_dim": 96, "num_heads": 3}


def prefixed(prefix: str, state: State) -> State:
    return {prefix + name: tensor for name, tensor in state.items()}


def dinov2(vit: Any) -> State:
    """facebookresearch/dinov2: a mask token, and a position of the class token, which timm adds to that beside registers."""
    state = dict(vit.state_dict())
    if "reg_token" in state:
        state["register_tokens"] = state.pop("reg_token")
        of_class = torch.full((1, 1, SMALL["embed_dim"]), 0.25)
        state["cls_token"], state["pos_embed"] = state["cls_token"] - of_class, torch.cat([of_class, state["pos_embed"]], 1)
    return state | {"mask_token": torch.zeros(1, SMALL["embed_dim"])}


def dinov3(eva: Any) -> State:
    return official_dinov3(eva)


def siglip2(vit: Any) -> State:
    """open_clip's: timm's tower beside that of the texts."""
    beside = {"text.token_embedding.weight": torch.zeros(2, 3), "logit_scale": torch.ones(1), "logit_bias": torch.ones(1)}
    return prefixed("visual.trunk.", dict(vit.state_dict())) | beside


def eva02(eva: Any) -> dict[str, State]:
    """baaivision/EVA: the model of pretraining, with the norm before the pooling, and the rotation as buffers."""
    names = {
        "q_proj.bias": "q_bias", "v_proj.bias": "v_bias", "mlp.norm": "mlp.ffn_ln", "mlp.fc1_g": "mlp.w1", "mlp.fc1_x": "mlp.w2",
        "mlp.fc2": "mlp.w3", "fc_norm": "norm",
    }  # fmt: skip
    found = {}
    for name, tensor in eva.state_dict().items():
        for ours, theirs in names.items():
            name = name.replace(ours, theirs)
        found[name] = tensor
    beside = ("mask_token", "lm_head.weight", "lm_head.bias", "rope.freqs_cos", "blocks.0.attn.rope.freqs_sin")
    return {"module": found | {name: torch.zeros(2) for name in beside}}


def clip(vit: Any) -> State:
    """openai/CLIP, as a state dict."""
    own, found = vit.state_dict(), {"text.weight": torch.zeros(3)}
    found["visual.class_embedding"], found["visual.positional_embedding"] = own["cls_token"][0, 0], own["pos_embed"][0]
    found["visual.conv1.weight"] = own["patch_embed.proj.weight"]
    layers = {
        "norm_pre.": "ln_pre.", "norm.": "ln_post.", "norm1.": "ln_1.", "norm2.": "ln_2.", "attn.qkv.": "attn.in_proj_",
        "attn.proj.": "attn.out_proj.", "mlp.fc1.": "mlp.c_fc.", "mlp.fc2.": "mlp.c_proj.",
    }  # fmt: skip
    for name, tensor in own.items():
        parts = name.split(".")
        block = f"transformer.resblocks.{parts[1]}." if parts[0] == "blocks" else ""
        own_layer = ".".join(parts[2 if block else 0 : -1]) + "."
        if own_layer in layers:
            found[f"visual.{block}{layers[own_layer]}{parts[-1]}"] = tensor
    return found


def mae(vit: Any) -> dict[str, State]:
    return {"model": dict(vit.state_dict())}


def deit3(vit: Any) -> dict[str, State]:
    """facebookresearch/deit: layer scale as parameters of the block, and a classifier."""
    state = {name.replace("ls1.gamma", "gamma_1").replace("ls2.gamma", "gamma_2"): t for name, t in vit.state_dict().items()}
    return {"model": state | {"head.weight": torch.zeros(1000, 96), "head.bias": torch.zeros(1000)}}


def augreg(vit: Any) -> dict[str, np.ndarray[Any, Any]]:
    return google_arrays(vit)


def sweep(name: str) -> Any:
    return pytest.param(name, marks=pytest.mark.sweep)


PUBLISHED: dict[str, Callable[[Any], Any]] = {
    **{f"vit-{size}14-dinov2{registers}": dinov2 for size in "sbl" for registers in ("", "-reg")},
    **{f"vit-{size}16-dinov3": dinov3 for size in "sbl"},
    **{f"vit-{size}16-siglip2": siglip2 for size in "bl"},
    **{f"vit-{size}14-eva02": eva02 for size in "bl"},
    "clip-vit-l14": clip, "vit-l16-mae": mae, "vit-h14-mae": mae, "vit-b16-deit3": deit3, "vit-b16-deit3-in21k": deit3,
    "vit-s16-augreg-in21k": augreg,
}  # fmt: skip
ALWAYS = ("vit-s14-dinov2-reg", "vit-s16-dinov3", "vit-b14-eva02", "clip-vit-l14")
every = pytest.mark.parametrize("name", [*ALWAYS, *(sweep(name) for name in PUBLISHED if name not in ALWAYS)])


def small_card(name: str) -> BackboneCard:
    return backbone_card(name).model_copy(update={"arguments": SMALL})


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cards whose architectures are small, and no folder of weights."""
    monkeypatch.delenv("VPBENCH_WEIGHTS", raising=False)
    for module in (named, weights):
        monkeypatch.setattr(module, "backbone_card", small_card)


def timm_model(name: str, **arguments: Any) -> Any:
    """timm's own build of a card's architecture, as its hub saves it: no value that hides a mistake."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        made = timm.create_model(backbone_card(name).timm or "", num_classes=0, **SMALL, **arguments).eval()
        with torch.no_grad():
            for tensor in made.parameters():
                tensor.add_(torch.randn_like(tensor), alpha=0.1)
    return made


@every
def test_equals_timm_and_carries_prompts(name: str) -> None:
    card = backbone_card(name)
    model = timm_model(name, global_pool=card.global_pool, img_size=56 if "14" in name else 64)
    adapter: Backbone = adapter_for(model)
    x = torch.randn(2, 3, adapter.shape.image_size, adapter.shape.image_size)
    expected = model(x)
    assert torch.equal(adapter(x), expected) and expected.std() > 0.01
    prompted = add_method(resolve_method("vpt", {"prompt_length": 3}), adapter, 5)
    loss, _ = prompted.train().training_loss(x, torch.tensor([1, 4]))
    loss.backward()  # type: ignore[no-untyped-call]
    assert all(tensor.grad is not None and tensor.grad.any() for _, tensor in prompted.trainable())
    assert not any(parameter.grad is not None for parameter in adapter.parameters())
    prompted.scope.undo()
    assert torch.equal(adapter(x), expected)


def write(content: Any, path: Path) -> Path:
    if path.suffix == ".npz":
        np.savez(path, **content)
    elif path.suffix == ".safetensors":
        save_file({key: tensor.contiguous() for key, tensor in content.items()}, path)
    else:
        torch.save(content, path)
    return path


def check(path: Path, name: str, model: Any) -> None:
    """That the file gives the card's backbone every value of timm's model, and leaves fresh what the card says."""
    card, own = backbone_card(name), model.state_dict()
    loaded = load_backbone(resolve_backbone(name, str(path))).timm_model.state_dict()
    assert set(loaded) - set(own) == set(card.fresh) and set(own) - set(loaded) == set(card.unused)
    for key in loaded.keys() & own.keys():
        torch.testing.assert_close(loaded[key], own[key], rtol=0, atol=1e-6)  # timm adds a position to DINOv2's class token


@every
@pytest.mark.usefixtures("small")
def test_files_of_timm_and_of_the_authors(name: str, tmp_path: Path) -> None:
    model, content = timm_model(name), PUBLISHED[name](timm_model(name))
    stem = (*backbone_card(name).names, name)[0]
    check(write(dict(model.state_dict()), tmp_path / "timm.safetensors"), name, model)
    official = write(content, tmp_path / f"{stem}{'.npz' if name.endswith('augreg-in21k') else '.pth'}")
    check(official, name, model)
    spec = resolve_backbone(name, str(tmp_path), 112)  # found in the folder by its name
    assert spec.path == str(official)
    adapter = load_backbone(spec)
    assert adapter.shape.patches == (112 // spec.patch_size) ** 2
    assert torch.isfinite(adapter(torch.randn(1, 3, 112, 112))).all()


@every
@pytest.mark.usefixtures("small")
def test_damaged_files_are_refused(name: str, tmp_path: Path) -> None:
    content = PUBLISHED[name](timm_model(name))
    inner = next(iter(content.values())) if len(content) == 1 else content
    gone = next(
        key for key in inner if "1" in key and key.endswith(("fc2.weight", "c_proj.weight", "w3.weight", "Dense_1/kernel"))
    )
    del inner[gone]
    path = write(content, tmp_path / ("a.npz" if name.endswith("augreg-in21k") else "a.pth"))
    with pytest.raises(WeightsError, match="1 missing") as caught:
        load_backbone(resolve_backbone(name, str(path)))
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_beit_is_refused_with_the_reason() -> None:
    with pytest.raises(UnsupportedError, match=r"Beit cannot carry prompts \(its attention adds a learned bias") as caught:
        resolve_backbone("beitv2_base_patch16_224", "random")
    assert "\n" not in str(caught.value)
