"""DAM-VP: a border prompt for every cluster of images, started from a meta prompt."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from vpbench.core.errors import UsageError
from vpbench.interface import (
    ALL_FAMILIES,
    NO_PARTS,
    Context,
    Method,
    MethodConfig,
    OtherData,
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
from vpbench.methods._meta_prompt import MetaTask, Reptile

if TYPE_CHECKING:
    from torch import Tensor

SIDES = ("up", "down", "left", "right")
REFERENCE_SIZE = 224  # pixels for which the border's width is meant


class DAMVPConfig(MethodConfig):
    """Options of DAM-VP."""

    pad: int = option(30, "width of the border at 224 pixels", "shikiw/DAM-VP arguments.py: prompt_size 30", ge=1)
    scale_pad: bool = option(
        True, "scale the border's width by image size / 224", "assumption: the same part of an image of any size"
    )
    distance_threshold: float | None = option(
        None,
        "distance at which the clustering is cut; None: threshold_share times the mean distance of two images",
        "released code: 10 (ViT-B/16, ImageNet-22k, with its representation layer), 31 (ImageNet-1k), 20 (Swin-B), 18 (MoCo v3)",
        gt=0,
    )
    threshold_share: float = option(
        0.9, "the threshold as a share of the mean distance of two images", "assumption: thresholds do not carry over", gt=0
    )
    cluster_images: int = option(1000, "images that are clustered, drawn at random", "released code: 1,000", ge=2, le=10**9)
    max_clusters: int = option(
        64, "clusters at most; where the threshold gives more, the clustering is cut at this number", "assumption: no limit", ge=1
    )
    init: Literal["zeros", "normal"] = option(
        "zeros",
        "prompts without a meta prompt: 0, so that training starts from linear probing, or N(0, 1)",
        "zeros: assumption; normal: models/prompters.py",
    )
    meta_prompt: PinnedFile | None = option(
        None,
        "file with the prompt that all clusters start from: up, down, left, right, or the released code's pad_*, or the weights"
        " of a run that made one",
        "paper, section 3.3; the authors' file is not public",
    )
    meta_datasets: tuple[str, ...] = option(
        (),
        "data sets on which a meta prompt is trained before the run: names of cards (below VPBENCH_DATA), or paths",
        "released code: SUN397, STL-10, Fru92, Veg200, Oxford-IIIT Pets, EuroSAT",
    )
    meta_epochs: int = option(200, "epochs of meta-training, of the smallest data set", "released code: 200", ge=1)
    meta_inner_steps: int = option(
        4, "steps of SGD per data set and batch", "released scripts: 4; the argument's default: 8", ge=1
    )
    meta_step_size: float = option(
        0.5, "step towards the clusters' prompts", "released scripts: 0.5; the argument's default: 1", gt=0
    )
    meta_lr: float = option(
        1.0, "learning rate of the inner steps, cosine", "released code: 1.0 (ViT-B/16, ImageNet-22k), or 0.5", gt=0
    )
    meta_head_lr: float = option(0.1, "learning rate of each data set's head, constant", "meta_ht.py: 0.1", gt=0)
    meta_batch_size: int = option(128, "images per data set and step", "released code: 128", ge=1)
    meta_weight_decay: float = option(1e-4, "of the prompts in the inner steps", "released code: 1e-4", ge=0)


class DAMVP(Method[DAMVPConfig]):
    """x~ = x + border(c(x)), c(x) = argmin_k || f(x) - prototype_k ||, f the plain model's feature of the image.

    Before training, features of up to 1,000 training images are clustered (agglomerative, average linkage, Euclidean
    distance); a prototype is the mean of a cluster. All clusters share one head.

    Parameters per cluster at border width p, S pixels and C channels: 4 C p (S - p), 69,840 on 224 pixels with p = 30. The number
    of clusters depends on the data: ``max_clusters`` prompts are created, and ``params_active`` counts those of real clusters.
    """

    title = "DAM-VP"
    summary = "a border prompt for every cluster of images"
    paper = "Huang et al., Diversity-Aware Meta Visual Prompting, CVPR 2023"
    year = 2023
    fidelity = "approximate"
    families = ALL_FAMILIES
    uses_plain_features = True
    requires = ("pass over training images before training", "second forward pass")
    notes = (
        "The authors' meta prompts are on a private drive: without meta_prompt or meta_datasets, a row is DAM-VP without meta"
        " prompt.",
        "The released ViT-B/16 of ImageNet-22k keeps its representation layer: features for clustering, routing and head are"
        " tanh(W f + b), and the threshold 10 belongs to them. On a backbone without that layer it does not carry over.",
        "iVPT's Table 1 prints 2.52 M with the mean VTAB-1k head: 35.5 clusters of 69,840 values. The prompts of clusters that"
        " the data does not have get no gradient; params_trainable counts them, params_active does not.",
        "Every image takes two forward passes; the first is cached where preprocessing is deterministic, and counted in"
        " flops_forward.",
        "The released head-tuning code misspells momentum in its parameter groups, so that SGD has none, and its scheduler gives"
        " the head the prompts' learning rate instead of 0.1 (task_adapting/adapter.py). The recipe of released has both.",
        "Its head-free mode, whose logits are the most active feature units, is not offered.",
        "Meta-training keeps the prompt of the lowest training loss in the released code, and chooses by accuracy on the test"
        " data of a downstream set; here the last one is kept.",
        "It draws 1,000 images as the first batches of a shuffled loader with random crops; here without augmentation.",
    )
    Config = DAMVPConfig
    presets = {
        "released": Preset(
            "the released code: threshold 10, prompts from N(0, 1) unless a meta prompt is given",
            {"distance_threshold": 10.0, "max_clusters": 256, "init": "normal"},
            (
                ("threshold", "0.9 of the mean distance of two images", "10, for features behind a representation layer"),
                ("clusters at most", "64", "no limit; here 256"),
                ("prompts without meta prompt", "0", "N(0, 1)"),
                ("border", "30 pixels at 224, scaled with the image", "30 pixels; the same at 224"),
                ("momentum", "as the recipe says", "none: the word is misspelled in the code"),
                ("learning rate of the head", "that of the prompts", "the same: the scheduler overwrites the 0.1 that is set"),
                ("epochs", "the suite's; InsVP trains 100", "50"),
            ),
        ),
        "nometa": Preset(
            "without a meta prompt: N(0, 1) in every cluster",
            {"init": "normal"},
            (("prompts without meta prompt", "0", "N(0, 1), as a fresh prompter of models/prompters.py"),),
        ),
    }  # fmt: skip

    @classmethod
    def needs_classification(cls, config: Mapping[str, Any]) -> str:
        """See :meth:`vpbench.interface.Method.needs_classification`."""
        return "chooses a prompt by clusters of whole images, from their pooled features"

    def build(self) -> None:
        """Creates ``up``, ``down`` (K, C, p, S), ``left``, ``right`` (K, C, S - 2 p, p), and the buffer ``prototypes`` (K, D), K
        the largest number of clusters; what is no cluster has a prototype at infinity.

        Raises:
            UsageError: when the border leaves nothing of the image, or the meta prompt has other sizes.
        """
        config, shape = self.config, self.shape
        self.pad = max(1, round(config.pad * shape.image_size / REFERENCE_SIZE)) if config.scale_pad else config.pad
        if 2 * self.pad >= shape.image_size:
            raise UsageError(
                f"dam_vp.pad: a border of {self.pad} pixels leaves nothing of {shape.image_size} pixels; make it smaller."
            )
        for name, values in self._initial().items():
            self.own.register_parameter(name, nn.Parameter(values.expand(config.max_clusters, *values.shape).clone()))
        prototypes = torch.full((config.max_clusters, shape.stages[-1].width), torch.inf)
        prototypes[0] = 0
        self.own.register_buffer("prototypes", prototypes)
        if config.meta_datasets:  # so that a run's weights hold it
            for name in SIDES:
                self.own.register_buffer(f"meta_{name}", getattr(self.own, name)[0].detach().clone())
        self._seen: dict[str, Tensor] | None = None  # features of a forward pass that meta-training asks for
        self._other: dict[str, Tensor] | None = None  # prompts and prototypes in place of the method's own, for that pass

    def _sizes(self) -> dict[str, tuple[int, ...]]:
        channels, size = self.shape.channels, self.shape.image_size
        across, down = (channels, self.pad, size), (channels, size - 2 * self.pad, self.pad)
        return {"up": across, "down": across, "left": down, "right": down}

    def _initial(self) -> dict[str, Tensor]:
        """One prompt, which all clusters start from."""
        if self.config.meta_prompt is not None:
            return _read_prompt(self.config.meta_prompt, self._sizes())
        make = torch.zeros if self.config.init == "zeros" else torch.randn
        return {name: make(size) for name, size in self._sizes().items()}

    def pixels(self, images: Tensor, context: Context) -> Tensor:
        """Adds the border of the image's cluster."""
        features = context.plain_features(context.images)
        cluster = self.clusters_of(features)
        up, down, left, right = (self._in_use(name)[cluster] for name in SIDES)
        inside = images.new_zeros(*images.shape[:2], *(side - 2 * self.pad for side in images.shape[2:]))
        if self._seen is not None:
            self._seen["plain"] = features
        return images + torch.cat([up, torch.cat([left, inside, right], dim=3), down], dim=2)

    def _in_use(self, name: str) -> Tensor:
        """A side's prompts (K, ...), or the prototypes."""
        value: Tensor = getattr(self.own, name) if self._other is None else self._other[name]
        return value

    def clusters_of(self, features: Tensor) -> Tensor:
        """The nearest prototype of features (B, D), (B,)."""
        with torch.no_grad():
            prototypes = self._in_use("prototypes")
            return torch.cdist(features.float(), prototypes, compute_mode="donot_use_mm_for_euclid_dist").argmin(-1)

    def outputs_used(self, block: int) -> frozenset[Part]:
        """None."""
        return NO_PARTS

    def readout(self, tokens: Tokens, features: Tensor, context: Context) -> Tensor:
        """The features as they are."""
        if self._seen is not None:
            self._seen["prompted"] = features
        return features

    def active_parameters(self) -> int:
        """Those of real clusters; of one before there are any."""
        prototypes: Tensor = self.own.prototypes
        count = 1 if prototypes.is_meta else int(prototypes[:, 0].isfinite().sum())
        return count * sum(getattr(self.own, name)[0].numel() for name in SIDES)

    def prepare(self, session: Session) -> None:
        """Meta-training where data sets are named for it; then the clusters of the training images."""
        if self.config.meta_datasets:
            self._start_from(self._meta_trained(session))
        features, _ = session.features("train")
        self._use(self.prototypes_of(features))

    def prototypes_of(self, features: Tensor) -> Tensor:
        """Means of the clusters of features (n, D), (M, D) in the order of scikit-learn's labels."""
        pooled = features[torch.randperm(len(features))[: self.config.cluster_images]].float().cpu().numpy()
        labels = self._clustered(pooled)
        return torch.from_numpy(np.stack([pooled[labels == label].mean(0) for label in range(labels.max() + 1)]))

    def _clustered(self, features: Any) -> Any:
        """Labels (n,) of rows (n, D)."""
        from scipy.spatial.distance import pdist
        from sklearn.cluster import AgglomerativeClustering

        def fitted(**stop: Any) -> Any:
            return AgglomerativeClustering(metric="euclidean", linkage="average", **stop).fit(features)

        if len(features) < 2:
            return np.zeros(len(features), int)
        threshold = self.config.distance_threshold or self.config.threshold_share * float(pdist(features).mean()) or 1.0
        found = fitted(n_clusters=None, distance_threshold=threshold)
        return (found if found.n_clusters_ <= self.config.max_clusters else fitted(n_clusters=self.config.max_clusters)).labels_

    def _use(self, prototypes: Tensor) -> None:
        with torch.no_grad():
            self.own.prototypes.fill_(torch.inf)
            self.own.prototypes[: len(prototypes)] = prototypes.to(self.own.prototypes.device)

    def _start_from(self, prompt: dict[str, Tensor]) -> None:
        with torch.no_grad():
            for name, values in prompt.items():
                getattr(self.own, name).copy_(values)
                getattr(self.own, f"meta_{name}").copy_(values)

    # Meta-training

    def _meta_trained(self, session: Session) -> dict[str, Tensor]:
        """The meta prompt from the data sets that the options name."""
        config = self.config
        reptile = Reptile(
            config.meta_epochs, config.meta_inner_steps, config.meta_step_size, config.meta_lr, config.meta_head_lr,
            config.meta_batch_size, config.meta_weight_decay,
        )  # fmt: skip
        start = {name: getattr(self.own, name)[0].detach().clone() for name in SIDES}
        tasks = [self._meta_task(session, session.other_data(name)) for name in config.meta_datasets]

        def features(prompts: dict[str, Tensor], prototypes: Tensor, images: Tensor) -> Tensor:
            self._other = {**prompts, "prototypes": prototypes}
            try:
                return self._seen_in(session, images)["prompted"].float()
            finally:
                self._other = None

        return reptile.fit(start, tasks, features)

    def _meta_task(self, session: Session, data: OtherData) -> MetaTask:
        pooled: list[Tensor] = []
        with torch.no_grad():
            for images, _ in data.batches(self.config.meta_batch_size):
                pooled.append(self._seen_in(session, images)["plain"].float().cpu())
                if sum(map(len, pooled)) >= self.config.cluster_images:
                    break
        device = self.own.prototypes.device
        head = nn.Linear(self.own.prototypes.shape[1], data.classes).to(device)
        return MetaTask(data, self.prototypes_of(torch.cat(pooled)).to(device), head)

    def _seen_in(self, session: Session, images: Tensor) -> dict[str, Tensor]:
        """Features of a forward pass: ``plain`` without and ``prompted`` with prompts."""
        seen: dict[str, Tensor] = {}
        self._seen = seen
        try:
            session.logits(images)
        finally:
            self._seen = None
        return seen


def _read_prompt(file: str, sizes: dict[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """A prompt by its sides, from a file of prompts (``up``, ...), of the released code (``pad_up``, ...) or of a run that made
    one (``own.meta_up``, ...).

    Raises:
        UsageError: when a side is missing or has another size.
    """
    known = {name.rpartition(".")[2]: tensor.float() for name, tensor in pinned_tensors(file).items()}
    prompt = {}
    for side, size in sizes.items():
        found = next((known[name] for name in (f"meta_{side}", f"pad_{side}", side) if name in known), None)
        found = found[0] if found is not None and found.ndim == len(size) + 1 else found
        if found is None or tuple(found.shape) != size:
            has = "is missing in the file" if found is None else f"is {tuple(found.shape)} in the file"
            raise UsageError(f"dam_vp.meta_prompt: {side} {has}, and this backbone needs {size}.")
        prompt[side] = found
    return prompt
