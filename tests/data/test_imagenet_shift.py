"""The suite imagenet-16shot on miniatures: trained once, tested on the other sets in the layouts of their archives."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from miniatures import content, imagenet

import vpbench
from vpbench.core.errors import MissingDataError
from vpbench.execution import execute
from vpbench.store.store import Store

CARD = """
title = "Few"
description = "A few images."
group = "shift"
source = "{source}"
folders = ["{name}"]
{options}
classes = {classes}
n_train = {train}
n_val = 0
n_test = {tests}
image_size = "12x12"
licence = "none"
origin = "made up"
"""
SHIFTS = {
    "v2": ("imagenet_shift", 'options = { inside = ["imagenetv2-matched-frequency-format-val"], numbered = true }', 3, 6),
    "a": ("imagenet_shift", "", 2, 4),
    "r": ("imagenet_shift", 'options = { inside = ["imagenet-r"] }', 2, 4),
    "sketch": ("imagenet_shift", 'options = { inside = ["sketch"] }', 3, 6),
}
SUITE = """
base = "imagenet-16shot"
title = "few"
description = "A few images of ImageNet, and of the sets that shift."
datasets = ["in"]
test_on = ["v2", "sketch", "a", "r"]
backbone = "vit-nano"
image_size = 40
shots = 2
[training]
epochs = 1
mixup = 0.0
cutmix = 0.0
"""


def test_trained_once_on_imagenet_and_tested_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The suite imagenet-16shot on miniatures of its five sets, in the layouts of their archives."""
    monkeypatch.setenv("VPBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("VPBENCH_PATH", str(tmp_path))
    root = tmp_path / "data"
    imagenet.write(root / "in", content(train=4, test=2))
    two = {"test": [member for member in content(test=2)["test"] if member[0] < 2]}
    imagenet.write_shift(root / "v2", content(test=2), "imagenetv2-matched-frequency-format-val", numbered=True)
    imagenet.write_shift(root / "a", two)
    imagenet.write_shift(root / "r", two, "imagenet-r")
    imagenet.write_shift(root / "sketch", content(test=2), "sketch")
    cards = {"in": ("imagenet", "", 3, 6), **SHIFTS}
    for folder in ("datasets", "suites"):
        (tmp_path / folder).mkdir()
    for name, (source, options, classes, tests) in cards.items():
        train = 12 if name == "in" else 0
        card = CARD.format(source=source, name=name, options=options, classes=classes, train=train, tests=tests)
        (tmp_path / "datasets" / f"{name}.toml").write_text(card)
    (tmp_path / "suites" / "few.toml").write_text(SUITE)
    request: dict[str, Any] = {
        "suite": "few", "data_root": str(root), "seeds": 2, "results": tmp_path / "runs", "precision": "fp32", "device": "cpu",
        "save": "none",
    }  # fmt: skip
    monkeypatch.setattr(execute, "_costs", lambda *_: ({}, []))  # measuring takes longest
    vpbench.run("linear", **request)
    rows = Store(tmp_path / "runs").load()
    assert (rows["status"] == "ok").all() and len(rows) == 2 * 5
    assert rows.groupby("group_id")["seed"].apply(sorted).tolist() == [[0, 1]] * 5
    shifted = rows[rows["stage"] == "shift"]
    found = {str(name): (int(row["classes"]), int(row["total"])) for name, row in shifted.groupby("dataset").first().iterrows()}
    assert found == {name: (classes, tests) for name, (_, _, classes, tests) in SHIFTS.items()}
    assert set(shifted["trained_on"]) == {"in"} and set(shifted["n_train"]) == {6}
    shown = str(vpbench.report("shift", paper="vpbench", results=tmp_path / "runs"))
    assert [name for name in SHIFTS if name not in shown] == [], shown
    (root / "a").rename(root / "b")
    with pytest.raises(MissingDataError, match="a of --test-on are not in"):
        vpbench.run("linear", **request)
    assert len(vpbench.run("linear", **request, test_on="none")) == 2
