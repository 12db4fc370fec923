"""One job in this process: from its data set to its row."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

import torch

from vpbench.core.user_files import add_places
from vpbench.data.cache import CachedData, prepare
from vpbench.data.image_errors import offers_to_skip
from vpbench.execution.callbacks import Callback
from vpbench.execution.execute import execute
from vpbench.execution.executor import about_claim
from vpbench.execution.job import Job, row_since
from vpbench.execution.opened_data import OpenedData
from vpbench.execution.tracked import TrackedCallback
from vpbench.spec.device import describe, resolve_device
from vpbench.store.claims import DATA
from vpbench.store.store import Store
from vpbench.training.checkpoint import Checkpoints, UnusableCheckpointError


def run_unclaimed_job(
    job: Job, store: Store, place: str, opened: OpenedData, callback: Callback, paused: Callable[[], bool]
) -> dict[str, Any] | None:
    """Do one job unless another process does it or has done it since it was planned.

    Args:
        job: what to do.
        store: receives the row.
        place: of this process, for ``vpbench status``.
        opened: the data sets of this process.
        callback: called as the run proceeds, also when the row is there already.
        paused: whether the run is to stop with a checkpoint.

    Returns:
        the row; None when another process works on the run.

    Raises:
        DataError, StoreError, WeightsError, Paused: as :func:`run_job`.
    """
    add_places(job.cards)
    data = prepare_data(job, store, opened, callback)
    with store.claims.claim(job.run_id, **about_claim(job, place)) as ours:
        if not ours:
            return None
        row = row_since(job, store)
        if row is None:
            return _train_and_store(job, data, store, opened, callback, paused)
        callback.found(job.planned, row)
        return row


def run_job(
    job: Job, store: Store, opened: OpenedData, callback: Callback, paused: Callable[[], bool] = lambda: False
) -> dict[str, Any]:
    """Do one job, from opening its data to the row in ``store``, and return the row.

    Neither claims the run nor checks whether its row is there already.

    Raises:
        DataError: when the data set cannot be read here, or is not the one that the run was planned for.
        StoreError: when the row cannot be written.
        WeightsError: when the backbone cannot be loaded.
        Paused: soon after ``paused`` has become true, with the run's checkpoint written.
    """
    add_places(job.cards)
    return _train_and_store(job, prepare_data(job, store, opened, callback), store, opened, callback, paused)


def prepare_data(job: Job, store: Store, opened: OpenedData, callback: Callback) -> CachedData:
    """The decoded data set of a job, from the image cache; built there first if need be, by one process at a time."""
    spec, raw = job.spec, opened.get(job)
    with store.claims.alone(f"{DATA}{spec.data.digest}"), offers_to_skip() if spec.data.path else nullcontext():
        on_progress = partial(callback.preparing, spec.data.dataset)
        data = prepare(raw, spec.preprocess, spec.backbone.image_size, on_progress=on_progress)
    for note in data.notes:
        if opened.is_new(said := f"note on {spec.data.dataset}: {note}"):
            callback.note(said)
    return data


def _train_and_store(
    job: Job, data: CachedData, store: Store, opened: OpenedData, callback: Callback, paused: Callable[[], bool]
) -> dict[str, Any]:
    """Train, measure, test and store, from the run's checkpoint if there is one."""
    if job.threads:
        torch.set_num_threads(job.threads)
    resolve_device(job.device)
    callback.started(job.planned)
    checkpoints = Checkpoints(store, job.run_id, _identity(job), job.checkpoint_s, paused, callback.note)
    with _tracked(job, callback, opened, checkpoints.resumes) as callback:
        try:
            row = execute(job, data, store, callback, checkpoints, opened.is_new)
        except UnusableCheckpointError as error:
            checkpoints.forget(error)
            checkpoints = Checkpoints(store, job.run_id, _identity(job), job.checkpoint_s, paused, callback.note)
            row = execute(job, data, store, callback, checkpoints, opened.is_new)
        callback.finished(job.planned, row)
    return row


@contextmanager
def _tracked(job: Job, callback: Callback, opened: OpenedData, resumed: bool) -> Iterator[Callback]:
    """The callback that reports to the job's trackers, too; the callback itself where there are none."""
    if not job.track:
        yield callback
        return
    tracked = TrackedCallback(job, callback, opened, resumed)
    try:
        yield tracked
    finally:
        tracked.stop()


def _identity(job: Job) -> dict[str, str]:
    """What must be the same for a checkpoint to lead to the same numbers."""
    here = describe(resolve_device(job.device))
    return {"run": job.run_id, **{name: str(here[name]) for name in ("vpbench_version", "git_commit", "torch", "timm", "device")}}
