"""Attention by layer, without prompts and with each method's (as iVPT's Figure 7).

For a ViT the class token's attention to the patches, mean over heads; for a Swin Transformer, which has no class token, what
every patch receives from its window.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from vpbench.core.errors import UnsupportedError
from vpbench.reporting.figures import sections
from vpbench.reporting.frame import Filters
from vpbench.reporting.keys import RowKey
from vpbench.reporting.row_labels import row_label
from vpbench.reporting.styles import figure_title, legend_below, shortened
from vpbench.reports.plots._models import Group, Pictures, each, groups, load, pictures, show
from vpbench.store.store import Store

if TYPE_CHECKING:
    from vpbench.analysis.inside import BlockAttention

PLACE = 110  # on a page
IMAGES = 2
MOST_BLOCKS = 12


def draw(store: Store, runs: pd.DataFrame, filters: Filters) -> Iterator[tuple[str, Figure]]:
    """One figure per data set with trained models, named ``attention_<backbone>_<dataset>_seed<seed>``.

    Raises:
        StoreError: when no run left its tensors.
    """
    yield from each(groups(store, sections(runs, filters)), lambda group: _of_group(store, group))


def _of_group(store: Store, group: Group) -> Iterator[tuple[str, Figure]]:
    from vpbench.analysis.inside import attention_by_block
    from vpbench.backbones.weights import load_backbone

    frozen: list[BlockAttention] = []
    rows: dict[RowKey, list[BlockAttention]] = {}
    unreadable: list[RowKey] = []
    sample: Pictures | None = None
    for row, stored in load(store, group):
        if sample is None:
            sample = pictures(stored, IMAGES)
            # Another copy: the method's own may have prompts in its attention.
            frozen = attention_by_block(load_backbone(stored.spec.backbone), sample.images)
        try:
            own = attention_by_block(stored.model, sample.images)
        except UnsupportedError:
            unreadable.append(row)
            continue
        if not _alike(own, frozen):  # linear probing, for one, leaves the attention as it is
            rows[row] = own
    assert sample is not None
    yield f"attention_{group.stem}_seed{group.seed}", _figure(group, sample, frozen, rows, unreadable)


def _alike(one: Sequence[BlockAttention], other: Sequence[BlockAttention]) -> bool:
    return all(
        np.allclose(a.patches, b.patches, rtol=0, atol=1e-6) and (a.prompts is None or not np.any(a.prompts))
        for a, b in zip(one, other)
    )


def _figure(
    group: Group, sample: Pictures, frozen: Sequence[BlockAttention], rows: Mapping[RowKey, Sequence[BlockAttention]],
    unreadable: Sequence[RowKey],
) -> Figure:  # fmt: skip
    shown = {"frozen backbone": frozen, **{row_label(row): attention for row, attention in rows.items()}}
    depth = len(frozen)
    blocks = sorted({int(at) for at in np.linspace(0, depth - 1, min(depth, MOST_BLOCKS)).round()})
    lines, columns = len(sample.pixels) * len(shown), len(blocks) + 1
    longest = min(max(map(len, shown)), 24)
    side = 0.95 if columns <= 8 else 0.66
    room = ConstrainedLayoutEngine(w_pad=0.08)  # inches: labels left of images are else cut by a pixel or two
    figure = Figure(figsize=(side * columns + 0.07 * longest + 0.6, (side + 0.1) * lines + 1.0), layout=room)
    axes = figure.subplots(lines, columns, squeeze=False)
    for picture, pixels in enumerate(sample.pixels):
        for place, (label, attention) in enumerate(shown.items()):
            line = picture * len(shown) + place
            show(axes[line, 0], pixels)
            axes[line, 0].set_ylabel(shortened(label, 24), rotation=0, ha="right", va="center", labelpad=4, fontsize=7)
            for column, block in enumerate(blocks, start=1):
                ax, weights = axes[line, column], attention[block]
                show(ax, weights.patches[picture], cmap="viridis", vmin=0, vmax=float(weights.patches[picture].max()))
                if weights.prompts is not None and attention is not frozen:
                    ax.set_xlabel(f"{100 * weights.prompts[picture]:.0f} %", fontsize=6, labelpad=1)
    for column, block in enumerate(blocks, start=1):
        axes[0, column].set_title(f"block {block + 1}" if side > 0.9 else str(block + 1), fontsize=7)
    figure_title(figure, f"Attention by block, {group.title}")
    by_class = frozen[0].prompts is not None
    parts = [
        "Attention of the class token to the patches, mean over heads; below a map the share that goes to prompts."
        if by_class
        else "Attention that a patch receives from its window, mean over heads and queries.",
        "Every map is scaled to its own maximum (yellow).",
    ]
    if unreadable:
        parts.append(f"Not readable, as the method replaces the attention: {', '.join(map(row_label, unreadable))}.")
    legend_below(figure, " ".join(parts))
    return figure
