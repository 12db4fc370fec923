"""One run with all that a process needs to do it, wherever that process is. Travels as JSON."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vpbench.core.hub import located
from vpbench.core.user_files import places
from vpbench.data.places import data_root
from vpbench.planning.plan import Plan, PlannedRun
from vpbench.spec.device import planned_device
from vpbench.spec.run_options import JobOptions
from vpbench.spec.run_spec import RunSpec
from vpbench.store.store import Store


class Job(JobOptions):
    """A run, and how and where to do it.

    Attributes:
        spec: what decides the result, with the paths of weights and own data on this machine.
        recipe_source: where the recipe's values come from.
        group: of the data set within its suite.
        classes, n_train, n_val, n_test: size of the data set, for the row of a run whose process never opened it.
        data_root: folder of published data sets; own data is found by ``spec.data.path``.
        device: ``cpu`` or ``cuda``.
        measured: whether latency, throughput and memory are measured, too.
        cards: folders and files of the user's cards and methods, absolute.
        replaces: ``started_at`` of the row that the store had when the run was planned (a failed one, or one to be repeated),
            as ISO 8601; None when it had none. A row with another start has been written by another process since.
        results: results folder of the command, absolute, where trackers write.
        warning: of the plan, for the row.
    """

    spec: RunSpec
    recipe_source: str
    group: str
    classes: int
    n_train: int
    n_val: int
    n_test: int
    data_root: str
    device: str = "cpu"
    measured: bool = True
    cards: tuple[str, ...] = ()
    replaces: str | None = None
    results: str = ""
    warning: str = ""

    @classmethod
    def of(
        cls, run: PlannedRun, plan: Plan, options: JobOptions, replaces: str | None = None, results: str | Path = ""
    ) -> Job:  # fmt: skip
        """The job for a run of a plan; paths become absolute, so that it can be done in any working directory."""
        spec, raw = run.spec, plan.data[run.spec.data.dataset]
        spec = spec.model_copy(
            update={
                "backbone": spec.backbone.model_copy(update={"path": _absolute(spec.backbone.path)}),
                "data": spec.data.model_copy(update={"path": _absolute(spec.data.path)}),
            }
        )
        return cls(
            spec=spec, recipe_source=run.recipe_source, group=run.group, classes=len(raw.class_names),
            n_train=len(raw.splits["train"]), n_val=len(raw.splits["val"]), n_test=len(raw.splits["test"]),
            data_root=str(data_root(plan.request.data_root).absolute()), device=planned_device(plan.request.device).type,
            measured=run.measured, cards=tuple(map(str, places())), replaces=replaces,
            results=str(Path(results).absolute()), warning=run.warning, **options.model_dump(),
        )  # fmt: skip

    @property
    def run_id(self) -> str:
        return self.spec.run_id

    @property
    def planned(self) -> PlannedRun:
        """The run as a plan has it, which is what callbacks receive."""
        return PlannedRun(self.spec, self.recipe_source, self.group, self.measured, self.warning)

    @property
    def sizes(self) -> dict[str, int]:
        """``classes``, ``n_train``, ``n_val`` and ``n_test``, as columns of a row."""
        return {"classes": self.classes, "n_train": self.n_train, "n_val": self.n_val, "n_test": self.n_test}

    @property
    def label(self) -> str:
        """What messages call it."""
        return self.spec.label


def _absolute(path: str | None) -> str | None:
    return None if path is None else located(path)


def row_since(job: Job, store: Store) -> dict[str, Any] | None:
    """The run's row, if another process has written one since the run was planned."""
    row = store.read_row(job.run_id)
    return row if row is not None and row_version(row) != job.replaces else None


def row_version(row: dict[str, Any] | None) -> str | None:
    """What distinguishes a row from another one of the same run: its ``started_at`` as ISO 8601; None for no row."""
    started = row and row.get("started_at")
    return started.isoformat() if started else None
