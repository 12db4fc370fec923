"""VP: golden outputs of the released code, counts, places, folding into position embeddings."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from timm.models import SwinTransformer
from torch import Tensor

from golden_fill import golden_cases, golden_model, images, load_golden, run_case
from vpbench.backbones.family import adapter_for
from vpbench.backbones.vit import ViTAdapter
from vpbench.core.errors import UsageError
from vpbench.interface import Context
from vpbench.measure.size import parameter_counts
from vpbench.methods.vp import VP
from vpbench.models.prompted import PromptedModel


def small(**settings: Any) -> PromptedModel:
    torch.manual_seed(0)
    config = load_golden("baselines/vp")["config"]
    return golden_model(config, VP, {"size": config["pad"], **settings})


def golden_images() -> Tensor:
    return images(load_golden("baselines/vp")["config"])


@pytest.mark.parametrize("case", golden_cases("baselines/vp"))
def test_golden(case: str) -> None:
    golden = load_golden("baselines/vp")
    config = golden["config"]
    form = "fixed_patch" if "patch" in case else "padding"
    model = golden_model(config, VP, {"form": form, "size": config["pad"]})
    tensors = {f"vp.{name}": tensor for name, tensor in model.own.named_parameters()}
    run_case(model, config, golden["cases"][case], tensors)


@pytest.mark.parametrize(("form", "expected"), [("padding", 69_840), ("fixed_patch", 2_700), ("random_patch", 2_700)])
def test_counts_at_224_pixels(form: str, expected: int, vit_b16: ViTAdapter) -> None:
    with torch.device("meta"):
        config = VP.Config.model_validate({"form": form})
        counts = parameter_counts(PromptedModel(vit_b16, VP(config, vit_b16.shape, 100), 100))
    assert counts["params_method"] == expected


@pytest.mark.parametrize("form", ["padding", "fixed_patch", "random_patch"])
def test_merged_the_image_is_left_alone(form: str) -> None:
    model = small(form=form)
    x = golden_images()
    expected, plain = model(x), model.plain_features(x)
    model.merge()
    assert model.method.pixels(x, Context(x, training=False)) is x
    torch.testing.assert_close(model(x), expected, rtol=1e-4, atol=1e-4)
    model.scope.undo()
    assert torch.equal(model.backbone(x), plain)


def test_where_positions_are_relative_nothing_is_merged() -> None:
    torch.manual_seed(0)
    adapter = adapter_for(
        SwinTransformer(img_size=32, patch_size=4, embed_dim=24, depths=(2,), num_heads=(2,), window_size=4, num_classes=0)
    )
    model = PromptedModel(adapter, VP(VP.Config(), adapter.shape, 5), 5).eval()
    x = torch.randn(2, 3, 32, 32)
    expected, state = model(x), {name: value.clone() for name, value in adapter.state_dict().items()}
    model.merge()
    assert torch.equal(model(x), expected)
    assert all(torch.equal(value, state[name]) for name, value in adapter.state_dict().items())


def test_a_random_patch_moves_in_training_and_rests_in_the_middle() -> None:
    model = small(form="random_patch")
    x, own = torch.zeros(2, 3, 32, 32), model.own
    added = model.method.pixels(x, Context(x, training=False))
    assert torch.equal(added[1, :, 13:19, 13:19], own.patch[0])  # type: ignore[index]
    places = set()
    for _ in range(30):
        added = model.method.pixels(x, Context(x, training=True))[0]
        top, left = (int(added.abs().sum(0).sum(dim).nonzero()[0]) for dim in (1, 0))
        assert torch.equal(added[:, top : top + 6, left : left + 6], own.patch[0])  # type: ignore[index]
        assert int((added != 0).sum()) == own.patch.numel()  # type: ignore[union-attr, operator]
        places.add((top, left))
    assert len(places) > 20


@pytest.mark.parametrize(("settings", "words"), [({"size": 16}, "16"), ({"size": 32, "form": "fixed_patch"}, "32")])
def test_prompts_that_do_not_fit(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        small(**settings)
