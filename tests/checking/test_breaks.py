"""The gate on real runs: it passes the code as it is, and catches each of these breaks in the cell that has it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

CHECKOUT = Path(__file__).resolve().parents[2]
Outcomes = dict[str, dict[str, Any]]

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="the cases are forked processes")

# Where each break must show: method, and how the column begins. The cells are insvp with seed 42 and vpt with 44, or the one
# method of the case with 42.
CAUGHT = {
    "prompts_before_the_class_token": ("vpt", "first_losses[0] (seed 42)"),
    "specific_prompter_not_optimized": ("insvp", "first_losses[1] (seed 42)"),
    "mean_and_std_swapped": ("vpt", "first_losses[0] (seed 42)"),
    "order_seed_ignored": ("vpt", "first_losses[0] (seed 44)"),
    "initial_seed_ignored": ("vpt", "first_losses[0] (seed 44)"),
    "seed_ignored": ("vpt", "first_losses (seed 44)"),
    "seed_not_set": ("vpt", "first_losses[0] (seed 42)"),
    "prompt_of_one_block_dropped": ("vpt", "first_losses[0] (seed 42)"),
}


@pytest.fixture(scope="session")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> Outcomes:
    """How ``vpbench check`` ended in every case."""
    paths = os.pathsep.join([str(CHECKOUT), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("breaks.py")), str(tmp_path_factory.mktemp("breaks"))],
        capture_output=True, text=True, timeout=600, env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": paths},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found: Outcomes = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("case", ["unbroken", "unbroken_again"])
def test_the_code_as_it_is_raises_no_alarm(outcomes: Outcomes, case: str) -> None:
    outcome = outcomes[case]
    assert outcome["code"] == 0, outcome
    assert [finding for finding in outcome["found"]["findings"] if finding["fails"]] == []
    assert outcome["found"]["cells"] == 2
    assert not [note for note in outcome["found"]["notes"] if "losses" in note]  # they were compared


@pytest.mark.parametrize("case", CAUGHT)
def test_breaks_are_caught(outcomes: Outcomes, case: str) -> None:
    outcome, (method, column) = outcomes[case], CAUGHT[case]
    assert outcome["code"] == 1, outcome
    findings = [finding for finding in outcome["found"]["findings"] if finding["fails"]]
    assert [
        found
        for found in findings
        if (found["method"], found["dataset"]) == (method, "noise") and found["column"].startswith(column)
    ]
