"""The text of keys: labels of rows and titles of sections. Text is made here and read nowhere."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any

from vpbench.reporting.keys import RowKey, SectionKey
from vpbench.reporting.settings import settings_in

_SELECTION = {"last": "last epoch", "best_val": "best validation epoch"}
_WEIGHTS = {"random": "random weights", "embedded": "embedded weights", "file": "weights from a file"}
_PREPROCESSING = {
    "resize stretch": "images stretched", "resize crop": "images cropped", "resize original": "images in their own size",
    "random_crop True": "random crops", "random_crop False": "no random crops",
    "random_flip True": "random flips", "random_flip False": "no flips",
    "antialias True": "with antialias", "antialias False": "without antialias",
    "interpolation bilinear": "bilinear", "interpolation bicubic": "bicubic",
    "normalisation weights": "mean and std of the weights", "normalisation imagenet": "mean and std of ImageNet",
    "normalisation none": "no mean and std",
}  # fmt: skip
_IMAGES = {"train": "the training images", "train+val": "training and validation images"}


def row_label(key: RowKey | str, protocol: str = "", names: Mapping[str, str] = MappingProxyType({})) -> str:
    """``method (option=value)``; a name that is no key of ours stays as it is.

    Args:
        protocol: what tells the row's section from the other ones that are mixed with it.
        names: what to write in place of ``method`` or ``method:preset``.
    """
    if isinstance(key, str):
        return key
    options = ", ".join(f"{name}={value_text(value)}" for name, value in key.options)
    return (
        (key.line or names.get(key.name, key.name))
        + (f" ({options})" if options else "")
        + (f" [{protocol}]" if protocol else "")
    )


def row_labels(keys: Iterable[RowKey | str], names: Mapping[str, str] = MappingProxyType({})) -> dict[RowKey | str, str]:
    """The labels of the rows of one section; of mixed sections, each with what its own does not share with the others."""
    keys = list(keys)
    protocols = {key: key.protocol for key in keys if isinstance(key, RowKey) and key.protocol}
    different = differences(protocols.values())
    return {key: row_label(key, different[protocols[key]] if key in protocols else "", names) for key in keys}


def value_text(value: str | None) -> str:
    """A value that a key has as JSON: words without quotation marks, ``name=value`` of a mapping, ``-`` for none."""
    if value is None:
        return "-"
    found = json.loads(value)
    if isinstance(found, dict):
        return " ".join(f"{name}={value_text(json.dumps(each))}" for name, each in found.items())
    return found if isinstance(found, str) else value


def section_titles(keys: Iterable[SectionKey]) -> dict[SectionKey, str]:
    """A title per section. Precision, weight hash and preprocessing appear only where titles would be equal otherwise."""
    return {key: ", ".join(parts) for key, parts in _title_parts(keys).items()}


def differences(keys: Iterable[SectionKey]) -> dict[SectionKey, str]:
    """Per section the parts of its title that not all titles have."""
    parts = _title_parts(sorted(set(keys)))
    shared = set.intersection(*map(set, parts.values())) if parts else set()
    return {key: ", ".join(part for part in own if part not in shared) for key, own in parts.items()}


def _title_parts(keys: Iterable[SectionKey]) -> dict[SectionKey, list[str]]:
    short = {key: _short_title(key) for key in keys}
    alike = {tuple(title): [key for key in short if short[key] == title] for title in short.values()}
    return {key: [*title, *_extras(key, alike[tuple(title)])] for key, title in short.items()}


def _short_title(key: SectionKey) -> list[str]:
    parts = [str(key.backbone), _WEIGHTS.get(str(key.weights), f"weights {key.weights}"), f"{key.image_size} px"]
    parts += [epochs_text(key.epochs)] if key.epochs is not None else []
    parts += [selection_text(key.selection)] if key.selection is not None else []
    parts += [] if key.images in ("train", None) else [trained_on(key.images)]
    parts += [str(key.task)] if key.task else []
    return parts + ([_data_version(*key.data)] if key.data else [])


def _data_version(dataset: str, digest: str, decoding: str) -> str:
    return f"{dataset} data {digest[:8]}" + (f" ({decoding})" if decoding else "")


def _extras(own: SectionKey, alike: list[SectionKey]) -> list[str]:
    """What tells a section from the others with the same short title."""
    extras = []
    if len({other.precision for other in alike}) > 1:
        extras.append(str(own.precision))
    if len({other.weights_sha256 for other in alike}) > 1:
        extras.append(f"weight file {own.weights_sha256[:8] if own.weights_sha256 else 'unknown'}")
    preprocess = [settings_in(other.preprocess) for other in alike]
    mine = settings_in(own.preprocess)
    varying = sorted({name for other in preprocess for name in {**mine, **other} if mine.get(name) != other.get(name)})
    return extras + [_preprocessing(name, mine.get(name)) for name in varying]


def _preprocessing(name: str, value: Any) -> str:
    """An option of the preprocessing in words; None where a row does not record it."""
    plain = name.replace("_", " ")
    return _PREPROCESSING.get(f"{name} {value}", f"{plain} not recorded" if value is None else f"{plain} {value}")


def trained_on(images: str | int | None) -> str:
    """What the tested model was trained on, in words."""
    return f"trained on {images_text(images)}"


def images_text(images: str | int | None) -> str:
    """What a suite trains on: its ``fit``, or a number of images per class."""
    if isinstance(images, int):
        return f"{images} image{'s' if images > 1 else ''} per class"
    return _IMAGES.get(str(images), str(images))


def epochs_text(epochs: int | None) -> str:
    """``12 epochs``."""
    return f"{epochs} epoch{'' if epochs == 1 else 's'}"


def selection_text(selection: Any) -> str:
    """Which epoch's model is tested."""
    return _SELECTION.get(str(selection), str(selection))
