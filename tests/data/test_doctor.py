"""How data sets on the disk are judged: whole ones, and those with one thing wrong."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from published_set import SOURCE, card, lay_out, members, offered

from vpbench.core.errors import MissingDataError, WrongCountsError, WrongSplitsError
from vpbench.data import sources
from vpbench.data.catalog import dataset_card
from vpbench.data.doctor import Finding, Verification, examine, verify
from vpbench.data.protocols import split_sha256
from vpbench.data.sources import open_dataset


@pytest.fixture(autouse=True)
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A source of one more file, as a contributor adds one."""
    (tmp_path / "sources").mkdir()
    (tmp_path / "sources" / "pictures.py").write_text(SOURCE)
    monkeypatch.setattr(sources, "__path__", [*sources.__path__, str(tmp_path / "sources")])


def look(root: Path, **facts: Any) -> Finding:
    return examine("pictures", card(**facts), root)


def check(root: Path, images: bool = False, **facts: Any) -> Verification:
    return verify("pictures", card(**facts), root, images=images)


def test_built_in(tmp_path: Path) -> None:
    found = examine("digits", dataset_card("digits"), tmp_path)
    assert (found.status, found.folder, found.ready) == ("built in", None, True)


@pytest.mark.parametrize("name", ["pictures", "Pictures-1.0"])
def test_ready(tmp_path: Path, name: str) -> None:
    lay_out(tmp_path / name)
    found = look(tmp_path)
    assert (found.status, found.folder, found.ready) == ("ready", tmp_path / name, True)
    assert found.detail == "3 classes; images: 12 train, 3 val, 6 test."


def test_missing(tmp_path: Path) -> None:
    found = look(tmp_path)
    assert (found.status, found.folder, found.ready) == ("missing", tmp_path / "pictures", False)
    assert found.detail == "Ask at https://pictures.invalid/."
    assert examine("pictures", card(offered("http://host/a.zip", b"x")), tmp_path).detail == "vpbench data get pictures"
    with pytest.raises(MissingDataError):
        open_dataset(card(), tmp_path)
    verified = check(tmp_path)
    assert (verified.state, verified.missing) == ("missing", found.detail)


def without(*lost: str) -> Callable[[dict[str, bytes]], None]:
    def change(files: dict[str, bytes]) -> None:
        for name in lost:
            del files[name]

    return change


def shorter_list(files: dict[str, bytes]) -> None:
    files["test.txt"] = b"".join(files["test.txt"].splitlines(keepends=True)[:-1])


def renamed(files: dict[str, bytes]) -> None:
    """Other images under the right counts."""
    files["images/test/new.png"] = files.pop("images/test/0-0.png")
    files["test.txt"] = files["test.txt"].replace(b"0-0.png", b"new.png")


WRONG: dict[str, tuple[Callable[[dict[str, bytes]], None], str, str]] = {
    "no list": (without("test.txt"), "incomplete", "test.txt is missing"),
    "no image": (without("images/train/0-0.png"), "incomplete", "images/train/0-0.png is missing;"),
    "no images": (
        without("images/test/0-0.png", "images/test/0-1.png", "images/test/2-1.png"),
        "incomplete",
        "images/test/0-0.png is missing (and 2 more)",
    ),
    "empty": (lambda files: files.clear(), "incomplete", "train.txt is missing"),
    "too few": (shorter_list, "wrong size", "must have n_test = 6, here it is 5"),
    "other images": (renamed, "wrong splits", "not its split list"),
}


@pytest.mark.parametrize("case", WRONG)
def test_not_ready(tmp_path: Path, case: str) -> None:
    change, status, message = WRONG[case]
    (tmp_path / "right" / "pictures").mkdir(parents=True)
    listed = split_sha256(open_dataset(card(), lay_out(tmp_path / "right" / "pictures").parent))
    files = members()
    change(files)
    (tmp_path / "pictures").mkdir()
    lay_out(tmp_path / "pictures", files)
    found = look(tmp_path, split_sha256=listed)
    assert (found.status, found.ready) == (status, False)
    assert found.folder == tmp_path / "pictures"
    assert message in found.detail
    assert "\n" not in found.detail


def test_each_difference_is_an_error_of_its_own(tmp_path: Path) -> None:
    lay_out(tmp_path / "pictures")
    with pytest.raises(WrongCountsError, match="n_train = 11, here it is 12"):
        open_dataset(card(n_train=11), tmp_path)
    with pytest.raises(WrongSplitsError):
        open_dataset(card(split_sha256="0" * 64), tmp_path)


def test_verify_says_what_there_is(tmp_path: Path) -> None:
    lay_out(tmp_path / "pictures")
    found = check(tmp_path)
    assert found.counts == {"classes": 3, "n_train": 12, "n_val": 3, "n_test": 6}
    assert found.split_sha256 == split_sha256(open_dataset(card(), tmp_path))
    assert (found.expected_sha256, found.decoded, found.problems) == (None, None, ())
    assert check(tmp_path, split_sha256=found.split_sha256).problems == ()
    assert check(tmp_path, images=True).decoded == 21


def test_verify_says_all_that_differs(tmp_path: Path) -> None:
    lay_out(tmp_path / "pictures")
    found = check(tmp_path, n_train=11, n_test=7, split_sha256="0" * 64)
    assert found.problems == (
        "n_train is 12, the card says 11",
        "n_test is 6, the card says 7",
        f"the split list's sha256 is {found.split_sha256}, the card says {'0' * 64}",
    )


def test_verify_finds_every_image_that_cannot_be_read(tmp_path: Path) -> None:
    """Listing them is not enough to notice."""
    files = members()
    broken = ["images/test/1-1.png", *(name for name in files if name.startswith("images/train"))]
    for name in broken:
        files[name] = files[name][:40]
    lay_out(tmp_path / "pictures", files)
    assert look(tmp_path).ready
    progress: list[tuple[int, int]] = []
    found = verify("pictures", card(), tmp_path, images=True, on_progress=lambda *step: progress.append(step))
    assert found.problems == ("16 of 21 images cannot be read",)
    assert sorted(line.split(" ", 1)[0] for line in found.unreadable) == sorted(
        str(tmp_path / "pictures" / name) for name in broken
    )
    assert progress == [(done, 21) for done in range(1, 22)]


def test_verify_of_what_cannot_be_opened(tmp_path: Path) -> None:
    found = check(tmp_path)
    assert found.counts == {}
    assert found.split_sha256 is None
    (problem,) = found.problems
    assert "Pictures is not in" in problem
