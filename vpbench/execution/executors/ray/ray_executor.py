"""The executor ``ray``: its options, and the way to a cluster."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Iterator, Sequence
from typing import Any

import ray
from ray.exceptions import RayError

from vpbench.core.errors import UsageError, VpbenchError
from vpbench.execution.callbacks import Callback
from vpbench.execution.executor import Executor, check_whole, processors
from vpbench.execution.executors.ray.ray_dispatch import RayDispatcher, first_line, places
from vpbench.execution.job import Job
from vpbench.execution.opened_data import OpenedData
from vpbench.planning.expected_time import longest_first, past_runs
from vpbench.store.store import Store

CONNECT_S = 5.0  # for an answer of the cluster's head
OBJECT_STORE = 256 * 2**20  # bytes, of a cluster of our own; a run's files are a few megabytes


class RayExecutor(Executor):
    """The executor ``ray``.

    Args:
        address: ``HOST:PORT`` of a cluster's head, ``ray://HOST:PORT``, or ``auto`` for the cluster on this machine; by default
            what RAY_ADDRESS says, or else a cluster started on this machine for the runs of this call.
        workers: runs at a time; by default as many as the cluster has room for.
        per_gpu: runs that share a GPU.
        retries: how often a run is retried whose worker or node died.

    Raises:
        UsageError: when nothing answers at the address, or for numbers that make no sense.
    """

    is_remote = True

    def __init__(
        self, address: str | None = None, workers: int | None = None, per_gpu: int | None = None, retries: int = 3
    ) -> None:
        for option, value, least in (("--workers", workers, 1), ("--per-gpu", per_gpu, 1), ("--retries", retries, 0)):
            check_whole(option, value, least)
        self.workers, self.per_gpu, self.retries = workers, per_gpu or 1, retries
        self.address = str(address) if address is not None else os.environ.get("RAY_ADDRESS") or None
        self._said = f"{'RAY_ADDRESS' if address is None else '--executor-option address'}={self.address}"
        if self.address is not None:
            _check_answers(self.address, self._said)

    def __call__(self, jobs: Sequence[Job], store: Store, callback: Callback, opened: OpenedData) -> Iterator[dict[str, Any]]:
        """Longest expected run first. The cluster is connected to, or started, when the first row is asked for."""
        return self._rows(longest_first(jobs, past_runs(store)), store, callback) if jobs else iter(())

    def _rows(self, jobs: Sequence[Job], store: Store, callback: Callback) -> Iterator[dict[str, Any]]:
        needs = self.needs(jobs[0])
        ours = not ray.is_initialized()
        if ours:
            self._connect(needs)
        try:
            if not places(needs):
                raise UsageError(_no_room(needs, self.address))
            yield from RayDispatcher(self, needs, self.workers, self.retries, jobs, store, callback).run()
        except RayError as error:
            raise VpbenchError(f"the Ray cluster was lost: {first_line(error)} Finished runs are stored; start again.") from error
        finally:
            if ours:
                ray.shutdown()

    def needs(self, job: Job) -> dict[str, float]:
        """What one run takes of a node, in Ray's terms."""
        return {"CPU": job.threads or 1, **({"GPU": 1 / self.per_gpu} if job.device != "cpu" else {})}

    def _connect(self, needs: dict[str, float]) -> None:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # a cluster of our own reports to nobody
        own = {
            "address": "local", "include_dashboard": False, "object_store_memory": OBJECT_STORE,
            "num_cpus": int(max(self.workers * needs["CPU"] if self.workers else processors(), needs["CPU"])),
        }  # fmt: skip
        there = {"address": self.address} if self.address is not None else own
        try:
            ray.init(**there, log_to_driver=False, logging_level="ERROR")
        except (ConnectionError, RuntimeError, ValueError, TimeoutError) as error:
            where = f"{self._said}: no Ray cluster there" if self.address else "Ray does not start on this machine"
            raise UsageError(f"{where}: {' '.join(str(error).split())[:300]}") from error


def _check_answers(address: str, said: str) -> None:
    """Fail soon when no server answers at an address, which the user ``said`` so: Ray itself tries for a minute, and may end
    the process.

    Ray speaks gRPC, which is HTTP/2: a server of that greets a client's first bytes with a frame of type 4 (SETTINGS).
    """
    if address in ("auto", "local"):
        return
    found = re.fullmatch(r"(?:ray://)?(\[[^\]]+\]|[^:/\s]+):(\d{1,5})", address)
    if not found or not 0 < int(found[2]) < 65536:
        raise UsageError(f"{said}: write HOST:PORT of the cluster's head, ray://HOST:PORT, or auto.")
    way_out = "start one with 'ray start --head', or leave the address out for a cluster on this machine."
    try:
        with socket.create_connection((found[1].strip("[]"), int(found[2])), timeout=CONNECT_S) as connection:
            if os.environ.get("RAY_USE_TLS") == "1":
                return
            connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(3) + b"\x04" + bytes(5))
            if connection.recv(9)[3:4] != b"\x04":
                raise UsageError(f"{said}: what answers there is not Ray; {way_out}")
    except OSError as error:
        raise UsageError(f"{said}: no Ray cluster answers there ({error.strerror or error}); {way_out}") from error


def _no_room(needs: dict[str, float], address: str | None) -> str:
    wanted = " and ".join(f"{amount:g} {name}" for name, amount in needs.items())
    where = f"the Ray cluster at {address}" if address else "this machine"
    return f"a run needs {wanted} on one node, and no node of {where} has that; see --device and --threads."
