"""How alike the machines of two rows are, and therefore what of them can be compared."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from vpbench.checking.baseline import Row
from vpbench.checking.tolerance import Tolerances
from vpbench.core.names import counted
from vpbench.models.registry import method_class, method_registry

Nearness = Literal["same", "near", "far"]

SAME = ("platform", "device", "device_name", "torch", "timm", "threads", "linear_kernel")


def sensitive_to_rounding(row: Row) -> bool:
    """Whether another order of the same sums changes this row's method visibly."""
    name = str(row["method"]).partition(":")[0]
    return method_registry().has(name) and method_class(name).sensitive_to_rounding


def nearness(one: Row, two: Row) -> Nearness:
    """How alike the platforms of two rows are.

    ``near`` shares the random numbers and the order of operations, but not how sums are rounded: another processor of the
    same architecture, another number of threads or matrix product, another timm or patch release of torch. On another
    architecture or with another minor version of torch even the random numbers may be others (dropout draws from MKL's
    generator on x86 only).
    """
    if all(one[name] == two[name] for name in SAME):
        return "same"
    return "near" if all(one[name] == two[name] for name in ("platform", "device")) and _minor(one) == _minor(two) else "far"


def _minor(row: Row) -> list[str]:
    return str(row["torch"]).split("+")[0].split(".")[:2]


def platform_text(row: Row) -> str:
    """A row's platform in a few words."""
    threads = counted(row["threads"], "thread")
    products = ", products by oneDNN" if row["linear_kernel"] == "onednn" else ""
    place = f"{row['platform']}, {row['device']} {row['device_name']}, {threads}{products}"
    return f"{place}, torch {row['torch']}, timm {row['timm']}"


def differences(before: list[Row], now: list[Row], tolerances: Tolerances) -> Iterator[str]:
    """Notes for rows that were not made where the baseline was: both platforms, and which tolerances are wider."""
    closest_first = ("same", "near", "far").index
    kinds = {min((nearness(row, other) for other in before), key=closest_first) for row in now}
    if kinds == {"same"}:
        return
    base, here = (list(dict.fromkeys(platform_text(row) for row in rows)) for rows in (before, now))
    yield f"Baseline made on {'; '.join(base)}. Now: {'; '.join(here)}."
    exact = "Parameters, operations, counts and options must be equal and mean accuracies within what the seeds allow, as ever"
    if "near" in kinds:
        yield (
            f"Sums may be rounded in another order there: first losses may differ by {100 * tolerances.loss_elsewhere:g} % "
            f"(not {100 * tolerances.loss:g} %), and a seed's accuracy is not compared with its own. {exact}."
        )
    if "far" in kinds:
        yield f"Random numbers may be others there: neither first losses nor a seed's own accuracy are compared. {exact}."
