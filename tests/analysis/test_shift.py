"""Stored models on other test sets, and with weights between a linear probe's and their own (WiSE-FT)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from sweeps import some

import vpbench
from vpbench.analysis.shift import OtherData, Shifts, mixed_rows, open_others, predicted, shift_rows
from vpbench.analysis.wise_ft import interpolated
from vpbench.core.errors import DataError, MissingDataError, StoreError, UnsupportedError, UsageError
from vpbench.data.sources import open_path
from vpbench.deploy.load_run import load_run
from vpbench.execution import execute
from vpbench.planning.plan import make_plan
from vpbench.reporting.frame import load_rows
from vpbench.spec.request import Request
from vpbench.spec.run_options import RunOptions
from vpbench.store.store import Store

KINDS = ("a", "b", "c", "d", "e", "f")  # six classes, so that top-5 says something
METHODS = ("linear", "full", "lora", "vpt")
HOW: dict[str, Any] = {
    "backbone": "test_vit", "weights": "random", "image_size": 32, "epochs": 2, "precision": "fp32", "device": "cpu"
}  # fmt: skip
CARD = """
title = "Other"
description = "Three of the six classes."
group = "shift"
path = "{path}"
classes = {classes}
n_train = {classes}
n_val = 0
n_test = {tests}
image_size = "12x12"
licence = "none"
origin = "made up"
"""


def write_images(folder: Path, kinds: tuple[str, ...], train: int, test: int, seed: int) -> Path:
    """Noise in a class's colour."""
    noise = np.random.default_rng(seed)
    for split, count in (("train", train), ("test", test)):
        for kind in kinds:
            (folder / split / kind).mkdir(parents=True)
            colour = np.array([40 * KINDS.index(kind), 120, 250 - 40 * KINDS.index(kind)])
            for number in range(count):
                pixels = np.clip(colour + noise.normal(0, 60, (12, 12, 3)), 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(folder / split / kind / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, Path, dict[str, dict[str, Any]]]:
    """A store with one run of every method, the images, and the rows by method."""
    root = tmp_path_factory.mktemp("shift")
    data = write_images(root / "images", KINDS, 8, 6, 1)
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("VPBENCH_CACHE", str(root / "cache"))
        environment.setattr(execute, "_costs", lambda *_: ({}, []))  # measuring takes longest
        vpbench.run(METHODS, data=str(data), results=root / "runs", save="weights", **HOW)
    store = Store(root / "runs")
    return store, data, {str(row["method"]): row for row in store.load().to_dict("records")}


@pytest.fixture
def cards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of the user's with the card of a data set of three classes, and one whose card counts wrongly."""
    monkeypatch.setenv("VPBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("VPBENCH_PATH", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    other = write_images(tmp_path / "images", KINDS[1:4], 1, 9, 2)
    (tmp_path / "datasets").mkdir()
    (tmp_path / "datasets" / "other.toml").write_text(CARD.format(path=other, classes=3, tests=27))
    (tmp_path / "datasets" / "wrong.toml").write_text(CARD.format(path=other, classes=3, tests=28))
    return tmp_path


def own(trained: tuple[Store, Path, dict[str, dict[str, Any]]]) -> OtherData:
    return OtherData("images", "custom", open_path(trained[1]))


@pytest.mark.parametrize("method", some(METHODS, 2))
def test_on_its_own_test_images_a_model_has_its_own_score(method: str, trained: Any, cards: Path) -> None:
    store, _, rows = trained
    (found,) = shift_rows(rows[method]["run_id"], store, [own(trained)], "cpu")
    assert found["status"] == "ok"
    for column in ("acc1", "acc5", "mean_per_class", "correct", "correct5", "total", "n_test", "classes"):
        assert found[column] == rows[method][column]
    assert found["run_id"] != rows[method]["run_id"] and found["trained_run"] == rows[method]["run_id"]


def test_of_some_classes_their_logits_alone_are_compared(trained: Any, cards: Path) -> None:
    store, _, rows = trained
    (other,) = open_others(["other"])
    (found,) = shift_rows(rows["full"]["run_id"], store, [other], "cpu")
    model = load_run(str(rows["full"]["run_id"]), results=store.folder)
    test = other.raw.splits["test"]
    with torch.no_grad():
        logits = torch.stack([model(model.transform(test.name(index))[None])[0] for index in range(len(test))])
    assert model.class_names == KINDS and other.raw.class_names == KINDS[1:4]
    best = logits[:, 1:4].argmax(1).numpy()
    assert found["correct"] == int((best == test.labels).sum())
    assert (found["total"], found["n_test"], found["classes"], found["acc5"]) == (27, 27, 3, None)
    assert (found["stage"], found["dataset"], found["trained_on"], found["dataset_group"]) == (
        "shift",
        "other",
        "images",
        "shift",
    )
    assert (found["suite"], found["method"], found["seed"], found["interpolation"]) == ("custom", "full", 42, None)
    assert found["params_trainable"] == rows["full"]["params_trainable"] and found.get("latency_ms_p50") is None


def test_the_same_again_does_nothing_unless_the_model_was_trained_since(trained: Any, cards: Path) -> None:
    store, _, rows = trained
    others = open_others(["other"])
    first, second = (next(iter(shift_rows(rows["vpt"]["run_id"], store, others, "cpu"))) for _ in range(2))
    assert abs(second["started_at"] - first["started_at"]) < pd.Timedelta("1ms")
    row = store.read_row(str(rows["vpt"]["run_id"])) or {}
    store.write_row({**row, "started_at": pd.Timestamp.now(tz="UTC") + pd.Timedelta("1s")})
    third = next(iter(shift_rows(rows["vpt"]["run_id"], store, others, "cpu")))
    assert third["started_at"] > second["started_at"] and third["correct"] == second["correct"]
    store.write_row(row)


def test_other_classes_missing_and_damaged_data_are_refused(trained: Any, cards: Path) -> None:
    store, data, rows = trained
    strange = OtherData("digits", "built-in", open_others(["digits"])[0].raw)
    with pytest.raises(UsageError, match=r"--test-on digits: a model of images does not know 10 of its 10 classes, e\.g\. '0'"):
        next(iter(shift_rows(rows["vpt"]["run_id"], store, [strange], "cpu")))
    plan = make_plan(Request(methods=["linear"], data=str(data), **HOW), store)
    with pytest.raises(UsageError, match="--test-on digits"):
        Shifts([strange], ()).check(plan, store)
    with pytest.raises(MissingDataError, match=r"imagenet-a, imagenet-v2 of --test-on are not in .*data get") as caught:
        open_others(["imagenet-a", "imagenet-v2"], str(cards / "nowhere"))
    assert "\n" not in str(caught.value)
    with pytest.raises(DataError, match=r"--test-on wrong: .*n_test = 28, here it is 27"):
        open_others(["wrong"])
    with pytest.raises(UsageError, match="Did you mean 'imagenet-a'"):
        open_others(["imagenet_a"])


# --- WiSE-FT


@pytest.mark.parametrize("method", ["full", "lora"])
def test_weights_at_0_and_1_are_those_of_the_end_points(method: str, trained: Any, cards: Path) -> None:
    store, _, rows = trained
    found = list(mixed_rows(rows[method]["run_id"], store, [own(trained)], (0.0, 0.5, 1.0), "cpu"))
    assert [row["status"] for row in found] == ["ok"] * 3
    assert [row["interpolation"] for row in found] == [0, 0.5, 1]
    assert found[0]["correct"] == rows["linear"]["correct"] and found[2]["correct"] == rows[method]["correct"]
    assert len({row["run_id"] for row in found}) == 3


def test_weights_are_mixed_one_by_one(trained: Any) -> None:
    store, _, rows = trained

    def load(method: str) -> Any:
        return load_run(str(rows[method]["run_id"]), results=store.folder)

    def weights(model: Any) -> dict[str, torch.Tensor]:
        parts = {"backbone.": model.model.backbone.timm_model, "head.": model.model.head}
        return {prefix + name: value.clone() for prefix, part in parts.items() for name, value in part.state_dict().items()}

    start, end = weights(load("linear")), weights(load("full"))
    name = "backbone.blocks.3.mlp.fc1.weight"
    assert not torch.equal(start[name], end[name])
    for alpha, model in interpolated(load("linear"), load("full"), (0.0, 0.25, 1.0)):
        mixed = weights(model)
        wanted = {0.0: start, 1.0: end}.get(alpha) or {key: torch.lerp(start[key], end[key], alpha) for key in start}
        assert all(torch.equal(mixed[key], wanted[key]) for key in wanted)


def test_logits_of_a_merged_model_are_its_own(trained: Any) -> None:
    store, _, rows = trained
    tuned = load_run(str(rows["lora"]["run_id"]), results=store.folder)
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        expected = tuned(images)
        ((_, model),) = list(interpolated(load_run(str(rows["linear"]["run_id"]), results=store.folder), tuned, (1.0,)))
        torch.testing.assert_close(model(images), expected, rtol=1e-4, atol=1e-4)


def test_prompts_cannot_be_mixed(trained: Any, cards: Path) -> None:
    store, _, rows = trained
    (found,) = mixed_rows(rows["vpt"]["run_id"], store, [own(trained)], (0.5,), "cpu")
    assert found["status"] == "unsupported"
    assert "vpt is more than a backbone's weights and a linear head" in found["error"] and "\n" not in found["error"]
    with pytest.raises(UnsupportedError):
        list(interpolated(*(load_run(str(rows[name]["run_id"]), results=store.folder) for name in ("linear", "vpt")), (0.5,)))


def test_without_a_linear_probe(trained: Any, tmp_path: Path) -> None:
    store, data, _ = trained
    plan = make_plan(Request(methods=["full"], data=str(data), **HOW), store)
    Shifts([], (0.5,)).check(plan, store)  # the store has one
    with pytest.raises(UsageError, match="has none of images on test_vit with the seed 42: add linear to --methods"):
        Shifts([], (0.5,)).check(plan, Store(tmp_path / "empty"))


@pytest.mark.parametrize("given", ["1.5", "a", "", "-0.1"])
def test_shares(given: str) -> None:
    with pytest.raises(UsageError, match="--wise-ft"):
        RunOptions(wise_ft=given)  # type: ignore[arg-type]
    assert RunOptions(wise_ft="1,0,0.5").wise_ft == (0.0, 0.5, 1.0)  # type: ignore[arg-type]
    assert RunOptions(test_on="none").test_on == ()  # type: ignore[arg-type]
    assert "weights" in RunOptions(test_on="other", save="curve").artefacts  # type: ignore[arg-type]


# --- together


def test_run_and_report(trained: Any, cards: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store, data, _ = trained
    table = vpbench.report(results=store.folder)
    frame = vpbench.run(
        "linear,full",
        data=str(data),
        results=store.folder,
        save="weights",
        test_on="other",
        wise_ft=(0, 1),
        progress=True,
        **HOW,
    )
    assert sorted(frame["method"]) == ["full", "linear"] and not (frame["stage"] == "shift").any()
    said = capsys.readouterr().err
    assert "full of images on other, seed 42: " in said and "full of images on images, 1 of its weights, seed 42: " in said
    assert set(load_rows(store)["method"]) == set(METHODS) and not (load_rows(store)["stage"] == "shift").any()
    assert vpbench.report(results=store.folder) == table
    shown = vpbench.report("shift", paper="vpbench", results=store.folder)
    tests = {(row["dataset"], row["interpolation"]): row for row in store.load().to_dict("records") if row["stage"] == "shift"}
    command = vpbench.show("run", tests["other", 1.0]["run_id"], store.folder)["repeat_with"]
    assert "--methods full" in command and command.endswith("--test-on other --wise-ft 1")
    with pytest.raises(StoreError, match=r"is a test of the model of run [0-9a-f]{32}: load that one"):
        load_run(tests["other", 1.0]["run_id"], results=store.folder)
    assert isinstance(shown, str) and "other" in shown and "full (wise_ft=1.0)" in shown and "full (wise_ft=0.0)" in shown


def test_empty_split_is_no_matter(trained: Any, cards: Path) -> None:
    """Data sets of test images alone have no training images to decode."""
    store, _, rows = trained
    (other,) = open_others(["other"])
    model = load_run(str(rows["linear"]["run_id"]), results=store.folder)
    from vpbench.analysis.shift import _test_alone
    from vpbench.data.cache import prepare

    split = prepare(_test_alone(other.raw), model.description.preprocess, 32).test
    assert predicted(model, split, [1, 2, 3]).total == 27
