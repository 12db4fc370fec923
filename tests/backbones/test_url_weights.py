"""Weights from the address on a card: fetched once, checked, and only then given their name."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from file_server import FileServer, serving
from test_checkpoint_layouts import encoder, moco_linear

from vpbench.backbones import fetch as fetch_module
from vpbench.backbones.named import resolve_backbone
from vpbench.backbones.weights import load_backbone
from vpbench.core import cards
from vpbench.core.errors import WeightsError
from vpbench.data.download import RetryPolicy

CARD = """
title = "MoCo, small"
timm = "test_vit"
url = "{url}"
md5 = "{md5}"
mean = [0.485, 0.456, 0.406]
std = [0.229, 0.224, 0.225]
parameters = 1
pretraining = "none"
licence = "none"
source = "here"
"""


@pytest.fixture
def server() -> Iterator[FileServer]:
    with serving() as found:
        yield found


@pytest.fixture
def content(tmp_path: Path) -> bytes:
    """A linear probe's file in MoCo's layout."""
    torch.save(moco_linear(encoder()), tmp_path / "made.pth.tar")
    return (tmp_path / "made.pth.tar").read_bytes()


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that fetched weights go to; cards are read from ``tmp_path / "cards"``."""
    (tmp_path / "cards").mkdir()
    monkeypatch.setattr(cards, "_folder", lambda name: tmp_path / "cards")
    monkeypatch.setenv("VPBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("VPBENCH_WEIGHTS", raising=False)
    patient = fetch_module.fetch
    monkeypatch.setattr(
        fetch_module, "fetch", lambda *given, **more: patient(*given, **{**more, "retries": RetryPolicy(attempts=2, pause=0.01)})
    )
    return tmp_path / "cache" / "weights"


def card(cache: Path, url: str, md5: str) -> None:
    (cache.parents[1] / "cards" / "small-moco.toml").write_text(CARD.format(url=url, md5=md5))


def published(content: bytes) -> str:
    """The beginning of a checksum, as tables in papers' repositories print it."""
    return hashlib.md5(content, usedforsecurity=False).hexdigest()[:6]


def refusal() -> str:
    with pytest.raises(WeightsError) as caught:
        load_backbone(resolve_backbone("small-moco", image_size=32))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_fetched_once(server: FileServer, content: bytes, cache: Path) -> None:
    card(cache, server.put("moco.pth.tar", content), published(content))
    spec = resolve_backbone("small-moco", image_size=32)
    assert (spec.weights, spec.path, spec.sha256) == (f"url:{server.url}/moco.pth.tar", None, None)
    adapter = load_backbone(spec)
    assert adapter.weights_sha256 == hashlib.sha256(content).hexdigest()
    assert torch.equal(adapter.state_dict()["vit.norm.weight"], encoder()["norm.weight"])
    assert [file.name for file in cache.iterdir()] == ["moco.pth.tar"]
    assert len(server.exchanges) == 1
    load_backbone(spec)
    assert len(server.exchanges) == 1
    assert resolve_backbone("small-moco", image_size=32) == spec  # having fetched it does not change a run's identity


def test_another_file_at_the_address(server: FileServer, content: bytes, cache: Path) -> None:
    card(cache, server.put("moco.pth.tar", content), "0123ab")
    message = refusal()
    assert f"md5 {hashlib.md5(content, usedforsecurity=False).hexdigest()}, the card says 0123ab" in message
    assert "removed" in message and "--weights" in message
    assert not list(cache.iterdir())


def test_cut_off_and_continued(server: FileServer, content: bytes, cache: Path) -> None:
    card(cache, server.put("moco.pth.tar", content), published(content))
    server.faults = [-1000, None]
    assert torch.equal(
        load_backbone(resolve_backbone("small-moco", image_size=32)).state_dict()["vit.norm.weight"], encoder()["norm.weight"]
    )
    assert len(server.exchanges) == 2
    assert [file.name for file in cache.iterdir()] == ["moco.pth.tar"]


def test_cut_off_for_good(server: FileServer, content: bytes, cache: Path) -> None:
    card(cache, server.put("moco.pth.tar", content), published(content))
    server.faults = [-1000, 500, 500, 500]
    message = refusal()
    assert "cannot be fetched" in message and "--weights" in message
    assert not (cache / "moco.pth.tar").exists()


def test_not_there(server: FileServer, cache: Path) -> None:
    card(cache, f"{server.url}/gone.pth.tar", "0123ab")
    assert "404" in refusal()


def test_damaged_in_the_cache(server: FileServer, content: bytes, cache: Path) -> None:
    card(cache, server.put("moco.pth.tar", content), published(content))
    load_backbone(resolve_backbone("small-moco", image_size=32))
    (cache / "moco.pth.tar").write_bytes(content[:-100])
    message = refusal()
    assert str(cache / "moco.pth.tar") in message and "delete it" in message


def test_folder_that_cannot_be_made(server: FileServer, content: bytes, cache: Path) -> None:
    card(cache, server.put("moco.pth.tar", content), published(content))
    cache.parent.write_text("a file where the folder should be")
    assert "VPBENCH_CACHE" in refusal()


def test_folder_of_official_files(server: FileServer, content: bytes, cache: Path, tmp_path: Path) -> None:
    """In a folder that is given, the file under its published name; nothing is fetched."""
    card(cache, server.put("moco.pth.tar", content), published(content))
    folder = tmp_path / "weights"
    folder.mkdir()
    (folder / "moco.pth.tar").write_bytes(content)
    (folder / "test_vit.pth").write_bytes(b"another model's")
    spec = resolve_backbone("small-moco", str(folder), 32)
    assert (spec.weights, spec.path) == ("file", str(folder / "moco.pth.tar"))
    load_backbone(spec)
    assert not server.exchanges
    (folder / "moco.pth.tar").unlink()
    with pytest.raises(WeightsError, match="no file called small-moco or moco with"):
        resolve_backbone("small-moco", str(folder), 32)
