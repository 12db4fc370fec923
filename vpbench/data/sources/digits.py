"""Handwritten digits of scikit-learn: 1,797 grey images of 8 x 8 pixels, nothing to download."""

from __future__ import annotations

import numpy as np
from sklearn.datasets import load_digits

from vpbench.data.raw import PixelSplit, RawData
from vpbench.data.splitting import stratified_order

N_TRAIN, N_VAL = 800, 200
SEED = 0


def read() -> RawData:
    """800 training, 200 validation and 797 test images; the same on every machine.

    Images stay at 8 x 8, so that preprocessing enlarges them once, straight to the network's size.
    """
    bunch = load_digits()
    pixels = np.rint(bunch.images * (255 / 16)).astype(np.uint8)
    labels = bunch.target.astype(np.int64)
    parts = np.split(stratified_order(labels, SEED), [N_TRAIN, N_TRAIN + N_VAL])
    splits = {
        name: PixelSplit(pixels[part], labels[part], f"digits {name}") for name, part in zip(("train", "val", "test"), parts)
    }
    return RawData.of([str(digit) for digit in range(10)], dict(splits))
