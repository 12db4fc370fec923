"""The studies that ship can be planned as they are."""

from __future__ import annotations

from pathlib import Path

import pytest
from command import vpbench

STUDIES = sorted((Path(__file__).parents[2] / "benchmarks" / "studies").glob("*.toml"))


@pytest.mark.sweep  # every method on every data set is built once
@pytest.mark.parametrize("study", STUDIES, ids=lambda path: path.stem)
def test_a_study_is_planned(study: Path) -> None:
    done = vpbench("run", study, "--dry-run")
    assert done.code == 0, done.err
    assert "Nothing was run." in done.out
