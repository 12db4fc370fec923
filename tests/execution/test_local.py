"""Expected costs, and what executors refuse; nothing here starts a worker process."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from local_runs import jobs_of, run_job

from vpbench.core.errors import UsageError
from vpbench.execution.executor import get_executor, processors
from vpbench.execution.executors.inline import Inline
from vpbench.execution.executors.local.local_executor import Local
from vpbench.planning.expected_time import PastRuns, Work, format_duration, longest_first, past_runs
from vpbench.store.store import Store

pytestmark = pytest.mark.usefixtures("quick")

# How long


def past(**changes: Any) -> dict[str, Any]:
    row = {
        "status": "ok", "method": "vpt", "dataset": "noise", "backbone": "vit-nano", "device": "cpu", "epochs": 10,
        "n_train": 6, "wall_s": 60.0,
    }  # fmt: skip
    return {**row, **changes}


def test_expected_seconds(images: Path, store: Store) -> None:
    linear, vpt = jobs_of(images, store, methods=("linear", "vpt"))
    assert vpt.spec.backbone.name == "vit-nano"
    assert PastRuns([]).seconds(Work.of(vpt)) is None
    assert PastRuns([past()]).seconds(Work.of(vpt)) == pytest.approx(6)  # one epoch instead of ten
    assert PastRuns([past(), past(wall_s=600.0), past(wall_s=70.0)]).seconds(Work.of(vpt)) == pytest.approx(7)  # the median
    assert PastRuns([past(), past(dataset="large", wall_s=900.0)]).seconds(Work.of(vpt)) == pytest.approx(6)  # most alike
    assert PastRuns([past(dataset="large", n_train=60)]).seconds(Work.of(vpt)) == pytest.approx(0.6)
    assert PastRuns([past()]).seconds(Work.of(linear)) == pytest.approx(6)  # another method is better than nothing
    for change in ({"status": "failed"}, {"device": "cuda"}, {"backbone": "vit-giga"}, {"wall_s": None}):
        assert PastRuns([past(**change)]).seconds(Work.of(vpt)) is None
    rows = [past(), past(method="linear", wall_s=1.0)]
    assert longest_first([linear, vpt], PastRuns(rows)) == [vpt, linear]
    assert longest_first([linear, vpt], PastRuns([])) == [linear, vpt]
    longer = linear.model_copy(update={"n_train": 100})
    assert longest_first([linear, vpt, longer], PastRuns([]))[0] == longer


def test_expected_seconds_of_other_sizes(images: Path, store: Store) -> None:
    """Pixels count, and what a run takes beside training: decoding, testing, measuring."""
    (vpt,) = jobs_of(images, store)
    assert (vpt.spec.backbone.image_size, vpt.n_train, vpt.spec.recipe.epochs) == (32, 6, 1)
    assert PastRuns([past(image_size=64)]).seconds(Work.of(vpt)) == pytest.approx(6 / 4)
    assert PastRuns([past(image_size=16)]).seconds(Work.of(vpt)) == pytest.approx(6 * 4)
    # 60 images in 60 s, of which training took 20: 40 s stay, whatever the set.
    row = past(image_size=32, train_images_per_s=3.0)
    assert PastRuns([row]).seconds(Work.of(vpt)) == pytest.approx(40 + 2)
    assert PastRuns([past(train_images_per_s=0.5)]).seconds(Work.of(vpt)) == pytest.approx(6)  # slower steps than the whole run
    assert format_duration(0.2) == "less than 1 s"


def test_past_rows_of_a_store(images: Path, store: Store) -> None:
    (job,) = jobs_of(images, store)
    assert past_runs(store).seconds(Work.of(job)) is None
    row = run_job(job, store)
    assert past_runs(store).seconds(Work.of(job)) == pytest.approx(row["wall_s"])  # the same again


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.4, "less than 1 s"), (89, "89 s"), (90, "2 min"), (5399, "90 min"), (5400, "1.5 h"), (200_000, "2.3 days")],
)
def test_durations(seconds: float, words: str) -> None:
    assert format_duration(seconds) == words


# What executors refuse


def test_executors_by_name() -> None:
    assert isinstance(get_executor("inline"), Inline)
    assert isinstance(get_executor("local", workers=2, retries=3), Local)
    with pytest.raises(UsageError, match="Did you mean 'slurm'"):
        get_executor("slrum")
    with pytest.raises(UsageError, match=r"unknown option of the executor local 'worker'\. Did you mean 'workers'"):
        get_executor("local", worker=2)


@pytest.mark.parametrize("name", ["ray", "slurm"])
def test_a_missing_extra(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, {"ray": "ray", "slurm": "submitit"}[name], None)
    for module in [each for each in sys.modules if each.startswith(f"vpbench.execution.executors.{name}")]:
        monkeypatch.delitem(sys.modules, module)
    with pytest.raises(UsageError, match=rf"pip install 'vpbench\[{name}\]'"):
        get_executor(name)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"workers": 0}, "--workers 0: take 1 or more"),
        ({"per_gpu": 0}, "--per-gpu 0: take 1 or more"),
        ({"retries": -1}, "--retries -1: take 0 or more"),
        ({"gpus": [7]}, "there is no GPU 7"),
        ({"gpus": []}, "names no GPU"),
    ],
)
def test_local_refuses(options: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        Local(**options)


def test_slots_on_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    slots = Local(workers=2).slots("cpu", 10)
    assert [slot.name for slot in slots] == ["cpu 0", "cpu 1"]
    assert {slot.environment["OMP_NUM_THREADS"] for slot in slots} == {str(max(1, processors() // 2))}
    assert len(Local(workers=5).slots("cpu", 3)) == 3  # no more than runs
    assert [slot.threads for slot in Local(workers=1).slots("cpu", 3, threads=7)] == [7]
    with pytest.raises(UsageError, match="--workers N"):
        Local(per_gpu=2).slots("cpu", 3)


def test_slots_on_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)

    def slots(local: Local, jobs: int = 10) -> list[tuple[str, str]]:
        return [(slot.name, slot.environment["CUDA_VISIBLE_DEVICES"]) for slot in local.slots("cuda", jobs)]

    assert slots(Local()) == [("gpu 0", "0"), ("gpu 1", "1"), ("gpu 2", "2")]
    assert slots(Local(gpus=[0, 2], per_gpu=2), jobs=3) == [("gpu 0", "0"), ("gpu 2", "2"), ("gpu 0", "0")]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,GPU-5a,6")
    assert slots(Local(gpus=[1])) == [("gpu 1", "GPU-5a")]
    with pytest.raises(UsageError, match="there is no GPU 3; torch sees 3, numbered from 0"):
        Local(gpus=[0, 3])
    with pytest.raises(UsageError, match="named twice"):
        Local(gpus=[1, 1])
    with pytest.raises(UsageError, match="--per-gpu"):
        Local(workers=2).slots("cuda", 3)
