"""The sentences around a table: the protocol of a section, how to read the numbers, what is missing, where they come from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from vpbench.data.overlaps import seen_test_images
from vpbench.reporting.definition import TableDefinition
from vpbench.reporting.keys import SectionKey
from vpbench.reporting.row_labels import epochs_text, selection_text, trained_on
from vpbench.reporting.scores import score_title
from vpbench.reporting.settings import decoding_in, search_in, settings_in

_NORMALISATION = {"weights": "mean and std of the weights", "imagenet": "mean and std of ImageNet", "none": "no mean and std"}


def protocol(key: SectionKey, runs: pd.DataFrame) -> tuple[str, ...]:
    """Two lines: what was the same for every method, and how many images each data set has."""
    pixels = [*preprocessing(settings_in(key.preprocess), key.image_size), *_decodings(runs)]
    seeds = sorted(set(runs["seed"].dropna().astype(int)))
    how = [f"score: {score_title(key.task)}"] if key.task else []
    how += [trained_on(key.images), selection_text(key.selection), epochs_text(key.epochs), _seed_list(seeds), str(key.precision)]
    counts = runs.groupby("dataset")[["n_train", "n_val", "n_test"]].first()  # a failed run may lack them
    splits = [f"{dataset} {'/'.join(map(_count, numbers))}" for dataset, numbers in zip(counts.index, counts.to_numpy())]
    return f"Protocol: {'; '.join([*pixels, *how])}.", f"Images (train/val/test): {', '.join(splits)}."


def preprocessing(options: dict[str, Any], size: int | None) -> list[str]:
    """What becomes of an image before the network, in words, by the options of a row."""
    parts = []
    if options.get("resize") == "stretch":
        parts.append(f"images stretched to {size} x {size}")
    elif options.get("resize") == "original":
        parts.append(f"images in their own size, crops of {size} x {size} in training, windows of that size in testing")
    elif options.get("resize") == "crop" and size is not None:
        crop = "random crop in training, centre crop in testing" if options.get("random_crop") else "centre crop"
        parts.append(f"short side resized to {round(size / options.get('crop_ratio', 1))}, {crop}, {size} x {size}")
    if "interpolation" in options:
        # Before this option existed, all runs used antialiasing; their rows do not record it.
        antialias = {True: " with antialias", False: " without antialias", None: ""}[options.get("antialias")]
        parts[-1:] = [f"{''.join(parts[-1:])} ({options['interpolation']}{antialias})".strip()]
    if options.get("random_flip"):
        parts.append("random horizontal flips in training")
    if "normalisation" in options:
        parts.append(f"normalised with {_NORMALISATION.get(options['normalisation'], options['normalisation'])}")
    return parts


def _decodings(runs: pd.DataFrame) -> list[str]:
    """How images are decoded, and of which data sets where it is not the same for all."""
    found: dict[str, set[str]] = {}
    for dataset, text in runs[["dataset", "preprocess"]].drop_duplicates().itertuples(index=False, name=None):
        found.setdefault(decoding_in(text), set()).add(dataset)
    whose = {decoding: "" if len(found) == 1 else f" ({', '.join(sorted(own))})" for decoding, own in found.items()}
    return [f"decoded with {decoding}{own}" for decoding, own in whose.items() if decoding]


def _seed_list(seeds: list[int]) -> str:
    return f"seed{'' if len(seeds) == 1 else 's'} {', '.join(map(str, seeds)) or 'unknown'}"


def _count(number: Any) -> str:
    return "-" if pd.isna(number) else str(int(number))


def footer_lines(
    runs: pd.DataFrame, definition: TableDefinition, n: int | None, filled: int, cells: int, remarks: Sequence[str] = ()
) -> tuple[str, ...]:
    """All lines, in reading order.

    Args:
        n: seeds behind every number, or None when they differ, and cells show their own.
        filled: methods x data sets that have a number.
        cells: methods x data sets.
        remarks: on the choice of the runs.
    """
    lines = [
        *remarks,
        _seeds(n, filled),
        _grid(filled, cells),
        _without_number(runs, definition.score, definition.metric),
        *seen_in_training(runs),
        *_unsupported(runs),
        *(cost.note for cost in definition.costs),
        _repeats(runs),
        f"Runs: {len(runs)}, made by {_versions(runs)}.",
        *_recipes(runs),
        *_searches(runs),
        *definition.notes,
    ]
    return tuple(line for line in lines if line)


def _seeds(n: int | None, filled: int) -> str:
    if not filled:
        return "No run has a number."
    if n is None:
        return "Mean ± sample standard deviation over seeds; their number n stands in parentheses."
    return f"Mean ± sample standard deviation over n = {n} seeds." if n > 1 else "One seed each, so no standard deviation."


def _grid(filled: int, cells: int) -> str:
    if filled == cells:
        return ""
    return f"Half-filled grid: {filled} of {cells} cells have a number; a row with an empty cell has no mean."


def _without_number(runs: pd.DataFrame, column: str, metric: str) -> str:
    failed = runs.loc[runs["status"] != "ok", "status"].value_counts().sort_index()
    parts = [f"{count} {status}" for status, count in failed.items()]
    if empty := int((runs["status"].eq("ok") & runs[column].isna()).sum()):
        parts.append(f"{empty} ok but without {metric}")
    return f"Runs without a number: {', '.join(parts)}." if parts else ""


def seen_in_training(runs: pd.DataFrame) -> list[str]:
    """One line per data set whose test images are partly those of training or validation, by what its rows say."""
    known = runs.loc[runs["status"] == "ok", ["dataset", "error"]].fillna("").drop_duplicates().itertuples(index=False, name=None)
    found = dict.fromkeys((dataset, " ".join(seen_test_images(text))) for dataset, text in known)
    return [f"Not all test images of {dataset} are new to its models: {said}" for dataset, said in sorted(found) if said]


def _unsupported(runs: pd.DataFrame) -> list[str]:
    """One line per reason why methods do not work on a backbone."""
    known = runs.loc[runs["status"] == "unsupported", ["method", "backbone", "error"]].fillna("")
    return [
        f"Unsupported on {backbone}: {', '.join(sorted(set(own['method'])))} ({str(error).strip().rstrip('.')})."
        for (backbone, error), own in known.groupby(["backbone", "error"])
    ]


def _repeats(runs: pd.DataFrame) -> str:
    count = int(runs["repeat"].sum())
    return f"Left out: {count} that repeat the seed of another run on the same data, in another suite." if count else ""


def _versions(runs: pd.DataFrame) -> str:
    """Each version with its commits, and whether a checkout had changes that no commit holds."""
    columns = runs[["vpbench_version", "git_commit", "git_dirty"]].astype(object)
    kinds = columns.where(columns.notna(), None).drop_duplicates().itertuples(index=False, name=None)
    return "; ".join(sorted(_version(*kind) for kind in kinds))


def _version(version: str | None, commit: str | None, dirty: bool | None) -> str:
    source = [f"commit {commit[:8]}"] if commit else []
    source += ["uncommitted changes: provisional"] if dirty else []
    return f"vpbench {version or 'of unknown version'}" + (f" ({', '.join(source)})" if source else "")


def _searches(runs: pd.DataFrame) -> list[str]:
    """One line per search: what was chosen, from how many trials."""
    known = runs[["method", "search"]].dropna().groupby("search")["method"]
    lines = []
    for text, methods in known:
        if not (search := search_in(text)):
            continue
        lines.append(
            f"Chosen on validation images for {', '.join(sorted(set(methods)))}, on each data set from {search['trials']} trials "
            f"({search['space']}, {search['sampler']}): {', '.join(search['searched'])}."
        )
    return lines


def _recipes(runs: pd.DataFrame) -> list[str]:
    """What all recipes have as a source, then one line per other source, with the data sets where a method has several."""
    known = runs[["method", "dataset", "recipe_source"]].dropna()
    several = known.drop_duplicates(["method", "recipe_source"])["method"].duplicated().any()
    sources = {source: str(source).rstrip(". ").split("; ") for source in known["recipe_source"].unique()}
    shared = [
        part for part in next(iter(sources.values()), []) if len(sources) > 1 and all(part in own for own in sources.values())
    ]
    lines = [f"Recipe of all: {'; '.join(shared)}."] if shared else []
    for source, own in known.groupby("recipe_source"):
        sets = f" on {', '.join(sorted(set(own['dataset'])))}" if several else ""
        rest = "; ".join(part for part in sources[source] if part not in shared)
        if rest:
            lines.append(f"Recipe of {', '.join(sorted(set(own['method'])))}{sets}{', further' if shared else ''}: {rest}.")
    return lines
