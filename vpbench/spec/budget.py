"""What a user asks of a search, declared once for the command line and the Python interface. Imports no torch."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from vpbench.core.frozen_model import FrozenModel
from vpbench.spec.flag import Flag

DEFAULT_SPACE = "vpt-grid"


class Budget(FrozenModel):
    """How settings are searched; None means the space's own value, or none."""

    space: Annotated[str, Flag(metavar="NAME", shown=DEFAULT_SPACE)] = Field(
        default=DEFAULT_SPACE, description="What is searched: a name of 'vpbench list searches', or a file: my.toml."
    )
    sampler: Annotated[str | None, Flag(metavar="NAME")] = Field(
        default=None, description="grid (every point) or tpe (Optuna). Default: the space's."
    )
    trials: Annotated[int | None, Flag(kind=int, least=1, metavar="N")] = Field(
        default=None, description="Budget of tpe, for every method on every data set. Default: the space's."
    )
    batch: Annotated[int | None, Flag(kind=int, least=1, metavar="N")] = Field(
        default=None, description="Trials that tpe chooses at a time, whatever the workers. Default: 8."
    )
    trial_epochs: Annotated[int | None, Flag(kind=int, least=1, metavar="EPOCHS")] = Field(
        default=None,
        description="Epochs of a trial, with a schedule that ends there. Default: the space's, else a final run's.",
    )
    prune: Annotated[int | None, Flag(kind=int, least=1, metavar="EPOCHS")] = Field(
        default=None, description="With tpe: begin each trial with so few epochs, and drop those below the median."
    )
    sampler_seed: Annotated[int | None, Flag(kind=int, least=0, metavar="N")] = Field(
        default=None, description="Seed of tpe. Default: 0."
    )
    seeds: Annotated[int | None, Flag(kind=int, least=1, metavar="N")] = Field(
        default=None, description="Final runs of each winner. Default: all seeds of the suite."
    )
