"""What searches have come to: a list that is a table to read, in a script and in a notebook."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from statistics import mean
from typing import Any

from vpbench.search.search_plan import Outcome


class Outcomes(list[Outcome]):
    """The outcome of each method on each data set and backbone."""

    def table(self) -> list[dict[str, str]]:
        """One line per search, for readers; the backbone is a column where there are several."""
        several = len({outcome.study.backbone.name for outcome in self}) > 1
        return [_line(outcome, several) for outcome in self]

    def __str__(self) -> str:
        import pandas as pd

        return pd.DataFrame(self.table()).to_string(index=False)

    def _repr_html_(self) -> str:
        import pandas as pd

        return str(pd.DataFrame(self.table()).to_html(index=False))


def _line(outcome: Outcome, names_backbone: bool) -> dict[str, str]:
    study, best = outcome.study, outcome.best
    states = Counter(trial.state for trial in outcome.trials)
    scores = [row["score"] for row in outcome.finals if row["status"] == "ok"]
    line = {"method": study.method, "dataset": study.dataset, **({"backbone": study.backbone.name} if names_backbone else {})}
    line["trials"] = ", ".join(f"{count} {state}" for state, count in states.items())
    if best is None:
        return {**line, "winner": "none: no trial has a number", "validation": "", "test": ""}
    return {
        **line,
        "winner": ", ".join(f"{name.removeprefix('recipe.')}={_number(value)}" for name, value in best.values.items()),
        "validation": _validated(best.row),
        "test": f"{mean(scores):.1f} % (n = {len(scores)})" if scores else "failed",
    }


def _validated(row: Mapping[str, Any]) -> str:
    """Right images of all of them; in other tasks the score."""
    return f"{row['val_score']:.1f} %" if row["val_correct"] is None else f"{row['val_correct']} of {row['n_val']}"


def _number(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
