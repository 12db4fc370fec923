"""The tracker ``mlflow``: a database in the results folder, unless ``MLFLOW_TRACKING_URI`` names a server."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from typing import Any

from filelock import FileLock
from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunTag

from vpbench.execution.tracker import PROJECT, TrackedRun, Tracker, numbers_of, texts_of

VALUE_LENGTH, TAG_LENGTH = 500, 5000  # in every version of MLflow
AT_ONCE = 100  # parameters or tags in one call


class MLflow(Tracker):
    """``mlflow ui --backend-store-uri sqlite:///RESULTS/_tracking/mlflow/mlflow.db`` shows it. Runs have the tag ``group_id``."""

    def __init__(self, run: TrackedRun) -> None:
        address = os.environ.get("MLFLOW_TRACKING_URI")
        run.folder.mkdir(parents=True, exist_ok=True)
        with FileLock(run.folder / "lock"):  # several processes would make the database and the experiment several times
            self._client = MlflowClient(address or f"sqlite:///{(run.folder / 'mlflow.db').absolute()}")
            experiment = self._experiment(None if address else (run.folder / "artifacts").absolute().as_uri())
        self._run_id = (run.resumed and self._begun(experiment, run.run_id)) or self._new(experiment, run)

    def _experiment(self, artifacts: str | None) -> str:
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
        found = self._client.get_experiment_by_name(name)
        return str(found.experiment_id) if found else str(self._client.create_experiment(name, artifacts))

    def _begun(self, experiment: str, run_id: str) -> str | None:
        """The run as an earlier process has begun it."""
        found = self._client.search_runs([experiment], f"tags.run_id = '{run_id}'", order_by=["start_time DESC"], max_results=1)
        if not found:
            return None
        self._client.update_run(found[0].info.run_id, status="RUNNING")
        return str(found[0].info.run_id)

    def _new(self, experiment: str, run: TrackedRun) -> str:
        tags = {"run_id": run.run_id, "group_id": run.group_id}
        new = str(self._client.create_run(experiment, tags=tags, run_name=run.name).info.run_id)
        params = [Param(name, str(value)[:VALUE_LENGTH]) for name, value in run.flat_config().items()]
        for start in range(0, len(params), AT_ONCE):
            self._client.log_batch(new, params=params[start : start + AT_ONCE])
        return new

    def log(self, epoch: int, values: Mapping[str, float]) -> None:
        self._metrics(values, epoch)

    def _metrics(self, values: Mapping[str, float], step: int) -> None:
        now = int(time.time() * 1000)
        self._client.log_batch(self._run_id, metrics=[Metric(name, value, now, step) for name, value in values.items()])

    def finish(self, row: Mapping[str, Any]) -> None:
        self._metrics(numbers_of(row), 0)
        tags = [RunTag(name, value[:TAG_LENGTH]) for name, value in texts_of(row).items()]
        self._client.log_batch(self._run_id, tags=tags[:AT_ONCE])
        self._client.set_terminated(self._run_id, "FINISHED" if row["status"] == "ok" else "FAILED")

    def stop(self) -> None:
        self._client.set_terminated(self._run_id, "KILLED")
