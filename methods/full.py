"""Full fine-tuning: every parameter of the backbone is trained with the classifier."""

from __future__ import annotations

from vpbench.interface import ALL_FAMILIES, NO_PARTS, Method, MethodConfig, Part, Scope


class FullConfig(MethodConfig):
    """Full fine-tuning has no options of its own."""


class Full(Method[FullConfig]):
    """Trains class token, position embeddings, patch embedding, all blocks and norms, and the classifier.

    Parameters: L (12 D^2 + 13 D) in the blocks of a ViT, (3 p^2 + 1) D in its patch embedding, (M + 2) D in position embeddings
    and class token, 2 D in the last norm; 85,798,656 on ViT-B/16. The saved weights are the whole model.
    """

    title = "Full fine-tuning"
    summary = "all parameters of the backbone are fine-tuned"
    paper = "Yosinski et al., How Transferable Are Features in Deep Neural Networks?, NeurIPS 2014; every upper baseline"
    year = 2014
    group = "partial"
    fidelity = "released-code"
    families = ALL_FAMILIES
    notes = (
        "KMnP/vpt's AdamW ignores its weight-decay argument (0.01 for all tensors but biases) and is SGD where weight decay is 0;"
        " here the recipe's optimizer and weight decay are used.",
        "Dropout of the backbone stays off, as in the released code's fine-tuned ViTs; recipe.drop_path adds stochastic depth.",
    )
    Config = FullConfig

    def attach(self, scope: Scope) -> None:
        """Trains everything."""
        scope.train(scope.parameters())

    def outputs_used(self, block: int) -> frozenset[Part]:
        """None."""
        return NO_PARTS
