"""Segmentations side by side: test images, their label maps, and what each method predicts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from numpy.typing import NDArray

from vpbench.core.errors import StoreError
from vpbench.reporting.figures import SectionRuns, by_dataset, in_table_order, sections, usable
from vpbench.reporting.frame import Filters
from vpbench.reporting.row_labels import row_label
from vpbench.reporting.scores import has_masks
from vpbench.reporting.styles import figure_title, legend_below, shortened
from vpbench.reports.plots._models import show
from vpbench.store.arrays import read_arrays
from vpbench.store.store import Store

PLACE = 70  # on a page
IMAGES = 5
LEGEND_LIMIT = 24
IGNORED = 255
_IGNORED_COLOUR = (1.0, 1.0, 1.0)

Mask = NDArray[np.uint8]


@dataclass(frozen=True)
class Truth:
    """Test images with their label maps.

    Attributes:
        pixels: of each image, uint8 (H, W, 3).
        masks: class ids, uint8 (H, W), 255 for ignored pixels.
        names: of all classes.
    """

    pixels: Sequence[NDArray[np.uint8]]
    masks: Sequence[Mask]
    names: tuple[str, ...]


def draw(store: Store, runs: pd.DataFrame, filters: Filters) -> Iterator[tuple[str, Figure]]:
    """One figure per data set and group of comparable runs, named ``segmentation_<backbone>_<dataset>_seed<seed>``.

    Raises:
        StoreError: when no run has predictions of masks.
        DataError: when the data set is not on this machine.
    """
    none = (
        f"no predicted masks in {store.folder}. Make some: "
        f"vpbench run --suite mini-seg --save predictions --results {store.folder}"
    )
    own = (section for section in sections(runs, filters) if has_masks(section.key.task))
    return by_dataset(own, partial(_of_dataset, store), none)


def _of_dataset(store: Store, section: SectionRuns, dataset: str, runs: pd.DataFrame) -> Iterator[tuple[str, Figure]]:
    own = runs[usable(runs)]
    own = own[own["run_id"].map(lambda run_id: store.artefact_path(run_id, "predictions.npz").exists()).astype(bool)]
    if len(own):
        seed = int(own["seed"].mode().min())
        figure = _of_runs(store, section, dataset, seed, in_table_order(own[own["seed"] == seed]))
        yield f"segmentation_{section.stem}_{dataset}_seed{seed}", figure


def _of_runs(store: Store, section: SectionRuns, dataset: str, seed: int, runs: pd.DataFrame) -> Figure:
    records = runs.to_dict("records")
    predicted = {row_label(run["row"]): (run["score"], predicted_masks(store, str(run["run_id"]))) for run in records}
    count = min(IMAGES, *(len(masks) for _, masks in predicted.values()))
    return _figure(f"{dataset}, seed {seed}: {section.title}", _truth(records[0], count), predicted)


def predicted_masks(store: Store, run_id: str) -> list[Mask]:
    """The predicted classes of the first test images, (H, W) each.

    Raises:
        StoreError: when the file has none.
    """
    found = read_arrays(store, run_id, "predictions", (), [f"image_{place}" for place in range(IMAGES)])
    if not found:
        raise StoreError(f"run {run_id} has no predicted masks: run it again with --save predictions.")
    return list(found.values())


def _truth(run: dict[Any, Any], count: int) -> Truth:
    from vpbench.analysis.load import open_data, stored_spec

    spec = stored_spec(run)
    raw = open_data(spec)
    test = raw.splits["test"]
    images = [test.image(place, spec.preprocess) for place in range(count)]
    masks = [test.mask(place, image.size) for place, image in enumerate(images)]
    return Truth([np.asarray(image) for image in images], masks, raw.class_names)


def _figure(title: str, truth: Truth, predicted: dict[str, tuple[float, list[Mask]]]) -> Figure:
    lines, columns = len(truth.pixels), len(predicted) + 2
    figure = Figure(figsize=(max(1.3 * columns + 0.2, 4.4), 1.36 * lines + 1.2), layout="constrained")
    axes: NDArray[Any] = figure.subplots(lines, columns, squeeze=False)
    colours = class_colours(len(truth.names))
    for line, (pixels, mask) in enumerate(zip(truth.pixels, truth.masks)):
        show(axes[line, 0], pixels)
        show(axes[line, 1], coloured(mask, colours))
        for column, (_, masks) in enumerate(predicted.values(), start=2):
            show(axes[line, column], coloured(masks[line], colours))
            axes[line, column].set_xlabel(f"{_right(masks[line], mask):.1f} %", fontsize=6, labelpad=1)
    axes[0, 0].set_title("image", fontsize=7)
    axes[0, 1].set_title("label map", fontsize=7)
    for ax, (label, (score, _)) in zip(axes[0, 2:], predicted.items()):
        ax.set_title(f"{shortened(label, 20)}\nmIoU {score:.1f} %", fontsize=7)
    figure_title(figure, f"Segmentation, {title}")
    shown = [*truth.masks, *(mask for _, masks in predicted.values() for mask in masks[:lines])]
    present = sorted({int(label) for mask in shown for label in np.unique(mask)} - {IGNORED})
    keys = [
        Patch(facecolor=colours[label], edgecolor="0.6", linewidth=0.4, label=shortened(truth.names[label], 20))
        for label in present
    ]
    more = "" if len(keys) <= LEGEND_LIMIT else f" The {len(keys)} classes shown have no legend."
    ignored = " White: ignored." if any((mask == IGNORED).any() for mask in truth.masks) else ""
    caption = f"The first test images. Below a prediction: the share of its labelled pixels that is right.{ignored}{more}"
    legend_below(figure, caption, keys if not more else [])
    return figure


def class_colours(count: int) -> NDArray[np.float64]:
    """A colour for each class, (count, 3): black for the first, which is the background of most data sets with few classes."""
    if count <= 8:
        palette = sns.color_palette("colorblind")
        return np.array([(0.12, 0.12, 0.12), *(palette[index] for index in (0, 1, 2, 4, 8, 9, 3))][:count])
    hues = sns.color_palette("husl", count)
    order = np.argsort((np.arange(count) * 0.618034) % 1)  # neighbours in the list of classes get colours far apart
    return np.array(hues)[order]


def coloured(mask: Mask, colours: NDArray[np.float64]) -> NDArray[np.float64]:
    """A label map as a picture, (H, W, 3)."""
    table = np.concatenate([colours, np.broadcast_to(_IGNORED_COLOUR, (256 - len(colours), 3))])
    picture: NDArray[np.float64] = table[mask]
    return picture


def _right(predicted: Mask, truth: Mask) -> float:
    known = truth != IGNORED
    return 100.0 * float((predicted == truth)[known].mean()) if known.any() else float("nan")
