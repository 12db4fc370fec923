"""Images that splits share, and that train repeats: counted by content, and refused where something is chosen on them."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from test_user_data import fill

import vpbench
from vpbench.core.errors import DataError, UsageError
from vpbench.data.overlaps import overlap_notes
from vpbench.data.protocols import with_few_shots, with_validation
from vpbench.data.raw import PixelSplit, RawData, RawSplit
from vpbench.data.sources import open_path
from vpbench.execution import execute
from vpbench.planning.plan import make_plan
from vpbench.search.search_plan import plan_search
from vpbench.spec.budget import Budget
from vpbench.spec.request import Request
from vpbench.store.store import Store


def split(values: list[int], labels: list[int] | None = None) -> RawSplit:
    """One image of a constant grey per value."""
    pixels = np.repeat(np.array(values, np.uint8), 12).reshape(-1, 2, 2, 3)
    return PixelSplit(pixels, np.array(labels or [0] * len(values), np.int64), "values")


def notes(train: list[int], val: list[int], test: list[int]) -> list[str]:
    return overlap_notes({"train": split(train), "val": split(val), "test": split(test)})


def test_all_pairs_are_compared() -> None:
    assert notes([1, 2, 3], [4, 5], [6]) == []
    assert notes([1, 2, 3], [], [4]) == []
    assert notes([1, 2, 3], [3, 4], [3, 5]) == [
        "Also in train: 1 of 2 val images.", "Also in train: 1 of 2 test images.", "Also in val: 1 of 2 test images.",
    ]  # fmt: skip


def test_images_are_counted_and_not_their_kinds() -> None:
    """32 images of one colour are 32 images."""
    assert notes([7, 8], [9], [7] * 32) == ["Also in train: 32 of 32 test images."]
    assert notes([7] * 32, [9], [8]) == ["Repeated within train: 31 of 32 images."]


def test_repeats_of_another_class_are_told() -> None:
    train = split([1, 2, 1, 2, 2], [0, 0, 1, 0, 1])
    assert overlap_notes({"train": train, "val": split([]), "test": split([9])}) == [
        "Repeated within train: 3 of 5 images, 2 of them with another class."
    ]


def test_protocols_do_not_repeat_what_was_said() -> None:
    """What splits share is found for the splits as they are, not for those of before."""
    raw = RawData.of(["a"], {"train": split([1, 1, 2, 3, 4]), "val": split([]), "test": split([1])}, ["A note."])
    assert raw.remarks == "A note. Also in train: 1 of 1 test images. Repeated within train: 1 of 5 images."
    assert with_few_shots(with_validation(raw, 1), 4).remarks.count("A note.") == 1
    assert with_validation(raw, 1).with_splits(train=split([2, 3])).remarks.count("Also in train") <= 1
    assert raw.digest == RawData.of(["a"], raw.splits).digest


# --- choosing on copies


def folder(root: Path, copies: int, of: str = "test") -> Path:
    """Four validation images of each of two classes, some of them copies of images of another split."""
    fill(root, {f"{part}/{name}": 4 for part in ("train", "val", "test") for name in ("a", "b")})
    for name in ("a", "b"):
        for number in range(copies):
            shutil.copy(root / of / name / f"{number}.png", root / "val" / name / f"{number}.png")
    return root


def plan(data: Path, tmp_path: Path, **request: object) -> object:
    keywords = {"methods": ("linear",), "image_size": 40, "epochs": 1, "device": "cpu", **request}
    return make_plan(Request.from_keywords(data=data, **keywords), Store(tmp_path / "runs"))


def test_best_epoch_is_not_chosen_on_copies(tmp_path: Path) -> None:
    data = folder(tmp_path / "pets", 4)
    assert open_path(data).remarks == "Also in val: 8 of 8 test images."
    plan(data, tmp_path)  # without choosing it is a note
    words = r"pets has validation images that are copies of test images \(8 of 8\), so the best epoch cannot be chosen"
    with pytest.raises(UsageError, match=words):
        plan(data, tmp_path, selection="best_val")
    with pytest.raises(UsageError, match=r"copies of test images \(8 of 8\), and e2vpt .* --set e2vpt.prune=false"):
        plan(data, tmp_path, methods=("linear", "e2vpt"))
    plan(data, tmp_path, methods=("linear", "e2vpt"), settings={"e2vpt.prune": False})


def test_copies_of_training_images_are_as_bad(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"copies of train images \(8 of 8\)"):
        plan(folder(tmp_path / "pets", 4, "train"), tmp_path, selection="best_val")


def test_a_few_copies_are_a_note(tmp_path: Path) -> None:
    data = folder(tmp_path / "pets", 2)
    assert "Also in val: 4 of 8 test images." in open_path(data).remarks
    plan(data, tmp_path, selection="best_val")


def test_search_is_refused_on_copies(tmp_path: Path) -> None:
    pytest.importorskip("optuna")
    request = Request.from_keywords(data=folder(tmp_path / "pets", 3), methods=("vpt",), image_size=40, device="cpu")
    with pytest.raises(UsageError, match=r"copies of test images \(6 of 8\), and a search chooses on nothing else"):
        plan_search(request, Budget(space="prompt-length"))


# --- a method that needs validation images, and data that has none


@pytest.fixture
def one_shot(tmp_path: Path) -> Path:
    """One training image per class: nothing can be held out."""
    return fill(tmp_path / "few", {"train/a": 1, "train/b": 1, "test/a": 2, "test/b": 2})


def test_one_method_without_validation_does_not_stop_the_others(
    one_shot: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("measure_training", "measure_inference", "count_operations"):
        monkeypatch.setattr(execute, name, lambda *_: {})
    frame = vpbench.run(
        ["linear", "e2vpt"], data=one_shot, image_size=40, epochs=1, device="cpu", executor="inline", results=tmp_path / "runs"
    )
    found = frame.set_index("method")
    assert found["status"].to_dict() == {"linear": "ok", "e2vpt": "unsupported"}
    assert found["error"]["e2vpt"] == (
        "few has no validation images, and e2vpt chooses between candidates on them: "
        "switch that off with --set e2vpt.prune=false."
    )


def test_alone_it_is_refused_with_its_option(one_shot: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"--set e2vpt\.prune=false"):
        plan(one_shot, tmp_path, methods=("e2vpt",))


# --- images that are too large


def test_a_large_image_is_not_called_broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = folder(tmp_path / "pets", 0)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 20)
    with pytest.raises(DataError) as caught:
        open_path(data).splits["test"].image(0)
    message = str(caught.value)
    assert str(data / "test" / "a" / "0.png") in message and "repair" not in message and "attack" not in message
    assert "image size 120 pixels exceeds limit of 40 pixels" in message and message.endswith("scale it down.")
