"""Running jobs on a Slurm cluster through submitit, as job arrays.

The results folder has to be visible on the nodes at the same path: a task writes its runs' rows there itself, and submitit's
files lie in ``FOLDER/_slurm``. A note beside them, ``FOLDER/_slurm/<slurm job>.json``, says which runs are in which task, so
that a later command waits for what is in the queue instead of submitting it again, and :func:`collect` finds what was lost.
Whether a task is alive is asked of ``squeue``, which works on clusters without accounting as well.
"""

from __future__ import annotations

import json
import math
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import submitit
from submitit.core.utils import DelayedSubmission, FailedJobError, FailedSubmissionError, UncompletedJobError

from vpbench.core import errors
from vpbench.core.errors import StoreError, UsageError, VpbenchError
from vpbench.execution.executors import Drainable, Silent, Watcher, about_claim
from vpbench.execution.job import Job, prepare_data, row_since, run_prepared
from vpbench.execution.serve import run_log
from vpbench.execution.worker import store_failure
from vpbench.store.folder import Store
from vpbench.training.checkpoint import Paused

COMMAND_S = 60.0  # for an answer of Slurm's commands
POLL_S = 5.0  # between two questions to the controller, which serves all users of a cluster
GRACE_S = 5.0  # for a row to appear in a shared folder after its task has ended
ARRAY_AT_MOST = 1000  # tasks, where the cluster does not say
TIMEOUTS = 1000  # requeues of a task whose time is up: each does the runs that have no row yet
LOG_LINES = 20  # of a lost task's output that its run's row keeps

# Where a task that was lost in one of these states is submitted again; what somebody cancelled stays cancelled.
REPEATED = ("FAILED", "NODE_FAIL", "BOOT_FAIL", "UNKNOWN")
STATUSES = {"TIMEOUT": "timeout", "DEADLINE": "timeout", "OUT_OF_MEMORY": "oom"}


class Task:
    """What Slurm runs: jobs, one after the other. Those that have a row since they were planned are skipped, so that a
    task which was requeued goes on where it was."""

    def __init__(self, jobs: Sequence[Job], folder: Path) -> None:
        self.jobs = [job.model_dump_json() for job in jobs]
        self.folder = str(folder)

    def __call__(self) -> dict[str, str]:
        """Nothing, or ``error`` (a class of ``vpbench.core.errors``) and ``text`` for what no run is to blame for."""
        store, place = Store(self.folder), f"slurm, {socket.gethostname()}"
        try:
            for text in self.jobs:
                job = Job.model_validate_json(text)
                if row_since(job, store) is None:
                    self._do(job, store, place)
        except VpbenchError as error:
            return {"error": type(error).__name__, "text": f"{error} (On node {socket.gethostname()}.)"}
        return {}

    def _do(self, job: Job, store: Store, place: str) -> None:
        with run_log(store, job, place), _Leaving() as leaving:
            with suppress(Paused):
                data = prepare_data(job, store, Silent())
                with store.claims.claim(job.run_id, **about_claim(job, place)) as ours:
                    if ours and row_since(job, store) is None:
                        run_prepared(job, data, store, _Printing(), leaving.asked)
            leaving.end()

    def checkpoint(self) -> DelayedSubmission:
        """Called by submitit when the task is preempted or its time is up, before it is requeued."""
        return DelayedSubmission(self)


class _Printing(Silent):
    """A task's watcher, for the run's log."""

    def note(self, text: str) -> None:
        sys.stderr.write(f"{text}\n")


class _Leaving:
    """In the block, the signals that submitit takes ask for the run to be left at its step. What submitit would have done
    comes after that: the preemption signal puts the task back into the queue; at SIGTERM, which Slurm sends before it kills,
    submitit does nothing, and the task ends here."""

    def __enter__(self) -> _Leaving:
        self._signal: int | None = None
        known = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
        self._theirs: dict[int, Callable[[int, Any], Any]] = {
            number: handler for number in known if callable(handler := signal.getsignal(number))
        }
        for number in self._theirs:
            signal.signal(number, self._ask)
        return self

    def _ask(self, number: int, _: object) -> None:
        self._signal = number

    def asked(self) -> bool:
        return self._signal is not None

    def end(self) -> None:
        """End the process, if it was asked to."""
        if self._signal is not None:
            self._theirs[self._signal](self._signal, None)
            sys.exit(128 + self._signal)

    def __exit__(self, *_: object) -> None:
        for number, handler in self._theirs.items():
            signal.signal(number, handler)


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
        note = {"array": self.array, "tasks": [[job.model_dump(mode="json") for job in jobs] for jobs in self.tasks]}
        path = _note(store, self.slurm_job)
        partial = path.with_suffix(".partial")
        partial.write_text(json.dumps(note))
        partial.replace(path)

    def forget(self, store: Store) -> None:
        with suppress(OSError):
            _note(store, self.slurm_job).unlink()


def _folder(store: Store) -> Path:
    return store.folder.absolute() / "_slurm"


def _note(store: Store, slurm_job: str) -> Path:
    return _folder(store) / f"{slurm_job}.json"


def submissions(store: Store) -> list[Submission]:
    """The Slurm jobs of a results folder that have not been collected."""
    found = []
    for path in sorted(_folder(store).glob("*.json")):
        try:
            note = json.loads(path.read_text())
            tasks = [[Job.model_validate(job) for job in jobs] for jobs in note["tasks"]]
            found.append(Submission(path.stem, tasks, note["array"]))
        except FileNotFoundError:  # collected by another command at this moment
            continue
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise StoreError(
                f"{path} is not a readable note on a Slurm job: {_line(error)}. Remove it to forget that job."
            ) from error
    return found


class SlurmExecutor(Drainable):
    """The executor ``slurm``.

    Args:
        partition, account, gres: as for ``sbatch``; by default the cluster's.
        time: limit of a task, as for ``sbatch`` (minutes, ``HH:MM:SS``, ``D-HH`` ...); by default the partition's. A task whose
            time is up is requeued, and does the runs that have no row yet.
        cpus: of a task; by default ``--threads``, or 1.
        workers: tasks at a time; by default as many as the cluster gives.
        per_task: runs that one task does, one after the other.
        retries: how often a run is submitted again whose task died.
        detach: submit and leave; ``vpbench status --collect`` brings in what is lost.

    Raises:
        UsageError: when there is no Slurm, when it refuses such a task, or for numbers that make no sense.
    """

    elsewhere = True

    def __init__(
        self, partition: str | None = None, account: str | None = None, time: str | int | None = None, gres: str | None = None,
        cpus: int | None = None, workers: int | None = None, per_task: int = 1, retries: int = 1, detach: bool = False,
    ) -> None:  # fmt: skip
        numbers = (("cpus", cpus, 1), ("workers", workers, 1), ("per_task", per_task, 1), ("retries", retries, 0))
        for name, value, least in numbers:
            if value is not None and value < least:
                raise UsageError(f"{name} {value}: take {least} or more.")
        self.partition, self.account, self.gres = (None if value is None else str(value) for value in (partition, account, gres))
        self.minutes = None if time is None else minutes(str(time))
        self.cpus, self.workers, self.per_task, self.retries, self.detach = cpus, workers, per_task, retries, detach
        self._check_accepted()

    def __call__(self, jobs: Sequence[Job], store: Store, watcher: Watcher) -> Iterator[dict[str, Any]]:
        """Submits with the first row that is asked for. Runs that are in the queue already are waited for."""
        return _Grid(self, store, watcher).run(jobs) if jobs else iter(())

    def submit(self, jobs: Sequence[Job], store: Store) -> list[Submission]:
        """Put runs into the queue; all of them, or none.

        Raises:
            UsageError: with Slurm's own words, when it refuses.
            StoreError: when the results folder cannot be written.
        """
        groups = [list(jobs[start : start + self.per_task]) for start in range(0, len(jobs), self.per_task)]
        largest, done = _largest_array(), list[Submission]()
        try:
            for start in range(0, len(groups), largest):
                done.append(self._submit_array(groups[start : start + largest], store))
                done[-1].write(store)
        except BaseException as error:
            cancel(done)
            for submission in done:
                submission.forget(store)
            if isinstance(error, OSError):
                raise StoreError(f"{_folder(store)} cannot be written: {error.strerror or error}.") from error
            if isinstance(error, (FailedSubmissionError, FailedJobError, subprocess.CalledProcessError)):
                raise UsageError(f"Slurm refused the runs: {_line(error)}") from error
            raise
        return done

    def _submit_array(self, groups: list[list[Job]], store: Store) -> Submission:
        executor = submitit.AutoExecutor(
            folder=_folder(store), cluster="slurm", slurm_max_num_timeout=TIMEOUTS
        )  # fmt: skip
        wanted = {"slurm_partition": self.partition, "slurm_account": self.account, "slurm_gres": self.gres}
        executor.update_parameters(
            name="vpbench", cpus_per_task=self.cpus or groups[0][0].threads or 1,
            timeout_min=self.minutes or self._usual_minutes(),
            slurm_array_parallelism=self.workers or len(groups), slurm_stderr_to_stdout=True,
            slurm_additional_parameters={"requeue": True}, **{name: value for name, value in wanted.items() if value},
        )  # fmt: skip
        folder = store.folder.absolute()
        with executor.batch():
            tasks = [executor.submit(Task(group, folder)) for group in groups]
        return Submission(tasks[0].job_id.partition("_")[0], groups, "_" in tasks[0].job_id)

    def _check_accepted(self) -> None:
        """Ask Slurm whether it would take a task like ours, without giving it one."""
        if not shutil.which("sbatch"):
            raise UsageError("--executor slurm: there is no sbatch here; run vpbench on a login node of a Slurm cluster.")
        wanted = {"partition": self.partition, "account": self.account, "gres": self.gres, "time": self.minutes,
                  "cpus-per-task": self.cpus}  # fmt: skip
        given = {name: str(value) for name, value in wanted.items() if value is not None}
        asked = _slurm("sbatch", "--test-only", *(f"--{name}={value}" for name, value in given.items()), "--wrap=true")
        if asked.returncode == 0 or "not available now" in asked.stderr:  # nodes that are down come up again
            return
        said = "; ".join(line.partition(": ")[2] or line for line in asked.stderr.strip().splitlines())
        options = " ".join(f"{name}={value}" for name, value in given.items())
        there = _slurm("sinfo", "-h", "-o", "%R").stdout.split() if self.partition else []
        partitions = f" Partitions here: {', '.join(sorted(set(there)))}." if there else ""
        raise UsageError(f"--executor slurm{' with ' if options else ''}{options}: Slurm says: {said or 'nothing'}.{partitions}")

    def _usual_minutes(self) -> int:
        """The limit that Slurm gives a task which asks for none: submitit always asks for one."""
        words = ["-p", self.partition] if self.partition else []
        lines = _slurm("sinfo", "-h", *words, "-o", "%P|%L|%l").stdout.splitlines()
        for line in sorted(lines, key=lambda line: "*" not in line.partition("|")[0]):  # the default partition has a star
            for limit in line.split("|")[1:]:
                with suppress(UsageError):
                    return minutes(limit)
        return 7 * 24 * 60


class _Grid:
    """One call of the executor: the runs, and the Slurm jobs that they are in."""

    def __init__(self, executor: SlurmExecutor, store: Store, watcher: Watcher) -> None:
        self.executor, self.store, self.watcher = executor, store, watcher
        self.waiting: dict[str, Job] = {}
        self.tries: dict[str, int] = {}
        self.started: set[str] = set()
        self.gone: dict[str, float] = {}
        self.theirs: list[Submission] = []
        self.ours: list[Submission] = []
        self.stopped = self.told_silent = False

    def run(self, jobs: Sequence[Job]) -> Iterator[dict[str, Any]]:
        self.waiting = {job.run_id: job for job in jobs}
        self.theirs = [submission for submission in submissions(self.store) if self._is_alive(submission)]
        queued = {job.run_id for submission in self.theirs for group in submission.tasks for job in group}
        fresh = [job for job in jobs if job.run_id not in queued]
        if len(fresh) < len(jobs):
            self.watcher.note(f"{len(jobs) - len(fresh)} of these runs are in Slurm's queue already.")
        try:
            if fresh:
                self.ours = self.executor.submit(fresh, self.store)
                self.watcher.note(f"{len(fresh)} runs submitted as Slurm job {', '.join(s.slurm_job for s in self.ours)}.")
            if self.executor.detach:
                self.watcher.note(f"Collect them later: vpbench status --collect --results {self.store.folder}")
                self.ours = []
                return
            while self.waiting:
                yield from self._look()
                if self.executor.draining and not self.stopped:
                    self.stopped = True
                    cancel(self.ours, "--state=PENDING")
                if self.waiting:
                    time.sleep(POLL_S)
            for submission in [*self.ours, *self.theirs]:
                if _is_complete(submission, self.store):
                    submission.forget(self.store)
        except BaseException:
            cancel(self.ours)
            for submission in self.ours:
                submission.forget(self.store)
            raise

    def _is_alive(self, submission: Submission) -> bool:
        return submission.slurm_job in {name.partition("_")[0] for name in queue([submission])}

    def _look(self) -> Iterator[dict[str, Any]]:
        """One look at the queue: rows that are there, and runs whose task has ended without one."""
        try:
            states = queue([*self.theirs, *self.ours])
        except UsageError as error:  # a controller that is restarted comes back, and the tasks go on meanwhile
            if not self.told_silent:
                self.told_silent = True
                self.watcher.note(f"{error} Still waiting.")
            return
        for submission in [*self.theirs, *self.ours]:
            for index, group in enumerate(submission.tasks):
                state = states.get(submission.name(index))
                for job in [job for job in group if job.run_id in self.waiting]:
                    if state in ("PENDING", "REQUEUED"):
                        if self.stopped:  # of another command's Slurm job, which goes on without us
                            del self.waiting[job.run_id]
                        continue
                    row = row_since(job, self.store)
                    if row is None and state is None:
                        row = self._ended(submission, index, job)
                    elif row is None and state == "RUNNING":
                        self._tell_running(job)
                    if row is not None:
                        yield self._finished(job, row)

    def _ended(self, submission: Submission, index: int, job: Job) -> dict[str, Any] | None:
        """A run without a row whose task is not in the queue any more; the row, when it is given up."""
        latest = [
            s for s in [*self.theirs, *self.ours] if any(job.run_id == other.run_id for group in s.tasks for other in group)
        ][-1]
        if latest is not submission:
            return None  # it was submitted again
        since = self.gone.setdefault(f"{submission.name(index)} {job.run_id}", time.monotonic())
        if time.monotonic() - since < GRACE_S:
            return None
        self._raise_error(submission, index)
        state = last_state(submission.name(index))
        tries = self.tries.get(job.run_id, 0)
        if self.stopped:
            del self.waiting[job.run_id]
            return None
        if state in REPEATED and tries < self.executor.retries:
            self.tries[job.run_id] = tries + 1
            self.watcher.note(f"{job.label}: Slurm job {submission.name(index)} ended as {state}. It is repeated.")
            self.ours += self.executor.submit([job], self.store)
            return None
        return lost(submission, index, job, state, self.store)

    def _raise_error(self, submission: Submission, index: int) -> None:
        """An error that no run is to blame for ends the grid."""
        found = _task(submission, index, self.store)
        if not found.paths.result_pickle.exists():
            return
        with suppress(UncompletedJobError):  # a crash: it is in the task's output
            result = found.result()
            if "error" in result:
                raise getattr(errors, result["error"], VpbenchError)(result["text"])

    def _tell_running(self, job: Job) -> None:
        if job.run_id not in self.started and (self.store.claims.folder / f"{job.run_id}.json").exists():
            self.started.add(job.run_id)
            self.watcher.started(job.planned)

    def _finished(self, job: Job, row: dict[str, Any]) -> dict[str, Any]:
        del self.waiting[job.run_id]
        if job.run_id not in self.started:
            self.started.add(job.run_id)
            self.watcher.started(job.planned)
        self.watcher.finished(job.planned, row)
        return row


@dataclass
class Collected:
    """What became of the runs that were submitted from a results folder, by number.

    Attributes:
        finished: have a row, whatever its status.
        running, pending: are in a task that runs or waits.
        lost: were in a task that ended without their row; they have one now, which says so.
    """

    finished: int = 0
    running: int = 0
    pending: int = 0
    lost: list[str] = field(default_factory=list)


def collect(store: Store) -> Collected:
    """Look after submitted runs: those that came to no row get one with what Slurm says, and what is complete is forgotten.

    Rows of runs that went well are in the folder already; tasks write them there themselves.

    Raises:
        UsageError: when there is no Slurm here, or its controller does not answer.
    """
    found, pending = Collected(), submissions(store)
    if not pending:
        return found
    if not shutil.which("squeue"):
        raise UsageError(f"{store.folder} has runs in a Slurm queue, and there is no squeue here; ask on the login node.")
    states = queue(pending)
    for submission in pending:
        for index, group in enumerate(submission.tasks):
            state = states.get(submission.name(index))
            for job in group:
                if row_since(job, store) is not None:
                    found.finished += 1
                elif state is None:
                    lost(submission, index, job, last_state(submission.name(index)), store)
                    found.lost.append(job.run_id)
                elif state in ("PENDING", "REQUEUED"):
                    found.pending += 1
                else:
                    found.running += 1
        if _is_complete(submission, store):
            submission.forget(store)
    return found


def lost(submission: Submission, index: int, job: Job, state: str, store: Store) -> dict[str, Any]:
    """Write the row of a run whose task ended without it."""
    name = submission.name(index)
    output = _task(submission, index, store).paths.stdout
    with suppress(OSError):
        printed = [line for line in output.read_text(errors="replace").splitlines() if line.strip()][-LOG_LINES:]
        return _store_lost(job, state, store, [*printed, f"Slurm job {name} ended as {state} before the run had a row."])
    return _store_lost(job, state, store, [f"Slurm job {name} ended as {state} and left no output in {output}."])


def _store_lost(job: Job, state: str, store: Store, lines: Sequence[str]) -> dict[str, Any]:
    return store_failure(
        job.planned, job.sizes, store, status=STATUSES.get(state, "failed"), error="\n".join(lines),
        started_at=datetime.now(UTC),
        environment={"device": job.device, "checkpoint_blocks": job.checkpoint_blocks},
    )  # fmt: skip


def _is_complete(submission: Submission, store: Store) -> bool:
    return all(row_since(job, store) is not None for group in submission.tasks for job in group)


def _task(submission: Submission, index: int, store: Store) -> submitit.SlurmJob[dict[str, str]]:
    return submitit.SlurmJob(folder=_folder(store), job_id=submission.name(index))


def queue(jobs: Iterable[Submission]) -> dict[str, str]:
    """State of every task that is in Slurm's queue, by name (``12_3``): PENDING, RUNNING, COMPLETING, ...

    Raises:
        UsageError: when the controller does not answer.
    """
    numbers = [submission.slurm_job for submission in jobs]
    if not numbers:
        return {}
    asked = _slurm("squeue", "-h", "-r", "-j", ",".join(numbers), "-o", "%F|%K|%T")
    if asked.returncode and "Invalid job id" not in asked.stderr:  # a job that Slurm has forgotten is in no queue
        raise UsageError(f"Slurm's queue cannot be read: {_line(asked.stderr)}")
    states = {}
    for line in asked.stdout.splitlines():
        number, index, state = line.split("|")
        states[number if index == "N/A" else f"{number}_{index}"] = state
    return states


def last_state(name: str) -> str:
    """How a task ended, by the controller or else the accounting; UNKNOWN where neither remembers it."""
    shown = re.search(r"JobState=(\w+)", _slurm("scontrol", "show", "job", "-o", name).stdout)
    if shown:
        return shown[1]
    if shutil.which("sacct"):
        words = _slurm("sacct", "-n", "-X", "-P", "-o", "State", "-j", name).stdout.split()
        if words:
            return words[0]
    return "UNKNOWN"


def cancel(jobs: Iterable[Submission], *words: str) -> None:
    """Take Slurm jobs out of the queue, and stop them; those that have ended are not touched."""
    numbers = [submission.slurm_job for submission in jobs]
    if numbers:
        _slurm("scancel", *words, *numbers)


def minutes(text: str) -> int:
    """A time limit of Slurm in minutes, rounded up: ``90``, ``MM:SS``, ``HH:MM:SS``, ``D-HH``, ``D-HH:MM``, ``D-HH:MM:SS``.

    Raises:
        UsageError: for anything else.
    """
    found = re.fullmatch(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?", text.strip())
    if not found:
        raise UsageError(f"time {text}: write minutes, HH:MM:SS or DAYS-HH:MM:SS.")
    days, *parts = (
        (int(part) for part in found.groups() if part is not None) if found[1] else (0, *map(int, filter(None, found.groups())))
    )
    if found[1]:
        hours, minute, second = [*parts, 0, 0][:3]
    else:
        hours, minute, second = {1: (0, parts[0], 0), 2: (0, *parts), 3: tuple(parts)}[len(parts)]
    total = math.ceil(days * 1440 + hours * 60 + minute + second / 60)
    if total < 1:
        raise UsageError(f"time {text}: a task needs at least a minute.")
    return total


def _largest_array() -> int:
    found = re.search(r"MaxArraySize\s*=\s*(\d+)", _slurm("scontrol", "show", "config").stdout)
    return max(1, int(found[1]) - 1) if found else ARRAY_AT_MOST


def _slurm(program: str, *words: str) -> subprocess.CompletedProcess[str]:
    """What one of Slurm's commands says.

    Raises:
        UsageError: when it is not there or does not answer.
    """
    try:
        return subprocess.run([program, *words], capture_output=True, text=True, timeout=COMMAND_S)
    except subprocess.TimeoutExpired as error:
        raise UsageError(f"Slurm does not answer: {program} took longer than {COMMAND_S:.0f} s; is the controller up?") from error
    except OSError as error:
        raise UsageError(f"{program} cannot be run: {error.strerror or error}.") from error


def _line(error: object) -> str:
    text = " ".join(str(error).split())
    return text if len(text) <= 300 else f"{text[:300]} ..."
