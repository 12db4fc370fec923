"""Accuracy of a stored model on noisy test images, without training it again.

A pixel x in 0 ... 1 becomes clip(x + sigma n, 0, 1) with n from a standard normal distribution, before mean and standard
deviation are applied. The noise of an image depends on its place in the test split alone, so that all methods and all
seeds see the same noisy images, whatever the batch size and the device; a larger sigma scales the same noise. The iVPT
paper, whose Figures 4 and 6 show such curves, does not say how its noise is scaled: this is an assumption.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from vpbench.analysis.accuracy_file import AccuracyFile
from vpbench.core.errors import UsageError
from vpbench.data.cache import CachedSplit
from vpbench.data.raw import RawData
from vpbench.store.store import Store

if TYPE_CHECKING:
    import torch

    from vpbench.spec.run_spec import BackboneSpec

NOISE_FILE = "noise.csv"
FILE = AccuracyFile(NOISE_FILE, {"sigma": float}, "under noise")
_STREAM = 20240  # first word of every image's seed


@dataclass(frozen=True)
class NoisySplit(CachedSplit):
    """A split whose images have Gaussian noise on them.

    Attributes:
        sigma: standard deviation of the noise, with pixels in 0 ... 1.
    """

    sigma: float = 0.0

    def take(self, indices: NDArray[np.int64], places: NDArray[np.float64] | None = None) -> NDArray[Any]:
        """Like :meth:`CachedSplit.take`, but float32 in 0 ... 255."""
        clean = super().take(indices, places).astype(np.float32)
        if self.sigma == 0:
            return clean
        noise = np.stack([image_noise(index, clean.shape[1:]) for index in indices.tolist()])
        noisy: NDArray[np.float32] = np.clip(clean + np.float32(255 * self.sigma) * noise, 0, 255)
        return noisy


def image_noise(index: int, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Standard normal noise for the image at place ``index`` of a split."""
    return np.random.default_rng((_STREAM, index)).standard_normal(shape, dtype=np.float32)


def evaluate_noise(
    row: Mapping[Any, Any],
    store: Store,
    sigmas: Sequence[float],
    device: torch.device | str = "auto",
    raw: RawData | None = None,
    backbone: BackboneSpec | None = None,
) -> pd.DataFrame:
    """Test a stored model under noise, and keep the accuracies in ``noise.csv`` beside its row.

    Standard deviations that the file has already are not evaluated again.

    Args:
        row: of a run that is ok and was made with ``--save weights``.
        store: holds its tensors and receives the file.
        sigmas: standard deviations of the noise, with pixels in 0 ... 1; 0 is the clean image.
        device: ``auto``, or where to compute.
        raw: the data set where it is open already.
        backbone: the run's, where the path of its weights is known already.

    Returns:
        the whole file: ``sigma``, ``acc1`` (percent), ``correct``, ``total``, one row per sigma in ascending order.

    Raises:
        UsageError: for a sigma that is negative or not finite, or none at all.
        StoreError, WeightsError, DataError: see :func:`vpbench.analysis.load.load_stored`.
    """

    def noisy(sigma: float, test: CachedSplit) -> CachedSplit:
        return NoisySplit(test.images, test.labels, test.image_size, sigma=sigma)

    wanted = {(sigma,): partial(noisy, sigma) for sigma in check_sigmas(sigmas)}
    return FILE.complete(row, store, wanted, device, raw, backbone)


def check_sigmas(sigmas: Sequence[float]) -> list[float]:
    """Standard deviations in ascending order, each once.

    Raises:
        UsageError: for one that is negative or not finite, or none at all.
    """
    if not sigmas:
        raise UsageError("--noise names no standard deviation; for example --noise 0,0.1,0.2.")
    for sigma in sigmas:
        if not (math.isfinite(sigma) and sigma >= 0):
            raise UsageError(f"--noise {sigma:g}: a standard deviation is a number from 0 up, with pixels in 0 ... 1.")
    return sorted({float(sigma) for sigma in sigmas})


def read_noise(store: Store, run_id: str) -> pd.DataFrame:
    """What :func:`evaluate_noise` left.

    Raises:
        StoreError: when the file is no such table.
    """
    return FILE.read(store, run_id)
