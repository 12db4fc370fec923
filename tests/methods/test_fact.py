"""FacT: golden outputs of the released code, counts, merging, the two orders of indices."""

from __future__ import annotations

import tomllib
from typing import Any

import pytest
import torch
from torch import Tensor

from golden_fill import golden_cases, golden_model, images, load_golden, run_case
from vpbench.backbones.vit import ViTAdapter
from vpbench.core.cards import packaged_file
from vpbench.core.errors import UnsupportedError
from vpbench.measure.size import parameter_counts
from vpbench.methods.fact import FacT
from vpbench.models.prompted import PromptedModel


def tensors(model: PromptedModel) -> dict[str, Tensor]:
    """By the golden files' names."""
    return {
        "fact." + name.removeprefix("factors.0.").removeprefix("cores."): tensor for name, tensor in model.own.named_parameters()
    }


@pytest.mark.parametrize("form", ["tk", "tt"])
@pytest.mark.parametrize("case", golden_cases("baselines/fact_tk"))
def test_golden(form: str, case: str) -> None:
    golden = load_golden(f"baselines/fact_{form}")
    config = golden["config"]
    model = golden_model(config, FacT, {"form": form, "rank": config["rank"], "scale": config["scale"]})
    run_case(model, config, golden["cases"][case], tensors(model))


@pytest.mark.parametrize(
    ("form", "rank", "expected"),
    [("tk", 16, 30_976), ("tk", 32, 86_528), ("tt", 16, 61_440), ("tt", 8, 21_504), ("tt", 4, 8_448)],
)
def test_counts_on_vit_b16(form: str, rank: int, expected: int, vit_b16: ViTAdapter) -> None:
    with torch.device("meta"):
        config = FacT.Config.model_validate({"form": form, "rank": rank})
        counts = parameter_counts(PromptedModel(vit_b16, FacT(config, vit_b16.shape, 100), 100))
    assert counts["params_method"] == counts["params_active"] == expected


@pytest.mark.parametrize(("form", "preset", "expected"), [("tk", "default", 68_985), ("tt", "tt", 39_734)])
def test_mean_count_of_the_released_ranks(form: str, preset: str, expected: int) -> None:
    """Over the 19 tasks of VTAB-1k, as iVPT's table counts."""
    with packaged_file("recipes", "fact.toml").open("rb") as stream:
        entries = tomllib.load(stream)["recipe"]
    ranks = {
        dataset: entry["options"]["rank"]
        for entry in entries
        if preset in entry.get("preset", ()) and "options" in entry
        for dataset in ([entry["dataset"]] if isinstance(entry["dataset"], str) else entry["dataset"])
    }
    assert len(ranks) == 19
    counts = [2 * 768 * r + (144 * r + r**3 if form == "tk" else 144 * r**2) for r in ranks.values()]
    assert round(sum(counts) / 19) == expected


def random_model(**settings: Any) -> tuple[PromptedModel, Tensor]:
    config = load_golden("baselines/fact_tk")["config"]
    model = golden_model(config, FacT, {"rank": 4, "scale": 0.7, **settings})
    torch.manual_seed(0)
    with torch.no_grad():
        for each in model.own.parameters():
            each.normal_(std=0.4)
    return model, images(config)


@pytest.mark.parametrize("settings", [{}, {"form": "tt"}, {"index_order": "paper"}])
def test_merged_it_is_a_plain_backbone(settings: dict[str, Any]) -> None:
    model, x = random_model(**settings)
    expected, plain = model(x), model.head(model.plain_features(x))
    assert (expected - plain).abs().max() > 0.1  # there is something to merge
    model.merge()
    features = model.backbone.vit(x)  # type: ignore[union-attr, operator]
    torch.testing.assert_close(model.head(features), expected, rtol=1e-4, atol=1e-4)


def test_the_paper_s_order_takes_one_matrix_per_slice() -> None:
    """The update of fc1's slice i is s V (C x_3 P_j) U, and that of q, with the output index first."""
    model, _ = random_model(index_order="paper")
    own: Any = model.own
    core = torch.einsum("abk,kj->jab", own.C, own.P)
    wanted = [0.7 * own.factors[0].V @ each @ own.factors[0].U for each in core]
    before = [model.scope.module(site, 1).weight.clone() for site in ("qkv", "fc1", "fc2")]  # type: ignore[arg-type, operator]
    model.merge()
    after = [model.scope.module(site, 1).weight for site in ("qkv", "fc1", "fc2")]  # type: ignore[arg-type]
    change = [new - old for new, old in zip(after, before)]  # type: ignore[operator]
    for found, expected in (
        (change[0], torch.cat(wanted[12:15])),
        (change[1], torch.cat(wanted[16:20])),
        (change[2], torch.cat(wanted[20:24], dim=1)),
    ):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_the_two_orders_differ() -> None:
    (released, x), (paper, _) = random_model(), random_model(index_order="paper")
    assert (released(x) - paper(x)).abs().max() > 0.05


def test_dropout_acts_in_training_only() -> None:
    model, x = random_model(dropout=0.5)
    assert torch.equal(model(x), model(x))
    model.train()
    assert not torch.equal(model(x), model(x))


def test_another_mlp_is_unsupported() -> None:
    from timm.models import VisionTransformer

    vit = VisionTransformer(img_size=16, patch_size=8, embed_dim=24, depth=1, num_heads=2, num_classes=0, mlp_ratio=3)
    adapter = ViTAdapter(vit)
    with pytest.raises(UnsupportedError, match="4 x 24"):
        PromptedModel(adapter, FacT(FacT.Config(), adapter.shape, 3), 3)
