"""Slurm's commands, and what they say. Imports no torch."""

from __future__ import annotations

import math
import re
import shutil
import subprocess
from collections.abc import Iterable, Mapping
from contextlib import suppress

from vpbench.core.errors import UsageError

COMMAND_S = 60.0  # for an answer of Slurm's commands
ARRAY_AT_MOST = 1000  # tasks, where the cluster does not say
WEEK = 7 * 24 * 60  # minutes
UNREACHABLE = (
    "Unable to contact slurm controller",
    "configuration source",
    "configuration file",
)  # in what Slurm says where no cluster answers


def queue(jobs: Iterable[str]) -> dict[str, str]:
    """State of every task of these Slurm jobs that is in the queue, by name (``12_3``): PENDING, RUNNING, COMPLETING, ...

    Raises:
        UsageError: when the controller does not answer.
    """
    numbers = list(jobs)
    if not numbers:
        return {}
    asked = slurm("squeue", "-h", "-r", "-j", ",".join(numbers), "-o", "%F|%K|%T")
    if asked.returncode and "Invalid job id" not in asked.stderr:  # a job that Slurm has forgotten is in no queue
        raise UsageError(f"Slurm's queue cannot be read: {one_line(asked.stderr)}")
    states = {}
    for line in asked.stdout.splitlines():
        number, index, state = line.split("|")
        states[number if index == "N/A" else f"{number}_{index}"] = state
    return states


def last_state(name: str) -> str:
    """How a task ended, by the controller or else the accounting; UNKNOWN where neither remembers it."""
    shown = re.search(r"JobState=(\w+)", slurm("scontrol", "show", "job", "-o", name).stdout)
    if shown:
        return shown[1]
    if shutil.which("sacct"):
        words = slurm("sacct", "-n", "-X", "-P", "-o", "State", "-j", name).stdout.split()
        if words:
            return words[0]
    return "UNKNOWN"


def cancel(jobs: Iterable[str], *words: str) -> None:
    """Take Slurm jobs out of the queue, and stop them; those that have ended are not touched."""
    if numbers := list(jobs):
        slurm("scancel", *words, *numbers)


def check_accepted(wanted: Mapping[str, object]) -> None:
    """Ask Slurm whether it would take a task, without giving it one.

    Args:
        wanted: options of ``sbatch`` by name; None for those that are not given.

    Raises:
        UsageError: with Slurm's own words, when it would not, or when there is no Slurm.
    """
    way_out = "run vpbench on a login node of a Slurm cluster."
    if not shutil.which("sbatch"):
        raise UsageError(f"--executor slurm: there is no sbatch here; {way_out}")
    given = {name: str(value) for name, value in wanted.items() if value is not None}
    asked = slurm("sbatch", "--test-only", *(f"--{name}={value}" for name, value in given.items()), "--wrap=true")
    if asked.returncode == 0 or "not available now" in asked.stderr:  # nodes that are down come up again
        return
    said = "; ".join(line.partition(": ")[2] or line for line in asked.stderr.strip().splitlines()) or "nothing"
    if any(words in said for words in UNREACHABLE):
        raise UsageError(f"--executor slurm: no cluster answers here ({one_line(said)}); {way_out}")
    options = " ".join(f"{name}={value}" for name, value in given.items())
    there = slurm("sinfo", "-h", "-o", "%R").stdout.split() if given.get("partition") else []
    partitions = f" Partitions here: {', '.join(sorted(set(there)))}." if there else ""
    raise UsageError(f"--executor slurm{' with ' if options else ''}{options}: Slurm says: {said}.{partitions}")


def usual_minutes(partition: str | None) -> int:
    """The time limit that Slurm gives a task which asks for none."""
    words = ["-p", partition] if partition else []
    lines = slurm("sinfo", "-h", *words, "-o", "%P|%L|%l").stdout.splitlines()
    for line in sorted(lines, key=lambda line: "*" not in line.partition("|")[0]):  # the default partition has a star
        for limit in line.split("|")[1:]:
            with suppress(UsageError):
                return minutes(limit)
    return WEEK


def minutes(text: str) -> int:
    """A time limit of Slurm in minutes, rounded up: ``90``, ``MM:SS``, ``HH:MM:SS``, ``D-HH``, ``D-HH:MM``, ``D-HH:MM:SS``.

    Raises:
        UsageError: for anything else.
    """
    found = re.fullmatch(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?", text.strip())
    if not found:
        raise UsageError(f"time {text}: write minutes, HH:MM:SS or DAYS-HH:MM:SS.")
    days, *rest = found.groups()
    given = [int(part) for part in rest if part is not None]
    if days is not None:
        hours, minute, second = [*given, 0, 0][:3]
    else:
        hours, minute, second = {1: [0, *given, 0], 2: [0, *given], 3: given}[len(given)]
    total = math.ceil(int(days or 0) * 1440 + hours * 60 + minute + second / 60)
    if total < 1:
        raise UsageError(f"time {text}: a task needs at least a minute.")
    return total


def largest_array() -> int:
    """Tasks that a job array may have."""
    found = re.search(r"MaxArraySize\s*=\s*(\d+)", slurm("scontrol", "show", "config").stdout)
    return max(1, int(found[1]) - 1) if found else ARRAY_AT_MOST


def slurm(program: str, *words: str) -> subprocess.CompletedProcess[str]:
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


def one_line(error: object) -> str:
    """What went wrong, short enough for a message."""
    text = " ".join(str(error).split())
    return text if len(text) <= 300 else f"{text[:300]} ..."
