"""A small random ViT, small random images, and trainers over them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from four_blocks import vpbench_four_blocks

from vpbench.data.batches import Normaliser
from vpbench.data.cache import CachedData, CachedSplit
from vpbench.models.build import build_model
from vpbench.models.registry import resolve_method
from vpbench.spec.recipe import Recipe
from vpbench.spec.run_spec import BackboneSpec, DataSpec, Preprocess, RunSpec
from vpbench.training.fit import Trainer

HALF = (0.5, 0.5, 0.5)
BACKBONE = BackboneSpec(name=vpbench_four_blocks.__name__, weights="random", image_size=64, patch_size=16, mean=HALF, std=HALF)

MakeTrainer = Callable[..., Trainer]


def split(count: int, seed: int, classes: int = 3) -> CachedSplit:
    """Noise whose brightness depends on the class a little."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % classes
    images = rng.integers(0, 200, (count, 64, 64, 3)) + 20 * labels[:, None, None, None]
    return CachedSplit(images.astype(np.uint8), labels.astype(np.int64), 64)


@pytest.fixture(scope="session")
def data() -> CachedData:
    return CachedData(split(9, 0), split(6, 1), split(6, 2), ("dark", "grey", "bright"))


@pytest.fixture
def make_trainer(data: CachedData) -> MakeTrainer:
    """A trainer for a method's label; keywords are options of the method, fields of the recipe or of the run."""

    def make(
        label: str, data: CachedData = data, options: dict[str, Any] | None = None, val_curve: bool = False, **settings: Any
    ) -> Trainer:  # fmt: skip
        run = {name: settings.pop(name) for name in ("seed", "selection", "preprocess", "precision") if name in settings}
        recipe = Recipe(**{"optimizer": "adamw", "lr": 0.01, "epochs": 1, "batch_size": 4, **settings})
        spec = RunSpec(
            **{"seed": 42, "preprocess": Preprocess(), **run},
            method=resolve_method(label, options),
            backbone=BACKBONE,
            data=DataSpec(suite="custom", dataset="noise", digest="0"),
            recipe=recipe,
        )
        torch.manual_seed(spec.seed)
        model = build_model(spec.method, spec.backbone, len(data.class_names))
        return Trainer(model, data, spec, Normaliser(HALF, HALF), torch.device("cpu"), val_curve=val_curve)

    return make
