"""From images to a table with the real command, and again, and with more seeds and other settings."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from command import rows, traces, vpbench
from safetensors.numpy import load_file, save

import vpbench as package
from vpbench.core.cards import packaged_file
from vpbench.store.artefacts import CHECKSUMS
from vpbench.store.schema import COLUMNS

# Empty in the rows of `finished`: top-5 says nothing with three classes, an installed package has no commit, nothing is searched,
# a processor does not tell its energy, and neither method has a pass before training.
MAY_BE_EMPTY = {
    "acc5", "git_commit", "git_dirty", "stage", "search", "energy_train_j", "energy_infer_j", "weights_path", "prepare_s",
    "trained_run", "trained_on", "interpolation", "experiment",
    *("miou", "macc", "aacc", "iou_per_class", "miou_ms", "macc_ms", "aacc_ms"),  # of segmentation
}  # fmt: skip


def test_one_complete_row_per_method(finished: Path) -> None:
    table = rows(finished)
    assert sorted(table["method"]) == ["linear", "vpt"]
    assert list(table.columns) == list(COLUMNS)
    assert {column for column in table if table[column].isna().any()} <= MAY_BE_EMPTY
    assert (table["status"] == "ok").all()
    assert (table["error"] == "").all()
    assert set(table["suite"]) == {"custom"}
    assert set(table["dataset"]) == {"grey"}
    assert set(table["backbone"]) == {"vit-nano"}
    assert set(table["seed"]) == {42}
    assert table[["n_train", "n_val", "n_test", "total", "classes"]].to_numpy().tolist() == [[18, 6, 12, 12, 3]] * 2
    assert np.allclose(table["acc1"], 100 * table["correct"] / table["total"])
    assert (table["latency_ms_p10"] > 0).all()
    vpt, linear = (table[table["method"] == name].iloc[0] for name in ("vpt", "linear"))
    assert vpt["params_trainable"] == vpt["params_method"] + vpt["params_head"]
    assert linear["params_trainable"] == linear["params_head"]
    assert vpt["flops_forward"] > linear["flops_forward"]


def test_what_lies_beside_a_row(finished: Path) -> None:
    for row in rows(finished).itertuples():
        folder = finished / "_artefacts" / str(row.run_id)
        features, predictions = np.load(folder / "features.npz"), np.load(folder / "predictions.npz")
        assert len(features["features"]) == row.total
        assert (predictions["ranked"][:, 0] == predictions["labels"]).sum() == row.correct
        assert np.array_equal(features["labels"], predictions["labels"])
        assert pd.read_csv(folder / "curve.csv")["train_loss"].iloc[-1] == pytest.approx(row.train_loss)
        weights = load_file(folder / "weights.safetensors")
        assert sum(tensor.size for tensor in weights.values()) == row.params_trainable
        assert len(save(weights)) == row.bytes_saved


def test_the_same_command_again_does_nothing(results: Path, command: list[str]) -> None:
    before = traces(results)
    again = vpbench(*command, results, "--methods", "linear,vpt")
    assert again.code == 0
    assert "2 rows" in again.out
    assert "0 of them new" in again.out
    assert traces(results) == before


def test_missing_artefacts_are_made_up_for(results: Path, command: list[str], unmeasured: None) -> None:
    run_id = rows(results).query("method == 'linear'")["run_id"].item()
    (results / "_artefacts" / run_id / "curve.csv").unlink()
    assert "0 of them new" in vpbench(*command, results, "--methods", "linear", "--save", "none").out
    assert "1 of them new" in vpbench(*command, results, "--methods", "linear").out
    assert (results / "_artefacts" / run_id / "curve.csv").exists()


def test_noise_is_tested_without_training(results: Path, command: list[str]) -> None:
    before = traces(results)
    words = (*command, results, "--methods", "linear,vpt", "--save", "none", "--noise")
    noisy = vpbench(*words, "0.5,0")
    assert noisy.code == 0, noisy.err
    assert "0 of them new" in noisy.out
    table = rows(results)
    for row in table.itertuples():
        found = pd.read_csv(results / "_artefacts" / row.run_id / "noise.csv")
        assert found["sigma"].tolist() == [0, 0.5]
        assert found["acc1"].iloc[0] == pytest.approx(row.acc1), "no noise: the accuracy of the run"
        assert f"noise: {row.method} on grey, seed 42: {row.acc1:.1f} at 0, {found['acc1'].iloc[1]:.1f} at 0.5" in noisy.err
    after = traces(results)
    assert {name for name, seen in before.items() if after[name] != seen} == {name for name in before if CHECKSUMS in name}
    assert len(after) == len(before) + 2
    assert vpbench(*words, "0.5").code == 0
    assert traces(results) == after, "what is known is not tested again"


def test_noise_keeps_the_weights_it_needs(tmp_path: Path, images: Path, unmeasured: None) -> None:
    """Also from Python, and with weights that only the request knows the place of."""
    options: dict[str, object] = {"data": images, "image_size": 40, "epochs": 1, "device": "cpu", "results": tmp_path}
    weights = packaged_file("backbones", "vit-nano.safetensors")
    frame = package.run("linear", save=(), noise=[0], weights=weights, **options)
    folder = tmp_path / "_artefacts" / frame["run_id"].item()
    assert {path.name for path in folder.iterdir()} == {"weights.safetensors", "noise.csv", CHECKSUMS}
    assert pd.read_csv(folder / "noise.csv")["acc1"].item() == pytest.approx(frame["acc1"].item())


def test_report(finished: Path) -> None:
    shown = vpbench("report", "--table", 1, "--results", finished)
    assert shown.code == 0
    for row in rows(finished).itertuples():
        assert any(str(row.method) in line.lower() and f"{row.acc1:.1f}" in line for line in shown.out.splitlines())


def test_more_seeds_add_runs(results: Path, command: list[str], unmeasured: None) -> None:
    before = traces(results)
    more = vpbench(*command, results, "--methods", "linear,vpt", "--seeds", 2, "--save", "none", "--json")
    assert more.code == 0
    assert len(json.loads(more.out)) == 4
    after = traces(results)
    assert before.items() <= after.items()
    table = rows(results)
    assert sorted(zip(table["method"], table["seed"])) == [("linear", 42), ("linear", 44), ("vpt", 42), ("vpt", 44)]
    assert table.groupby("method")["group_id"].nunique().tolist() == [1, 1]
    assert table["run_id"].is_unique


def test_plan_of_a_new_folder_writes_nothing(tmp_path: Path, command: list[str]) -> None:
    shown = vpbench(*command, tmp_path / "new", "--methods", "linear,vpt", "--dry-run")
    assert shown.code == 0
    assert shown.out.count("missing") == 3  # twice in the table, once in the sentence
    assert "2 runs, 0 stored, 2 missing" in shown.out
    assert "expected_s" not in shown.out  # a column of nothing
    assert "No expected times yet: there are no rows of similar runs, and the first run measures." in shown.out
    assert shown.out.startswith("run_id ") and "No run ids" not in shown.out
    assert list(tmp_path.iterdir()) == []


def test_plan_knows_what_is_stored(results: Path, command: list[str]) -> None:
    before = traces(results)
    shown = vpbench(*command, results, "--methods", "linear,vpt,vpt:shallow", "--dry-run", "--json")
    plan = json.loads(shown.out)
    assert [(entry["method"], entry["status"]) for entry in plan] == [
        ("linear", "stored"),
        ("vpt", "stored"),
        ("vpt:shallow", "missing"),
    ]
    assert {entry["run_id"] for entry in plan[:2]} == set(rows(results)["run_id"])
    assert traces(results) == before


def test_default_plan_is_the_built_in_suite(tmp_path: Path) -> None:
    plan = json.loads(vpbench("run", "--results", tmp_path / "new", "--dry-run", "--json").out)
    assert len(plan) == 18
    assert {entry["method"] for entry in plan} == {"linear", "vpt", "e2vpt", "insvp", "viapt", "ivpt"}
    assert {entry["dataset"] for entry in plan} == {"digits", "sprites-location", "sprites-orientation"}


def test_settings_make_other_runs(results: Path, command: list[str], unmeasured: None) -> None:
    known = set(rows(results)["run_id"])
    done = vpbench(
        *command, results, "--methods", "vpt", "--save", "none", "--json",
        "--set", "vpt.prompt_length=3", "--set", "recipe.lr=0.125", "--set", "vpt.recipe.batch_size=6",
    )  # fmt: skip
    (row,) = json.loads(done.out)
    assert row["run_id"] not in known
    assert json.loads(row["method_config"])["prompt_length"] == 3
    assert row["params_method"] == 3 * 6 * 192
    assert (row["lr"], row["batch_size"]) == (0.125, 6)
    assert "set by the user: batch_size=6, epochs=1, lr=0.125" in row["recipe_source"]


def test_show_run(finished: Path) -> None:
    row = rows(finished).query("method == 'vpt'").iloc[0]
    facts = json.loads(vpbench("show", "run", row["run_id"][:6], "--results", finished, "--json").out)
    assert facts["run_id"] == row["run_id"]
    assert facts["acc1"] == row["acc1"]
    assert facts["recipe"]["epochs"] == 1
    shown = vpbench("show", "run", row["run_id"][:6], "--results", finished)
    assert (shown.code, row["run_id"] in shown.out) == (0, True)


@pytest.mark.parametrize(
    ("kind", "entries"),
    [
        pytest.param("methods", {"linear", "vpt", "e2vpt", "insvp", "viapt", "ivpt"}, marks=pytest.mark.sweep),
        pytest.param("datasets", {"digits", "sprites-location", "sprites-orientation"}, marks=pytest.mark.sweep),
        pytest.param("suites", {"mini", "custom"}, marks=pytest.mark.sweep),
        ("searches", {"vpt-grid", "prompt-length", "adamw"}),
        pytest.param("backbones", {"vit-nano"}, marks=pytest.mark.sweep),
    ],
)
def test_list_and_show_everything(kind: str, entries: set[str]) -> None:
    one = "search" if kind == "searches" else kind.removesuffix("s")
    listed = json.loads(vpbench("list", kind, "--json").out)
    assert entries <= {entry["name"] for entry in listed}
    plain = vpbench("list", kind)
    for entry in listed:
        assert entry["name"] in plain.out
        shown = vpbench("show", one, entry["name"])
        assert (shown.code, shown.err) == (0, "")
        assert len(shown.out) > 100
        assert isinstance(json.loads(vpbench("show", one, entry["name"], "--json").out), dict)


def test_show_method_tells_sources_and_differences() -> None:
    facts = json.loads(vpbench("show", "method", "insvp", "--json").out)
    assert all(entry["source"] and entry["meaning"] for entry in facts["options"])
    assert facts["presets"][0]["preset"] == "insvp:released"
    assert facts["presets"][0]["differences"]


def test_version() -> None:
    assert vpbench("--version").out.strip() == f"vpbench {package.__version__}"
