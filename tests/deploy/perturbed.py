"""Models whose trained tensors have the values of no fresh one, without any training."""

from __future__ import annotations

import torch

from vpbench.backbones.named import resolve_backbone
from vpbench.models.build import build_model
from vpbench.models.registry import resolve_method
from vpbench.models.saved import Description, TrainedModel
from vpbench.spec.recipe import Recipe
from vpbench.spec.run_spec import DataSpec, Preprocess, RunSpec

CLASSES = ("Käfer", "dog", "newt")
OPTIONS = {"sidetune": {"weights": "random"}}


def run_of(method: str) -> RunSpec:
    """A run on a ViT of two blocks (``alone.write_card``)."""
    return RunSpec(
        method=resolve_method(method, OPTIONS.get(method)), backbone=resolve_backbone("two-blocks", "random"),
        data=DataSpec(suite="custom", dataset="pets", digest="0"), preprocess=Preprocess(),
        recipe=Recipe(optimizer="adamw", lr=0.01, epochs=1, batch_size=4), seed=42,
    )  # fmt: skip


def trained(method: str) -> TrainedModel:
    """The model that such a run could have left; the same one in every call."""
    spec = run_of(method)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = build_model(spec.method, spec.backbone, len(CLASSES))
        with torch.no_grad():
            for _, tensor in model.own_tensors():
                if tensor.is_floating_point():
                    noise = torch.randn_like(tensor)
                    tensor.copy_(torch.where(tensor.isfinite(), tensor + 0.05 * noise, noise))
    return TrainedModel(model.eval(), Description.of(spec, model, CLASSES))
