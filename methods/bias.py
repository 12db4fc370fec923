"""BitFit: all biases of the backbone are trained, and nothing else of it."""

from __future__ import annotations

from vpbench.interface import ALL_FAMILIES, NO_PARTS, Method, MethodConfig, Part, Scope, option


class BiasConfig(MethodConfig):
    """Options of BitFit."""

    relative_positions: bool = option(
        False,
        "train the tables of relative position biases, too (Swin)",
        "KMnP/vpt trains every parameter whose name contains 'bias', and so these tables; assumption: they are no biases",
    )


class Bias(Method[BiasConfig]):
    """Trains the biases of all linear layers, norms and of the patch embedding, and the classifier.

    Parameters: 11 L D + 2 D on a ViT, 102,912 on ViT-B/16. The keys' third of each qkv bias, 9,216 in all, has no gradient but
    rounding: softmax does not change when all logits of a query are shifted alike.
    """

    title = "BitFit"
    summary = "all biases of the backbone are fine-tuned"
    paper = "Ben Zaken et al., BitFit, ACL 2022; baseline 'Bias' of VPT's tables"
    year = 2022
    group = "partial"
    fidelity = "released-code"
    families = ALL_FAMILIES
    Config = BiasConfig

    def attach(self, scope: Scope) -> None:
        """Trains what has 'bias' in its name."""
        tables = () if self.config.relative_positions else ("relative_position_bias_table",)
        scope.train({name: each for name, each in scope.parameters().items() if "bias" in name and not name.endswith(tables)})

    def outputs_used(self, block: int) -> frozenset[Part]:
        """None."""
        return NO_PARTS
