"""Checkpoints as training programs leave them: what lies beside the tensors, what stands before their names, and bad values."""

from __future__ import annotations

import argparse
import math
import os
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from sweeps import some
from torch import Tensor, nn

from vpbench.backbones.classifier import read_heads
from vpbench.backbones.weights import fill
from vpbench.core.errors import UsageError, WeightsError
from vpbench.core.tensor_files import load_pickled
from vpbench.interface.pinned_file import pinned_tensors

State = dict[str, Tensor]
BUILD: dict[str, Any] = {"img_size": 32, "num_classes": 0}


def model(seed: int = 0, **build: Any) -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return timm.create_model("test_vit", **{**BUILD, **build}).eval()


@cache
def encoder() -> State:
    return {name: tensor.detach().clone() for name, tensor in model().state_dict().items()}


def prefixed(prefix: str, state: State) -> State:
    return {prefix + name: tensor for name, tensor in state.items()}


def filled(path: Path, content: Any) -> bool:
    """Whether a file of this content gives exactly the encoder's values."""
    torch.save(content, path)
    target = model(1)
    fill(target, path)
    return all(torch.equal(target.state_dict()[name], tensor) for name, tensor in encoder().items())


def refusal(path: Path, content: Any, target: nn.Module | None = None) -> str:
    torch.save(content, path)
    target = target or model(1)
    before = {name: tensor.clone() for name, tensor in target.state_dict().items()}
    with pytest.raises(WeightsError) as caught:
        fill(target, path)
    assert all(torch.equal(target.state_dict()[name], tensor) for name, tensor in before.items())  # nothing is half filled
    message = str(caught.value)
    assert "\n" not in message and str(path) in message
    return message


# --- what lies beside the tensors


def test_options_and_numbers_of_numpy_are_read(tmp_path: Path) -> None:
    """As DINO's and MAE's programs leave them: the options of the command, and what NumPy computed."""
    beside = {
        "args": argparse.Namespace(lr=1e-3, arch="vit_tiny", inner=argparse.Namespace(x=[1, 2])),
        "best_acc1": np.float64(76.5), "epoch": np.int64(-3), "done": np.bool_(True), "loss": np.float32(0.5),
    }  # fmt: skip
    assert filled(tmp_path / "a.pth", {"model": encoder(), **beside})
    read = load_pickled(tmp_path / "a.pth")
    assert read["args"].inner.x == [1, 2]
    assert (read["best_acc1"], read["epoch"], read["done"], read["loss"]) == (76.5, -3, True, 0.5)


def test_names_of_numpy_1_and_2_are_read(tmp_path: Path) -> None:
    """Before NumPy 2 the module was called numpy.core, and since then numpy._core; each is read by both."""
    names = (b"numpy._core.multiarray", b"numpy.core.multiarray")
    torch.save({"model": encoder(), "loss": np.float64(0.25)}, tmp_path / "a.pth", _use_new_zipfile_serialization=False)
    content = (tmp_path / "a.pth").read_bytes()
    (own,) = [name for name in names if name in content]
    (other,) = set(names) - {own}
    (tmp_path / "other.pth").write_bytes(content.replace(own, other))
    assert load_pickled(tmp_path / "other.pth")["loss"] == 0.25


class Payload:
    """Makes a folder when it is unpickled."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


@pytest.mark.parametrize("inside", [False, True], ids=["beside", "in the options"])
def test_other_objects_are_named_and_never_made(inside: bool, tmp_path: Path) -> None:
    payload, allowed = Payload(os.mkdir, str(tmp_path / "executed")), set(torch.serialization.get_safe_globals())
    beside = argparse.Namespace(x=payload) if inside else payload
    assert "(posix.mkdir) and is not loaded for safety" in refusal(tmp_path / "a.pth", {"model": encoder(), "args": beside})
    assert "(numpy.random._pickle." in refusal(tmp_path / "b.pth", {"model": encoder(), "rng": np.random.default_rng(0)})
    assert not (tmp_path / "executed").exists()
    assert set(torch.serialization.get_safe_globals()) == allowed  # what is allowed here is for this reading alone


def test_arrays_of_objects_are_never_made(tmp_path: Path) -> None:
    """NumPy's function for numbers also makes objects, when its type says so."""
    scalar = np.float64(0).__reduce__()[0]
    for kind in ("O", "V8", "S5"):
        refusal(tmp_path / "a.pth", {"model": encoder(), "x": Payload(scalar, np.dtype(kind), b"12345678")})  # type: ignore[arg-type]


# --- what stands before the names


PREFIXES = [
    "module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module.", "model.", "model._orig_mod.", "net.", "teacher.",
    "model.backbone.", "model.module.vit.",
]  # fmt: skip


@pytest.mark.parametrize("prefix", some(PREFIXES, 3))
def test_prefixes(prefix: str, tmp_path: Path) -> None:
    content = prefixed(prefix, encoder() | {"head.weight": torch.zeros(5, 64), "head.bias": torch.zeros(5)})
    if "backbone" in prefix:  # there a head is not the encoder's
        content = prefixed(prefix, encoder()) | {"model.head.weight": torch.zeros(5, 64)}
    assert filled(tmp_path / "a.ckpt", {"state_dict": content, "epoch": 3, "hyper_parameters": {"lr": 0.1}})
    message = refusal(tmp_path / "b.ckpt", {"state_dict": content | {"criterion.weight": torch.zeros(2)}})
    assert "1 surplus (criterion.weight)" in message


@pytest.mark.parametrize("wrapper", some(["state_dict", "model", "model_state_dict", "net", "teacher", "module"], 3))
def test_wrappers(wrapper: str, tmp_path: Path) -> None:
    assert filled(tmp_path / "a.pth", {"epoch": 1, wrapper: encoder(), "optimizer_state_dict": {"state": {}}})


def test_student_and_teacher_in_one_model(tmp_path: Path) -> None:
    student = prefixed("student.backbone.", {name: tensor + 1 for name, tensor in encoder().items()})
    head = {"teacher.dino_head.mlp.0.weight": torch.zeros(2), "student.ibot_head.mlp.0.weight": torch.zeros(2)}
    assert filled(tmp_path / "a.pth", {"model": student | prefixed("teacher.backbone.", encoder()) | head})


def test_unknown_wrappers_and_prefixes_are_named(tmp_path: Path) -> None:
    message = refusal(tmp_path / "a.pth", {"epoch": 3, "ema_weights": encoder(), "lr": 0.5})
    assert "holds no state dict" in message and "it has epoch (int), ema_weights (dict), lr (float)" in message
    assert "state_dict, model, model_state_dict, teacher, net, module" in message
    message = refusal(tmp_path / "b.pth", prefixed("tower.", encoder()))
    assert "surplus (tower.blocks.0." in message


def transformers_state(state: State, prefix: str = "vit.") -> State:
    """The same tensors as transformers' ViTForImageClassification has them."""
    names = {
        "cls_token": "embeddings.cls_token", "pos_embed": "embeddings.position_embeddings",
        "patch_embed.proj.weight": "embeddings.patch_embeddings.projection.weight",
        "patch_embed.proj.bias": "embeddings.patch_embeddings.projection.bias",
        "norm.weight": "layernorm.weight", "norm.bias": "layernorm.bias",
    }  # fmt: skip
    layers = {
        "norm1": "layernorm_before", "norm2": "layernorm_after", "attn.proj": "attention.output.dense",
        "mlp.fc1": "intermediate.dense", "mlp.fc2": "output.dense",
    }  # fmt: skip
    found = {}
    for name, tensor in state.items():
        if not name.startswith("blocks."):
            found[names[name]] = tensor
            continue
        _, block, rest = name.split(".", 2)
        layer, part = rest.rsplit(".", 1)
        if layer == "attn.qkv":
            for word, piece in zip(("query", "key", "value"), tensor.chunk(3)):
                found[f"encoder.layer.{block}.attention.attention.{word}.{part}"] = piece.clone()
        else:
            found[f"encoder.layer.{block}.{layers[layer]}.{part}"] = tensor
    return prefixed(prefix, found)


@pytest.mark.parametrize("prefix", some(["vit.", "deit.", "dinov2.", "", "module.vit."], 2))
def test_names_of_transformers(prefix: str, tmp_path: Path) -> None:
    content = transformers_state(encoder(), prefix)
    outer = prefix.removesuffix("vit.")
    beside = {f"{outer}classifier.weight": torch.rand(5, 64), f"{outer}classifier.bias": torch.rand(5)}
    assert filled(tmp_path / "a.bin", content | beside | {f"{prefix}pooler.dense.weight": torch.zeros(64, 64)})
    torch.save(content | beside, tmp_path / "b.bin")
    heads = read_heads(tmp_path / "b.bin")
    assert torch.equal(heads["weight"], beside[f"{outer}classifier.weight"])
    gone = f"{prefix}encoder.layer.2.attention.attention.key.bias"
    message = refusal(tmp_path / "c.bin", {name: tensor for name, tensor in content.items() if name != gone})
    assert "1 missing (blocks.2.attn.qkv.bias); 2 surplus (blocks.2.attn.query.bias, blocks.2.attn.value.bias)" in message


# --- values that are no weights


def changed(**tensors: Tensor) -> State:
    return encoder() | {name.replace("__", "."): tensor for name, tensor in tensors.items()}


@pytest.mark.parametrize("value", some([math.nan, math.inf, -math.inf], 2))
@pytest.mark.parametrize("half", some([False, True], 1))
def test_values_that_are_not_finite(value: float, half: bool, tmp_path: Path) -> None:
    tensor = encoder()["norm.bias"].clone()
    tensor[3] = value
    content = changed(norm__bias=tensor.half() if half else tensor)
    message = refusal(tmp_path / "a.pth", content)
    assert "norm.bias has NaN or infinite values" in message and "--weights" in message
    save_file(content, tmp_path / "a.safetensors")
    with pytest.raises(WeightsError, match=r"a\.safetensors: norm\.bias has NaN or infinite"):
        fill(model(1), tmp_path / "a.safetensors")


@pytest.mark.parametrize("dtype", some([torch.int8, torch.int64, torch.bool, torch.complex64], 2))
def test_values_that_are_not_real_numbers(dtype: torch.dtype, tmp_path: Path) -> None:
    content = {name: tensor.to(dtype) if "fc1" in name else tensor for name, tensor in encoder().items()}
    message = refusal(tmp_path / "a.pth", content)
    word = str(dtype).removeprefix("torch.")
    assert f"blocks.0.mlp.fc1.weight and 11 more have {word}, not floating point" in message


def test_what_is_left_out_may_hold_anything(tmp_path: Path) -> None:
    assert filled(
        tmp_path / "a.pth", changed(head__weight=torch.full((5, 64), math.nan), head__bias=torch.zeros(5, dtype=torch.int))
    )


@pytest.mark.parametrize(("array", "words"), [(np.full(64, np.nan, np.float32), "NaN"), (np.zeros(64, np.int32), "int32")])
def test_bad_values_in_google_s_files(array: np.ndarray[Any, Any], words: str, tmp_path: Path) -> None:
    from weight_writers import google_arrays

    np.savez(tmp_path / "a.npz", **google_arrays(model()) | {"Transformer/encoder_norm/bias": array})
    with pytest.raises(WeightsError, match=rf"a\.npz: .*{words}"):
        fill(model(1), tmp_path / "a.npz")


def test_bad_values_in_files_that_options_name(tmp_path: Path) -> None:
    torch.save({"up": torch.tensor([1.0, math.nan]), "count": torch.tensor(3)}, tmp_path / "a.pth")
    with pytest.raises(UsageError, match="up has NaN or infinite values"):
        pinned_tensors(str(tmp_path / "a.pth"))


# --- position embeddings of images that are not square


@pytest.mark.parametrize(("tokens", "patches"), [(8 * 4 + 1, 32), (7, 6)])
def test_grid_that_is_not_square(tokens: int, patches: int, tmp_path: Path) -> None:
    message = refusal(tmp_path / "a.pth", changed(pos_embed=torch.zeros(1, tokens, 64)))
    assert f"not square: pos_embed has {tokens} tokens, and {patches} patches are no square grid" in message


@pytest.mark.parametrize(
    ("tokens", "build", "words"),
    [
        (25, {}, "25 tokens, 5 x 5 patches and no class token, and this backbone has a class token"),
        (27, {}, "27 tokens, 5 x 5 patches and 2 tokens beside them"),
        (
            26,
            {"class_token": False, "global_pool": "avg"},
            "26 tokens, 5 x 5 patches and a class token, and this",
        ),
    ],
)
def test_square_grid_with_other_tokens_beside_it(tokens: int, build: dict[str, Any], words: str, tmp_path: Path) -> None:
    target = model(1, **build)
    torch.save(changed(pos_embed=torch.zeros(1, tokens, 64)), tmp_path / "a.pth")
    with pytest.raises(WeightsError, match=r"a\.pth does not match the architecture: pos_embed has ") as caught:
        fill(target, tmp_path / "a.pth")
    assert words in str(caught.value)


def test_square_grid_is_resampled(tmp_path: Path) -> None:
    torch.save(changed(pos_embed=torch.ones(1, 50, 64)), tmp_path / "a.pth")
    target = model(1)
    fill(target, tmp_path / "a.pth")
    assert target.pos_embed.shape == (1, 5, 64)


# --- several state dicts in one file


def test_note_on_other_state_dicts(tmp_path: Path) -> None:
    content = {"model": changed(), "model_ema": changed(), "dino_loss": {"center": torch.zeros(64)}, "optimizer": {"state": {}}}
    torch.save(content, tmp_path / "a.pth")
    note = fill(model(1), tmp_path / "a.pth")
    assert note.startswith(
        "a.pth holds the state dicts 'model' and 'model_ema': 'model' is loaded. To load another, save it as a "
    )
    assert note.endswith("torch.save(torch.load('a.pth', weights_only=True)['model_ema'], 'model_ema.pth').")
    torch.save({"model": changed(), "epoch": 3}, tmp_path / "a.pth")
    assert fill(model(1), tmp_path / "a.pth") == ""
