"""Every way in which a weight file can be wrong. All on timm's ``test_vit``, 64 wide and 6 deep."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from sweeps import some
from weight_writers import NAME, SIZE, WRITERS, google_arrays, refusal, source, state

from vpbench.backbones.named import resolve_backbone
from vpbench.backbones.weights import fill, load_backbone
from vpbench.core.errors import WeightsError

pytestmark = pytest.mark.usefixtures("no_weights_folder")


def test_changed_since_planned(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_file(state(), path)
    spec = resolve_backbone(NAME, str(path), SIZE)
    save_file({name: tensor + 1 for name, tensor in state().items()}, path)
    with pytest.raises(WeightsError, match=r"a\.safetensors is not the file .* plan the run again"):
        load_backbone(spec)
    path.unlink()
    with pytest.raises(WeightsError, match=r"a\.safetensors cannot be read: No such file"):
        load_backbone(spec)


def test_missing_and_surplus_keys(tmp_path: Path) -> None:
    content = state()
    for name in ("cls_token", "norm.bias"):
        content["more." + name] = content.pop(name)
    content["blocks.2.norm1.weight"] = torch.zeros(7)
    save_file(content, tmp_path / "keys.safetensors")
    message = refusal(tmp_path / "keys.safetensors")
    assert "2 missing (cls_token, norm.bias)" in message
    assert "2 surplus (more.cls_token, more.norm.bias)" in message
    assert "1 of another shape (blocks.2.norm1.weight (7,) instead of (64,))" in message
    assert "Choose the backbone" in message


@pytest.mark.parametrize("name", some(["test_vit2", "vit_tiny_patch16_224", "vit-nano"], 1))
def test_another_architecture(name: str, tmp_path: Path) -> None:
    save_file(state(), tmp_path / "a.safetensors")
    assert "does not match" in refusal(tmp_path / "a.safetensors", name)


def test_position_embedding_of_no_grid(tmp_path: Path) -> None:
    for count, shape in ((0, (1, 7, 64)), (1, (64,))):
        content = state() | {"pos_embed": torch.zeros(shape)}
        save_file(content, tmp_path / f"{count}.safetensors")
        assert "Choose the backbone" in refusal(tmp_path / f"{count}.safetensors")


class Payload:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.folder),)


@pytest.mark.parametrize("new_format", [True, False])
def test_object_is_never_executed(new_format: bool, tmp_path: Path) -> None:
    path = tmp_path / "object.pth"
    torch.save(state() | {"extra": Payload(tmp_path / "executed")}, path, _use_new_zipfile_serialization=new_format)
    assert "not loaded for safety" in refusal(path)
    assert not (tmp_path / "executed").exists()


def test_npz_object_is_never_executed(tmp_path: Path) -> None:
    path = tmp_path / "object.npz"
    np.savez(path, **google_arrays(source()) | {"cls": np.array([Payload(tmp_path / "executed")], dtype=object)})
    refusal(path)
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("suffix", some([".pth", ".safetensors", ".npz"], 2))
def test_damaged(suffix: str, tmp_path: Path) -> None:
    whole = tmp_path / f"whole{suffix}"
    if suffix == ".npz":
        np.savez(whole, **google_arrays(source()))
    else:
        WRITERS["plain.safetensors" if suffix == ".safetensors" else "plain.pth"](state(), whole)
    content = whole.read_bytes()
    random = np.random.default_rng(0)
    damaged = [b"", b"<!doctype html>\n<p>404", content[:100], content[: len(content) // 2], content[:-10]]
    damaged += [random.bytes(length) for length in (10, 50, 999)]
    if suffix == ".pth":
        damaged += [random.bytes(50) for _ in range(40)]  # torch's reader fails in many ways
    for number, part in enumerate(damaged):
        path = tmp_path / f"{number}{suffix}"
        path.write_bytes(part)
        message = refusal(path, quick=True)
        assert "fetch it again, or name another with --weights" in message, message


KINDS: dict[str, tuple[str, bytes, str]] = {
    "empty": ("a.pth", b"", "is empty: fetch it again"),
    "empty safetensors": ("a.safetensors", b"", "is empty: fetch it again"),
    "text": ("a.pth", b"404\n", "is a text file, no weight file: fetch it again"),
    "web page": ("a.npz", b"\n<!DOCTYPE html><p>404", "is a web page, no weight file: fetch it again"),
    "Git LFS": ("a.safetensors", b"version https://git-lfs.github.com/spec/v1\noid sha256:1", "'git lfs pull'"),
    "Keras": ("a.h5", b"\x89HDF\r\n\x1a\n", "is an HDF5 file, as Keras writes: convert it to safetensors"),
    "gzip": ("a.pth", b"\x1f\x8b\x08\x00", "is compressed with gzip: unpack it"),
    "noise": ("a.pth", bytes(range(200, 256)), "is no weight file, or a damaged one: fetch it again"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_what_a_file_is_instead(kind: str, tmp_path: Path) -> None:
    name, content, words = KINDS[kind]
    (tmp_path / name).write_bytes(content)
    assert f"{name} {words}" in refusal(tmp_path / name, quick=True) or words in refusal(tmp_path / name, quick=True)


@pytest.mark.parametrize(
    ("writer", "name", "suffix"),
    [
        ("plain.safetensors", "a.bin", ".safetensors"), ("plain.pth", "a.safetensors", ".pth"), ("old.pth", "a.npz", ".pth"),
        ("google", "a.pth", ".npz"),
    ],
)  # fmt: skip
def test_another_format_than_the_name_says(writer: str, name: str, suffix: str, tmp_path: Path) -> None:
    if writer == "google":
        np.savez(tmp_path / "a.npz", **google_arrays(source()))
        (tmp_path / "a.npz").rename(tmp_path / name)
    else:
        WRITERS[writer](state(), tmp_path / name)
    assert f"give it a name that ends in {suffix}, or name another" in refusal(tmp_path / name, quick=True)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"pos_embed": torch.zeros(5, 64)}, "does not match the architecture: pos_embed has 2 dimensions instead of 3"),
        ({"pos_embed": torch.zeros(64)}, "pos_embed has 1 dimension instead of 3"),
        ({"pos_embed": torch.zeros(2, 10, 64)}, "1 of another shape (pos_embed (2, 10, 64) instead of (1, 5, 64))"),
        ({"patch_embed.proj.weight": torch.zeros(7)}, "patch_embed.proj.weight has 1 dimension instead of 4"),
        ({"cls_token": torch.zeros(())}, "1 of another shape (cls_token () instead of (1, 1, 64))"),
        (
            {"blocks.0.attn.qkv.weight": torch.zeros(64)},
            "(blocks.0.attn.qkv.weight (64,) instead of (192, 64))",
        ),
        ({"visual.class_embedding": torch.zeros(2)}, "does not match the architecture"),
        ({"blocks.1.norm1.bias": "zeros"}, "holds no state dict (a mapping of names to tensors), as it is or under"),
        ({"norm.bias": torch.zeros(64).to_sparse()}, "norm.bias: sparse, or saved without values"),
        ({"norm.bias": torch.zeros(64, device="meta")}, "norm.bias: sparse, or saved without values"),
        ({"norm.bias": torch.zeros(64, dtype=torch.complex64)}, "norm.bias has complex64, not floating point"),
    ],
)
def test_words_for_every_shape(changes: dict[str, Any], words: str, tmp_path: Path) -> None:
    """No message is torch's own."""
    torch.save(state() | changes, tmp_path / "a.pth")
    message = refusal(tmp_path / "a.pth", quick=True)
    assert words in message
    assert not any(word in message for word in ("invalid for input", "size of tensor", "Expected", "Error", "index out of range"))


@pytest.mark.parametrize(
    "content", some([[torch.zeros(2)], {}, {"state_dict": {"epoch": 3}}, {0: torch.zeros(2)}, torch.zeros(2)], 2)
)
def test_no_state_dict(content: Any, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "a.pth")
    assert "no state dict" in refusal(tmp_path / "a.pth")


def test_npz_of_another_kind(tmp_path: Path) -> None:
    arrays, path = google_arrays(source()), tmp_path / "a.npz"

    def refused(**changes: np.ndarray[Any, Any] | None) -> str:
        np.savez(path, **{name: array for name, array in (arrays | changes).items() if array is not None})
        return refusal(path, quick=True)

    assert "missing (embedding/kernel)" in refused(**{"embedding/kernel": None})
    assert "Transformer/encoder_norm/scale" in refused(**{"Transformer/encoder_norm/scale": None})
    last = "Transformer/encoderblock_5/MlpBlock_3/Dense_0/bias"
    assert last in refused(**{last: None})
    assert "7 blocks" in refused(**{"Transformer/encoderblock_6/LayerNorm_0/scale": np.zeros(64)})
    assert "width 32 instead of 6 of width 64" in refused(**{"embedding/kernel": np.zeros((16, 16, 3, 32), np.float32)})
    assert "1 of another shape (cls (1, 1, 63) instead of (1, 1, 64))" in refused(cls=np.zeros((1, 1, 63), np.float32))
    positions = "Transformer/posembed_input/pos_embedding"
    assert "5 x 5 patches and no class token" in refused(**{positions: np.zeros((1, 25, 64), np.float32)})
    assert "timm cannot read its arrays" in refused(**{positions: np.zeros(64, np.float32)})
    assert "cls: object, not floating point" in refused(cls=np.full((1, 1, 64), "a", dtype=object))


@pytest.mark.parametrize(
    ("build", "word"),
    [({"init_values": 0.1}, "ls1.gamma"), ({"qk_norm": True}, "q_norm"), ({"global_pool": "avg"}, "(fc_norm|Identity)")],
)
def test_npz_leaves_nothing_unfilled(build: dict[str, Any], word: str, tmp_path: Path) -> None:
    """Google's files know no layer scale, no norms of queries and keys, and no norm behind pooling."""
    np.savez(tmp_path / "a.npz", **google_arrays(source()))
    with pytest.raises(WeightsError, match=rf"a\.npz does not match the architecture: .*{word}"):
        fill(timm.create_model(NAME, img_size=SIZE, num_classes=0, **build), tmp_path / "a.npz")
