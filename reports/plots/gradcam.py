"""Which parts of an image support its class: Grad-CAM of trained models side by side, on a ViT or a Swin Transformer."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from numpy.typing import NDArray

from vpbench.reporting.figures import sections
from vpbench.reporting.frame import Filters
from vpbench.reporting.keys import RowKey
from vpbench.reporting.row_labels import row_label
from vpbench.reporting.styles import figure_title, legend_below, shortened
from vpbench.reports.plots._models import Group, Pictures, by_class_alone, each, groups, load, overlay, pictures, show
from vpbench.store.store import Store

if TYPE_CHECKING:
    from vpbench.analysis.load import StoredModel

PLACE = 100  # on a page
IMAGES = 5


def draw(store: Store, runs: pd.DataFrame, filters: Filters) -> Iterator[tuple[str, Figure]]:
    """One figure per data set with trained models, named ``gradcam_<backbone>_<dataset>_seed<seed>``.

    Raises:
        StoreError: when no run left its tensors.
    """
    yield from each(groups(store, sections(runs, filters)), lambda group: _of_group(store, group))


def _of_group(store: Store, group: Group) -> Iterator[tuple[str, Figure]]:
    from vpbench.analysis.inside import grad_cam

    by_class_alone(group)
    sample: Pictures | None = None
    columns: dict[RowKey, tuple[NDArray[np.float32], list[str]]] = {}
    for row, stored in load(store, group):
        sample = sample or pictures(stored, IMAGES)
        columns[row] = grad_cam(stored.model, sample.images, sample.labels), _guesses(stored, sample)
    assert sample is not None
    yield f"gradcam_{group.stem}_seed{group.seed}", _figure(group, sample, columns)


def _guesses(stored: StoredModel, sample: Pictures) -> list[str]:
    """The first guess for every image, with a mark where it is right, and its probability."""
    import torch

    with torch.no_grad():
        confidence, guess = stored.model(sample.images).softmax(-1).max(-1)
    return [
        f"{shortened(sample.names[int(place)], 18)}{' ✓' if int(label) == int(place) else ''}, {100 * float(sure):.0f} %"
        for label, place, sure in zip(sample.labels, guess, confidence)
    ]


def _figure(group: Group, sample: Pictures, columns: dict[RowKey, tuple[NDArray[np.float32], list[str]]]) -> Figure:
    lines = len(sample.pixels)
    figure = Figure(figsize=(max(1.25 * (len(columns) + 1) + 0.3, 4.4), 1.36 * lines + 1.1), layout="constrained")
    axes: NDArray[Any] = figure.subplots(lines, len(columns) + 1, squeeze=False)
    for line, pixels in enumerate(sample.pixels):
        show(axes[line, 0], pixels)
        axes[line, 0].set_xlabel(shortened(sample.names[int(sample.labels[line])], 16), fontsize=6, labelpad=1)
        for column, (heat, guesses) in enumerate(columns.values(), start=1):
            overlay(axes[line, column], pixels, heat[line])
            axes[line, column].set_xlabel(guesses[line], fontsize=6, labelpad=1)
    axes[0, 0].set_title("image", fontsize=7)
    for ax, row in zip(axes[0, 1:], columns):
        ax.set_title(shortened(row_label(row), 20), fontsize=7)
    figure_title(figure, f"Grad-CAM of the true class, {group.title}")
    legend_below(
        figure,
        "Bright patches support the true class, by the gradient of its logit on the tokens that enter the last block; every "
        "map is scaled to its own maximum. Below: the model's first guess, ✓ where it is right, and its probability.",
    )
    return figure
