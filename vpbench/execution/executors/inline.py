"""The executor ``inline``: jobs in this process, one after the other."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any

from vpbench.execution.callbacks import Callback
from vpbench.execution.executor import Executor, waits_for
from vpbench.execution.job import Job
from vpbench.execution.opened_data import OpenedData
from vpbench.execution.run_job import run_unclaimed_job
from vpbench.store.store import Store
from vpbench.training.checkpoint import Paused

POLL_S = 0.5  # between two looks at runs that another command works on


class Inline(Executor):
    """The executor ``inline``."""

    def __call__(self, jobs: Sequence[Job], store: Store, callback: Callback, opened: OpenedData) -> Iterator[dict[str, Any]]:
        """In order; runs that another command works on come last."""
        waiting, claimed, noted = deque(jobs), deque[Job](), False
        while (waiting or claimed) and not self.draining:
            if not waiting:
                if not noted:
                    callback.note(waits_for(len(claimed)))
                    noted = True
                time.sleep(POLL_S)
                waiting, claimed = claimed, deque()
            job = waiting.popleft()
            try:
                row = run_unclaimed_job(job, store, job.device, opened, callback, lambda: self.pausing)
            except Paused:
                return
            if row is None:
                claimed.append(job)
            else:
                yield row
