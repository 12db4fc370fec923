"""Binary adapters: golden outputs of the released code, counts, levels, and the bytes of a file of weights."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save
from sweeps import some
from torch import Tensor

import vpbench
from golden_fill import golden_cases, golden_model, load_golden, run_case
from vpbench.analysis.load import load_stored
from vpbench.backbones.vit import ViTAdapter
from vpbench.data.batches import Normaliser, evaluation_batches
from vpbench.measure.size import bytes_saved, parameter_counts
from vpbench.methods.bi_adapter import BiAdapter, quantisation_levels
from vpbench.models.prompted import PromptedModel
from vpbench.models.registry import resolve_method
from vpbench.models.saved import packed_tensors
from vpbench.store.store import Store

FORMS = ("adaptformer", "lora")


def tensors(model: PromptedModel, form: str) -> dict[str, Tensor]:
    """By the golden files' names: ``bi_adaptformer.0.down.weight``, ``bi_lora.0.q.down.weight`` ..."""
    return {
        f"bi_{form}." + name.removeprefix("weights.").replace("_", ".") + ".weight": tensor
        for name, tensor in model.own.named_parameters()
    }


def model_of(form: str, bits: int, **settings: Any) -> PromptedModel:
    config = load_golden(f"baselines/bi_{form}")["config"]
    given = {"form": form, "bits": bits, "bottleneck": config["bottleneck"], "scale": config["scale"]}
    return golden_model(config, BiAdapter, {**given, **settings})


def some_images(form: str = "lora") -> Tensor:
    size = load_golden(f"baselines/bi_{form}")["config"]["img"]
    return torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("form", "case"), [(form, case) for form in FORMS for case in golden_cases(f"baselines/bi_{form}")])
def test_golden(form: str, case: str) -> None:
    golden = load_golden(f"baselines/bi_{form}")
    model = model_of(form, golden["cases"][case]["bits"])
    run_case(model, golden["config"], golden["cases"][case], tensors(model, form))


def test_levels_are_the_released_ones() -> None:
    for form in FORMS:
        for bits, levels in load_golden(f"baselines/bi_{form}")["official_checks"]["code_levels"].items():
            assert quantisation_levels(int(bits))[0] == pytest.approx(levels, abs=1e-6)
    levels, thresholds = quantisation_levels(2)
    assert thresholds == pytest.approx([(a + b) / 2 for a, b in pairwise(levels)])


def test_the_gradient_is_straight_through_but_for_mean_and_deviation() -> None:
    """dW = G + (sum G (q - w_n)) w_n / (N - 1); plain straight-through would be G."""
    method = model_of("lora", 1).method
    weight = torch.randn(6, 20, requires_grad=True)
    gradient = torch.randn(6, 20)
    (method._weight(weight) * gradient).sum().backward()  # type: ignore[attr-defined]
    with torch.no_grad():
        normed = (weight - weight.mean()) / (weight.std() + 1e-5)
        level = torch.where(normed > 0, 0.6744898, -0.6744898)
        expected = gradient + (gradient * (level - normed)).sum() * normed / (weight.numel() - 1)
    torch.testing.assert_close(weight.grad, expected, rtol=1e-3, atol=1e-4)
    assert (weight.grad - gradient).abs().max() > 1e-2


@pytest.mark.parametrize(("label", "expected"), [("bi_adapter", 589_824), ("bi_adapter:lora", 1_179_648)])
def test_counts_on_vit_b16(label: str, expected: int, vit_b16: ViTAdapter) -> None:
    config = BiAdapter.Config.model_validate(resolve_method(label).config)
    with torch.device("meta"):
        counts = parameter_counts(PromptedModel(vit_b16, BiAdapter(config, vit_b16.shape, 100), 100))
    assert counts["params_method"] == counts["params_active"] == expected
    method = BiAdapter(config, vit_b16.shape, 100)
    method.build()
    packed = method.pack({f"own.{name}": tensor for name, tensor in method.own.state_dict().items()})
    assert {name: (tensor.numel(), tensor.dtype) for name, tensor in packed.items()} == {
        "own.codes": (expected // 8, torch.uint8),
        "own.statistics": (2 * expected // (32 * 768), torch.float32),  # mean and deviation of every matrix
    }


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("bits", "rank"), some([(1, 4), (1, 3), (2, 4), (4, 5), (8, 3), (32, 4)], 3))
def test_packed_weights_make_the_same_predictions(form: str, bits: int, rank: int) -> None:
    model, x = model_of(form, bits, bottleneck=rank), some_images()
    for tensor in model.own.parameters():
        torch.nn.init.normal_(tensor, mean=0.05, std=0.1)
    content = packed_tensors(model)
    count = sum(tensor.numel() for tensor in model.own.parameters())
    held = [each.nbytes for name, each in content.items() if name == "own.codes" or "weights" in name]
    assert sum(held) == count * bits // 8
    other = model_of(form, bits, bottleneck=rank)
    other.restore(other.method.unpack(content))
    assert torch.equal(other(x), model(x))
    again = model_of(form, bits, bottleneck=rank)  # saved once more, by whoever has only the file
    again.restore(again.method.unpack(packed_tensors(other)))
    assert torch.equal(again(x), model(x))


def test_one_bit_takes_a_thirtieth_of_a_files_bytes() -> None:
    small, large = (bytes_saved(model_of("adaptformer", bits, bottleneck=32)) for bits in (1, 32))
    head = 4 * (48 + 1) * 5
    assert small - head < (large - head) / 15  # with names and statistics, which do not grow with the backbone


@pytest.mark.parametrize("bits", [1, 2, 32])
@pytest.mark.parametrize("form", FORMS)
def test_merging(form: str, bits: int) -> None:
    model, x = model_of(form, bits), some_images()
    for tensor in model.own.parameters():
        torch.nn.init.normal_(tensor, std=0.3)
    expected = model(x)
    model.merge()
    torch.testing.assert_close(model(x), expected, rtol=1e-4, atol=1e-4)
    if form == "lora":
        features = model.backbone.vit(x)  # type: ignore[union-attr, operator]
        torch.testing.assert_close(model.head(features), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.sweep
def test_saved_by_a_run_and_loaded_again(tmp_path: Path) -> None:
    """The row's ``bytes_saved`` is the size of the tensors' file, and the model that is loaded from it scores as the row says."""
    values = np.random.default_rng(0).integers(0, 200, (3, 2, 6, 40, 40), np.uint8)
    for (part, kind, index), image in zip(np.ndindex(3, 2, 6), values.reshape(-1, 40, 40), strict=True):
        folder = tmp_path / "images" / ("train", "val", "test")[part] / str(kind)
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image + 50 * np.uint8(kind)).save(folder / f"{index}.png")
    frame = vpbench.run(
        methods=["bi_adapter"], data=tmp_path / "images", image_size=40, epochs=1, results=tmp_path / "runs", save=("weights",),
    )  # fmt: skip
    (row,) = frame.to_dict("records")
    (file,) = tmp_path.rglob("*.safetensors")
    assert row["status"] == "ok" and row["bytes_saved"] == len(save(load_file(file)))
    assert load_file(file)["own.codes"].dtype == torch.uint8
    loaded = load_stored(row, Store(tmp_path / "runs"))
    assert bool(loaded.model.own.quantised)
    spec = loaded.spec.backbone
    normalise = Normaliser(spec.mean, spec.std, torch.device("cpu"))
    correct = sum(
        int((loaded.model(images).argmax(-1) == labels).sum())
        for images, labels in evaluation_batches(loaded.data.test, 64, normalise)
    )
    assert correct == row["correct"]
