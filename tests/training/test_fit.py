"""Fitting: the backbone stays, seeds decide, the best epoch comes back, and mixing images copes with odd batches."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from sweeps import case, some
from torch import Tensor

from vpbench.core.errors import DivergedError
from vpbench.data.batches import evaluation_batches
from vpbench.data.cache import CachedData, CachedSplit
from vpbench.interface import Tokens
from vpbench.planning.suites import suite_card
from vpbench.spec.run_spec import Preprocess
from vpbench.training.fit import Trainer

MakeTrainer = Callable[..., Trainer]
SIX = suite_card("mini").methods


def fitted(trainer: Trainer) -> Trainer:
    trainer.fit()
    return trainer


@pytest.mark.parametrize("label", some(SIX, 3))
def test_training_changes_the_method_and_not_the_backbone(label: str, make_trainer: MakeTrainer) -> None:
    trainer = make_trainer(label, weight_decay=0.1)
    backbone = {name: tensor.clone() for name, tensor in trainer.model.backbone.state_dict().items()}
    own = trainer.model.snapshot()
    fitted(trainer)
    after = trainer.model.backbone.state_dict()
    assert [name for name, tensor in backbone.items() if not torch.equal(tensor, after[name])] == []
    assert not any(module.training for module in trainer.model.backbone.modules())
    changed = {name for name, tensor in trainer.model.snapshot().items() if not torch.equal(tensor, own[name])}
    assert {"head.weight", "head.bias"} <= changed
    assert label == "linear" or any(name.startswith("own.") for name in changed)


def result(trainer: Trainer) -> tuple[list[float], list[int]]:
    """Losses of the first steps and of all epochs, and predictions on the test split."""
    fitted(trainer)
    losses = trainer.first_losses + [epoch.train_loss for epoch in trainer.curve]
    return losses, trainer.evaluate(trainer.data.test).ranked.ravel().tolist()


@pytest.mark.parametrize("label", [case(label, always=["vpt"]) for label in ("linear", "vpt", "viapt")])
def test_the_seed_decides(label: str, make_trainer: MakeTrainer) -> None:
    settings = {"epochs": 2, "preprocess": Preprocess(random_flip=True), "mixup": 0.8, "cutmix": 1.0}
    first = result(make_trainer(label, **settings))
    assert result(make_trainer(label, **settings)) == first
    assert result(make_trainer(label, **settings, seed=43))[0] != first[0]


def short_of_memory(trainer: Trainer, most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on more than ``most`` images at once are too many for the blocks."""
    block = trainer.model.backbone.block

    def limited(index: int, tokens: Tokens, *more: object) -> Tokens:
        if tokens.batch_size > most:
            raise RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory")
        return block(index, tokens, *more)

    monkeypatch.setattr(trainer.model.backbone, "block", limited)


@pytest.mark.parametrize("label", [case(label, always=["vpt:shallow"]) for label in ("vpt:shallow", "ivpt", "linear", "partial")])
@pytest.mark.parametrize(("most", "parts"), [(4, 1), (2, 2), (1, 4)])
def test_short_memory(label: str, most: int, parts: int, make_trainer: MakeTrainer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts of a batch give the gradients of the whole; methods here draw nothing at random."""
    settings = {"label_smoothing": 0.1, "mixup": 0.8, "batch_size": 4}
    losses, predictions = result(make_trainer(label, **settings))
    trainer = make_trainer(label, **settings)
    short_of_memory(trainer, most, monkeypatch)
    found, predicted = result(trainer)
    assert trainer.batch_parts == parts
    assert found == pytest.approx(losses, rel=3e-4)  # AdamW makes more of a rounding error
    assert predicted == predictions


@pytest.mark.parametrize("label", ["linear", "partial"])
def test_short_memory_for_what_is_kept(label: str, make_trainer: MakeTrainer, monkeypatch: pytest.MonkeyPatch) -> None:
    losses, predictions = result(make_trainer(label, epochs=2))
    trainer = make_trainer(label, epochs=2)
    short_of_memory(trainer, 2, monkeypatch)
    found, predicted = result(trainer)
    assert found == pytest.approx(losses, rel=1e-4)
    assert predicted == predictions


def test_memory_for_no_image(make_trainer: MakeTrainer, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = make_trainer("vpt")
    short_of_memory(trainer, 0, monkeypatch)
    with pytest.raises(RuntimeError, match="can't allocate"):
        trainer.fit()


def test_a_method_that_needs_whole_batches_gets_no_parts(make_trainer: MakeTrainer, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = make_trainer("viapt")
    short_of_memory(trainer, 2, monkeypatch)
    with pytest.raises(RuntimeError, match="can't allocate"):
        trainer.fit()
    assert trainer.batch_parts == 1


def test_label_smoothing_is_torchs(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer("linear", label_smoothing=0.1)
    logits, labels = torch.randn(8, 3, generator=torch.Generator().manual_seed(0)), torch.arange(8) % 3
    ours = torch.nn.functional.cross_entropy(logits, trainer._smoothed(labels))
    theirs = torch.nn.functional.cross_entropy(logits, labels, label_smoothing=0.1)
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-6)
    assert torch.equal(make_trainer("linear")._smoothed(labels), labels)


@pytest.mark.parametrize("batch_size", some([1, 2, 4, 7, 9], 3))
def test_mixing_copes_with_any_batch(batch_size: int, make_trainer: MakeTrainer) -> None:
    """Nine images: batches of one, of an odd number, and one left over."""
    trainer = fitted(make_trainer("linear", mixup=0.8, cutmix=1.0, label_smoothing=0.1, batch_size=batch_size))
    assert np.isfinite(trainer.curve[0].train_loss)


def seen(trainer: Trainer, monkeypatch: pytest.MonkeyPatch) -> list[tuple[Tensor, Tensor]]:
    """What the loss is called with in training."""
    batches: list[tuple[Tensor, Tensor]] = []
    loss = trainer._loss
    monkeypatch.setattr(
        trainer, "_loss", lambda inputs, targets: batches.append((inputs.clone(), targets)) or loss(inputs, targets)
    )
    fitted(trainer)
    return batches


def test_mixed_targets_are_probabilities(make_trainer: MakeTrainer, monkeypatch: pytest.MonkeyPatch) -> None:
    batches = seen(make_trainer("linear", mixup=0.8, batch_size=4), monkeypatch)
    assert [len(inputs) for inputs, _ in batches] == [4, 4, 1]
    for _, targets in batches[:2]:
        assert targets.shape == (4, 3)
        assert torch.allclose(targets.sum(1), torch.ones(4))


def test_every_image_once_per_epoch(make_trainer: MakeTrainer, data: CachedData, monkeypatch: pytest.MonkeyPatch) -> None:
    batches = seen(make_trainer("vpt", epochs=2, batch_size=4), monkeypatch)
    assert [len(inputs) for inputs, _ in batches] == [4, 4, 1] * 2
    images = torch.cat([inputs for inputs, _ in batches]).flatten(1).sum(1)
    assert images[:9].sort().values.tolist() == images[9:].sort().values.tolist()
    assert len(set(images[:9].tolist())) == 9
    assert images[:9].tolist() != images[9:].tolist()


def scripted(trainer: Trainer, accuracies: list[float], monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Tensor]]:
    """Validation that gives these accuracies; the snapshots of the method when it was asked."""
    snapshots: list[dict[str, Tensor]] = []
    script: Iterator[float] = iter(accuracies)

    def validate() -> float:
        snapshots.append(trainer.snapshot())
        return next(script)

    monkeypatch.setattr(trainer, "validate", validate)
    return snapshots


@pytest.mark.parametrize(("accuracies", "best"), [([10, 50, 30], 2), ([50, 50, 30], 1), ([10, 20, 30], 3)])
def test_best_epoch_comes_back(
    accuracies: list[float], best: int, make_trainer: MakeTrainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = make_trainer("linear", epochs=3, selection="best_val")
    snapshots = scripted(trainer, accuracies, monkeypatch)
    fitted(trainer)
    assert trainer.selected_epoch == best
    assert [epoch.val_acc1 for epoch in trainer.curve] == accuracies
    kept = trainer.snapshot()
    for index, snapshot in enumerate(snapshots):
        assert all(torch.equal(kept[name], snapshot[name]) for name in kept) == (index == best - 1)


def test_last_epoch_asks_for_no_validation(make_trainer: MakeTrainer, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = make_trainer("linear", epochs=3)
    assert scripted(trainer, [], monkeypatch) == []
    fitted(trainer)
    assert trainer.selected_epoch == 3
    assert [epoch.val_acc1 for epoch in trainer.curve] == [None] * 3


def test_a_validation_curve_changes_no_result(make_trainer: MakeTrainer, data: CachedData) -> None:
    """With a method that draws in every forward pass of training."""
    plain, watched = (
        fitted(make_trainer("vpt", epochs=3, ema=0.5, options={"dropout": 0.5}, val_curve=val_curve))
        for val_curve in (False, True)
    )
    assert [epoch.train_loss for epoch in watched.curve] == [epoch.train_loss for epoch in plain.curve]
    assert all(torch.equal(tensor, watched.snapshot()[name]) for name, tensor in plain.snapshot().items())
    assert [epoch.val_acc1 for epoch in plain.curve] == [None] * 3
    scores = watched.evaluate(data.val)
    assert (watched.curve[-1].val_acc1, watched.curve[-1].val_loss) == (scores.acc1, scores.loss)
    with torch.no_grad():
        logits = torch.cat([watched.logits(images) for images, _ in evaluation_batches(data.val, 4, watched.normalise)])
        wanted = torch.nn.functional.cross_entropy(logits, torch.from_numpy(data.val.labels))
    assert scores.loss == pytest.approx(wanted.item(), rel=1e-4)
    none = CachedSplit(data.val.images[:0], data.val.labels[:0], 64)
    without = make_trainer("linear", data=dataclasses.replace(data, val=none), epochs=1, val_curve=True)
    fitted(without)
    assert without.curve[0].val_acc1 is None


def test_rates_in_the_curve(make_trainer: MakeTrainer) -> None:
    """VPT's first epoch of warm-up trains nothing."""
    trainer = make_trainer(
        "linear", epochs=4, warmup_epochs=2, warmup_from_zero=True, schedule_step="epoch", optimizer="sgd", lr=0.5
    )
    before = trainer.snapshot()
    rates, unchanged = [], []
    trainer.on_epoch = lambda epoch: (
        rates.append(epoch.lr), unchanged.append(torch.equal(before["head.weight"], trainer.snapshot()["head.weight"]))
    )  # fmt: skip
    fitted(trainer)
    assert rates == pytest.approx([0, 0.25, 0.5, 0.25])
    assert unchanged == [True, False, False, False]


def test_loss_that_is_not_finite(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer("vpt", optimizer="sgd", lr=1e30, epochs=3)
    with pytest.raises(DivergedError):
        fitted(trainer)
        trainer.evaluate(trainer.data.test)


@pytest.mark.parametrize("label", some(["vpt", "linear", "partial", "viapt"], 2))
def test_evaluation_of_many_batches(label: str, make_trainer: MakeTrainer, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = make_trainer(label)
    whole = trainer.evaluate(trainer.data.test)
    assert whole.features is None
    monkeypatch.setattr("vpbench.tasks.classification.EVALUATION_BATCH", 4)
    parts = trainer.evaluate(trainer.data.test, features=5)
    assert np.array_equal(whole.ranked, parts.ranked)
    assert np.allclose(whole.confidence, parts.confidence, atol=1e-5)
    assert np.array_equal(whole.labels, trainer.data.test.labels)
    images = trainer.normalise(trainer.data.test.take(np.arange(5)))
    with torch.no_grad():
        expected = trainer.model.features(images).numpy()
    assert parts.features is not None and parts.features.shape == (5, 192)
    assert np.allclose(parts.features, expected, atol=1e-2)


def test_images_of_another_size_are_refused(make_trainer: MakeTrainer, data: CachedData) -> None:
    small = CachedSplit(np.zeros((3, 32, 32, 3), np.uint8), np.arange(3), 32)
    with pytest.raises(ValueError, match="32 pixels"):
        fitted(make_trainer("vpt", data=CachedData(small, data.val, data.test, data.class_names)))


def test_seconds_of_the_pass_before_training(make_trainer: MakeTrainer, monkeypatch: pytest.MonkeyPatch) -> None:
    """To the end of ``prepare`` and not of the training; none for a method without."""
    clock = [100.0]

    def later(seconds: float) -> None:
        clock[0] += seconds

    for label, expected in (("linear", None), ("sct", 2.5)):
        trainer = make_trainer(label)
        method = trainer.model.method
        if expected is not None:
            monkeypatch.setattr(type(method), "prepare", lambda *_: later(2.5))
        monkeypatch.setattr(method, "phases", lambda _: later(10))
        with monkeypatch.context() as patch:
            patch.setattr("vpbench.training.fit.time.perf_counter", lambda: clock[0])
            trainer.fit()
        assert trainer.prepare_s == expected
