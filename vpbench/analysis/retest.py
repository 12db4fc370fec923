"""Stored models of a plan on changed test images, one after the other in this process; nothing is trained."""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from typing import TYPE_CHECKING, Any

import pandas as pd

from vpbench.analysis.corruptions import corruption_names
from vpbench.analysis.noise import check_sigmas, evaluate_noise
from vpbench.analysis.robustness import evaluate_corruptions
from vpbench.core.errors import UsageError
from vpbench.data.catalog import dataset_card
from vpbench.data.raw import RawData
from vpbench.execution.callbacks import Callback
from vpbench.planning.plan import Plan
from vpbench.spec.run_options import RunOptions
from vpbench.store.store import Store
from vpbench.tasks import task_class

if TYPE_CHECKING:
    from vpbench.spec.run_spec import BackboneSpec


def check_options(options: RunOptions) -> None:
    """
    Raises:
        UsageError: for a standard deviation, a corruption or a data set that does not exist.
    """
    if options.noise:
        check_sigmas(options.noise)
    if options.corruptions is not None:
        corruption_names(options.corruptions)
    for name in options.test_on or ():
        dataset_card(name)


def check_plan(plan: Plan, options: RunOptions) -> None:
    """
    Raises:
        UsageError: for noise or corruptions where a task has other targets than classes.
    """
    option = "--noise" if options.noise else "--corruptions" if options.corruptions else ""
    for run in plan.runs if option else ():
        if (task := task_class(run.spec.task.name)).target != "class":
            raise UsageError(f"{option} is for image classification, and {run.spec.data.dataset} is for {task.title}.")


def retest(plan: Plan, store: Store, rows: pd.DataFrame, options: RunOptions, callback: Callback) -> None:
    """Test the stored models of a plan under the noise and the corruptions of the options.

    Args:
        rows: of the plan; those that are not ok are skipped.
        callback: called once per model and kind of change.
    """
    device = plan.request.device
    if options.noise:
        for row, data, backbone in _stored_models(plan, rows):
            callback.tested_on_noise(row, evaluate_noise(row, store, options.noise, device, data, backbone))
    if options.corruptions:
        for row, data, backbone in _stored_models(plan, rows):
            callback.tested_on_corruptions(row, evaluate_corruptions(row, store, options.corruptions, device, data, backbone))


def _stored_models(plan: Plan, rows: pd.DataFrame) -> Iterator[tuple[dict[Hashable, Any], RawData, BackboneSpec]]:
    """Rows of a plan that are ok, each with its data set and backbone."""
    specs = {run.spec.run_id: run.spec for run in plan.runs}
    for row in rows[rows["status"] == "ok"].to_dict("records"):
        spec = specs[row["run_id"]]
        yield row, plan.data[spec.data.dataset], spec.backbone
