"""SPT: golden outputs of the released code, the choice within a budget, counts, saving, merging."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from golden_fill import golden_cases, golden_model, images, labels, load_golden, run_case
from vpbench.backbones.vit import ViTAdapter
from vpbench.core.errors import UsageError
from vpbench.measure.size import parameter_counts
from vpbench.methods._sensitivity import Choice, Tensors, choose
from vpbench.methods.spt import SPT
from vpbench.models.prompted import PromptedModel

OPERATIONS = ("q", "k", "v", "proj", "fc1", "fc2")


class Piece:
    """A part of ``values``, as a tensor of its own."""

    def __init__(self, values: Tensor, start: int, shape: tuple[int, ...]) -> None:
        self.values, self.start, self.shape = values, start, shape

    def _of(self, values: Tensor) -> Tensor:
        return values[self.start : self.start + torch.Size(self.shape).numel()].view(self.shape)

    def copy_(self, other: Tensor) -> None:
        self._of(self.values).copy_(other)

    @property
    def grad(self) -> Tensor:
        assert self.values.grad is not None
        return self._of(self.values.grad)


def pieces(model: PromptedModel) -> dict[str, Any]:
    """By the golden file's names."""
    method: Any = model.method
    found: dict[str, Any] = {"cls_token": model.scope.trained["cls_token"]}
    start = 0
    modules, entries, vectors = method.choice
    for index, chosen in enumerate(modules):
        block, name, *_ = method.tensors.matrices[index]
        shapes = method._module_shapes(*method.tensors.matrices[index][1:])
        for kind, shape in zip(("down.weight", "up.weight", "down.bias", "up.bias"), shapes if chosen else ()):
            found[f"spt.{block}.{name}.{kind}"] = Piece(model.own.values, start, shape)  # type: ignore[arg-type]
            start += torch.Size(shape).numel()
    for index, count in enumerate(entries):
        block, name, *_ = method.tensors.matrices[index]
        found[f"spt.{block}.{name}.sparse_weight"] = Piece(model.own.values, start, (count,))  # type: ignore[arg-type]
        start += count
    for index, count in enumerate(vectors):
        block, site, part, kind, _ = method.tensors.vectors[index]
        name = OPERATIONS[part] if site == "qkv" else site
        if kind == "bias":
            found[f"spt.{block}.{name}.sparse_bias"] = Piece(model.own.values, start, (count,))  # type: ignore[arg-type]
        start += count
    return found


def choice_of(case: Mapping[str, Any], tensors: Tensors) -> Choice:
    """What a golden case tunes."""
    if "modules" in case:
        modules = [case["modules"][block][name] for block, name, *_ in tensors.matrices]
        return Choice(modules, [0] * len(modules), [0] * len(tensors.vectors), torch.zeros(0, dtype=torch.long))
    indexes, entries, vectors, places = case["indexes"], [], [], []
    for block, name, width_in, _ in tensors.matrices:
        found = indexes.get(f"{block}.{name}.weight", [])
        entries.append(len(found))
        places += [row * width_in + column for row, column in found]
    for block, site, part, kind, _ in tensors.vectors:
        name = OPERATIONS[part] if site == "qkv" else site
        found = indexes.get(f"{block}.{name}.{kind}", [])
        vectors.append(len(found))
        places += [row for (row,) in found]
    return Choice([False] * len(entries), entries, vectors, torch.tensor(places))


def installed(case: str) -> tuple[PromptedModel, Mapping[str, Any], Mapping[str, Any]]:
    golden = load_golden("baselines/spt")
    config = golden["config"]
    module = "adapter" if case.startswith("adapter") else "lora"
    model = golden_model(config, SPT, {"rank": config["rank"], "module": module})
    method: Any = model.method
    method.install(choice_of(golden["cases"][case], method.tensors))
    return model, config, golden["cases"][case]


@pytest.mark.parametrize("case", golden_cases("baselines/spt"))
def test_golden(case: str) -> None:
    model, config, expected = installed(case)
    run_case(model, config, expected, pieces(model))


@pytest.mark.parametrize("case", ["lora_filled_some", "adapter_filled_some", "sparse_filled"])
def test_merged_and_saved(case: str) -> None:
    """Saved tensors say themselves what is tuned; low-rank modules and single entries end in the frozen weights."""
    model, config, _ = installed(case)
    torch.manual_seed(0)
    with torch.no_grad():
        model.own.values.normal_(std=0.3)  # type: ignore[union-attr, operator]
    x = images(config)
    expected = model(x)
    assert (expected - model.head(model.plain_features(x))).abs().max() > 0.05
    other = golden_model(config, SPT, {"rank": config["rank"], "module": "adapter" if "adapter" in case else "lora"})
    other.restore(model.snapshot())
    assert torch.equal(other(x), expected)
    assert other.method.active_parameters() == model.method.active_parameters()
    model.merge()
    torch.testing.assert_close(model(x), expected, rtol=1e-4, atol=1e-4)
    if "adapter" not in case:
        torch.testing.assert_close(model.head(model.backbone.vit(x)), expected, rtol=1e-4, atol=1e-4)  # type: ignore[union-attr, operator]


@pytest.mark.parametrize("site", ["norm1", "norm"])
def test_weights_and_biases_of_norms(site: str) -> None:
    """Tuned as a whole and in places, as the same change of the backbone's own parameters, and merged."""
    golden = load_golden("baselines/spt")
    model = golden_model(golden["config"], SPT, {"rank": 4})
    method: Any = model.method
    block = None if site == "norm" else 1
    vectors = [0] * len(method.tensors.vectors)
    for number, each in enumerate(method.tensors.vectors):
        if each[:2] == (block, site):
            vectors[number] = each[-1] if each[3] == "weight" else 2
    method.install(Choice([False] * 18, [0] * 18, vectors, torch.tensor([5, 7])))
    torch.manual_seed(0)
    change = torch.randn(50)
    x = images(golden["config"])
    with torch.no_grad():
        model.own.values[:50] = change  # type: ignore[index]
        found = model(x)
        norm: Any = model.scope.module(site, block)  # type: ignore[arg-type]
        weight, bias = norm.weight.clone(), norm.bias.clone()
        model.merge()
        torch.testing.assert_close(norm.weight, weight + change[:48])
        torch.testing.assert_close(norm.bias[[5, 7]], bias[[5, 7]] + change[48:])
    torch.testing.assert_close(model(x), found, rtol=1e-4, atol=1e-4)


class Session:
    """Two batches of training images, and the logits of a model."""

    def __init__(self, model: PromptedModel, config: Mapping[str, Any]) -> None:
        self.model, self.batches = model, [(images(config), labels(config))]

    def training_batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        yield from self.batches

    def logits(self, images: Tensor) -> Tensor:
        found: Tensor = self.model.eval()(images)
        return found

    def loss(self, images: Tensor, targets: Tensor) -> Tensor:
        return self.model.task.loss(self.logits(images), targets)


def test_sensitivity_is_the_square_of_autograd_s_gradients() -> None:
    """The chosen entries of each matrix are those with the largest gradients of the frozen weights."""
    golden = load_golden("baselines/spt")
    config = golden["config"]
    model = golden_model(config, SPT, {"rank": 4, "budget": 0.0025, "alpha": 1e-3})  # no matrix gets a module
    method: Any = model.method
    session: Any = Session(model, config)
    method.prepare(session)
    vit: Any = model.backbone.vit  # type: ignore[union-attr]
    model.scope.undo()
    vit.requires_grad_(True)
    nn.functional.cross_entropy(model.head(vit(images(config))), labels(config)).backward()
    modules, entries, vectors = method.choice
    assert not any(modules) and sum(entries) > 50 and sum(vectors) > 50
    for index, (block, name, _, width) in enumerate(method.tensors.matrices):
        layer = vit.blocks[block]
        gradient = {"proj": layer.attn.proj, "fc1": layer.mlp.fc1, "fc2": layer.mlp.fc2}.get(name, layer.attn.qkv).weight.grad
        if name in "qkv":
            third = "qkv".index(name)
            gradient = gradient[third * width : (third + 1) * width]
        largest = gradient.flatten().abs().topk(entries[index]).indices
        assert sorted(largest.tolist()) == method._place(index).tolist()
    last = next(index for index, each in enumerate(method.tensors.vectors) if each[:4] == (None, "norm", 0, "weight"))
    if 0 < vectors[last] < 48:
        assert sorted(vit.norm.weight.grad.abs().topk(vectors[last]).indices.tolist()) == method._place(18 + last).tolist()


def test_choice_within_a_budget() -> None:
    """One matrix and one vector are sensitive throughout, another matrix in 6 places."""
    tensors = Tensors(((0, "q", 10, 10), (0, "k", 10, 10)), ((0, "qkv", 0, "bias", 10), (0, "qkv", 1, "bias", 10)))
    sensitivity = [torch.rand(10, 10) + 10, torch.rand(10, 10) / 10, torch.rand(10) + 10, torch.rand(10) / 10]
    sensitivity[1].view(-1)[[3, 14, 15, 92, 65, 35]] = 20.0
    found = choose(sensitivity, tensors, [40, 40], 56, alpha=4, beta=5)
    assert found.modules == [True, False] and found.entries == [0, 6]
    assert found.vectors == [10, 0]
    assert found.places.tolist() == [3, 14, 15, 35, 65, 92]
    found = choose(sensitivity, tensors, [40, 40], 20, alpha=4, beta=5)  # the module is too large
    assert found.modules == [False, False]
    assert 6 < sum(found.entries) + sum(found.vectors) <= 20


@pytest.mark.parametrize("budget", [0.2, 0.4, 0.8])
def test_counts_on_vit_b16(budget: float, vit_b16: ViTAdapter) -> None:
    with torch.device("meta"):
        counts = parameter_counts(PromptedModel(vit_b16, SPT(SPT.Config(budget=budget), vit_b16.shape, 100), 100))
    assert counts["params_method"] == budget * 1e6
    assert budget * 1e6 - 12_288 < counts["params_active"] <= budget * 1e6


def test_modules_of_vit_b16_have_the_released_sizes(vit_b16: ViTAdapter) -> None:
    for module, expected in (("lora", [12_288] * 4 + [30_720] * 2), ("adapter", [13_064] * 4 + [52_232, 13_064])):
        method = SPT(SPT.Config(module=module), vit_b16.shape, 100)  # type: ignore[arg-type]
        method.build()
        assert method._module_sizes()[:6] == expected


def test_a_budget_below_the_class_token() -> None:
    with pytest.raises(UsageError, match="budget"):
        golden_model(load_golden("baselines/spt")["config"], SPT, {"budget": 0.00005})
