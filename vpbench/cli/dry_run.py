"""What ``--dry-run`` says of a plan beside its table of runs: recipes, work, and data that is not there yet."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from vpbench.data.raw import RawData
    from vpbench.planning.plan import PlannedRun
    from vpbench.spec.recipe import Recipe
    from vpbench.spec.run_spec import BackboneSpec

ALWAYS = ("optimizer", "lr", "weight_decay", "batch_size", "epochs")  # fields of a recipe that are shown at their defaults, too
NO_TIMES = "No expected times yet: there are no rows of similar runs, and the first run measures."


def recipe_lines(runs: Iterable[PlannedRun]) -> list[str]:
    """One line per recipe, by the names that ``--set recipe.FIELD`` takes, and the methods and data sets that it is for."""
    users: dict[str, dict[str, list[str]]] = {}
    for run in runs:
        methods = users.setdefault(_values(run.spec.recipe), {})
        methods.setdefault(run.spec.method.label, []).append(run.spec.data.dataset)
    every = {name for methods in users.values() for names in methods.values() for name in names}
    lines = []
    for values, methods in users.items():
        alike: dict[str, list[str]] = {}
        for label, names in methods.items():
            sets = list(dict.fromkeys(names))
            alike.setdefault("all data sets" if len(sets) == len(every) else ", ".join(sets), []).append(label)
        who = "; ".join(f"{', '.join(labels)} on {sets}" for sets, labels in alike.items())
        lines.append(f"recipe of {who}: {values}")
    return lines


def _values(recipe: Recipe) -> str:
    shown = {
        name: getattr(recipe, name)
        for name, field in type(recipe).model_fields.items()
        if name in ALWAYS or getattr(recipe, name) != field.default
    }
    if recipe.optimizer != "sgd":
        shown.pop("momentum", None)
    return " ".join(f"{name}={value:g}" if isinstance(value, float) else f"{name}={value}" for name, value in shown.items())


def data_lines(data: Mapping[str, RawData], own: Container[str]) -> list[str]:
    """Classes and splits of each data set of the user's, the first things to check of it."""
    from vpbench.core.escaping import one_line
    from vpbench.core.names import quoted

    lines = []
    for name, raw in data.items():
        if name in own:
            sizes = ", ".join(f"{len(split)} {part}" for part, split in raw.splits.items())
            classes = f"{len(raw.class_names)} classes ({quoted(map(one_line, raw.class_names))})"
            lines.append(f"data {name}: {classes}; images: {sizes}")
    return lines


def image_lines(runs: Iterable[PlannedRun], own: bool) -> list[str]:
    """What becomes of images before the network, and of which data sets where it is not the same for all.

    Args:
        own: whether they are the user's, of which a protocol can be made.
    """
    from vpbench.reporting.notes import preprocessing
    from vpbench.reporting.settings import decoding_words

    users: dict[str, dict[str, None]] = {}
    for run in runs:
        options = run.spec.preprocess.identity()
        decoding = decoding_words(options)
        words = preprocessing(options, run.spec.backbone.image_size) + ([f"decoded with {decoding}"] if decoding else [])
        words += [] if options["random_flip"] else ["no random flips"]
        users.setdefault("; ".join(words), {})[run.spec.data.dataset] = None
    change = " ('vpbench new suite' makes a protocol of your own)" if own else ""
    whose = {words: "" if len(users) == 1 else f" of {', '.join(names)}" for words, names in users.items()}
    return [f"preprocessing{names}: {words}{change}" for words, names in whose.items()]


def work_line(runs: Iterable[PlannedRun], data: Mapping[str, RawData]) -> str:
    """Images that training takes, and what one forward pass of them costs at least; empty without runs."""
    from vpbench.measure.operations import count_plain

    images, flops = 0, 0
    plain: dict[str, int] = {}
    for run in runs:
        backbone = run.spec.backbone
        key = backbone.model_dump_json()
        plain[key] = plain[key] if key in plain else count_plain(backbone)
        count = run.spec.recipe.epochs * len(data[run.spec.data.dataset].splits["train"])
        images, flops = images + count, flops + count * plain[key]
    if not images:
        return ""
    size = f"{flops / 1e15:.3g} PFLOPs" if flops >= 1e14 else f"{flops / 1e12:.3g} TFLOPs"
    return (
        f"Work: {images:,} training images; {size} for one forward pass of them through the plain backbone, "
        "of which a training step takes one to three times as much."
    )


def blank_lines(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Why no run has an id, or a time that it will take."""
    to_run = [row for row in rows if row["status"] in ("missing", "again")]
    lines = []
    if rows and all(row["run_id"] is None for row in rows):
        lines.append("No run ids yet: they are known when the data are there.")
    if to_run and all(row["expected_s"] is None for row in to_run):
        lines.append(NO_TIMES)
    return lines


def absent_line(names: Sequence[str], suite: str) -> str:
    """What is not there, how much of it a download is, and the way to it; empty when nothing is missing."""
    if not names:
        return ""
    from rich.filesize import decimal

    from vpbench.data.catalog import dataset_card
    from vpbench.data.how_to_get import how_to_get

    sizes = [download.size for name in names for download in dataset_card(name).downloads]
    size = f", {decimal(sum(size for size in sizes if size))} to download" if any(sizes) else ""
    return f"Not here, counted from the cards: {', '.join(names)}{size}. {how_to_get(names, suite)}"


def checked_weights(backbones: Iterable[BackboneSpec]) -> list[str]:
    """Check weight files as a run does; a line for each that the first run downloads.

    Raises:
        WeightsError: for a file with which a run would stop.
    """
    from rich.filesize import decimal

    from vpbench.planning.check_weights import check_weights, least_bytes

    notes, absent = check_weights(backbones)
    for note in notes:
        typer.echo(note, err=True)
    lines = []
    for backbone in absent:
        size = f", at least {decimal(known)}" if (known := least_bytes(backbone)) else ""
        place = backbone.weights.partition(":")[2]
        lines.append(f"Not here, downloaded by the first run: the weights of {backbone.name}, {place}{size}.")
    return lines


def recipe_facts(run: PlannedRun, data: Mapping[str, RawData]) -> dict[str, Any]:
    """What ``--json`` has of a run beside the columns of the table."""
    raw = data[run.spec.data.dataset]
    return {
        "recipe": run.spec.recipe.model_dump(mode="json"), "recipe_source": run.recipe_source,
        "options": dict(run.spec.method.config), "classes": len(raw.class_names),
        **{f"n_{part}": len(split) for part, split in raw.splits.items()},
    }  # fmt: skip
