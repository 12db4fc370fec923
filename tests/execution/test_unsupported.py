"""A method that does not work on a backbone: planning finds it, with the reason, and so does every table."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from sweeps import case, some
from timm.models import SwinTransformer, VisionTransformer, register_model
from timm.models.eva import Eva

import vpbench
from vpbench.cli.show_runs import show_plan
from vpbench.core.errors import UnsupportedError
from vpbench.execution import execute
from vpbench.models.build import build_empty, build_model
from vpbench.models.registry import method_registry, resolve_method
from vpbench.planning.plan import make_plan
from vpbench.reporting.make_report import make_report
from vpbench.spec.request import Request
from vpbench.spec.run_options import RunOptions
from vpbench.spec.run_spec import BackboneSpec
from vpbench.store.store import Store

SIZE, CLASSES = 32, 5
_VIT: dict[str, Any] = {"patch_size": 8, "embed_dim": 48, "depth": 2, "num_heads": 3}
_SWIN: dict[str, Any] = {"patch_size": 4, "embed_dim": 24, "depths": (2, 2), "num_heads": (2, 3), "window_size": 4}


def _model(kind: type[torch.nn.Module], build: dict[str, Any], named: dict[str, Any]) -> torch.nn.Module:
    """As timm builds a model by its name: what timm adds for itself is left out."""
    kept = {name: value for name, value in named.items() if name in ("img_size", "num_classes", "patch_size", "global_pool")}
    return kind(**{"img_size": SIZE, **build, **kept})


@register_model
def vpbench_unsupported_vit(**named: Any) -> torch.nn.Module:
    return _model(VisionTransformer, _VIT, named)


@register_model
def vpbench_unsupported_mean(**named: Any) -> torch.nn.Module:
    return _model(VisionTransformer, {**_VIT, "global_pool": "avg", "class_token": False}, named)


@register_model
def vpbench_unsupported_eva(**named: Any) -> torch.nn.Module:
    return _model(Eva, {**_VIT, "use_rot_pos_emb": True, "swiglu_mlp": True, "qkv_fused": False, "scale_mlp": True}, named)


@register_model
def vpbench_unsupported_swin(**named: Any) -> torch.nn.Module:
    return _model(SwinTransformer, _SWIN, named)


BACKBONES = ("vit", "mean", "eva", "swin")
# Settings without which a method made for wide tokens and large images does not fit these.
FITTING: dict[str, dict[str, Any]] = {
    "adapter": {"reduction": 8}, "dam_vp": {"pad": 4}, "e2vpt": {"segments": 8}, "viapt": {"pca_dim": 8}, "vp": {"size": 4},
}  # fmt: skip


def spec_of(name: str, **changes: Any) -> BackboneSpec:
    values = {"weights": "random", "image_size": SIZE, "patch_size": 4 if name == "swin" else 8}
    return BackboneSpec(name=f"vpbench_unsupported_{name}", mean=(0.5,) * 3, std=(0.5,) * 3, **{**values, **changes})


@cache
def planned(method: str, backbone: str) -> str:
    """Why planning finds that a method does not work; empty where it does."""
    try:
        build_empty(resolve_method(method, FITTING.get(method)), spec_of(backbone), CLASSES, "meta")
    except UnsupportedError as error:
        return str(error)
    return ""


NO_FC1 = "this method needs the site fc1, and this backbone has no such module."
# A method that came later needs no line here: that its plan and its run agree is tested for all.
EXPECTED = {
    ("fact", "eva"): NO_FC1,
    ("gps", "eva"): NO_FC1,
    ("spt", "eva"): NO_FC1,
    ("ssf", "eva"): NO_FC1,
    ("gapt", "mean"): "GaPT gates what its prompts show to the class token, and the backbone has none.",
    ("gapt", "swin"): "GaPT works on vit, not on swin.",
    ("ivpt", "mean"): "this method reads the class token's attention, and the backbone has no class token.",
}


@pytest.mark.parametrize(
    "method",
    some(
        [
            case(name, always={"linear", "vpt", "ilm_vp", "fact", "gapt", "sa2vp"})
            for name in method_registry().names()
            if name != "peft"
        ],
        2,
    ),
)
def test_planning_finds_what_does_not_run_and_nothing_else(method: str) -> None:
    """On four backbones: the reason is known on the meta device, and it is what building and running the model says."""
    images = torch.randn(2, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    for name in BACKBONES:
        torch.manual_seed(0)
        reason = ""
        try:
            model = build_model(resolve_method(method, FITTING.get(method)), spec_of(name), CLASSES)
            model.training_loss(images, torch.tensor([0, 1]))
        except UnsupportedError as error:
            reason = str(error)
        assert reason == planned(method, name), name
        assert reason == EXPECTED.get((method, name), reason), name


@pytest.mark.parametrize("label", ["ilm_vp", "autovp:frequency"])
def test_weights_without_a_source_classifier(label: str, tmp_path: Path) -> None:
    save_file({"cls_token": torch.zeros(1, 1, 48)}, tmp_path / "headless.safetensors")
    backbone = spec_of("vit", weights="file", path=str(tmp_path / "headless.safetensors"))
    with pytest.raises(UnsupportedError, match=r"the weights headless\.safetensors have none"):
        build_empty(resolve_method(label), backbone, CLASSES, "meta")


def test_plan_row_and_table_say_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """From the plan to the footer of a table, with a method that works beside it."""
    monkeypatch.setenv("VPBENCH_CACHE", str(tmp_path / "cache"))
    for name in ("measure_training", "measure_inference", "count_operations"):
        monkeypatch.setattr(execute, name, lambda *_: {})
    asked = {
        "methods": ("gapt", "linear"), "suite": "ci", "backbone": "vpbench_unsupported_mean", "weights": "random",
        "image_size": SIZE, "patch_size": 8, "epochs": 1, "device": "cpu",
    }  # fmt: skip
    request = Request(**asked)
    plan, reason = make_plan(request, Store(tmp_path / "runs")), EXPECTED["gapt", "mean"]
    assert plan.unsupported == {run.spec.run_id: reason for run in plan.runs if run.spec.method.name == "gapt"}
    show_plan(request, RunOptions(), tmp_path / "runs", as_json=False)
    assert f"gapt is unsupported here: {reason}" in capsys.readouterr().out
    frame = vpbench.run(**asked, results=tmp_path / "runs", save=())
    assert frame.set_index("method")["status"].to_dict() == {"gapt": "unsupported", "linear": "ok"}
    assert f"Unsupported on vpbench_unsupported_mean: gapt ({reason[:-1]})." in str(make_report(results=tmp_path / "runs"))


@pytest.mark.parametrize("first", ["vit", "swin"])
def test_of_several_backbones_only_the_one_it_does_not_work_on(first: str, tmp_path: Path) -> None:
    names = [f"vpbench_unsupported_{name}" for name in ("vit", "swin")]
    backbone = tuple(names if first == "vit" else names[::-1])
    request = Request(methods=("gapt",), datasets=("digits",), seeds=1, backbone=backbone, weights="random", image_size=SIZE)
    plan = make_plan(request, Store(tmp_path))
    assert [run.spec.backbone.name for run in plan.runs if run.spec.run_id in plan.unsupported] == ["vpbench_unsupported_swin"]
