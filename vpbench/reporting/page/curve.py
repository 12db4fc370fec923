"""A run's learning curve as inline SVG, which takes its colours from the page."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from markupsafe import Markup, escape

from vpbench.core.escaping import visible
from vpbench.reporting.scores import ACCURACY

WIDTH, HEIGHT = 340, 200
_LEFT, _RIGHT, _TOP, _BOTTOM = 44, 10, 12, 34
_MOST_TICKS = 6  # on a logarithmic axis
_WIDE_RANGE = 20  # from here on a logarithmic axis


@dataclass(frozen=True)
class Epoch:
    """One line of ``curve.csv``; None where something was not measured."""

    phase: str
    train_loss: float | None
    val_acc1: float | None
    val_loss: float | None = None


@dataclass(frozen=True)
class Axis:
    """Maps values to 0 ... 1; ``ticks`` are the values with a label."""

    low: float
    high: float
    log: bool
    ticks: tuple[float, ...]

    def place(self, value: float) -> float:
        if self.log:
            return (math.log(value) - math.log(self.low)) / (math.log(self.high) - math.log(self.low))
        return (value - self.low) / (self.high - self.low)


def read_epochs(path: Path) -> list[Epoch]:
    """The epochs of ``curve.csv``, in order.

    Raises:
        ValueError: when the file is no learning curve.
        OSError: when it cannot be read.
    """
    with path.open(newline="", encoding="utf-8") as stream:
        head, *lines = [line for line in csv.reader(stream) if line] or [[]]
    if not lines or not {"phase", "train_loss", "val_acc1"} <= set(head):
        raise ValueError(f"{path.name} is no learning curve")
    if any(len(line) != len(head) for line in lines):
        raise ValueError(f"{path.name} has lines of another length than its first")
    epochs = [dict(zip(head, line)) for line in lines]
    measured = ("train_loss", "val_acc1", "val_loss")  # the last one is not in files of earlier versions
    return [Epoch(epoch["phase"], *(_number(epoch.get(name, "")) for name in measured)) for epoch in epochs]


def _number(text: str) -> float | None:
    """A finite number; None for an empty field and for what a diverged run leaves."""
    value = float(text) if text else math.nan
    return value if math.isfinite(value) else None


def curves(epochs: Sequence[Epoch], name: str, score: str = ACCURACY) -> list[Markup]:
    """The training loss and, where they were measured, loss and score on validation images.

    Args:
        name: of the run, for the text alternative.
        score: what its score is called.
    """
    panels = [("Training loss", [epoch.train_loss for epoch in epochs], True)]
    panels += [("Validation loss", [epoch.val_loss for epoch in epochs], True)]
    panels += [(f"Validation {score} (%)", [epoch.val_acc1 for epoch in epochs], False)]
    phases = [epoch.phase for epoch in epochs]
    return [
        _panel(title, values, phases, may_log, name) for title, values, may_log in panels if any(v is not None for v in values)
    ]


def _panel(title: str, values: Sequence[float | None], phases: Sequence[str], may_log: bool, name: str) -> Markup:
    known = [value for value in values if value is not None]
    axis = value_axis(min(known), max(known), may_log)
    right, bottom = WIDTH - _RIGHT, HEIGHT - _BOTTOM

    def x(epoch: float) -> float:
        return _LEFT + (right - _LEFT) * ((epoch - 1) / (len(values) - 1) if len(values) > 1 else 0.5)

    def y(value: float) -> float:
        return bottom - (bottom - _TOP) * axis.place(value)

    parts = []
    for tick in axis.ticks:
        parts.append(f'<path class="grid" d="M{_LEFT} {y(tick):.1f}H{right}"/>')
        parts.append(f'<text class="tick end" x="{_LEFT - 6}" y="{y(tick) + 3.5:.1f}">{tick:g}</text>')
    epochs = epoch_ticks(len(values))
    parts += [f'<text class="tick middle" x="{x(tick):.1f}" y="{bottom + 14}">{tick}</text>' for tick in epochs]
    parts.append(f'<text class="tick middle" x="{(_LEFT + right) / 2:.0f}" y="{HEIGHT - 5}">epoch</text>')
    start = 1
    for phase, members in groupby(phases):
        count = len(list(members))
        if start > 1:
            parts.append(f'<path class="phase" d="M{x(start - 0.5):.1f} {_TOP}V{bottom}"/>')
            parts.append(f'<text class="tick" x="{x(start - 0.5) + 4:.1f}" y="{_TOP + 8}">{escape(visible(phase))}</text>')
        points = [(x(at), y(value)) for at in range(start, start + count) if (value := values[at - 1]) is not None]
        parts.append(f'<polyline class="line" points="{" ".join(f"{left:.1f},{top:.1f}" for left, top in points)}"/>')
        if count <= 40:
            parts += [f'<circle class="dot" cx="{left:.1f}" cy="{top:.1f}" r="2"/>' for left, top in points]
        start += count
    story = f"{title} of {name}: {known[0]:.4g} in the first epoch, {known[-1]:.4g} in the last of {len(values)}."
    return Markup('<figure class="curve"><figcaption>{}</figcaption>').format(title) + Markup(
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(visible(story))}">{"".join(parts)}</svg></figure>'
    )


def value_axis(low: float, high: float, may_log: bool) -> Axis:
    """An axis over values: logarithmic where they are positive and their ratio is large."""
    if may_log and low > 0 and high / low > _WIDE_RANGE:
        decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        every = [float(f"{digit}e{decade}") for decade in decades for digit in (1, 2, 5)]
        ticks = [tick for tick in every if low <= tick <= high]
        if len(ticks) > _MOST_TICKS:
            ticks = [tick for tick in ticks if f"{tick:e}".startswith("1.0")]
        return Axis(low, high, True, tuple(ticks[:: -(-len(ticks) // _MOST_TICKS)]))
    if high - low <= 1e-4 * max(abs(low), abs(high)):  # equal, or so close that ticks would have the same six digits
        low, high = low - (abs(low) / 10 or 1), high + (abs(high) / 10 or 1)
    exponent = math.floor(math.log10((high - low) / 4))
    step = next(digit * 10.0**exponent for digit in (1, 2, 2.5, 5, 10) if (high - low) / (digit * 10.0**exponent) <= 5)
    first, last = math.floor(low / step), math.ceil(high / step)
    return Axis(first * step, last * step, False, tuple(round(place * step, 1 - exponent) for place in range(first, last + 1)))


def epoch_ticks(count: int) -> list[int]:
    """At most six epochs with a label, the first and round ones."""
    if count <= 6:
        return list(range(1, count + 1))
    step = next(digit * 10**power for power in range(9) for digit in (1, 2, 5) if count / (digit * 10**power) <= 5)
    return [1, *(tick for tick in range(step, count + 1, step) if tick > 1 + step // 3)]
