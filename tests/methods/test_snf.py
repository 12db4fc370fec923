"""SNF: golden outputs of the released flow, counts, the start."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from golden_fill import Rows, golden_cases, golden_model, load_golden, run_case
from vpbench.backbones.vit import ViTAdapter
from vpbench.measure.size import parameter_counts
from vpbench.methods.snf import SNF
from vpbench.models.prompted import PromptedModel
from vpbench.models.registry import resolve_method

FILE = "baselines/snf"


@pytest.mark.parametrize("case", golden_cases(FILE))
def test_golden(case: str) -> None:
    """The file has a tensor per flow; here one tensor holds those of all flows of a shortcut."""
    golden = load_golden(FILE)
    config = golden["config"]
    flows = 0 if case == "identity_K0" else config["flows"]
    model = golden_model(config, SNF, {"flows": flows})
    named: dict[str, Any] = {}
    for block in range(config["depth"]):
        for short, site in (("attn", "attention_branch"), ("mlp", "mlp_branch")):
            shortcut: Any = model.own.shortcuts[f"{block}_{site}"]  # type: ignore[index]
            name = f"snf.{block}.{short}"
            named |= {f"{name}.mu": shortcut.mu, f"{name}.rho": shortcut.rho}
            for k in range(flows):
                named |= {f"{name}.flow.{k}.{part}": Rows(getattr(shortcut, part), slice(k, k + 1)) for part in "wv"}
                named[f"{name}.flow.{k}.b"] = Rows(shortcut.b, slice(k, k + 1))
    assert named.keys() == golden["cases"][case]["fills"].keys()
    run_case(model, config, golden["cases"][case], named)


@pytest.mark.parametrize(("label", "expected"), [("snf", 258_192), ("snf:released", 627_072), ("snf:affine", 36_864)])
def test_counts_on_vit_b16(label: str, expected: int, vit_b16: ViTAdapter) -> None:
    with torch.device("meta"):
        config = SNF.Config.model_validate(resolve_method(label).config)
        counts = parameter_counts(PromptedModel(vit_b16, SNF(config, vit_b16.shape, 100), 100))
    assert counts["params_method"] == counts["params_active"] == expected


def test_the_affine_map_starts_as_the_frozen_model_and_the_flows_do_not() -> None:
    config = load_golden(FILE)["config"]
    x = torch.randn(2, 3, config["img"], config["img"])
    for flows, largest in ((0, 0.0), (16, 0.05)):
        model = golden_model(config, SNF, {"flows": flows})
        with model.scope.disabled():
            plain = model(x)
        change = (model(x) - plain).abs().max()
        assert change <= largest
        assert (change > 0) == (flows > 0)
