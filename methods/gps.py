"""GPS: of every neuron, the few weights with the largest gradients are fine-tuned."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from vpbench.core.errors import UsageError
from vpbench.interface import (
    ALL_FAMILIES,
    NO_PARTS,
    Context,
    F,
    Method,
    MethodConfig,
    Part,
    Scope,
    Session,
    Site,
    Tokens,
    nn,
    option,
    torch,
)
from vpbench.methods._linears import LINEARS, check_widths
from vpbench.methods._sparse import SiteGradients, dense, mixed_batches, patches_of, sparse_linear

if TYPE_CHECKING:
    from torch import Tensor

CODE = "FightingFighting/GPS utils/pruning.py, train_gps.py"


class GPSConfig(MethodConfig):
    """Options of GPS."""

    per_neuron: int = option(
        1, "weights k of every output neuron that are trained", f"{CODE}, times_para: 1 on VTAB, up to 20 on FGVC", ge=1
    )
    temperature: float = option(0.07, "of the contrastive loss that gives the gradients", f"{CODE}: SupConLoss's default", gt=0)
    smallest_crop: float = option(
        0.08,
        "least share of an image's area in the crops that are contrasted",
        "FightingFighting/GPS args.py, as timm",
        gt=0,
        le=1,
    )


class GPS(Method[GPSConfig]):
    """Trains, of each row of each weight matrix, the k entries with the largest gradients, and all biases but the norms'.

    The gradients are those of the supervised contrastive loss on the plain model's features, summed over one pass over the
    training images, each in two random crops. What is trained is the change of the chosen entries, ``updates`` (k, out), beside
    their ``columns``: an entry of W follows the same path as under a gradient mask, and the others are bit-identical by
    construction. Merged exactly.

    Parameters: (k + 1) (9 L D + D): k for every output neuron and its bias; 83,712 k + 83,712 on ViT-B/16, 167,424 at k = 1.
    """

    title = "GPS"
    summary = "of every neuron, the weights with the largest gradients"
    paper = "Zhang et al., Gradient-based Parameter Selection for Efficient Fine-Tuning, CVPR 2024"
    year = 2024
    group = "partial"
    fidelity = "released-code"
    families = ALL_FAMILIES
    notes = (
        "The released code masks the gradients of whole matrices; here the changes of the chosen entries are parameters of their"
        " own, so that no gradient of a frozen entry is computed, kept by an optimizer or saved. With weight decay both differ:"
        " it pulls a change to 0, and the released one an entry; the recipe has none.",
        "The released crops also go through ColorJitter(0.4, 0.4, 0.4, 0.1) at p = 0.8 and RandomGrayscale at p = 0.2; here they"
        " are cropped and mirrored only (assumption: images are normalised already).",
        "Norms, position embeddings and the class token stay frozen; so do Swin's patch embedding, whose outputs are normalised,"
        " its merging of patches and its tables of relative positions (assumption: of Swin no release was read).",
        "Released runs keep the best epoch on the test images, and load the AugReg weights.",
        "Batches of the selecting pass are drawn from a pool of 1,024 images, so that they mix classes where data is sorted.",
    )
    requires = ("labelled pass before training",)
    Config = GPSConfig

    @classmethod
    def needs_classification(cls, config: Mapping[str, Any]) -> str:
        """See :meth:`vpbench.interface.Method.needs_classification`."""
        return "selects weights by a contrastive loss between the classes of images"

    def build(self) -> None:
        """Creates ``updates`` (k, out) and ``columns`` (k, out) of every matrix; the first k columns before :meth:`prepare`.

        Raises:
            UsageError: when a row has fewer than k entries.
        """
        entries = self.config.per_neuron
        self.own.updates, self.own.columns = nn.ParameterDict(), nn.Module()
        self._recorded: SiteGradients | None = None
        for key, (width_in, width_out) in self._sizes().items():
            if entries > width_in:
                raise UsageError(f"gps.per_neuron={entries} is more than the {width_in} weights of a neuron of {key}.")
            self.own.updates[key] = nn.Parameter(torch.zeros(entries, width_out))
            first = torch.arange(entries, dtype=torch.int32).unsqueeze(1).expand(-1, width_out).contiguous()
            self.own.columns.register_buffer(key, first)

    def _sizes(self) -> dict[str, tuple[int, int]]:
        """Input and output width of every matrix, by its key."""
        shape = self.shape
        pixels = shape.channels * shape.patch_size**2
        first = {"patch_embed": (pixels, shape.width)} if shape.family == "vit" else {}
        return first | {
            _key(site, block): (times_in * shape.width_of(block), times_out * shape.width_of(block))
            for block in range(shape.depth)
            for site, (times_in, times_out) in LINEARS.items()
        }

    def _places(self) -> Iterator[tuple[str, Site, int | None]]:
        if self.shape.family == "vit":
            yield "patch_embed", "patch_embed", None
        yield from ((_key(site, block), site, block) for block in range(self.shape.depth) for site in LINEARS)

    def attach(self, scope: Scope) -> None:
        """Trains the biases, and adds the updates to what the linear layers give.

        Raises:
            UnsupportedError: when an MLP is not four token widths wide.
        """
        check_widths(scope, self.shape, self.title)
        biases = {
            name: each
            for name, each in scope.parameters().items()
            if "bias" in name and "norm" not in name and not name.endswith("relative_position_bias_table")
        }
        scope.train(biases)
        self._trained = list(biases.values())
        for key, site, block in self._places():
            scope.after(site, partial(self._updated, key), block, tokenwise=True)

    def outputs_used(self, block: int) -> frozenset[Part]:
        """None."""
        return NO_PARTS

    def _updated(self, key: str, x: Tensor, y: Tensor) -> Tensor:
        if key == "patch_embed":
            x = patches_of(x, self.shape.patch_size)
        if self._recorded is not None:
            return self._recorded.watch_linear((key,), x, y)
        columns, values = getattr(self.own.columns, key), self.own.updates[key]
        return y + sparse_linear(x, columns, values, y.shape[-1]).reshape(y.shape).to(y.dtype)

    def readout(self, tokens: Tokens, features: Tensor, context: Context) -> Tensor:
        """The features as they are; the selecting pass takes them from here."""
        if self._recorded is not None:
            self._features = features
        return features

    def prepare(self, session: Session) -> None:
        """Selects the entries that are trained, by one pass over the training images."""
        self._recorded = recorded = SiteGradients()
        for images, labels in mixed_batches(session):
            views = torch.cat([random_crops(images, self.config.smallest_crop) for _ in range(2)])
            session.logits(views)
            contrastive_loss(self._features.float(), labels.repeat(2), self.config.temperature).backward()
            recorded.end_batch()
        self._recorded = None
        del self._features  # and with them the graph of the last pass
        for each in self._trained:
            each.grad = None
        for key in self._sizes():
            largest = recorded.sums[key, "weight"].abs().topk(self.config.per_neuron, dim=1).indices
            getattr(self.own.columns, key).copy_(largest.T)

    def merge(self, scope: Scope) -> None:
        """Adds the updates to the frozen weights."""
        for key, site, block in self._places():
            width_in, width_out = self._sizes()[key]
            columns, values = getattr(self.own.columns, key), self.own.updates[key]
            scope.fold(site, block, weight=dense(columns, values, (width_out, width_in)))


def _key(site: str, block: int) -> str:
    return f"{block}_{site}"


def contrastive_loss(features: Tensor, labels: Tensor, temperature: float) -> Tensor:
    """The supervised contrastive loss (Khosla et al., 2020, equation 2), a mean over all n anchors.

    Args:
        features: (n, D), of any length.
        labels: (n,); each must occur twice or more.
        temperature: of the similarities.
    """
    features = F.normalize(features, dim=1)
    others = ~torch.eye(len(labels), dtype=torch.bool, device=labels.device)
    similarity = (features @ features.T / temperature).masked_fill(~others, -math.inf)
    positive = (labels.unsqueeze(0) == labels.unsqueeze(1)) & others
    log_shares = similarity.log_softmax(dim=1).masked_fill(~positive, 0)
    return -(log_shares.sum(1) / positive.sum(1)).mean()


def random_crops(images: Tensor, smallest: float) -> Tensor:
    """A random crop of each image at the images' own size, every other one mirrored.

    Args:
        images: (B, C, S, S).
        smallest: least share of the area; aspect ratios are 3/4 to 4/3.
    """
    count = len(images)
    area, ratio = torch.empty(count).uniform_(smallest, 1), torch.empty(count).uniform_(math.log(3 / 4), math.log(4 / 3)).exp()
    width, height = ((area * each).sqrt().clamp(max=1) for each in (ratio, 1 / ratio))
    left, top = ((2 * torch.rand(count) - 1) * (1 - side) for side in (width, height))  # the crop's centre, from -1 to 1
    mirrored = torch.where(torch.rand(count) < 0.5, -1.0, 1.0)
    zero: Any = torch.zeros(count)
    rows = [torch.stack([mirrored * width, zero, left], 1), torch.stack([zero, height, top], 1)]
    grid = F.affine_grid(torch.stack(rows, 1).to(images), list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="reflection", align_corners=False)
