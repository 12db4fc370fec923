"""How far a number may be from the baseline's."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

from vpbench.core.errors import UsageError
from vpbench.core.names import unknown


@dataclass(frozen=True)
class Tolerances:
    """What is allowed.

    Attributes:
        loss: relative difference of each of the first losses, on the platform of the baseline.
        loss_elsewhere: the same on another processor or another patch release of torch, where sums are rounded in another
            order. Measured between AVX-512 and AVX2 kernels: below 1e-6 over five steps.
        accuracy: percentage points between the accuracies of one seed on the platform of the baseline, which are equal there;
            measured between those kernels: 0.2.
        false_alarm: chance that the accuracies of an unchanged vpbench are called a regression, over the whole grid.
        cost: share by which a cost may exceed the baseline's, both measured against linear probing in the same run.
    """

    loss: float = 1e-4
    loss_elsewhere: float = 1e-3
    accuracy: float = 1.0
    false_alarm: float = 0.01
    cost: float = 0.5

    @classmethod
    def of(cls, given: list[str]) -> Tolerances:
        """From ``["loss=1e-3"]``.

        Raises:
            UsageError: for an unknown name or a value that is no positive number (below 1 for ``false_alarm``).
        """
        values: dict[str, float] = {}
        for text in given:
            name, equals, value = text.partition("=")
            known = [field.name for field in fields(cls)]
            if not equals:
                raise UsageError(f"--tolerance {text}: write NAME=VALUE, with one of {', '.join(known)}.")
            if name not in known:
                raise unknown("tolerance", name, known)
            try:
                number = float(value)
            except ValueError:
                number = math.nan
            if not (0 < number < (1 if name == "false_alarm" else math.inf)):
                raise UsageError(
                    f"--tolerance {text}: the value must be a number above 0{', below 1' * (name == 'false_alarm')}."
                )
            if name in values:
                raise UsageError(f"--tolerance {name} is given twice, as {values[name]:g} and as {value}: keep one.")
            values[name] = number
        return cls(**values)
