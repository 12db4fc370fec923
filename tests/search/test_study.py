"""Which trials there are and which wins: from rows that are made up, so that no time is spent on training."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache
from typing import Any

import pytest

from vpbench.core.errors import UsageError
from vpbench.planning.plan import PlannedRun, Request, resolve
from vpbench.search.later_runs import LaterRuns
from vpbench.search.search_plan import Budget, plan_search, play
from vpbench.search.study import Row, Trial, winner
from vpbench.search.unfinished import UnfinishedError

Do = Callable[[list[PlannedRun]], Mapping[str, Row]]
N_VAL = 200


@cache
def planned(**budget: Any) -> Any:
    request = Request(methods=("linear",), datasets=("digits",), epochs=8, precision="fp32", device="cpu")
    return plan_search(request, Budget(**budget))


def score(run: PlannedRun) -> Row:
    """Best at a rate of 0.01, lower after few epochs; the highest rates diverge."""
    recipe = run.spec.recipe
    if recipe.lr > 0.04:
        return {"status": "diverged", "val_score": None, "val_correct": None, "lr": recipe.lr}
    correct = round(N_VAL * (1 - abs(math.log10(recipe.lr / 0.01)) / 4) * recipe.epochs / 8)
    return {
        "status": "ok", "val_score": 100 * correct / N_VAL, "val_correct": correct, "lr": recipe.lr,
        "weight_decay": recipe.weight_decay, "epochs": recipe.epochs,
    }  # fmt: skip


class Done:
    """Does runs once each, and no more than ``most`` of them."""

    def __init__(self, most: int = 1000) -> None:
        self.rows: dict[str, Row] = {}
        self.most = most

    def __call__(self, runs: list[PlannedRun]) -> Mapping[str, Row]:
        for run in runs:
            if run.spec.run_id not in self.rows:
                if len(self.rows) == self.most:
                    raise UnfinishedError
                self.rows[run.spec.run_id] = score(run)
        return {run.spec.run_id: self.rows[run.spec.run_id] for run in runs}


@pytest.mark.parametrize("prune", [None, 2])
def test_tpe_goes_on_where_it_was(prune: int | None) -> None:
    """A search that is stopped after any number of runs ends as one that is not."""
    plan = planned(space="adamw", trials=12, batch=4, prune=prune)
    whole = Done()
    (trials,) = play(plan.studies, whole)
    assert [trial.number for trial in trials] == list(range(12))
    for most in (1, 6, 11):
        parts = Done(most)
        with pytest.raises(UnfinishedError):
            play(plan.studies, parts)
        assert len(parts.rows) == most
        parts.most = 1000
        assert play(plan.studies, parts) == [trials]
        assert parts.rows == whole.rows


def test_tpe_depends_on_its_seed_and_on_nothing_else() -> None:
    def values(**more: Any) -> list[dict[str, Any]]:
        (trials,) = play(planned(space="adamw", trials=12, batch=4, **more).studies, Done())
        return [trial.values for trial in trials]

    assert values() == values()
    assert values() != values(sampler_seed=1)
    for value in values():
        assert 1e-4 <= value["recipe.lr"] <= 5e-2
        assert 1e-5 <= value["recipe.weight_decay"] <= 1


def test_tpe_learns() -> None:
    (trials,) = play(planned(space="adamw", trials=40, batch=4).studies, Done())
    distance = [abs(math.log10(trial.values["recipe.lr"] / 0.01)) for trial in trials]
    assert sum(distance[30:]) < 0.8 * sum(distance[:10])  # the first ten are drawn at random


def test_pruned_trials_are_short_and_never_win() -> None:
    done = Done()
    (trials,) = play(planned(space="adamw", trials=16, batch=4, prune=2).studies, done)
    pruned = [trial for trial in trials if trial.state == "pruned"]
    full = [trial for trial in trials if trial.state == "complete"]
    assert len(trials) == 16
    assert pruned and full
    assert {trial.row["epochs"] for trial in pruned} == {2}
    assert {trial.row["epochs"] for trial in full} == {8}
    assert all(trial.state != "pruned" for trial in trials[:4])
    assert len(done.rows) == 16 + len(full)
    best = replace(pruned[0], row={**pruned[0].row, "val_correct": N_VAL})
    assert winner([best, *full]) in full


def made(number: int, correct: int | None, lr: float, weight_decay: float = 0.0, state: str = "complete") -> Trial:
    return Trial(number, {}, state, {"val_correct": correct, "lr": lr, "weight_decay": weight_decay})


def test_ties() -> None:
    assert winner([made(0, 90, 1.0), made(1, 91, 5.0), made(2, 91, 0.5, 0.1), made(3, 91, 0.5, 0.01)]) == made(3, 91, 0.5, 0.01)
    assert winner([made(0, 90, 1.0), made(1, 90, 1.0)]) == made(0, 90, 1.0)
    assert winner([made(0, None, 0.1, state="diverged"), made(1, 3, 9.0)]) == made(1, 3, 9.0)
    assert winner([made(0, None, 0.1, state="diverged")]) is None


def test_a_score_decides_where_answers_are_not_counted() -> None:
    low, high = (replace(made(number, None, 1.0), row={**made(number, None, 1.0).row, "val_score": number}) for number in (0, 1))
    assert winner([low, high]) == high


@pytest.mark.parametrize("sampler", ["grid", "tpe"])
def test_short_trials(sampler: str) -> None:
    """The winner is trained as long as the recipe says, and is another run than that of whole trials."""
    more = {"sampler": "tpe", "trials": 4, "prune": 1} if sampler == "tpe" else {}
    plan, whole = (planned(space="learning-rate", trial_epochs=epochs, **more) for epochs in (2, None))
    (trials,) = play(plan.studies, Done())
    assert {trial.row["epochs"] for trial in trials if trial.state == "complete"} == {2}
    assert plan.budget.trial_epochs == 2 and "2 epochs each" in plan.summary()
    best = winner(trials)
    assert best is not None
    short, long = (each.runs_with(each.studies[0], best.values)[0].spec for each in (plan, whole))
    assert short.recipe.epochs == long.recipe.epochs == 8
    assert short.run_id != long.run_id


def test_trials_are_shorter_than_final_runs() -> None:
    with pytest.raises(UsageError, match="--trial-epochs 8 must be less than the epochs of a final run, 8"):
        planned(space="learning-rate", trial_epochs=8)


def test_the_grid_is_run_whole() -> None:
    plan = planned(space="vpt-grid")
    done = Done()
    (trials,) = play(plan.studies, done)
    assert len(trials) == len(done.rows) == plan.budget.trials == 40
    runs = [plan.studies[0].trial(trial.values, None) for trial in trials]
    assert {run.spec.stage for run in runs} == {"search"}
    assert {(run.spec.recipe.optimizer, run.spec.seed) for run in runs} == {("sgd", 42)}
    assert runs[0].spec.recipe.peak_lr == 50 * 16 / 256
    finals = plan.runs_with(plan.studies[0], trials[0].values)
    assert [run.spec.seed for run in finals] == [42, 44, 82, 100, 800]
    assert [run.measured for run in finals] == [True, False, False, False, False]  # their models cost the same
    assert {(run.spec.stage, run.spec.search.space, run.spec.recipe) for run in finals} == {
        ("final", "vpt-grid", runs[0].spec.recipe)
    }


def test_validation_images_are_kept_from_trials() -> None:
    """Where the tested model is trained on them, too, as on VTAB-1k."""
    resolved = resolve(Request(methods=("linear",), datasets=("digits",), device="cpu"))
    resolved = replace(resolved, suite=resolved.suite.model_copy(update={"fit": "train+val"}))
    trial, final = resolved.at("search").data["digits"], resolved.at("final").data["digits"]
    assert [len(trial.splits[name]) for name in ("train", "val", "test")] == [800, 200, 797]
    assert [len(final.splits[name]) for name in ("train", "val", "test")] == [1000, 0, 797]


def test_planning_builds_a_model_once_for_all_recipes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Points of the space, trials and final runs, and a second plan, ask for the same model."""
    from vpbench.models import build
    from vpbench.planning import plan as planning

    built: list[tuple[str, int]] = []

    def empty(method: Any, backbone: Any, classes: int, *others: Any) -> None:
        built.append((method.name, classes))

    monkeypatch.setattr(build, "build_empty", empty)
    planning._why_unsupported.cache_clear()
    request = Request(methods=("linear", "vpt"), datasets=("digits", "sprites-location"), precision="fp32", device="cpu")
    try:
        for _ in range(2):
            plan_search(request, Budget(space="learning-rate"))
        assert sorted(built) == [("linear", 10), ("linear", 16), ("vpt", 10), ("vpt", 16)]
    finally:
        planning._why_unsupported.cache_clear()


@pytest.mark.parametrize("prune", [None, 2])
def test_later_runs_are_counted_with_their_epochs(prune: int | None) -> None:
    """Final runs in full, on training and validation images; further trials of a sampler that asks for few at a time."""
    plan, counts = planned(space="adamw", trials=12, batch=4, prune=prune, trial_epochs=4, seeds=3), list[tuple[int, int]]()
    later = LaterRuns(plan)

    def run_round(runs: list[PlannedRun]) -> Mapping[str, Row]:
        works = later.after(runs)
        finals = [work for work in works[:3] if work.images == 8 * len(plan.finals.data["digits"].splits["train"])]
        trials = [work for work in works[3:] if work.images == 4 * len(plan.trials.data["digits"].splits["train"])]
        assert len(finals) + len(trials) == len(works)
        counts.append((len(finals), len(trials)))
        return done(runs)

    done = Done()
    play(plan.studies, run_round)
    assert sorted(set(counts), reverse=True) == [(3, 8), (3, 4), (3, 0)]
    grid = planned(space="learning-rate", seeds=3)
    (study,) = grid.studies
    works = LaterRuns(grid).after([study.trial(point, None) for point in study.points])
    assert len(works) == grid.n_finals == 3
    assert f"{grid.n_trials} trials in all. Then 3 final runs of each winner; 3 final runs in all." in grid.summary()
