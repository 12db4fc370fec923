"""The data sets of FGVC and HTA in miniature: what their official files hold, in their exact formats."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from miniatures import (
    aircraft,
    cars,
    cifar,
    content,
    cub,
    dogs,
    dtd,
    flowers,
    food101,
    gtsrb,
    nabirds,
    pets,
    svhn,
)  # fmt: skip

from vpbench.core.errors import DataError
from vpbench.data.catalog import DatasetCard, dataset_card
from vpbench.data.raw import RawData
from vpbench.data.sources import open_dataset

OFFICIAL = {
    "cub": (200, 5994, 5794),
    "nabirds": (555, 23929, 24633),
    "flowers": (102, 2040, 6149),
    "dogs": (120, 12000, 8580),
    "cars": (196, 8144, 8041),
    "dtd": (47, 3760, 1880),
    "food101": (101, 75750, 25250),
    "cifar10": (10, 50000, 10000),
    "cifar100": (100, 50000, 10000),
    "gtsrb": (43, 26640, 12630),
    "svhn": (10, 73257, 26032),
    "aircraft": (100, 6667, 3333),
    "pets": (37, 3680, 3669),
}


@dataclass(frozen=True)
class Mini:
    """A miniature: the data set's card, the folder below the data root, who writes it, and what its card must say."""

    dataset: str
    folder: str
    write: Callable[[Path], None]
    n_train: int
    n_val: int
    n_test: int
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def card(self) -> DatasetCard:
        counts = {"classes": 3, "n_train": self.n_train, "n_val": self.n_val, "n_test": self.n_test}
        card = dataset_card(self.dataset)
        return card.model_copy(update={**counts, "options": {**card.options, **self.options}})

    def written(self, root: Path) -> Path:
        """The root with the data set below it."""
        (root / self.folder).mkdir(parents=True, exist_ok=True)
        self.write(root / self.folder)
        return root


def official(writer: Callable[..., None], **more: Any) -> Callable[[Path], None]:
    """15 training and 6 test images."""
    return lambda folder: writer(folder, content(train=5, test=2), **more)


def listed(writer: Callable[..., None], **more: Any) -> Callable[[Path], None]:
    """12 training, 3 validation and 6 test images."""
    return lambda folder: writer(folder, content(train=4, val=1, test=2), **more)


def signs(**more: Any) -> Callable[[Path], None]:
    return lambda folder: gtsrb.write(folder, *gtsrb.signs(), **more)


# 18 tracks of 3 frames: of 12, 1 and 5 tracks of a class, 1, 0 and 1 are held out.
TRACKS = (48, 6, 6)
COUNTS = (12, 3, 6)

MINIATURES = {
    "cub": Mini("cub", "cub", official(cub.write), *COUNTS),
    "cub, archive's folder": Mini("cub", "CUB_200_2011", official(cub.write), *COUNTS),
    "cub, unpacked inside": Mini("cub", "cub/CUB_200_2011", official(cub.write), *COUNTS),
    "cub, lists": Mini("cub", "cub", listed(cub.write_json), *COUNTS),
    "cub, lists with images/": Mini("cub", "cub", listed(cub.write_json, below="images/"), *COUNTS),
    "nabirds": Mini("nabirds", "nabirds", official(nabirds.write), *COUNTS),
    "nabirds, lists": Mini("nabirds", "nabirds", listed(nabirds.write_json), *COUNTS),
    "flowers": Mini("flowers", "flowers", listed(flowers.write), *COUNTS),
    "flowers, torchvision's": Mini("flowers", "flowers-102", listed(flowers.write), *COUNTS),
    "flowers, lists from 1": Mini("flowers", "flowers", listed(flowers.write_json, first=1), *COUNTS),
    "flowers, lists from 0": Mini("flowers", "flowers", listed(flowers.write_json, first=0), *COUNTS),
    "dogs": Mini("dogs", "dogs", official(dogs.write), *COUNTS),
    "dogs, lists/": Mini("dogs", "dogs", official(dogs.write, lists="lists"), *COUNTS),
    "dogs, lists": Mini("dogs", "dogs", listed(dogs.write_json), *COUNTS),
    "cars": Mini("cars", "cars", official(cars.write), *COUNTS),
    "cars, torchvision's": Mini("cars", "cars/stanford_cars", official(cars.write, labelled=""), *COUNTS),
    "cars, lists": Mini("cars", "cars", listed(cars.write_json), *COUNTS),
    "dtd": Mini("dtd", "dtd", listed(dtd.write), *COUNTS),
    "dtd, unpacked inside": Mini("dtd", "dtd/dtd", listed(dtd.write), *COUNTS),
    "dtd, partition 3": Mini("dtd", "dtd", listed(dtd.write, partition=3), *COUNTS, options={"partition": 3}),
    "food101": Mini("food101", "food101", official(food101.write), *COUNTS),
    "food101, unpacked inside": Mini("food101", "food101/food-101", official(food101.write), *COUNTS),
    "cifar10": Mini("cifar10", "cifar10/cifar-10-batches-py", cifar.write10, *COUNTS),
    "cifar10, archive's folder": Mini("cifar10", "cifar-10-batches-py", cifar.write10, *COUNTS),
    "cifar100": Mini("cifar100", "cifar100/cifar-100-python", cifar.write100, *COUNTS),
    "cifar100, archive's folder": Mini("cifar100", "cifar-100-python", cifar.write100, *COUNTS),
    "gtsrb": Mini("gtsrb", "gtsrb", signs(), *TRACKS),
    "gtsrb, labels in GTSRB": Mini("gtsrb", "gtsrb", signs(labels="GTSRB"), *TRACKS),
    "gtsrb, final": Mini(
        "gtsrb", "gtsrb", signs(place="Final_Training/Images", labels="GTSRB/Final_Test/Images"), *TRACKS, {"release": "final"}
    ),
    "svhn": Mini("svhn", "svhn", lambda folder: svhn.write(folder, train=5, test=2), *COUNTS),
    "aircraft": Mini("aircraft", "aircraft", listed(aircraft.write), *COUNTS),
    "aircraft, unpacked inside": Mini("aircraft", "aircraft/fgvc-aircraft-2013b/data", listed(aircraft.write), *COUNTS),
    "aircraft, CoOp's folder": Mini("aircraft", "fgvc_aircraft", listed(aircraft.write), *COUNTS),
    "pets": Mini("pets", "pets", official(pets.write), *COUNTS),
    "pets, torchvision's": Mini("pets", "pets/oxford-iiit-pet", official(pets.write), *COUNTS),
}

# One of each data set.
PLAIN = [name for name in MINIATURES if name in OFFICIAL]


def opened(mini: Mini, root: Path) -> RawData:
    """The miniature as the engine opens it. SVHN always has ten classes."""
    card = mini.card
    return open_dataset(card.model_copy(update={"classes": 10}) if card.source == "svhn" else card, root)


def complaint(mini: Mini, root: Path, match: str) -> str:
    """The one line of the error that opening gives."""
    with pytest.raises(DataError, match=match) as caught:
        opened(mini, root)
    assert "\n" not in str(caught.value)
    assert str(root) in str(caught.value)
    return str(caught.value)
