"""One run: the test split is evaluated once and last, and whatever goes wrong is a row."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from sweeps import case, some

from vpbench.core.errors import DivergedError, StoppedError, StoreError, UnsupportedError, WeightsError
from vpbench.data.cache import CachedData, CachedSplit
from vpbench.execution import execute as worker
from vpbench.execution.callbacks import Callback
from vpbench.execution.job import Job
from vpbench.measure import timing
from vpbench.models.registry import resolve_method
from vpbench.planning.plan import PlannedRun
from vpbench.spec.recipe import Recipe
from vpbench.spec.run_spec import BackboneSpec, DataSpec, Preprocess, RunSpec
from vpbench.store.artefacts import ARTEFACTS
from vpbench.store.store import Store
from vpbench.training.fit import Epoch, Trainer
from vpbench.training.inputs import Batch, Inputs


def split(count: int, seed: int) -> CachedSplit:
    pixels = np.random.default_rng(seed).integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
    return CachedSplit(pixels, np.arange(count) % 2, 32)


DATA = CachedData(split(4, 0), split(2, 1), split(6, 2), ("a", "b"))
BACKBONE = BackboneSpec(
    name="vit_tiny_patch16_224", weights="random", image_size=32, patch_size=16, mean=(0.5,) * 3, std=(0.5,) * 3
)


def job(label: str = "vpt", save: Iterable[str] = (), **more: Any) -> Job:
    spec = RunSpec(
        method=resolve_method(label), backbone=BACKBONE, data=DataSpec(suite="custom", dataset="noise", digest="0"),
        preprocess=Preprocess(), recipe=Recipe(epochs=2, batch_size=4, lr=0.01), seed=42, **more,
    )  # fmt: skip
    return Job(
        spec=spec, recipe_source="here", group="custom", classes=2, n_train=4, n_val=2, n_test=6, data_root="", save=tuple(save)
    )  # fmt: skip


@pytest.fixture(autouse=True)
def unmeasured(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("measure_training", "measure_inference", "count_operations"):
        monkeypatch.setattr(worker, name, lambda *_: {})


@pytest.fixture
def store(tmp_path: Any) -> Store:
    return Store(tmp_path)


@pytest.mark.parametrize("label", [case(label, always=["vpt"]) for label in ("linear", "vpt", "e2vpt")])
@pytest.mark.parametrize("selection", ["last", "best_val"])
def test_the_test_split_is_evaluated_once(label: str, selection: str, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """After all training, features included; and what chooses an epoch is validation data."""
    events: list[str] = []
    evaluation: Callable[[Inputs, CachedSplit], Iterator[Batch]] = Inputs.evaluation

    def watched(inputs: Inputs, part: CachedSplit) -> Iterator[Batch]:
        events.append("test" if part is DATA.test else "val")
        return evaluation(inputs, part)

    class Epochs(Callback):
        def epoch(self, run: PlannedRun, epoch: Epoch) -> None:
            events.append("epoch")

    monkeypatch.setattr(Inputs, "evaluation", watched)
    row = worker.execute(job(label, ARTEFACTS, selection=selection), DATA, store, Epochs())
    assert row["status"] == "ok", row["error"]
    assert events.count("test") == 1
    assert "epoch" not in events[events.index("test") :]
    assert events.count("val") > 1 or selection == "last"
    assert row["total"] == 6
    assert store.load()["run_id"].tolist() == [row["run_id"]]


@pytest.mark.parametrize("label", some(["linear", "vpt", "e2vpt"], 1))
def test_a_trial_never_sees_the_test_split(label: str, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[CachedSplit] = []
    evaluate: Callable[[Inputs, CachedSplit], Iterator[Batch]] = Inputs.evaluation

    def watched(inputs: Inputs, part: CachedSplit) -> Iterator[Batch]:
        seen.append(part)
        return evaluate(inputs, part)

    monkeypatch.setattr(Inputs, "evaluation", watched)
    row = worker.execute(job(label, ARTEFACTS, stage="search"), DATA, store, Callback())
    assert row["status"] == "ok", row["error"]
    assert all(part is DATA.val for part in seen)
    assert row["val_acc1"] == 100 * row["val_correct"] / row["n_val"]
    stored = store.read_row(row["run_id"])
    assert stored is not None
    assert stored["stage"] == "search"
    assert stored["acc1"] is stored["correct"] is stored["total"] is None
    assert not store.artefact_path(row["run_id"], "predictions.npz").exists()


@pytest.mark.parametrize(
    ("error", "status", "text"),
    some(
        [
            (DivergedError("the loss became nan"), "diverged", "the loss became nan"),
            (UnsupportedError("not here"), "unsupported", "not here"),
            (torch.OutOfMemoryError("CUDA out of memory.\nTry this"), "oom", "CUDA out of memory."),
            (MemoryError(), "oom", "the machine has too little memory for this run: --checkpoint-blocks, or a smaller batch."),
            (ZeroDivisionError("by zero"), "failed", "ZeroDivisionError: by zero"),
        ],
        3,
    ),
)
def test_errors_become_rows(error: Exception, status: str, text: str, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_trainer: Trainer) -> None:
        raise error

    monkeypatch.setattr(Trainer, "fit", fail)
    returned = worker.execute(job(save=["predictions"]), DATA, store, Callback())
    (row,) = store.load().to_dict("records")
    assert row["status"] == returned["status"] == status
    assert row["error"].strip().splitlines()[-1] == text
    assert row["method"] == "vpt"
    assert row["n_test"] == 6
    assert row["wall_s"] > 0
    assert row["acc1"] is None or np.isnan(row["acc1"])
    assert not (store.folder / "_artefacts").exists()


@pytest.mark.parametrize("error", [StoreError("full"), WeightsError("changed"), KeyboardInterrupt(), StoppedError("now")])
def test_errors_that_no_run_is_to_blame_for(error: BaseException, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_trainer: Trainer) -> None:
        raise error

    monkeypatch.setattr(Trainer, "fit", fail)
    with pytest.raises(type(error)):
        worker.execute(job(), DATA, store, Callback())
    assert list(store.folder.iterdir()) == []


def test_nothing_but_the_row_unless_asked(store: Store) -> None:
    row = worker.execute(job("linear"), DATA, store, Callback())
    assert [path.name for path in store.folder.iterdir()] == [f"{row['run_id']}.parquet"]


def test_same_run_same_row(store: Store) -> None:
    first, second = (worker.execute(job("linear"), DATA, store, Callback()) for _ in range(2))
    different = {name for name in first if first[name] != second[name]}
    assert different <= {"started_at", "wall_s"}


@pytest.mark.parametrize("name", some(["measure_training", "measure_inference", "count_operations"], 1))
@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (RuntimeError("no such\nkernel"), "RuntimeError: no such kernel"),
        pytest.param(torch.OutOfMemoryError("CUDA out of memory."), "too little memory", marks=pytest.mark.sweep),
        pytest.param(MemoryError(), "too little memory", marks=pytest.mark.sweep),
        pytest.param(UnsupportedError("not here"), "UnsupportedError: not here", marks=pytest.mark.sweep),
    ],
)
def test_a_tested_run_is_kept_when_measuring_fails(
    name: str, error: Exception, reason: str, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    columns = {"measure_training": "train_step_ms", "measure_inference": "latency_ms_p50", "count_operations": "flops_forward"}
    for function, column in columns.items():
        monkeypatch.setattr(worker, function, lambda *_, column=column: {column: 5})

    def fail(*_: Any) -> dict[str, Any]:
        raise error

    monkeypatch.setattr(worker, name, fail)
    row = store.read_row(worker.execute(job("linear"), DATA, store, Callback())["run_id"])
    assert row is not None
    assert (row["status"], row["total"]) == ("ok", 6)
    assert row["error"].startswith("Not measured: ") and reason in row["error"] and "\n" not in row["error"]
    assert {column: row[column] for column in columns.values()} == {
        column: None if function == name else 5 for function, column in columns.items()
    }


@pytest.mark.sweep
def test_a_tested_run_is_kept_when_the_time_is_up(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def slow(*_: Any) -> dict[str, Any]:
        time.sleep(60)
        return {}

    monkeypatch.setattr(worker, "measure_training", slow)
    row = worker.execute(job("linear").model_copy(update={"timeout_s": 3.0}), DATA, store, Callback())
    assert (row["status"], row["total"]) == ("ok", 6)
    assert row["error"] == "The time was up before a training step was measured."
    assert row["wall_s"] < 30


def test_what_stops_the_process_is_no_failed_measurement(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(*_: Any) -> dict[str, Any]:
        raise StoppedError("stopped by SIGTERM")

    monkeypatch.setattr(worker, "measure_inference", stopped)
    with pytest.raises(StoppedError):
        worker.execute(job("linear"), DATA, store, Callback())
    assert store.load().empty


def test_a_batch_that_is_larger_than_the_data(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is measured is a batch of all there are."""
    asked: list[int] = []

    def training_step(_: Any, recipe: Recipe, *__: Any) -> Callable[[], None]:
        asked.append(recipe.batch_size)
        return lambda: None

    monkeypatch.setattr(worker, "measure_training", timing.measure_training)
    monkeypatch.setattr(timing, "training_step", training_step)
    monkeypatch.setattr(timing, "SECONDS", 0.001)
    large = job("linear")
    large = large.model_copy(
        update={"spec": large.spec.model_copy(update={"recipe": Recipe(epochs=1, batch_size=10**9, lr=0.01)})}
    )
    row = worker.execute(large, DATA, store, Callback())
    assert (row["status"], row["error"], asked) == ("ok", "", [4])
    assert row["train_images_per_s"] == pytest.approx(4 / (row["train_step_ms"] / 1e3))
