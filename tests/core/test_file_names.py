"""Whatever a name is, its file stays in its folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from vpbench.core.errors import StoreError
from vpbench.core.file_names import LONGEST, file_name, inside, is_file_name

HOSTILE = [
    "", ".", "..", "../x", "/etc/passwd", "a/b", "a\\b", "..\\x", "C:\\x", "a\0b", "a\nb", "\x1b[31m", ".hidden", " a", "a ",
    "a.", "x" * 300, "é" * 100, "\udc80", "a\u202eb", "a\ud800b", "con:", "a|b", "a*", 'a"b', "<a>",
]  # fmt: skip
USUAL = [
    "vit-nano",
    "vit_base_patch16_224.augreg_in21k",
    "pareto_vit-nano_1a2b3c",
    "my photos",
    "Vögel",
    "flowers(12)",
    "=1",
    "%j",
]


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names(name: str, tmp_path: Path) -> None:
    assert not is_file_name(name)
    with pytest.raises(StoreError, match="is no name for a file in"):
        inside(tmp_path, name)
    for lower in (False, True):
        safe = file_name(name, lower=lower)
        assert is_file_name(safe) and len(safe.encode()) <= LONGEST
        path = tmp_path / f"{safe}.png"
        path.touch()
        assert path.resolve().parent == tmp_path.resolve()


@pytest.mark.parametrize("name", USUAL)
def test_usual_names_stay(name: str, tmp_path: Path) -> None:
    assert file_name(name) == name
    assert inside(tmp_path, name) == tmp_path / name


def test_different_names_have_different_files() -> None:
    for lower in (False, True):
        assert len({file_name(name, lower=lower) for name in [*HOSTILE, *USUAL]}) == len([*HOSTILE, *USUAL])
    assert file_name("VPT", lower=True) != file_name("vpt", lower=True) == "vpt"
