"""How long runs will take, from rows of runs like them. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from statistics import median
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vpbench.execution.job import Job
    from vpbench.store.folder import Store

COLUMNS = ["run_id", "status", "method", "dataset", "backbone", "device", "epochs", "n_train", "wall_s"]


class PastRuns:
    """Seconds of finished runs, by how much they are like another one.

    Args:
        rows: with :data:`COLUMNS`; those without the status ``ok`` tell nothing.
    """

    def __init__(self, rows: Iterable[dict[str, Any]]) -> None:
        self._rates: dict[tuple[str, ...], list[float]] = {}
        for row in rows:
            if row["status"] != "ok" or not row["wall_s"]:
                continue
            work = max(1, (row["epochs"] or 0) * (row["n_train"] or 0))
            for key in _keys(row["device"], row["backbone"], row["method"], row["dataset"]):
                self._rates.setdefault(key, []).append(row["wall_s"] / work)

    def seconds(self, job: Job) -> float | None:
        """Of the most similar runs - same method and data set first, then same method, then same backbone - in proportion to
        epochs and training images; None when there is none like it on this kind of device."""
        spec = job.spec
        for key in _keys(job.device, spec.backbone.name, spec.method.label, spec.data.dataset):
            if key in self._rates:
                return median(self._rates[key]) * work_of(job)
        return None


def _keys(device: str, backbone: str, method: str, dataset: str) -> list[tuple[str, ...]]:
    """From the most to the least similar."""
    return [(device, backbone, method, dataset), (device, backbone, method), (device, backbone)]


def work_of(job: Job) -> int:
    """Training images times epochs: in proportion to the time that a run takes, where nothing better is known."""
    return max(1, job.spec.recipe.epochs * job.n_train)


def past_runs(store: Store) -> PastRuns:
    """Of everything in a results folder."""
    return PastRuns(store.read_columns(COLUMNS))


def longest_first(jobs: Sequence[Job], past: PastRuns) -> list[Job]:
    """So that no long run is left over for the end, when the other workers have nothing to do."""
    known = {job.run_id: past.seconds(job) for job in jobs}
    rates = [seconds / work_of(job) for job in jobs if (seconds := known[job.run_id]) is not None]
    usual = median(rates) if rates else 1.0  # for runs that nothing is known of, among others

    def cost(job: Job) -> float:
        seconds = known[job.run_id]
        return usual * work_of(job) if seconds is None else seconds

    return sorted(jobs, key=cost, reverse=True)


def spoken(seconds: float) -> str:
    """``45 s``, ``12 min``, ``3.5 h`` or ``2.1 days``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 90 * 60:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 48 * 3600 else f"{seconds / 86400:.1f} days"
