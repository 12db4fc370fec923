"""How a section of comparable runs is called, and the protocol its runs share."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pandas as pd

from vpbench.reporting.runs import SECTION_KEYS
from vpbench.reporting.settings import settings_in

_SELECTION = {"last": "last epoch", "best_val": "best validation epoch"}
_WEIGHTS = {"random": "random weights", "embedded": "embedded weights", "file": "weights from a file"}
_NORMALISATION = {"weights": "mean and std of the weights", "imagenet": "mean and std of ImageNet", "none": "no mean and std"}


def in_order(sections: Iterable[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    """Each section once, sorted by backbone first; missing values come before others."""
    return sorted(set(sections), key=lambda key: [(value is not None, value) for value in key])


def titles(sections: Iterable[tuple[Any, ...]]) -> dict[tuple[Any, ...], str]:
    """A title per section. Precision, weight hash and preprocessing appear only where titles would be equal otherwise."""
    sections = list(sections)
    short = {section: _title(section) for section in sections}
    alike = {title: [section for section in sections if short[section] == title] for title in short.values()}
    return {section: ", ".join([short[section], *_extras(section, alike[short[section]])]) for section in sections}


def differences(names: dict[tuple[Any, ...], str]) -> dict[tuple[Any, ...], str]:
    """Per section the parts of its title that not all titles have."""
    parts = {section: title.split(", ") for section, title in names.items()}
    shared = set.intersection(*(set(own) for own in parts.values()))
    return {section: ", ".join(part for part in own if part not in shared) for section, own in parts.items()}


def _named(section: tuple[Any, ...]) -> dict[str, Any]:
    return dict(zip((*SECTION_KEYS, "data"), section, strict=True))


def _title(section: tuple[Any, ...]) -> str:
    key = _named(section)
    parts = [str(key["backbone"]), _WEIGHTS.get(key["weights"], f"weights {key['weights']}"), f"{key['image_size']} px"]
    parts += [_epochs(key["epochs"])] if key["epochs"] is not None else []
    parts += [_selection(key["selection"])] if key["selection"] is not None else []
    parts += [] if key["images"] in ("train", None) else [_images(key["images"])]
    return ", ".join(parts + ([key["data"]] if key["data"] else []))


def _extras(section: tuple[Any, ...], alike: list[tuple[Any, ...]]) -> list[str]:
    """What tells a section from the others with the same short title."""
    own, others = _named(section), [_named(other) for other in alike]
    extras = []
    if len({other["precision"] for other in others}) > 1:
        extras.append(str(own["precision"]))
    if len({other["weights_sha256"] for other in others}) > 1:
        extras.append(f"weight file {own['weights_sha256'][:8] if own['weights_sha256'] else 'unknown'}")
    preprocess = [settings_in(other["preprocess"]) for other in others]
    mine = settings_in(own["preprocess"])
    varying = sorted({name for other in preprocess for name in {**mine, **other} if mine.get(name) != other.get(name)})
    return extras + [f"{name}={mine.get(name, '-')}" for name in varying]


def protocol(section: tuple[Any, ...], runs: pd.DataFrame) -> tuple[str, ...]:
    """Two lines: what was the same for every method, and how many images each data set has."""
    key = _named(section)
    pixels = _preprocess(settings_in(key["preprocess"]), key["image_size"])
    seeds = sorted(set(runs["seed"].dropna().astype(int)))
    how = [_images(key["images"]), _selection(key["selection"]), _epochs(key["epochs"]), _seeds(seeds), str(key["precision"])]
    counts = runs.groupby("dataset")[["n_train", "n_val", "n_test"]].first()  # a failed run may lack them
    splits = [f"{dataset} {'/'.join(map(_count, numbers))}" for dataset, numbers in zip(counts.index, counts.to_numpy())]
    return f"Protocol: {'; '.join([*pixels, *how])}.", f"Images (train/val/test): {', '.join(splits)}."


def _preprocess(options: dict[str, Any], size: int) -> list[str]:
    parts = []
    if options.get("resize") == "stretch":
        parts.append(f"images stretched to {size} x {size}")
    elif options.get("resize") == "crop":
        crop = "random crop in training, centre crop in testing" if options.get("random_crop") else "centre crop"
        parts.append(f"short side resized to {round(size / options.get('crop_ratio', 1))}, {crop}, {size} x {size}")
    if "interpolation" in options:
        # Runs of before this option existed were all smoothed; their rows do not say so.
        smooth = {True: " with antialias", False: " without antialias", None: ""}[options.get("antialias")]
        parts[-1:] = [f"{''.join(parts[-1:])} ({options['interpolation']}{smooth})".strip()]
    if options.get("random_flip"):
        parts.append("random horizontal flips in training")
    if "normalisation" in options:
        parts.append(f"normalised with {_NORMALISATION.get(options['normalisation'], options['normalisation'])}")
    return parts


def _images(images: str) -> str:
    """What the tested model was trained on."""
    known = {"train": "the training images", "train+val": "training and validation images"}
    return f"trained on {known.get(images, images)}"


def _seeds(seeds: list[int]) -> str:
    return f"seed{'' if len(seeds) == 1 else 's'} {', '.join(map(str, seeds)) or 'unknown'}"


def _epochs(epochs: int | None) -> str:
    return f"{epochs} epoch{'' if epochs == 1 else 's'}"


def _selection(selection: str | None) -> str:
    return _SELECTION.get(str(selection), str(selection))


def _count(number: Any) -> str:
    return "-" if pd.isna(number) else str(int(number))
