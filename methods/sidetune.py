"""Side-tuning: a small network beside the frozen backbone, whose features are blended with the backbone's."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vpbench.core.errors import WeightsError
from vpbench.core.tensor_files import UnreadableError, read_tensors, unfit_values
from vpbench.interface import ALL_FAMILIES, NO_PARTS, Context, F, Method, MethodConfig, Part, Preset, Session, nn, option, torch

if TYPE_CHECKING:
    from torch import Tensor

SMALLEST = 63  # pixels; below, nothing is left of an image behind AlexNet's strides
WAY_OUT = "Give a file with --set sidetune.weights=FILE, or ask for --set sidetune.weights=random on purpose."


class SidetuneConfig(MethodConfig):
    """Options of side-tuning."""

    weights: str = option(
        "hub",
        "of the side network: hub (torchvision's AlexNet, ImageNet-1k), a file of the same, or random on purpose",
        "KMnP/vpt src/models/vit_models.py: pretrained AlexNet",
        min_length=1,
    )
    alpha: float = option(0.0, "initial value of the blending weight before the sigmoid", "KMnP/vpt src/models/vit_models.py: 0")
    side_size: int | None = option(
        None,
        "side of the images that the side network gets, pixels; null: as they are, but 64 where they are too small for it",
        "KMnP/vpt: the backbone's 224-pixel images; smaller ones: assumption",
        ge=SMALLEST,
    )


class Sidetune(Method[SidetuneConfig]):
    """Features a f(x) + (1 - a) W g(x), a = sigmoid(alpha): f the frozen backbone, g AlexNet's convolutions, which train.

    g ends in a 6 x 6 average pooling, 256 channels, so W is (D, 9216), without a bias.

    Parameters: 2,469,696 of g, 9,216 D of W and alpha; 9,547,585 on ViT-B/16.
    """

    title = "Sidetune"
    summary = "an AlexNet beside the frozen backbone, features blended"
    paper = "Zhang et al., Side-Tuning: Network Adaptation via Additive Side Networks, ECCV 2020; baseline of VPT's tables"
    year = 2020
    group = "extra"
    fidelity = "released-code"
    families = ALL_FAMILIES
    notes = (
        "Pretrained weights of the side network are loaded before training; counting and planning need none of them.",
        "With weights=random the row cannot be compared with published ones; the preset random marks it by its name.",
        "In KMnP/vpt the self-supervised ViTs test for another name than their builder uses, so that there is no side network"
        " there; here there is one on every backbone.",
        "AlexNet gets the images as the backbone does; it was pretrained with ImageNet's mean and std.",
        "The whole side network is computed in inference beside the backbone: about 0.7 GMAC at 224 pixels.",
    )
    requires = ("second network",)
    Config = SidetuneConfig
    presets = {
        "random": Preset(
            "a side network that starts at random values",
            {"weights": "random"},
            (("side network", "pretrained on ImageNet-1k", "PyTorch's initial values: not comparable with published rows"),),
        ),
    }

    @classmethod
    def needs_classification(cls, config: Mapping[str, Any]) -> str:
        """See :meth:`vpbench.interface.Method.needs_classification`."""
        return "adds the pooled features of a second network"

    def build(self) -> None:
        """Creates ``side`` (AlexNet's convolutions), ``projection`` (D, 9216) and ``alpha``."""
        self.own.side, width = self.side_network()
        features = self.shape.width_of(self.shape.depth - 1)
        self.own.projection = nn.Linear(width, features, bias=False)
        self.own.alpha = nn.Parameter(torch.tensor(self.config.alpha))

    def side_network(self) -> tuple[nn.Module, int]:
        """A network from images (B, C, S, S) to (B, width), and that width.

        AlexNet's layers in torchvision's order, so that its tensors have torchvision's names; torchvision's own class would
        draw 55 million values for a classifier that is thrown away.
        """
        sizes = (
            (self.shape.channels, 64, 11, 4, 2),
            (64, 192, 5, 1, 2),
            (192, 384, 3, 1, 1),
            (384, 256, 3, 1, 1),
            (256, 256, 3, 1, 1),
        )
        layers: list[nn.Module] = []
        for number, size in enumerate(sizes):
            layers += [nn.Conv2d(*size), nn.ReLU()]
            if number in (0, 1, 4):
                layers.append(nn.MaxPool2d(3, 2))
        return nn.Sequential(nn.Sequential(*layers), nn.AdaptiveAvgPool2d(6), nn.Flatten()), 256 * 6 * 6

    def prepare(self, session: Session) -> None:
        """Loads the side network's weights.

        Raises:
            WeightsError: when they cannot be fetched or read, or are not AlexNet's.
        """
        if self.config.weights != "random":
            load_alexnet(self.own.side[0], _state(self.config.weights))

    def readout(self, tokens: Any, features: Tensor, context: Context) -> Tensor:
        """Blends the two networks' features."""
        weight = self.own.alpha.sigmoid()
        side = self.own.projection(self.own.side(self._resized(context.images)))
        return weight * features + (1 - weight) * side

    def _resized(self, images: Tensor) -> Tensor:
        side = self.config.side_size or (images.shape[-1] if images.shape[-1] >= SMALLEST else SMALLEST + 1)
        if images.shape[-1] == side:
            return images
        return F.interpolate(images, size=(side, side), mode="bilinear", align_corners=False, antialias=side < images.shape[-1])

    def outputs_used(self, block: int) -> frozenset[Part]:
        """None."""
        return NO_PARTS


def _state(weights: str) -> dict[str, Tensor]:
    """AlexNet's tensors by torchvision's names.

    Raises:
        WeightsError: when they cannot be fetched or read.
    """
    if weights != "hub":
        try:
            return dict(read_tensors(Path(weights)))
        except UnreadableError as error:
            raise WeightsError(f"{weights} {error}. {WAY_OUT}") from error
    try:
        from torchvision.models import AlexNet_Weights

        state: dict[str, Tensor] = AlexNet_Weights.IMAGENET1K_V1.get_state_dict(progress=False, check_hash=True)
        return state
    except Exception as error:  # of the network and the disk
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise WeightsError(f"torchvision's AlexNet cannot be fetched: {reason}. {WAY_OUT}") from error


def load_alexnet(features: nn.Module, state: dict[str, Tensor]) -> None:
    """Give AlexNet's convolutions the values of a file.

    Args:
        features: torchvision's ``AlexNet.features``.
        state: by torchvision's names; only ``features.*`` is used.

    Raises:
        WeightsError: when a tensor is missing, of another shape, or not of finite floating point numbers.
    """
    found = {name.removeprefix("features."): value for name, value in state.items() if name.startswith("features.")}
    wanted = features.state_dict()
    wrong = [name for name, value in wanted.items() if name not in found or found[name].shape != value.shape]
    if wrong:
        raise WeightsError(f"these are no weights of AlexNet: features.{wrong[0]} is missing or of another shape. {WAY_OUT}")
    if reason := unfit_values({f"features.{name}": found[name] for name in wanted}):
        raise WeightsError(f"these are no weights of AlexNet: {reason}. {WAY_OUT}")
    features.load_state_dict({name: found[name].float() for name in wanted})
