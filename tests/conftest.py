"""Fixtures for all tests."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from vpbench.backbones.vit import ViTAdapter


def pytest_configure() -> None:
    """What the machine and the shell around the tests would decide otherwise.

    - A shell starts what it runs in the background with Ctrl-C ignored, and processes hand that on to those they start.
    - pytest's processes each have a cache folder, so each would measure which matrix product is faster, and some tests compare
      bit by bit what two of them computed.
    """
    os.environ.setdefault("VPBENCH_LINEAR", "default")
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with real images and weights, which do not ship: ``VPBENCH_SHARED``, or ``../shared`` beside the checkout."""
    folder = Path(os.environ.get("VPBENCH_SHARED") or Path(__file__).resolve().parents[2] / "shared")
    if not folder.is_dir():
        pytest.skip(f"no real data: {folder} does not exist; set VPBENCH_SHARED")
    return folder


@pytest.fixture(scope="session")
def vit_b16() -> ViTAdapter:
    """ViT-B/16 at 224 pixels without values, for counting."""
    import timm  # not above, since the process that hands out the tests to others reads this file, too
    import torch

    from vpbench.backbones.vit import ViTAdapter

    with torch.device("meta"):
        return ViTAdapter(timm.create_model("vit_base_patch16_224", num_classes=0))


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder, as after a plain ``pip install``, and no folders of the user's."""
    monkeypatch.setenv("VPBENCH_PATH", "")
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "work"
