"""Ten runs of the code as it is against the committed baseline: no alarm. A minute or two each."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from vpbench.planning.suites import suite_card

CHECKOUT = Path(__file__).resolve().parents[2]
BASELINE = CHECKOUT / "results" / "baselines" / "ci.parquet"

# Each seed of the suite in every cell, and twice one seed that the baseline does not have: then only its accuracy is judged.
SEEDS = [*suite_card("ci").seeds, 900, 901]


@pytest.mark.slow
@pytest.mark.parametrize("seed", SEEDS)
def test_no_alarm(seed: int) -> None:
    paths = os.pathsep.join([str(CHECKOUT), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-m", "vpbench", "check", "--baseline", str(BASELINE), "--seeds", str(seed), "--json"],
        capture_output=True, text=True, env={**os.environ, "PYTHONPATH": paths},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout)
    assert [finding for finding in found["findings"] if finding["fails"]] == []
    assert (found["cells"], len(found["accuracies"])) == (6, 6)
