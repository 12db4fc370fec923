"""``vpbench measure``: a table of costs without data, training or weights."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from command import Outcome, vpbench
from sweeps import some

from vpbench.measure import costs
from vpbench.measure.cost_file import COLUMNS, COSTS_VERSION
from vpbench.models.registry import method_registry

SMALL = ("measure", "--image-size", "16", "--classes", "10", "--batch", "2", "--repeat", "1", "--device", "cpu")
METHOD = """
from vpbench.interface import Method, MethodConfig

class Strange(Method[MethodConfig]):
    title = summary = paper = "strange"
    fidelity = "paper"
    families = frozenset({families})

    def before_block(self, block, tokens, context):
        assert tokens.x.is_meta, "the moon is full"
        return tokens
"""


@pytest.fixture(autouse=True)
def in_a_hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(costs, "SECONDS", 0.001)


@pytest.fixture
def no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the processes that measure memory, which take seconds to start."""
    monkeypatch.setattr(costs, "peak_of", lambda load: ("process", 2**20))


def rows_of(done: Outcome) -> dict[str, dict[str, Any]]:
    return {row["method"]: row for row in json.loads(done.out)["costs"]}


@pytest.mark.sweep
def test_everything_is_measured(tmp_path: Path) -> None:
    path = tmp_path / "new" / "costs.parquet"
    done = vpbench(*SMALL, "--methods", "ivpt", "--set", "ivpt.ar_k=2", "--batch", 32, "--json", "--output", path)
    assert done.code == 0, done.err
    rows = rows_of(done)
    assert list(rows) == [costs.PLAIN, "ivpt"]
    plain, ivpt = rows.values()
    unknown = {name for name, value in ivpt.items() if value is None}
    assert unknown <= {"energy_train_j", "energy_infer_j", "git_commit", "git_dirty"}
    assert 0 < ivpt["latency_ms_p10"] <= ivpt["latency_ms_p50"] <= ivpt["latency_ms_p90"]
    for name in ("latency_unmerged_ms_p50", "latency_ratio", "infer_ratio", "train_ratio", "throughput"):
        assert ivpt[name] > 0, name
    assert (plain["latency_ratio"], plain["infer_ratio"], plain["flops_ratio"]) == (1, 1, 1)
    assert ivpt["train_images_per_s"] == pytest.approx(32e3 / ivpt["train_step_ms"])
    assert (ivpt["throughput_batch"], ivpt["train_batch"], ivpt["rounds"]) == (32, 32, 1)
    assert ivpt["mem_kind"] == "process"
    assert min(ivpt["mem_infer_peak"], plain["mem_infer_peak"]) > 1e7
    # Six blocks keep 15 tokens: input, projections, and the MLP in fp32; a quarter of that is for certain.
    assert ivpt["mem_train_peak"] - ivpt["mem_infer_peak"] > 6 * 32 * 15 * 192 * (1 + 3 + 8) * 4 / 4
    assert ivpt["flops_inference"] < ivpt["flops_forward"] == 2 * ivpt["macs_forward"]
    table = pq.read_table(path)
    assert table.column_names == list(COLUMNS)
    assert table.schema.metadata[b"vpbench_costs"] == str(COSTS_VERSION).encode()
    assert table.to_pylist() == list(rows.values())
    assert [file.name for file in path.parent.iterdir()] == [path.name]


@pytest.mark.sweep
def test_counting_takes_no_weights_and_no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_network(*_: object) -> None:
        raise AssertionError("a weight file was asked for")

    monkeypatch.setattr(socket, "socket", no_network)
    hub = ("--backbone", "vit_tiny_patch16_224.augreg_in21k")
    done = vpbench("measure", "--no-timing", "--json", *hub, "--classes", 7, "--methods", "linear,vpt,viapt")
    assert done.code == 0, done.err
    rows = rows_of(done)
    assert list(rows) == [costs.PLAIN, "linear", "vpt", "viapt"]
    assert rows["linear"]["flops_forward"] == rows[costs.PLAIN]["flops_forward"] + 2 * 192 * 7
    for name, row in rows.items():
        assert row["weights"] == "random"
        assert row["latency_ms_p50"] is None
        if name != costs.PLAIN:
            assert sum(json.loads(row["params_by_part"]).values()) == row["params_total"]


@pytest.mark.sweep
def test_heads_of_segmentation_are_counted() -> None:
    counting = ("measure", "--no-timing", "--json", "--image-size", 64, "--classes", 4, "--methods", "linear,vpt")
    rows = rows_of(vpbench(*counting, "--task", "segmentation", "--set", "task.head=setr-pup", "--set", "task.width=8"))
    for method, prompts in (("linear", 0), ("vpt", 6 * 10 * 192)):
        row = rows[method]
        parts = json.loads(row["params_by_part"])
        assert row["status"] == "ok" and row["params_trainable"] == row["params_head"] + prompts
        assert parts["head"] + parts["auxiliary heads, in training alone"] == row["params_head"]
    convolutions = 2 * 9 * 8 * (192 * 8**2 + 8 * 16**2 + 8 * 32**2) + 2 * 8 * 4 * 32**2  # steps on 8, 16 and 32 px; classifier
    assert rows["linear"]["flops_forward"] - rows[costs.PLAIN]["flops_forward"] == convolutions
    wrong = vpbench(*counting, "--task", "segmentation", "--set", "task.heads=linear")
    assert wrong.code == 2 and "heads" in wrong.err


def test_all_methods_are_those_that_are_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The contract's sweep counts each of them."""
    monkeypatch.setattr(costs.Costs, "_counted", lambda self, entry: {"flops_forward": len(entry.label)})
    rows = rows_of(vpbench("measure", "--no-timing", "--json"))
    assert next(iter(rows)) == costs.PLAIN
    assert sorted(rows) == sorted([costs.PLAIN, *method_registry().names()])
    assert rows["e2vpt"]["flops_forward"] == len("e2vpt")


def test_the_tables(no_memory: None) -> None:
    done = vpbench(*SMALL, "--methods", "vpt,linear", "--set", "vpt.prompt_length=3", "--reported")
    assert done.code == 0, done.err
    for part in ("prompts 3,456", "GMACs", "x plain", "step ms", "train MiB", "not measured here", "8602"):
        assert part in done.out
    assert "J/image" not in done.out  # a processor does not tell


@pytest.mark.sweep
def test_no_figure_is_cut_off_on_a_narrow_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    counting = ("measure", "--no-timing", "--backbone", "vit-nano", "--methods", "linear,vpt")
    rows = rows_of(vpbench(*counting, "--json"))
    monkeypatch.setenv("COLUMNS", "30")
    printed = vpbench(*counting).out.split()
    assert {f"{row['params_trainable']:,}" for row in rows.values() if row["params_trainable"]} <= set(printed)
    assert {f"{row['flops_ratio']:.3f}" for row in rows.values()} <= set(printed)
    assert "executed" in printed


@pytest.mark.sweep
def test_one_method_that_fails_leaves_the_others(install: Callable[[str, str, str], None], no_memory: None) -> None:
    install("sad", "Strange", METHOD.format(families='{"vit"}'))
    install("shy", "Strange", METHOD.format(families='{"cnn"}'))
    done = vpbench(*SMALL, "--methods", "sad,shy,linear", "--json")
    assert done.code == 1
    assert "sad: failed - AssertionError: the moon is full" in done.err
    assert "shy: unsupported - " in done.err
    rows = rows_of(done)
    assert [row["status"] for row in rows.values()] == ["ok", "failed", "unsupported", "ok"]
    assert rows["linear"]["train_step_ms"] > 0
    assert rows["sad"]["train_step_ms"] is None
    assert rows["sad"]["flops_forward"] > 0


@pytest.mark.sweep
def test_ctrl_c_prints_what_there_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    calls: list[str] = []
    measured = costs.Costs._round

    def second_method_of_the_first_round(self: Any, entry: Any, *more: Any, **named: Any) -> None:
        calls.append(entry.label)
        if len(calls) == 4:
            raise KeyboardInterrupt
        measured(self, entry, *more, **named)

    monkeypatch.setattr(costs.Costs, "_round", second_method_of_the_first_round)
    path = tmp_path / "costs.parquet"
    words = (*SMALL, "--methods", "linear,vpt", "--json", "--output", path)
    done = vpbench(*words)
    assert done.code == 130
    interrupted = "vpbench: interrupted; what was measured is above, a dash is what was not.\n"
    assert done.err == f"3 rows in {path}.\n{interrupted}"
    rows = rows_of(done)
    assert rows["linear"]["latency_ms_p50"] > 0
    assert rows["vpt"]["latency_ms_p50"] is None
    assert rows["vpt"]["flops_forward"] > 0
    assert {row["method"]: row for row in pq.read_table(path).to_pylist()} == rows
    path.write_text("a whole file of another time")
    calls.clear()
    done = vpbench(*words)
    assert (done.code, done.err) == (130, f"{path} is as it was: a part does not replace it.\n{interrupted}")
    assert path.read_text() == "a whole file of another time" and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("words", "code", "parts"),
    some(
        [
            ("--methods linaer", 2, ["'linaer'", "Did you mean 'linear'?"]),
            ("--methods ,", 2, ["--methods", "vpbench list methods"]),
            ("--methods vpt --set vpt.promt_length=3", 2, ["'promt_length'", "Did you mean 'prompt_length'?"]),
            ("--methods vpt --set ivpt.k=3", 2, ["ivpt.k", "--methods vpt"]),
            ("--methods vpt --set prompt_length=3", 2, ["prompt_length", "METHOD.OPTION=VALUE"]),
            ("--backbone vit-nono", 2, ["'vit-nono'", "Did you mean 'vit-nano'?"]),
            ("--backbone resnet18", 6, ["ResNet cannot carry prompts"]),
            ("--image-size 41", 2, ["41", "take 40"]),
            ("--batch 0", 2, ["--batch 0", "at least 1"]),
            ("--repeat 0", 2, ["--repeat 0", "at least 1"]),
            ("--classes -1", 2, ["--classes -1", "at least 1"]),
            ("--device tpu", 2, ["tpu", "auto, cpu or cuda"]),
            ("--precision fp16", 2, ["fp16", "bf16"]),
            ("--output {tmp}/costs.csv", 2, ["costs.csv", ".parquet"]),
            ("--output {tmp}/file/costs.parquet", 5, ["costs.parquet", "cannot be written"]),
        ],
        8,
    ),
)
def test_mistakes(words: str, code: int, parts: list[str], tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = vpbench("measure", "--no-timing", *words.format(tmp=tmp_path).split())
    assert (done.code, done.out) == (code, "")
    assert done.err.startswith("vpbench: ") and done.err.count("\n") == 1
    for part in parts:
        assert part in done.err
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
