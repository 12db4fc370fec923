"""Running jobs in this process, one after the other."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any

from vpbench.execution.callbacks import Callback
from vpbench.execution.executor import Executor, about_claim, waits_for
from vpbench.execution.job import Job, prepare_data, row_since, run_prepared
from vpbench.store.store import Store
from vpbench.training.checkpoint import Paused

POLL_S = 0.5  # between two looks at runs that another command works on


class Inline(Executor):
    """The executor ``inline``."""

    def __call__(self, jobs: Sequence[Job], store: Store, callback: Callback) -> Iterator[dict[str, Any]]:
        """In order; runs that another command works on come last."""
        waiting, elsewhere, told = deque(jobs), deque[Job](), False
        while (waiting or elsewhere) and not self.draining:
            if not waiting:
                if not told:
                    callback.note(waits_for(len(elsewhere)))
                    told = True
                time.sleep(POLL_S)
                waiting, elsewhere = elsewhere, deque()
            job = waiting.popleft()
            data = prepare_data(job, store, callback)
            with store.claims.claim(job.run_id, **about_claim(job, job.device)) as ours:
                if not ours:
                    elsewhere.append(job)
                    continue
                row = row_since(job, store)
                if row is None:
                    try:
                        row = run_prepared(job, data, store, callback, lambda: self.pausing)
                    except Paused:
                        return
                else:
                    callback.started(job.planned)
                    callback.finished(job.planned, row)
            yield row
