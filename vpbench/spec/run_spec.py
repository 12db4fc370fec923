"""The complete description of one run. Everything that can change its result is in it, and nothing else."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, JsonValue

from vpbench.core.frozen_model import FrozenModel
from vpbench.core.hashing import digest
from vpbench.core.names import counted
from vpbench.spec.decoding_rule import Background, Orientation
from vpbench.spec.recipe import LATER, Recipe, hashed_fields


class MethodSpec(FrozenModel):
    """A method with every option resolved."""

    name: str
    preset: str | None = None
    version: int = 1
    config: dict[str, JsonValue]
    hashed_names: dict[str, str] = Field(
        default_factory=dict, repr=False, description="renamed options, and the former name under which each is hashed"
    )

    @property
    def label(self) -> str:
        """``name`` or ``name:preset``."""
        return f"{self.name}:{self.preset}" if self.preset else self.name


PosResample = Literal["bilinear", "bicubic"]
"""How position embeddings of another grid are resampled: bilinear without smoothing, as mmsegmentation and SETR have it, or
bicubic with smoothing, timm's default. Google's .npz files timm always resamples bilinearly."""


class BackboneSpec(FrozenModel):
    """A backbone, the identity of its weights, and how its input is normalised.

    ``weights`` is ``"random"``, ``"embedded"``, ``"file"`` or ``"hub:<repository>"``; ``path`` says where the file lies
    on this machine and is no part of a run's identity.
    """

    name: str
    weights: str
    sha256: str | None = None
    image_size: int = Field(ge=1)
    patch_size: int = Field(ge=1)
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    pos_resample: PosResample = "bicubic"
    path: str | None = Field(None, repr=False)


class Preprocess(FrozenModel):
    """How an image becomes the network's input, apart from mean and standard deviation.

    ``stretch`` resizes to S x S whatever the aspect. ``crop`` resizes the short side to S / crop_ratio; testing takes the
    centre S x S, and training a random S x S where ``random_crop`` says so. ``original`` keeps the size, for segmentation, which
    trains on crops of resized images and predicts in windows. The card of a data set says how its images are
    decoded, not the suite.
    """

    resize: Literal["stretch", "crop", "original"] = "stretch"
    interpolation: Literal["bilinear", "bicubic"] = "bicubic"
    antialias: bool = Field(True, description="smooth when an image shrinks; tf.image.resize, and so VPT on VTAB, does not")
    crop_ratio: float = Field(0.875, gt=0, le=1)
    random_crop: bool = False
    random_flip: bool = False
    normalisation: Literal["weights", "imagenet", "none"] = "weights"
    orientation: Orientation = Field("stored", json_schema_extra=LATER)
    background: Background = Field("ignored", json_schema_extra=LATER)

    def identity(self) -> dict[str, Any]:
        """What is hashed, and what a row says."""
        return hashed_fields(self)


class DataSpec(FrozenModel):
    """A data set and the digest of its images, labels and splits; ``path`` is no part of a run's identity.

    ``columns`` are those of a user's parquet files that had to be named, ``hub`` is a data set of the Hugging Face hub,
    ``owner/name:config@commit``. Where every seed draws its own training images, ``digest`` is that of the run's, and
    ``drawn_from`` that of the whole data set.
    """

    suite: str
    dataset: str
    digest: str
    path: str | None = Field(None, repr=False)
    columns: dict[str, str] = Field(default_factory=dict, description="of image, label and split, those that had to be given")
    hub: str | None = None
    drawn_from: str | None = Field(
        default=None, description="digest of what each seed draws from; None: all seeds have the same images"
    )
    unreadable: int = Field(default=0, ge=0, description="images of one's own that could not be read and were left out")

    @property
    def common_digest(self) -> str:
        """The digest that runs share which differ in their seed alone."""
        return self.digest if self.drawn_from is None else self.drawn_from


DEFAULT_TASK = "classification"


class TaskSpec(FrozenModel):
    """What is predicted, with every option of the task resolved."""

    name: str = DEFAULT_TASK
    config: dict[str, JsonValue] = Field(default_factory=dict)


class Search(FrozenModel):
    """The search that a run belongs to, and its budget: ``trials`` settings for every method on every data set.

    ``digest`` identifies the space's parameters, whose names are ``searched``. A grid has neither seed nor batches.
    """

    space: str
    digest: str
    searched: tuple[str, ...]
    sampler: Literal["grid", "tpe"]
    trials: int = Field(ge=1)
    seed: int | None = None
    batch: int | None = Field(None, description="trials that are chosen at a time")
    prune: int | None = Field(None, description="epochs of the short runs that decide which trials are run in full")
    trial_epochs: int | None = Field(None, description="epochs of a trial; None: those of a final run")


Precision = Literal["fp32", "tf32", "bf16"]
"""Full float32, float32 whose products a GPU computes in TF32, or autocast to bfloat16."""


class RunSpec(FrozenModel):
    """One run: a method on a backbone, fitted to a data set with a recipe and a seed.

    A run of the stage ``search`` is a trial: scored on validation images, never tested. One of the stage ``final`` has the
    settings that a search has chosen. Other runs have no stage.
    """

    method: MethodSpec
    backbone: BackboneSpec
    data: DataSpec
    preprocess: Preprocess
    recipe: Recipe
    selection: Literal["last", "best_val"] = "last"
    seed: int = Field(ge=0)
    precision: Precision = "fp32"
    stage: Literal["search", "final"] | None = None
    search: Search | None = None
    task: TaskSpec = TaskSpec()

    def identity(self) -> dict[str, Any]:
        """What is hashed: everything but the paths of this machine.

        Nor does it matter for which search a trial was run first, so that searches share trials. A final run says of which
        search it is the outcome.
        """
        identity = self.model_dump(mode="json", exclude={"backbone": {"path"}, "data": {"path"}, "method": {"hashed_names"}})
        if self.backbone.pos_resample == "bicubic":  # came later
            del identity["backbone"]["pos_resample"]
        former = self.method.hashed_names
        identity["method"]["config"] = {former.get(name, name): value for name, value in self.method.config.items()}
        identity["recipe"], identity["preprocess"] = self.recipe.identity(), self.preprocess.identity()
        for name in ("columns", "hub", "drawn_from", "unreadable"):
            if not identity["data"][name]:
                del identity["data"][name]
        if self.search is not None:
            identity["search"]["searched"] = [former.get(name, name) for name in self.search.searched]
            if self.search.trial_epochs is None:  # came later
                del identity["search"]["trial_epochs"]
        if self.task == TaskSpec():  # came later
            del identity["task"]
        if self.stage is None:
            del identity["stage"]
        if self.stage != "final":
            del identity["search"]
        return identity

    @property
    def run_id(self) -> str:
        """32 hexadecimal digits: the same specification has the same id on every machine."""
        return digest(self.identity())

    @property
    def group_id(self) -> str:
        """Like :attr:`run_id` but equal for runs that differ in their seed only, and in what it has drawn."""
        identity = {key: value for key, value in self.identity().items() if key != "seed"}
        if self.data.drawn_from is not None:
            del identity["data"]["digest"]
        return digest(identity)

    @property
    def label(self) -> str:
        """What messages call it: ``vpt on digits, seed 42``, or with what a trial tries instead of the seed."""
        what = f"{self.method.label} on {self.data.dataset}"
        if self.stage != "search" or self.search is None:
            return f"{what}, seed {self.seed}"
        values = {**self.method.config, **{f"recipe.{name}": value for name, value in self.recipe.model_dump().items()}}
        tried = [f"{name.removeprefix('recipe.')} {_short(values[name])}" for name in self.search.searched]
        return ", ".join([what, *tried, counted(self.recipe.epochs, "epoch")])


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
