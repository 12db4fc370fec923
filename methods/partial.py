"""Partial-k: the last blocks of the backbone are fine-tuned with the classifier."""

from __future__ import annotations

from vpbench.core.errors import UsageError
from vpbench.interface import ALL_FAMILIES, NO_PARTS, Method, MethodConfig, Part, Scope, option


class PartialConfig(MethodConfig):
    """Options of Partial-k."""

    blocks: int = option(1, "last blocks k that are trained", "VPT paper, table 1: Partial-1", ge=1)


class Partial(Method[PartialConfig]):
    """Trains the last k blocks, the final norm and the classifier.

    Parameters: k (12 D^2 + 13 D) of the blocks and 2 D of the norm; on ViT-B/16 at k = 1 7,087,872 and 1,536: 7,089,408.
    """

    title = "Partial-k"
    summary = "the last blocks of the backbone are fine-tuned"
    paper = "Jia et al., Visual Prompt Tuning, ECCV 2022, as a baseline (Partial-1)"
    year = 2022
    group = "partial"
    fidelity = "released-code"
    families = ALL_FAMILIES
    notes = (
        "The released code leaves the final norm of MAE's and MoCo's models frozen, by a test of names that nothing passes; here"
        " it is trained on all backbones.",
    )
    Config = PartialConfig

    @property
    def first_block(self) -> int:
        """The first that is trained."""
        return self.shape.depth - self.config.blocks

    def build(self) -> None:
        """Creates nothing.

        Raises:
            UsageError: when the backbone has fewer blocks.
        """
        if self.config.blocks > self.shape.depth:
            raise UsageError(f"partial.blocks={self.config.blocks}: this backbone has {self.shape.depth} blocks.")

    def attach(self, scope: Scope) -> None:
        """Lets the last blocks and the final norm be trained."""
        for block in range(self.first_block, self.shape.depth):
            scope.train(scope.parameters(block=block))
        scope.train(scope.parameters("norm"))

    def outputs_used(self, block: int) -> frozenset[Part]:
        """None."""
        return NO_PARTS
