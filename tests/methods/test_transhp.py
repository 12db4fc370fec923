"""TransHP's stand-in: counts, coarse classes, one prompting block, and its loss."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest
import torch
import torch.nn.functional as F
from timm.models import VisionTransformer
from torch import Tensor

from vpbench.backbones.vit import ViTAdapter
from vpbench.core.errors import UsageError
from vpbench.interface import Session
from vpbench.measure.size import parameter_counts
from vpbench.methods.transhp import TransHP
from vpbench.models.prompted import PromptedModel
from vpbench.models.registry import resolve_method


def tiny(classes: int = 9, **options: Any) -> PromptedModel:
    torch.manual_seed(0)
    vit = VisionTransformer(img_size=32, patch_size=8, embed_dim=48, depth=4, num_heads=4, num_classes=0)
    adapter = ViTAdapter(vit.double())
    return PromptedModel(adapter, TransHP(TransHP.Config(**options), adapter.shape, classes), classes).double()


X = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0), dtype=torch.double)
TARGETS = torch.tensor([0, 4, 8, 2])


class Features:
    """A session with the features of a training split, and nothing else."""

    def __init__(self, features: Tensor, labels: Tensor) -> None:
        self._found = features, labels

    def features(self, split: str = "train") -> tuple[Tensor, Tensor]:
        assert split == "train"
        return self._found

    def training_batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        raise AssertionError("features are enough")


def prepare(model: PromptedModel, features: Tensor, labels: Tensor) -> list[int]:
    model.method.prepare(cast(Session, Features(features, labels)))
    found: list[int] = model.own.coarse_of_class.tolist()
    return found


def test_count_on_vit_b16(vit_b16: ViTAdapter) -> None:
    with torch.device("meta"):
        method = TransHP(TransHP.Config(), vit_b16.shape, 100)
        counts = parameter_counts(PromptedModel(vit_b16, method, 100))
    assert counts["params_method"] == 2 * 768 * 10 == 15_360
    assert method.first_block == 9


@pytest.mark.parametrize("block", [0, 2, 3])
def test_prompts_are_there_in_one_block_alone(block: int) -> None:
    model = tiny(block=block)
    lengths: list[int] = []
    for each in model.backbone.vit.blocks:
        each.register_forward_pre_hook(lambda _, inputs: lengths.append(inputs[0].shape[1]))
    model.backbone.skip_unused = False
    loss, logits = model.training_loss(X, TARGETS)
    assert lengths == [17 + 3 * (index == block) for index in range(4)]
    tokens = model.backbone.embed(X)
    scores = torch.empty(0)
    for index in range(4):
        tokens = model.backbone.block(index, tokens.with_prompts(model.own.prompts) if index == block else tokens)
        if index == block:
            scores = torch.stack([tokens.prompt_tokens[:, m] @ model.own.scores[m] for m in range(3)], 1)
            tokens = type(tokens)(tokens.image_tokens, tokens.prefix)
    expected = model.head(model.backbone.pool(tokens))
    torch.testing.assert_close(logits, expected.float())
    coarse = F.cross_entropy(scores.float(), model.own.coarse_of_class[TARGETS])
    torch.testing.assert_close(loss, F.cross_entropy(expected.float(), TARGETS) + 0.15 * coarse)
    model.backbone.skip_unused = True
    torch.testing.assert_close(model.eval()(X), expected)


def test_mixed_targets_mix_their_coarse_classes() -> None:
    model = tiny(coarse_labels=(0, 0, 0, 1, 1, 1, 2, 2, 2))
    hard, _ = model.training_loss(X, TARGETS)
    soft, _ = model.training_loss(X, F.one_hot(TARGETS, 9).float())
    torch.testing.assert_close(hard, soft)


def test_k_means_finds_classes_that_lie_together() -> None:
    """Nine classes around three points, given in any order of images; the global seed alone decides the labels' order."""
    model = tiny()
    centres = torch.tensor([[10.0, 0, 0], [0, 10, 0], [0, 0, 10]])
    labels = torch.arange(9).repeat(5)[torch.randperm(45, generator=torch.Generator().manual_seed(1))]
    features = centres[labels % 3] + 0.1 * torch.randn(45, 3, generator=torch.Generator().manual_seed(2))
    torch.manual_seed(5)
    found = prepare(model, features, labels)
    assert found == [found[0], found[1], found[2]] * 3 and sorted(found[:3]) == [0, 1, 2]
    torch.manual_seed(5)
    assert prepare(tiny(), features, labels) != [0] * 9
    torch.manual_seed(5)
    again = tiny()
    torch.manual_seed(5)
    assert prepare(again, features, labels) == found


def test_classes_without_images_and_fewer_classes_than_clusters() -> None:
    labels = torch.tensor([1, 1, 7, 7])
    found = prepare(tiny(), torch.randn(4, 3), labels)
    assert sorted([found[1], found[7]]) == [0, 1]
    assert not any(found[label] for label in range(9) if label not in (1, 7))


def test_coarse_labels_of_a_file_are_part_of_the_specification(tmp_path: Path) -> None:
    file = tmp_path / "coarse.txt"
    file.write_text("0\n0\n0\n2\n2\n1\n1\n1\n1\n")
    spec = resolve_method("transhp", {"coarse_labels": str(file)})
    assert spec.config["coarse_labels"] == [0, 0, 0, 2, 2, 1, 1, 1, 1]
    file.unlink()
    model = tiny(**spec.config)
    assert model.own.coarse_of_class.tolist() == spec.config["coarse_labels"]
    model.method.prepare(cast(Session, None))  # nothing is left to find
    assert model.own.coarse_of_class.tolist() == spec.config["coarse_labels"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"block": 4}, "blocks 0 to 3"),
        ({"coarse_labels": (0, 1)}, "2 labels, and there are 9 classes"),
        ({"coarse_labels": (0, 1, 2) * 3, "coarse_classes": 2}, "has the class 2"),
    ],
)
def test_options_that_do_not_fit(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        tiny(**options)


def test_files_that_do_not_fit(tmp_path: Path) -> None:
    (tmp_path / "words.txt").write_text("cat\ndog\n")
    for value, message in ((str(tmp_path / "words.txt"), "one whole number per line"), ("missing.txt", "no file missing.txt")):
        with pytest.raises(UsageError, match=message):
            resolve_method("transhp", {"coarse_labels": value})
    with pytest.raises(UsageError, match="counted from 0"):
        resolve_method("transhp", {"coarse_labels": [-1, 0]})
