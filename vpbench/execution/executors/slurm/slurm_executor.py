"""The executor ``slurm``: its options, and submitting."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import submitit
from submitit.core.utils import FailedJobError, FailedSubmissionError

from vpbench.core.errors import StoreError, UsageError
from vpbench.execution.callbacks import Callback
from vpbench.execution.executor import Executor, check_whole
from vpbench.execution.executors.slurm.commands import cancel, check_accepted, largest_array, minutes, one_line, usual_minutes
from vpbench.execution.executors.slurm.slurm_dispatch import SlurmDispatcher
from vpbench.execution.executors.slurm.slurm_task import SlurmTask
from vpbench.execution.executors.slurm.submission import Submission, files
from vpbench.execution.job import Job
from vpbench.execution.opened_data import OpenedData
from vpbench.store.store import Store

TIMEOUTS = 1000  # requeues of a task whose time is up: each does the runs that have no row yet


def check_folder(folder: Path) -> None:
    """That Slurm and submitit take the path of a folder as it is: they put job numbers in the place of ``%j`` and others.

    Raises:
        UsageError: otherwise.
    """
    if found := re.search(r"[%\\\x00-\x1f\x7f]", str(folder)):
        raise UsageError(
            f"--executor slurm: {folder} has {found[0]!r} in its path, which Slurm reads as a pattern: "
            "choose another folder with --results."
        )


class SlurmExecutor(Executor):
    """The executor ``slurm``.

    Args:
        partition, account, gres: as for ``sbatch``; by default the cluster's.
        time: limit of a task, as for ``sbatch`` (minutes, ``HH:MM:SS``, ``D-HH`` ...); by default the partition's. A task whose
            time is up is requeued, and does the runs that have no row yet.
        cpus: of a task; by default ``--threads``, or 1.
        workers: tasks at a time; by default as many as the cluster allows.
        per_task: runs that one task does, one after the other.
        retries: how often a run is submitted again whose task died.
        detach: submit and do not wait; ``vpbench status --collect`` writes the rows of runs that were lost.

    Raises:
        UsageError: when there is no Slurm, when it refuses such a task, or for numbers that make no sense.
    """

    is_remote = True

    def __init__(
        self, partition: str | None = None, account: str | None = None, time: str | int | None = None, gres: str | None = None,
        cpus: int | None = None, workers: int | None = None, per_task: int = 1, retries: int = 1, detach: bool = False,
    ) -> None:  # fmt: skip
        numbers = (("cpus", cpus, 1), ("workers", workers, 1), ("per_task", per_task, 1), ("retries", retries, 0))
        for option, value, least in numbers:
            check_whole(option, value, least)
        if not isinstance(detach, bool):
            raise UsageError(f"detach {detach}: write true or false.")
        self.partition, self.account, self.gres = (None if value is None else str(value) for value in (partition, account, gres))
        self.minutes = None if time is None else minutes(str(time))
        self.cpus, self.workers, self.per_task, self.retries, self.detach = cpus, workers, per_task, retries, detach
        check_accepted({"partition": self.partition, "account": self.account, "gres": self.gres, "time": self.minutes,
                        "cpus-per-task": self.cpus})  # fmt: skip

    def __call__(self, jobs: Sequence[Job], store: Store, callback: Callback, opened: OpenedData) -> Iterator[dict[str, Any]]:
        """Submits when the first row is asked for. Runs that are in the queue already are waited for.

        Raises:
            UsageError: for a results folder whose path Slurm would read as a pattern.
        """
        if jobs:
            check_folder(files(store))
        dispatcher = SlurmDispatcher(self, self.submit, self.retries, store, callback)
        return dispatcher.run(jobs, self.detach) if jobs else iter(())

    def submit(self, jobs: Sequence[Job], store: Store) -> list[Submission]:
        """Put runs into the queue; all of them, or none.

        Raises:
            UsageError: with Slurm's own words, when it refuses.
            StoreError: when the results folder cannot be written.
        """
        groups = [list(jobs[start : start + self.per_task]) for start in range(0, len(jobs), self.per_task)]
        largest, done = largest_array(), list[Submission]()
        try:
            for start in range(0, len(groups), largest):
                done.append(self._submit_array(groups[start : start + largest], store))
                done[-1].write(store)
        except BaseException as error:
            cancel(submission.slurm_job for submission in done)
            for submission in done:
                submission.forget(store)
            if isinstance(error, OSError):
                raise StoreError(f"{files(store)} cannot be written: {error.strerror or error}.") from error
            if isinstance(error, (FailedSubmissionError, FailedJobError, subprocess.CalledProcessError)):
                raise UsageError(f"Slurm refused the runs: {one_line(error)}") from error
            raise
        return done

    def _submit_array(self, groups: list[list[Job]], store: Store) -> Submission:
        executor = submitit.AutoExecutor(folder=files(store), cluster="slurm", slurm_max_num_timeout=TIMEOUTS)
        wanted = {"slurm_partition": self.partition, "slurm_account": self.account, "slurm_gres": self.gres}
        executor.update_parameters(
            name="vpbench", cpus_per_task=self.cpus or groups[0][0].threads or 1,
            timeout_min=self.minutes or usual_minutes(self.partition),
            slurm_array_parallelism=self.workers or len(groups), slurm_stderr_to_stdout=True,
            slurm_additional_parameters={"requeue": True}, **{name: value for name, value in wanted.items() if value},
        )  # fmt: skip
        folder = store.folder.absolute()
        with executor.batch():
            tasks = [executor.submit(SlurmTask(group, folder)) for group in groups]
        return Submission(tasks[0].job_id.partition("_")[0], groups, "_" in tasks[0].job_id)
