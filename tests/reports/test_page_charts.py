"""Curves, quantities and the palette on the pages of ``vpbench report --html``."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from page_reader import CURVE, EVIL

from vpbench.reporting.page.curve import HEIGHT, curves, epoch_ticks, read_epochs, value_axis
from vpbench.reporting.quantities import MISSING, blocks, quantity
from vpbench.store.schema import COLUMNS

# Values and curves


def test_quantities() -> None:
    assert quantity("acc1", 81.25) == "81.25 %"
    assert quantity("mem_train_peak", 3 * 2**30) == "3,221,225,472 bytes (3 GiB)"
    assert quantity("bytes_saved", 1000) == "1,000 bytes (1000 B)"
    assert quantity("latency_ms_p50", 4.123456789) == "4.12346 ms"
    assert quantity("flops_forward", 250_000_000) == "250,000,000 FLOPs per image"
    assert quantity("seed", 1000) == "1000"
    assert quantity("git_dirty", False) == "no"
    assert quantity("first_losses", [1.0, 0.5]) == "1, 0.5"
    assert quantity("acc5", None) == quantity("acc5", float("nan")) == MISSING


def test_every_column_is_in_one_block() -> None:
    found = blocks([*COLUMNS, "column of another version"])
    names = [name for _, members in found for name in members]
    assert sorted(names) == sorted([*COLUMNS, "column of another version"])
    assert [title for title, _ in found][-1] == "Of another version"


def test_a_curve_shows_its_epochs(tmp_path: Path) -> None:
    path = tmp_path / "curve.csv"
    path.write_text(CURVE)
    loss, accuracy = curves(read_epochs(path), EVIL)
    for picture in (loss, accuracy):
        assert picture.count("<circle") == 3
        assert picture.count("<polyline") == 2, "a phase is a line of its own"
        assert "<script" not in picture
    heights = [float(y) for y in re.findall(r'cy="([\d.]+)"', loss)]
    assert heights == sorted(heights), "a loss that falls goes down the page"
    assert "2.5 in the first epoch, 0.05 in the last of 3" in loss


def test_a_diverged_or_broken_curve(tmp_path: Path) -> None:
    path = tmp_path / "curve.csv"
    path.write_text("phase,train_loss,val_acc1\ntrain,2.0,\ntrain,nan,\ntrain,inf,\n")
    (loss,) = curves(read_epochs(path), "x")
    assert loss.count("<circle") == 1
    path.write_text("phase,train_loss,val_acc1\ntrain,nan,\n")
    assert curves(read_epochs(path), "x") == []
    path.write_text("epoch,loss\n1,2\n")
    with pytest.raises(ValueError, match="no learning curve"):
        read_epochs(path)


@given(st.floats(1e-6, 1e6), st.floats(0, 1e6), st.booleans())
@example(0.9375, 2.220446049250313e-16, False)
@example(1.0, 2.220446049250313e-16, False)
@example(2544.386, 0.000176, False)
@example(1e-6, 1e-9, False)
def test_axes_hold_their_values(low: float, extent: float, may_log: bool) -> None:
    axis = value_axis(low, low + extent, may_log)
    assert -1e-6 <= axis.place(low) <= axis.place(low + extent) <= 1 + 1e-6
    assert 2 <= len(axis.ticks) <= 8
    assert len({f"{tick:g}" for tick in axis.ticks}) == len(axis.ticks)
    places = sorted(map(axis.place, axis.ticks))
    assert min(after - before for before, after in pairwise(places)) * HEIGHT > 11, "labels do not touch"
    assert all(-1e-6 <= axis.place(tick) <= 1 + 1e-6 for tick in axis.ticks)


@given(st.integers(1, 5000))
def test_epoch_ticks(count: int) -> None:
    ticks = epoch_ticks(count)
    assert ticks[0] == 1
    assert ticks == sorted(set(ticks))
    assert ticks[-1] <= count
    assert len(ticks) <= 7


# Colours


def themes() -> Iterator[dict[str, str]]:
    css = (Path(sys.modules["vpbench.reporting.page"].__file__ or "").parent / "style.css").read_text()
    light, dark = (dict(re.findall(r"--(\w+): (#\w{6});", block)) for block in re.findall(r":root \{(.*?)\}", css, re.DOTALL))
    assert light.keys() == dark.keys()
    yield light
    yield dark


def luminance(colour: str) -> float:
    """Relative luminance as WCAG 2 defines it."""
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def test_contrast_is_aa() -> None:
    for theme in themes():
        for ground in ("page", "card", "mark"):
            for ink, least in (
                ("text", 4.5),
                ("quiet", 4.5),
                ("link", 4.5),
                ("good", 4.5),
                ("bad", 4.5),
                ("focus", 3),
                ("curve", 3),
            ):
                light, dark = sorted((luminance(theme[ground]), luminance(theme[ink])), reverse=True)
                assert (light + 0.05) / (dark + 0.05) >= least, (ink, ground, theme)
