"""The data sets of FGVC and HTA: cards, readers, and memory, on miniatures in their exact formats."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import miniatures
import pytest
import torch
from fgvc_and_hta import MINIATURES, OFFICIAL, listed, opened
from miniatures import (
    aircraft,
    cars,
    content,
    cub,
    decoded,
    encoded,
    nabirds,
    picture,
)  # fmt: skip
from sweeps import some

from vpbench.data.batches import Normaliser, training_batches
from vpbench.data.cache import prepare
from vpbench.data.catalog import dataset_card
from vpbench.data.sources import open_dataset
from vpbench.spec.run_spec import Preprocess


@pytest.mark.parametrize("name", OFFICIAL)
def test_cards_are_complete_and_their_counts_are_the_official_ones(name: str) -> None:
    card = dataset_card(name)
    assert (card.classes, card.n_train + card.n_val, card.n_test) == OFFICIAL[name]
    assert card.group == ("fgvc" if name in ("cub", "nabirds", "flowers", "dogs", "cars", "aircraft", "pets") else "hta")
    assert card.folders[0] == name
    assert card.revision and card.licence and re.search("https?://", card.how_to_get)
    for download in card.downloads:
        assert download.md5 or download.sha256
        assert re.fullmatch("[0-9a-f]{32}", download.md5 or "0" * 32)
        assert re.fullmatch("[0-9a-f]{64}", download.sha256 or "0" * 64)
        assert download.unpack == download.path.endswith(("gz", "tar", "zip"))


@pytest.mark.parametrize("name", [name for name in MINIATURES if name in OFFICIAL or name.endswith("lists")])
def test_lists_may_begin_with_a_byte_order_mark(tmp_path: Path, name: str) -> None:
    root = MINIATURES[name].written(tmp_path)
    digest = opened(MINIATURES[name], root).digest
    for file in root.rglob("*"):
        if file.suffix in (".txt", ".csv", ".json"):
            file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())
    assert opened(MINIATURES[name], root).digest == digest


def test_coarse_classes_of_cifar100_are_20_of_5() -> None:
    coarse = dataset_card("cifar100").coarse
    assert len(coarse) == 20
    assert {len(names) for names in coarse.values()} == {5}
    assert len({name for names in coarse.values() for name in names}) == 100


@pytest.mark.parametrize("name", some(MINIATURES, 12))
def test_reader_split_cache_and_a_training_step(tmp_path: Path, name: str) -> None:
    mini = MINIATURES[name]
    raw = opened(mini, mini.written(tmp_path))
    for split, members in raw.splits.items():
        made_of = "train" if split == "val" and decoded(members.image(0))[1] == "train" else split
        for index in range(len(members)):
            assert decoded(members.image(index)) == (members.labels[index], made_of)
    assert len({raw.splits[split].short_name(index) for split in raw.splits for index in range(len(raw.splits[split]))}) == sum(
        map(len, raw.splits.values())
    )
    assert "Also in" not in raw.remarks

    preprocess = Preprocess(random_flip=True)
    data = prepare(raw, preprocess, 16, tmp_path / "cache")
    assert data.train.images.shape == (mini.n_train, 16, 16, 3)
    torch.manual_seed(0)
    head = torch.nn.Linear(3 * 16 * 16, len(raw.class_names))
    before = head.weight.detach().clone()
    batches = training_batches(data.train, 8, preprocess, 16, Normaliser([0.5] * 3, [0.5] * 3), torch.Generator())
    images, labels = next(iter(batches))
    loss = torch.nn.functional.cross_entropy(head(images.flatten(1)), labels)
    loss.backward()
    torch.optim.SGD(head.parameters(), 0.1).step()
    assert torch.isfinite(loss)
    assert not torch.equal(head.weight, before)


@pytest.mark.parametrize(
    ("name", "class_names"),
    [
        ("cub", ("Black footed Albatross", "Laysan Albatross", "Sooty Albatross")),
        ("cub, lists", ("Black footed Albatross", "Laysan Albatross", "Sooty Albatross")),
        ("nabirds", ("Common Eider (Immature/Eclipse male)", "Oak Titmouse", "Dark-eyed Junco (Gray-headed)")),
        ("nabirds, lists", ("Common Eider (Immature/Eclipse male)", "Oak Titmouse", "Dark-eyed Junco (Gray-headed)")),
        ("flowers", ("pink primrose", "hard-leaved pocket orchid", "canterbury bells")),
        ("flowers, lists from 0", ("pink primrose", "hard-leaved pocket orchid", "canterbury bells")),
        ("flowers, lists from 1", ("pink primrose", "hard-leaved pocket orchid", "canterbury bells")),
        ("dogs", ("Chihuahua", "Japanese spaniel", "black-and-tan coonhound")),
        ("dogs, lists", ("Chihuahua", "Japanese spaniel", "black-and-tan coonhound")),
        ("cars", cars.NAMES),
        ("cars, lists", ("1", "2", "3")),
        ("food101", ("apple pie", "baby back ribs", "baklava")),
        ("cifar10", ("airplane", "automobile", "bird")),
        ("cifar100", ("apple", "aquarium_fish", "baby")),
        ("gtsrb", ("0", "1", "2")),
        ("aircraft", aircraft.NAMES),
        ("pets", ("Abyssinian", "american bulldog", "american pit bull terrier")),
    ],
)
def test_class_names(tmp_path: Path, name: str, class_names: tuple[str, ...]) -> None:
    assert opened(MINIATURES[name], MINIATURES[name].written(tmp_path)).class_names == class_names


@pytest.mark.parametrize(
    ("one", "other"),
    [("cub", "cub, unpacked inside"), ("cub, lists", "cub, lists with images/"), ("cifar10", "cifar10, archive's folder")],
)
def test_where_the_archive_was_unpacked_does_not_matter(tmp_path: Path, one: str, other: str) -> None:
    first, second = (opened(MINIATURES[name], MINIATURES[name].written(tmp_path / name)) for name in (one, other))
    assert first.digest == second.digest


def test_lists_beside_the_unpacked_folder_are_found(tmp_path: Path) -> None:
    folder = tmp_path / "cub" / "CUB_200_2011"
    listed(cub.write_json)(folder)
    before = opened(MINIATURES["cub, lists"], tmp_path).digest
    for split in miniatures.GREEN:
        (folder / f"{split}.json").rename(tmp_path / "cub" / f"{split}.json")
    assert opened(MINIATURES["cub, lists"], tmp_path).digest == before


def test_a_class_that_val_lacks_does_not_shift_the_others(tmp_path: Path) -> None:
    """VPT's loader numbers each list by itself; NABirds' val.json lacks classes 627 and 975."""
    made = content(train=4, val=1, test=2)
    made["val"] = [member for member in made["val"] if member[0] != 0]
    (tmp_path / "nabirds").mkdir()
    nabirds.write_json(tmp_path / "nabirds", made)
    raw = open_dataset(MINIATURES["nabirds, lists"].card.model_copy(update={"n_val": 2}), tmp_path)
    assert raw.splits["val"].labels.tolist() == [1, 2]
    assert [decoded(raw.splits["val"].image(index))[0] for index in (0, 1)] == [1, 2]
    assert raw.note == "Not in val: Common Eider (Immature/Eclipse male)."


@pytest.mark.parametrize("name", ["gtsrb", "gtsrb, final"])
def test_no_track_of_gtsrb_is_in_train_and_val(tmp_path: Path, name: str) -> None:
    raw = opened(MINIATURES[name], MINIATURES[name].written(tmp_path))

    def tracks(split: str) -> set[str]:
        members = raw.splits[split]
        return {members.short_name(index).rsplit("_", 1)[0] for index in range(len(members))}

    assert len(tracks("train")) == 16
    assert len(tracks("val")) == 2
    assert not tracks("train") & tracks("val")
    assert raw.note == "Validation is 2 of 18 training tracks (6 images), drawn with a fixed seed. Not in val: 1."


def test_tracks_of_gtsrb_give_the_counts_of_its_card(tmp_path: Path) -> None:
    """Tracks of each class in GTSRB-Training_fixed.zip: 888, of 30 frames."""
    tracks = [5, 50, 50, 32, 44, 42, 10, 32, 32, 33, 45, 30, 47, 48, 18, 14, 10, 25, 27, 5, 8, 8]
    tracks += [9, 12, 6, 34, 14, 6, 12, 6, 10, 18, 6, 16, 10, 27, 9, 5, 46, 7, 8, 6, 6]
    from vpbench.data.sources.gtsrb import _by_track

    members = [
        (f"Training/{label:05d}/{track:05d}_{frame:05d}.ppm", label)
        for label, count in enumerate(tracks)
        for track in range(count)
        for frame in range(30)
    ]
    kept, held, counts = _by_track(tmp_path, members)
    card = dataset_card("gtsrb")
    assert (len(kept), len(held), counts) == (card.n_train, card.n_val, (92, 888))
    assert {label for _, label in held} == set(range(43))


# Memory.

MEASURE = """
import re, sys
from pathlib import Path
from vpbench.data.cache import prepare
from vpbench.data.catalog import dataset_card
from vpbench.data.sources import open_dataset
from vpbench.spec.run_spec import Preprocess

root, count = Path(sys.argv[1]), int(sys.argv[2])
card = dataset_card("food101").model_copy(update={"classes": 2, "n_train": count, "n_val": 0, "n_test": 2})
data = prepare(open_dataset(card, root), Preprocess(), 72, root / "cache")
assert data.train.images.shape == (count, 72, 72, 3)
print(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])
"""


def many_images(home: Path, count: int) -> None:
    """Food-101 with ``count`` training images of 72 x 72 pixels, which are links to 50 files."""
    lines = []
    for kind, name in enumerate(("apple_pie", "baklava")):
        folder = home / "images" / name
        for number in range(25):
            miniatures.put(folder / f"{number}.jpg", encoded(picture(kind, "train", number, (72, 72)), "ppm"))
        for number in range(25, 25 + count // 2):
            os.link(folder / f"{number % 25}.jpg", folder / f"{number}.jpg")
            lines.append(f"{name}/{number}")
    miniatures.put(home / "meta" / "train.txt", "\n".join(lines))
    miniatures.put(home / "meta" / "test.txt", "apple_pie/0\nbaklava/0")
    miniatures.put(home / "meta" / "classes.txt", "apple_pie\nbaklava")


@pytest.mark.sweep
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from /proc")
def test_peak_memory_hardly_grows_with_the_number_of_images(tmp_path: Path) -> None:
    """10,000 images against 1,000: paths, sizes and labels grow (a few MB more, measured), pixels do not.

    Files, decoded images and cached pixels are 140 MB more each. Linux gives getrusage's peak to a child at its start,
    so the peak is taken from /proc.
    """
    peaks = {}
    for count in (1_000, 10_000):
        many_images(tmp_path / str(count) / "food101", count)
        done = subprocess.run(
            [sys.executable, "-c", MEASURE, str(tmp_path / str(count)), str(count)], check=True, capture_output=True, text=True
        )
        peaks[count] = int(done.stdout) / 1000
    print(f"peak with 1,000 images {peaks[1_000]:.0f} MB, with 10,000 {peaks[10_000]:.0f} MB")  # noqa: T201
    assert peaks[10_000] - peaks[1_000] < 50
