"""What a user asks for: which methods on which data, backbone and protocol. Imports no torch."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, field_validator

from vpbench.core.frozen_model import FrozenModel
from vpbench.spec.decoding_rule import Background
from vpbench.spec.flag import Flag
from vpbench.spec.parsing import columns_of, names_of, settings_of, words

DEFAULT_SUITE = "mini"


def _path(given: Any) -> str:
    """
    Raises:
        ValueError: for an empty one, which would be the working folder.
    """
    if not str(given):
        raise ValueError("it is empty; leave it out for none")
    return str(given)


class Request(FrozenModel):
    """What to run; None means the suite's own value. How and where is :class:`vpbench.spec.run_options.RunOptions`.

    ``device`` is here because it decides the precision that ``auto`` means, which is part of a run's identity.
    """

    methods: Annotated[tuple[str, ...] | None, Flag(metavar="NAMES", parse=words)] = Field(
        default=None,
        description="Methods, with commas: insvp,vpt:shallow,./mine.py; all; group:partial, :extra or :prompts. Default: six.",
    )
    suite: Annotated[str | None, Flag(metavar="NAME")] = Field(
        default=None, description="Data sets and protocol, by name or path (my.toml). Default: mini, built in."
    )
    data: Annotated[tuple[str, ...] | None, Flag(metavar="PATH", repeatable=True)] = Field(
        default=None,
        description="Your own images: an ImageFolder tree, images/ and masks/, parquet, or hf:owner/name[:config]. Repeatable.",
    )
    task: Annotated[str | None, Flag(metavar="TASK")] = Field(
        default=None, description="What is predicted on --data: classification, or segmentation of images with masks."
    )
    columns: Annotated[dict[str, str], Flag(metavar="image=NAME,label=NAME", parse=columns_of)] = Field(
        default_factory=dict,
        description="Columns of parquet files and of the hub, also split=NAME, mask=NAME. Default: the usual names.",
    )
    background: Annotated[Background | None, Flag(metavar="COLOUR")] = Field(
        default=None, description="Ground under transparent pixels of your images, a name or #rrggbb. Default: white."
    )
    skip_unreadable: Annotated[bool, Flag(kind=bool)] = Field(
        default=False, description="Leave out images of --data that cannot be read, with a note, instead of stopping."
    )
    data_root: Annotated[str | None, Flag(metavar="FOLDER")] = Field(
        default=None, description="Where published data sets lie. Default: VPBENCH_DATA."
    )
    datasets: Annotated[
        tuple[str, ...] | None, Flag(metavar="NAMES", parse=partial(names_of, "--datasets", example="digits"))
    ] = Field(default=None, description="Only these data sets of the suite, with commas.")
    backbone: Annotated[
        tuple[str, ...] | None, Flag(metavar="NAMES", parse=partial(names_of, "--backbone", example="vit-nano"))
    ] = Field(default=None, description="Names of 'vpbench list backbones', or any ViT or Swin of timm; several with commas.")
    weights: Annotated[str | None, Flag(metavar="FILE_OR_FOLDER")] = Field(
        default=None, description="Weights of the backbone, a folder for several of them; 'random' for none."
    )
    image_size: Annotated[int | None, Flag(kind=int, least=1, metavar="N")] = Field(
        default=None, description="Pixels; position embeddings are resampled. Default: the suite's or backbone's."
    )
    patch_size: int | None = Field(default=None, description="Pixels; patch embeddings are resampled.")
    epochs: Annotated[int | None, Flag(kind=int, least=1, metavar="N")] = Field(
        default=None, description="Epochs of every training."
    )
    iterations: Annotated[int | None, Flag(kind=int, least=1, metavar="N")] = Field(
        default=None, description="Steps of every training, in place of epochs."
    )
    seeds: Annotated[int, Flag(kind=int, least=1, metavar="N", shown=1)] = Field(
        default=1, description="How many seeds: the first ones of the suite's list, e.g. 42 and 44 for 2 (see the suite's card)."
    )
    settings: Annotated[dict[str, Any], Flag(name="--set", metavar="METHOD.OPTION=VALUE", parse=settings_of, repeatable=True)] = (
        Field(default_factory=dict, description="An option; recipe.lr=0.1 for the recipe. Repeatable.")
    )
    precision: Annotated[str | None, Flag(metavar="KIND")] = Field(default=None, description="fp32, tf32 (GPUs), bf16 or auto.")
    selection: Annotated[str | None, Flag(metavar="EPOCH")] = Field(
        default=None, description="Epoch that counts: last or best_val."
    )
    device: Annotated[str, Flag(metavar="DEVICE", shown="auto")] = Field(default="auto", description="auto, cpu or cuda.")

    @field_validator("data", mode="before")
    @classmethod
    def _paths(cls, given: Any) -> Any:
        """A single path is a list of one; paths may have commas in them."""
        if given is None:
            return None
        if not isinstance(given, str | Path | list | tuple):
            raise ValueError("must be a path or a list of paths")
        paths = (given,) if isinstance(given, str | Path) else given
        return tuple(_path(path) for path in paths) or None

    @field_validator("data_root", "weights", mode="before")
    @classmethod
    def _as_text(cls, given: Any) -> Any:
        return _path(given) if isinstance(given, str | Path) else given
