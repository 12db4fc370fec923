"""What ``vpbench list methods`` and ``show method`` say of every method is what it does: requirements, parameters."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from sweeps import REPRESENTATIVE, case
from timm.models import VisionTransformer

from vpbench.backbones.family import adapter_for
from vpbench.core.errors import UnsupportedError
from vpbench.interface import Method
from vpbench.models.build import add_method, needs_classifier
from vpbench.models.registry import method_class, method_registry, resolve_method
from vpbench.reporting.describe import parameter_formula

sweep = pytest.mark.parametrize("name", method_registry().names())
# What iVPT's Table 1 prints in millions, where that is another number than the method's, or follows from no single setting.
PRINTED = {
    "adaptformer": "0.22", "bi_adapter": "0.64", "dam_vp": "2.52", "e2vpt": "0.27", "expres": "0.98", "fact": "0.11",
    "ivpt": "0.60", "lora": "0.43", "snf": "0.29", "spt": "0.54", "vpt": "0.60",
}  # fmt: skip
WITHOUT_CLASS_TOKEN = partial(
    VisionTransformer, img_size=32, patch_size=8, embed_dim=192, depth=2, num_heads=3, num_classes=0, class_token=False,
    global_pool="avg",
)  # fmt: skip


@sweep
def test_a_pass_before_training_is_a_requirement(name: str) -> None:
    """Or the second network whose weights are loaded then."""
    kind = method_class(name)
    stated = any("before training" in each or each == "second network" for each in kind.requires)
    assert stated == (kind.prepare is not Method.prepare)


@sweep
def test_a_source_classifier_is_a_requirement(name: str) -> None:
    assert ("source classifier" in method_class(name).requires) == needs_classifier(resolve_method(name))


@pytest.mark.parametrize(
    "name", [case(name, always=REPRESENTATIVE | {"gapt", "insvp", "self_prompt"}) for name in method_registry().names()]
)
def test_a_class_token_is_a_requirement(name: str) -> None:
    """A method that refuses a backbone without one is listed as requiring it, and no other."""
    required = any(each.startswith("class token") for each in method_class(name).requires)
    with torch.device("meta"):
        adapter = adapter_for(WITHOUT_CLASS_TOKEN())
        if needs_classifier(resolve_method(name)):
            adapter.set_source_classifier(torch.nn.Linear(adapter.feature_width, 24))
        try:
            add_method(resolve_method(name), adapter, 7)
        except UnsupportedError as error:
            assert required and "class token" in str(error)
        else:
            assert not required


@sweep
def test_the_parameter_formula_is_stated(name: str) -> None:
    assert parameter_formula(method_class(name))


@pytest.mark.parametrize("name", PRINTED)
def test_notes_say_what_a_paper_prints(name: str) -> None:
    assert any(f"{PRINTED[name]} M" in note for note in method_class(name).notes)
