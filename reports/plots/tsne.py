"""t-SNE of the features before the classifier: one panel per method, the same test images in each.

t-SNE alone misleads, so every panel also names the test accuracy and how often the nearest neighbours of an image, in the
full feature space, agree on its class.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from numpy.typing import NDArray
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE
from sklearn.neighbors import NearestNeighbors

from vpbench.core.errors import StoreError
from vpbench.reporting.figures import SectionRuns, by_dataset, in_table_order, sections, usable
from vpbench.reporting.frame import Filters
from vpbench.reporting.keys import RowKey
from vpbench.reporting.row_labels import row_label
from vpbench.reporting.scores import score_title
from vpbench.reporting.styles import figure_title, legend_below, shortened
from vpbench.store.arrays import read_arrays
from vpbench.store.store import Store

PLACE = 80  # on a page
NEIGHBOURS = 5
LEGEND_LIMIT = 16  # more classes get no legend: so many colours cannot be distinguished
FEWEST_IMAGES = 10
_COLUMNS = 3
_MARKERS = ("o", "^")


@dataclass(frozen=True)
class Panel:
    """One method's features of n test images.

    Attributes:
        row: the method with its options.
        run_id: the run they come from.
        score: its test accuracy, or the score of another task, percent.
        features: (n, D) float32.
        labels: (n,) class of each image.
        indices: (n,) position of each image in the test split.
        names: of all classes; empty where the run did not store them.
        task: other than classification, where a point is a patch of an image.
    """

    row: RowKey
    run_id: str
    score: float
    features: NDArray[np.float32]
    labels: NDArray[np.int64]
    indices: NDArray[np.int64]
    names: tuple[str, ...] = ()
    task: str | None = None


def draw(store: Store, runs: pd.DataFrame, filters: Filters) -> Iterator[tuple[str, Figure]]:
    """One figure per data set and group of comparable runs, named ``tsne_<backbone>_<dataset>_seed<seed>``.

    The seed is the one that most methods have features of, unless the filters fix it.

    Raises:
        StoreError: when no run has features, or those of one figure are not of the same images.
    """
    none = f"no features in {store.folder} for these runs: run them again with --save features."
    return by_dataset(sections(runs, filters), partial(_of_dataset, store), none)


def _of_dataset(store: Store, section: SectionRuns, dataset: str, runs: pd.DataFrame) -> Iterator[tuple[str, Figure]]:
    own = runs[usable(runs)]
    own = own[own["run_id"].map(lambda run_id: store.artefact_path(run_id, "features.npz").exists()).astype(bool)]
    if own.empty:
        return
    seed = int(own["seed"].mode().min())
    panels = [_load(store, run) for run in in_table_order(own[own["seed"] == seed]).to_dict("records")]
    _check_same_images(panels)
    absent = sorted(map(row_label, set(runs.loc[runs["seed"] == seed, "row"]) - {panel.row for panel in panels}))
    yield (
        f"tsne_{section.key.backbone}_{dataset}_seed{seed}{section.suffix}",
        side_by_side(panels, f"{dataset}, seed {seed}: {section.title}", absent, _what(panels[0])),
    )


def knn_accuracy(features: NDArray[np.float32], labels: NDArray[np.int64], neighbours: int = NEIGHBOURS) -> float:
    """Leave-one-out accuracy of a majority vote of the nearest neighbours by cosine distance, percent.

    Args:
        features: (n, D).
        labels: (n,) classes, counted from 0; of equally frequent ones the lowest wins.
        neighbours: voters per image, at most n - 1.
    """
    search = NearestNeighbors(n_neighbors=min(neighbours, len(labels) - 1), metric="cosine").fit(features)
    voters = labels[search.kneighbors(return_distance=False)]  # without a query, no point is its own neighbour
    votes = np.stack([np.bincount(row, minlength=int(labels.max()) + 1) for row in voters])
    return float(100 * np.mean(votes.argmax(axis=1) == labels))


def embed(features: NDArray[np.float32]) -> NDArray[np.float32]:
    """Features (n, D) -> positions (n, 2): PCA to at most 50 dimensions, then t-SNE; the same input gives the same output."""
    n, width = features.shape
    if np.ptp(features, axis=0).max() == 0:  # all images alike: there is nothing to lay out, and PCA would divide by zero
        return np.zeros((n, 2), dtype=np.float32)
    reduced = PCA(min(50, width, n - 1), svd_solver="full").fit_transform(features)
    positions: NDArray[np.float32] = TSNE(init="pca", random_state=0, perplexity=_perplexity(n)).fit_transform(reduced)
    return positions


def _perplexity(n: int) -> float:
    return min(30.0, (n - 1) / 3)


def _load(store: Store, run: dict[Any, Any]) -> Panel:
    path = store.artefact_path(run["run_id"], "features.npz")
    arrays = read_arrays(store, run["run_id"], "features", ("features", "labels", "indices"), ("class_names",))
    if arrays is None:
        raise StoreError(f"{path} is missing: run {row_label(run['row'])} again with --save features.")
    features, labels, indices = arrays["features"].astype(np.float32), arrays["labels"], arrays["indices"]
    names = tuple(map(str, arrays.get("class_names", ())))
    if not np.isfinite(features).all():
        raise StoreError(f"features of run {run['run_id']} ({row_label(run['row'])}) hold NaN or infinity: {path}.")
    if len(labels) < FEWEST_IMAGES:
        raise StoreError(f"{run['dataset']} has {len(labels)} test images; t-SNE needs {FEWEST_IMAGES}.")
    return Panel(run["row"], run["run_id"], run["score"], features, labels, indices, names, run["section"].task)


def _check_same_images(panels: Sequence[Panel]) -> None:
    first = panels[0]
    different = [
        panel
        for panel in panels[1:]
        if not (np.array_equal(panel.indices, first.indices) and np.array_equal(panel.labels, first.labels))
    ]
    if different:
        others = ", ".join(f"{panel.run_id} ({row_label(panel.row)})" for panel in different)
        own = f"{first.run_id} ({row_label(first.row)})"
        raise StoreError(f"features of other test images than {own}: {others}. Run them again with --save features.")


def side_by_side(panels: Sequence[Panel], title: str, absent: Sequence[str], what: str = "{n} test images") -> Figure:
    """Panels in rows of three; below them how they were made and, for few classes, what the colours mean."""
    columns = min(len(panels), _COLUMNS)
    rows = -(-len(panels) // columns)
    classes = np.unique(panels[0].labels)
    legend = len(classes) <= LEGEND_LIMIT
    figure = Figure(
        figsize=(max(2.3 * columns, 3.5), 2.5 * rows + (1.2 if legend else 0.8)), layout=ConstrainedLayoutEngine(h_pad=0.07)
    )
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    styles = _styles(len(classes))
    for ax, panel in zip(axes, panels):
        _scatter(ax, panel, classes, styles)
    for ax in axes[len(panels) :]:
        ax.set_visible(False)
    figure_title(figure, title)
    labels = [shortened(panels[0].names[k] if k < len(panels[0].names) else str(k), 20) for k in classes]
    keys = [Line2D([], [], ls="", marker=mark, color=hue, label=name) for name, (hue, mark) in zip(labels, styles)]
    legend_below(figure, _caption(panels[0], absent, what) + (" Colours: classes." if legend else ""), keys if legend else [])
    return figure


def _styles(count: int) -> list[tuple[Any, str]]:
    """Colour and marker per class: eight colours of a colour-blind-safe palette, with two markers."""
    if count > LEGEND_LIMIT:
        return [(colour, "o") for colour in sns.color_palette("husl", count)]
    palette = sns.color_palette("colorblind")
    eight = [*(palette[index] for index in (0, 1, 2, 3, 4, 9, 8)), (0.15, 0.15, 0.15)]  # the others are too close to these
    return [(eight[index % 8], _MARKERS[index // 8]) for index in range(count)]


def _scatter(ax: Axes, panel: Panel, classes: NDArray[np.int64], styles: Sequence[tuple[Any, str]]) -> None:
    positions = embed(panel.features)
    for label, (colour, marker) in zip(classes, styles):
        x, y = positions[panel.labels == label].T
        ax.scatter(x, y, s=10, color=colour, marker=marker, linewidths=0, alpha=0.8)
    name = textwrap.fill(row_label(panel.row), 30)
    neighbours = f", kNN {knn_accuracy(panel.features, panel.labels):.1f} %" if _has_neighbours(panel) else ""
    ax.set_title(f"{name}\n{_score(panel)} {panel.score:.1f} %{neighbours}")
    ax.set(xticks=[], yticks=[])
    ax.set_box_aspect(1)


def _what(panel: Panel) -> str:
    """What a point is."""
    if panel.task is None:
        return "{n} test images"
    return f"{{n}} patches of {len(np.unique(panel.indices))} test images, one for each class in an image"


def _has_neighbours(panel: Panel) -> bool:
    """Whether every image has as many others of its class as vote."""
    return bool(np.unique(panel.labels, return_counts=True)[1].min() > NEIGHBOURS)


def _score(panel: Panel) -> str:
    return "top-1" if panel.task is None else score_title(panel.task)


def _caption(panel: Panel, absent: Sequence[str], what: str) -> str:
    n, score = len(panel.labels), _score(panel)
    score = score.capitalize() if score.islower() else score  # mIoU stays
    missing = f" No features stored: {', '.join(absent)}." if absent else ""
    neighbours = (
        f"kNN: leave-one-out accuracy of {NEIGHBOURS} cosine neighbours."
        if _has_neighbours(panel)
        else f"No kNN: a class has no more than {NEIGHBOURS} images."
    )
    about = f"t-SNE of {what.format(n=n)}, perplexity {_perplexity(n):.0f}. {score}: on the whole test split."
    return f"{about} {neighbours}{missing}"
