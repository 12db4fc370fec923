"""Pickles of CIFAR: what would run something is refused, and nothing runs."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import miniatures
import numpy as np
import pytest
from fgvc_and_hta import MINIATURES, complaint, opened


class Runs:
    """Its pickle calls a function."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self.call


HARMFUL: dict[str, Callable[[Path], bytes]] = {
    "os.system": lambda file: pickle.dumps({"data": Runs(os.system, f"touch {file}")}, 2),
    "os.system, protocol 4": lambda file: pickle.dumps({"data": Runs(os.system, f"touch {file}")}, 4),
    "exec": lambda file: pickle.dumps([Runs(exec, f"open({str(file)!r}, 'w')")], 2),
    "eval as an instance": lambda file: f"(S\"open({str(file)!r}, 'w')\"\ni__builtin__\neval\n.".encode(),
    "Path.touch": lambda file: pickle.dumps({"labels": Runs(Path.touch, file)}, 2),
    "getattr": lambda file: pickle.dumps(Runs(getattr, "x", "upper"), 2),
    "below numpy": lambda file: f"cnumpy.core.multiarray\nos.system\n(S'touch {file}'\ntR.".encode(),
    "numpy.load": lambda file: pickle.dumps(Runs(np.memmap, str(file), "uint8", "w+", 0, (4,)), 2),
}


@pytest.mark.parametrize("case", HARMFUL)
def test_a_harmful_pickle_is_refused_and_not_run(tmp_path: Path, case: str) -> None:
    mini = MINIATURES["cifar10"]
    trace = tmp_path / "ran"
    made = HARMFUL[case](trace)
    for name in ("data_batch_1", "test_batch", "batches.meta"):
        mini.written(tmp_path)
        miniatures.put(tmp_path / mini.folder / name, made)
        line = complaint(mini, tmp_path, rf"{name} asks for \S+\.\w+, which CIFAR's files never do")
        assert not trace.exists()
    assert {"exec": "exec", "getattr": "getattr", "numpy.load": "memmap"}.get(case, "") in line


def test_the_harmful_pickles_would_run_otherwise(tmp_path: Path) -> None:
    """So that the test above cannot pass for another reason."""
    for case in ("os.system", "os.system, protocol 4", "exec", "eval as an instance", "Path.touch"):
        trace = tmp_path / case.replace(" ", "")
        pickle.loads(HARMFUL[case](trace))
        assert trace.exists(), case


@pytest.mark.parametrize("protocol", [2, 4])
def test_pickles_of_python_3_are_read_too(tmp_path: Path, protocol: int) -> None:
    mini = MINIATURES["cifar10"]
    expected = opened(mini, mini.written(tmp_path)).digest
    for file in (tmp_path / mini.folder).iterdir():
        file.write_bytes(pickle.dumps(pickle.loads(file.read_bytes(), encoding="latin1"), protocol))
    assert opened(mini, tmp_path).digest == expected
