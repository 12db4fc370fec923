"""VQT: golden outputs of the released code, counts, what stays frozen."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from timm.models import VisionTransformer
from timm.models.eva import Eva

from golden_fill import Rows, golden_cases, golden_model, images, load_golden, run_case
from vpbench.backbones.family import adapter_for
from vpbench.backbones.vit import ViTAdapter
from vpbench.core.errors import UnsupportedError
from vpbench.measure.size import parameter_counts
from vpbench.methods.vqt import VQT
from vpbench.models.prompted import PromptedModel

FILE = "newer/vqt"
VIT = {"img_size": 32, "patch_size": 8, "embed_dim": 48, "depth": 2, "num_heads": 4, "num_classes": 0}


@pytest.mark.parametrize("case", golden_cases(FILE))
def test_golden(case: str) -> None:
    golden = load_golden(FILE)
    config, expected = golden["config"], golden["cases"][case]
    model = golden_model(config, VQT, {"queries": config["queries"], "normalise": expected["normalise"]})
    tensors: dict[str, Any] = {f"vqt.{block}.query": Rows(model.own.queries, block) for block in range(config["depth"])}
    run_case(model, config, expected, {**tensors, **{f"head.{name}": each for name, each in model.head.named_parameters()}})


@pytest.mark.parametrize(("queries", "head"), [(1, 9_985), (20, 185_089)])
def test_counts_on_vit_b16(queries: int, head: int, vit_b16: ViTAdapter) -> None:
    with torch.device("meta"):
        model = PromptedModel(vit_b16, VQT(VQT.Config(queries=queries), vit_b16.shape, 100), 100)
    counts = parameter_counts(model)
    assert counts["params_method"] == 9_216 * queries and counts["params_head"] == head * 100
    model.scope.undo()


def test_the_backbones_features_are_those_of_the_frozen_model() -> None:
    config = load_golden(FILE)["config"]
    model = golden_model(config, VQT, {"normalise": False})
    features = model.features(images(config))[:, : config["dim"]].detach()
    torch.testing.assert_close(features, model.plain_features(images(config)), rtol=0, atol=1e-6)


@pytest.mark.parametrize("vit", [{}, {"init_values": 0.3}, {"qk_norm": True}, {"qkv_bias": False}])
def test_a_query_is_a_token_that_no_other_sees(vit: dict[str, Any]) -> None:
    """It becomes what timm's own block makes of a class token with its value, if that were no key."""
    torch.manual_seed(0)
    adapter = ViTAdapter(VisionTransformer(**{**VIT, **vit}))
    model = PromptedModel(adapter, VQT(VQT.Config(queries=1, normalise=False), adapter.shape, 5), 5).eval()
    x = torch.randn(2, 3, 32, 32)
    tokens = adapter.embed(x).x
    block = adapter.vit.blocks[0]
    query = model.own.queries[0].expand(2, -1, -1)  # type: ignore[index]
    mask = torch.zeros(18, 18)
    mask[:, 0] = -torch.inf
    joined = torch.cat([query, tokens], dim=1)
    collected = block(joined, attn_mask=mask)[:, 0]
    torch.testing.assert_close(model.features(x)[:, 48 : 2 * 48], collected, rtol=1e-4, atol=1e-5)


def test_other_attention_is_refused() -> None:
    eva = adapter_for(Eva(img_size=32, patch_size=8, embed_dim=48, depth=1, num_heads=4, num_classes=0, use_rot_pos_emb=True))
    with pytest.raises(UnsupportedError, match="plain attention"):
        PromptedModel(eva, VQT(VQT.Config(), eva.shape, 5), 5)
