"""Side-tuning: golden outputs of the released blending, counts, the side network and its weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from golden_fill import golden_cases, golden_model, images, load_golden, run_case
from vpbench.backbones.vit import ViTAdapter
from vpbench.core.errors import WeightsError
from vpbench.measure.size import parameter_counts
from vpbench.methods.sidetune import Sidetune
from vpbench.models.prompted import PromptedModel
from vpbench.models.registry import resolve_method

NO_SESSION: Any = None


class WithPooling(Sidetune):
    """With the side network of the golden cases: means of four quarters of the image."""

    def side_network(self) -> tuple[nn.Module, int]:
        return nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten()), 12

    def _resized(self, images: torch.Tensor) -> torch.Tensor:
        return images


@pytest.mark.parametrize("case", golden_cases("baselines/sidetune"))
def test_golden(case: str) -> None:
    golden = load_golden("baselines/sidetune")
    model = golden_model(golden["config"], WithPooling, {})
    tensors = {f"sidetune.{name}": tensor for name, tensor in model.own.named_parameters()}
    run_case(model, golden["config"], golden["cases"][case], tensors)


def test_counts_on_vit_b16(vit_b16: ViTAdapter) -> None:
    with torch.device("meta"):
        model = PromptedModel(vit_b16, Sidetune(Sidetune.Config(), vit_b16.shape, 100), 100)
    counts = parameter_counts(model)
    assert counts["params_method"] == counts["params_active"] == 9_547_585
    assert counts["params_head"] == 76_900


def small(**settings: Any) -> PromptedModel:
    torch.manual_seed(0)
    return golden_model(load_golden("baselines/sidetune")["config"], Sidetune, settings)


@pytest.mark.sweep
def test_the_side_network_is_torchvision_s(tmp_path: Path) -> None:
    from torchvision.models import alexnet

    torch.manual_seed(1)
    network = alexnet(weights=None).eval()
    save_file(network.state_dict(), tmp_path / "alexnet.safetensors")
    torch.save(network.state_dict(), tmp_path / "alexnet.pth")
    x = torch.randn(2, 3, 96, 96)
    expected = network.avgpool(network.features(x)).flatten(1)
    for file in ("alexnet.safetensors", "alexnet.pth"):
        model = small(weights=str(tmp_path / file))
        assert not torch.equal(model.own.side(x), expected)  # type: ignore[operator]
        model.method.prepare(NO_SESSION)
        torch.testing.assert_close(model.own.side(x), expected)  # type: ignore[operator]


def test_random_weights_stay_and_are_marked() -> None:
    model = small(weights="random")
    before = model.snapshot()
    model.method.prepare(NO_SESSION)
    assert all(torch.equal(value, before[name]) for name, value in model.snapshot().items())
    assert resolve_method("sidetune:random").config["weights"] == "random"
    assert resolve_method("sidetune:random").label == "sidetune:random"


def test_weights_that_cannot_be_used(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"missing\.pth .*weights=random"):
        small(weights=str(tmp_path / "missing.pth")).method.prepare(NO_SESSION)
    save_file({"features.0.weight": torch.zeros(3)}, tmp_path / "other.safetensors")
    with pytest.raises(WeightsError, match=r"features\.0\.weight"):
        small(weights=str(tmp_path / "other.safetensors")).method.prepare(NO_SESSION)


def test_the_hub_is_asked_for_torchvision_s_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision.models import AlexNet_Weights

    asked = []

    def unreachable(self: AlexNet_Weights, **_: Any) -> None:
        asked.append(self.url)
        raise OSError("no route to host")

    monkeypatch.setattr(AlexNet_Weights, "get_state_dict", unreachable)
    with pytest.raises(WeightsError, match=r"no route to host.*weights=FILE"):
        small().method.prepare(NO_SESSION)
    assert asked == [AlexNet_Weights.IMAGENET1K_V1.url]


def test_small_images_are_enlarged() -> None:
    model = small(weights="random")
    x = images(load_golden("baselines/sidetune")["config"])
    assert x.shape[-1] == 32
    method: Any = model.method
    assert method._resized(x).shape[-1] == 64
    assert method._resized(torch.zeros(1, 3, 224, 224)).shape[-1] == 224
    assert small(weights="random", side_size=128).method._resized(x).shape[-1] == 128  # type: ignore[attr-defined]
    side = model.own.projection(model.own.side(method._resized(x)))  # type: ignore[operator]
    torch.testing.assert_close(model(x), model.head((model.plain_features(x) + side) / 2))
