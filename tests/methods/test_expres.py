"""EXPRES: counts, its residuals as iVPT's structure has them, and what is classified."""

from __future__ import annotations

import torch
from torch import Tensor

from golden_fill import filled, golden_model, images, load_golden
from vpbench.backbones.vit import ViTAdapter
from vpbench.measure.size import parameter_counts
from vpbench.methods.expres import EXPRES
from vpbench.methods.ivpt import IVPT
from vpbench.models.prompted import PromptedModel


def test_count_on_vit_b16(vit_b16: ViTAdapter) -> None:
    with torch.device("meta"):
        counts = parameter_counts(PromptedModel(vit_b16, EXPRES(EXPRES.Config(), vit_b16.shape, 100), 100))
    assert counts["params_method"] == counts["params_active"] == 46_848 * 20 == 936_960


def by_hand(model: PromptedModel, x: Tensor) -> Tensor:
    """The equations, one head after the other."""
    vit, own = model.backbone.vit, model.own
    count, width = own.prompts.shape
    x = vit._pos_embed(vit.patch_embed(x))
    x = torch.cat([x[:, :1], own.prompts.expand(len(x), -1, -1), x[:, 1:]], 1)

    def plus(y: Tensor, site: str, block: int) -> Tensor:
        y = y.clone()
        y[:, 1 : 1 + count] += own.residual[f"{site}_{block}"]
        return y

    for index, block in enumerate(vit.blocks):
        query, key, value = plus(block.attn.qkv(plus(block.norm1(x), "norm1", index)), "qkv", index).chunk(3, -1)
        mixed, size = [], width // block.attn.num_heads
        for part in (slice(start, start + size) for start in range(0, width, size)):
            weights = (query[..., part] @ key[..., part].transpose(1, 2) / size**0.5).softmax(-1)
            mixed.append(weights @ value[..., part])
        x = x + plus(block.attn.proj(torch.cat(mixed, -1)), "attention", index)
        x = x + block.mlp(block.norm2(x))
    return model.head(vit.norm(x[:, 1 : 1 + count]).mean(1))


def test_it_is_the_equations() -> None:
    golden = load_golden("vpt")
    config = golden["config"]
    model = golden_model(config, EXPRES, {"prompt_length": 3})
    assert not any(values.any() for values in model.own.residual.values())
    with torch.no_grad():
        for name, values in model.own.residual.items():
            values.copy_(filled(name, values.shape, 0.5, 0.0, config))
    with model.scope.disabled():  # the modules of timm without what the method added to them
        expected = by_hand(model, images(config))
    torch.testing.assert_close(model(images(config)), expected, rtol=1e-4, atol=1e-5)


def test_ivpts_structure_has_the_same_residuals() -> None:
    golden = load_golden("vpt")
    config = golden["config"]
    model = golden_model(config, EXPRES, {"prompt_length": 3})
    other = golden_model(config, IVPT, {"prompt_length": 3, "structure": "express", "da": False, "ar": "none"})
    assert {name: values.shape for name, values in model.own.residual.items()} == {
        name: values.shape for name, values in other.own.residual.items()
    }
