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

from vpbench.core.errors import UnsupportedError
from vpbench.reporting.figures import below, headline, sections
from vpbench.reporting.runs import Filters
from vpbench.reports.plots._models import Group, Pictures, each, groups, load, pictures, short, show
from vpbench.store.store import Store

if TYPE_CHECKING:
    from vpbench.analysis.inside import BlockAttention

IMAGES = 2
MOST_BLOCKS = 12
FROZEN = "frozen backbone"


def draw(store: Store, runs: pd.DataFrame, filters: Filters) -> Iterator[tuple[str, Figure]]:
    """One figure per data set with trained models, named ``attention_<backbone>_<dataset>_seed<seed>``.

    Raises:
        StoreError: when no run left its tensors.
    """
    yield from each(groups(store, sections(runs, filters)), lambda group: _of_group(store, group))


def _of_group(store: Store, group: Group) -> Iterator[tuple[str, Figure]]:
    from vpbench.analysis.inside import attention_by_block
    from vpbench.backbones.weights import load_backbone

    rows: dict[str, list[BlockAttention]] = {}
    unreadable: list[str] = []
    sample: Pictures | None = None
    for row, stored in load(store, group):
        if sample is None:
            sample = pictures(stored, IMAGES)
            # Another copy: the method's own may have prompts in its attention.
            rows[FROZEN] = attention_by_block(load_backbone(stored.spec.backbone), sample.images)
        if row == "linear":
            continue  # the backbone's attention as it is
        try:
            rows[row] = attention_by_block(stored.model, sample.images)
        except UnsupportedError:
            unreadable.append(row)
    assert sample is not None
    yield f"attention_{group.stem}_seed{group.seed}", _figure(group, sample, rows, unreadable)


def _figure(group: Group, sample: Pictures, rows: Mapping[str, Sequence[BlockAttention]], unreadable: Sequence[str]) -> Figure:
    depth = len(rows[FROZEN])
    blocks = sorted({int(at) for at in np.linspace(0, depth - 1, min(depth, MOST_BLOCKS)).round()})
    lines, columns = len(sample.pixels) * len(rows), len(blocks) + 1
    longest = min(max(map(len, rows)), 24)
    side = 0.95 if columns <= 8 else 0.66
    figure = Figure(figsize=(side * columns + 0.07 * longest + 0.3, (side + 0.1) * lines + 1.0), layout="constrained")
    axes = figure.subplots(lines, columns, squeeze=False)
    for picture, pixels in enumerate(sample.pixels):
        for place, (row, attention) in enumerate(rows.items()):
            line = picture * len(rows) + place
            show(axes[line, 0], pixels)
            axes[line, 0].set_ylabel(short(row, 24), rotation=0, ha="right", va="center", labelpad=4, fontsize=7)
            for column, block in enumerate(blocks, start=1):
                ax, weights = axes[line, column], attention[block]
                show(ax, weights.patches[picture], cmap="viridis", vmin=0, vmax=float(weights.patches[picture].max()))
                if weights.prompts is not None and row != FROZEN:
                    ax.set_xlabel(f"{100 * weights.prompts[picture]:.0f} %", fontsize=6, labelpad=1)
    for column, block in enumerate(blocks, start=1):
        axes[0, column].set_title(f"block {block + 1}" if side > 0.9 else str(block + 1), fontsize=7)
    headline(figure, f"Attention by block, {group.title}")
    by_class = rows[FROZEN][0].prompts is not None
    parts = [
        "Attention of the class token to the patches, mean over heads; below a map the share that goes to prompts."
        if by_class
        else "Attention that a patch receives from its window, mean over heads and queries.",
        "Every map is scaled to its own maximum (yellow).",
    ]
    if unreadable:
        parts.append(f"Not readable, as the method replaces the attention: {', '.join(unreadable)}.")
    below(figure, " ".join(parts))
    return figure
