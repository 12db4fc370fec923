"""A real ViT-Tiny on real photographs: what its features and its own classifier say of them."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from sklearn.neighbors import KNeighborsClassifier
from timm.data import ImageNetInfo
from torch import Tensor

from vpbench.backbones.base import Backbone
from vpbench.backbones.named import resolve_backbone
from vpbench.backbones.weights import load_backbone
from vpbench.spec.run_spec import BackboneSpec

pytestmark = pytest.mark.real
NAME, FILE = "vit-tiny-augreg", "weights/vit_tiny_patch16_224_in1k_fp16.safetensors"
IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@pytest.fixture(scope="module")
def spec(shared: Path) -> BackboneSpec:
    return resolve_backbone(NAME, str(shared / FILE))


@pytest.fixture(scope="module")
def tiny(spec: BackboneSpec) -> Backbone:
    return load_backbone(spec)


def pictures(path: Path, split: str, per_class: int) -> tuple[Tensor, np.ndarray, list[str]]:
    """The first images of each class, (images, 3, 224, 224) from 0 to 1, their labels, and the classes' names."""
    table = pq.read_table(path)
    table = table.filter(np.array(table["split"].to_pylist()) == split)
    labels = np.array(table["label"].to_pylist())
    chosen = np.concatenate([np.flatnonzero(labels == label)[:per_class] for label in np.unique(labels)])
    images = []
    for cell in table["image"].take(chosen).to_pylist():
        image = Image.open(io.BytesIO(cell["bytes"])).convert("RGB").resize((224, 224), Image.Resampling.BICUBIC)
        images.append(torch.from_numpy(np.asarray(image).copy()))
    pixels = torch.stack(images).permute(0, 3, 1, 2).float() / 255
    return pixels, labels[chosen], json.loads(pq.read_schema(path).metadata[b"class_names"])


@torch.no_grad()
def features(backbone: Backbone, pixels: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    normalised = (pixels - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    return torch.cat([backbone(batch) for batch in normalised.split(50)])


def test_its_own_classifier_knows_small_photographs(tiny: Backbone, spec: BackboneSpec, shared: Path) -> None:
    """Tiny-ImageNet's class names begin with WordNet's numbers, and timm lists those of the classifier's 1,000 classes."""
    pixels, labels, names = pictures(shared / "data/tiny_imagenet.parquet", "test", 1)
    pixels, labels = pixels[::2], labels[::2]
    known = ImageNetInfo("imagenet-1k")  # reads files
    places = {known.index_to_label_name(index): index for index in range(1000)}
    targets = torch.tensor([places[names[label].split()[0]] for label in labels])
    assert len(targets.unique()) == 100
    head = load_file(shared / FILE)
    weight, bias = head["head.weight"].float(), head["head.bias"].float()

    def top1(mean: tuple[float, ...], std: tuple[float, ...]) -> float:
        logits = features(tiny, pixels, mean, std) @ weight.T + bias
        return 100 * (logits.argmax(-1) == targets).double().mean().item()

    own, other = top1(spec.mean, spec.std), top1(*IMAGENET)
    assert own > 30  # by chance 0.1
    assert own > other + 5  # the card's normalisation is the one it was trained with


@pytest.mark.sweep
def test_its_features_tell_flowers_apart(tiny: Backbone, spec: BackboneSpec, shared: Path) -> None:
    random = load_backbone(resolve_backbone(NAME, "random"))
    (train, train_labels, _), (test, test_labels, _) = (
        pictures(shared / "data/flowers12.parquet", split, count) for split, count in (("train", 12), ("test", 5))
    )
    found = []
    for backbone in (tiny, random):
        known, asked = (features(backbone, pixels, spec.mean, spec.std).numpy() for pixels in (train, test))
        neighbours = KNeighborsClassifier(5, metric="cosine").fit(known, train_labels)
        found.append(100 * neighbours.score(asked, test_labels))
    assert found[0] > 95
    assert found[1] < 50


def test_weights_are_those_of_the_file(tiny: Backbone, spec: BackboneSpec, shared: Path) -> None:
    assert (spec.name, spec.weights, spec.image_size, spec.patch_size) == (NAME, "file", 224, 16)
    stored = load_file(shared / FILE)
    assert {name for name in stored if name not in tiny.vit.state_dict()} == {"head.weight", "head.bias"}
    assert all(torch.equal(tensor, stored[name].float()) for name, tensor in tiny.vit.state_dict().items())
