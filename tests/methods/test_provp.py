"""ProVP: golden outputs of the released rule and of iVPT's sum, counts, and contrastive re-formation."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from timm.models import VisionTransformer
from torch import Tensor

from golden_fill import Rows, golden_cases, golden_model, images, load_golden, run_case
from vpbench.backbones.vit import ViTAdapter
from vpbench.measure.size import parameter_counts
from vpbench.methods.ivpt import IVPT
from vpbench.methods.provp import ProVP
from vpbench.models.prompted import PromptedModel

ALPHA = {"official_alpha_0.01": 0.01, "ivpt_sum": None}


def tensors(model: PromptedModel) -> dict[str, Tensor | Rows]:
    """By the golden file's names."""
    prompts = model.own.prompts
    return {"prompt.0..": prompts, **{f"prompt.{block}": Rows(prompts, block) for block in range(len(prompts))}}


def tiny(**options: Any) -> PromptedModel:
    torch.manual_seed(0)
    adapter = ViTAdapter(VisionTransformer(img_size=32, patch_size=8, embed_dim=48, depth=3, num_heads=4, num_classes=0))
    return PromptedModel(adapter, ProVP(ProVP.Config(prompt_length=3, **options), adapter.shape, 5), 5)


@pytest.mark.parametrize("case", golden_cases("baselines/provp"))
def test_golden(case: str) -> None:
    golden = load_golden("baselines/provp")
    model = golden_model(golden["config"], ProVP, {"prompt_length": golden["config"]["prompt_length"], "alpha": ALPHA[case]})
    run_case(model, golden["config"], golden["cases"][case], tensors(model))


def test_count_on_vit_b16(vit_b16: ViTAdapter) -> None:
    with torch.device("meta"):
        counts = parameter_counts(PromptedModel(vit_b16, ProVP(ProVP.Config(), vit_b16.shape, 100), 100))
    assert counts["params_method"] == 92_160


def test_the_sum_is_ivpts_structure() -> None:
    golden = load_golden("baselines/provp")
    config = golden["config"]
    model = golden_model(config, ProVP, {"prompt_length": 5})
    other = golden_model(config, IVPT, {"prompt_length": 5, "structure": "provp", "da": False, "ar": "none"})
    with torch.no_grad():
        other.own.prompts.copy_(model.own.prompts)
    assert torch.equal(model(images(config)), other(images(config)))


def test_re_formation_pairs_each_image_with_its_plain_feature() -> None:
    model, plain = tiny(alpha=0.01, reformation=2.0), tiny(alpha=0.01)
    x, targets = torch.randn(4, 3, 32, 32), torch.tensor([0, 1, 2, 3])
    loss, _ = model.training_loss(x, targets)
    without, _ = plain.training_loss(x, targets)
    prompted, known = model.features(x), model.backbone.vit(x)
    similarity = torch.stack([F.cosine_similarity(row[None], known) for row in prompted])
    expected = -similarity.log_softmax(1).diagonal().mean()
    torch.testing.assert_close(loss - without, 2 * expected, rtol=1e-4, atol=1e-5)
    assert model.method.needs_whole_batches and not plain.method.needs_whole_batches
    loss.backward()
    assert model.own.prompts.grad is not None and model.own.prompts.grad.flatten(1).any(1).all()
