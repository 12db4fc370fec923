"""VP: a learned pattern that is added to every image."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from vpbench.core.errors import UsageError
from vpbench.interface import ALL_FAMILIES, NO_PARTS, Context, F, Method, MethodConfig, Part, Preset, Scope, nn, option, torch
from vpbench.methods._added_pixels import take_into_positions

if TYPE_CHECKING:
    from torch import Tensor

CODE = "hjbahng/visual_prompting models/prompters.py"


class VPConfig(MethodConfig):
    """Options of VP."""

    form: Literal["padding", "fixed_patch", "random_patch"] = option(
        "padding", "a border, a patch in the corner, or a patch whose place is drawn for every batch", CODE
    )
    size: int | None = option(
        None,
        "pixels p: width of the border, side of the patch; null: 30 for 224-pixel images, in proportion for others",
        "VP paper, section 4: 30; other image sizes: assumption",
        ge=1,
    )
    init_std: float = option(1.0, "standard deviation of the initial values, for normalised images", f"{CODE}: N(0, 1)", ge=0)


class VP(Method[VPConfig]):
    """The normalised image plus a prompt: a border of p pixels, or a patch of p x p pixels.

    A prompt with a fixed place is a shift of the patch tokens, which the position embeddings take up: conv(x + prompt) =
    conv(x) + (conv(prompt) - conv(0)). So with a trained classifier VP is linear probing behind a shift of all tokens.

    Parameters: 4 C p (S - p) for the border, C p^2 for a patch; 69,840 and 2,700 on 224-pixel images at p = 30.
    """

    title = "VP"
    summary = "a learned border, or patch, on every image"
    paper = "Bahng et al., Exploring Visual Prompts for Adapting Large-Scale Models, 2022"
    year = 2022
    fidelity = "released-code"
    families = ALL_FAMILIES
    notes = (
        "The paper has no classifier: logits are CLIP's text classifier or the first source classes. InsVP and DAM-VP compare VP"
        " with a trained linear head, as here.",
        "The released rate is 40 (SGD, 1,000 epochs), for prompts without a classifier.",
        "form=random_patch: the released code draws a place in evaluation, too; here the patch is in the middle then, so that"
        " predictions repeat (assumption). Its upper limit for a place, S - p - 1, is kept.",
        "Merged where the backbone has absolute position embeddings and a linear patch embedding (ViT, EVA-02); elsewhere, as on"
        " Swin, adding the prompt to the image costs next to nothing.",
    )
    Config = VPConfig
    presets = {
        "fixed-patch": Preset(
            "a patch in the upper left corner",
            {"form": "fixed_patch"},
            (("place", "the image's border", "the upper left p x p pixels"),),
        ),
        "random-patch": Preset(
            "a patch whose place is drawn for every training batch",
            {"form": "random_patch"},
            (("place", "the image's border", "drawn in training, the middle in evaluation"),),
        ),
    }

    def build(self) -> None:
        """Creates ``up`` and ``down`` (1, C, p, S), ``left`` and ``right`` (1, C, S - 2p, p); or ``patch`` (1, C, p, p).

        Raises:
            UsageError: when the image has no room for the prompt.
        """
        self.merged = False
        size, side, channels = self._size, self.shape.image_size, self.shape.channels
        if self.config.form != "padding":
            if size >= side:
                raise UsageError(f"vp.size={size} leaves no place for a patch in an image of {side} pixels.")
            self.own.patch = self._initial(channels, size, size)
            return
        if 2 * size >= side:
            raise UsageError(f"vp.size={size} leaves nothing of an image of {side} pixels; lower it below {side / 2:g}.")
        self.own.up, self.own.down = (self._initial(channels, size, side) for _ in range(2))
        self.own.left, self.own.right = (self._initial(channels, side - 2 * size, size) for _ in range(2))

    @property
    def _size(self) -> int:
        return self.config.size or max(1, round(30 / 224 * self.shape.image_size))

    def _initial(self, channels: int, height: int, width: int) -> nn.Parameter:
        return nn.Parameter(torch.empty(1, channels, height, width).normal_(0, self.config.init_std))

    def pixels(self, images: Tensor, context: Context) -> Tensor:
        """Adds the prompt, unless the position embeddings have it already."""
        return images if self.merged else images + self._prompt(context.training).to(images.dtype)

    def outputs_used(self, block: int) -> frozenset[Part]:
        """None."""
        return NO_PARTS

    def _prompt(self, training: bool) -> Tensor:
        """What is added to the images, (1, C, S, S)."""
        own, size, side = self.own, self._size, self.shape.image_size
        if self.config.form == "padding":
            image = own.left.new_zeros(*own.left.shape[:3], side - 2 * size)
            middle = torch.cat([own.left, image, own.right], dim=3)
            return torch.cat([own.up, middle, own.down], dim=2)
        if self.config.form == "fixed_patch":
            return F.pad(own.patch, (0, side - size, 0, side - size))
        if not training:
            before = (side - size) // 2
            return F.pad(own.patch, (before, side - size - before, before, side - size - before))
        top, left = torch.randint(side - size, (2,)).to(own.patch.device).unbind()
        return self._placed(top, left)

    def _placed(self, top: Tensor, left: Tensor) -> Tensor:
        """The patch at a place that is known on the device alone."""
        size, steps = self._size, torch.arange(self.shape.image_size, device=top.device)
        rows, columns = steps - top, steps - left
        inside = ((rows >= 0) & (rows < size)).unsqueeze(1) & ((columns >= 0) & (columns < size))
        whole = self.own.patch[:, :, rows.clamp(0, size - 1)][..., columns.clamp(0, size - 1)]
        return whole * inside

    def merge(self, scope: Scope) -> None:
        """Takes the prompt into the position embeddings, where there are some behind a linear patch embedding."""
        self.merged = take_into_positions(scope, self._prompt(training=False))
