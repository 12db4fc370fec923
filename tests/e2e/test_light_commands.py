"""Commands that only look something up do not wait for torch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from command import CHECKOUT, environment

PROBE = """
import io, json, sys
from contextlib import redirect_stdout
from vpbench.cli.app import main
for words in json.loads(sys.argv[1]):
    sys.argv, code = ["vpbench", *words.split()], 0
    with redirect_stdout(io.StringIO()) as out:
        try:
            main()
        except SystemExit as stop:
            code = stop.code or 0
    print(json.dumps([words, code, bool(out.getvalue()), "torch" in sys.modules]))
"""
COMMANDS = [
    "--help", "run --help", "list methods", "list datasets", "list suites", "list backbones", "show method insvp:released",
    "show dataset digits", "show suite mini", "show backbone vit-nano", "show run {run} --results {results}",
    "status --results {results}", "report --results {results}", "export --to {results}/../rows.csv --results {results}",
    "measure --help", "push --help", "pull --help",
]  # fmt: skip


def test_torch_stays_out(finished: Path) -> None:
    """One process for all: the first command that imports torch is the first to say so."""
    run = next(finished.glob("*.parquet")).stem
    words = [command.format(run=run, results=finished) for command in COMMANDS]
    done = subprocess.run(
        [sys.executable, "-c", PROBE, json.dumps(words)], capture_output=True, text=True, env=environment(), check=True
    )
    assert [json.loads(line) for line in done.stdout.splitlines()] == [[command, 0, True, False] for command in words], (
        done.stderr
    )


@pytest.mark.sweep
@pytest.mark.skipif(not hasattr(os, "wait4"), reason="no child's processor time on this system")
def test_help_is_quick() -> None:
    """A few times what the command line's own libraries take to import, on whatever machine."""
    libraries = least_seconds("-c", "import rich.console, rich.markdown, typer, pydantic")
    assert least_seconds("-m", "vpbench", "--help") < 3 * libraries


def least_seconds(*words: str) -> float:
    """Processor time, so that a busy machine does not matter; the best of three, so that a cold disk does not."""
    seconds = []
    for _ in range(3):
        child = subprocess.Popen([sys.executable, *words], cwd=CHECKOUT, stdout=subprocess.DEVNULL)
        _, child.returncode, usage = os.wait4(child.pid, 0)
        assert child.returncode == 0
        seconds.append(usage.ru_utime + usage.ru_stime)
    return min(seconds)
