"""LN-tuning: all layer norms of the backbone are trained, and nothing else of it."""

from __future__ import annotations

from vpbench.interface import ALL_FAMILIES, NO_PARTS, Method, MethodConfig, Part, Scope, option


class LNTuningConfig(MethodConfig):
    """Options of LN-tuning."""

    final_norm: bool = option(
        True,
        "train the norm behind the last block, too",
        "OSU-MLB/ViT_PEFT_Vision experiment/build_model.py; off: what peft's LNTuningConfig trains",
    )


class LNTuning(Method[LNTuningConfig]):
    """Trains weights and biases of all norms, and the classifier. The trained norms are ordinary weights of the backbone.

    Parameters of ViT-B/16: 25 * 2 D = 38,400; 36,864 without the final norm.
    """

    title = "LN-tuning"
    summary = "all layer norms of the backbone are fine-tuned"
    paper = "Basu et al., Strong Baselines for Parameter-Efficient Few-Shot Fine-Tuning, AAAI 2024 (LN-Tune)"
    year = 2024
    group = "partial"
    fidelity = "released-code"
    families = ALL_FAMILIES
    notes = (
        "Norms are found by 'norm' in their name, as in the released code: on backbones that have them, the norms of queries and"
        " keys, of patches, and between the stages of a Swin belong to it.",
        "The released code keeps the names that it trains in a list of the module, which grows when one process builds several"
        " models; here each model has its own.",
        "Learning rate and weight decay are searched per task there, with weight decay on norms, too.",
    )
    Config = LNTuningConfig

    def attach(self, scope: Scope) -> None:
        """Trains what has 'norm' in its name."""
        left_out = set() if self.config.final_norm else set(scope.parameters("norm"))
        scope.train({name: each for name, each in scope.parameters().items() if "norm" in name and name not in left_out})

    def outputs_used(self, block: int) -> frozenset[Part]:
        """None."""
        return NO_PARTS
