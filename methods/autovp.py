"""AutoVP: a prompt around an image of learned size, and one of several output mappings."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from vpbench.core.errors import UnsupportedError, UsageError
from vpbench.interface import (
    ALL_FAMILIES,
    NO_PARTS,
    Context,
    F,
    Method,
    MethodConfig,
    Part,
    PinnedFile,
    Preset,
    Session,
    Tokens,
    nn,
    option,
    pinned_tensors,
    torch,
)
from vpbench.methods._canvas import normalised, outside, placed, scaled, to_pixels
from vpbench.methods._label_mapping import MapsLabels

if TYPE_CHECKING:
    from torch import Tensor

REFERENCE_SIZE = 224  # pixels of the input for which image_size is meant
CLIP_SCALE = 100.0  # exp(logit_scale) of OpenAI's CLIP


class AutoVPConfig(MethodConfig):
    """Options of AutoVP."""

    image_size: int = option(128, "side of the image inside an input of 224 pixels, at scale 1", "auto_vp/const.py: 128", ge=1)
    scale_image: bool = option(
        True, "scale that side by the input's size / 224", "assumption: the same share of an input of any size"
    )
    scale: float = option(1.0, "scale of the image, at the start where it is trained", "ray_tune_setting.py: 0.5, 1 or 1.5", gt=0)
    train_scale: bool = option(True, "train the scale, within [0.1, 5]", "ray_tune_setting.py: searched")
    prompt: Literal["sigmoid", "raw"] = option(
        "sigmoid",
        "sigmoid of the prompt as pixels, or the prompt itself added behind the normalisation",
        "auto_vp/programs.py: raw for CLIP, else sigmoid",
    )
    mapping: Literal["full", "frequency", "direct"] = option(
        "full",
        "a linear layer on the source logits, the classes that are predicted most often, or the first logits as they are",
        "paper, section 3; full and frequency are searched",
    )
    labels_per_class: int = option(
        1, "source classes per class, whose logits are averaged (frequency)", "searched: 1, 5, 9 or 10", ge=1
    )
    remap: bool = option(
        True, "count frequencies again after every epoch", "ray_tune_setting.py freqmap_interval: 1 or None, searched"
    )
    class_embeddings: PinnedFile | None = option(
        None,
        "file with the tensor class_embeddings, (classes, E) or (templates, classes, E), of CLIP's texts: the source logits are"
        " their cosine similarities with the image, times logit_scale (a scalar of the file, or 100)",
        "auto_vp/wrapper.py: 81 templates per class",
    )
    clip_gradient: float = option(
        0.0,
        "limit of the gradient's values, of the scale and the linear layer; 0: none",
        "training_process.py: 1e-3 for CLIP",
        ge=0,
    )


class AutoVP(MapsLabels, Method[AutoVPConfig]):
    """x~ = normalise(scale_s(place(x)) + sigmoid(P) * mask(s)), logits = mapping(source logits of x~).

    The mask is 0 on the square that the scaled image covers. Source logits are those of the backbone's own classifier, or
    similarities with the embeddings of texts.

    Parameters: C S^2, 150,528 on 224 pixels; 1 for a trained scale; in the head, with ``full``, (sources + 1) x classes.
    """

    title = "AutoVP"
    summary = "a prompt around an image of learned size, and one of several output mappings"
    paper = "Tsao et al., AutoVP: An Automated Visual Prompting Framework and Benchmark, ICLR 2024"
    year = 2024
    fidelity = "approximate"
    families = ALL_FAMILIES
    requires = ("source classifier", "labelled pass before training (mapping = frequency)", "class embeddings (CLIP)")
    notes = (
        "The search itself is 'vpbench tune --methods autovp --space autovp'; the released one also searches the backbone"
        " (ResNet-18, ig_resnext101_32x8d, Swin-T, CLIP ViT-B/32) with ASHA on 2 to 5 epochs, by training accuracy. What it"
        " chose per data set is not public.",
        "InsVP says CLIP, of a size it does not name.",
        "Semantic mapping, by similarity of class names as texts, needs CLIP's text tower and is not offered.",
        "The scaling follows kornia's scale: bilinear, around the centre, 0 from outside; the clamp to [0.1, 5] acts in the"
        " forward pass instead of on the parameter after a step.",
        "The released validation loader is the test loader; here a search chooses on validation images.",
        "On CLIP's weights the source classifier is the projection to the texts' space; without class_embeddings its outputs"
        " serve as source logits, as the released clip_ViT_B_32 does with 512 of them.",
        "The convergence loss of the released code is off by default there and is not offered.",
    )
    Config = AutoVPConfig
    presets = {
        "frequency": Preset(
            "frequency mapping, counted again after every epoch",
            {"mapping": "frequency"},
            (("mapping", "a linear layer", "the source classes predicted most often, no head"),),
        ),
        "clip": Preset(
            "as released for CLIP: the prompt behind the normalisation, gradients limited; set class_embeddings",
            {"prompt": "raw", "clip_gradient": 1e-3},
            (
                ("prompt", "sigmoid, as pixels", "raw, behind the normalisation"),
                ("gradients of scale and linear layer", "as they are", "limited to 1e-3"),
                ("source logits", "the backbone's classifier", "similarities with texts, of the file class_embeddings"),
                ("optimizer", "Adam 1e-3", "SGD 40, cosine"),
                ("initial linear layer", "PyTorch's", "each class reads its first template, where class_embeddings is set"),
            ),
        ),
    }  # fmt: skip

    def build(self) -> None:
        """Creates ``program`` (C, S, S), zero; ``scale`` (); the buffers ``mapping`` and ``embeddings`` (T x classes, E).

        Raises:
            UsageError: when the file of class embeddings does not fit.
            UnsupportedError: when the backbone has no classifier, or one that is too small.
        """
        config, shape = self.config, self.shape
        self.check_classifier()
        side = config.image_size * (shape.image_size / REFERENCE_SIZE if config.scale_image else 1.0)
        self.side = min(shape.image_size, max(1, round(side if config.train_scale else side * config.scale)))
        self.own.program = nn.Parameter(torch.zeros(shape.channels, shape.image_size, shape.image_size))
        if config.train_scale:
            self.own.scale = nn.Parameter(torch.tensor(config.scale))
            self._limit_gradients(self.own.scale)
        self.sources = (
            shape.source_classes if config.class_embeddings is None else self._build_embeddings(config.class_embeddings)
        )
        if config.mapping != "full":
            self.build_mapping(self.sources, self.classes, config.labels_per_class if config.mapping == "frequency" else 1)

    def _build_embeddings(self, file: str) -> int:
        """Number of texts."""
        tensors = pinned_tensors(file)
        if "class_embeddings" not in tensors:
            raise UsageError(
                f"autovp.class_embeddings: the file has no tensor class_embeddings, only {', '.join(sorted(tensors)[:5])}."
            )
        texts = tensors["class_embeddings"].float()
        texts = texts[None] if texts.ndim == 2 else texts
        if texts.ndim != 3 or texts.shape[1] != self.classes:
            raise UsageError(
                f"autovp.class_embeddings: {tuple(texts.shape)} in the file, and the data needs (templates, {self.classes}, E)."
            )
        if texts.shape[2] != self.shape.source_classes:
            raise UnsupportedError(
                f"class embeddings are {texts.shape[2]} wide, and the backbone's projection gives {self.shape.source_classes}."
            )
        self.own.register_buffer("embeddings", F.normalize(texts.flatten(0, 1), dim=-1))
        self.logit_scale = float(tensors["logit_scale"]) if "logit_scale" in tensors else CLIP_SCALE
        return len(self.own.embeddings)

    def make_head(self, width: int, classes: int) -> nn.Module:
        """A linear layer with ``full``, on similarities with texts one that reads each class's first template; else nothing."""
        if self.config.mapping != "full":
            return nn.Identity()
        head: Any = super().make_head(width, classes)
        if self.config.class_embeddings is not None:
            nn.init.eye_(head.weight)
        self._limit_gradients(*head.parameters())
        return head

    def _limit_gradients(self, *parameters: nn.Parameter) -> None:
        if limit := self.config.clip_gradient:
            for parameter in parameters:
                parameter.register_hook(lambda gradient: gradient.clamp(-limit, limit))

    def readout_width(self, width: int) -> int:
        """Source logits, or those of the task already."""
        return self.sources if self.config.mapping == "full" else self.classes

    def pixels(self, images: Tensor, context: Context) -> Tensor:
        """The scaled image inside of the prompt."""
        is_raw = self.config.prompt == "raw"
        canvas = placed(images if is_raw else to_pixels(images, self.shape), self.side)
        side = torch.tensor(float(self.side), device=images.device)
        if self.config.train_scale:
            scale = self.own.scale.clamp(0.1, 5.0)
            canvas, side = scaled(canvas, scale), torch.floor(self.side * scale.detach()).clamp(max=self.shape.image_size)
        mask = outside(self.shape.image_size, side)
        if is_raw:
            return canvas + self.own.program * mask
        return normalised(canvas + torch.sigmoid(self.own.program) * mask, self.shape)

    def readout(self, tokens: Tokens, features: Tensor, context: Context) -> Tensor:
        """Source logits, through the mapping where it has no parameters."""
        assert context.source_logits is not None
        logits = context.source_logits(features)
        if self.config.class_embeddings is not None:
            logits = self.logit_scale * F.linear(F.normalize(logits, dim=-1), self.own.embeddings)
        return logits if self.config.mapping == "full" else self.mapped(logits)

    def outputs_used(self, block: int) -> frozenset[Part]:
        """None."""
        return NO_PARTS

    def prepare(self, session: Session) -> None:
        """The first mapping."""
        self._session = session
        if self.config.mapping == "frequency":
            self.map_by_frequency(session)

    def epoch_ended(self, epoch: int, epochs: int) -> None:
        """Counts again, for the next epoch."""
        if self.config.mapping == "frequency" and self.config.remap and epoch + 1 < epochs:
            self.map_by_frequency(self._session)
