"""How long runs will take, from rows of runs like them. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vpbench.execution.job import Job
    from vpbench.spec.run_spec import RunSpec
    from vpbench.store.store import Store

COLUMNS = [
    "run_id", "status", "method", "dataset", "backbone", "image_size", "device", "epochs", "n_train", "wall_s",
    "train_images_per_s",
]  # fmt: skip


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
        return cls.of_run(job.spec, job.n_train, job.device)

    @classmethod
    def of_run(cls, spec: RunSpec, n_train: int, device: str) -> Work:
        """For a run on ``n_train`` images that no job has been made for yet."""
        images = max(1, spec.recipe.epochs * n_train)
        return cls(device, spec.backbone.name, spec.method.label, spec.data.dataset, images, spec.backbone.image_size)


@dataclass(frozen=True)
class _Past:
    """A finished run: seconds that do not depend on how much it trains (decoding, measuring), and seconds of an image."""

    fixed: float
    per_image: float
    image_size: int | None

    @classmethod
    def of(cls, row: dict[str, Any], images: int) -> _Past:
        """What training steps take by themselves, which the row has, tells how much of the time was training."""
        speed = row.get("train_images_per_s")
        training = min(row["wall_s"], images / speed) if speed else row["wall_s"]
        return cls(row["wall_s"] - training, training / images, row.get("image_size"))

    def seconds(self, work: Work) -> float:
        """Of another run: in proportion to its images and their pixels."""
        known = work.image_size and self.image_size
        scale = (work.image_size / self.image_size) ** 2 if known else 1.0  # type: ignore[operator]
        return self.fixed + self.per_image * work.images * scale


class PastRuns:
    """Seconds of finished runs, by how much they are like another one.

    Args:
        rows: with :data:`COLUMNS`; those without the status ``ok`` are ignored.
    """

    def __init__(self, rows: Iterable[dict[str, Any]]) -> None:
        self._past: dict[tuple[str, ...], list[_Past]] = {}
        for row in rows:
            if row["status"] != "ok" or not row["wall_s"]:
                continue
            images = max(1, (row["epochs"] or 0) * (row["n_train"] or 0))
            for key in _keys(Work(row["device"], row["backbone"], row["method"], row["dataset"], images)):
                self._past.setdefault(key, []).append(_Past.of(row, images))

    def seconds(self, work: Work) -> float | None:
        """Of the most similar runs - same method and data set first, then same method, then same backbone - in proportion to
        epochs, training images and pixels of an image; None when there is none like it on this kind of device."""
        for key in _keys(work):
            if key in self._past:
                return median(past.seconds(work) for past in self._past[key])
        return None


def _keys(work: Work) -> list[tuple[str, ...]]:
    """From the most to the least similar."""
    return [
        (work.device, work.backbone, work.method, work.dataset), (work.device, work.backbone, work.method),
        (work.device, work.backbone),
    ]  # fmt: skip


def past_runs(store: Store) -> PastRuns:
    """Of everything in a results folder."""
    return PastRuns(store.read_columns(COLUMNS))


def longest_first(jobs: Sequence[Job], past: PastRuns) -> list[Job]:
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
