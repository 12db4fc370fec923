"""Jobs, claims, expected costs, and what executors refuse; nothing here starts a worker process."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from vpbench.backbones.base import Needed
from vpbench.backbones.vit import ViTAdapter
from vpbench.cli.show_runs import _summary
from vpbench.core.checksums import sealed
from vpbench.core.errors import DataError, StoreError, UsageError
from vpbench.execution import execute as worker
from vpbench.execution import run_job as job_runner
from vpbench.execution.callbacks import Callback
from vpbench.execution.execute_plan import execute_plan, make_jobs
from vpbench.execution.executor import get_executor, processors
from vpbench.execution.executors.inline import Inline
from vpbench.execution.executors.local.local_executor import Local
from vpbench.execution.expected_time import PastRuns, Work, format_duration, longest_first, past_runs
from vpbench.execution.job import Job, row_since, row_version
from vpbench.execution.opened_data import OpenedData
from vpbench.execution.run_progress import RunProgress
from vpbench.interface import Tokens
from vpbench.planning.plan import Plan, PlannedRun, plan_runs
from vpbench.planning.rerun import to_repeat
from vpbench.spec.request import Request
from vpbench.spec.run_options import RunOptions
from vpbench.store.schema import REPRODUCIBLE
from vpbench.store.store import Store
from vpbench.training.checkpoint import Paused
from vpbench.training.fit import Trainer

BARE = RunOptions(save=())  # nothing beside the rows


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    monkeypatch.setenv("VPBENCH_CACHE", str(tmp_path / "cache"))
    for name in ("measure_training", "measure_inference", "count_operations"):
        monkeypatch.setattr(worker, name, lambda *_: {})
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for split in ("train", "val", "test"):
        for kind in range(2):
            folder = tmp_path / "noise" / split / f"c{kind}"
            folder.mkdir(parents=True)
            for index in range(3):
                Image.fromarray(rng.integers(0, 256, (20, 20, 3), np.uint8)).save(folder / f"{index}.png")
    return tmp_path / "noise"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "runs")


def planned(images: Path, store: Store, seeds: int = 1, methods: tuple[str, ...] = ("linear",)) -> Plan:
    request = Request(
        methods=methods, data=str(images), image_size=32, epochs=1, seeds=seeds, device="cpu", precision="fp32"
    )  # fmt: skip
    return plan_runs(request, BARE, store)


def jobs_of(images: Path, store: Store, **more: Any) -> list[Job]:
    return make_jobs(planned(images, store, **more), store, BARE)


def run_job(job: Job, store: Store) -> dict[str, Any]:
    return job_runner.run_job(job, store, OpenedData(), Callback())


# A job


def test_images_of_one_colour_are_noted_once(images: Path, store: Store) -> None:
    class Notes(Callback):
        said: ClassVar[list[str]] = []

        def note(self, text: str) -> None:
            self.said.append(text)

    for file in sorted((images / "test").rglob("*.png"))[:4]:
        Image.new("RGB", (20, 20), (len(file.stem), 7, 7)).save(file)
    opened, callback = OpenedData(), Notes()
    for job in jobs_of(images, store, seeds=2):
        job_runner.prepare_data(job, store, opened, callback)
    assert callback.said == ["note on noise: 4 of 6 test images are of one colour each."]


def test_a_job_travels_as_json(images: Path, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(images.parent)
    (job,) = jobs_of(Path("noise"), store)
    copy = Job.model_validate_json(job.model_dump_json())
    assert copy == job
    assert copy.run_id == planned(images, store).runs[0].spec.run_id
    assert copy.spec.data.path == str(images)  # any folder will do to run in
    assert copy.sizes == {"classes": 2, "n_train": 6, "n_val": 6, "n_test": 6}
    assert copy.label == "linear on noise, seed 42"
    row = run_job(copy, store)
    assert row["status"] == "ok"
    assert store.load()["run_id"].tolist() == [job.run_id]


def test_a_job_refuses_other_images(images: Path, store: Store) -> None:
    (job,) = jobs_of(images, store)
    changed = job.model_copy(
        update={"spec": job.spec.model_copy(update={"data": job.spec.data.model_copy(update={"digest": "0" * 32})})}
    )
    with pytest.raises(DataError, match=r"noise: images, labels or splits are not those .* same copy"):
        run_job(changed, store)
    assert not list(store.folder.glob("*.parquet"))


def test_data_sets_stay_open(images: Path, store: Store) -> None:
    """One process opens a data set once, another one opens it itself, and the oldest is dropped when there are too many."""
    first, second = jobs_of(images, store, seeds=2)
    opened = OpenedData(at_most=1)
    assert opened.get(first) is opened.get(second)
    assert OpenedData().get(first) is not opened.get(first)
    raw = opened.get(first)
    elsewhere = first.model_copy(update={"data_root": "/another"})
    assert opened.get(elsewhere) is not raw
    assert opened.get(first) is not raw


def test_data_that_the_plan_has_opened_is_not_opened_again(images: Path, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = planned(images, store)
    monkeypatch.setattr("vpbench.execution.opened_data.open_path", None)
    assert len(execute_plan(plan, store, BARE)) == 1


def test_threads(images: Path, store: Store) -> None:
    plan = planned(images, store)
    torch.set_num_threads(2)
    (job,) = make_jobs(plan, store, RunOptions(save=(), threads=1))
    assert run_job(job, store)["threads"] == 1


def test_checkpointed_blocks_change_no_number(images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks run once more in the backward pass; the run's identity and all that is learnt and counted stay the same."""
    run_needed, blocks, found = ViTAdapter.run_needed, [0], []

    def counted(adapter: ViTAdapter, index: int, tokens: Tokens, needed: Needed) -> Tokens:
        blocks[0] += 1
        return run_needed(adapter, index, tokens, needed)

    monkeypatch.setattr(ViTAdapter, "run_needed", counted)
    for on in (False, True):
        store, blocks[0] = Store(tmp_path / str(on)), 0
        (job,) = make_jobs(planned(images, store, methods=("vpt",)), store, RunOptions(save=("weights",), checkpoint_blocks=on))
        row = run_job(Job.model_validate_json(job.model_dump_json()), store)
        assert (row["status"], row["checkpoint_blocks"]) == ("ok", on)
        found.append((blocks[0], row, store.artefact_path(job.run_id, "weights.safetensors").read_bytes()))
    (plain, row, weights), (checkpointed, same_row, same_weights) = found
    assert checkpointed == plain + 6  # one training step, and its six blocks
    assert same_weights == weights
    of_the_machine = {"started_at", "wall_s", "checkpoint_blocks"}
    assert {name: row[name] for name in row.keys() - of_the_machine} == {
        name: same_row[name] for name in same_row.keys() - of_the_machine
    }


def test_a_run_that_takes_too_long(images: Path, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def endless(_trainer: Trainer) -> None:
        while True:
            time.sleep(0.01)

    monkeypatch.setattr(Trainer, "fit", endless)
    (job,) = make_jobs(planned(images, store), store, RunOptions(save=(), timeout_s=2))
    row = run_job(job, store)
    assert row["status"] == "timeout"
    assert "in endless" in row["error"]
    assert row["error"].splitlines()[-1] == "the run took longer than --timeout 2 s."
    assert 2 <= row["wall_s"] < 20
    assert signal.getsignal(signal.SIGALRM) == signal.SIG_DFL
    assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)


# Who does a run


HOLDER = """
import sys
from vpbench.store.store import Store
with Store(sys.argv[1]).claims.claim("abc", label="held elsewhere", place="gpu 1") as ours:
    print(ours, flush=True)
    sys.stdin.read()
"""


@pytest.mark.sweep
def test_a_claim_dies_with_its_process(store: Store) -> None:
    root = Path(__file__).parents[2]
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, store.folder], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": str(root)},
    )  # fmt: skip
    assert holder.stdout
    assert holder.stdout.readline() == "True\n"
    (about,) = store.claims.held().values()
    assert about["label"] == "held elsewhere"
    assert about["pid"] == holder.pid
    with store.claims.claim("abc") as ours:
        assert not ours
    with store.claims.claim("def") as ours:
        assert ours
    holder.kill()
    holder.communicate()
    assert store.claims.held() == {}
    with store.claims.claim("abc") as ours:
        assert ours
    assert list(store.claims.folder.iterdir()) == []


def test_a_claim_where_nothing_can_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="--results FOLDER"), Store(tmp_path / "file").claims.claim("abc"):
        pass


class Notes(Callback):
    def __init__(self) -> None:
        self.notes: list[str] = []
        self.finished_runs: list[str] = []
        self.found_runs: list[str] = []

    def found(self, run: PlannedRun, row: dict[str, Any]) -> None:
        self.found_runs.append(run.spec.run_id)

    def note(self, text: str) -> None:
        self.notes.append(text)

    def finished(self, run: PlannedRun, row: dict[str, Any]) -> None:
        self.finished_runs.append(run.spec.run_id)


@pytest.mark.sweep
def test_a_run_that_another_command_does_comes_last_and_is_not_done_twice(images: Path, store: Store) -> None:
    first, second = jobs_of(images, store, seeds=2)
    notes, before = Notes(), run_job(first, Store(images.parent / "other"))
    entered = threading.Event()

    def other_command() -> None:
        with store.claims.claim(first.run_id):
            entered.set()
            time.sleep(2)
            store.write_row({**before, "recipe_source": "the other command"})

    thread = threading.Thread(target=other_command)
    thread.start()
    entered.wait()
    found = list(Inline()([first, second], store, notes, OpenedData()))
    thread.join()
    assert [row["run_id"] for row in found] == [second.run_id, first.run_id]
    assert found[1]["recipe_source"] == "the other command"
    assert (notes.finished_runs, notes.found_runs) == ([second.run_id], [first.run_id])
    assert notes.notes == ["Another command is working on 1 of these runs; waiting for it."]


def test_a_row_of_before_is_no_row_of_now(images: Path, store: Store) -> None:
    (job,) = jobs_of(images, store)
    assert row_since(job, store) is None
    run_job(job, store)
    row = row_since(job, store)
    assert row is not None
    again = job.model_copy(update={"replaces": row_version(row)})
    assert row_since(again, store) is None


def test_drained(images: Path, store: Store) -> None:
    """As by Ctrl-C while the first run is under way: it finishes, nothing new starts, and the same command continues."""
    plan = planned(images, store, seeds=3)

    class Interrupts(Notes):
        def started(self, run: PlannedRun) -> None:
            os.kill(os.getpid(), signal.SIGINT)

    callback = Interrupts()
    with pytest.raises(KeyboardInterrupt):
        execute_plan(plan, store, BARE, callback)
    assert callback.finished_runs == [plan.runs[0].spec.run_id]
    assert "Ctrl-C again stops at once" in callback.notes[0]
    assert signal.getsignal(signal.SIGINT) == signal.default_int_handler
    assert list(store.claims.folder.iterdir()) == []
    again = planned(images, store, seeds=3)
    assert [run.spec.seed for run in again.missing] == [44, 82]
    assert len(execute_plan(again, store, RunOptions(save=(), limit=1))) == 2
    assert len(planned(images, store, seeds=3).missing) == 1


def test_interrupted_twice(images: Path, store: Store) -> None:
    class Interrupts(Callback):
        def started(self, run: PlannedRun) -> None:
            for _ in range(2):
                os.kill(os.getpid(), signal.SIGINT)
                time.sleep(0.01)

    with pytest.raises(KeyboardInterrupt):
        execute_plan(planned(images, store), store, BARE, Interrupts())
    assert not list(store.folder.glob("*.parquet"))


# Repeating


def test_rerun(images: Path, store: Store) -> None:
    jobs = jobs_of(images, store, seeds=3)
    rows = [run_job(job, store) for job in jobs]
    store.write_row({**rows[0], "status": "diverged"})
    store.write_row({**rows[1], "torch": "1.0"})
    ids = [job.run_id for job in jobs]
    assert to_repeat(None, store) == frozenset()
    assert to_repeat("failed", store) == {ids[0]}
    assert to_repeat("stale", store) == {ids[1]}
    assert to_repeat("all", store) == set(ids)
    with pytest.raises(UsageError, match="Did you mean 'failed'"):
        to_repeat("fail", store)
    assert planned(images, store, seeds=3).missing == []
    request = Request(
        methods=("linear",), data=str(images), image_size=32, epochs=1, seeds=3, device="cpu", precision="fp32"
    )  # fmt: skip
    plan = plan_runs(request, RunOptions(save=(), rerun="failed"), store)
    assert [run.spec.run_id for run in plan.missing] == [ids[0]]
    frame = execute_plan(plan, store, BARE).set_index("run_id")
    assert frame["status"].tolist() == ["ok"] * 3
    assert frame.loc[ids[0], "started_at"] > rows[2]["started_at"]
    assert frame.loc[ids[2], "started_at"].to_pydatetime() <= rows[2]["started_at"]


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


# What goes wrong quietly, and what another command has done


def left(job: Job, store: Store) -> dict[str, Any]:
    """The content of the checkpoint of a run that is left after its first step."""
    asked = iter(range(1))
    with pytest.raises(Paused):
        job_runner.run_job(job, store, OpenedData(), Callback(), lambda: next(asked, None) is None)
    content: dict[str, Any] = torch.load(io.BytesIO(store.read_checkpoint(job.run_id) or b""), weights_only=True)
    return content


@pytest.mark.parametrize("part", ["ended", pytest.param("now", marks=pytest.mark.sweep)])
def test_a_checkpoint_that_lacks_something(part: str, images: Path, store: Store, tmp_path: Path) -> None:
    """Its checksum fits, so that it shows in the middle; the run starts again, to the same row."""
    (job,) = jobs_of(images, store)
    content = left(job, store)
    state = content["now"] or content["ended"][0]
    del state["tensors"]
    content = {**content, "now": None, "ended": [state]} if part == "ended" else {**content, "now": state, "ended": []}
    file = io.BytesIO()
    torch.save(content, file)
    store.checkpoint_path(job.run_id).write_bytes(sealed(file.getvalue()))
    notes = Notes()
    row = job_runner.run_job(job, store, OpenedData(), notes)
    assert row["status"] == "ok"
    assert "does not fit (KeyError: 'tensors'); the run starts again." in notes.notes[-1]
    assert not store.checkpoint_path(job.run_id).exists()
    plain = job_runner.run_job(job, Store(tmp_path / "other"), OpenedData(), Callback())
    assert {name: row.get(name) for name in REPRODUCIBLE} == {name: plain.get(name) for name in REPRODUCIBLE}


def test_a_rate_of_1e30_leaves_a_warning_in_the_row(images: Path, store: Store) -> None:
    request = Request(
        methods=("linear",),
        data=str(images),
        image_size=32,
        epochs=2,
        settings={"recipe.lr": 1e30},
        device="cpu",
        precision="fp32",
    )
    (job,) = make_jobs(plan_runs(request, BARE, store), store, BARE)
    notes = Notes()
    row = job_runner.run_job(job, store, OpenedData(), notes)
    if row["status"] == "ok":
        assert row["error"].startswith("warning: ") and "a smaller recipe.lr may help" in row["error"]
        assert notes.notes == [f"{job.label}: {row['error']}"]
    else:
        assert row["status"] == "diverged"
    (usual,) = jobs_of(images, store)
    assert job_runner.run_job(usual, store, OpenedData(), Callback())["error"] == ""


def test_rows_of_another_command_are_not_new(images: Path, store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    plan = planned(images, store, seeds=3)
    progress, row = RunProgress(), {"status": "ok", "score": 50.0, "wall_s": 1.0}
    progress.planned(plan, None)
    progress.finished(plan.runs[0], row)
    for run in plan.runs[1:]:
        progress.found(run, row)
    assert (progress.done, progress.by_others) == (3, 2)
    frame = pd.DataFrame(
        [
            {
                **row,
                "method": "linear",
                "dataset": "noise",
                "backbone": "vit-nano",
                "seed": run.spec.seed,
                "run_id": run.spec.run_id,
                "started_at": pd.Timestamp(0),
            }
            for run in plan.runs
        ]
    )
    _summary(progress, frame, Path("runs"))
    done = capsys.readouterr()
    assert done.out.startswith("3 rows, 1 of them new, 2 by another command, in runs.")
    assert done.err.count("by another command") == 2
