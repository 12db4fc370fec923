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

pytestmark = [
    pytest.mark.sweep,  # the comparison itself is in test_compare.py
    pytest.mark.skipif(not hasattr(os, "fork"), reason="the cases are forked processes"),
]

# Where each break must show: method, and how the column begins. The cells are insvp with seed 42 and vpt with 44, or the one
# method of the case with 42.
CAUGHT = {
    "prompts_before_the_class_token": ("vpt", "first_losses[0] (seed 42)"),
    "specific_prompter_not_optimized": ("insvp", "first_losses[1] (seed 42)"),
    "mean_and_std_swapped": ("vpt", "first_losses[0] (seed 42)"),
    "seed_ignored": ("vpt", "first_losses (seed 44)"),
    "prompt_of_one_block_dropped": ("vpt", "first_losses[0] (seed 42)"),
}
# The same for kinds of an ignored seed, each of which takes seconds more.
CAUGHT_TOO = {
    "order_seed_ignored": ("vpt", "first_losses[0] (seed 44)"),
    "initial_seed_ignored": ("vpt", "first_losses[0] (seed 44)"),
    "seed_not_set": ("vpt", "first_losses[0] (seed 42)"),
}


def outcomes_of(names: list[str], folder: Path) -> Outcomes:
    """How ``vpbench check`` ended in these cases."""
    paths = os.pathsep.join([str(CHECKOUT), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("breaks.py")), str(folder), *names],
        capture_output=True, text=True, timeout=600, env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": paths},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found: Outcomes = json.loads(done.stdout)
    return found


@pytest.fixture(scope="session")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> Outcomes:
    return outcomes_of(["unbroken", *CAUGHT], tmp_path_factory.mktemp("breaks"))


def check_caught(outcome: dict[str, Any], method: str, column: str) -> None:
    assert outcome["code"] == 1, outcome
    findings = [finding for finding in outcome["found"]["findings"] if finding["fails"]]
    assert [
        found
        for found in findings
        if (found["method"], found["dataset"]) == (method, "noise") and found["column"].startswith(column)
    ]


def test_the_code_as_it_is_raises_no_alarm(outcomes: Outcomes) -> None:
    outcome = outcomes["unbroken"]
    assert outcome["code"] == 0, outcome
    assert [finding for finding in outcome["found"]["findings"] if finding["fails"]] == []
    assert outcome["found"]["cells"] == 2
    assert not [note for note in outcome["found"]["notes"] if "losses" in note]  # they were compared


@pytest.mark.parametrize("case", CAUGHT)
def test_breaks_are_caught(outcomes: Outcomes, case: str) -> None:
    check_caught(outcomes[case], *CAUGHT[case])


@pytest.mark.slow
def test_seeds_that_are_ignored_in_part_are_caught(tmp_path: Path) -> None:
    for case, outcome in outcomes_of(list(CAUGHT_TOO), tmp_path).items():
        check_caught(outcome, *CAUGHT_TOO[case])
