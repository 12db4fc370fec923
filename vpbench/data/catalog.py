"""The data sets that vpbench knows by name. Each is one TOML file in ``benchmarks/datasets``, its card."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue

from vpbench.core.cards import card_names, read_card

FOLDER = "datasets"


class DatasetCard(BaseModel):
    """What a reader and the engine need to know before any image is opened."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    title: str = Field(description="what to print in tables")
    description: str = Field(description="what is seen and what is asked, one or two sentences")
    group: str = Field(description="group that means are taken over, e.g. VTAB's natural, specialized, structured")
    source: str = Field(description="module of vpbench.data.sources that reads the images")
    options: dict[str, JsonValue] = Field(default_factory=dict, description="keyword arguments of that module's read()")
    classes: int = Field(ge=2)
    n_train: int = Field(ge=1)
    n_val: int = Field(ge=0)
    n_test: int = Field(ge=1)
    image_size: str = Field(description="pixels before preprocessing, e.g. 64x64")
    metric: Literal["acc1", "mean_per_class"] = Field("acc1", description="column of a run that tables show")
    licence: str
    origin: str = Field(description="where images and labels come from, with a reference")


def dataset_names() -> list[str]:
    """Names of all cards, sorted."""
    return card_names(FOLDER)


def dataset_card(name: str) -> DatasetCard:
    """The card called ``name``.

    Raises:
        UsageError: for an unknown name, with a suggestion, or a card that is not valid.
    """
    return read_card(FOLDER, name, DatasetCard, "dataset")
