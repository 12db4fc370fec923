"""``vpbench report --table scores`` and the reliability diagram: from predictions and probabilities that runs left."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from report_rows import fill, make_row

from vpbench.analysis.corruptions import CORRUPTIONS, SEVERITIES
from vpbench.core.errors import StoreError
from vpbench.reporting.frame import Filters
from vpbench.reporting.make_report import make_report
from vpbench.reports.plots import confusion, reliability
from vpbench.store.store import Store


def leave(store: Store, run_id: str, sharpness: float, seed: int, tail: bool = False, val: bool = True) -> None:
    """Probabilities and predictions of a model that is too sure of itself where ``sharpness`` is above 1."""
    random = np.random.default_rng(seed)

    def drawn(images: int) -> tuple[Any, Any]:
        logits = 1.6 * random.standard_normal((images, 10))
        true = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
        labels = np.array([random.choice(10, p=row) for row in true])
        sharp = np.exp(sharpness * logits)
        return (sharp / sharp.sum(1, keepdims=True)).astype(np.float16), labels

    test, labels = drawn(500)
    val_test, val_labels = drawn(200 if val else 0)
    counts = np.linspace(200, 5, 10).astype(int) if tail else np.full(10, 80)
    ranked = np.argsort(-test, axis=1)[:, :5]
    files = {
        "probabilities.npz": {
            "probabilities": test, "labels": labels, "val_probabilities": val_test.reshape(-1, 10), "val_labels": val_labels,
        },
        "predictions.npz": {"labels": labels, "ranked": ranked, "confidence": test.max(1), "train_counts": counts},
    }  # fmt: skip
    for name, arrays in files.items():
        store.write_artefact(run_id, name, lambda path, arrays=arrays: np.savez(path.open("wb"), **arrays))  # type: ignore[misc]


def filled(folder: Path, **how: bool) -> Store:
    rows = [make_row(method, seed=seed) for method in ("linear", "vpt") for seed in (0, 1)]
    store = fill(folder / "runs", *rows)
    for place, row in enumerate(rows):
        leave(store, row["run_id"], 1.0 if row["method"] == "linear" else 2.0, place, **how)
    return store


def columns_of(store: Store) -> tuple[list[str], dict[str, dict[str, Any]]]:
    made = make_report("scores", results=store.folder, format="json")
    (section,) = json.loads(str(made))["sections"]
    names = [column["name"] for column in section["columns"]]
    return names, {row["label"]: dict(zip(names, row["cells"])) for row in section["rows"]}


def test_scores_beside_accuracy(tmp_path: Path) -> None:
    names, rows = columns_of(filled(tmp_path))
    assert names == [
        "top-1 (%)", "macro F1 (%)", "ECE (%)", "NLL", "Brier", "T", "ECE at T (%)", "NLL at T", "Brier at T"
    ]  # fmt: skip
    assert list(rows) == ["linear", "vpt"]
    assert rows["vpt"]["ECE (%)"]["mean"] > 2 * rows["linear"]["ECE (%)"]["mean"], "its probabilities are too high"
    assert rows["vpt"]["T"]["mean"] == pytest.approx(2, abs=0.3) and rows["linear"]["T"]["mean"] == pytest.approx(1, abs=0.2)
    assert rows["vpt"]["NLL at T"]["mean"] < rows["vpt"]["NLL"]["mean"] and rows["vpt"]["T"]["n"] == 2


def test_many_medium_and_few_shots_of_a_long_tail(tmp_path: Path) -> None:
    store = filled(tmp_path, tail=True, val=False)
    names, _ = columns_of(store)
    assert names == ["top-1 (%)", "macro F1 (%)", "many (%)", "medium (%)", "few (%)", "ECE (%)", "NLL", "Brier"]
    line = "No temperature: the runs on digits have no validation images to fit it on."
    assert str(make_report("scores", results=store.folder)).count(line) == 1


def test_temperature_of_a_long_tail(tmp_path: Path) -> None:
    store = filled(tmp_path, tail=True)
    names, rows = columns_of(store)
    assert names[-4:] == ["T", "ECE at T (%)", "NLL at T", "Brier at T"] and "few (%)" in names
    assert rows["vpt"]["T"]["mean"] == pytest.approx(2, abs=0.3)
    assert "No temperature" not in str(make_report("scores", results=store.folder))


def test_accuracies_on_corrupted_images(tmp_path: Path) -> None:
    store = fill(tmp_path / "runs", row := make_row())
    lines = [f"{name},{severity},{50 + severity},1,2" for name in CORRUPTIONS for severity in SEVERITIES if name != "fog"]
    text = "\n".join(["corruption,severity,acc1,correct,total", *lines])
    store.write_artefact(row["run_id"], "corruptions.csv", lambda path: path.write_text(text))
    names, rows = columns_of(store)
    assert names == ["top-1 (%)", "noise (%)", "blur (%)", "digital (%)"], "fog is missing"
    assert rows["vpt"]["blur (%)"]["mean"] == 53


@pytest.mark.sweep
def test_reliability_diagram(tmp_path: Path) -> None:
    store = filled(tmp_path)
    paths = make_report(plot="reliability", results=store.folder, out=tmp_path / "figures")
    assert [Path(path).name for path in paths] == [f"reliability_vit-nano_digits{suffix}" for suffix in (".png", ".pdf")]
    ((_, figure),) = reliability.draw(store, store.load(), Filters())
    texts = [text.get_text() for ax in figure.axes for text in ax.texts]
    assert len(texts) == 2 and all("ECE" in text and "T " in text for text in texts)


def test_runs_that_left_nothing(tmp_path: Path) -> None:
    store = fill(tmp_path / "runs", make_row())
    with pytest.raises(StoreError, match=r"no predictions, probabilities or corruptions .*--save predictions,probabilities"):
        make_report("scores", results=store.folder)
    with pytest.raises(StoreError, match=r"no probabilities .*--save probabilities"):
        make_report(plot="reliability", results=store.folder, out=tmp_path)


def test_a_segmentation_in_the_store_changes_nothing(tmp_path: Path) -> None:
    """Its predictions are other arrays."""
    store = filled(tmp_path)
    row = make_row("linear", "street", task="segmentation")
    store.write_row(row)
    store.write_artefact(str(row["run_id"]), "predictions.npz", lambda path: np.savez(path.open("wb"), intersections=np.ones(2)))
    names, _ = columns_of(store)
    assert "street" not in names
    for plot in (confusion, reliability):
        assert not any("street" in stem for stem, _ in plot.draw(store, store.load(), Filters()))
