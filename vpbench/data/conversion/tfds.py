"""VTAB-1k out of TensorFlow Datasets (TFDS), in the splits of VTAB-1k's published code.

Every file that TFDS keeps as JPEG or PNG is written as it is, byte for byte, and decoded by Pillow later; VPT's code decodes with
TensorFlow, whose JPEG decoder may differ by some grey levels. A file of another kind is decoded by TFDS and written as PNG.

Without TensorFlow, TFDS keeps examples as ArrayRecord files and reads them by ``as_data_source``, in the same order. It can
prepare those data sets so whose images are files already; of the others it says that it lacks TensorFlow.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import io
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from vpbench.core.errors import DataError, UsageError
from vpbench.data.cache import OnProgress
from vpbench.data.catalog import DatasetCard
from vpbench.data.conversion import labels
from vpbench.data.conversion.vtab_layout import Example, png, refuse_existing, write_layout
from vpbench.data.decoding import decode

Features = Mapping[str, Any]
LabelOf = Callable[[Features, Any], int]


@dataclass(frozen=True)
class Part:
    """Images of a TFDS split: from ``start`` percent of it on, ``count`` of them or all that follow."""

    split: str
    start: int = 0
    count: int | None = None

    def range(self, size: int) -> tuple[int, int]:
        """First image and the one after the last, of a split with ``size`` images."""
        first = size * self.start // 100
        return first, size if self.count is None else min(size, first + self.count)


def plain(key: str = "label") -> LabelOf:
    """The label is a feature of its own."""
    return lambda example, _: int(example[key])


def clevr_count(example: Features, _: Any) -> int:
    return labels.clevr_count(len(example["objects"]["size"]))


def clevr_distance(example: Features, _: Any) -> int:
    return labels.clevr_distance(example["objects"]["pixel_coords"][:, 2].tolist())


def kitti_distance(example: Features, features: Any) -> int:
    kinds = features["objects"].feature["type"].names
    objects = example["objects"]
    return labels.kitti_distance([kinds[kind] for kind in objects["type"]], objects["location"][:, 2].tolist())


def dsprites(key: str) -> LabelOf:
    return lambda example, _: labels.dsprites_bin(int(example[key]), labels.DSPRITES_STEPS[key])


@dataclass(frozen=True)
class Rule:
    """Where a task's images and labels are in TFDS.

    Attributes:
        name: the TFDS data set, with its configuration.
        versions: the version that VPT reports first, then others that will do; a note is recorded if one of them is used.
        val, test: the 200 validation images and the test images; training images are always the first 800 of ``train``.
        label: class number of an example, given TFDS's features.
        factor: multiplier of pixel values.
    """

    name: str
    versions: tuple[str, ...]
    val: Part
    test: Part
    label: LabelOf = field(default=plain())
    factor: int = 1

    @property
    def parts(self) -> dict[str, Part]:
        return {"train": Part("train", 0, 800), "val": self.val, "test": self.test}


VALIDATION = Part("validation", 0, 200)
TEST = Part("test")

# Splits and versions: VPT's code (github.com/KMnP/vpt, src/data/vtab_datasets and VTAB_SETUP.md), after VTAB's. VTAB's authors
# call data the same whose major version is (github.com/google-research/task_adaptation/issues/18). Pets is the exception:
# recent TFDS has 4.0.0 only, in which some broken files are mended.
RULES = {
    "vtab.cifar100": Rule("cifar100", ("3.0.2",), Part("train", 90, 200), TEST),
    "vtab.caltech101": Rule("caltech101", ("3.0.1", "3.0.2"), Part("train", 90, 200), TEST),
    "vtab.dtd": Rule("dtd", ("3.0.1",), VALIDATION, TEST),
    "vtab.flowers": Rule("oxford_flowers102", ("2.1.1",), VALIDATION, TEST),
    "vtab.pets": Rule("oxford_iiit_pet", ("3.2.0", "4.0.0"), Part("train", 80, 200), TEST),
    "vtab.svhn": Rule("svhn_cropped", ("3.0.0", "3.1.0"), Part("train", 90, 200), TEST),
    "vtab.sun397": Rule("sun397/tfds", ("4.0.0",), VALIDATION, TEST),
    "vtab.camelyon": Rule("patch_camelyon", ("2.0.0",), VALIDATION, TEST),
    "vtab.eurosat": Rule("eurosat/rgb", ("2.0.0",), Part("train", 60, 200), Part("train", 80)),
    "vtab.resisc45": Rule("resisc45", ("3.0.0",), Part("train", 60, 200), Part("train", 80)),
    "vtab.retinopathy": Rule("diabetic_retinopathy_detection/btgraham-300", ("3.0.0",), VALIDATION, TEST),
    "vtab.clevr-count": Rule("clevr", ("3.1.0", "3.0.0"), Part("train", 90, 200), Part("validation"), clevr_count),
    "vtab.clevr-distance": Rule("clevr", ("3.1.0", "3.0.0"), Part("train", 90, 200), Part("validation"), clevr_distance),
    "vtab.dmlab": Rule("dmlab", ("2.0.1",), VALIDATION, TEST),
    "vtab.kitti": Rule("kitti", ("3.2.0", "3.1.0", "3.3.0"), VALIDATION, TEST, kitti_distance),
    "vtab.dsprites-location": Rule(
        "dsprites", ("2.0.0",), Part("train", 80, 200), Part("train", 90), dsprites("label_x_position"), 255
    ),
    "vtab.dsprites-orientation": Rule(
        "dsprites", ("2.0.0",), Part("train", 80, 200), Part("train", 90), dsprites("label_orientation"), 255
    ),
    "vtab.smallnorb-azimuth": Rule("smallnorb", ("2.0.0",), Part("test", 0, 200), Part("test", 50), plain("label_azimuth")),
    "vtab.smallnorb-elevation": Rule("smallnorb", ("2.0.0",), Part("test", 0, 200), Part("test", 50), plain("label_elevation")),
}


def convert_tfds(
    card_id: str,
    card: DatasetCard,
    target: Path,
    data_dir: Path | None = None,
    *,
    force: bool = False,
    on_progress: OnProgress | None = None,
) -> Path:
    """Writes a task's images and lists to ``target`` from TFDS, which downloads and prepares the data if necessary.

    Args:
        card_id: a key of :data:`RULES`.
        data_dir: TFDS's data folder; by default its own, ``~/tensorflow_datasets``.
        on_progress: called with (images written, total).

    Raises:
        UsageError: when TFDS is not installed, does not have the version, or needs TensorFlow.
        DataError: when TFDS cannot prepare or read the data, or the number of images differs from VTAB-1k.
    """
    refuse_existing(target, force)
    if data_dir is not None and not data_dir.is_dir():
        raise DataError(f"{data_dir} is no folder; give TFDS's data folder, or none to let TFDS use its own.")
    rule, tfds = RULES[card_id], _tensorflow_datasets()
    builder = _prepared(tfds, rule, data_dir)
    ranges = {}
    for split, part in rule.parts.items():
        if part.split not in builder.info.splits:
            raise DataError(f"{builder.info.full_name} in {builder.data_dir} has no split '{part.split}'; prepare it again.")
        ranges[split] = part.range(builder.info.splits[part.split].num_examples)
    wanted = {"train": card.n_train, "val": card.n_val, "test": card.n_test}
    for split, (first, last) in ranges.items():
        if last - first != wanted[split]:
            raise DataError(
                f"{builder.info.full_name} in {builder.data_dir} gives {last - first} {split} images, {card.title} has "
                f"{wanted[split]}; it is incomplete or another version."
            )
    slices = {split: f"{rule.parts[split].split}[{first}:{last}]" for split, (first, last) in ranges.items()}
    version = str(builder.info.version)
    other = f"From TFDS {rule.name} {version}; VPT used {rule.versions[0]}." if version != rule.versions[0] else ""
    provenance = {
        "dataset": card_id,
        "source": f"tfds {rule.name} {version}",
        "tensorflow_datasets": importlib.metadata.version("tensorflow-datasets"),
        "splits": slices,
        "note": other,
    }
    examples = _examples(tfds, builder, rule, slices)
    return write_layout(target, examples, card, provenance, force=force, on_progress=on_progress)


def lacking() -> str:
    """What has to be installed before anything can be converted from TFDS, in a sentence; empty where it is there."""
    is_there = importlib.util.find_spec("tensorflow_datasets") and (_has_tensorflow() or importlib.util.find_spec("array_record"))
    return "" if is_there else _INSTALL


_INSTALL = (
    "TensorFlow Datasets is not installed: pip install 'vpbench[tfds]', or 'vpbench[tfds-light]' without TensorFlow for data "
    "sets whose images are files."
)


def _tensorflow_datasets() -> Any:
    try:
        if _has_tensorflow():
            # TensorFlow would take a GPU's memory for itself; nothing here computes on one.
            importlib.import_module("tensorflow").config.set_visible_devices([], "GPU")
        else:
            importlib.import_module("array_record")
        return importlib.import_module("tensorflow_datasets")
    except ImportError as error:
        raise UsageError(_INSTALL if lacking() else f"TensorFlow Datasets cannot be imported ({_first_line(error)}).") from error


def _has_tensorflow() -> bool:
    return importlib.util.find_spec("tensorflow") is not None


def _prepared(tfds: Any, rule: Rule, data_dir: Path | None) -> Any:
    """A builder of the first version available in TFDS or on disk, downloaded and prepared."""
    reason, kept = "", {} if _has_tensorflow() else {"file_format": "array_record"}
    for version in rule.versions:
        try:
            builder = tfds.builder(f"{rule.name}:{version}", data_dir=data_dir, **kept)
        except Exception as error:  # TFDS has several kinds of error for an unknown version
            reason = reason or _first_line(error)
            continue
        try:
            builder.download_and_prepare()
        except Exception as error:
            _refuse_without_tensorflow(error, f"prepare {rule.name}")
            raise DataError(
                f"TFDS cannot prepare {rule.name} {version} ({_first_line(error)}); see "
                f"https://www.tensorflow.org/datasets/catalog/{rule.name.partition('/')[0]} for what must be done by hand."
            ) from error
        return builder
    raise UsageError(
        f"this TensorFlow Datasets has no {rule.name} {' or '.join(rule.versions)} ({reason}); install a version that has it."
    )


def _refuse_without_tensorflow(error: Exception, what: str) -> None:
    """
    Raises:
        UsageError: when an error of TFDS's is about the lack of TensorFlow.
    """
    if not _has_tensorflow() and "tensorflow" in str(error):
        raise UsageError(f"TFDS needs TensorFlow to {what}: pip install 'vpbench[tfds]'.") from error


def _stored(tfds: Any, builder: Any, slice_: str) -> Iterator[Features]:
    """Examples in their order, with images as they are stored."""
    skip = {"image": tfds.decode.SkipDecoding()}
    if not _has_tensorflow():
        yield from builder.as_data_source(split=slice_, decoders=skip)
        return
    # One file after the other, so that images come in their order.
    reading = tfds.ReadConfig(interleave_cycle_length=1, try_autocache=False)
    yield from tfds.as_numpy(builder.as_dataset(split=slice_, decoders=skip, shuffle_files=False, read_config=reading))


def _examples(tfds: Any, builder: Any, rule: Rule, slices: Mapping[str, str]) -> Iterator[Example]:
    features = builder.info.features
    for split, slice_ in slices.items():
        origin = f"{builder.info.full_name} {slice_}"
        try:
            for number, example in enumerate(_stored(tfds, builder, slice_)):
                name = f"image {number} of {origin}"
                content, suffix = _file(example["image"], features["image"], rule.factor, name)
                yield Example(split, content, suffix, rule.label(example, features), name)
        except (DataError, UsageError):
            raise
        except Exception as error:
            raise DataError(
                f"{origin} in {builder.data_dir} cannot be read ({_first_line(error)}); remove it and let TFDS prepare it again."
            ) from error


def _file(stored: bytes, feature: Any, factor: int, name: str) -> tuple[bytes, str]:
    """What to write for an image that TFDS stores as ``stored``, and the file's suffix."""
    suffix = ".jpg" if stored.startswith(b"\xff\xd8") else ".png" if stored.startswith(b"\x89PNG") else ""
    if factor != 1:
        with Image.open(io.BytesIO(stored)) as image:
            return png(np.asarray(image) * np.uint8(factor)), ".png"
    if suffix:
        try:
            decode(stored, name)
            return stored, suffix
        except DataError:
            pass  # some files that Pillow cannot read TensorFlow can
    try:
        return png(feature.decode_example(stored).numpy()), ".png"
    except Exception as error:
        _refuse_without_tensorflow(error, f"decode {name}")
        raise DataError(
            f"{name} cannot be decoded ({_first_line(error)}); remove the data and let TFDS prepare it again."
        ) from error


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:300].rstrip(".") if lines else type(error).__name__
