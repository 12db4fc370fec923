"""Every card, and the data sets that come with vpbench."""

from __future__ import annotations

import subprocess
import sys

import pytest
from sweeps import case

from vpbench.core.errors import DataError, UsageError
from vpbench.data.catalog import dataset_card
from vpbench.data.sources import open_dataset

# Training data that changes silently would make old and new runs incomparable. A change on purpose needs new names.
DIGESTS = {
    "digits": "ea67cf20e4603ee0adf4816290be14f0",
    "sprites-location": "5fc0b19867b7c089bdf8a318fad73635",
    "textures": "7252401007fa15e2f8b4f219c3e3fb47",
    "scenes-count": "ae2a371423ed74f9dfbc0d5062388b89",
    "scenes-distance": "6613e23cb0ccf8d1dec3f631fd572cf6",
    "sprites-orientation": "880ef02dc2d0ec794dcc63b0441741ca",
}


@pytest.mark.parametrize("name", [case(name, always=("digits",)) for name in DIGESTS])
def test_every_built_in_card_says_what_its_source_has(name: str) -> None:
    raw = open_dataset(dataset_card(name))
    assert raw.splits["train"].image(0).mode == "RGB"
    assert set(raw.splits["train"].labels.tolist()) == set(range(len(raw.class_names)))
    assert raw.note == ""
    assert raw.digest == DIGESTS[name]


def test_digits_are_stratified_and_use_the_whole_range() -> None:
    raw = open_dataset(dataset_card("digits"))
    assert raw.splits["val"].image(0).getextrema()[0] == (0, 255)
    counts = [raw.splits["val"].labels.tolist().count(digit) for digit in range(10)]
    assert max(counts) - min(counts) <= 2


def test_unknown_name_gets_a_suggestion() -> None:
    with pytest.raises(UsageError, match="Did you mean 'digits'"):
        dataset_card("digit")


def test_wrong_card_is_refused() -> None:
    card = dataset_card("digits").model_copy(update={"n_val": 300})
    with pytest.raises(DataError, match="n_val = 300, here it is 200; correct its card"):
        open_dataset(card)
    with pytest.raises(UsageError, match="unknown data source 'digit'"):
        open_dataset(card.model_copy(update={"source": "digit"}))


def test_reading_cards_does_not_import_torch() -> None:
    code = (
        "import sys; from vpbench.data.catalog import *;"
        "[dataset_card(name) for name in dataset_names()]; sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
