"""What is chosen on validation images: the best epoch, a search's winner, a method's candidates. Whether the images can serve."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from vpbench.core.errors import UsageError
from vpbench.data.raw import RawData
from vpbench.models.registry import method_class
from vpbench.spec.run_spec import MethodSpec, RunSpec

COPIES = 0.5  # of the validation images; more of them in another split, and they are no validation images


def check_validation(specs: Sequence[RunSpec], datasets: Mapping[str, RawData]) -> None:
    """That all runs have the validation images that they choose on.

    A method that cannot do without does not stop others where there are none: its run becomes a row with the status unsupported
    (see :func:`lacks_validation`).

    Raises:
        UsageError: when there are none, or they are copies of test or training images, so that the choice would mean nothing.
    """
    without: list[str] = []
    flaws: dict[str, str] = {}
    for spec in (spec for spec in specs if _chooses(spec)):
        name, raw = spec.data.dataset, datasets[spec.data.dataset]
        if name not in flaws:
            flaws[name] = _flaw(raw)
        if not (flaw := flaws[name]):
            continue
        if spec.stage == "search":
            raise UsageError(
                f"{name} {flaw}, and a search chooses on nothing else: leave the data set out."
                + (f" {raw.note}" if raw.val_in_train else "")
            )
        if spec.selection == "best_val":
            raise UsageError(f"{name} {flaw}, so the best epoch cannot be chosen: use --selection last.")
        without.append(_refusal(spec, flaw))
        if len(raw.splits["val"]):
            raise UsageError(without[-1])
    if without and len(without) == len(specs):
        raise UsageError(without[0])


def _chooses(spec: RunSpec) -> bool:
    """Whether a run chooses anything on validation images."""
    return spec.stage == "search" or spec.selection == "best_val" or lacks_validation(spec.method, 0)


def lacks_validation(method: MethodSpec, n_val: int) -> bool:
    """Whether a method chooses on validation images, and there are none."""
    return not n_val and method_class(method.name).needs_validation(method.config)


def unsupported(spec: RunSpec) -> str:
    """What the row of a run says whose method lacks validation images."""
    return _refusal(spec, "has no validation images")


def _refusal(spec: RunSpec, flaw: str) -> str:
    method = spec.method
    return f"{spec.data.dataset} {flaw}, and {method.label} chooses between candidates on them: {_way_out(method)}."


def _way_out(method: MethodSpec) -> str:
    """The option without which a method needs no validation images, as ``--set`` takes it."""
    needs = method_class(method.name).needs_validation
    for name, value in method.config.items():
        if isinstance(value, bool) and not needs({**method.config, name: not value}):
            return f"switch that off with --set {method.name}.{name}={str(not value).lower()}"
    return f"leave {method.label} out of --methods"


def _flaw(raw: RawData) -> str:
    """Why nothing can be chosen on a data set's validation images; empty when it can."""
    count = len(raw.splits["val"])
    if not count:
        return "has no validation images"
    for other in ("test", "train"):
        if (same := raw.shared("val", other)) > COPIES * count:
            return f"has validation images that are copies of {other} images ({same} of {count})"
    return ""
