"""Segmentation from a request to a row: own images with masks, what is refused, stored models on several scales."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sweeps import some

import vpbench as api
from vpbench.analysis.load import load_stored
from vpbench.analysis.scales import SCALES_FILE, check_plan, evaluate_scales
from vpbench.core.errors import DataError, UsageError
from vpbench.execution import execute as worker
from vpbench.execution.callbacks import Callback
from vpbench.execution.execute_plan import execute_plan, make_jobs
from vpbench.execution.executor import make_executor
from vpbench.execution.job import Job
from vpbench.execution.opened_data import OpenedData
from vpbench.execution.run_job import run_job
from vpbench.planning.plan import Plan, plan_runs
from vpbench.planning.suites import suite_card, suite_names
from vpbench.spec.request import Request
from vpbench.spec.run_options import RunOptions
from vpbench.store.artefacts import ARTEFACTS
from vpbench.store.schema import REPRODUCIBLE
from vpbench.store.store import Store
from vpbench.training.fit import Trainer

OPTIONS = RunOptions(save=("weights", "predictions", "features", "curve"))


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("VPBENCH_CACHE", str(tmp_path / "cache"))
    for name in ("measure_training", "measure_inference", "count_operations"):
        monkeypatch.setattr(worker, name, lambda *_: {})


@pytest.fixture
def images(tmp_path: Path) -> Path:
    return write_halves(tmp_path / "halves", train=6, val=2, test=3)


def write_halves(root: Path, **counts: int) -> Path:
    """Noise that is brighter in one half, the right one on images of odd numbers; 24 x 16 pixels."""
    rng = np.random.default_rng(0)
    for split, count in counts.items():
        for number in range(count):
            mask = np.zeros((16, 24), np.uint8)
            mask[:, 12 * (number % 2) : 12 * (number % 2) + 12] = 1
            for kind, values in (("images", 100 * mask + rng.integers(0, 80, mask.shape)), ("masks", mask)):
                folder = root / kind / split
                folder.mkdir(parents=True, exist_ok=True)
                Image.fromarray(values.astype(np.uint8)).save(folder / f"{number}.png")
    return root


def planned(images: Path, store: Store, *methods: str, **more: Any) -> Plan:
    request = Request(
        **{"methods": methods or ("linear",), "data": (str(images),), "task": "segmentation", "image_size": 40, "epochs": 1}
        | {"device": "cpu", "precision": "fp32", **more}
    )
    return plan_runs(request, OPTIONS, store)


def test_a_row(images: Path, tmp_path: Path) -> None:
    store = Store(tmp_path / "runs")
    plan = planned(images, store)
    (job,) = make_jobs(plan, store, OPTIONS)
    row = run_job(job, store, OpenedData(), Callback())
    assert (row["status"], row["error"]) == ("ok", "")
    assert (row["task"], row["metric"], row["suite"]) == ("segmentation", "miou", "custom-segmentation")
    assert row["score"] == row["miou"] == pytest.approx(np.mean(row["iou_per_class"]))
    assert (row.get("acc1"), row.get("correct"), row["total"], row["classes"]) == (None, None, 3, 2)
    assert 0 <= row["val_score"] <= 100
    assert store.load(["score"])["score"].tolist() == [row["score"]]
    again = Store(tmp_path / "again")  # as a worker gets it, and in another folder
    found = run_job(Job.model_validate_json(job.model_dump_json()), again, OpenedData(), Callback())
    assert {name: found.get(name) for name in REPRODUCIBLE} == {name: row.get(name) for name in REPRODUCIBLE}
    with np.load(store.artefact_path(job.run_id, ARTEFACTS["predictions"])) as arrays:
        assert arrays["labelled"].sum() == 3 * 24 * 16  # in the size of the masks, not of the input
    with np.load(store.artefact_path(job.run_id, ARTEFACTS["features"])) as arrays:
        assert arrays["features"].shape == (6, 192) and arrays["indices"].tolist() == [0, 0, 1, 1, 2, 2]
    stored = load_stored(row, store)
    assert stored.model.task.title == "semantic segmentation"
    scores = evaluate_scales(row, store, [1.5, 1], "cpu")
    assert scores["scales"] == [1.0, 1.5] and scores["miou"] == row["miou"] and 0 <= scores["miou_ms"] <= 100
    assert store.artefact_path(job.run_id, SCALES_FILE).exists()
    assert evaluate_scales(row, store, [1, 1.5], "cpu") == scores


class Notes(Callback):
    """A callback that remembers."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


@pytest.mark.sweep
def test_stored_models_on_several_scales(images: Path, tmp_path: Path) -> None:
    """Asked for later, without another training; the row stays as it is."""
    store, asked = Store(tmp_path / "runs"), {"data": images, "task": "segmentation", "image_size": 40, "epochs": 1}
    more = {"device": "cpu", "precision": "fp32", "results": store.folder}
    (run_id,) = api.run("linear", **asked, **more)["run_id"]
    before, heard = store.row_path(run_id).read_bytes(), Notes()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "fit", lambda self: pytest.fail("trained again"))
        api.run("linear", **asked, **more, scales="1,1.5", callback=heard)
    (note,) = (each for each in heard.notes if each.startswith("scales: "))
    assert note.startswith("scales: linear on halves, seed 42: mIoU ")
    assert store.row_path(run_id).read_bytes() == before
    assert json.loads(store.read_artefact(run_id, SCALES_FILE))["scales"] == [1.0, 1.5]


@pytest.mark.parametrize("counts", some([{"train": 1, "test": 1}, {"train": 5, "val": 1, "test": 2}], 1))
def test_sets_of_few_images(counts: dict[str, int], tmp_path: Path) -> None:
    """One image is a whole batch for batch norm; the last batch of two may have one."""
    data = write_halves(tmp_path / "few", **counts)
    settings = {"task.head": "setr-pup", "task.width": 8, "recipe.batch_size": 4}
    found = api.run(
        "linear,vpt", data=data, task="segmentation", image_size=40, epochs=1, device="cpu", precision="fp32",
        settings=settings, results=tmp_path / "runs",
    )  # fmt: skip
    assert found["status"].tolist() == ["ok"] * 2, found["error"].tolist()
    assert found[["n_train", "n_test"]].to_numpy().tolist() == [[counts["train"], counts["test"]]] * 2
    assert found["score"].between(0, 100).all()


@pytest.mark.sweep
def test_a_search_is_won_by_the_score(images: Path, tmp_path: Path) -> None:
    """Trials see no test image, and pixels are not counted as answers: the best mIoU on the validation images wins."""
    space = tmp_path / "rates.toml"
    space.write_text('title = "t"\ndescription = "d"\nsource = "s"\n[parameters]\n"recipe.lr" = [1e-5, 1e-1]\n')
    (outcome,) = api.tune(
        "linear", data=images, task="segmentation", image_size=40, epochs=3, device="cpu", precision="fp32", seeds=1,
        space=str(space), results=tmp_path / "runs",
    )  # fmt: skip
    scores = [trial.row["val_score"] for trial in outcome.trials]
    assert [trial.row["score"] for trial in outcome.trials] == [None, None] and scores[0] != scores[1]
    assert outcome.best is not None and outcome.best.row["val_score"] == max(scores)
    (final,) = outcome.finals
    assert (final["status"], final["lr"]) == ("ok", outcome.best.row["lr"]) and 0 <= final["score"] <= 100


def refusals(images: Path) -> Iterator[tuple[dict[str, Any], str]]:
    yield {"settings": {"task.head": "setr-pop"}}, r"unknown head 'setr-pop'"
    yield {"settings": {"task.haed": "linear"}}, r"unknown option of segmentation 'haed'"
    yield {"settings": {"task.stride": 60}}, r"task.stride=60 leaves gaps between windows of 40 px"
    yield {"settings": {"recipe.mixup": 0.1}}, r"recipe.mixup is for one label of a"
    yield (
        {"data": None, "suite": "mini", "image_size": None},
        r"the suite mini is for classification: leave out --task segmentation",
    )
    yield (
        {"data": None, "suite": "mini-seg", "task": "classification"},
        r"mini-seg is for segmentation: leave out --task classific",
    )
    yield {"task": "segmentatoin"}, r"unknown task 'segmentatoin'"
    yield {"task": None}, r"look like images and their masks and not like classes; say --task segmentation"
    yield {"iterations": 3}, r"--epochs 1 and --iterations 3: keep one"


def test_what_is_refused(images: Path, tmp_path: Path) -> None:
    for more, message in refusals(images):
        with pytest.raises((UsageError, DataError), match=message) as caught:
            planned(images, Store(tmp_path / "runs"), **more)
        assert "\n" not in str(caught.value)
    (tmp_path / "own.toml").write_text('title = "x"\ndescription = "x"\nbase = "mini-seg"\ndatasets = ["digits"]\nsource = "x"')
    with pytest.raises(UsageError, match=r"digits has a class for each image, and segmentation needs a mask for each image"):
        planned(images, Store(tmp_path / "runs"), data=None, suite=str(tmp_path / "own.toml"))
    with pytest.raises(UsageError, match=r"--scales is for segmentation"):
        check_plan(plan_runs(Request(methods=("linear",), precision="fp32"), OPTIONS, Store(tmp_path / "runs")), [1.0])


def test_methods_that_do_not_fit_are_known_when_planning(images: Path, tmp_path: Path) -> None:
    plan = planned(images, Store(tmp_path / "runs"), "linear", "mlp", "vqt", "ivpt")
    reasons = {run.spec.method.label: plan.unsupported.get(run.spec.run_id, "") for run in plan.runs}
    assert [bool(reasons[label]) for label in ("linear", "mlp", "vqt", "ivpt")] == [False, True, True, False]
    assert reasons["vqt"].endswith("does not fit segmentation: it reads the outputs of its queries, in place of the features.")
    ivpt = next(run.spec.method for run in plan.runs if run.spec.method.label == "ivpt")
    assert ivpt.config["ar"] == "none"


@pytest.mark.sweep
def test_suites_of_segmentation(tmp_path: Path) -> None:
    assert {name for name in suite_names() if suite_card(name).task == "segmentation"} >= {
        "ade20k", "voc", "mini-seg", "custom-segmentation"
    }  # fmt: skip
    request = Request(suite="ade20k", weights="random", precision="fp32")
    plan = plan_runs(request, OPTIONS, Store(tmp_path), without_data=True)
    assert [run.spec.method.label for run in plan.runs] == ["linear", "bias", "vpt", "ivpt:cdc-da"]
    assert not plan.unsupported
    recipe = plan.runs[0].spec.recipe
    assert (recipe.iterations, recipe.epochs, recipe.batch_size) == (160_000, 127, 16)
    assert plan.runs[0].spec.backbone.image_size == 512
    assert [run.spec.method.config.get("dropout") for run in plan.runs] == [None, None, 0.1, 0.1]
    short = plan_runs(request.model_copy(update={"epochs": 3}), OPTIONS, Store(tmp_path), without_data=True).runs[0].spec.recipe
    assert (short.iterations, short.epochs) == (None, 3)


@pytest.mark.sweep
def test_a_worker_process_writes_the_same_row(images: Path, tmp_path: Path) -> None:
    rows = []
    for executor in ("inline", "local"):
        store = Store(tmp_path / executor)
        options = OPTIONS.model_copy(update={"executor": executor, "workers": 1 if executor == "local" else None, "threads": 1})
        plan = planned(images, store, "vpt")
        frame = execute_plan(plan, store, options, Callback(), make_executor(options))
        rows.append(store.read_row(frame["run_id"].iloc[0]) or {})
    quick = {"flops_forward"}
    assert {name: rows[0].get(name) for name in REPRODUCIBLE if name not in quick} == {
        name: rows[1].get(name) for name in REPRODUCIBLE if name not in quick
    }
