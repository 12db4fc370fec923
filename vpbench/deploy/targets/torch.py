"""``--to torch``: a model that torch and timm load without vpbench."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import timm
import torch
from timm.models import save_for_hf
from torch import nn

from vpbench.deploy.export_target import ExportTarget
from vpbench.deploy.inference_form import as_timm, check_logits, exact_logits, example_inputs, inference_form
from vpbench.deploy.model_card import write_card, write_config
from vpbench.deploy.traced import traced
from vpbench.models.prompted import PromptedModel
from vpbench.models.saved import TrainedModel

PROGRAM = "model.pt2"
OF_TIMM = """
import timm

model = timm.create_model("local-dir:THIS_FOLDER", pretrained=True).eval()
transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
logits = model(transform(image)[None])  # image: a PIL image in RGB
"""
OF_TORCH = """
import torch

model = torch.export.load("THIS_FOLDER/model.pt2").module()
logits = model(images)  # (B, 3, {size}, {size}), prepared as below
"""


class Torch(ExportTarget):
    """A model of timm where the method merges exactly into the backbone, else a program of ``torch.export``."""

    summary: ClassVar[str] = "loads with torch and timm alone: a model of timm where the method merges exactly, else torch.export"

    def write(self, trained: TrainedModel, folder: Path, row: Mapping[str, Any] | None) -> str:
        model = inference_form(trained)
        plain = as_timm(model, trained)
        if plain is None:
            return _write_program(model, trained, folder, row)
        return _write_timm(plain, model, trained, folder, row)


def _write_timm(
    plain: nn.Module, model: PromptedModel, trained: TrainedModel, folder: Path, row: Mapping[str, Any] | None
) -> str:  # fmt: skip
    """timm's own layout, config.json and model.safetensors, which it reads by ``local-dir:`` and ``hf-hub:``."""
    from vpbench.backbones.weights import timm_architecture

    description, transform = trained.description, trained.transform
    how, size = description.preprocess, transform.image_size
    settings: Any = plain
    settings.pretrained_cfg = {
        **settings.pretrained_cfg, "input_size": (3, size, size), "mean": transform.mean, "std": transform.std,
        "interpolation": how.interpolation, "num_classes": len(trained.class_names),
        "crop_mode": "squash" if how.resize == "stretch" else "center",
        "crop_pct": 1.0 if how.resize == "stretch" else how.crop_ratio,
    }  # fmt: skip
    settings.pretrained_cfg = {
        name: value for name, value in settings.pretrained_cfg.items() if not name.startswith("test_") and name != "tag"
    }
    _, arguments = timm_architecture(description.backbone)
    save_for_hf(
        plain, str(folder), {"label_names": list(trained.class_names)}, model_args=arguments, safe_serialization=True
    )  # fmt: skip
    write_card(description, folder, OF_TIMM, row)
    loaded = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    images = example_inputs(trained)
    check_logits("what timm loads", exact_logits(loaded, images), exact_logits(model, images))
    return "a model of timm: timm.create_model('local-dir:{folder}', pretrained=True)"


def _write_program(model: PromptedModel, trained: TrainedModel, folder: Path, row: Mapping[str, Any] | None) -> str:
    program = traced(model, trained)
    torch.export.save(program, folder / PROGRAM)
    images = example_inputs(trained)
    loaded = torch.export.load(folder / PROGRAM).module()
    check_logits("what torch.export loads", exact_logits(loaded, images), exact_logits(model, images))
    write_config(trained.description, folder)
    write_card(trained.description, folder, OF_TORCH.format(size=trained.transform.image_size), row)
    return f"a program of torch.export: torch.export.load('{{folder}}/{PROGRAM}').module()"
