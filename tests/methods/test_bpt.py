"""BPT: golden outputs of the released modules, counts, whitening, merging."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from golden_fill import Rows, fill_head, filled, filled_vit, golden_cases, golden_model, images, load_golden, run_case
from vpbench.backbones.vit import ViTAdapter
from vpbench.core.errors import UsageError
from vpbench.measure.size import parameter_counts
from vpbench.methods.bpt import BPT, chosen_columns, whitening
from vpbench.models.prompted import PromptedModel
from vpbench.models.registry import resolve_method

FILE = "newer/bpt"


def model_of(**settings: Any) -> tuple[PromptedModel, dict[str, Any]]:
    config = load_golden(FILE)["config"]
    return golden_model(config, BPT, {"prompt_length": config["prompt_length"], "rank": config["channels"], **settings}), config


def tensors(model: PromptedModel) -> dict[str, Tensor | Rows]:
    """By the golden file's names."""
    codes = {f"bpt.{row}.code": Rows(model.own.codes, row) for row in range(len(model.own.codes))}
    return {**codes, **{f"bpt.{name}.basis": basis for name, basis in model.own.bases.named_parameters()}}


@pytest.mark.parametrize("case", [case for case in golden_cases(FILE) if case != "whitening"])
def test_golden(case: str) -> None:
    expected = load_golden(FILE)["cases"][case]
    model, config = model_of(deep=expected["deep"])
    if expected["pool"] == "mean_then_norm":  # MAE's, over patches and prompts
        vit = filled_vit(config, "avg")
        vit.fc_norm.load_state_dict(filled_vit(config).norm.state_dict())
        adapter = ViTAdapter(vit, pool_prompts=True)
        model = PromptedModel(adapter, BPT(model.method.config, adapter.shape, config["classes"]), config["classes"]).eval()
        fill_head(model.head, config)
    run_case(model, config, expected, tensors(model))


@pytest.mark.skipif("whitening" not in golden_cases(FILE), reason="no such case")
def test_golden_whitening() -> None:
    golden = load_golden(FILE)
    config, expected = golden["config"], golden["cases"]["whitening"]
    width = config["dim"]
    for block, wanted in enumerate(expected["basis"].values()):
        query, key = (
            torch.eye(width) + filled(f"bpt.whiten.{name}.{block}", (width, width), 0.1, 0.0, config) for name in ("q", "k")
        )
        size = (config["whiten_images"], config["whiten_patches"], width)
        tokens = filled(f"bpt.whiten.x.{block}", size, 1.0, 0.0, config).double().mean(0)
        white = whitening(query.double() @ key.double().T @ tokens.T, 0.0)
        noise = filled(f"bpt.whiten.noise.{block}", (width, width), 0.5, 0.5, config)
        for matrix, prefix in ((white, "full_"), (chosen_columns(white, noise, config["channels"]), "")):
            assert float(matrix.norm()) == pytest.approx(wanted[f"{prefix}l2"], rel=1e-4)
            first = torch.tensor(wanted[f"{prefix}first"], dtype=torch.double)
            torch.testing.assert_close(matrix.flatten()[: len(first)], first, rtol=1e-4, atol=1e-4 * float(first.abs().max()))


@pytest.mark.parametrize(
    ("label", "settings", "expected"),
    [("bpt", {}, 65_100), ("bpt", {"rank": 25}, 21_700), ("bpt:deep", {}, 490_800), ("bpt:deep-released", {}, 183_600)],
)
def test_counts_on_vit_b16(label: str, settings: dict[str, Any], expected: int, vit_b16: ViTAdapter) -> None:
    with torch.device("meta"):
        config = BPT.Config.model_validate(resolve_method(label, settings).config)
        counts = parameter_counts(PromptedModel(vit_b16, BPT(config, vit_b16.shape, 100), 100))
    assert counts["params_method"] == counts["params_active"] == expected


class Noise:
    """A session over random training images."""

    def __init__(self, model: PromptedModel, size: int) -> None:
        self.model = model
        self.images = torch.randn(6, 3, size, size, generator=torch.Generator().manual_seed(0))

    def training_batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        return zip(self.images.split(4), torch.zeros(6, dtype=torch.long).split(4))

    def logits(self, images: Tensor) -> Tensor:
        return self.model.eval()(images)


@pytest.mark.parametrize("basis", ["white", "white-rows"])
def test_whitened_bases(basis: str) -> None:
    """From the frozen model on images of the training split, whatever the prompts are; from the seed."""
    model, config = model_of(basis=basis, deep=True, whitening_images=4)
    bases = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        model.method.prepare(Noise(model, config["img"]))  # type: ignore[arg-type]
        bases.append(torch.stack([each.detach().clone() for each in model.own.bases.parameters()]))  # type: ignore[union-attr]
        torch.nn.init.normal_(model.own.codes)
    assert torch.equal(bases[0], bases[1]) and not torch.equal(bases[0], bases[2]) and bases[0].isfinite().all()
    assert torch.linalg.matrix_rank(bases[0].double()).tolist() == [config["channels"]] * config["depth"]


def test_whitening_whitens() -> None:
    a = torch.randn(6, 40, dtype=torch.double, generator=torch.Generator().manual_seed(0))
    white = whitening(a, 1e-12) @ a
    torch.testing.assert_close(white @ white.T / 6, torch.eye(6, dtype=torch.double))


@pytest.mark.parametrize("deep", [True, False])
def test_merged(deep: bool) -> None:
    model, config = model_of(deep=deep)
    torch.nn.init.normal_(model.own.codes)
    expected = model(images(config))
    model.merge()
    torch.testing.assert_close(model(images(config)), expected, rtol=1e-5, atol=1e-5)


def test_more_columns_than_there_are() -> None:
    with pytest.raises(UsageError, match=r"bpt\.rank=9999: there are \d+ columns"):
        model_of(basis="white", rank=9999)
