"""``vpbench new method`` writes a method that works."""

from __future__ import annotations

import ast
from collections.abc import Callable
from inspect import signature
from pathlib import Path

import pytest
from command import rows, traces, vpbench
from sweeps import case

KINDS = ("prompts", "low-rank", "adapter", "scale-shift", "bias", "pixels")


@pytest.mark.sweep
@pytest.mark.parametrize("kind", [case(kind, always={"prompts"}) for kind in KINDS])
def test_a_new_method_runs(
    kind: str, tmp_path: Path, command: list[str], install: Callable[[str, str, str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some forty lines, on public names alone; the contract of all methods holds, and its own test."""
    done = vpbench("new", "method", "my_idea", "--kind", kind, "--folder", tmp_path / "own")
    files = [tmp_path / "own" / "methods" / "my_idea.py", tmp_path / "own" / "tests" / "methods" / "test_my_idea.py"]
    assert (done.code, done.out.split()) == (0, [str(file) for file in files])
    method, test = (file.read_text() for file in files)
    for source in (method, test):
        assert "NAME" not in source
        assert "TITLE" not in source
    group = {"prompts": "prompts", "pixels": "prompts", "bias": "partial"}.get(kind, "extra")
    assert f'    group = "{group}"  # ' in method
    imported = [node for node in ast.walk(ast.parse(method)) if isinstance(node, ast.ImportFrom)]
    public = {"__future__", "functools", "typing", "torch", "vpbench.interface"}
    assert {node.module for node in imported} <= public
    assert len(method.splitlines()) < 70

    install("my_idea", "MyIdea", method)
    assert "my_idea" in vpbench("list", "methods").out
    done = vpbench(*command, tmp_path / "runs", "--methods", "my_idea")
    assert done.code == 0, done.err
    row = rows(tmp_path / "runs").iloc[0]
    assert row["status"] == "ok" and row["params_method"] > 0 and row["flops_forward"] > 0

    own_tests: dict[str, Callable[[], None]] = {}
    exec(compile(test, str(files[1]), "exec"), own_tests)  # type: ignore[arg-type]
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "methods")
    import test_contract as contract

    fitted = contract.Fitted("my_idea", "vit")
    checked = 0
    for name, check in vars(contract).items():
        if name.startswith("test_") and "fitted" in signature(check).parameters:
            check(fitted)
            checked += 1
    contract.test_options_and_presets_are_documented("my_idea")
    contract.test_counts("my_idea")
    assert checked >= 5
    found = [value for name, value in own_tests.items() if name.startswith("test_")]
    assert len(found) == 2
    for check in found:
        check()


def test_an_unknown_kind(tmp_path: Path) -> None:
    done = vpbench("new", "method", "mine", "--kind", "low_rank", "--folder", tmp_path)
    assert done.code == 2 and "Did you mean 'low-rank'?" in done.err


@pytest.mark.parametrize("name", ["vpt", "My_prompts", "my-prompts", "2prompts", "_mine", "class", "größe", "a/b"])
def test_names_that_are_refused(name: str, tmp_path: Path) -> None:
    done = vpbench("new", "method", name, "--folder", tmp_path)
    assert done.code == 2
    assert done.err.startswith("vpbench: ")
    assert len(done.err.splitlines()) == 1
    assert name in done.err
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    vpbench("new", "method", "mine", "--folder", tmp_path)
    (tmp_path / "methods" / "mine.py").write_text("my work")
    before = traces(tmp_path)
    done = vpbench("new", "method", "mine", "--folder", tmp_path)
    assert (done.code, len(done.err.splitlines())) == (2, 1)
    assert traces(tmp_path) == before


def test_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = vpbench("new", "method", "mine", "--folder", tmp_path / "file")
    assert done.code == 2
    assert "--folder" in done.err
