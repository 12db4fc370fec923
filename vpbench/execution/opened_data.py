"""What a process keeps between its jobs: data sets that are open, since opening one reads every image once to identify it, and
what has been said of them and of weights."""

from __future__ import annotations

from vpbench.core.errors import DataError
from vpbench.data.catalog import dataset_card
from vpbench.data.raw import RawData
from vpbench.data.sources import open_dataset, open_path
from vpbench.execution.job import Job
from vpbench.planning.suites import apply_protocol, suite_card
from vpbench.tasks import task_class

OPEN_AT_MOST = 64

_Key = tuple[str | None, str, str, str, str]


class OpenedData:
    """The open data sets of one call of an executor, or of one worker process; the oldest is dropped beyond ``at_most``.

    Attributes:
        failed_trackers: names of those that have failed, and are not tried again.
    """

    def __init__(self, at_most: int = OPEN_AT_MOST) -> None:
        self._at_most = at_most
        self._opened: dict[_Key, RawData] = {}
        self._said: set[str] = set()
        self.failed_trackers: set[str] = set()

    def add(self, job: Job, raw: RawData) -> None:
        """The data set of a job, which is open already; another one than the job's is ignored."""
        if raw.digest != job.spec.data.digest:
            return
        while len(self._opened) >= self._at_most:
            del self._opened[next(iter(self._opened))]
        self._opened[_key(job)] = raw

    def get(self, job: Job) -> RawData:
        """The data set of a job, opened if it is not yet.

        Raises:
            DataError: when it is not there or has other images, labels or splits than the run was planned for.
        """
        if _key(job) not in self._opened:
            self.add(job, _open(job))
        return self._opened[_key(job)]

    def is_new(self, note: str) -> bool:
        """Whether a note on data or weights was not made yet: one that holds for every run is made once."""
        new = note not in self._said
        self._said.add(note)
        return new


def _key(job: Job) -> _Key:
    data = job.spec.data
    return data.path, job.data_root, data.suite, data.dataset, data.digest


def _open(job: Job) -> RawData:
    data = job.spec.data
    own = data.path
    target = task_class(job.spec.task.name).target
    if own is not None:
        raw = open_path(own, data.columns, target, skip_unreadable=data.unreadable > 0)
    else:
        raw = open_dataset(dataset_card(data.dataset), job.data_root)
    raw = apply_protocol(raw, suite_card(data.suite), job.spec.stage, job.spec.seed)
    if raw.digest != data.digest:
        where = data.path or f"{data.dataset} in {job.data_root}"
        raise DataError(
            f"{where}: images, labels or splits are not those that the run was planned for (digest {raw.digest[:8]}, planned "
            f"{data.digest[:8]}); use the same copy of the data everywhere, and do not change it while runs are under way."
        )
    return raw
