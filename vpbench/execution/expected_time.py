"""How long runs will take, from rows of runs like them. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

    from vpbench.execution.job import Job
    from vpbench.spec.run_spec import RunSpec
    from vpbench.store.store import Store

COLUMNS = ["run_id", "status", "method", "dataset", "backbone", "device", "epochs", "n_train", "wall_s"]

LIKE = (
    ("device", "backbone", "method", "dataset"), ("device", "backbone", "method"), ("device", "backbone"),
)  # fmt: skip
"""What similar runs have in common, from the most to the least similar."""


@dataclass(frozen=True)
class Work:
    """What a run's time depends on. ``images`` are training images times epochs, which it is in proportion to."""

    device: str
    backbone: str
    method: str
    dataset: str
    images: int

    @classmethod
    def of(cls, job: Job) -> Work:
        return cls.of_run(job.spec, job.n_train, job.device)

    @classmethod
    def of_run(cls, spec: RunSpec, n_train: int, device: str) -> Work:
        """For a run on ``n_train`` images that no job has been made for yet."""
        images = max(1, spec.recipe.epochs * n_train)
        return cls(device, spec.backbone.name, spec.method.label, spec.data.dataset, images)


class PastRuns:
    """Seconds of finished runs, by how much they are like another one.

    Args:
        rows: with :data:`COLUMNS`; those without the status ``ok`` are ignored.
    """

    def __init__(self, rows: pd.DataFrame | Iterable[dict[str, Any]]) -> None:
        import pandas as pd

        runs = pd.DataFrame(rows, columns=COLUMNS)
        runs = runs[(runs["status"] == "ok") & (runs["wall_s"].astype(float) > 0)]
        images = (runs["epochs"].astype(float) * runs["n_train"].astype(float)).fillna(1).clip(lower=1)
        rates = runs.assign(rate=runs["wall_s"].astype(float) / images)
        self._rates: dict[tuple[str, ...], float] = {}
        for names in LIKE:
            self._rates.update(rates.groupby(list(names), sort=False)["rate"].median().to_dict())

    def seconds(self, work: Work) -> float | None:
        """Of the most similar runs - same method and data set first, then same method, then same backbone - in proportion to
        epochs and training images; None when there is none like it on this kind of device."""
        for key in _keys(work):
            if key in self._rates:
                return self._rates[key] * work.images
        return None


def _keys(work: Work) -> list[tuple[str, ...]]:
    """From the most to the least similar."""
    return [tuple(getattr(work, name) for name in names) for names in LIKE]


def past_runs(store: Store) -> PastRuns:
    """Of everything in a results folder."""
    return PastRuns(store.read(COLUMNS).table.to_pandas())


def longest_first(jobs: Sequence[Job], past: PastRuns) -> list[Job]:
    """So that no long run is left over for the end, when the other workers have nothing to do."""
    works = [Work.of(job) for job in jobs]
    known = [past.seconds(work) for work in works]
    rates = [seconds / work.images for seconds, work in zip(known, works) if seconds is not None]
    usual = median(rates) if rates else 1.0  # for runs without similar ones, among others
    costs = [usual * work.images if seconds is None else seconds for seconds, work in zip(known, works)]
    return [job for _, job in sorted(zip(costs, jobs), key=lambda pair: pair[0], reverse=True)]


def format_duration(seconds: float) -> str:
    """``45 s``, ``12 min``, ``3.5 h`` or ``2.1 days``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 90 * 60:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 48 * 3600 else f"{seconds / 86400:.1f} days"
