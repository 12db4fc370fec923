"""iVPT: golden outputs and the invariants I1 to I15 that follow from its equations.

Small random ViT in float64, tolerance 1e-10, unless a test says otherwise.
"""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest
import torch
from timm.models import VisionTransformer
from torch import Tensor

from golden_fill import check_gradient, check_logits, filled, golden_model, images, labels, load_golden
from vpbench.backbones.vit import ViTAdapter
from vpbench.core.errors import UnsupportedError, UsageError
from vpbench.interface import Context
from vpbench.methods.ivpt import IVPT
from vpbench.methods.vpt import VPT
from vpbench.models.prompted import PromptedModel

DEPTH, LENGTH, K, WIDTH, PATCHES = 3, 4, 3, 48, 16
X = torch.randn(3, 3, 32, 32, dtype=torch.double, generator=torch.Generator().manual_seed(0))
TABLES = Path(__file__).parent / "ivpt_tables"


def backbone(**options: Any) -> ViTAdapter:
    torch.manual_seed(7)
    settings = {"img_size": 32, "patch_size": 8, "embed_dim": WIDTH, "depth": DEPTH, "num_heads": 4, "num_classes": 0}
    return ViTAdapter(VisionTransformer(**{**settings, **options}).double())


def model_of(method: type[Any] = IVPT, seed: int = 0, adapter: ViTAdapter | None = None, **options: Any) -> Any:
    adapter = adapter or backbone()
    if method is IVPT:
        options = {"prompt_length": LENGTH, "ar_k": K, **options}
    torch.manual_seed(seed)
    model = PromptedModel(adapter, method(method.Config(**options), adapter.shape, 5), 5).double().eval()
    with torch.no_grad():
        for tensor in model.own.parameters():
            tensor.add_(0.3 * torch.randn_like(tensor))
        torch.manual_seed(99)
        model.head.weight.normal_()
        model.head.bias.normal_()
    return model


def same(first: Tensor, second: Tensor) -> None:
    torch.testing.assert_close(first, second, rtol=0, atol=1e-10)


def differ(first: Tensor, second: Tensor) -> bool:
    return not torch.allclose(first, second, rtol=0, atol=1e-6)


def vpt_with(prompts: list[Tensor]) -> Any:
    model = model_of(VPT, prompt_length=LENGTH)
    with torch.no_grad():
        model.own.prompts.copy_(torch.stack(prompts))
    return model


@pytest.mark.parametrize("case", ["deep_baseline", "cdc", "cdc_da", "cdc_da_ar"])
def test_golden(case: str) -> None:
    golden = load_golden("ivpt")
    config, expected = golden["config"], golden["cases"][case]
    settings = {
        "prompt_length": config["prompt_length"], "ar_k": config["reinforced_tokens"],
        "structure": "vpt" if case == "deep_baseline" else "cdc", "da": "da" in case,
        "ar": "topk" if "ar" in case.split("_") else "none",
    }  # fmt: skip
    model = golden_model(config, IVPT, settings)
    stacks = {
        "prompt": model.own.prompts,
        "gamma": getattr(model.own, "gamma", []),
        "reinforce": getattr(model.own, "reinforcement", []),
    }
    with torch.no_grad():
        for name, stack in stacks.items():
            for block, tensor in enumerate(stack):
                tensor.copy_(filled(f"{name}.{block}", tensor.shape, 0.5, 0.0, config))
    context = Context(images(config), training=False)
    logits = model.head(model.features(images(config), context))
    check_logits(logits, expected)
    loss = torch.nn.functional.cross_entropy(logits, labels(config))
    assert loss.item() == pytest.approx(expected["loss"], rel=1e-4)
    loss.backward()
    for name, gradient in expected["params"].items():
        kind, _, index = name.partition(".")
        found = model.head.weight.grad if kind == "head" else stacks[kind].grad[int(index)]  # type: ignore[union-attr]
        check_gradient(found, gradient)
    chosen = [indices.tolist() for indices in context.stash.get("chosen", [])]
    assert chosen == expected["topk"]


def test_i1_no_aggregation_is_vpt_deep() -> None:
    model = model_of(ar="none", da_init="zero")
    with torch.no_grad():
        model.own.gamma.zero_()
    same(model(X), vpt_with(list(model.own.prompts))(X))


def test_i2_identity_aggregation_is_cross_layer_connection() -> None:
    model, plain = model_of(ar="none"), model_of(ar="none", da=False)
    with torch.no_grad():
        model.own.gamma.copy_(torch.eye(LENGTH))
        plain.own.prompts.copy_(model.own.prompts)
    same(model(X), plain(X))


def test_i3_no_reinforcement_is_connection_and_aggregation() -> None:
    model, plain = model_of(), model_of(ar="none")
    with torch.no_grad():
        model.own.reinforcement.zero_()
        plain.own.prompts.copy_(model.own.prompts)
        plain.own.gamma.copy_(model.own.gamma)
    same(model(X), plain(X))


@pytest.mark.parametrize("options", [{"da": False, "ar": "none"}, {"ar": "none"}, {"structure": "vanilla_cdc", "ar": "none"}])
def test_i4_folding_gives_vpt_deep(options: dict[str, Any]) -> None:
    model = model_of(**options)
    same(model(X), vpt_with(model.method.linked_prompts())(X))


@pytest.mark.parametrize("options", [{}, {"ar": "all"}, {"structure": "vanilla_cdc"}, {"da": False}, {"structure": "provp"}])
def test_i4_merging_keeps_the_logits(options: dict[str, Any]) -> None:
    model = model_of(**options)
    before = model(X)
    model.merge()
    same(model(X), before)


def test_i5_fused_attention_and_the_class_row_equal_explicit_attention() -> None:
    results = []
    for fused in (True, False):
        model = model_of()
        model.backbone.use_fused_attention(fused)
        context = Context(X, training=False)
        results.append((model.head(model.features(X, context)), torch.stack(context.stash["chosen"])))
    same(results[0][0], results[1][0])
    assert torch.equal(results[0][1], results[1][1])


def test_i6_reinforcing_the_last_block_changes_nothing() -> None:
    model = model_of(ar_layers="all")
    model(X).sum().backward()
    assert not model.own.reinforcement.grad[-1].any()
    assert model.own.reinforcement.grad[0].any()
    before = model(X)
    with torch.no_grad():
        model.own.reinforcement[-1].add_(1.0)
    same(model(X), before)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"ar": "all"},
        {"salience": "head_max"},
        {"salience": "head_mean_renorm"},
        {"structure": "provp"},
        {"structure": "express"},
    ],
)
def test_i7_an_image_alone_equals_the_image_in_a_batch(options: dict[str, Any]) -> None:
    model = model_of(**options)
    together = model(X)
    for index in range(len(X)):
        same(model(X[index : index + 1])[0], together[index])
    same(model(X.flip(0)), together.flip(0))


def test_i8_permuting_prompts_changes_nothing() -> None:
    model = model_of()
    before = model(X)
    order = torch.tensor([2, 0, 3, 1])
    with torch.no_grad():
        model.own.prompts.copy_(model.own.prompts[:, order])
        model.own.gamma.copy_(model.own.gamma[:, order][:, :, order])
    same(model(X), before)


def test_i9_top_k_of_all_tokens_differs_from_all() -> None:
    ranked, placed = model_of(ar_k=PATCHES), model_of(ar="all")
    with torch.no_grad():
        for name in ("prompts", "gamma", "reinforcement"):
            getattr(placed.own, name).copy_(getattr(ranked.own, name))
    assert differ(ranked(X), placed(X))
    with torch.no_grad():
        for model in (ranked, placed):
            model.own.reinforcement.copy_(ranked.own.reinforcement[:, :1].expand(-1, PATCHES, -1))
    same(ranked(X), placed(X))


def test_i10_the_chosen_are_distinct_descending_and_stable() -> None:
    method = model_of().method
    weights = torch.rand(5, 4, PATCHES, dtype=torch.double)
    chosen = method.most_salient(weights)
    assert chosen.shape == (5, K)
    assert all(len(set(row.tolist())) == K and min(row) >= 0 and max(row) < PATCHES for row in chosen)
    picked = weights.mean(1).gather(1, chosen)
    assert (picked.diff() <= 0).all()
    assert picked[:, 0].equal(weights.mean(1).amax(1))
    assert method.most_salient(torch.ones(1, 4, PATCHES)).tolist() == [[0, 1, 2]]


def test_i11_only_the_chosen_patch_tokens_change() -> None:
    model = model_of()
    context = Context(X, training=False)
    tokens = model.method.before_block(0, model.backbone.embed(X), context)
    before = model.backbone.block(0, tokens)
    after = model.method.after_block(0, before, context)
    expected = torch.zeros_like(before.patch_tokens)
    for image, chosen in enumerate(context.stash["chosen"][0]):
        expected[image, chosen] = model.own.reinforcement[0].detach()
    same(after.patch_tokens - before.patch_tokens, expected)
    assert torch.equal(after.prompt_tokens, before.prompt_tokens)
    assert torch.equal(after.prefix_tokens, before.prefix_tokens)


@pytest.mark.parametrize(
    ("structure", "depends"), [("vpt", False), ("cdc", False), ("vanilla_cdc", False), ("provp", True), ("express", True)]
)
def test_i12_which_structures_depend_on_the_image(structure: str, depends: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of(structure=structure)
    entering: list[Tensor] = []
    block = model.backbone.block
    monkeypatch.setattr(
        model.backbone,
        "block",
        lambda index, tokens, wanted: entering.append(tokens.prompt_tokens) or block(index, tokens, wanted),
    )
    model(X)
    assert not differ(entering[0][0], entering[0][1])
    assert all(differ(prompts[0], prompts[1]) == depends for prompts in entering[1:])


def test_i13_everything_receives_gradient_and_the_backbone_none() -> None:
    model = model_of()
    model(X).square().sum().backward()
    for stack in (model.own.prompts, model.own.gamma, model.own.reinforcement):
        assert all(gradient.any() for gradient in stack.grad)
    assert model.head.weight.grad.any()
    assert all(parameter.grad is None for parameter in model.backbone.parameters())


@pytest.mark.parametrize(("structure", "sources"), [("cdc", [{0}, {0, 1}, {1, 2}]), ("vanilla_cdc", [{0}, {0, 1}, {0, 1, 2}])])
def test_i14_gradient_paths_of_linked_prompts(structure: str, sources: list[set[int]]) -> None:
    model = model_of(structure=structure)
    for linked, expected in zip(model.method.linked_prompts(), sources):
        gradient = torch.autograd.grad(linked.sum(), model.own.prompts, retain_graph=True)[0]
        assert {block for block in range(DEPTH) if gradient[block].any()} == expected


def table(name: str) -> list[dict[str, str]]:
    with (TABLES / name).open(encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


ROWS = [*table("table15_fgvc.csv"), *table("table16_vtab1k.csv")]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row["dataset"])
def test_i15_parameter_counts_of_the_papers_settings(row: dict[str, str], vit_b16: ViTAdapter) -> None:
    n, k = int(row["N_prompts_CDC"]), int(row["k_prompts_AR"])
    with torch.device("meta"):
        model = PromptedModel(vit_b16, IVPT(IVPT.Config(prompt_length=n, ar_k=k), vit_b16.shape, 5), 5)
    model.scope.undo()
    assert sum(parameter.numel() for parameter in model.own.parameters()) == 12 * n * 768 + 11 * n * n + 11 * k * 768


def test_i15_the_count_of_the_default_on_vit_b16(vit_b16: ViTAdapter) -> None:
    with torch.device("meta"):
        model = PromptedModel(vit_b16, IVPT(IVPT.Config(), vit_b16.shape, 5), 5)
    model.scope.undo()
    assert sum(parameter.numel() for parameter in model.own.parameters()) == 177_740


def test_express_starts_where_its_residuals_are_zero() -> None:
    model = model_of(structure="express", ar="none")
    with torch.no_grad():
        for values in model.own.residual.values():
            values.zero_()
    shallow = model_of(VPT, prompt_length=LENGTH, deep=False)
    with torch.no_grad():
        shallow.own.prompts.copy_(model.own.prompts)
    same(model(X), shallow(X))
    with torch.no_grad():
        model.own.residual["qkv_1"].add_(0.1)
    assert differ(model(X), shallow(X))


def test_salience_rules_differ() -> None:
    attention = torch.tensor([[[0.5, 0.3, 0.1], [0.0, 0.05, 0.01]]])
    rules = {
        rule: model_of(ar_k=1, salience=rule).method.most_salient(attention).item()
        for rule in ("head_mean", "head_max", "head_mean_renorm")
    }
    assert rules == {"head_mean": 0, "head_max": 0, "head_mean_renorm": 1}


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(UsageError, match=r"ivpt.ar_k=17 is more than the backbone's 16 patch tokens"):
        model_of(ar_k=17)
    with pytest.raises(UnsupportedError, match="class token"):
        model_of(adapter=backbone(class_token=False, global_pool="avg"))
