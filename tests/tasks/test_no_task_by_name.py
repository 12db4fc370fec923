"""Nothing outside ``tasks/`` asks which task it is: what differs between tasks is said by the task itself, in one file."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from vpbench.tasks import resolve_task, task_class, task_registry

ROOT = Path(__file__).resolve().parents[2]
NAMES = set(task_registry().names())
CLASSES = {task_class(name).__name__ for name in NAMES}


def decisions(path: Path) -> Iterator[str]:
    """Comparisons with the name of a task, tables and cases by names, and isinstance of a task's class."""
    text = path.read_text(encoding="utf-8")
    for node in ast.walk(ast.parse(text)) if any(name in text for name in NAMES | CLASSES) else ():
        asked: list[ast.expr] = []
        if isinstance(node, ast.Compare):
            asked = [part for side in (node.left, *node.comparators) for part in (side, *getattr(side, "elts", ()))]
        elif isinstance(node, ast.MatchValue):
            asked = [node.value]
        elif isinstance(node, ast.Dict):
            asked = [key for key in node.keys if key is not None]
        elif isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("isinstance", "issubclass"):
            asked = [node.args[1], *getattr(node.args[1], "elts", ())]
        for part in asked:
            if getattr(part, "value", None) in NAMES or getattr(part, "attr", getattr(part, "id", None)) in CLASSES:
                yield f"{path.relative_to(ROOT)}:{part.lineno}"


def test_no_task_by_name() -> None:
    assert {"classification", "segmentation"} <= NAMES
    files = [path for folder in ("vpbench", "methods", "reports", "benchmarks") for path in (ROOT / folder).rglob("*.py")]
    others = [path for path in files if not path.is_relative_to(ROOT / "vpbench" / "tasks")]
    assert [place for path in others for place in decisions(path)] == []


FOUND = (
    "if task == 'segmentation': ...",
    "x = task.name in ('classification',)",
    "isinstance(task, Segmentation)",
    "{'segmentation': 1}",
)


@pytest.mark.parametrize("text", FOUND)
def test_what_would_be_found(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(f"{__name__}.ROOT", tmp_path)
    (tmp_path / "some.py").write_text(text)
    assert list(decisions(tmp_path / "some.py")) == ["some.py:1"]


def test_a_task_of_the_users_is_one_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "from vpbench.tasks.classification import Classification\nclass Ages(Classification):\n    title = 'ages of people'\n"
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "ages.py").write_text(text)
    monkeypatch.setenv("VPBENCH_PATH", str(tmp_path))
    assert task_registry().names() == sorted({*NAMES, "ages"})
    assert resolve_task("ages").name == "ages" and task_class("ages").title == "ages of people"
