"""t-SNE of the prompts that a trained model makes for each image (as InsVP's Figure 8), one panel per method.

Only methods whose prompts depend on the image have a panel. What is laid out are the prompts that enter the first block, one
point per test image.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from vpbench.core.errors import StoreError
from vpbench.reporting.figures import sections
from vpbench.reporting.frame import Filters
from vpbench.reports.plots._models import Group, by_class_alone, each, groups, load
from vpbench.reports.plots.tsne import FEWEST_IMAGES, Panel, side_by_side
from vpbench.store.store import Store

IMAGES = 500
_BATCH = 50


def draw(store: Store, runs: pd.DataFrame, filters: Filters) -> Iterator[tuple[str, Figure]]:
    """One figure per data set with trained models, named ``tsne_prompts_<backbone>_<dataset>_seed<seed>``.

    Raises:
        StoreError: when no run left its tensors, or none of those has prompts that depend on the image.
    """
    none = (
        f"no trained model in {store.folder} makes prompts for each image: vpbench run --methods insvp,viapt --save weights "
        f"--results {store.folder}"
    )
    return each(groups(store, sections(runs, filters)), lambda group: _of_group(store, group), none)


def _of_group(store: Store, group: Group) -> Iterator[tuple[str, Figure]]:
    from vpbench.analysis.inside import first_prompts
    from vpbench.data.batches import Normaliser

    by_class_alone(group)
    panels = []
    by_row = dict(zip(group.runs["row"], group.runs.to_dict("records"), strict=True))
    for row, stored in load(store, group):
        test = stored.data.test
        count = min(IMAGES, len(test))
        if count < FEWEST_IMAGES:
            raise StoreError(f"{group.dataset} has {count} test images; t-SNE needs {FEWEST_IMAGES}.")
        normalise = Normaliser(stored.spec.backbone.mean, stored.spec.backbone.std)
        parts = []
        for start in range(0, count, _BATCH):
            places = np.arange(start, min(start + _BATCH, count))
            prompts = first_prompts(stored.model, normalise(test.take(places))).flatten(1).numpy()
            if start == 0 and (not prompts.shape[1] or np.ptp(prompts, axis=0).max() < 1e-6):
                break  # the same for every image, or none
            parts.append(prompts)
        if parts:
            run = by_row[row]
            labels = np.asarray(test.labels[:count], dtype=np.int64)
            prompts, names = np.concatenate(parts), stored.data.class_names
            panels.append(Panel(row, str(run["run_id"]), float(run["score"]), prompts, labels, np.arange(count), names))
    if panels:
        what = "the prompts that enter the first block for each of {n} test images"
        yield f"tsne_prompts_{group.stem}_seed{group.seed}", side_by_side(panels, f"Prompts, {group.title}", [], what)
