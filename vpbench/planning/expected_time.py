"""How long runs will take, from rows of runs like them. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import numpy as np

if TYPE_CHECKING:
    import pandas as pd

    from vpbench.spec.run_spec import RunSpec
    from vpbench.store.store import Store

COLUMNS = [
    "run_id", "status", "method", "dataset", "backbone", "image_size", "device", "epochs", "n_train", "wall_s",
    "train_images_per_s",
]  # fmt: skip

LIKE = (
    ("device", "backbone", "method", "dataset"), ("device", "backbone", "method"), ("device", "backbone"),
)  # fmt: skip
"""What similar runs have in common, from the most to the least similar."""


class Job(Protocol):
    """What is read of a job, see :class:`vpbench.execution.job.Job`."""

    @property
    def spec(self) -> RunSpec: ...

    @property
    def n_train(self) -> int: ...

    @property
    def device(self) -> str: ...


AnyJob = TypeVar("AnyJob", bound=Job)


@dataclass(frozen=True)
class Work:
    """What a run's time depends on. ``images`` are training images times epochs; ``image_size`` is None where it is not known."""

    device: str
    backbone: str
    method: str
    dataset: str
    images: int
    image_size: int | None = None

    @classmethod
    def of(cls, job: Job) -> Work:
        """For a job of a plan."""
        return cls.of_run(job.spec, job.n_train, job.device)

    @classmethod
    def of_run(cls, spec: RunSpec, n_train: int, device: str) -> Work:
        """For a run on ``n_train`` images that no job has been made for yet."""
        images = max(1, spec.recipe.epochs * n_train)
        return cls(device, spec.backbone.name, spec.method.label, spec.data.dataset, images, spec.backbone.image_size)


class PastRuns:
    """Seconds of finished runs, by how much they are like another one.

    A run takes seconds that do not depend on how much it trains (decoding, measuring), and seconds of every image. The speed
    of its training steps, which the row has, tells them apart.

    Args:
        rows: with :data:`COLUMNS`; those without the status ``ok`` are ignored.
    """

    def __init__(self, rows: pd.DataFrame | Iterable[dict[str, Any]]) -> None:
        import pandas as pd

        runs = pd.DataFrame(rows, columns=COLUMNS)
        runs = runs[(runs["status"] == "ok") & (runs["wall_s"].astype(float) > 0)]
        wall, speed = runs["wall_s"].astype(float), runs["train_images_per_s"].astype(float)
        images = (runs["epochs"].astype(float) * runs["n_train"].astype(float)).fillna(1).clip(lower=1)
        training = (images / speed.where(speed > 0)).clip(upper=wall).fillna(wall)
        self._past = pd.DataFrame(
            {"fixed": wall - training, "per_image": training / images, "image_size": runs["image_size"].astype(float)}
        ).to_numpy()
        self._places: dict[Any, Any] = {}
        for names in LIKE if len(runs) else ():
            self._places.update(runs.groupby(list(names), sort=False).indices)

    def seconds(self, work: Work) -> float | None:
        """Of the most similar runs - same method and data set first, then same method, then same backbone - in proportion to
        epochs, training images and pixels of an image; None when there is none like it on this kind of device."""
        for key in _keys(work):
            if key in self._places:
                fixed, per_image, image_size = self._past[self._places[key]].T
                scale = np.nan_to_num(((work.image_size or np.nan) / image_size) ** 2, nan=1.0)
                return float(np.median(fixed + per_image * work.images * scale))
        return None


def _keys(work: Work) -> list[tuple[str, ...]]:
    """From the most to the least similar."""
    return [tuple(getattr(work, name) for name in names) for names in LIKE]


def past_runs(store: Store) -> PastRuns:
    """Of everything in a results folder."""
    rows = store.read([*COLUMNS, "stage"]).table.to_pandas()
    return PastRuns(rows[rows["stage"] != "shift"])  # nothing was trained there


def longest_first(jobs: Sequence[AnyJob], past: PastRuns) -> list[AnyJob]:
    """So that no long run is left over for the end, when the other workers have nothing to do."""
    works = [Work.of(job) for job in jobs]
    known = [past.seconds(work) for work in works]
    rates = [seconds / work.images for seconds, work in zip(known, works) if seconds is not None]
    usual = median(rates) if rates else 1.0  # for runs without similar ones, among others
    costs = [usual * work.images if seconds is None else seconds for seconds, work in zip(known, works)]
    return [job for _, job in sorted(zip(costs, jobs), key=lambda pair: pair[0], reverse=True)]


def format_duration(seconds: float) -> str:
    """``less than 1 s``, ``45 s``, ``12 min``, ``3.5 h`` or ``2.1 days``."""
    if seconds < 1:
        return "less than 1 s"
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 90 * 60:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 48 * 3600 else f"{seconds / 86400:.1f} days"
