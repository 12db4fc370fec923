"""Parameters of a method on a backbone, tensor by tensor, and methods by group."""

from __future__ import annotations

import json
from typing import Any

import pytest
from command import vpbench

from vpbench.backbones.named import resolve_backbone
from vpbench.measure.size import parameter_counts, parameter_groups
from vpbench.models.build import build_empty
from vpbench.models.registry import method_class, method_registry, resolve_method
from vpbench.reporting.describe import describe_method


def shown(*words: str) -> dict[str, Any]:
    done = vpbench("show", "method", *words, "--json")
    assert done.code == 0, done.err
    facts: dict[str, Any] = json.loads(done.out)
    return facts


def test_the_parameters_of_lora() -> None:
    facts = shown("lora", "--backbone", "vit-b16-in21k", "--set", "lora.rank=16", "--classes", "10")
    assert facts["parameter_formula"].startswith("4 L D r")
    assert facts["parameter_counts"] == {
        "backbone": "vit-b16-in21k", "image_size": 224, "classes": 10, "trained": 597_514, "of_the_method": 589_824,
        "active": 589_824, "of_the_head": 7_690,
    }  # fmt: skip
    assert facts["parameters_by_tensor"] == [
        {"tensor": "updates.*_qkv.A", "shapes": "12 x 16 x 768", "parameters": 147_456, "trained": True},
        {"tensor": "updates.*_qkv.B", "shapes": "12 x 2,304 x 16", "parameters": 442_368, "trained": True},
        {"tensor": "head.weight", "shapes": "10 x 768", "parameters": 7_680, "trained": True},
        {"tensor": "head.bias", "shapes": "10", "parameters": 10, "trained": True},
    ]
    assert next(option["value"] for option in facts["options"] if option["option"] == "rank") == 16


def test_what_is_trained_in_the_backbone_and_what_is_constant() -> None:
    bias = shown("bias", "--backbone", "vit-nano")["parameters_by_tensor"]
    assert {"tensor": "backbone.blocks.*.mlp.fc1.bias", "shapes": "6 x 768", "parameters": 4608, "trained": True} in bias
    frozen = [
        group for group in shown("insvp:released", "--backbone", "vit-nano")["parameters_by_tensor"] if not group["trained"]
    ]
    assert {group["tensor"].partition(".")[0] for group in frozen} == {"specific"}


def test_for_readers() -> None:
    done = vpbench("show", "method", "vpt", "--backbone", "vit-nano")
    assert done.code == 0, done.err
    for part in ("6 x 10 x 192", "11,520", "parameter_formula", "parameters_by_tensor", "trained: 30,820"):
        assert part in done.out


@pytest.mark.parametrize("name", ["sct", "sidetune", "spt", "viapt", "ivpt", "partial", "mlp"])
def test_tensors_sum_to_the_counts(name: str) -> None:
    model = build_empty(resolve_method(name), resolve_backbone("vit-nano", "random"), 7, "meta")
    counts, groups = parameter_counts(model), parameter_groups(model)
    assert sum(group.parameters for group in groups) == counts["params_method"] + counts["params_head"]
    assert sum(group.parameters for group in groups if group.trained) == counts["params_trainable"]


def test_without_a_backbone_nothing_is_counted() -> None:
    assert describe_method("ssf").keys() == describe_method("ssf", {"ssf.init_std": 0.0}).keys()
    assert "parameter_counts" not in describe_method("ssf")


@pytest.mark.parametrize(
    ("words", "part"),
    [
        ("show method lora --set rank=4", "write METHOD.OPTION=VALUE"),
        ("show method lora --set vpt.prompt_length=4", "vpt is not in 'show method lora'"),
        ("show method lora --backbone vit-nan", "Did you mean 'vit-nano'?"),
        ("show method gapt --backbone swin_tiny_patch4_window7_224", "GaPT works on vit, not on swin"),
        ("show suite mini --backbone vit-nano", "--backbone and --set are for 'vpbench show method NAME', not for a suite"),
        ("list methods --group prompt", "Did you mean 'prompts'?"),
        ("list suites --group prompts", "methods have groups, suites have none"),
    ],
)
def test_mistakes(words: str, part: str) -> None:
    done = vpbench(*words.split())
    assert done.code
    assert part in done.err and done.err.count("\n") == 1


@pytest.mark.parametrize("group", ["partial", "extra", "prompts"])
def test_groups(group: str) -> None:
    done = vpbench("list", "methods", "--group", group, "--json")
    names = [entry["name"] for entry in json.loads(done.out)]
    assert names and names == [name for name in method_registry().names() if method_class(name).group == group]
