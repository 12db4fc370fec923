"""Files of trained models: real names, a description, and one call that loads them or says what does not fit."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from sweeps import some
from torch import Tensor

from vpbench.backbones.named import resolve_backbone
from vpbench.core.errors import StoreError, VpbenchError, WeightsError
from vpbench.core.tensor_digest import DIGEST
from vpbench.core.version import __version__
from vpbench.models.build import build_model
from vpbench.models.prompted import PromptedModel
from vpbench.models.registry import resolve_method
from vpbench.models.saved import Description, decode_model, encode_model, load_saved, packed_tensors, restore
from vpbench.spec.recipe import Recipe
from vpbench.spec.run_spec import BackboneSpec, DataSpec, Preprocess, RunSpec

CLASSES = ("Käfer", "dog", "newt")
SIZE = 40


def pictures() -> Tensor:
    return torch.randn(4, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))


def run_of(label: str, backbone: BackboneSpec | None = None) -> RunSpec:
    return RunSpec(
        method=resolve_method(label), backbone=backbone or resolve_backbone("vit-nano", image_size=SIZE),
        data=DataSpec(suite="custom", dataset="pets", digest="0", path="/somewhere"), preprocess=Preprocess(resize="crop"),
        recipe=Recipe(optimizer="adamw", lr=0.01, epochs=1, batch_size=4), seed=42,
    )  # fmt: skip


def fresh_model(spec: RunSpec) -> PromptedModel:
    """With the kernels of a run, as those that are loaded."""
    model = build_model(spec.method, spec.backbone, len(CLASSES))
    model.backbone.use_fastest_kernels("cpu", spec.precision)
    return model.eval()


def trained(spec: RunSpec) -> PromptedModel:
    """A model whose values are not those of a fresh one."""
    with torch.random.fork_rng():
        torch.manual_seed(spec.seed)
        model = fresh_model(spec)
        with torch.no_grad():
            for _, tensor in model.trainable():
                tensor.add_(torch.randn_like(tensor), alpha=0.05)
    return model


def written(folder: Path, label: str, backbone: BackboneSpec | None = None) -> tuple[Path, PromptedModel]:
    spec = run_of(label, backbone)
    model, path = trained(spec), folder / "weights.safetensors"
    path.write_bytes(encode_model(model, Description.of(spec, model, CLASSES)))
    return path, model


@pytest.mark.parametrize("label", some(["linear", "vpt:shallow", "partial", "bias", "insvp", "bi_adapter"], 2))
def test_one_call_gives_the_model_back(label: str, tmp_path: Path) -> None:
    path, model = written(tmp_path, label)
    before = torch.random.get_rng_state()
    loaded = load_saved(path)
    assert torch.equal(torch.random.get_rng_state(), before)
    # What bi_adapter keeps is quantised, in predictions as in the file.
    torch.testing.assert_close(loaded.model(pictures()), model(pictures()), rtol=1e-4, atol=1e-5)
    assert not loaded.model.training
    about = loaded.description
    assert (about.method.label, about.class_names, about.data.dataset) == (label, CLASSES, "pets")
    assert (about.backbone.path, about.data.path) == (None, None)  # of the machine that trained it


def test_names_are_timm_s(tmp_path: Path) -> None:
    """What partial trains is a state dict of timm: loaded by hand, the model is the same."""
    path, model = written(tmp_path, "partial")
    tensors = load_file(path)
    vit: Any = timm.create_model("vit_tiny_patch16_224", img_size=SIZE, patch_size=8, depth=6, num_classes=len(CLASSES))
    assert tensors.keys() == {name for name in vit.state_dict() if name.startswith(("blocks.5.", "norm.", "head."))}
    assert "blocks.5.attn.qkv.weight" in tensors
    frozen = resolve_backbone("vit-nano", image_size=SIZE)
    plain = build_model(resolve_method("linear"), frozen, len(CLASSES)).backbone.timm_model
    vit.load_state_dict({**vit.state_dict(), **plain.state_dict(), **tensors})
    normed = vit.eval()(pictures())
    torch.testing.assert_close(normed, model(pictures()), rtol=1e-4, atol=1e-5)


def test_names_of_methods(tmp_path: Path) -> None:
    path, _ = written(tmp_path, "vpt")
    assert load_file(path).keys() == {"own.prompts", "head.weight", "head.bias"}


def test_metadata(tmp_path: Path) -> None:
    """Readable by anybody's safetensors, and the same bytes every time."""
    path, model = written(tmp_path, "vpt:shallow")
    with safe_open(path, "pt") as content:
        metadata = content.metadata()
    read = {name: json.loads(text) for name, text in metadata.items() if name != "format"}
    assert metadata["format"] == "pt"
    assert read["method"]["name"] == "vpt" and read["method"]["preset"] == "shallow"
    assert read["method"]["config"]["deep"] is False and read["method"]["config"]["prompt_length"] > 0
    assert read["backbone"]["name"] == "vit-nano" and read["backbone"]["image_size"] == SIZE
    assert read["backbone"]["sha256"] == model.backbone.weights_sha256 and len(read["backbone"]["sha256"]) == 64
    assert read["class_names"] == list(CLASSES)
    assert read["preprocess"]["resize"] == "crop"
    assert read["versions"] == {"vpbench": __version__, "torch": str(torch.__version__), "timm": timm.__version__}
    assert read["run_id"] == run_of("vpt:shallow").run_id
    assert len(read[DIGEST]) == 64


# --- what does not fit


def changed(path: Path, change: Callable[[dict[str, Tensor], dict[str, Any]], None]) -> Path:
    """The file with other tensors or another description."""
    with safe_open(path, "pt") as content:
        metadata = {name: json.loads(text) for name, text in content.metadata().items() if name not in ("format", DIGEST)}
    tensors = load_file(path)
    change(tensors, metadata)
    new = path.with_name("changed.safetensors")
    save_file(tensors, new, {name: json.dumps(value) for name, value in metadata.items()})
    return new


CHANGES: dict[str, tuple[Callable[[dict[str, Tensor], dict[str, Any]], Any], str]] = {
    "tensor missing": (lambda t, m: t.pop("own.prompts"), "'own.prompts' has shape none in the file"),
    "tensor surplus": (lambda t, m: t.update(more=torch.zeros(2)), r"'backbone.more' has shape \(2,\) in the file and none"),
    "other shape": (lambda t, m: t.update({"head.bias": torch.zeros(5)}), r"'head.bias' has shape \(5,\)"),
    "other classes": (lambda t, m: m["class_names"].append("eft"), "'head.bias' has shape"),
    "not finite": (lambda t, m: t["head.bias"].fill_(torch.nan), "head.bias has NaN or infinite values"),
    "other options": (lambda t, m: m["method"]["config"].update(prompt_length=3), "'own.prompts' has shape"),
    "bad option": (lambda t, m: m["method"]["config"].update(prompt_length=-3), "options of vpt do not fit"),
    "unknown option": (lambda t, m: m["method"]["config"].update(length=3), "options of vpt do not fit"),
    "unknown method": (lambda t, m: m["method"].update(name="vptt"), "Did you mean 'vpt'"),
    "other version": (lambda t, m: m["method"].update(version=99), "version 99, and here is version 1"),
    "other weights": (lambda t, m: m["backbone"].update(sha256="0" * 64), "is not the file that the run was planned with"),
    "later vpbench": (lambda t, m: m.update(task="segmentation"), "of a later vpbench"),
    "no preprocessing": (lambda t, m: m.pop("preprocess"), "description is damaged"),
    "no description": (lambda t, m: m.clear(), "does not say which model it is of"),
}


@pytest.mark.parametrize("case", some(CHANGES, 5))
def test_what_does_not_fit_is_refused(case: str, tmp_path: Path) -> None:
    change, words = CHANGES[case]
    path = changed(written(tmp_path, "vpt")[0], change)
    with pytest.raises(VpbenchError, match=words) as caught:
        load_saved(path)
    assert "\n" not in str(caught.value)


def test_damaged_and_missing_files(tmp_path: Path) -> None:
    path, _ = written(tmp_path, "linear")
    content = path.read_bytes()
    for number, part in enumerate((b"", b"PK", content[:50], content[:-4], content[:8] + b"[" + content[9:])):
        (tmp_path / f"{number}.safetensors").write_bytes(part)
        with pytest.raises(
            StoreError, match=rf"{number}\.safetensors cannot be read.* Copy it again, or run it again with --save"
        ):
            load_saved(tmp_path / f"{number}.safetensors")
    with pytest.raises(StoreError, match=r"none\.safetensors cannot be read: No such file"):
        load_saved(tmp_path / "none.safetensors")


def test_one_byte_that_is_another_is_found(tmp_path: Path) -> None:
    """Of the tensors, and of what describes them; a file without a checksum is as those of earlier versions."""
    path, model = written(tmp_path, "vpt")
    content = path.read_bytes()
    for place in (-1, -700, content.index(b"newt"), content.index(b"prompt_length") + 2):
        damaged = bytearray(content)
        damaged[place] ^= 1
        path.write_bytes(damaged)
        with pytest.raises(StoreError, match=r"cannot be read: its checksum .* does not fit.* Copy it again"):
            load_saved(path)
    path.write_bytes(content)
    older = load_saved(changed(path, lambda tensors, metadata: None))
    assert torch.equal(older.model(pictures()), model(pictures()))


def test_weights_of_the_backbone_may_lie_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are known by their hash, whatever the file is called; others are refused."""
    monkeypatch.delenv("VPBENCH_WEIGHTS", raising=False)
    vit = timm.create_model("test_vit", img_size=32, num_classes=0)
    save_file(dict(vit.state_dict()), tmp_path / "own.safetensors")
    backbone = resolve_backbone("test_vit", str(tmp_path / "own.safetensors"), 32)
    path, model = written(tmp_path, "vpt", backbone)
    moved = (tmp_path / "own.safetensors").rename(tmp_path / "moved.safetensors")
    with pytest.raises(WeightsError, match=r"used weights 'file' of test_vit with sha256 .* let VPBENCH_WEIGHTS name"):
        load_saved(path)
    x = torch.randn(2, 3, 32, 32)
    assert torch.equal(load_saved(path, moved).model(x), model(x))
    monkeypatch.setenv("VPBENCH_WEIGHTS", str(moved))
    assert torch.equal(load_saved(path).model(x), model(x))
    save_file({name: tensor + 1 for name, tensor in vit.state_dict().items()}, moved)
    with pytest.raises(WeightsError, match="used weights 'file'"):
        load_saved(path, moved)


# --- files of earlier versions, which have no description and other names


@pytest.mark.parametrize("numbered", [False, True])
def test_earlier_names_are_read(numbered: bool, tmp_path: Path) -> None:
    spec = run_of("partial")
    model, path = trained(spec), tmp_path / "old.safetensors"
    tensors = packed_tensors(model)
    assert "backbone.blocks.5.attn.qkv.weight" in tensors
    if numbered:
        numbers = {f"backbone.{name}": f"backbone.{index}" for index, name in enumerate(model.scope.trained)}
        tensors = {numbers.get(name, name): tensor for name, tensor in tensors.items()}
        assert "backbone.0" in tensors
    save_file(tensors, path)
    saved = decode_model(path.read_bytes(), path)
    assert saved.description is None
    fresh = fresh_model(spec)
    assert not torch.equal(fresh(pictures()), model(pictures()))
    restore(fresh, saved, path)
    assert torch.equal(fresh(pictures()), model(pictures()))
