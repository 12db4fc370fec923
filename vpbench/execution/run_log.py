"""What a process prints while it does a run: ``FOLDER/_logs/<run_id>.log``. Imports no torch."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from vpbench.core.escaping import one_line

if TYPE_CHECKING:
    from vpbench.execution.job import Job
    from vpbench.store.store import Store

HEAD = "--- "  # how the heading of an attempt begins
LAST_LINES = 20  # that the row of a lost run keeps


@contextmanager
def run_log(store: Store, job: Job, place: str) -> Iterator[None]:
    """What the process prints in the block, C libraries included, goes to the run's log; one with nothing in it is removed."""
    path = store.log_path(job.run_id)
    head = f"{HEAD}{one_line(job.label)}: {datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC, {place}, process {os.getpid()}\n".encode()
    kept = os.dup(2)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        log = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    except OSError:
        log = os.open(os.devnull, os.O_WRONLY)  # a full disk is an error when the row is written
    with suppress(OSError):
        os.write(log, head)
    for descriptor in (1, 2):
        os.dup2(log, descriptor)
    os.close(log)
    try:
        yield
    finally:
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError):
                stream.flush()
        for descriptor in (1, 2):
            os.dup2(kept, descriptor)
        os.close(kept)
        with suppress(OSError):
            if path.stat().st_size <= len(head):
                path.unlink()


def last_lines(path: Path) -> list[str]:
    """The last lines of a log, or of other output, without what is empty and the headings of attempts; none without a file."""
    try:
        lines = path.read_text(errors="replace").splitlines()
    except OSError:
        return []
    return [line for line in lines if line.strip() and not line.startswith(HEAD)][-LAST_LINES:]
