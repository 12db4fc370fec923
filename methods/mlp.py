"""MLP-k: a classifier with hidden layers on the frozen model's features, and nothing else."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

from vpbench.interface import ALL_FAMILIES, Method, MethodConfig, nn, option
from vpbench.methods._batch_norm import batch_norm


class MLPConfig(MethodConfig):
    """Options of MLP-k."""

    layers: int = option(3, "hidden layers k", "VPT paper, table 1: MLP-3", ge=0, le=100)
    dropout: float = option(0.1, "behind every hidden layer", "KMnP/vpt src/models/mlp.py", ge=0, lt=1)


class MLP(Method[MLPConfig]):
    """k times [linear D to D, ReLU, batch norm, dropout], then a linear classifier; with k = 0 linear probing.

    Parameters: k (D^2 + 3 D), and the classifier's.
    """

    title = "MLP-k"
    summary = "a classifier with hidden layers on frozen features"
    paper = "Jia et al., Visual Prompt Tuning, ECCV 2022, as a baseline (MLP-3)"
    year = 2022
    group = "partial"
    fidelity = "released-code"
    families = ALL_FAMILIES
    notes = (
        "The released code leaves a last, smaller batch out of every epoch; here it is kept, and where it is a single image,"
        " batch norm takes its running statistics.",
        "All released linear layers start from Kaiming-normal weights (fan-out), the last with bias -4.595; here the last one"
        " does so with head_init=vpt.",
    )
    Config = MLPConfig

    @classmethod
    def needs_classification(cls, config: Mapping[str, Any]) -> str:
        """See :meth:`vpbench.interface.Method.needs_classification`."""
        return "is a classifier of several layers on pooled features"

    @property
    def first_block(self) -> int:
        """After all blocks."""
        return self.shape.depth

    @property
    def needs_whole_batches(self) -> bool:
        """Batch norm uses all images of a batch."""
        return self.config.layers > 0

    def make_head(self, width: int, classes: int) -> nn.Module:
        """Hidden layers, and the classifier as ``last``."""
        hidden = [(f"hidden{index}", _hidden(width, self.config.dropout)) for index in range(self.config.layers)]
        return nn.Sequential(OrderedDict([*hidden, ("last", super().make_head(width, classes))]))


def _hidden(width: int, dropout: float) -> nn.Module:
    linear = nn.Linear(width, width)
    nn.init.kaiming_normal_(linear.weight, mode="fan_out", a=0)
    nn.init.zeros_(linear.bias)
    return nn.Sequential(linear, nn.ReLU(), batch_norm(width), nn.Dropout(dropout))
