"""GPS: what is selected, counts, the gradient mask that it stands for, merging."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from golden_fill import filled_vit, golden_model, images, labels, load_golden
from vpbench.backbones.vit import ViTAdapter
from vpbench.core.errors import UsageError
from vpbench.measure.size import parameter_counts
from vpbench.methods import gps
from vpbench.methods.gps import GPS, contrastive_loss, random_crops
from vpbench.models.prompted import PromptedModel

CONFIG = load_golden("baselines/partial")["config"]
LAYERS = {"qkv": "attn.qkv", "proj": "attn.proj", "fc1": "mlp.fc1", "fc2": "mlp.fc2"}


def timm_name(key: str) -> str:
    block, _, site = key.partition("_")
    return "patch_embed.proj.weight" if key == "patch_embed" else f"blocks.{block}.{LAYERS[site]}.weight"


class Session:
    def __init__(self, model: PromptedModel) -> None:
        self.model = model

    def training_batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        yield images(CONFIG), labels(CONFIG)

    def logits(self, images: Tensor) -> Tensor:
        found: Tensor = self.model.eval()(images)
        return found


def selected(monkeypatch: pytest.MonkeyPatch, **settings: Any) -> PromptedModel:
    """Without crops, so that the gradients are known."""
    monkeypatch.setattr(gps, "random_crops", lambda images, smallest: images)
    model = golden_model(CONFIG, GPS, settings)
    session: Any = Session(model)
    model.method.prepare(session)
    return model


@pytest.mark.parametrize(("entries", "expected"), [(1, 167_424), (2, 251_136)])
def test_counts_on_vit_b16(entries: int, expected: int, vit_b16: ViTAdapter) -> None:
    with torch.device("meta"):
        counts = parameter_counts(PromptedModel(vit_b16, GPS(GPS.Config(per_neuron=entries), vit_b16.shape, 100), 100))
    assert counts["params_method"] == counts["params_active"] == expected
    vit_b16.requires_grad_(False)


def test_the_loss_is_a_loop_over_pairs() -> None:
    torch.manual_seed(0)
    features, classes = torch.randn(8, 5), torch.tensor([0, 1, 0, 2, 0, 1, 0, 2])
    unit = features / features.norm(dim=1, keepdim=True)
    total = 0.0
    for i in range(8):
        others = [j for j in range(8) if j != i]
        norm = sum(torch.exp(unit[i] @ unit[j] / 0.1) for j in others)
        shares = [torch.log(torch.exp(unit[i] @ unit[j] / 0.1) / norm) for j in others if classes[j] == classes[i]]
        total -= float(sum(shares)) / len(shares) / 8
    assert contrastive_loss(features, classes, 0.1).item() == pytest.approx(total, rel=1e-5)


def test_each_row_trains_the_entries_with_the_largest_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    model = selected(monkeypatch, per_neuron=3)
    vit = filled_vit(CONFIG).requires_grad_(True)
    x = images(CONFIG)
    contrastive_loss(vit(torch.cat([x, x])), labels(CONFIG).repeat(2), 0.07).backward()
    parameters = dict(vit.named_parameters())
    for key, columns in model.own.columns.named_buffers():  # type: ignore[union-attr, operator]
        gradient = parameters[timm_name(key)].grad
        assert gradient is not None
        gradient = gradient.flatten(1).abs()
        # The smallest chosen gradient is the third largest, to rounding: equal ones may be chosen in any order.
        chosen = gradient.gather(1, columns.T.long()).sort(dim=1).values
        torch.testing.assert_close(chosen, gradient.topk(3, dim=1).values.flip(1), rtol=1e-3, atol=1e-5)


def test_it_is_fine_tuning_under_a_gradient_mask(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three steps of Adam on a plain backbone whose gradients are masked, and on the changes of the chosen entries."""
    model = selected(monkeypatch, per_neuron=2)
    plain = golden_model(CONFIG, GPS, {})  # for its head
    vit, x, y = filled_vit(CONFIG).requires_grad_(True), images(CONFIG), labels(CONFIG)
    masks = {}
    for key, columns in model.own.columns.named_buffers():  # type: ignore[union-attr, operator]
        weight = dict(vit.named_parameters())[timm_name(key)]
        masks[timm_name(key)] = torch.zeros_like(weight.flatten(1)).scatter_(1, columns.T.long(), 1).view_as(weight)
    for name, parameter in vit.named_parameters():
        if name not in masks:
            parameter.requires_grad_("bias" in name and "norm" not in name)
    other = torch.optim.Adam([*(each for each in vit.parameters() if each.requires_grad), *plain.head.parameters()], lr=1e-2)
    mine = torch.optim.Adam([each for _, each in model.trainable()], lr=1e-2)
    for _ in range(3):
        other.zero_grad()
        torch.nn.functional.cross_entropy(plain.head(vit(x)), y).backward()
        for name, mask in masks.items():
            gradient = dict(vit.named_parameters())[name].grad
            assert gradient is not None
            gradient.mul_(mask)
        other.step()
        mine.zero_grad()
        model.training_loss(x, y)[0].backward()
        mine.step()
    expected = plain.head(vit.eval()(x))
    torch.testing.assert_close(model.eval()(x), expected, rtol=1e-2, atol=2e-2)
    model.merge()
    found = dict(model.backbone.vit.named_parameters())  # type: ignore[union-attr, operator]
    before = dict(filled_vit(CONFIG).named_parameters())
    for name, mask in masks.items():
        assert torch.equal(found[name][mask == 0], before[name][mask == 0])  # bit-identical where nothing is chosen
        changed = mask == 1
        assert (found[name][changed] != before[name][changed]).float().mean() > 0.9
        torch.testing.assert_close(found[name], dict(vit.named_parameters())[name], rtol=0.05, atol=5e-3)


def test_merged_it_is_a_plain_backbone(monkeypatch: pytest.MonkeyPatch) -> None:
    model = selected(monkeypatch, per_neuron=2)
    torch.manual_seed(0)
    with torch.no_grad():
        for each in model.own.updates.parameters():  # type: ignore[union-attr, operator]
            each.normal_()
    x = images(CONFIG)
    expected = model(x)
    model.merge()
    torch.testing.assert_close(model.head(model.backbone.vit(x)), expected, rtol=1e-4, atol=1e-4)  # type: ignore[union-attr, operator]


def test_the_selecting_pass_leaves_no_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    model = selected(monkeypatch)
    assert all(each.grad is None for each in model.parameters())
    torch.testing.assert_close(model(images(CONFIG)), model.head(model.plain_features(images(CONFIG))))  # nothing is changed yet


def test_crops_show_parts_of_their_image() -> None:
    torch.manual_seed(0)
    ramp = torch.linspace(0, 1, 32).view(1, 1, 1, 32).expand(200, 1, 32, 32).contiguous()
    found = random_crops(ramp, 0.08)
    assert found.shape == ramp.shape and found.min() >= 0 and found.max() <= 1
    rising = found[:, 0, 0, -1] > found[:, 0, 0, 0]
    assert 60 < int(rising.sum()) < 140  # every other one is mirrored
    extent = (found.amax((1, 2, 3)) - found.amin((1, 2, 3)))[:, None]
    assert extent.min() > 0.2 and extent.max() <= 1 and extent.std() > 0.1
    torch.testing.assert_close(random_crops(ramp[:1], 1.0).mean(), torch.tensor(0.5), atol=0.15, rtol=0)


def test_more_entries_than_a_neuron_has() -> None:
    with pytest.raises(UsageError, match="per_neuron"):
        golden_model(CONFIG, GPS, {"per_neuron": 500})
