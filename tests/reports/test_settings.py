"""What rows keep as JSON."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from report_rows import fill, grid
from sweeps import some

from vpbench.reporting.make_report import make_report
from vpbench.reporting.page import write_page
from vpbench.reporting.settings import search_in, settings_in

VERSIONS = sorted((Path(__file__).parents[1] / "store" / "versions").glob("*.parquet"))


@pytest.mark.parametrize(
    ("text", "settings"),
    [('{"a": 1}', {"a": 1}), ("", {}), (None, {}), (float("nan"), {}), ("text", {"value": "text"}), ("[1]", {"value": [1]})],
)
def test_settings(text: object, settings: dict[str, object]) -> None:
    assert settings_in(text) == settings


def test_a_search_without_its_fields_is_none() -> None:
    assert search_in('{"space": "adamw"}') == {}
    assert search_in('{"space": "adamw", "sampler": "tpe", "trials": 3, "searched": []}')["trials"] == 3


@pytest.mark.filterwarnings("ignore:the results follow several schema versions")
@pytest.mark.parametrize(
    "path",
    some(
        [
            pytest.param(path, id=path.stem, marks=() if path in (VERSIONS[0], VERSIONS[-1]) else pytest.mark.sweep)
            for path in VERSIONS
        ],
        1,
    ),
)
def test_rows_of_every_version_are_shown(path: Path, tmp_path: Path) -> None:
    """They hold plain text where rows have JSON, as a program with a mistake may write it."""
    store = fill(tmp_path / "runs", *grid())
    shutil.copy(path, store.folder)
    assert "Runs: 19," in str(make_report(1, results=store.folder))
    write_page(store.folder, tmp_path / "page", figures=False)
