"""The columns of a row that repeat its run's specification."""

from __future__ import annotations

from typing import Any

from vpbench.spec.run_spec import RunSpec


def spec_columns(spec: RunSpec) -> dict[str, Any]:
    """Columns as short texts and numbers, by name; those that hold JSON are left out."""
    return {
        "run_id": spec.run_id,
        "group_id": spec.group_id,
        "stage": spec.stage,
        "method": spec.method.label,
        "method_version": spec.method.version,
        "backbone": spec.backbone.name,
        "weights": spec.backbone.weights,
        "weights_sha256": spec.backbone.sha256,
        "image_size": spec.backbone.image_size,
        "task": spec.task.name,
        "suite": spec.data.suite,
        "dataset": spec.data.dataset,
        "data_digest": spec.data.common_digest,
        "seed": spec.seed,
        "optimizer": spec.recipe.optimizer,
        "lr": spec.recipe.peak_lr,
        "weight_decay": spec.recipe.weight_decay,
        "epochs": spec.recipe.epochs,
        "batch_size": spec.recipe.batch_size,
        "precision": spec.precision,
        "selection": spec.selection,
    }
