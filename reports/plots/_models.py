"""Trained models for figures that look inside them: which ones, on which test images. Imports torch when it is called."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from numpy.typing import NDArray

from vpbench.core.errors import StoreError
from vpbench.core.hashing import digest
from vpbench.reporting.figures import Made, SectionRuns, UnsuitedError, in_table_order, one_by_one, usable
from vpbench.reporting.keys import RowKey
from vpbench.reporting.row_labels import row_label
from vpbench.store.store import Store

if TYPE_CHECKING:
    from torch import Tensor

    from vpbench.analysis.load import StoredModel

WEIGHTS = "weights.safetensors"


@dataclass(frozen=True)
class Group:
    """Trained models on one data set with one seed.

    Attributes:
        section: of comparable runs.
        dataset: its name.
        seed: of all runs here.
        runs: with trained tensors, one per row, in the order of the leaderboard.
    """

    section: SectionRuns
    dataset: str
    seed: int
    runs: pd.DataFrame

    @property
    def stem(self) -> str:
        return f"{self.section.stem}_{self.dataset}"

    @property
    def title(self) -> str:
        return f"{self.dataset}, seed {self.seed}: {self.section.title}"


@dataclass(frozen=True)
class Pictures:
    """Some test images.

    Attributes:
        pixels: uint8 (n, S, S, 3).
        images: the same, normalised, (n, 3, S, S).
        labels: classes, (n,).
        names: of all classes.
    """

    pixels: NDArray[np.uint8]
    images: Tensor
    labels: Tensor
    names: tuple[str, ...]


def groups(store: Store, sections: Iterator[SectionRuns]) -> list[Group]:
    """All data sets with trained models; of each the seed that most methods have.

    Raises:
        StoreError: when no run left its tensors.
    """
    found = []
    for section in sections:
        runs = section.runs[usable(section.runs)]
        runs = runs[runs["run_id"].map(lambda run_id: store.artefact_path(run_id, WEIGHTS).exists()).astype(bool)]
        for dataset in section.datasets:
            own = runs[runs["dataset"] == dataset]
            if len(own):
                seed = int(own["seed"].mode().min())
                found.append(Group(section, dataset, seed, in_table_order(own[own["seed"] == seed])))
    if not found:
        raise StoreError(f"no trained weights in {store.folder} for these runs: run them again with --save weights.")
    return found


def by_class_alone(group: Group) -> None:
    """
    Raises:
        UnsuitedError: for models that do not give an image one class.
    """
    if group.section.key.task:
        raise UnsuitedError(f"this figure shows one class for each image, and {group.dataset} is for {group.section.key.task}.")


def each(
    found: Sequence[Group], make: Callable[[Group], Made], none: str = "there is nothing to draw"
) -> Iterator[tuple[str, Any]]:
    """The figures of all groups, by :func:`one_by_one`."""
    return one_by_one([(f"{group.dataset} on {group.section.stem}", partial(make, group)) for group in found], none)


def load(store: Store, group: Group) -> Iterator[tuple[RowKey, StoredModel]]:
    """Row and model, one at a time; the data set is opened once."""
    import torch

    from vpbench.analysis.load import load_stored, open_data, stored_spec

    records = group.runs.to_dict("records")
    raw = open_data(stored_spec(records[0]))
    with torch.random.fork_rng(devices=[]):  # a model's first values are drawn, and then replaced by the stored ones
        for run in records:
            yield run["row"], load_stored(run, store, "cpu", raw)


def pictures(stored: StoredModel, count: int) -> Pictures:
    """The first test image of ``count`` classes, at equal distances in the list of classes."""
    import torch

    from vpbench.data.batches import Normaliser

    test = stored.data.test
    labels = np.asarray(test.labels)
    present = np.unique(labels)
    chosen = present[np.unique(np.linspace(0, len(present) - 1, min(count, len(present))).round().astype(int))]
    places = np.array([int(np.argmax(labels == label)) for label in chosen])
    pixels = test.take(places)
    normalise = Normaliser(stored.spec.backbone.mean, stored.spec.backbone.std)
    return Pictures(pixels, normalise(pixels), torch.from_numpy(labels[places]), stored.data.class_names)


def slug(row: RowKey) -> str:
    """A row as a part of a file name: its label, with a hash where characters are left out."""
    label = row_label(row)
    plain = re.sub(r"[^A-Za-z0-9.-]+", "-", label).strip("-")
    return plain if plain == label else f"{plain[:40].rstrip('-')}-{digest(label, 4)}"


def show(ax: Axes, picture: NDArray[Any], **options: Any) -> None:
    """A picture without axes; pixels stay sharp squares."""
    ax.imshow(picture, interpolation="nearest", **options)
    ax.set(xticks=[], yticks=[])
    ax.spines[:].set_visible(False)


def overlay(ax: Axes, pixels: NDArray[np.uint8], heat: NDArray[np.float32]) -> None:
    """A heat map (grid, grid) in 0 ... 1 on a grey image (S, S, 3)."""
    side = pixels.shape[0]
    show(ax, pixels.mean(-1), cmap="gray", vmin=0, vmax=255, extent=(0, side, side, 0))
    # A cell is as large as its patch; bilinear would hide how coarse the grid is.
    ax.imshow(heat, cmap="inferno", vmin=0, vmax=1, alpha=0.6, extent=(0, side, side, 0), interpolation="nearest")
