"""CVPT: golden outputs of the released code at all places, counts, merging."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from golden_fill import Rows, golden_cases, golden_model, images, load_golden, run_case
from vpbench.backbones.vit import ViTAdapter
from vpbench.measure.size import parameter_counts
from vpbench.methods.cvpt import CVPT
from vpbench.models.prompted import PromptedModel

FILE = "newer/cvpt"


def model_of(**settings: Any) -> tuple[PromptedModel, dict[str, Any]]:
    config = load_golden(FILE)["config"]
    return golden_model(config, CVPT, {"prompt_length": config["prompt_length"], **settings}), config


@pytest.mark.parametrize("case", golden_cases(FILE))
def test_golden(case: str) -> None:
    expected = load_golden(FILE)["cases"][case]
    model, config = model_of(insert=expected["insert"])
    run_case(model, config, expected, {f"prompt.{row}": Rows(model.own.prompts, row) for row in range(config["depth"])})


@pytest.mark.parametrize(("length", "expected"), [(10, 92_160), (200, 1_843_200)])
def test_counts_on_vit_b16(length: int, expected: int, vit_b16: ViTAdapter) -> None:
    with torch.device("meta"):
        counts = parameter_counts(PromptedModel(vit_b16, CVPT(CVPT.Config(prompt_length=length), vit_b16.shape, 100), 100))
    assert counts["params_method"] == counts["params_active"] == expected


@pytest.mark.parametrize("insert", [1, 2, 3, 4, 5])
def test_merged(insert: int) -> None:
    model, config = model_of(insert=insert)
    expected = model(images(config))
    model.merge()
    torch.testing.assert_close(model(images(config)), expected, rtol=1e-5, atol=1e-5)


def test_dropout_differs_between_images_and_stops_in_evaluation() -> None:
    model, config = model_of(dropout=0.5)
    twice = images(config)[:1].repeat(2, 1, 1, 1)
    torch.testing.assert_close(*model(twice))
    assert (torch.sub(*model.train()(twice))).abs().max() > 1e-3
