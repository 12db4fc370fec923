"""Accuracy of a stored model on corrupted test images, see :mod:`vpbench.analysis.corruptions`, without training it again."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from vpbench.analysis.accuracy_file import AccuracyFile
from vpbench.analysis.corruptions import CORRUPTIONS, SEVERITIES, corrupted, corruption_names
from vpbench.data.cache import CachedSplit
from vpbench.data.raw import RawData
from vpbench.store.store import Store

if TYPE_CHECKING:
    import torch

    from vpbench.spec.run_spec import BackboneSpec

FILE = AccuracyFile("corruptions.csv", {"corruption": str, "severity": int}, "under corruptions")


@dataclass(frozen=True)
class CorruptedSplit(CachedSplit):
    """A split whose images are corrupted when they are taken.

    Attributes:
        corruption: its name.
        severity: 1 to 5.
    """

    corruption: str = ""
    severity: int = 1

    def take(self, indices: NDArray[np.int64], offsets: NDArray[np.float64] | None = None) -> NDArray[np.uint8]:
        """Like :meth:`CachedSplit.take`."""
        clean = super().take(indices, offsets)
        return np.stack(
            [corrupted(image, self.corruption, self.severity, index) for image, index in zip(clean, indices.tolist())]
        )


def evaluate_corruptions(
    row: Mapping[Any, Any],
    store: Store,
    names: Iterable[str] = ("all",),
    device: torch.device | str = "auto",
    raw: RawData | None = None,
    backbone: BackboneSpec | None = None,
) -> pd.DataFrame:
    """Test a stored model on corrupted images in five severities, and keep the accuracies in ``corruptions.csv`` beside its row.

    What the file has already is not evaluated again.

    Args:
        names: of corruptions or groups of them; ``all``.
        row, store, device, raw, backbone: as for :func:`vpbench.analysis.noise.evaluate_noise`.

    Returns:
        the whole file: ``corruption``, ``severity``, ``acc1`` (percent), ``correct``, ``total``.

    Raises:
        UsageError: for an unknown name.
        StoreError, WeightsError, DataError: see :func:`vpbench.analysis.load.load_stored`.
    """

    def changed(name: str, severity: int, test: CachedSplit) -> CachedSplit:
        return CorruptedSplit(test.images, test.labels, test.image_size, corruption=name, severity=severity)

    wanted = {(name, severity): partial(changed, name, severity) for name in corruption_names(names) for severity in SEVERITIES}
    return FILE.complete(row, store, wanted, device, raw, backbone)


def mean_accuracy(accuracies: pd.DataFrame) -> dict[str, float]:
    """Mean accuracies, percent, over severities and then over corruptions: of each group that is complete, and of ``all``."""
    over_severities = accuracies.groupby("corruption")["acc1"].agg(["mean", "count"])
    complete = over_severities[over_severities["count"] == len(SEVERITIES)]["mean"]
    groups: dict[str, list[str]] = {}
    for name, (group, _) in CORRUPTIONS.items():
        groups.setdefault(group, []).append(name)
    groups["all"] = list(CORRUPTIONS)
    return {group: float(complete[names].mean()) for group, names in groups.items() if set(names) <= set(complete.index)}
