"""LN-tuning: golden outputs of the released code, and counts."""

from __future__ import annotations

import pytest
import torch

from golden_fill import golden_model, load_golden, run_case
from vpbench.backbones.vit import ViTAdapter
from vpbench.measure.size import parameter_counts
from vpbench.methods.ln_tuning import LNTuning
from vpbench.models.prompted import PromptedModel


def test_golden() -> None:
    golden = load_golden("newer/difffit")
    model = golden_model(golden["config"], LNTuning, {})
    assert {*golden["cases"]["ln"]["params"]} == {*model.scope.trained, "head.weight", "head.bias"}
    run_case(model, golden["config"], golden["cases"]["ln"], model.scope.trained)


@pytest.mark.parametrize(("final_norm", "expected"), [(True, 38_400), (False, 36_864)])
def test_counts_on_vit_b16(final_norm: bool, expected: int, vit_b16: ViTAdapter) -> None:
    with torch.device("meta"):
        model = PromptedModel(vit_b16, LNTuning(LNTuning.Config(final_norm=final_norm), vit_b16.shape, 100), 100)
    assert parameter_counts(model)["params_method"] == expected
    model.scope.undo()
