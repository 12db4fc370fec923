"""Cards of data sets: one TOML file each in ``benchmarks/datasets`` or ``datasets`` of a folder of the user's."""

from __future__ import annotations

from typing import Self

from pydantic import BaseModel, ConfigDict, Field, JsonValue, model_validator

from vpbench.core.cards import card_file, card_names, read_toml, validated
from vpbench.core.hub import located
from vpbench.data.target import Target
from vpbench.spec.decoding_rule import Background, Orientation

FOLDER = "datasets"


class Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Download(Strict):
    """A file that ``vpbench data get`` downloads."""

    url: str
    mirrors: tuple[str, ...] = Field((), description="other addresses of the same bytes, tried in order when url does not answer")
    file: str = Field("", description="path below the data set's folder; default: last part of the URL")
    md5: str | None = Field(None, description="as published by the source")
    sha256: str | None = None
    size: int | None = Field(None, ge=1, description="bytes")
    unpack: bool = Field(False, description="whether the file is an archive to unpack below the data set's folder")

    @model_validator(mode="after")
    def _same_bytes(self) -> Self:
        if self.mirrors and not (self.md5 or self.sha256):
            raise ValueError("mirrors need the md5 or sha256 of the file, so that all have the same bytes")
        return self

    @property
    def path(self) -> str:
        """Path below the data set's folder."""
        return self.file or self.url.rsplit("/", 1)[-1]


class DatasetCard(Strict):
    """A data set: what readers and the engine need before any image is opened. The file's name is the data set's id."""

    title: str = Field(description="name in tables")
    description: str = Field(description="images and classes, one or two sentences")
    group: str = Field(description="group that scores are averaged over, e.g. VTAB's natural, specialized, structured")
    source: str = Field("", description="module of vpbench.data.sources that reads the images")
    path: str = Field(
        "",
        description="the user's own data, in place of a source: a folder or a parquet file, from the card's on, or hf:owner/name",
    )
    target: Target = Field("class", description="what an image is labelled with: a class, or a mask with a class for each pixel")
    options: dict[str, JsonValue] = Field(default_factory=dict, description="keyword arguments of that module's read()")
    folders: tuple[str, ...] = Field((), description="names below the data root, the first that exists is used; none: built in")
    classes: int = Field(ge=2)
    n_train: int = Field(ge=0, description="0: test images alone, for models that were trained on another data set")
    n_val: int = Field(ge=0, description="held out of train with a fixed seed where the source has no validation images")
    n_test: int = Field(ge=1)
    image_size: str = Field(description="pixels before preprocessing, e.g. 64x64, or 'varies'")
    orientation: Orientation = "exif"
    background: Background = Field("white", validate_default=True)
    licence: str
    origin: str = Field(description="where images and labels come from, with a reference")
    revision: str = Field("", description="version of the source, e.g. tfds cifar100 3.0.2")
    split_sha256: str | None = Field(
        None, description="of the split list, see vpbench.data.protocols.split_sha256; None if not verified yet"
    )
    downloads: tuple[Download, ...] = ()
    how_to_get: str = Field("", description="instructions for manual download, one or two sentences with the URL")
    coarse: dict[str, tuple[str, ...]] = Field(default_factory=dict, description="coarse class: names of its classes")

    @model_validator(mode="after")
    def _has_images(self) -> Self:
        if bool(self.path) == bool(self.source):
            raise ValueError("a card has either a path, of your own data, or a source, which reads a published data set")
        if self.path and (self.folders or self.downloads or self.options):
            raise ValueError("path is for your own data, which has no folders below the data root, downloads or options")
        return self

    @property
    def decoding(self) -> dict[str, str]:
        """How its images become RGB, as fields of :class:`vpbench.spec.run_spec.Preprocess`."""
        return {"orientation": self.orientation, "background": self.background}


def dataset_names() -> list[str]:
    """Names of all cards, sorted."""
    return card_names(FOLDER)


def dataset_card(name: str) -> DatasetCard:
    """The card called ``name``.

    Raises:
        UsageError: for an unknown name (with a suggestion) or a card that fails validation.
    """
    file = card_file(FOLDER, name, "dataset")
    card = validated(DatasetCard, read_toml(file), file)
    if not card.path:
        return card
    return card.model_copy(update={"path": located(card.path, file.parent)})
