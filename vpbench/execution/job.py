"""One run as a parcel: all that a process needs to do it, wherever that process is. Travels as JSON."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from vpbench.core.errors import DataError
from vpbench.data.cache import CachedData, prepare
from vpbench.data.catalog import dataset_card
from vpbench.data.places import data_root as chosen_root
from vpbench.data.raw import RawData
from vpbench.data.sources import open_dataset, open_path
from vpbench.execution.callbacks import Callback
from vpbench.execution.execute import execute
from vpbench.planning.plan import PlannedRun
from vpbench.planning.suites import as_protocol, suite_card
from vpbench.spec.device import describe, resolve_device
from vpbench.spec.run_spec import Frozen, RunSpec
from vpbench.store.claims import DATA
from vpbench.store.store import Store
from vpbench.training.checkpoint import Checkpoints

OPENED_AT_MOST = 64  # data sets that one process keeps open; opening one reads every image once, to identify it


class Job(Frozen):
    """A run, and how and where to do it.

    Attributes:
        spec: what decides the result, with the paths of weights and own data on this machine.
        recipe_source: where the recipe's values come from.
        group: of the data set within its suite.
        classes, n_train, n_val, n_test: size of the data set, for the row of a run that never came to open it.
        data_root: folder of published data sets; own data is found by ``spec.data.path``.
        save: keys of ``vpbench.store.artefacts.ARTEFACTS`` to leave beside the row.
        device: ``cpu`` or ``cuda``.
        threads: of torch on a CPU; None leaves torch its own choice.
        checkpoint_blocks: compute the backbone's blocks again in the backward pass, for less memory and equal numbers.
        timeout_s: seconds from the run's start to its row; None for no limit.
        checkpoint_s: seconds between two checkpoints; None for none but when the run is paused.
        replaces: ``started_at`` of the row that the store had when the run was planned (a failed one, or one to be done
            again), as ISO 8601; None when it had none. A row with another start has been written by somebody else since.
    """

    spec: RunSpec
    recipe_source: str
    group: str
    classes: int
    n_train: int
    n_val: int
    n_test: int
    data_root: str
    save: tuple[str, ...] = ()
    device: str = "cpu"
    threads: int | None = None
    checkpoint_blocks: bool = False
    timeout_s: float | None = None
    checkpoint_s: float | None = None
    replaces: str | None = None

    @classmethod
    def of(
        cls, run: PlannedRun, raw: RawData, *, data_root: str | Path | None = None, save: tuple[str, ...] = (),
        device: str = "cpu", threads: int | None = None, checkpoint_blocks: bool = False, timeout_s: float | None = None,
        checkpoint_s: float | None = None, replaces: str | None = None,
    ) -> Job:  # fmt: skip
        """The job for a planned run on an opened data set; paths become absolute, so that any folder will do to run in."""
        spec = run.spec
        spec = spec.model_copy(
            update={
                "backbone": spec.backbone.model_copy(update={"path": _absolute(spec.backbone.path)}),
                "data": spec.data.model_copy(update={"path": _absolute(spec.data.path)}),
            }
        )
        return cls(
            spec=spec, recipe_source=run.recipe_source, group=run.group, classes=len(raw.class_names),
            n_train=len(raw.splits["train"]), n_val=len(raw.splits["val"]), n_test=len(raw.splits["test"]),
            data_root=str(chosen_root(data_root).absolute()), save=save, device=device, threads=threads,
            checkpoint_blocks=checkpoint_blocks, timeout_s=timeout_s, checkpoint_s=checkpoint_s, replaces=replaces,
        )  # fmt: skip

    @property
    def run_id(self) -> str:
        return self.spec.run_id

    @property
    def planned(self) -> PlannedRun:
        """The run as a plan has it, which is what watchers are told."""
        return PlannedRun(self.spec, self.recipe_source, self.group)

    @property
    def sizes(self) -> dict[str, int]:
        """``classes``, ``n_train``, ``n_val`` and ``n_test``, as columns of a row."""
        return {"classes": self.classes, "n_train": self.n_train, "n_val": self.n_val, "n_test": self.n_test}

    @property
    def label(self) -> str:
        """What messages call it."""
        return self.spec.label


def _absolute(path: str | None) -> str | None:
    return None if path is None else str(Path(path).expanduser().absolute())


def run_job(
    job: Job, store: Store, callback: Callback | None = None, paused: Callable[[], bool] = lambda: False
) -> dict[str, Any]:
    """Do one job in this process, from opening its data to the row in ``store``, and return the row.

    Neither claims the run nor looks whether its row is there already: that is the executor's business.

    Raises:
        DataError: when the data set cannot be read here, or is not the one that the run was planned for.
        StoreError: when the row cannot be written.
        WeightsError: when the backbone cannot be loaded.
        Paused: soon after ``paused`` has become true, with the run's checkpoint written.
    """
    return run_prepared(job, prepare_data(job, store, callback), store, callback, paused)


def prepare_data(job: Job, store: Store, callback: Callback | None = None) -> CachedData:
    """The decoded data set of a job, from the image cache; built there first if need be, by one process at a time."""
    told, spec = callback or Callback(), job.spec
    raw = opened(job)

    def decoded() -> CachedData:
        on_progress = partial(told.preparing, spec.data.dataset)
        return prepare(raw, spec.preprocess, spec.backbone.image_size, on_progress=on_progress)

    with store.claims.alone(f"{DATA}{spec.data.digest}"):
        return decoded()


def run_prepared(
    job: Job, data: CachedData, store: Store, callback: Callback | None = None, paused: Callable[[], bool] = lambda: False
) -> dict[str, Any]:
    """Train, measure, test and store, or go on where the run was left; see :func:`vpbench.execution.execute.execute`.

    Raises:
        Paused: soon after ``paused`` has become true, with the run's checkpoint written.
    """
    told, run = callback or Callback(), job.planned
    device = resolve_device(job.device)
    if job.threads:
        torch.set_num_threads(job.threads)
    told.started(run)
    checkpoints = Checkpoints(store, job.run_id, _identity(job, device), job.checkpoint_s, paused, told.note)
    row = execute(
        run, data, store, device, job.save, partial(told.epoch, run), job.timeout_s, checkpoints,
        checkpoint_blocks=job.checkpoint_blocks,
    )  # fmt: skip
    told.finished(run, row)
    return row


def _identity(job: Job, device: torch.device) -> dict[str, str]:
    """What must not have changed for a run to go on to the same numbers."""
    here = describe(device)
    return {"run": job.run_id, **{name: str(here[name]) for name in ("vpbench_version", "git_commit", "torch", "timm", "device")}}


def row_since(job: Job, store: Store) -> dict[str, Any] | None:
    """The run's row, if somebody else has written one since the run was planned."""
    row = store.read_row(job.run_id)
    return row if row is not None and stamp(row) != job.replaces else None


def stamp(row: dict[str, Any] | None) -> str | None:
    """What tells a row from another one of the same run: its ``started_at`` as ISO 8601; None for no row."""
    started = row and row.get("started_at")
    return started.isoformat() if started else None


_Place = tuple[str | None, str, str, str, str]
_opened: dict[_Place, RawData] = {}


def opened(job: Job) -> RawData:
    """The data set of a job, opened; kept for the next job of this process.

    Raises:
        DataError: when it is not there or has other images, labels or splits than the run was planned for.
    """
    place = _place(job)
    if place not in _opened:
        _keep(place, _open(job))
    return _opened[place]


def remember(job: Job, raw: RawData) -> None:
    """Save this process from opening a job's data set again."""
    if raw.digest == job.spec.data.digest:
        _keep(_place(job), raw)


def _place(job: Job) -> _Place:
    data = job.spec.data
    return data.path, job.data_root, data.suite, data.dataset, data.digest


def _keep(place: _Place, raw: RawData) -> None:
    while len(_opened) >= OPENED_AT_MOST:
        del _opened[next(iter(_opened))]
    _opened[place] = raw


def _open(job: Job) -> RawData:
    data = job.spec.data
    if data.path is not None:
        raw = open_path(data.path)
    else:
        raw = open_dataset(dataset_card(data.dataset), job.data_root)
        raw = as_protocol(raw, suite_card(data.suite), job.spec.stage)
    if raw.digest != data.digest:
        where = data.path or f"{data.dataset} in {job.data_root}"
        raise DataError(
            f"{where}: images, labels or splits are not those that the run was planned for (digest {raw.digest[:8]}, planned "
            f"{data.digest[:8]}); use the same copy of the data everywhere, and leave it alone while runs are going on."
        )
    return raw
