"""Suggestions for mistyped names: what is near, and nothing else."""

from __future__ import annotations

import pytest

from vpbench.backbones.named import backbone_names
from vpbench.core.names import closest, unknown
from vpbench.data.catalog import dataset_names
from vpbench.models.registry import method_registry
from vpbench.planning.suites import suite_names
from vpbench.spec.recipe import Recipe
from vpbench.spec.run_options import RunOptions

TIMM = ["vit_tiny_patch16_224", "vit_base_patch16_224", "swin_base_patch4_window7_224"]
KNOWN = {
    "method": method_registry().names, "dataset": dataset_names, "suite": suite_names,
    "backbone": lambda: [*backbone_names(), *TIMM], "field": lambda: Recipe.model_fields,
    "option": lambda: RunOptions.model_fields,
}  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "typed", "meant"),
    [
        ("method", "vptt", "vpt"), ("method", "vtp", "vpt"), ("method", "lniear", "linear"), ("method", "linear_probe", "linear"),
        ("method", "insv", "insvp"), ("method", "adaptformr", "adaptformer"), ("method", "lor", "lora"),
        ("method", "lion2", "lion"), ("dataset", "flower", "flowers"), ("dataset", "cifar-100", "cifar100"),
        ("dataset", "camelyon", "vtab.camelyon"), ("dataset", "texture", "textures"), ("dataset", "cub200", "cub"),
        ("dataset", "birds", "nabirds"),
        ("suite", "minni", "mini"), ("suite", "vtab", "vtab1k"), ("suite", "fewshot16", "fewshot-16"),
        ("backbone", "vit-nan0", "vit-nano"), ("backbone", "vit_tinny", "vit_tiny_patch16_224"),
        ("backbone", "vit_bas_patch16_224", "vit_base_patch16_224"), ("backbone", "vit-b16", "vit-b16-mae"),
        ("field", "weight_deacy", "weight_decay"), ("field", "lrr", "lr"), ("option", "timeout", "timeout_s"),
        ("option", "wise-ft", "wise_ft"), ("option", "worker", "workers"),
    ],
)  # fmt: skip
def test_what_is_near_is_suggested(kind: str, typed: str, meant: str) -> None:
    assert closest(typed, KNOWN[kind]()) == meant


@pytest.mark.parametrize(
    ("kind", "typed"),
    [
        ("method", "nope"), ("method", "foo"), ("method", "resnet"), ("method", "nothing"), ("method", "mine"), ("method", "xyz"),
        ("method", "unknown"), ("method", ""), ("dataset", "nothere"), ("dataset", "photo"),
        ("dataset", "nope"), ("suite", "nothere"), ("suite", "birds"), ("backbone", "resnet50"), ("backbone", "nothere"),
        ("field", "nope"), ("option", "set"), ("option", "name"), ("option", "colour"),
    ],
)  # fmt: skip
def test_what_is_far_is_not(kind: str, typed: str) -> None:
    assert closest(typed, KNOWN[kind]()) is None


def test_a_long_list_is_cut_where_a_command_has_all_of_it() -> None:
    many = [f"name{number:02}" for number in range(20)]
    assert str(unknown("method", "xyz", many)) == (
        "unknown method 'xyz'. Known: name00, name01, name02, name03, name04, ... (vpbench list methods)."
    )
    assert str(unknown("option of vpt", "xyz", many)).endswith("name04, ... (vpbench show method vpt).")
    assert str(unknown("dish", "xyz", many)).endswith("name18, name19.")
    assert str(unknown("method", "xyz", many, "Only these.", "")).endswith("name18, name19. Only these.")
    assert str(unknown("method", "name0", many)) == "unknown method 'name0'. Did you mean 'name00'?"
