"""LoR-VP: a low-rank pattern that is added to every image."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vpbench.interface import ALL_FAMILIES, NO_PARTS, Context, Method, MethodConfig, Part, Scope, nn, option, torch
from vpbench.methods._added_pixels import take_into_positions

if TYPE_CHECKING:
    from torch import Tensor

_CODE = "jincan333/LoR-VP trainer/visual_prompt.py"


class LoRVPConfig(MethodConfig):
    """Options of LoR-VP."""

    rank: int = option(4, "rank r of the pattern of each input channel", f"LoR-VP paper, section 4; {_CODE}", ge=1)
    init_std: float = option(0.01, "standard deviation of the initial A; B is zero", _CODE, gt=0)


class LoRVP(Method[LoRVPConfig]):
    """The image, with pixels in 0 ... 1, plus B A for each input channel, B (S, r) and A (r, S); a linear classifier.

    B is zero at the start, so that it starts as linear probing, and A has no gradient in the first step. The pattern has a fixed
    place: it is a shift of the patch tokens, which the position embeddings take up exactly for inference. So LoR-VP is linear
    probing behind a shift of all tokens whose rank is limited.

    Parameters: 2 C S r; 5,376 on 224-pixel images at r = 4.
    """

    title = "LoR-VP"
    summary = "a low-rank pattern on every image"
    paper = "Jin et al., LoR-VP: Low-Rank Visual Prompting for Efficient Vision Model Adaptation, ICLR 2025"
    year = 2025
    fidelity = "released-code"
    families = ALL_FAMILIES
    notes = (
        "The released driver never trains the prompt: it compares the option with LoR_VP, and the only legal value is lor_vp, so"
        " that its runs are linear probing. The class itself raises in its constructor, in a line that logs.",
        "Its images are not normalised on models of ImageNet-21k; here the backbone's mean and std count, and the pattern is"
        " divided by the std.",
        "Epochs are judged on the test images there, and the best is kept. One setting is public: ViT-B/16 on Tiny-ImageNet.",
        "The mapping of labels that the paper also has (as ILM-VP) is left out: the classifier is trained.",
        "The paper's 18 times fewer parameters compare with a prompt of 97 k.",
        "Merged where the backbone has absolute position embeddings and a linear patch embedding; elsewhere, as on Swin, adding"
        " the pattern to the image costs next to nothing.",
    )
    Config = LoRVPConfig

    def build(self) -> None:
        """Creates ``left``, B (C, S, r), and ``right``, A (C, r, S)."""
        shape, rank = self.shape, self.config.rank
        self.merged = False
        self.own.left = nn.Parameter(torch.zeros(shape.channels, shape.image_size, rank))
        self.own.right = nn.Parameter(torch.empty(shape.channels, rank, shape.image_size).normal_(0, self.config.init_std))
        self.own.register_buffer("std", torch.tensor(shape.std).reshape(-1, 1, 1), persistent=False)

    def _pattern(self) -> Tensor:
        """What is added to normalised images, (C, S, S)."""
        pattern: Tensor = self.own.left @ self.own.right / self.own.std
        return pattern

    def pixels(self, images: Tensor, context: Context) -> Tensor:
        """Adds the pattern, unless the position embeddings have it already."""
        return images if self.merged else images + self._pattern().to(images.dtype)

    def outputs_used(self, block: int) -> frozenset[Part]:
        """None."""
        return NO_PARTS

    def merge(self, scope: Scope) -> None:
        """Takes the pattern into the position embeddings, where there are some behind a linear patch embedding."""
        self.merged = take_into_positions(scope, self._pattern().unsqueeze(0))
