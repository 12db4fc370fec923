"""Slurm jobs of a results folder, and the notes on them that later commands find."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import submitit

from vpbench.core.errors import StoreError
from vpbench.core.files import write_atomically
from vpbench.execution.executors.slurm.commands import one_line
from vpbench.execution.job import Job, row_since
from vpbench.store.store import Store


@dataclass
class Submission:
    """A Slurm job of this results folder: an array, or one task.

    Attributes:
        slurm_job: its number.
        tasks: the jobs of each task, in order.
        array: whether tasks have an index in the array.
    """

    slurm_job: str
    tasks: list[list[Job]]
    array: bool

    def name(self, index: int) -> str:
        """Of a task, as Slurm and submitit call it: ``12_3``, or ``12``."""
        return f"{self.slurm_job}_{index}" if self.array else self.slurm_job

    def write(self, store: Store) -> None:
        """Note it.

        Raises:
            OSError: when the results folder cannot be written.
        """
        note = {"array": self.array, "tasks": [[job.model_dump(mode="json") for job in jobs] for jobs in self.tasks]}
        write_atomically(_note(store, self.slurm_job), lambda path: path.write_text(json.dumps(note)))

    def forget(self, store: Store) -> None:
        """Remove the note."""
        with suppress(OSError):
            _note(store, self.slurm_job).unlink()

    def is_complete(self, store: Store) -> bool:
        """Whether all its runs have a row."""
        return all(row_since(job, store) is not None for jobs in self.tasks for job in jobs)

    def handle(self, index: int, store: Store) -> submitit.SlurmJob[dict[str, str]]:
        """submitit's view of a task: its files, and what it returned."""
        return submitit.SlurmJob(folder=files(store), job_id=self.name(index))


def files(store: Store) -> Path:
    """Where submitit's files and the notes lie."""
    return store.folder.absolute() / "_slurm"


def _note(store: Store, slurm_job: str) -> Path:
    return files(store) / f"{slurm_job}.json"


def submissions(store: Store) -> list[Submission]:
    """The Slurm jobs of a results folder that have not been collected.

    Raises:
        StoreError: for a note that cannot be read.
    """
    found = []
    for path in sorted(files(store).glob("*.json")):
        try:
            note = json.loads(path.read_text())
            tasks = [[Job.model_validate(job) for job in jobs] for jobs in note["tasks"]]
            found.append(Submission(path.stem, tasks, note["array"]))
        except FileNotFoundError:  # collected by another command at this moment
            continue
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise StoreError(
                f"{path} is not a readable note on a Slurm job: {one_line(error)}. Remove it to forget that job."
            ) from error
    return found
