"""Data sets beside the run's own, as meta-training uses them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sweeps import some

from vpbench.core.errors import UsageError
from vpbench.spec.run_spec import Preprocess
from vpbench.training.fit import Trainer

MakeTrainer = Callable[..., Trainer]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Ten training images of two classes, one grey and one green."""
    monkeypatch.setenv("VPBENCH_CACHE", str(tmp_path / "cache"))
    for part, count in (("train", 5), ("val", 1), ("test", 1)):
        for name, colour in (("grey", (90, 90, 90)), ("green", (0, 200, 0))):
            place = tmp_path / "own" / part / name
            place.mkdir(parents=True)
            for index in range(count):
                Image.fromarray(np.full((20, 30, 3), colour, np.uint8) + np.uint8(index)).save(place / f"{index}.png")
    return tmp_path / "own"


def test_training_images_in_a_random_order_without_augmentation(make_trainer: MakeTrainer, folder: Path) -> None:
    trainer = make_trainer("linear", preprocess=Preprocess(random_flip=True, random_crop=True, resize="crop"))
    other = trainer.other_data(str(folder))
    assert other.classes == 2
    torch.manual_seed(0)
    first = list(other.batches(4))
    assert [len(images) for images, _ in first] == [4, 4, 2]
    images, labels = (torch.cat(parts) for parts in zip(*first))
    assert images.shape == (10, 3, 64, 64) and labels.bincount().tolist() == [5, 5]
    green = images[:, 1].mean((1, 2)) > images[:, 0].mean((1, 2))
    assert len({int(label) for label in labels[green]}) == 1 and int(green.sum()) == 5  # labels belong to their images
    torch.manual_seed(0)
    assert all(torch.equal(a, b) for (a, _), (b, _) in zip(first, other.batches(4)))
    assert not torch.equal(torch.cat([labels for _, labels in other.batches(4)]), labels)


def test_the_runs_own_data_is_refused(make_trainer: MakeTrainer) -> None:
    with pytest.raises(UsageError, match="the data set of the run itself"):
        make_trainer("linear").other_data("noise")


@pytest.mark.sweep
def test_dam_vp_trains_its_meta_prompt_before_the_run(make_trainer: MakeTrainer, folder: Path) -> None:
    options = {"meta_datasets": [str(folder)], "meta_epochs": 2, "meta_batch_size": 5, "meta_inner_steps": 1, "max_clusters": 3}
    trainer = make_trainer("dam_vp", options=options)
    trainer.fit()
    saved = trainer.snapshot()
    assert saved["own.meta_up"].any() and not torch.equal(saved["own.meta_up"], saved["own.up"][0])
    assert saved["own.prototypes"].isfinite().all(1).any()
    again = make_trainer("dam_vp", options=options)
    again.fit()
    assert all(torch.equal(tensor, again.snapshot()[name]) for name, tensor in saved.items())


def test_dam_vp_computes_the_plain_features_once(make_trainer: MakeTrainer, monkeypatch: pytest.MonkeyPatch) -> None:
    """In clustering; training and validation then route by them, and only new images take a second forward pass."""
    trainer = make_trainer("dam_vp", epochs=2)
    plain, seen = trainer.model.plain_features, []
    monkeypatch.setattr(trainer.model, "plain_features", lambda images: (seen.append(len(images)), plain(images))[1])
    trainer.fit()
    trainer.validate()
    assert sum(seen) == len(trainer.data.train) + len(trainer.data.val)
    trainer.evaluate(trainer.data.test)
    assert sum(seen) == len(trainer.data.train) + len(trainer.data.val) + len(trainer.data.test)


@pytest.mark.parametrize(("label", "passes"), some([("ilm_vp", 2), ("ilm_vp:flm", 1), ("autovp:frequency", 2), ("autovp", 0)], 2))
def test_labels_are_mapped_before_training_and_after_epochs(label: str, passes: int, make_trainer: MakeTrainer) -> None:
    trainer = make_trainer(label, epochs=2)
    before = trainer.snapshot()
    passed, batches = [], trainer.training_batches
    trainer.training_batches = lambda: (passed.append(1), batches())[1]  # type: ignore[method-assign]
    trainer.fit()
    assert len(passed) == passes
    if passes:
        mapping = trainer.snapshot()["own.mapping"]
        assert not torch.equal(mapping, before["own.mapping"]) and len(mapping.unique()) == mapping.numel()
    assert not torch.equal(trainer.snapshot()["own.program"], before["own.program"])
    scores = trainer.evaluate(trainer.data.test)
    assert len(scores.labels) == len(trainer.data.test)
