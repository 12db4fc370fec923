"""ILM-VP: a prompt around the image, and the backbone's own classes mapped to those of the task."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from vpbench.core.errors import UsageError
from vpbench.interface import (
    ALL_FAMILIES,
    NO_PARTS,
    Context,
    Method,
    MethodConfig,
    Part,
    Preset,
    Session,
    Tokens,
    nn,
    option,
    torch,
)
from vpbench.methods._canvas import normalised, placed
from vpbench.methods._label_mapping import MapsLabels

if TYPE_CHECKING:
    from torch import Tensor

REFERENCE_SIZE = 224  # pixels of the input for which image_size is meant


class ILMVPConfig(MethodConfig):
    """Options of ILM-VP."""

    image_size: int = option(
        128, "side of the image inside an input of 224 pixels", "released code: 32 for CIFAR, SVHN and GTSRB, else 128", ge=1
    )
    scale_image: bool = option(
        True, "scale that side by the input's size / 224", "assumption: the same share of an input of any size"
    )
    mapping: Literal["iterative", "frequency", "random"] = option(
        "iterative",
        "classes by frequency, counted again after every epoch (ILM) or once (FLM), or random ones (RLM)",
        "paper, section 4; experiments/cnn/ilm_vp.py, flm_vp.py, rlm_vp.py",
    )
    mapping_interval: int = option(1, "epochs between two countings", "released code: mapping-interval 1", ge=1)


class ILMVP(MapsLabels, Method[ILMVPConfig]):
    """x~ = normalise(place(x) + sigmoid(P) * mask), logits_c = source logits of x~ at m(c).

    The mask is 0 where the image is. m is one-to-one: of all pairs (class of the backbone's classifier, class of the task)
    the one that is predicted most often is assigned first. There is no head.

    Parameters: C S^2, 150,528 on 224 pixels; those under the image have no effect, so that 101,376 are active with an image of
    128 pixels and 147,456 with one of 32.
    """

    title = "ILM-VP"
    summary = "a prompt around the image, and the classifier's own classes mapped to the task's"
    paper = "Chen et al., Understanding and Improving Visual Prompting: A Label-Mapping Perspective, CVPR 2023"
    year = 2023
    fidelity = "released-code"
    families = ALL_FAMILIES
    requires = ("source classifier", "labelled pass before training")
    notes = (
        "The released networks are ResNets with ImageNet's 1,000 classes; InsVP names ResNeXt-101-32x8d (WSL). ViT-B/16 of"
        " ImageNet-21k has no such classifier in its first release (its tensors are zero), so that a row needs other weights.",
        "InsVP's CUB 7.7, Birds 11.6 and Dogs 87.6 are its own runs, since the released code has no loader for them; the"
        " 120 breeds of Dogs are classes of ImageNet.",
        "Images are resized to the network's input first and shrunk to their place in it then; the released code resizes once.",
        "The released code tests after every epoch and keeps the best (not offered here); the mapping it tests with is the one"
        " that the epoch began with, and so it is here after the last epoch.",
        "Adam with steps of 0.1 at 50 % and 72 % of the epochs; here AdamW without decay and a cosine (recipe).",
        "On CLIP's weights the classifier is the projection to the texts' space, whose outputs are no classes: the"
        " method's variant for CLIP, with 81 templates per class, is AutoVP's class_embeddings here.",
    )
    Config = ILMVPConfig
    presets = {
        "flm": Preset(
            "frequency mapping, counted once before training",
            {"mapping": "frequency"},
            (("mapping", "counted again after every epoch", "counted once, with an empty prompt"),),
        ),
        "rlm": Preset(
            "random mapping",
            {"mapping": "random"},
            (("mapping", "by frequency", "random classes, one-to-one"),),
        ),
    }

    def build(self) -> None:
        """Creates ``program`` (C, S, S), zero, and the buffer ``mapping`` (classes, 1).

        Raises:
            UsageError: when the image leaves no room for a prompt.
            UnsupportedError: when the backbone has no classifier, or one with fewer classes than the task.
        """
        config, shape = self.config, self.shape
        self.check_classifier()
        side = round(config.image_size * shape.image_size / REFERENCE_SIZE) if config.scale_image else config.image_size
        self.side = max(1, side)
        if self.side >= shape.image_size:
            raise UsageError(
                f"ilm_vp.image_size: {self.side} pixels leave no room in an input of {shape.image_size}; make it smaller."
            )
        self.own.program = nn.Parameter(torch.zeros(shape.channels, shape.image_size, shape.image_size))
        self.build_mapping(shape.source_classes, self.classes, 1)

    def make_head(self, width: int, classes: int) -> nn.Module:
        """None: the readout is the logits."""
        return nn.Identity()

    def readout_width(self, width: int) -> int:
        """The number of classes."""
        return self.classes

    def pixels(self, images: Tensor, context: Context) -> Tensor:
        """The small image inside of the prompt."""
        edge = placed(torch.zeros_like(images[:1, :1]), self.side, value=1.0)
        prompt = normalised(torch.sigmoid(self.own.program), self.shape)
        return placed(images, self.side) + prompt * edge

    def readout(self, tokens: Tokens, features: Tensor, context: Context) -> Tensor:
        """The classifier's logits at the classes that the mapping names."""
        assert context.source_logits is not None
        return self.mapped(context.source_logits(features))

    def outputs_used(self, block: int) -> frozenset[Part]:
        """None."""
        return NO_PARTS

    def prepare(self, session: Session) -> None:
        """The first mapping."""
        self._session = session
        if self.config.mapping == "random":
            self.map_randomly()
        else:
            self.map_by_frequency(session)

    def epoch_ended(self, epoch: int, epochs: int) -> None:
        """Counts again, for the next epoch."""
        if self.config.mapping == "iterative" and (epoch + 1) % self.config.mapping_interval == 0 and epoch + 1 < epochs:
            self.map_by_frequency(self._session)

    def active_parameters(self) -> int:
        """Those around the image."""
        return int(self.shape.channels * (self.shape.image_size**2 - self.side**2))
