"""Runs that end badly are rows with a status, and the others go on."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from command import rows, traces, vpbench

from vpbench.training import memory

pytestmark = pytest.mark.usefixtures("unmeasured")

FLAKY = """
import os

from vpbench.interface import Method, MethodConfig, torch


class FlakyConfig(MethodConfig):
    pass


class Flaky(Method[FlakyConfig]):
    title = summary = paper = "fails now and then"
    fidelity = "paper"
    Config = FlakyConfig

    def build(self):
        if os.environ["FLAKY"] == "in build":
            self.own.table = {}[self.shape.width]

    def phases(self, session):
        session.train()
        if os.environ["FLAKY"] == "in phases":
            raise ValueError("the moon is full")
        if os.environ["FLAKY"] == "in memory":
            raise MemoryError
"""


def statuses(folder: Path) -> dict[str, str]:
    table = rows(folder)
    return dict(zip(table["method"], table["status"]))


def row_of(folder: Path, method: str) -> pd.Series:
    return rows(folder).set_index("method").loc[method]


def test_divergence(tmp_path: Path, command: list[str]) -> None:
    words = [*command, tmp_path, "--methods", "vpt,linear", "--epochs", 3, "--save", "curve"]
    words += ["--set", "vpt.recipe.lr=1e30", "--set", "vpt.recipe.optimizer=sgd"]
    done = vpbench(*words)
    assert done.code == 1
    assert "vpt on grey, seed 42: diverged - the lo" in done.err  # "the loss" or "the logits"
    assert statuses(tmp_path) == {"vpt": "diverged", "linear": "ok"}
    row = row_of(tmp_path, "vpt")
    assert row["error"]
    assert row[["acc1", "acc5", "mean_per_class", "correct", "val_acc1"]].isna().all()
    assert row[["lr", "n_test", "wall_s", "torch", "device"]].notna().all()
    before = traces(tmp_path)
    again = vpbench(*words)
    assert again.code == 1
    assert "1 run of these had ended so before; --rerun failed repeats them." in again.err
    assert "--rerun" not in done.err
    assert traces(tmp_path) == before


def test_a_batch_that_no_memory_holds(tmp_path: Path, command: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel would kill the process; a run that caches the features of a frozen backbone needs next to nothing."""
    monkeypatch.setattr(memory, "available_bytes", lambda: 2**20)
    done = vpbench(*command, tmp_path, "--methods", "vpt,linear", "--save", "none", "--set", "recipe.batch_size=100000")
    assert statuses(tmp_path) == {"vpt": "oom", "linear": "ok"}
    assert "a batch of 18 images of 40 px needs more than" in done.err and "a smaller recipe.batch_size" in done.err
    assert "\n" not in row_of(tmp_path, "vpt")["error"]


@pytest.mark.parametrize(
    ("place", "status", "reason"),
    [
        pytest.param("in build", "failed", "KeyError: 192", marks=pytest.mark.sweep),
        ("in phases", "failed", "ValueError: the moon is full"),
        pytest.param(
            "in memory",
            "oom",
            "the machine has too little memory for this run: --checkpoint-blocks, or a smaller batch.",
            marks=pytest.mark.sweep,
        ),
    ],
)
def test_a_method_that_raises(
    place: str, status: str, reason: str, tmp_path: Path, command: list[str],
    install: Callable[[str, str, str], None], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    install("flaky", "Flaky", FLAKY)
    monkeypatch.setenv("FLAKY", place)
    words = [*command, tmp_path / "runs", "--methods", "flaky,linear", "--save", "none"]
    done = vpbench(*words)
    assert done.code == 1
    assert f"flaky on grey, seed 42: {status} - {reason}" in done.err
    assert statuses(tmp_path / "runs") == {"flaky": status, "linear": "ok"}
    row = row_of(tmp_path / "runs", "flaky")
    assert row["error"].strip().splitlines()[-1] == reason
    assert pd.isna(row["acc1"])

    before = traces(tmp_path / "runs")
    monkeypatch.setenv("FLAKY", "no more")
    again = vpbench(*words)
    assert again.code == 0, again.err
    assert "1 of them new" in again.out
    assert statuses(tmp_path / "runs") == {"flaky": "ok", "linear": "ok"}
    linear = row_of(tmp_path / "runs", "linear")["run_id"] + ".parquet"
    assert traces(tmp_path / "runs")[linear] == before[linear]


def test_a_plan_counts_no_unsupported_run(tmp_path: Path, command: list[str]) -> None:
    words = [*command, tmp_path, "--methods", "ivpt,linear", "--set", "ivpt.ar_k=1", "--dry-run"]
    words += ["--backbone", "vit_wee_patch16_reg1_gap_256", "--weights", "random", "--image-size", 32]
    shown = vpbench(*words)
    assert shown.code == 0, shown.err
    assert "1 run, 0 stored, 1 missing; 1 more unsupported. Nothing was run." in shown.out
    assert "ivpt is unsupported here: " in shown.out
    planned = json.loads(vpbench(*words, "--json").out)
    assert [(run["method"], run["status"], run["expected_s"]) for run in planned] == [
        ("ivpt", "unsupported", None),
        ("linear", "missing", None),
    ]


@pytest.mark.sweep
def test_unsupported_combination(tmp_path: Path, command: list[str]) -> None:
    """iVPT reads the class token's attention, and this backbone has no class token."""
    words = [*command, tmp_path, "--methods", "ivpt,linear", "--save", "none", "--set", "ivpt.ar_k=1"]
    words += ["--backbone", "vit_wee_patch16_reg1_gap_256", "--weights", "random", "--image-size", 32]
    done = vpbench(*words)
    assert done.code == 1
    assert "ivpt on grey, seed 42: unsupported" in done.err
    assert statuses(tmp_path) == {"ivpt": "unsupported", "linear": "ok"}
    row = row_of(tmp_path, "ivpt")
    assert "class token" in row["error"]
    assert pd.isna(row["acc1"])
    before = traces(tmp_path)
    vpbench(*words)
    assert traces(tmp_path) == before
