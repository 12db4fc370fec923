"""The classifier that weights were trained with: from every kind of file, frozen, or a reason why there is none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from sweeps import some
from test_hub_weights import hub, keep
from tiny_swin import images, tiny_swin
from torch import Tensor, nn
from weight_writers import NAME, SIZE, google_arrays, pictures, source, state

from vpbench.backbones.classifier import add_classifier, add_empty_classifier, read_heads
from vpbench.backbones.family import adapter_for
from vpbench.backbones.named import resolve_backbone
from vpbench.backbones.weights import fill, load_backbone
from vpbench.core.errors import UnsupportedError
from vpbench.models.build import empty_backbone
from vpbench.spec.run_spec import BackboneSpec

CLASSES = 7
__all__ = ["hub"]  # a fixture


@pytest.fixture(autouse=True)
def no_weights_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VPBENCH_WEIGHTS", raising=False)


def source_logits(path: Path, x: Tensor) -> Tensor:
    """Of the backbone in a file, and its classifier; planning sees as many classes."""
    spec = resolve_backbone(NAME, str(path), SIZE)
    backbone = load_backbone(spec, source_classifier=True)
    assert backbone.source_classifier is not None and load_backbone(spec).source_classifier is None
    empty = empty_backbone(spec, "meta")
    add_empty_classifier(empty, spec, "meta")
    assert empty.shape == backbone.shape and backbone.shape.source_classes == CLASSES
    assert all(tensor.is_meta for tensor in empty.parameters())
    assert not any(tensor.requires_grad for tensor in backbone.parameters())
    logits: Tensor = backbone.source_classifier(backbone(x))
    return logits


@pytest.mark.parametrize("suffix", some(["safetensors", "pth"], 1))
def test_timms_files(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"head.{suffix}"
    (save_file if suffix == "safetensors" else torch.save)(state(classes=CLASSES), path)
    assert torch.equal(source_logits(path, pictures()), source(classes=CLASSES)(pictures()))


def test_behind_a_wrapper_and_in_half_precision(tmp_path: Path) -> None:
    half = {name: tensor.half() for name, tensor in state(classes=CLASSES).items()}
    torch.save({"state_dict": half}, tmp_path / "head.pth")
    torch.testing.assert_close(
        source_logits(tmp_path / "head.pth", pictures()), source(classes=CLASSES)(pictures()), rtol=0.02, atol=0.02
    )


def test_it_is_found_at_another_image_size(tmp_path: Path) -> None:
    save_file(state(classes=CLASSES), tmp_path / "head.safetensors")
    backbone = load_backbone(resolve_backbone(NAME, str(tmp_path / "head.safetensors"), 48), source_classifier=True)
    assert torch.equal(dict(backbone.named_parameters())["source_classifier.weight"], source(classes=CLASSES).head.weight)


@pytest.mark.parametrize("prefix", some(["", "opt/target/"], 1))
def test_googles_files(prefix: str, tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    weight, bias = torch.randn(64, CLASSES, generator=generator), torch.randn(CLASSES, generator=generator)
    arrays: dict[str, Any] = {**google_arrays(source()), "head/kernel": weight.numpy(), "head/bias": bias.numpy()}
    np.savez(tmp_path / "test_vit.npz", **{prefix + name: array for name, array in arrays.items()})
    features = source()(pictures())
    torch.testing.assert_close(source_logits(tmp_path / "test_vit.npz", pictures()), features @ weight + bias)

    inner, shift = torch.randn(64, 64, generator=generator), torch.randn(64, generator=generator)
    arrays |= {"pre_logits/kernel": inner.numpy(), "pre_logits/bias": shift.numpy()}
    np.savez(tmp_path / "layered.npz", **{prefix + name: array for name, array in arrays.items()})
    expected = torch.tanh(features @ inner + shift) @ weight + bias
    torch.testing.assert_close(source_logits(tmp_path / "layered.npz", pictures()), expected)


def test_googles_first_files_have_a_classifier_of_zeros(tmp_path: Path) -> None:
    np.savez(tmp_path / "test_vit.npz", **google_arrays(source()))
    with pytest.raises(UnsupportedError, match="zero"):
        load_backbone(resolve_backbone(NAME, str(tmp_path / "test_vit.npz"), SIZE), source_classifier=True)


@pytest.mark.parametrize("official", [False, True])
def test_swin(official: bool, tmp_path: Path) -> None:
    swin = tiny_swin(num_classes=CLASSES)
    own = {name: tensor.clone() for name, tensor in swin.state_dict().items()}
    if official:
        own = {
            name.replace("head.fc.", "head.").replace("layers.1.downsample", "layers.0.downsample"): t for name, t in own.items()
        }
        assert "head.weight" in own
    save_file(own, tmp_path / "swin.safetensors")
    bare = tiny_swin()
    fill(bare, tmp_path / "swin.safetensors")
    adapter = adapter_for(bare)
    spec = BackboneSpec(name="x", weights="file", image_size=32, patch_size=4, mean=(0.5,) * 3, std=(0.5,) * 3)
    add_classifier(adapter, spec, tmp_path / "swin.safetensors")
    assert adapter.source_classifier is not None and adapter.shape.source_classes == CLASSES
    x = images(swin)
    torch.testing.assert_close(adapter.source_classifier(adapter(x)), swin(x))


def test_clip_has_its_projection(tmp_path: Path) -> None:
    projection = torch.randn(64, 5)
    torch.save(
        {"visual.proj": projection, "text_projection": torch.zeros(3, 3), "visual.conv1.weight": torch.zeros(2)},
        tmp_path / "x.pth",
    )
    heads = read_heads(tmp_path / "x.pth")
    assert heads.keys() == {"weight"} and torch.equal(heads["weight"], projection.T)


def test_a_projector_of_pretraining_is_no_classifier(tmp_path: Path) -> None:
    content = {f"module.base_encoder.{name}": tensor for name, tensor in state().items()}
    content |= {"module.base_encoder.head.0.weight": torch.ones(8, 64), "module.base_encoder.head.weight": torch.ones(8, 64)}
    torch.save({"state_dict": content}, tmp_path / "moco.pth")
    with pytest.raises(UnsupportedError, match=r"moco\.pth have none"):
        load_backbone(resolve_backbone(NAME, str(tmp_path / "moco.pth"), SIZE), source_classifier=True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"head.weight": None, "head.bias": None}, "have none"),
        ({"head_dist.weight": torch.ones(CLASSES, 64), "head_dist.bias": torch.ones(CLASSES)}, "has two"),
        ({"head.weight": torch.ones(CLASSES, 32)}, "reads 32 features, and the backbone gives 64"),
    ],
)
def test_reasons_why_there_is_none(change: dict[str, Tensor | None], message: str, tmp_path: Path) -> None:
    """When the run is planned, too."""
    content = {name: tensor for name, tensor in {**state(classes=CLASSES), **change}.items() if tensor is not None}
    save_file(content, tmp_path / "head.safetensors")
    spec = resolve_backbone(NAME, str(tmp_path / "head.safetensors"), SIZE)
    with pytest.raises(UnsupportedError, match=message):
        load_backbone(spec, source_classifier=True)
    with pytest.raises(UnsupportedError, match=message):
        add_empty_classifier(empty_backbone(spec, "meta"), spec, "meta")


def test_random_weights_have_a_random_one_of_the_architectures_own_size() -> None:
    spec = resolve_backbone(NAME, "random", SIZE)
    first, again = (load_backbone(spec, source_classifier=True) for _ in range(2))
    assert first.shape.source_classes == timm.get_pretrained_cfg(NAME).num_classes == 1000  # type: ignore[union-attr]
    state = first.state_dict()
    assert all(torch.equal(tensor, again.state_dict()[name]) for name, tensor in state.items())
    assert all(torch.equal(tensor, state[name]) for name, tensor in load_backbone(spec).state_dict().items())
    assert state["source_classifier.weight"].std() > 0
    assert load_backbone(resolve_backbone("vit-nano", "random"), source_classifier=True).shape.source_classes == 1000


@pytest.mark.sweep
def test_weights_on_the_hub_that_were_not_fetched(hub: Path) -> None:
    spec = resolve_backbone(NAME, image_size=SIZE)
    empty = empty_backbone(spec, "meta")
    add_empty_classifier(empty, spec, "meta")
    assert empty.shape.source_classes == 1000
    for name in ("vit_small_patch14_dinov2.lvd142m", "vit-b16-in21k", "vit-b16-dino"):
        headless = resolve_backbone(name)
        with pytest.raises(UnsupportedError, match="have none"):
            add_empty_classifier(empty_backbone(headless, "meta"), headless, "meta")
    keep(hub, "timm/test_vit.r160_in1k", timm.create_model(NAME, img_size=160, num_classes=CLASSES).state_dict())
    empty = empty_backbone(spec, "meta")
    add_empty_classifier(empty, spec, "meta")
    assert empty.shape.source_classes == CLASSES


def test_the_embedded_backbone_has_none() -> None:
    spec = resolve_backbone("vit-nano")
    with pytest.raises(UnsupportedError, match=r"vit-nano\.safetensors have none"):
        load_backbone(spec, source_classifier=True)


def test_it_takes_gradients_to_the_features_and_keeps_its_values(tmp_path: Path) -> None:
    save_file(state(classes=CLASSES), tmp_path / "head.safetensors")
    backbone = load_backbone(resolve_backbone(NAME, str(tmp_path / "head.safetensors"), SIZE), source_classifier=True)
    backbone.use_fastest_kernels("cpu", "fp32")
    assert isinstance(backbone.source_classifier, nn.Linear)
    features = backbone(pictures()).detach().requires_grad_()
    backbone.source_classifier(features)[:, 0].sum().backward()
    assert features.grad is not None
    torch.testing.assert_close(features.grad, source(classes=CLASSES).head.weight[:1].expand(2, -1))
    assert all(tensor.grad is None for tensor in backbone.parameters())


@pytest.mark.real
def test_the_real_vit_tiny_knows_photographs(shared: Path) -> None:
    """Tiny-ImageNet's class names begin with WordNet's numbers, and timm lists those of the classifier's 1,000 classes."""
    from test_real_weights import FILE, pictures
    from timm.data import ImageNetInfo

    pixels, labels, names = pictures(shared / "data/tiny_imagenet.parquet", "test", 1)
    spec = resolve_backbone("vit-tiny-augreg", str(shared / FILE))
    backbone = load_backbone(spec, source_classifier=True)
    assert backbone.shape.source_classes == 1000
    known = ImageNetInfo("imagenet-1k")  # reads files
    places = {known.index_to_label_name(index): index for index in range(1000)}
    targets = torch.tensor([places[names[label].split()[0]] for label in labels])
    classifier = backbone.source_classifier
    assert classifier is not None
    with torch.no_grad():
        logits = torch.cat([classifier(backbone(batch)) for batch in ((pixels - 0.5) / 0.5)[::2].split(50)])
    assert 100 * (logits.argmax(-1) == targets[::2]).double().mean() > 30  # by chance 0.1
