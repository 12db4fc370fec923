"""Trackers: the tools themselves, offline, and what becomes of a run whose tracker fails."""

from __future__ import annotations

import importlib
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from sweeps import case

from vpbench import api
from vpbench.core import plugins
from vpbench.core.errors import UsageError
from vpbench.data.cache import CachedData, CachedSplit
from vpbench.execution import execute as worker
from vpbench.execution import run_job as job_runner
from vpbench.execution.callbacks import Callback
from vpbench.execution.job import Job
from vpbench.execution.opened_data import OpenedData
from vpbench.execution.tracker import TrackedRun, check_trackers, numbers_of, texts_of, tracker_registry
from vpbench.models.registry import resolve_method
from vpbench.spec.recipe import Recipe
from vpbench.spec.request import Request
from vpbench.spec.run_options import JobOptions, RunOptions
from vpbench.spec.run_spec import BackboneSpec, DataSpec, Preprocess, RunSpec
from vpbench.store.schema import REPRODUCIBLE
from vpbench.store.store import Store
from vpbench.training.checkpoint import Paused

OWN_TRACKER = """
import random
from vpbench.execution.tracker import Tracker

class Fake(Tracker):
    calls, broken = [], ""

    def __init__(self, run):
        self.run = run
        self._call("start", run)

    def log(self, epoch, values):
        self._call("log", epoch, dict(values))

    def finish(self, row):
        self._call("finish", row["status"], row["acc1"])

    def stop(self):
        self._call("stop")

    def _call(self, name, *given):
        print("chatter")
        random.seed(1)
        self.calls.append((name, *given))
        if self.broken == name:
            raise ConnectionError("no network\\nhere")
"""

RAISES = '            raise ConnectionError("no network\\nhere")'


def split(count: int, seed: int) -> CachedSplit:
    pixels = np.random.default_rng(seed).integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
    return CachedSplit(pixels, np.arange(count) % 2, 32)


DATA = CachedData(split(4, 0), split(2, 1), split(6, 2), ("a", "b"))


class Notes(Callback):
    def __init__(self) -> None:
        self.texts: list[str] = []

    def note(self, text: str) -> None:
        self.texts.append(text)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("measure_training", "measure_inference", "count_operations"):
        monkeypatch.setattr(worker, name, lambda *_: {})
    monkeypatch.setattr(job_runner, "prepare_data", lambda *_: DATA)


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The class of a tracker in a folder of the user's."""
    file = tmp_path / "own" / "trackers" / "fake.py"
    file.parent.mkdir(parents=True)
    file.write_text(OWN_TRACKER)
    monkeypatch.setenv("VPBENCH_PATH", str(tmp_path / "own"))
    return tracker_registry().get("fake")


def do(folder: Path, *track: str, seed: int = 42, opened: OpenedData | None = None, **more: Any) -> tuple[Any, list[str]]:
    """The row of a tiny run, and the notes."""
    backbone = BackboneSpec(
        name="vit_tiny_patch16_224", weights="random", image_size=32, patch_size=16, mean=(0.5,) * 3, std=(0.5,) * 3
    )
    spec = RunSpec(
        method=resolve_method("vpt"), backbone=backbone, data=DataSpec(suite="custom", dataset="noise", digest="0"),
        preprocess=Preprocess(), recipe=Recipe(epochs=2, batch_size=4, lr=0.01), seed=seed, selection="best_val",
    )  # fmt: skip
    folder.mkdir(exist_ok=True)
    job = Job(
        spec=spec, recipe_source="here", group="custom", classes=2, n_train=4, n_val=2, n_test=6, data_root="", save=(),
        track=track, results=str(folder),
    )  # fmt: skip
    notes = Notes()
    job = Job.model_validate_json(job.model_dump_json())  # as it comes to another process
    return job_runner.run_job(job, Store(folder), opened or OpenedData(), notes, **more), notes.texts


def test_a_tracker_hears_all_of_a_run(fake: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    row, notes = do(tmp_path / "rows", "fake")
    (_, run), *others = fake.calls
    assert isinstance(run, TrackedRun) and not run.resumed
    assert (run.run_id, run.group_id, run.name) == (row["run_id"], row["group_id"], "vpt on noise, seed 42")
    assert run.folder == tmp_path / "rows" / "_tracking" / "fake"
    assert run.flat_config()["method.config.prompt_length"] == run.config["method"]["config"]["prompt_length"]
    assert [call[:2] for call in others] == [("log", 1), ("log", 2), ("finish", "ok")]
    assert set(others[0][2]) == {"train/loss", "train/lr", "train/val_acc1"}
    assert others[2][2] == row["acc1"]
    assert notes == [] and capsys.readouterr().out == ""


def test_a_tracker_never_harms_a_run(fake: Any, tmp_path: Path) -> None:
    """Whatever it does to random numbers, and wherever it fails; and it is not called again, for the next run either."""
    alone, _ = do(tmp_path / "alone")
    for broken in ("", "start", "log", "finish"):
        fake.broken, opened = broken, OpenedData()
        row, notes = do(tmp_path / f"rows{broken}", "fake", opened=opened)
        assert {name: row.get(name) for name in REPRODUCIBLE} == {name: alone.get(name) for name in REPRODUCIBLE}
        place = f"{tmp_path / 'own' / 'trackers' / 'fake.py'}:{OWN_TRACKER.splitlines().index(RAISES) + 1}"
        said = f"warning: the tracker fake has failed; nothing more is reported to it, and the runs go on ({place}: "
        said += "ConnectionError: no network here)."
        assert notes == ([said] if broken else [])
    calls = len(fake.calls)
    assert do(tmp_path / "more", "fake", seed=43, opened=opened)[1] == []
    assert len(fake.calls) == calls


def test_a_paused_run_stops_its_trackers(fake: Any, tmp_path: Path) -> None:
    with pytest.raises(Paused):
        do(tmp_path / "rows", "fake", paused=lambda: True)
    assert [call[0] for call in fake.calls] == ["start", "stop"]
    do(tmp_path / "rows", "fake")
    assert fake.calls[2][1].resumed
    assert [call[0] for call in fake.calls[2:]] == ["start", "log", "log", "finish"]


def test_a_results_folder_that_is_elsewhere(fake: Any, tmp_path: Path) -> None:
    opened = OpenedData()
    job = Job.model_construct(track=("fake",), results=str(tmp_path / "none"), spec=None)  # type: ignore[arg-type]
    notes = Notes()
    job_runner.TrackedCallback(job, notes, opened, resumed=False)
    assert "none is not on" in notes.texts[0] and not (tmp_path / "none").exists()


def test_trackers_that_are_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plugins, "_extras", lambda: {"wandb"})
    monkeypatch.setitem(sys.modules, "wandb", None)
    monkeypatch.delitem(sys.modules, "vpbench.execution.trackers.wandb", raising=False)
    with pytest.raises(UsageError, match=r"tracker 'wandb' needs the library wandb, an extra: pip install 'vpbench\[wandb\]'"):
        check_trackers(["wandb"])
    with pytest.raises(UsageError, match=r"unknown tracker 'tensorbord'.*tensorboard"):
        check_trackers(["tensorbord"])
    assert RunOptions(track="wandb,mlflow,wandb").track == ("wandb", "mlflow")
    assert {"mlflow", "tensorboard", "trackio", "wandb"} <= set(tracker_registry().names())


@pytest.mark.parametrize("given", ["", ",", " , "])
@pytest.mark.parametrize(
    "option", ["track", "save", "test_on", "corruptions", "scales", "noise", "wise_ft", "datasets", "backbone", "columns"]
)
def test_an_option_that_names_nothing_is_refused(option: str, given: str) -> None:
    model = RunOptions if option in RunOptions.model_fields else Request
    with pytest.raises(UsageError, match=f"^--{option.replace('_', '-')} names no"):
        model.from_keywords(**{option: given})


def test_stored_runs_are_said_not_to_be_reported() -> None:
    notes = Notes()
    for runs, missing in ((2, 2), (3, 2), (5, 0)):
        plan: Any = SimpleNamespace(runs=[None] * runs, missing=[None] * missing)
        api._note_untracked(plan, RunOptions(track=("mlflow", "wandb")), notes)
        api._note_untracked(plan, RunOptions(), notes)
    end = "stored already, and not reported to mlflow, wandb; --rerun all repeats what is stored."
    assert notes.texts == [f"1 run is {end}", f"5 runs are {end}"]


def test_what_a_row_says() -> None:
    row = {"acc1": 50.0, "total": 3, "acc5": None, "git_dirty": True, "error": "", "spec": "{}", "loss": float("nan")}
    assert numbers_of(row) == {"acc1": 50.0, "total": 3.0}
    assert texts_of(row) == {"git_dirty": "True", "loss": "nan"}


def in_tensorboard(rows: Path, row: Any) -> dict[str, Any]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    (folder,) = (rows / "_tracking" / "tensorboard").glob(f"vpt-on-noise-{row['group_id'][:8]}/seed-42-{row['run_id'][:8]}")
    found = EventAccumulator(str(folder)).Reload()
    text = found.Tensors("config/text_summary")[0].tensor_proto.string_val[0].decode()
    return {
        "loss": [event.value for event in found.Scalars("train/loss")],
        "steps": [event.step for event in found.Scalars("train/loss")],
        "acc1": found.Scalars("row/acc1")[0].value,
        "prompt_length": text.partition("| method.config.prompt_length | ")[2].partition(" ")[0],
    }


def leveldb_log(content: bytes) -> Iterator[bytes]:
    """The records of a file in LevelDB's log format, blocks of 32 KiB behind a header of 7 bytes."""
    at, record = 7, b""
    while at < len(content):
        if 32768 - at % 32768 < 7:  # no room for a header: padding
            at += 32768 - at % 32768
            continue
        length, kind = int.from_bytes(content[at + 4 : at + 6], "little"), content[at + 6]
        record += content[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # full, or the last part
            yield record
            record = b""


def wandb_records(file: Path) -> list[Any]:
    """All records of a finished run: wandb's service writes the last ones, ``exit`` among them, after ``finish`` has returned."""
    from google.protobuf.message import DecodeError
    from wandb.proto.wandb_internal_pb2 import Record

    end = time.monotonic() + 60
    while True:
        with suppress(DecodeError, IndexError):  # a record that is half written
            records = [Record.FromString(content) for content in leveldb_log(file.read_bytes())]
            if any(record.WhichOneof("record_type") == "exit" for record in records):
                return records
        assert time.monotonic() < end, f"{file}: no exit record among {file.stat().st_size} bytes"
        time.sleep(0.05)


def in_wandb(rows: Path, row: Any) -> dict[str, Any]:
    (file,) = (rows / "_tracking" / "wandb" / "wandb").glob(f"offline-run-*/run-{row['run_id']}.wandb")
    records = wandb_records(file)
    history = [
        {item.key or "/".join(item.nested_key): item.value_json for item in record.history.item}
        for record in records
        if record.WhichOneof("record_type") == "history"
    ]
    run = next(record.run for record in records if record.WhichOneof("record_type") == "run")
    config = {update.key: update.value_json for update in run.config.update}
    summary = {
        update.key: update.value_json
        for record in records
        if record.WhichOneof("record_type") == "summary"
        for update in record.summary.update
    }
    assert run.run_group == row["group_id"] and run.display_name == "vpt on noise, seed 42"
    return {
        "loss": [float(entry["train/loss"]) for entry in history],
        "steps": [int(entry["train/epoch"]) for entry in history],
        "acc1": float(summary["acc1"]),
        "prompt_length": config["method"].partition('"prompt_length":')[2].strip().partition(",")[0],
    }


def in_mlflow(rows: Path, row: Any) -> dict[str, Any]:
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{rows / '_tracking' / 'mlflow' / 'mlflow.db'}")
    (found,) = client.search_runs(
        [client.get_experiment_by_name("vpbench").experiment_id], f"tags.group_id = '{row['group_id']}'"
    )
    losses = client.get_metric_history(found.info.run_id, "train/loss")
    assert found.info.status == "FINISHED" and found.info.run_name == "vpt on noise, seed 42"
    return {
        "loss": [metric.value for metric in losses],
        "steps": [metric.step for metric in losses],
        "acc1": found.data.metrics["acc1"],
        "prompt_length": found.data.params["method.config.prompt_length"],
    }


def in_trackio(rows: Path, row: Any) -> dict[str, Any]:
    from trackio.sqlite_storage import SQLiteStorage

    (name,) = SQLiteStorage.get_runs("vpbench")
    logs, config = SQLiteStorage.get_logs("vpbench", name), SQLiteStorage.get_run_config("vpbench", name)
    assert name == f"vpt on noise, seed 42 ({row['run_id'][:8]})" and row["group_id"] in config.values()
    epochs = [entry for entry in logs if "train/loss" in entry]
    return {
        "loss": [entry["train/loss"] for entry in epochs],
        "steps": [entry["step"] for entry in epochs],
        "acc1": logs[-1]["row/acc1"],
        "prompt_length": str(config["method.config.prompt_length"]),
    }


READ: dict[str, Callable[[Path, Any], dict[str, Any]]] = {
    "tensorboard": in_tensorboard, "wandb": in_wandb, "mlflow": in_mlflow, "trackio": in_trackio
}  # fmt: skip


@pytest.mark.parametrize(
    "name",
    [case(name, always=("tensorboard", "trackio")) for name in READ],  # MLflow takes 20 s for its tables
)
def test_what_the_tools_have_of_a_run(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_DIR", "WANDB_PROJECT", "MLFLOW_TRACKING_URI", "TRACKIO_SPACE_ID"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    monkeypatch.setenv("DO_NOT_TRACK", "true")
    if name == "trackio":
        try:
            importlib.import_module(name)
        except ImportError as error:
            pytest.skip(f"trackio is not installed ({error}; pip install 'vpbench[trackio]'); THE TRACKER IS NOT TESTED")
    rows = tmp_path / "rows"
    torch.manual_seed(0)
    row, notes = do(rows, name)
    assert notes == [] and row["status"] == "ok"
    found = READ[name](rows, row)
    assert found["steps"] == [1, 2]
    assert found["loss"][1] == pytest.approx(row["train_loss"], rel=1e-6)
    assert found["acc1"] == pytest.approx(row["acc1"])
    assert found["prompt_length"] == str(resolve_method("vpt").config["prompt_length"])


def test_no_validator_of_the_options_hides_one_of_its_base() -> None:
    """Pydantic keeps one validator per name, so that a second of the same name silently replaces the first."""
    found = RunOptions.__pydantic_decorators__.field_validators
    for name, validator in JobOptions.__pydantic_decorators__.field_validators.items():
        assert found[name].info.fields == validator.info.fields
