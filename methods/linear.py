"""Linear probing: a linear classifier on the frozen model's features, and nothing else."""

from __future__ import annotations

from vpbench.interface import ALL_FAMILIES, Method, MethodConfig


class LinearConfig(MethodConfig):
    """Linear probing has no options of its own."""


class Linear(Method[LinearConfig]):
    """Trains the head alone; the features of an image never change.

    Parameters: none but the head's, D + 1 for every class.
    """

    title = "Linear probing"
    summary = "a linear classifier on frozen features"
    paper = "Alain and Bengio, Understanding Intermediate Layers Using Linear Classifier Probes, 2016; every baseline"
    year = 2016
    group = "partial"
    fidelity = "paper"
    families = ALL_FAMILIES
    Config = LinearConfig

    @property
    def first_block(self) -> int:
        """After all blocks."""
        return self.shape.depth
