"""Data sets beside the run's own, for methods that meta-train."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from vpbench.core.errors import UsageError
from vpbench.data.batches import Normaliser
from vpbench.data.cache import CachedSplit, prepare
from vpbench.data.catalog import dataset_card, dataset_names
from vpbench.data.sources import open_dataset, open_path
from vpbench.interface import OtherData
from vpbench.spec.decoding_rule import OWN_DECODING
from vpbench.spec.run_spec import RunSpec


def open_other(name: str, spec: RunSpec, normalise: Normaliser) -> OtherData:
    """A data set by its card's name, below ``VPBENCH_DATA``, or by the path of own images.

    Args:
        spec: of the run, whose preprocessing and image size count.
        normalise: from stored bytes to the network's input.

    Raises:
        UsageError: when the run's own data is asked for.
        DataError: when the data is not on this machine.
    """
    if name == spec.data.dataset:
        raise UsageError(f"{name} is the data set of the run itself; meta-train on others.")
    card = dataset_card(name) if name in dataset_names() else None
    raw = open_dataset(card) if card else open_path(name)
    plain = spec.preprocess.model_copy(
        update={"random_crop": False, "random_flip": False, **(card.decoding if card else OWN_DECODING)}
    )
    split = prepare(raw, plain, spec.backbone.image_size).train
    return OtherData(len(raw.class_names), lambda size: _shuffled(split, size, normalise))


def _shuffled(split: CachedSplit, size: int, normalise: Normaliser) -> Iterator[tuple[Tensor, Tensor]]:
    for picked in torch.randperm(len(split)).split(size):
        yield normalise(split.take(picked.numpy())), normalise.to_device(torch.from_numpy(split.labels[picked.numpy()]))
