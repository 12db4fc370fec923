"""Weights of the hub, without a network: from its cache, or one clear error."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file

from vpbench.backbones.named import resolve_backbone
from vpbench.backbones.weights import load_backbone
from vpbench.core.errors import WeightsError


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty hub cache, and no network: the library reads its environment once, so its constants are set."""
    from huggingface_hub import constants

    monkeypatch.delenv("VPBENCH_WEIGHTS", raising=False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    return tmp_path


def keep(hub: Path, repository: str, content: dict[str, torch.Tensor]) -> Path:
    """Put a file into the cache, in the hub's own layout."""
    folder, commit = hub / f"models--{repository.replace('/', '--')}", "0123456789abcdef0123456789abcdef01234567"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text(commit)
    path = folder / "snapshots" / commit / "model.safetensors"
    path.parent.mkdir(parents=True)
    save_file(content, path)
    return path


@pytest.mark.parametrize("name", ["test_vit", "test_vit.r160_in1k"])
def test_from_the_cache(name: str, hub: Path) -> None:
    vit = timm.create_model("test_vit", img_size=160).eval()
    keep(hub, "timm/test_vit.r160_in1k", vit.state_dict())
    spec = resolve_backbone(name, image_size=32)
    assert spec.weights == "hub:timm/test_vit.r160_in1k/model.safetensors"
    assert spec.path is None
    x = torch.randn(1, 3, 160, 160)
    loaded = load_backbone(resolve_backbone(name, image_size=160))
    assert torch.equal(loaded(x), vit.forward_head(vit.forward_features(x), pre_logits=True))
    assert load_backbone(spec).vit.pos_embed.shape == (1, 5, 64)


def test_not_in_the_cache(hub: Path) -> None:
    spec = resolve_backbone("test_vit")
    with pytest.raises(WeightsError) as caught:
        load_backbone(spec)
    message = str(caught.value)
    assert "\n" not in message
    assert "timm/test_vit.r160_in1k" in message
    assert "--weights" in message


def test_hub_that_cannot_be_reached(
    hub: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:  # fmt: skip
    """Three short tries in silence, then one line."""
    import huggingface_hub
    from huggingface_hub import constants

    from vpbench.backbones import fetch

    tries: list[str] = []
    logger = logging.getLogger("huggingface_hub.utils._http")

    def unreachable(url: str) -> None:
        tries.append(url)
        logger.warning("Retrying in 1s")
        raise OSError("Name or service not known")

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", unreachable)
    monkeypatch.setattr(fetch.time, "sleep", lambda seconds: None)
    with pytest.raises(
        WeightsError, match=r"^weights of test_vit: timm/test_vit\S+: \S+ cannot be reached \(OSError: Name or"
    ) as caught:
        load_backbone(resolve_backbone("test_vit"))
    assert len(tries) == 3 and "--weights" in str(caught.value) and "\n" not in str(caught.value)
    assert not caplog.records


def test_damaged_in_the_cache(hub: Path) -> None:
    path = keep(hub, "timm/test_vit.r160_in1k", {"a": torch.zeros(2)})
    with pytest.raises(WeightsError, match="does not match the architecture"):
        load_backbone(resolve_backbone("test_vit"))
    path.write_bytes(b"half a file")
    with pytest.raises(WeightsError, match="is a text file, no weight file: fetch it again"):
        load_backbone(resolve_backbone("test_vit"))
