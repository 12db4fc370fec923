"""A job: it travels, does what it says, stops in time, and says what went wrong quietly."""

from __future__ import annotations

import io
import signal
import time
from pathlib import Path
from typing import Any, ClassVar

import pandas as pd
import pytest
import torch
from local_runs import BARE, Notes, jobs_of, planned, run_job
from PIL import Image

from vpbench.backbones.base import Needed
from vpbench.backbones.vit import ViTAdapter
from vpbench.cli.show_runs import _summary
from vpbench.core.checksums import sealed
from vpbench.core.errors import DataError
from vpbench.execution import run_job as job_runner
from vpbench.execution.callbacks import Callback
from vpbench.execution.execute_plan import execute_plan, make_jobs
from vpbench.execution.job import Job
from vpbench.execution.opened_data import OpenedData
from vpbench.execution.run_progress import RunProgress
from vpbench.interface import Tokens
from vpbench.planning.plan import plan_runs
from vpbench.spec.request import Request
from vpbench.spec.run_options import RunOptions
from vpbench.store.schema import REPRODUCIBLE
from vpbench.store.store import Store
from vpbench.training.checkpoint import Paused
from vpbench.training.fit import Trainer

pytestmark = pytest.mark.usefixtures("quick")

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


@pytest.mark.sweep
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
    (job,) = make_jobs(planned(images, store), store, RunOptions(save=(), timeout_s=5))
    row = run_job(job, store)
    assert row["status"] == "timeout"
    assert "in endless" in row["error"]
    assert row["error"].splitlines()[-1] == "the run took longer than --timeout 5 s."
    assert 5 <= row["wall_s"] < 25
    assert signal.getsignal(signal.SIGALRM) == signal.SIG_DFL
    assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)


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


@pytest.mark.sweep
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
