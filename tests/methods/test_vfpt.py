"""VFPT: golden outputs of the released code, counts, the rank of the transform, merging."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from golden_fill import Rows, golden_cases, golden_model, images, load_golden, run_case
from vpbench.backbones.vit import ViTAdapter
from vpbench.measure.size import parameter_counts
from vpbench.methods.vfpt import VFPT
from vpbench.methods.vpt import VPT
from vpbench.models.prompted import PromptedModel

FILE = "newer/vfpt"


def model_of(**settings: Any) -> tuple[PromptedModel, dict[str, Any]]:
    config = load_golden(FILE)["config"]
    return golden_model(config, VFPT, {"prompt_length": config["prompt_length"], **settings}), config


@pytest.mark.parametrize("case", golden_cases(FILE))
def test_golden(case: str) -> None:
    """Also where the Fourier prompts come last: their place changes nothing."""
    expected = load_golden(FILE)["cases"][case]
    model, config = model_of(**{name: expected[name] for name in ("deep", "fraction", "dimension")})
    prompts: dict[str, Tensor | Rows] = {f"prompt.{row}": Rows(model.own.prompts, row) for row in range(len(model.own.prompts))}
    run_case(model, config, expected, prompts)


@pytest.mark.parametrize(("settings", "expected"), [({}, 92_160), ({"prompt_length": 49}, 451_584), ({"deep": False}, 7_680)])
def test_counts_on_vit_b16(settings: dict[str, Any], expected: int, vit_b16: ViTAdapter) -> None:
    with torch.device("meta"):
        counts = parameter_counts(PromptedModel(vit_b16, VFPT(VFPT.Config(**settings), vit_b16.shape, 100), 100))
    assert counts["params_method"] == expected


def test_half_of_a_fourier_prompt_is_inert() -> None:
    model, config = model_of(fraction=1.0)
    size = (config["prompt_length"], config["dim"])
    units = torch.eye(size[0] * size[1]).unflatten(1, size)
    mapped = torch.stack([model.method.transformed(unit) for unit in units]).flatten(1)  # type: ignore[attr-defined]
    assert torch.linalg.matrix_rank(mapped) == load_golden(FILE)["official_checks"]["rank_of_real_fft2"]


def test_without_fourier_prompts_it_is_vpt() -> None:
    model, config = model_of(fraction=0.0)
    deep = golden_model(config, VPT, {"prompt_length": config["prompt_length"]})
    deep.own.load_state_dict(model.own.state_dict())
    assert torch.equal(model(images(config)), deep(images(config)))


@pytest.mark.parametrize("settings", [{}, {"deep": False}, {"fraction": 1.0, "dimension": "sequence"}])
def test_merged(settings: dict[str, Any]) -> None:
    model, config = model_of(**settings)
    expected = model(images(config))
    model.merge()
    torch.testing.assert_close(model(images(config)), expected, rtol=1e-5, atol=1e-5)
