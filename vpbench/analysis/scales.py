"""Testing a stored segmentation on several scales and mirrored, without training it again."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vpbench.core.errors import StoreError, UsageError
from vpbench.data.raw import RawData
from vpbench.store.store import Store
from vpbench.tasks import resolve_task

if TYPE_CHECKING:
    import pandas as pd
    import torch

    from vpbench.planning.plan import Plan
    from vpbench.spec.run_spec import BackboneSpec, TaskSpec

SCALES_FILE = "scales.json"


def evaluate_scales(
    row: Mapping[Any, Any],
    store: Store,
    scales: Sequence[float],
    device: torch.device | str = "auto",
    raw: RawData | None = None,
    backbone: BackboneSpec | None = None,
) -> dict[str, Any]:
    """Test a stored model on its test images in several sizes, as they are and mirrored, and keep what is found beside its row.

    What the file has already of the same scales is not evaluated again.

    Args:
        row: of a run that is ok and was made with ``--save weights``.
        store: holds its tensors and receives the file.
        scales: ratios to the size of the single-scale evaluation.
        device: ``auto``, or where to compute.
        raw: the data set where it is open already.
        backbone: the run's, where the path of its weights is known already.

    Returns:
        ``scales``, and in percent ``miou``, ``macc``, ``aacc`` of one scale and ``miou_ms``, ``macc_ms``, ``aacc_ms`` of all.

    Raises:
        UsageError: for a scale that is no number above 0, or a run of another task.
        StoreError, WeightsError, DataError: see :func:`vpbench.analysis.load.load_stored`.
    """
    wanted = check_scales(scales)
    from vpbench.analysis.load import load_stored
    from vpbench.data.batches import Normaliser
    from vpbench.spec.device import resolve_device
    from vpbench.spec.precision import float32_products
    from vpbench.store.artefacts import ARTEFACTS
    from vpbench.tasks import make_task
    from vpbench.training.fit import Trainer

    run_id = row["run_id"]
    known = _known(store, run_id, store.artefact_path(run_id, ARTEFACTS["weights"]))
    if known is not None and known["scales"] == wanted:
        return known
    place = resolve_device(device) if isinstance(device, str) else device
    stored = load_stored(row, store, place, raw, backbone)
    stored.model.task = make_task(with_scales(stored.spec.task, wanted), len(stored.data.class_names))
    normalise = Normaliser(stored.spec.backbone.mean, stored.spec.backbone.std, place)
    trainer = Trainer(stored.model, stored.data, stored.spec, normalise, place)
    with float32_products(stored.spec.precision):
        columns = trainer.evaluate(stored.data.test, test=True).columns()
    names = ("miou", "macc", "aacc", "miou_ms", "macc_ms", "aacc_ms")
    found = {"scales": wanted, **{name: columns[name] for name in names}}

    def write(path: Path) -> None:
        path.write_text(json.dumps(found, indent=1), encoding="utf-8")

    store.write_artefact(run_id, SCALES_FILE, write)
    return found


def check_plan(plan: Plan, scales: Sequence[float]) -> None:
    """
    Raises:
        UsageError: for a scale that is no number above 0, or a run whose task has no scales.
    """
    for task in {run.spec.task.name: run.spec.task for run in plan.runs}.values():
        if "scales" not in task.config:
            raise UsageError(f"--scales is for segmentation, and a run here is of {task.name}: leave it out.")
        with_scales(task, check_scales(scales))


def multi_scale_notes(plan: Plan, store: Store, rows: pd.DataFrame, scales: Sequence[float]) -> Iterator[str]:
    """Test the stored models of a plan, one after the other in this process; a sentence on each.

    Args:
        rows: of the plan; those that are not ok are skipped.
    """
    specs = {run.spec.run_id: run.spec for run in plan.runs}
    for row in rows[rows["status"] == "ok"].to_dict("records"):
        spec = specs[row["run_id"]]
        found = evaluate_scales(row, store, scales, plan.request.device, plan.data[spec.data.dataset], spec.backbone)
        yield f"scales: {spec.label}: mIoU {found['miou_ms']:.1f}, on one scale {found['miou']:.1f}"


def with_scales(task: TaskSpec, scales: Sequence[float]) -> TaskSpec:
    """The same task, also evaluated on these scales.

    Raises:
        UsageError: when the task has no scales.
    """
    return resolve_task(task.name, {**task.config, "scales": list(scales)})


def check_scales(scales: Sequence[float]) -> list[float]:
    """Scales in ascending order, each once.

    Raises:
        UsageError: for one that is no number above 0, or none at all.
    """
    if not scales:
        raise UsageError("--scales names no scale; for example --scales 0.5,0.75,1,1.25,1.5,1.75.")
    for scale in scales:
        if not (math.isfinite(scale) and 0 < scale <= 16):
            raise UsageError(f"--scales {scale:g}: a scale is a number above 0 and up to 16, 1 for the size of the images.")
    return sorted({float(scale) for scale in scales})


def _known(store: Store, run_id: str, weights: Path) -> dict[str, Any] | None:
    """What was found earlier; None when the model was trained again since."""
    path = store.artefact_path(run_id, SCALES_FILE)
    if not path.exists() or (weights.exists() and path.stat().st_mtime_ns < weights.stat().st_mtime_ns):
        return None
    try:
        found: dict[str, Any] = json.loads(store.read_artefact(run_id, SCALES_FILE))
        return {"scales": found["scales"], **{name: float(value) for name, value in found.items() if name != "scales"}}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise StoreError(f"{path} has no scores of several scales: delete it, and evaluate the run again.") from error
