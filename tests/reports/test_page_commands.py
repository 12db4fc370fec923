"""The command on the page of a run: it plans the same run again."""

from __future__ import annotations

import json
import shlex

import pytest
import typer
from sweeps import case
from typer.testing import CliRunner

from vpbench.cli.run import run as run_command
from vpbench.planning.plan import Request, make_plan
from vpbench.planning.suites import preprocess_for, suite_card
from vpbench.reporting.repeat_command import Plans, repeat_command
from vpbench.store.store import Store


def planned_rows(**request: object) -> list[dict[str, object]]:
    """Rows as the runs of a request would leave them."""
    plan = make_plan(Request(**request), Store("/nonexistent/results"))  # type: ignore[arg-type]
    return [
        {
            "run_id": run.spec.run_id, "method": run.spec.method.label, "method_version": run.spec.method.version,
            "method_config": json.dumps(run.spec.method.config), "suite": run.spec.data.suite, "dataset": run.spec.data.dataset,
            "backbone": run.spec.backbone.name, "weights": run.spec.backbone.weights, "weights_sha256": None,
            "image_size": run.spec.backbone.image_size, "preprocess": json.dumps(run.spec.preprocess.identity()),
            "recipe": run.spec.recipe.model_dump_json(), "seed": run.spec.seed, "precision": run.spec.precision,
            "selection": run.spec.selection,
        }
        for run in plan.runs
    ]  # fmt: skip


REQUESTS = {
    "default": {"methods": ("linear", "insvp")},
    "preset": {"methods": ("vpt:shallow",), "seeds": 6},
    "all": {
        "methods": ("vpt", "e2vpt"), "seeds": 2, "weights": "random", "image_size": 48, "epochs": 3, "precision": "fp32",
        "selection": "best_val", "settings": {"vpt.prompt_length": 3, "vpt.deep": False, "recipe.lr": 0.5, "vpt.project": 7},
    },
}  # fmt: skip


@pytest.mark.parametrize("name", [case(name, always=["all"]) for name in REQUESTS])
def test_the_command_plans_the_same_run(name: str) -> None:
    rows = planned_rows(datasets=("digits",), **REQUESTS[name])
    app = typer.Typer()
    app.command()(run_command)
    for row in rows[:: max(1, len(rows) - 1)]:  # the first and the last
        command = repeat_command(row, Plans())
        words = shlex.split(command.line)
        assert words[:2] == ["vpbench", "run"]
        done = CliRunner().invoke(app, [*words[2:], "--dry-run", "--json", "--results", "/nonexistent/results"])
        assert done.exit_code == 0, done.output
        assert row["run_id"] in {run["run_id"] for run in json.loads(done.stdout)}


def test_the_command_says_nothing_needless() -> None:
    row = planned_rows(datasets=("digits",), methods=("linear",))[0]
    assert (
        repeat_command(row, Plans()).line
        == f"vpbench run --methods linear --suite mini --datasets digits --image-size 40 --precision {row['precision']}"
    )


def test_the_command_says_what_it_cannot_bring_back() -> None:
    row = planned_rows(datasets=("digits",), methods=("vpt",))[0]
    changed = {
        **row, "weights": "file", "weights_sha256": "ab" * 32, "seed": 7, "method_version": 99,
        "preprocess": '{"resize": "crop"}',
        "method_config": json.dumps({**json.loads(str(row["method_config"])), "old": 'a "b" c'}),
    }  # fmt: skip
    command = repeat_command(changed, Plans())
    assert "--weights FILE" in command.line
    notes = " ".join(command.notes)
    for part in (
        "SHA-256 abab",
        "Seed 7 is not among",
        "was made with version 99",
        "prepared images otherwise",
        "no option 'old' any more",
    ):
        assert part in notes
    custom = repeat_command({**row, "suite": "custom", "dataset": "mine"}, Plans())
    assert "--data PATH" in custom.line
    own = preprocess_for(suite_card("custom"), None, "#102030").identity()
    custom = repeat_command({**row, "suite": "custom", "dataset": "mine", "preprocess": json.dumps(own)}, Plans())
    assert "--background '#102030'" in custom.line
    assert not any("prepared images otherwise" in note for note in custom.notes)
    assert repeat_command({**row, "suite": "lost"}, Plans()).notes[0] == "This version of vpbench has no suite 'lost'."
