"""InsVP: prompts for the image and for every block, generated from the image itself."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, Literal, NamedTuple

from pydantic import AfterValidator, Field

from vpbench.core.errors import UsageError
from vpbench.interface import (
    ALL_FAMILIES,
    NO_PARTS,
    Context,
    F,
    Method,
    MethodConfig,
    Part,
    Preset,
    Stage,
    Tokens,
    full_precision,
    nn,
    of_block,
    option,
    per_block,
    torch,
)

if TYPE_CHECKING:
    from torch import Tensor


def _odd(kernel: int) -> int:
    if kernel % 2 == 0:
        raise ValueError(f"a kernel of {kernel} pixels has no centre: take an odd one")
    return kernel


Kernel = Annotated[int, Field(ge=1, le=255), AfterValidator(_odd)]


class InsVPConfig(MethodConfig):
    """Options of InsVP."""

    prompt_length: int = option(
        9, "prompts L_p per block", "InsVP paper, section 4.1: 9; released scripts: 9, 16 or 20 by data set", ge=1
    )
    patch_hidden: int = option(16, "hidden width of the patch prompter", "released scripts: hid_dim 16", ge=1)
    global_hidden: int = option(6, "channels between the global prompter's convolutions", "released code's default", ge=1)
    global_kernels: tuple[Kernel, Kernel] = option(
        (11, 25), "kernel sizes of the global prompter at 224 pixels, odd", "released scripts; the paper names none"
    )
    dilation: int = option(
        1,
        "dilation of the global prompter's convolutions",
        "assumption: the paper dilates by an amount it does not name, its code not",
        ge=1,
    )
    specific_kernels: tuple[Kernel, Kernel, Kernel] = option(
        (9, 5, 3),
        "kernel sizes of the specific prompter at 224 pixels, odd",
        "released scripts: 9 5 3 (CUB) or 7 9 3; the paper names none",
    )
    scale_kernels: bool = option(
        True,
        "scale all kernels by image size / 224, to an odd size of at least 3",
        "assumption: prompters see the same part of an image of any size",
    )
    local_weight: float = option(0.3, "weight of the patch prompt", "InsVP paper, equation 6: 1 - beta_I, beta_I = 0.7")
    global_weight: float = option(0.7, "weight of the global prompt", "InsVP paper, equation 6: beta_I = 0.7")
    common_weight: float = option(0.5, "weight of the learned prompts", "InsVP paper, equation 10: beta_F = 0.5")
    specific_weight: float = option(0.5, "weight of the generated prompts", "InsVP paper, equation 10: 1 - beta_F")
    specific_input: Literal["image", "prompted"] = option(
        "image",
        "what the specific prompter sees: the image, or the image with its prompt",
        "InsVP paper, equation 9; released code: prompted",
    )
    train_specific: bool = option(
        True, "train the specific prompter, or leave it at its random start", "InsVP paper; the released optimizer never gets it"
    )
    per_layer_specific: bool = option(
        False,
        "generate the specific prompts again for every block; in training their dropout then differs",
        "released code: again; the paper: once",
    )
    simam: bool = option(
        False, "weight the pixels by SimAM's attention first", "released code, on for CUB, Dogs and SVHN; not in the paper"
    )
    dropout: float = option(
        0.1, "on image prompts, common prompts and inside the specific prompter", "released code: 0.1 at every place", ge=0, lt=1
    )
    prompt_range: float = option(
        1.0, "common prompts start from U(-range, range)", "released code: 1.0; the paper does not say", ge=0
    )


class InsVP(Method[InsVPConfig]):
    """Image prompts from a patch and a global prompter, feature prompts from learned tokens and a specific prompter.

    With patch prompter G_l, global prompter G_g, specific prompter G_s and common prompts P_j (equations 5 to 10):

        x~  = x + local_weight G_l(x) + global_weight G_g(x)
        p_j = common_weight P_j + specific_weight G_s(x)          replaces the prompts of block j

    Parameters at patch size p, width D, L blocks, three image channels, hidden h, kernels k, c channels per token:
    6 p^2 h + h + 3 p^2 (patch), 3 g k1^2 + g + 3 g k2^2 + 3 (global, g hidden channels), L L_p D (common), and for
    n = L_p, 3 n k1^2 + n + c n^2 k2^2 + c n + c^2 n^2 k3^2 + c n (specific). Where the token width changes on the way, the
    common prompts of a block have its width, and every stage has a specific prompter of its own.
    """

    title = "InsVP"
    summary = "prompts on the image and before every block, generated from the image itself"
    paper = "InsVP: Efficient Instance Visual Prompting from Image Itself, ACM MM 2024"
    year = 2024
    fidelity = "both-differ"
    families = ALL_FAMILIES
    notes = (
        "The released code works on ViT-B/16 at 224 pixels only; other sizes follow the rule of specific_sizes.",
        "The paper's convolutions are dilated, by an amount it does not name; the option dilation sets it.",
        "Where the token width changes, every stage has a specific prompter of its own, since one gives tokens of one width; all"
        " see the same image (assumption: the paper's Swin is not in its code).",
        "Common prompts start from U(-1, 1), sixteen times the range that VPT uses on ViT-B/16.",
        "In evaluation all blocks share one specific prompt; it is computed once even with per_layer_specific.",
    )
    Config = InsVPConfig
    presets = {
        "released": Preset(
            "the released code's computation, including a specific prompter that its optimizer never gets",
            {
                "local_weight": 1.0, "global_weight": 2.0, "common_weight": 1.0, "specific_weight": 1.0,
                "specific_input": "prompted", "train_specific": False, "per_layer_specific": True,
            },
            (
                ("training of the specific prompter", "trained", "never updated: the optimizer does not get it"),
                ("input of the specific prompter", "the image x", "the prompted image"),
                ("calls of the specific prompter", "once per image", "once per block; only the dropout differs"),
                ("global prompter", "dilated in the paper, by an unnamed amount; here dilation=1", "plain, 11 and 25 pixels"),
                ("fusion of pixels", "convex: 0.3 patch + 0.7 global", "1 patch + 2 global"),
                ("fusion of prompts", "convex: 0.5 common + 0.5 specific", "1 common + 1 specific"),
                ("prompt length", "9", "9, 16 or 20 by data set (set prompt_length)"),
                ("data", "90/10 split for tuning", "CIFAR, SVHN, GTSRB and Food train on 80 % (not reproduced)"),
                ("choice of the epoch", "not stated; here the last, or by validation", "best test epoch (not offered here)"),
                ("initial common prompts", "not stated; U(-1, 1)", "U(-1, 1)"),
                ("regularisers", "dropout", "also Mixup, CutMix, label smoothing; SimAM on 3 data sets (simam)"),
                ("gradient of the backbone", "frozen", "computed and unused (here frozen: the same result in less memory)"),
                ("normalisation", "the backbone's own", "ImageNet mean and deviation, on weights made for 0.5"),
                ("input size and width", "from the backbone", "224 pixels and 768 channels, as literals"),
            ),
        ),
    }  # fmt: skip

    def build(self) -> None:
        """Creates ``patch``, ``global_``, ``specific`` (one per stage where there are several), ``common`` (L, L_p, D).

        Raises:
            UsageError: when a width of the backbone and its image size allow no specific prompter.
        """
        config, shape, own = self.config, self.shape, self.own
        in_channels, values = shape.channels, shape.channels * shape.patch_size**2
        self.stage_sizes = [specific_sizes(shape.image_size, stage.width, in_channels) for stage in shape.stages]
        # Linear layers over the patches of a grid, written as convolutions: the same sums, the same initial values.
        own.patch = nn.Sequential(
            nn.Conv2d(in_channels, config.patch_hidden, shape.patch_size, stride=shape.patch_size),
            nn.ReLU(),
            nn.Conv2d(config.patch_hidden, values, 1),
            nn.PixelShuffle(shape.patch_size),
        )
        first, second = (self._kernel(size) for size in config.global_kernels)
        own.global_ = nn.ModuleList(
            _same_size(*sizes, config.dilation)
            for sizes in ((in_channels, config.global_hidden, first), (config.global_hidden, in_channels, second))
        )
        prompters = [self._specific_prompter(sizes) for sizes in self.stage_sizes]
        own.specific = prompters[0] if len(prompters) == 1 else nn.ModuleList(prompters)
        own.specific.requires_grad_(config.train_specific)
        own.common = per_block(shape, self._initial_common)

    def _specific_prompter(self, sizes: SpecificSizes) -> nn.ModuleList:
        in_channels, length = self.shape.channels, self.config.prompt_length
        wide = sizes.channels * length
        first, second, third = (self._kernel(size) for size in self.config.specific_kernels)
        return nn.ModuleList(
            _same_size(*each) for each in ((in_channels, length, first), (length, wide, second), (wide, wide, third))
        )

    def _initial_common(self, stage: Stage, blocks: int) -> nn.Parameter:
        values = torch.empty(blocks, self.config.prompt_length, stage.width)
        return nn.Parameter(values.uniform_(-self.config.prompt_range, self.config.prompt_range))

    def _kernel(self, at_224: int) -> int:
        """The odd kernel size nearest to the same share of the image as ``at_224`` of 224 pixels."""
        if not self.config.scale_kernels:
            return at_224
        return max(2 * round((at_224 * self.shape.image_size / 224 - 1) / 2) + 1, min(3, at_224))

    def pixels(self, images: Tensor, context: Context) -> Tensor:
        """Overlays the image prompt; keeps what the specific prompter needs, or its prompts, for the blocks."""
        config = self.config
        if config.simam:
            images = weighted_by_simam(images)
        prompted = images + self.image_prompt(images, context.training)
        source = prompted if config.specific_input == "prompted" else images
        context.stash["specific_input"] = source
        if not (config.per_layer_specific and context.training):
            context.stash["specific_prompts"] = self.specific_prompts(source, context.training)
        return prompted

    def before_block(self, block: int, tokens: Tokens, context: Context) -> Tokens:
        """Puts the block's prompts, common and specific, in place of what the last block made of its own."""
        common = self._dropped(of_block(self.own.common, block).expand(tokens.batch_size, -1, -1), context.training)
        specific = context.stash.get("specific_prompts")
        if specific is None or self.shape.starts_stage(block):
            stage = self.shape.stages.index(self.shape.stage_of(block))
            specific = self.specific_prompts(context.stash["specific_input"], context.training, stage)
            if "specific_prompts" in context.stash:  # made once per stage, not for every block
                context.stash["specific_prompts"] = specific
        return tokens.with_prompts(self.config.common_weight * common + self.config.specific_weight * specific)

    def outputs_used(self, block: int) -> frozenset[Part]:
        """None: prompts are replaced before every block."""
        return NO_PARTS

    def image_prompt(self, images: Tensor, training: bool) -> Tensor:
        """The prompt that is added to the pixels (equation 6), (B, C, S, S)."""
        local = self.patch_prompt(images)
        # Large kernels on few channels: in half precision their backward pass is far slower than in float32.
        with full_precision(images):
            overall = self.global_prompt(images.to(self.own.global_[0].weight.dtype))
        return self.config.local_weight * self._dropped(local, training) + self.config.global_weight * self._dropped(
            overall, training
        )

    def patch_prompt(self, images: Tensor) -> Tensor:
        """G_l, (B, C, S, S): every patch by itself; 0 on pixels beyond the last whole patch."""
        prompt: Tensor = self.own.patch(images)
        margin = images.shape[-1] - prompt.shape[-1]
        return F.pad(prompt, (0, margin, 0, margin))

    def global_prompt(self, images: Tensor) -> Tensor:
        """G_g, (B, C, S, S): two convolutions over the whole image."""
        first, second = self.own.global_
        return convolve(F.relu(convolve(images, first)), second)

    def specific_prompts(self, images: Tensor, training: bool, stage: int = 0) -> Tensor:
        """G_s, (B, L_p, D), D the width of a stage: token t consists of channels c t to c t + c - 1 of the last map, channel
        by channel."""
        sizes, several = self.stage_sizes[stage], len(self.stage_sizes) > 1
        first, second, third = self.own.specific[stage] if several else self.own.specific
        x = _cropped(F.leaky_relu(first(images), 0.01), sizes.first_side)
        x = self._dropped(F.max_pool2d(x, sizes.first_pool), training)
        x = _cropped(F.leaky_relu(second(x), 0.01), sizes.second_side)
        x = self._dropped(F.max_pool2d(x, sizes.second_pool), training)
        tokens: Tensor = third(x).reshape(images.shape[0], self.config.prompt_length, self.shape.stages[stage].width)
        return tokens

    def _dropped(self, x: Tensor, training: bool) -> Tensor:
        return F.dropout(x, self.config.dropout) if training and self.config.dropout else x


class SpecificSizes(NamedTuple):
    """Inner sizes of the specific prompter, in pixels; each pooling comes after cropping to the side given."""

    first_side: int
    first_pool: int
    second_side: int
    second_pool: int
    grid: int
    channels: int


def specific_sizes(image_size: int, width: int, image_channels: int) -> SpecificSizes:
    """Sizes with which a token of ``width`` becomes ``channels`` maps of ``grid`` x ``grid``.

    The grid is the largest that divides the width with at least as many channels as the image has (with fewer, where there is no
    such grid). The two pooling factors are whole and as equal as they can be, the first the larger; of the pixels that
    they leave over, half is cropped before the first pooling and the rest before the second. At 224 pixels and width
    768 this gives the released code's literals: 224, cropped to 208, pooled by 4 to 52, cropped to 48, pooled by 3 to 16.

    Raises:
        UsageError: when no grid fits, naming width and image size.
    """
    grids = [grid for grid in range(2, image_size + 1) if width % grid**2 == 0]
    if not grids:
        raise UsageError(
            f"insvp needs a token width of the form channels x grid x grid with 2 <= grid <= image size; width {width} with"
            f" images of {image_size} pixels is none. Choose another backbone, e.g. one of width 192, 384 or 768."
        )
    grid = max([side for side in grids if width // side**2 >= image_channels] or grids)
    ratio = image_size // grid
    second_pool = math.isqrt(ratio)
    first_pool = ratio // second_pool
    spare = image_size - first_pool * second_pool * grid
    first_side = (image_size - spare // 2) // first_pool * first_pool
    return SpecificSizes(first_side, first_pool, second_pool * grid, second_pool, grid, width // grid**2)


def weighted_by_simam(images: Tensor) -> Tensor:
    """Images (B, C, H, W) times SimAM's attention: a pixel counts the more, the farther it is from its channel's mean."""
    squares = (images - images.mean((2, 3), keepdim=True)).square()
    variance = squares.sum((2, 3), keepdim=True) / (images.shape[2] * images.shape[3] - 1)
    return images * torch.sigmoid(squares / (4 * (variance + 1e-3)) + 0.5)


def convolve(images: Tensor, convolution: nn.Conv2d) -> Tensor:
    """``convolution(images)``, on a CPU by Fourier transforms where the kernel is large.

    With few channels and a kernel of 25 pixels they are more than ten times as fast as the direct form, forward and backward;
    up to about 11 pixels the direct form wins.
    """
    kernel, dilation = convolution.kernel_size[0], convolution.dilation[0]
    # fvcore and torch.export trace, and know convolutions.
    tracing = torch.jit.is_tracing() or torch.compiler.is_compiling()  # type: ignore[attr-defined]
    if images.device.type != "cpu" or kernel < 15 or tracing:
        direct: Tensor = convolution(images)
        return direct
    side, reach = images.shape[-1], dilation * (kernel // 2)
    from scipy.fft import next_fast_len  # imported here, because only this path needs it

    # A product of 2, 3 and 5; what wraps around falls on the border that is cut off.
    size = next_fast_len(side + reach, real=True)
    weight = convolution.weight.flip(-2, -1)
    if dilation > 1:
        spread = weight.new_zeros(*weight.shape[:2], 2 * reach + 1, 2 * reach + 1)
        spread[..., ::dilation, ::dilation] = weight
        weight = spread
    # In double precision: a Fourier transform spreads the rounding error of the largest values over all of them.
    spectra = [torch.fft.rfft2(part.double(), s=(size, size)) for part in (images, weight)]
    maps = torch.fft.irfft2(torch.einsum("bihw,oihw->bohw", *spectra), s=(size, size)).to(images.dtype)
    maps = maps[..., reach : reach + side, reach : reach + side]
    return maps if convolution.bias is None else maps + convolution.bias.view(-1, 1, 1)


def _same_size(inputs: int, outputs: int, kernel: int, dilation: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, padding=dilation * (kernel // 2), dilation=dilation)


def _cropped(maps: Tensor, side: int) -> Tensor:
    """The central ``side`` x ``side`` pixels of maps (B, C, H, H)."""
    start = (maps.shape[-1] - side) // 2
    return maps[..., start : start + side, start : start + side]
