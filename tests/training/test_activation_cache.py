"""Activations of the frozen prefix are computed once per machine, and numbers are those without the cache, bit by bit."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from four_blocks import DEPTH
from torch import Tensor

from vpbench.analysis.noise import NoisySplit
from vpbench.core.errors import UsageError
from vpbench.data.cache import CachedData, CachedSplit
from vpbench.data.caches import activation_limit, activation_store
from vpbench.training.activation_cache import ActivationCache
from vpbench.training.fit import Trainer

MakeTrainer = Callable[..., Trainer]
LAST = DEPTH - 1  # block
SETTINGS = {"epochs": 2, "selection": "best_val", "optimizer": "sgd"}


def identified(split: CachedSplit, name: str) -> CachedSplit:
    return replace(split, prepared="64 px", identities=[f"{name} {index}" for index in range(len(split))])


@pytest.fixture
def known(data: CachedData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CachedData:
    """The data set as it comes from the image cache, and a new cache folder."""
    monkeypatch.setenv("VPBENCH_CACHE", str(tmp_path / "cache"))
    return replace(data, **{name: identified(getattr(data, name), name) for name in ("train", "val", "test")})


def blocks_run(trainer: Trainer, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """From now on, the index of every block that is run."""
    block, calls = trainer.model.backbone.block, []

    def call(index: int, *more: Any) -> object:
        calls.append(index)
        return block(index, *more)

    monkeypatch.setattr(trainer.model.backbone, "block", call)
    return calls


def numbers(trainer: Trainer) -> tuple[list[float], list[Any], list[Tensor]]:
    """Losses, predictions with their confidence on the test split, and the tensors that were trained."""
    trainer.fit()
    scores = trainer.evaluate(trainer.data.test)
    losses = trainer.first_losses + [epoch.train_loss for epoch in trainer.curve]
    return losses, [scores.ranked.tolist(), scores.confidence.tolist()], list(trainer.snapshot().values())


def same(one: Any, other: Any) -> bool:
    return one[:2] == other[:2] and all(map(torch.equal, one[2], other[2]))


@pytest.mark.parametrize(
    ("label", "options", "precision"),
    [("linear", {}, "fp32"), pytest.param("partial", {}, "bf16", marks=pytest.mark.sweep), ("vpt", {"start": 1}, "fp32")],
)
def test_numbers_are_those_without_it(
    label: str,
    options: dict[str, Any],
    precision: str,
    known: CachedData,
    make_trainer: MakeTrainer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings = {"data": known, "options": options, "precision": precision, **SETTINGS}
    monkeypatch.setenv("VPBENCH_ACTIVATIONS", "0")
    expected = numbers(make_trainer(label, **settings))
    assert activation_store().files() == []
    monkeypatch.delenv("VPBENCH_ACTIVATIONS")
    assert same(numbers(make_trainer(label, **settings)), expected)
    again = make_trainer(label, **settings)
    calls = blocks_run(again, monkeypatch)
    assert same(numbers(again), expected)
    assert 0 not in calls


def test_shared_by_seeds_rates_and_methods(known: CachedData, make_trainer: MakeTrainer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Partial-1 and prompts before the last block have the same prefix; so have all rates and seeds."""
    make_trainer("partial", data=known, seed=1).fit()
    for trainer in (
        make_trainer("partial", data=known, seed=2, lr=0.5),
        make_trainer("vpt:shallow", data=known, options={"start": LAST}),
    ):
        calls = blocks_run(trainer, monkeypatch)
        trainer.fit()
        assert set(calls) == {LAST}


@pytest.mark.parametrize(
    ("label", "options"), [("linear", {}), ("mlp", {}), ("partial", {"blocks": 3}), ("vpt", {"start": 1}), ("transhp", {})]
)
def test_a_method_changes_nothing_in_front_of_its_first_block(
    label: str, options: dict[str, Any], make_trainer: MakeTrainer
) -> None:
    """Otherwise methods could not share what these blocks compute."""
    model = make_trainer(label, options=options).model
    first, images = model.method.first_block, torch.randn(2, 3, 64, 64)
    assert first > 0
    cached = model.cache_activations(images).values
    with model.scope.disabled():
        tokens = model._run_blocks(0, first, model.backbone.embed(images))
    assert torch.equal(cached, model.backbone.pool(tokens) if first == model.backbone.shape.depth else tokens.x)
    trained = [name for name, _ in model.trainable() if name.startswith("backbone.blocks.")]
    assert all(int(name.split(".")[2]) >= first for name in trained)


def test_what_a_file_depends_on(known: CachedData, make_trainer: MakeTrainer, monkeypatch: pytest.MonkeyPatch) -> None:
    def files(label: str = "linear", data: CachedData = known, **settings: Any) -> int:
        make_trainer(label, data=data, **settings).fit()
        return len(activation_store().files())

    batches = 3  # of four training images
    assert files() == batches
    assert files(seed=7, lr=0.3) == batches
    assert files(batch_size=5) == batches + 2
    assert files(precision="bf16", batch_size=9) == batches + 3
    assert files("partial", batch_size=9) == batches + 4
    other = replace(known, train=replace(known.train, prepared="another interpolation"))
    assert files(data=other, batch_size=9) == batches + 5
    monkeypatch.setattr("vpbench.training.activation_cache._code", lambda: "another version")
    assert files(batch_size=9) == batches + 6


def test_training_on_validation_images_too_shares_the_first_batches(
    known: CachedData, make_trainer: MakeTrainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_trainer("linear", data=known).fit()
    joined = replace(
        known.train, images=torch.cat([torch.from_numpy(split.images) for split in (known.train, known.val)]).numpy(),
        labels=torch.cat([torch.from_numpy(split.labels) for split in (known.train, known.val)]).numpy(),
        identities=[*known.train.identities, *known.val.identities],
    )  # fmt: skip
    trainer = make_trainer("linear", data=replace(known, train=joined))
    calls = blocks_run(trainer, monkeypatch)
    trainer.fit()
    assert calls.count(0) == 2  # 15 images in batches of four, of which two lie within the first nine


def test_a_damaged_file_is_made_again(known: CachedData, make_trainer: MakeTrainer, monkeypatch: pytest.MonkeyPatch) -> None:
    first = make_trainer("linear", data=known)
    expected = numbers(first)
    path = activation_store().files()[0].path
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)
    trainer = make_trainer("linear", data=known)
    calls = blocks_run(trainer, monkeypatch)
    assert same(numbers(trainer), expected)
    assert calls.count(0) == 1
    assert path.read_bytes() != bytes(content)


def test_two_at_a_time_compute_once(known: CachedData, make_trainer: MakeTrainer) -> None:
    trainers = [make_trainer("linear", data=known) for _ in range(2)]
    computed: list[int] = []

    def compute(images: Tensor) -> Tensor:
        computed.append(len(images))
        return images.flatten(1)[:, :3]

    def fill(trainer: Trainer) -> None:
        ActivationCache(trainer.model, trainer.spec, trainer.normalise).of(known.train, 4, "pixels", compute)

    threads = [threading.Thread(target=fill, args=(trainer,)) for trainer in trainers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert computed == [4, 4, 1]


def test_the_limit(known: CachedData, make_trainer: MakeTrainer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VPBENCH_ACTIVATIONS", "4K")
    make_trainer("linear", data=known).fit()
    assert 0 < sum(file.size for file in activation_store().files()) <= 4096
    for given, size in (("0", 0), ("1.5G", 3 << 29), ("20 GiB", 20 << 30), ("700MB", 700 << 20)):
        monkeypatch.setenv("VPBENCH_ACTIVATIONS", given)
        assert activation_limit() == size
    monkeypatch.setenv("VPBENCH_ACTIVATIONS", "plenty")
    with pytest.raises(UsageError, match="VPBENCH_ACTIVATIONS=plenty: a size such as"):
        activation_limit()


def test_noisy_images_leave_nothing(known: CachedData, make_trainer: MakeTrainer) -> None:
    """A split that changes its images is not taken for the clean one, whatever identities it has."""
    trainer, test = make_trainer("linear", data=known), known.test
    noisy = NoisySplit(test.images, test.labels, test.image_size, test.prepared, test.identities, sigma=0.1)
    cache = ActivationCache(trainer.model, trainer.spec, trainer.normalise)
    assert not cache.keeps(noisy, 1) and cache.keeps(test, 1)
    cache.of(noisy, 4, "pixels", lambda images: images.flatten(1)[:, :3])
    assert activation_store().files() == []


def test_images_of_unknown_identity_leave_nothing(
    data: CachedData, make_trainer: MakeTrainer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VPBENCH_CACHE", str(tmp_path))
    make_trainer("linear", data=data).fit()
    assert activation_store().files() == []
