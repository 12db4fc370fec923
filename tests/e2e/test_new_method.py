"""``vpbench new method`` writes a method that works."""

from __future__ import annotations

import ast
from collections.abc import Callable
from pathlib import Path

import pytest
from command import rows, traces, vpbench


def test_the_new_method_runs(tmp_path: Path, command: list[str], install: Callable[[str, str, str], None]) -> None:
    done = vpbench("new", "method", "my_prompts", "--folder", tmp_path / "own")
    files = [tmp_path / "own" / "methods" / "my_prompts.py", tmp_path / "own" / "tests" / "methods" / "test_my_prompts.py"]
    assert (done.code, done.out.split()) == (0, [str(file) for file in files])
    method, test = (file.read_text() for file in files)
    for source in (method, test):
        ast.parse(source)
        assert "NAME" not in source
        assert "TITLE" not in source

    install("my_prompts", "MyPrompts", method)
    assert "my_prompts" in vpbench("list", "methods").out
    done = vpbench(*command, tmp_path / "runs", "--methods", "my_prompts", "--set", "my_prompts.prompt_length=4")
    assert done.code == 0, done.err
    row = rows(tmp_path / "runs").iloc[0]
    assert (row["status"], row["params_method"]) == ("ok", 4 * 192)
    assert row["macs_fvcore"] > 0

    own_tests: dict[str, Callable[[], None]] = {}
    exec(compile(test, str(files[1]), "exec"), own_tests)  # type: ignore[arg-type]
    found = [name for name in own_tests if name.startswith("test_")]
    assert len(found) == 2
    for name in found:
        own_tests[name]()


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
