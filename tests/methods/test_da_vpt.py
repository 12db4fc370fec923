"""DA-VPT: golden outputs of the released code, counts, groups of classes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from golden_fill import Rows, check_gradient, check_logits, filled, golden_cases, golden_model, images, labels, load_golden
from vpbench.backbones.vit import ViTAdapter
from vpbench.core.errors import UsageError
from vpbench.measure.size import parameter_counts
from vpbench.methods.da_vpt import DAVPT, grouped
from vpbench.methods.vpt import VPT
from vpbench.models.prompted import PromptedModel

FILE = "newer/da_vpt"


def model_of(**settings: Any) -> tuple[PromptedModel, dict[str, Any]]:
    config = load_golden(FILE)["config"]
    layers = config["last"] - config["first"] + 1
    given = {"proxy_layers": layers, **{name: config[name] for name in ("prompt_length", "proxies", "proxy_scale")}}
    return golden_model(config, DAVPT, {**given, **settings}), config


@pytest.mark.parametrize("case", [case for case in golden_cases(FILE) if case != "mapping"])
def test_golden(case: str) -> None:
    """Also where the released code masks the prompts' queries: that changes nothing."""
    expected = load_golden(FILE)["cases"][case]
    names = ("prompt_norm", "patch_weight", "cls_weight", "cls_type")
    model, config = model_of(**{name: expected[name] for name in names})
    model.own.mapping.copy_(torch.tensor(expected["mapping"]))
    known: dict[str, Any] = {f"prompt.{block}": prompts for block, prompts in enumerate(model.own.prompts)}
    with torch.no_grad():
        for name, rule in expected["fills"].items():
            known[name].copy_(filled(name, rule["shape"], rule["scale"], rule["offset"], config))
    width = config["dim"]
    for name, parameter in model.backbone.vit.named_parameters():
        known[name] = parameter.requires_grad_(name.endswith("qkv.bias") or parameter.requires_grad)
        if name.endswith("qkv.bias"):
            for third, letter in enumerate("qkv"):
                rows = slice(third * width, (third + 1) * width)
                known[name.replace("qkv.bias", f"{letter}.bias")] = Rows(parameter, rows)
    known |= {f"head.{name}": each for name, each in model.head.named_parameters()}
    context = model.train().context(images(config))
    logits = model.head(model.features(images(config), context))
    check_logits(logits, expected)
    assert model.method.proxy_loss(labels(config), context).item() == pytest.approx(expected["proxy_loss"], rel=1e-4)  # type: ignore[attr-defined]
    loss = model.method.loss(logits, labels(config), context)
    assert loss.item() == pytest.approx(expected["loss"], rel=1e-4)
    loss.backward()
    largest = max(each["grad_l2"] or 0.0 for each in expected["params"].values())
    for name, gradient in expected["params"].items():
        check_gradient(known[name].grad, gradient, tolerance=1e-3, floor=1e-3 * largest)


@pytest.mark.skipif("mapping" not in golden_cases(FILE), reason="no such case")
def test_golden_groups() -> None:
    model, config = model_of()
    expected = load_golden(FILE)["cases"]["mapping"]
    count, classes = config["calibration"], config["classes"]
    pixels = filled("calibration", (count, 3, config["img"], config["img"]), 1.0, 0.0, config)
    features = model.plain_features(pixels)
    means = torch.stack([features[label::classes].mean(0) for label in range(classes)])
    assert means.norm(dim=1).tolist() == pytest.approx(expected["class_mean_l2"], rel=1e-4)
    model.method._group(means, torch.tensor(expected["start_order"][: config["proxies"]]))  # type: ignore[attr-defined]
    assert model.own.mapping.tolist() == expected["mapping"]
    assert model.own.centres.norm(dim=1).tolist() == pytest.approx(expected["centroid_l2"], rel=1e-4)
    first = torch.tensor(expected["centroid_first"])
    torch.testing.assert_close(model.own.centres[:, : first.shape[1]], first, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("tuned", "expected"), [("released", 158_208), ("prompts", 92_160)])
def test_counts_on_vit_b16(tuned: str, expected: int, vit_b16: ViTAdapter) -> None:
    with torch.device("meta"):
        model = PromptedModel(vit_b16, DAVPT(DAVPT.Config(tuned=tuned), vit_b16.shape, 100), 100)
    assert parameter_counts(model)["params_method"] == expected
    model.scope.undo()


def test_without_its_loss_it_is_vpt() -> None:
    model, config = model_of(patch_weight=0, cls_weight=0, tuned="prompts", prompt_length=3)
    deep = golden_model(config, VPT, {"prompt_length": 3, "dropout": 0.0})
    with torch.no_grad():
        deep.own.prompts.copy_(torch.stack(list(model.own.prompts)))
    losses = [each.train().training_loss(images(config), labels(config))[0] for each in (model, deep)]
    torch.testing.assert_close(*losses)


class Features:
    """A session with four images of every class."""

    def __init__(self, config: dict[str, Any]) -> None:
        self.labels = torch.arange(4 * config["classes"]) % config["classes"]
        self.points = torch.randn(len(self.labels), config["dim"], generator=torch.Generator().manual_seed(0))

    def features(self, split: str) -> tuple[Tensor, Tensor]:
        assert split == "train"
        return self.points, self.labels


def test_classes_are_grouped_before_training_and_after_every_epoch() -> None:
    model, config = model_of(proxies=3)
    groups = []
    for seed in (0, 0):
        torch.manual_seed(seed)
        model.method.prepare(Features(config))  # type: ignore[arg-type]
        groups.append(model.own.mapping.clone())
    assert torch.equal(*groups) and len(groups[0].unique()) > 1
    model.train().training_loss(images(config), labels(config))
    assert model.own.counts.sum() == config["B"]
    model.method.epoch_ended(0, 2)
    assert not model.own.counts.any() and not model.own.sums.any()


def test_as_many_proxies_as_classes_and_empty_groups() -> None:
    model, config = model_of(proxies=50)
    assert len(model.own.prompts[-1]) == config["classes"]
    model.method.prepare(Features(config))  # type: ignore[arg-type]
    assert model.own.mapping.tolist() == list(range(config["classes"]))
    points, far = torch.eye(4)[:2], -torch.ones(1, 4)
    mapping, centres = grouped(points, torch.cat([points.mean(0, keepdim=True), far]))
    assert mapping.tolist() == [0, 0] and torch.equal(centres[1:], far)


def test_more_blocks_with_proxies_than_there_are() -> None:
    with pytest.raises(UsageError, match=r"da_vpt\.proxy_layers=99: this backbone has \d+ blocks"):
        model_of(proxy_layers=99)
