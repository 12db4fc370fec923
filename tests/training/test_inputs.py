"""What frozen blocks compute once is a shortcut only: numbers with it are those without it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from four_blocks import DEPTH
from sweeps import some

from vpbench.interface import Context
from vpbench.models.prompted import CachedActivations
from vpbench.spec.run_spec import Preprocess
from vpbench.training.fit import Trainer

MakeTrainer = Callable[..., Trainer]
# Method, options, and the first block that training changes anything for.
LATE: list[tuple[str, dict[str, Any], int]] = [
    ("linear", {}, DEPTH),
    ("mlp", {}, DEPTH),
    ("partial", {}, DEPTH - 1),
    ("partial", {"blocks": 3}, DEPTH - 3),
    ("vpt", {"start": DEPTH - 3}, DEPTH - 3),
    ("vpt:shallow", {"start": DEPTH - 1}, DEPTH - 1),
]
late = pytest.mark.parametrize(("label", "options", "first"), some(LATE, 3))
RANDOM: list[dict[str, Any]] = [{"preprocess": Preprocess(random_flip=True)}, {"mixup": 0.5}, {"cutmix": 0.5}]


def counted(trainer: Trainer, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """From now on, the index of every block that is run."""
    block, calls = trainer.model.backbone.block, []

    def call(index: int, *more: object) -> object:
        calls.append(index)
        return block(index, *more)  # type: ignore[arg-type]

    monkeypatch.setattr(trainer.model.backbone, "block", call)
    return calls


def numbers(trainer: Trainer) -> tuple[list[float], list[int], dict[str, torch.Tensor]]:
    """Losses, predictions on the test split, and the tensors that were trained."""
    trainer.fit()
    losses = trainer.first_losses + [epoch.train_loss for epoch in trainer.curve]
    return losses, trainer.evaluate(trainer.data.test).ranked.ravel().tolist(), trainer.snapshot()


@pytest.mark.parametrize(
    ("label", "options", "first", "precision"),
    [
        *(pytest.param(*late, "fp32", marks=() if late in (LATE[0], LATE[4]) else pytest.mark.sweep) for late in LATE),
        pytest.param(*LATE[0], "bf16", marks=pytest.mark.sweep),
        pytest.param(*LATE[4], "bf16", marks=pytest.mark.sweep),
    ],
)
def test_a_shortcut_only(
    label: str, options: dict[str, Any], first: int, precision: str, make_trainer: MakeTrainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Not Adam, which makes steps of full length from gradients that are nothing but rounding.
    settings = {"options": options, "epochs": 2, "precision": precision, "selection": "best_val", "optimizer": "sgd"}
    short = make_trainer(label, **settings)
    calls = counted(short, monkeypatch)
    losses, predictions, tensors = numbers(short)
    # Training images once, in three batches, validation and test images once; whatever the epochs.
    assert calls.count(0) == 3 + 1 + 1
    assert calls.count(DEPTH - 1) == 5 if first == DEPTH else calls.count(DEPTH - 1) > 3 * 2
    monkeypatch.setattr("vpbench.training.inputs.CACHE_LIMIT", 0)
    long = make_trainer(label, **settings)
    calls = counted(long, monkeypatch)
    expected = numbers(long)
    assert calls.count(0) > 3 * 2
    assert losses == pytest.approx(expected[0], rel=1e-4 if label == "mlp" else 1e-5)  # batch norm magnifies rounding
    assert predictions == expected[1]
    for name, tensor in tensors.items():
        torch.testing.assert_close(tensor, expected[2][name], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("change", some(RANDOM, 1))
def test_no_shortcut_when_images_change(change: dict[str, Any], make_trainer: MakeTrainer) -> None:
    for label, options, _ in LATE:
        trainer = make_trainer(label, options=options, **change)
        splits = (trainer.data.train, trainer.data.val, trainer.data.test)
        assert not any(trainer._inputs.caches_activations(split) for split in splits)


def test_what_is_kept(make_trainer: MakeTrainer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the test split features only, of a method that acts from the first block on nothing, and no more than a limit allows."""
    features, tokens, nothing = make_trainer("linear"), make_trainer("partial"), make_trainer("vpt")
    train, test = features.data.train, features.data.test
    assert features._inputs.caches_activations(train) and features._inputs.caches_activations(test)
    assert tokens._inputs.caches_activations(train) and not tokens._inputs.caches_activations(test)
    assert not nothing._inputs.caches_activations(train)
    monkeypatch.setattr("vpbench.training.inputs.CACHE_LIMIT", 4 * len(train) * 17 * 192)  # class token and 16 patches
    assert tokens._inputs.caches_activations(train)
    monkeypatch.setattr("vpbench.training.inputs.CACHE_LIMIT", 4 * len(train) * 17 * 192 - 1)
    assert not tokens._inputs.caches_activations(train)


@late
def test_nothing_in_front_is_part_of_the_graph(
    label: str, options: dict[str, Any], first: int, make_trainer: MakeTrainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The method is not asked about blocks in front of its first one, and sees no images."""
    trainer = make_trainer(label, options=options)
    asked: list[int] = []

    def before(block: int, tokens: Any, context: Context) -> Any:
        assert not len(context.images)
        asked.append(block)
        return before_block(block, tokens, context)

    before_block = trainer.model.method.before_block
    monkeypatch.setattr(trainer.model.method, "before_block", before)
    images = torch.randn(2, 3, 64, 64)
    cached = trainer.model.cache_activations(images)
    assert not cached.values.requires_grad
    trainer.model.eval()
    assert torch.equal(trainer.model(images), trainer.model(CachedActivations(cached.values)))
    assert asked == 2 * list(range(first, DEPTH))
