"""Self-prompt tuning: golden outputs of the released code, which tokens become prompts, counts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from golden_fill import Rows, fill_head, filled, filled_vit, golden_cases, load_golden, run_case
from vpbench.backbones.vit import ViTAdapter
from vpbench.core.errors import UsageError
from vpbench.measure.size import parameter_counts
from vpbench.methods.self_prompt import SelfPrompt
from vpbench.models.prompted import PromptedModel
from vpbench.models.registry import resolve_method

FILE = "newer/self_prompt"


class Calibration:
    """A session over the calibration images of the golden file."""

    def __init__(self, model: PromptedModel, config: dict[str, Any], count: int | None = None) -> None:
        self.model, count = model, count or config["calibration"]
        self.images = filled("calibration", (count, 3, config["img"], config["img"]), 1.0, 0.0, config)

    def training_batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        return zip(self.images.split(3), torch.zeros(len(self.images), dtype=torch.long).split(3))

    def logits(self, images: Tensor) -> Tensor:
        return self.model.eval()(images)


def model_of(pool: str = "token", **settings: Any) -> tuple[PromptedModel, dict[str, Any]]:
    """On the golden backbone; with ``mean_then_norm``, MAE's, which norms the mean over patches and prompts."""
    config = load_golden(FILE)["config"]
    vit = filled_vit(config, "token" if pool == "token" else "avg")
    if pool != "token":
        vit.fc_norm.load_state_dict(filled_vit(config).norm.state_dict())
    adapter = ViTAdapter(vit, pool_prompts=pool != "token")
    options = SelfPrompt.Config(**{"prompt_length": config["prompt_length"], **settings})
    model = PromptedModel(adapter, SelfPrompt(options, adapter.shape, config["classes"]), config["classes"]).eval()
    fill_head(model.head, config)
    return model, config


@pytest.mark.parametrize("case", golden_cases(FILE))
def test_golden(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = load_golden(FILE)["cases"][case]
    model, config = model_of(expected["pool"], deep=expected["deep"], sample=expected["sample"])

    def noise(self: SelfPrompt, block: int, count: int) -> Tensor:
        rule = expected["fills"][f"self_prompt.noise.{block}"]
        assert rule["shape"] == [count]
        return filled(f"self_prompt.noise.{block}", (count,), rule["scale"], rule["offset"], config)

    monkeypatch.setattr(SelfPrompt, "_noise", noise)
    model.method.prepare(Calibration(model, config))  # type: ignore[arg-type]
    for block, wanted in enumerate(expected["init"].values()):
        prompt = model.own.prompts[block].detach()
        assert float(prompt.norm()) == pytest.approx(wanted["l2"], rel=1e-4)
        first = torch.tensor(wanted["first"])
        torch.testing.assert_close(prompt.flatten()[: len(first)], first, rtol=1e-4, atol=1e-4)
    rows: dict[str, Tensor | Rows] = {f"prompt.{row}": Rows(model.own.prompts, row) for row in range(len(model.own.prompts))}
    run_case(model, config, {**expected, "fills": {}}, rows)


@pytest.mark.parametrize(("label", "expected"), [("self_prompt", 184_320), ("self_prompt:shallow", 76_800)])
def test_counts_on_vit_b16(label: str, expected: int, vit_b16: ViTAdapter) -> None:
    with torch.device("meta"):
        config = SelfPrompt.Config.model_validate(resolve_method(label).config)
        counts = parameter_counts(PromptedModel(vit_b16, SelfPrompt(config, vit_b16.shape, 100), 100))
    assert counts["params_method"] == expected


def test_prompts_are_tokens_of_the_frozen_model() -> None:
    """From the seed, whatever the prompts so far are."""
    model, config = model_of(images=4)
    session = Calibration(model, config, count=7)
    with torch.no_grad():
        tokens = model.backbone.block(0, model.backbone.embed(session.images)).patch_tokens.flatten(0, 1)
    found = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        model.method.prepare(session)  # type: ignore[arg-type]
        found.append(model.own.prompts.detach().clone())
        distances = torch.cdist(found[-1][1], tokens, compute_mode="donot_use_mm_for_euclid_dist")
        assert (distances.min(1).values < 1e-4).all() and len(set(distances.argmin(1).tolist())) == config["prompt_length"]
        torch.nn.init.normal_(model.own.prompts)
    assert torch.equal(found[0], found[1]) and not torch.equal(found[0], found[2])


def test_centres_of_clusters() -> None:
    model, config = model_of(sample="kmeans", start=1, deep=False, prompt_length=3)
    torch.manual_seed(0)
    model.method.prepare(Calibration(model, config))  # type: ignore[arg-type]
    assert model.own.prompts.shape == (1, 3, config["dim"]) and model.own.prompts.isfinite().all()


def test_too_many_prompts() -> None:
    with pytest.raises(UsageError, match=r"self_prompt\.prompt_length=9999: \d+ patches can be pooled to 2 to \d+ tokens"):
        model_of(sample="mean_pooling", prompt_length=9999)
    model, config = model_of(prompt_length=9999)
    with pytest.raises(UsageError, match=r"\d+ images have \d+ tokens; raise self_prompt\.images"):
        model.method.prepare(Calibration(model, config))  # type: ignore[arg-type]
