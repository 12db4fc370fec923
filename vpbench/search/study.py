"""The search for one method on one data set: which trials there are, and which of them wins.

A search is a generator that yields the runs of its next round, gets their rows, and returns its trials in the end. It depends
on nothing but the rows, so that the same command replays what is stored and runs what is missing, on any executor.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from typing import Any

from vpbench.core.errors import UsageError
from vpbench.planning.plan import PlannedRun
from vpbench.search.space import Parameter, Point, Range
from vpbench.spec.run_spec import BackboneSpec, Search

Row = dict[str, Any]
Rounds = Generator[list[PlannedRun], Mapping[str, Row], list["Trial"]]


@dataclass(frozen=True)
class Study:
    """A method on a data set and a backbone.

    Attributes:
        method, dataset: what they are called.
        backbone: of all its runs.
        search: the space's name and the budget, as they stand in the rows.
        parameters: what is searched.
        points: all of a grid; empty for TPE.
        trial: the run with the values of a point; in as many epochs as its second argument says, or a trial's.
    """

    method: str
    dataset: str
    backbone: BackboneSpec
    search: Search
    parameters: dict[str, Parameter]
    points: list[Point]
    trial: Callable[[Point, int | None], PlannedRun]

    def rounds(self) -> Rounds:
        """The whole search."""
        return _grid(self) if self.search.sampler == "grid" else _tpe(self)


@dataclass(frozen=True)
class Trial:
    """A trial that has ended.

    ``state`` is ``complete`` (the row has a validation accuracy), ``pruned`` (the row is that of its short run, and it is
    compared with no other), or the status of a run without a number.
    """

    number: int
    values: Point
    state: str
    row: Row

    @classmethod
    def of(cls, number: int, values: Point, row: Row, pruned: bool = False) -> Trial:
        state = row["status"] if row["status"] != "ok" else "pruned" if pruned else "complete"
        return cls(number, values, state, row)


def winner(trials: list[Trial]) -> Trial | None:
    """The trial with the most right answers on validation, or the best score where answers are not counted.

    Ties go to the smaller learning rate, then to less weight decay, then to the earlier trial. None when no trial has a number.
    """
    complete = [trial for trial in trials if trial.state == "complete"]
    return min(
        complete,
        key=lambda trial: (-_answers(trial.row), trial.row["lr"], trial.row["weight_decay"], trial.number),
        default=None,
    )


def _answers(row: Row) -> float:
    """Right answers on validation; the score of a task that does not count them."""
    return float(row["val_score"] if row.get("val_correct") is None else row["val_correct"])


def _grid(study: Study) -> Rounds:
    runs = [study.trial(point, None) for point in study.points]
    rows = yield runs
    return [
        Trial.of(number, point, rows[run.spec.run_id]) for number, (point, run) in enumerate(zip(study.points, runs, strict=True))
    ]


def _tpe(study: Study) -> Rounds:
    """Optuna's sampler, asked for a batch at a time: how many workers there are changes nothing.

    With ``prune``, a trial begins with a run of so few epochs, and is run in full unless Optuna's median rule is against it.
    The first batch is never pruned.
    """
    optuna, search = import_optuna(), study.search
    batch, trials = search.batch or 1, list[Trial]()
    space = {name: _distribution(optuna, parameter) for name, parameter in study.parameters.items()}
    sampler = optuna.samplers.TPESampler(seed=search.seed, constant_liar=True)
    pruner = optuna.pruners.MedianPruner(n_startup_trials=1)
    asking = optuna.create_study(direction="maximize", sampler=sampler, pruner=pruner)
    complete, pruned, failed = (optuna.trial.TrialState[name] for name in ("COMPLETE", "PRUNED", "FAIL"))

    def tell(asked: Any, row: Row) -> None:
        """A run whose loss became infinite is as bad as can be; one that failed says nothing."""
        known = {"ok": row.get("val_score"), "diverged": 0.0}.get(row["status"])
        asking.tell(asked, known, state=failed if known is None else complete)

    while len(trials) < search.trials:
        asked = [asking.ask(space) for _ in range(min(batch, search.trials - len(trials)))]
        going = list(asked)
        ended: dict[int, Trial] = {}
        if search.prune:
            short = [study.trial(one.params, search.prune) for one in asked]
            rows = yield short
            first = [rows[run.spec.run_id] for run in short]
            for one, row in zip(asked, first, strict=True):
                if row["status"] == "ok":
                    one.report(row["val_score"], search.prune)
            for one, row in zip(asked, first, strict=True):
                if row["status"] != "ok":
                    tell(one, row)
                elif one.should_prune():
                    asking.tell(one, state=pruned)
                else:
                    continue
                ended[one.number] = Trial.of(one.number, one.params, row, pruned=True)
            going = [one for one in asked if one.number not in ended]
        full = [study.trial(one.params, None) for one in going]
        rows = (yield full) if full else {}
        for one, run in zip(going, full, strict=True):
            row = rows[run.spec.run_id]
            tell(one, row)
            ended[one.number] = Trial.of(one.number, one.params, row)
        trials += [ended[number] for number in sorted(ended)]
    return trials


def import_optuna() -> Any:
    """Optuna, without its messages.

    Raises:
        UsageError: when it is not installed.
    """
    try:
        import optuna
    except ModuleNotFoundError as error:
        raise UsageError("--sampler tpe needs an extra: pip install 'vpbench[search]'.") from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


def _distribution(optuna: Any, parameter: Parameter) -> Any:
    if not isinstance(parameter, Range):
        return optuna.distributions.CategoricalDistribution(parameter)
    kind = optuna.distributions.IntDistribution if parameter.whole else optuna.distributions.FloatDistribution
    return kind(parameter.low, parameter.high, log=parameter.log)
