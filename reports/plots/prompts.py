"""What trained prompts look like (as InsVP's Figures 3 and 4): on the pixels, in the decision, and in the attention.

A figure per trained model. Images on top; for a method that prompts pixels its prompt and the prompted image; a Grad-CAM
heat map of the true class; and at the bottom how much of the class token's attention goes to the prompts, block by block.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from vpbench.reporting.figures import sections
from vpbench.reporting.frame import Filters
from vpbench.reporting.keys import RowKey
from vpbench.reporting.row_labels import row_label
from vpbench.reporting.styles import RowStyle, despine, figure_title, legend_below, row_styles, shortened
from vpbench.reports.plots._models import Group, Pictures, by_class_alone, each, groups, load, overlay, pictures, show, slug
from vpbench.store.store import Store

if TYPE_CHECKING:
    from vpbench.analysis.load import StoredModel

PLACE = 90  # on a page
IMAGES = 6


def draw(store: Store, runs: pd.DataFrame, filters: Filters) -> Iterator[tuple[str, Figure]]:
    """One figure per trained model with prompts, named ``prompts_<backbone>_<dataset>_<method>_seed<seed>``.

    Raises:
        StoreError: when no run left its tensors, or those that did have no prompts.
    """
    style = row_styles(runs)
    none = (
        f"the trained models in {store.folder} have no prompts to show: vpbench run --methods vpt,insvp --save weights "
        f"--results {store.folder}"
    )
    return each(groups(store, sections(runs, filters)), lambda group: _of_group(store, group, style), none)


def _of_group(store: Store, group: Group, style: Mapping[RowKey, RowStyle]) -> Iterator[tuple[str, Figure]]:
    by_class_alone(group)
    for row, stored in load(store, group):
        figure = _figure(group, row, stored, style[row])
        if figure is not None:
            yield f"prompts_{group.stem}_{slug(row)}_seed{group.seed}", figure


def _figure(group: Group, row: RowKey, stored: StoredModel, row_style: RowStyle) -> Figure | None:
    """None for a method that prompts neither pixels nor the sequence."""
    from vpbench.analysis.inside import attention_by_block, first_prompts, grad_cam, is_readable, prompted_pixels

    sample = pictures(stored, IMAGES)
    prompted = prompted_pixels(stored.model, sample.images)
    on_pixels = not np.array_equal(prompted.numpy(), sample.images.numpy())
    tokens = first_prompts(stored.model, sample.images).shape[1]
    if not on_pixels and not tokens:
        return None
    heat = grad_cam(stored.model, sample.images, sample.labels)
    shares = None
    if tokens and is_readable(stored.model):
        blocks = [block.prompts for block in attention_by_block(stored.model, sample.images)]
        shares = np.stack([block for block in blocks if block is not None]) if blocks[0] is not None else None
    lines = 1 + 2 * on_pixels + 1
    columns = len(sample.pixels)
    figure = Figure(figsize=(1.05 * columns + 0.9, 1.12 * lines + 1.25 + 1.35 * (shares is not None)), layout="constrained")
    grid = figure.add_gridspec(lines + (shares is not None), columns, height_ratios=[1.0] * lines + [1.15] * (shares is not None))
    axes = np.array([[figure.add_subplot(grid[line, column]) for column in range(columns)] for line in range(lines)])
    _images(axes, sample, heat, _prompt(stored, sample, prompted.numpy()) if on_pixels else None)
    if shares is not None:
        _shares(figure.add_subplot(grid[lines, :]), shares, row_style)
    figure_title(figure, f"{row_label(row)} on {group.title}")
    legend_below(figure, _caption(on_pixels, tokens, shares is not None, stored.model.backbone.shape.prefix > 0))
    return figure


def _prompt(stored: StoredModel, sample: Pictures, prompted: NDArray[np.float32]) -> NDArray[np.float32]:
    """The prompt on the pixels, (n, S, S, 3), with pixels in 0 ... 1."""
    difference = (prompted - sample.images.numpy()) * np.array(stored.spec.backbone.std, np.float32)[:, None, None]
    moved: NDArray[np.float32] = np.moveaxis(difference, 1, -1)
    return moved


def _images(axes: NDArray[Any], sample: Pictures, heat: NDArray[np.float32], prompt: NDArray[np.float32] | None) -> None:
    labels = ["image", "heat map"] if prompt is None else ["image", "", "prompted\nimage", "heat map"]
    # The largest hundredth may be cut off, so that one odd pixel does not make the others grey.
    scale = 1.0 if prompt is None else max(float(np.quantile(np.abs(prompt), 0.99)), 1e-6)
    for column, pixels in enumerate(sample.pixels):
        axes[0, column].set_title(shortened(sample.names[int(sample.labels[column])], 16), fontsize=7)
        show(axes[0, column], pixels)
        if prompt is not None:
            show(axes[1, column], np.clip(0.5 + prompt[column] / (2 * scale), 0, 1))
            show(axes[2, column], np.clip(pixels / 255 + prompt[column], 0, 1))
        overlay(axes[-1, column], pixels, heat[column])
    if prompt is not None:
        labels[1] = f"prompt,\n±{scale:.2g}"
    for line, label in enumerate(labels):
        axes[line, 0].set_ylabel(label, rotation=0, ha="right", va="center", labelpad=6, fontsize=7)


def _shares(ax: Axes, shares: NDArray[np.float32], row_style: RowStyle) -> None:
    """Shares (L, n) as a line over blocks, with the range over the images."""
    despine(ax)
    at = np.arange(1, len(shares) + 1)
    percent = 100 * shares
    ax.fill_between(at, percent.min(1), percent.max(1), color=row_style.colour, alpha=0.2, linewidth=0)
    ax.plot(at, percent.mean(1), linewidth=1.2, markersize=4, **row_style.marker_kwargs)
    ax.set(xlabel="block", ylabel="attention to\nprompts (%)", ylim=(0, None))
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))


def _caption(on_pixels: bool, tokens: int, shares: bool, class_token: bool) -> str:
    parts = ["Test images, one per class."]
    if on_pixels:
        parts.append("Prompt: grey is 0; pixels lie in 0 ... 1.")
    parts.append("Heat map: Grad-CAM of the true class on the tokens that enter the last block.")
    if shares:
        parts.append(f"Attention of the class token to {tokens} prompts: mean and range of these images.")
    elif tokens and class_token:
        parts.append("The method replaces the attention, so that what its prompts get cannot be read.")
    return " ".join(parts)
