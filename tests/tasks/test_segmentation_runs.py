"""Segmentation as a task: training, evaluation, checkpoints, and which methods fit it."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, jaccard_score
from sweeps import some

from vpbench.backbones.named import resolve_backbone
from vpbench.core.errors import UnsupportedError, UsageError
from vpbench.data.batches import Normaliser
from vpbench.data.cache import CachedData, CachedSplit, RaggedImages
from vpbench.models.build import build_empty, build_model
from vpbench.models.registry import resolve_method, working_methods
from vpbench.spec.recipe import Recipe
from vpbench.spec.run_spec import BackboneSpec, DataSpec, Preprocess, RunSpec
from vpbench.store.store import Store
from vpbench.tasks import make_task, resolve_task, task_class
from vpbench.tasks.segmentation.dense_loss import resized_logits
from vpbench.tasks.segmentation.multi_scale import resized_image
from vpbench.training.checkpoint import Checkpoints, Paused
from vpbench.training.fit import Trainer

HALF = (0.5, 0.5, 0.5)
SIZE, CLASSES = 32, 3
BACKBONE = BackboneSpec(name="vit_tiny_patch16_224", weights="random", image_size=SIZE, patch_size=8, mean=HALF, std=HALF)
NAMES = ("dark", "grey", "bright")


def split(count: int, seed: int, side: int = SIZE) -> CachedSplit:
    """Patches of three brightnesses; the mask says which."""
    rng = np.random.default_rng(seed)
    patches = rng.integers(0, CLASSES, (count, side // 8, side // 8))
    masks = patches.repeat(8, 1).repeat(8, 2).astype(np.uint8)
    images = (80 * masks[..., None] + rng.integers(0, 20, (count, side, side, 3))).astype(np.uint8)
    masks[:, 0, :3] = 255
    return CachedSplit(images, np.zeros(count, np.int64), SIZE, masks=masks)


DATA = CachedData(split(9, 0), split(4, 1), split(5, 2), NAMES)


def spec_of(label: str, options: dict[str, Any] | None = None, task: dict[str, Any] | None = None, **settings: Any) -> RunSpec:
    run = {name: settings.pop(name) for name in ("selection", "preprocess") if name in settings}
    recipe = Recipe(**{"optimizer": "adamw", "lr": 0.01, "epochs": 2, "batch_size": 4, **settings})
    return RunSpec(
        **{"preprocess": Preprocess(), **run}, method=resolve_method(label, options), backbone=BACKBONE, recipe=recipe, seed=42,
        data=DataSpec(suite="custom-segmentation", dataset="patches", digest="0"),
        task=resolve_task("segmentation", {"head": "bn-linear", **(task or {})}),
    )  # fmt: skip


def trainer_of(spec: RunSpec, data: CachedData = DATA, checkpoints: Checkpoints | None = None) -> Trainer:
    torch.manual_seed(spec.seed)
    model = build_model(spec.method, spec.backbone, CLASSES, task=spec.task)
    return Trainer(model, data, spec, Normaliser(HALF, HALF), torch.device("cpu"), checkpoints=checkpoints)


def fitted(*given: Any, **settings: Any) -> Trainer:
    trainer = trainer_of(spec_of(*given, **settings))
    trainer.fit()
    return trainer


def losses(trainer: Trainer) -> list[float]:
    return [epoch.train_loss for epoch in trainer.curve]


def test_training_learns_and_leaves_the_backbone_alone() -> None:
    trainer = trainer_of(spec_of("vpt", {"prompt_length": 2}, epochs=8))
    frozen = {name: tensor.clone() for name, tensor in trainer.model.backbone.state_dict().items()}
    statistics = {name: tensor.clone() for name, tensor in trainer.model.head.named_buffers()}
    trainer.fit()
    assert losses(trainer)[-1] < 0.5 * losses(trainer)[0]
    scores = trainer.evaluate(DATA.test, test=True)
    assert scores.score > 60
    assert not any(module.training for module in trainer.model.backbone.modules())
    assert all(torch.equal(tensor, frozen[name]) for name, tensor in trainer.model.backbone.state_dict().items())
    assert not any(torch.equal(tensor, statistics[name]) for name, tensor in trainer.model.head.named_buffers())


def test_scores_are_those_of_scikit_learn() -> None:
    trainer = fitted("linear")
    scores = trainer.evaluate(DATA.test, test=True)
    trainer.model.eval()
    predicted = torch.cat(
        [
            torch.nn.functional.interpolate(trainer.logits(images), SIZE, mode="bilinear").argmax(1)
            for images, _ in trainer.task.evaluation_batches(DATA.test, trainer.normalise)
        ]
    ).numpy()
    known = np.asarray(DATA.test.masks) != 255
    truth, found = np.asarray(DATA.test.masks)[known], predicted[known]
    columns = scores.columns()
    assert scores.score == columns["miou"] == pytest.approx(100 * jaccard_score(truth, found, average="macro"))
    assert columns["iou_per_class"] == pytest.approx(100 * jaccard_score(truth, found, average=None))
    assert columns["aacc"] == pytest.approx(100 * accuracy_score(truth, found))
    assert columns["total"] == len(DATA.test)
    arrays = scores.arrays()
    assert arrays["labelled"].sum() == arrays["confusion"].sum() == known.sum()
    assert np.array_equal(arrays["image_0"], predicted[0])


def test_without_prompts_it_is_linear_probing() -> None:
    """A VPT whose prompts are not there would be linear probing; here they are cut out of the model, and Gamma = 0 is VPT."""
    vpt, linked = (spec_of("vpt", {"prompt_length": 3, "dropout": 0.0}), spec_of("ivpt:cdc-da", {"prompt_length": 3}))
    trainers = [trainer_of(spec) for spec in (vpt, linked, spec_of("linear"))]
    images, targets = next(trainers[0].task.evaluation_batches(DATA.train, trainers[0].normalise, 4))
    models = [trainer.model.eval() for trainer in trainers]
    for model in models[1:]:
        model.head.load_state_dict(models[0].head.state_dict())
    linked_model: Any = models[1].method
    with torch.no_grad():
        linked_model.own.gamma.zero_()
        linked_model.own.prompts.copy_(models[0].method.own.prompts)
        assert torch.equal(models[0](images), models[1](images))
    plain: Any = models[0].method
    plain.before_block = lambda block, tokens, context: tokens
    assert torch.equal(models[0](images), models[2](images))
    assert torch.equal(models[0].task.loss(models[0](images), targets), models[2].task.loss(models[2](images), targets))


@pytest.mark.sweep
def test_cached_maps_are_what_the_images_give() -> None:
    """With random flips nothing is cached; with flips that never happen the numbers are the same as with cached maps."""
    spec = spec_of("linear", task={"head": "setr-pup", "width": 8})
    cached, direct = trainer_of(spec), trainer_of(spec)
    assert cached._inputs.caches_activations(DATA.train)
    direct._inputs.caches_activations = lambda split: False  # type: ignore[method-assign]
    for trainer in (cached, direct):
        trainer.fit()
    assert losses(cached) == losses(direct)
    assert cached.evaluate(DATA.test).score == direct.evaluate(DATA.test).score


def test_image_and_mask_are_flipped_together() -> None:
    spec = spec_of("linear", preprocess=Preprocess(random_flip=True))
    task, normalise = make_task(spec.task, CLASSES), Normaliser((0.0,) * 3, (1.0,) * 3)
    seen = set()
    for seed in range(3):
        for images, masks in task.training_batches(DATA.train, spec, normalise, torch.Generator().manual_seed(seed)):
            shades = (255 * images[:, 0] / 80).floor()
            known = masks != 255
            assert torch.equal(shades[known].long(), masks[known].long())
            seen |= {bool(each) for each in known[:, 0, :3].any(1)}
    assert seen == {False, True}  # the ignored corner is on the left or on the right


@pytest.mark.sweep
@pytest.mark.parametrize("stop", [pytest.param(1, marks=pytest.mark.sweep), 4])
def test_paused_and_resumed_is_the_same(tmp_path: Path, stop: int) -> None:
    spec = spec_of("vpt", {"prompt_length": 2}, task={"head": "setr-pup", "width": 8}, ema=0.5)
    straight, steps = trainer_of(spec), itertools.count(1)
    straight.fit()
    store = Store(tmp_path)
    paused = Checkpoints(store, spec.run_id, paused=lambda: next(steps) == stop)
    with pytest.raises(Paused):
        trainer_of(spec, checkpoints=paused).fit()
    resumed = trainer_of(spec, checkpoints=Checkpoints(store, spec.run_id))
    resumed.fit()
    assert losses(resumed) == losses(straight)
    wanted = straight.model.state_dict()
    assert all(torch.equal(tensor, wanted[name]) for name, tensor in resumed.model.state_dict().items())


def test_iterations_and_poly_decay() -> None:
    recipe: dict[str, Any] = {"iterations": 5, "schedule": "poly", "min_lr": 1e-4, "lr": 1e-3, "optimizer": "sgd"}
    groups = ({"match": "head.*", "lr_scale": 10.0},)
    spec = spec_of("vpt", {"prompt_length": 2}, **recipe, groups=groups)
    spec = spec.model_copy(update={"recipe": spec.recipe.for_images(len(DATA.train))})
    assert spec.recipe.epochs == 2  # of three steps each
    rates: list[list[float]] = []
    trainer = trainer_of(spec)
    backward = trainer._backward

    def record(inputs: Any, targets: Any, optimizer: torch.optim.Optimizer) -> torch.Tensor:
        rates.append([group["lr"] for group in optimizer.param_groups])
        return backward(inputs, targets, optimizer)

    trainer._backward = record  # type: ignore[method-assign]
    trainer.fit()
    wanted = [[(base - 1e-4) * (1 - step / 5) ** 0.9 + 1e-4 for base in (1e-3, 1e-2)] for step in range(5)]
    assert sorted(map(sorted, rates), reverse=True) == [pytest.approx(each) for each in wanted]


def short_of_memory(trainer: Trainer, most: int) -> Trainer:
    """The trainer on a device that holds the activations of so many images."""
    features = trainer.model.features

    def call(inputs: Any, context: Any = None) -> Any:
        if len(inputs) > most and torch.is_grad_enabled():
            raise torch.OutOfMemoryError("CUDA out of memory")
        return features(inputs, context)

    trainer.model.features = call  # type: ignore[method-assign]
    return trainer


@pytest.mark.parametrize(("head", "label"), some([("linear", "bias"), ("bn-linear", "bias"), ("setr-pup", "vpt")], 1))
def test_micro_batches_where_memory_is_short(head: str, label: str) -> None:
    """Batch norm of a head sees the whole batch: its maps come in micro-batches, with the same dropout."""
    spec = spec_of(label, task={"head": head, "width": 8}, epochs=1)
    whole, parts = trainer_of(spec), short_of_memory(trainer_of(spec), 2)
    for trainer in (whole, parts):
        trainer.fit()
    assert (whole.batch_parts, parts.batch_parts) == (1, 2)
    if label == "bias":  # without dropout, whose random numbers depend on the size of a batch
        assert losses(parts) == pytest.approx(losses(whole), rel=1e-4)
        statistics = dict(whole.model.head.named_buffers())
        for name, tensor in parts.model.head.named_buffers():
            torch.testing.assert_close(tensor, statistics[name], rtol=1e-2, atol=2e-3)  # Adam enlarges rounding


def ragged_split(*sides: tuple[int, int]) -> CachedSplit:
    """Noise in images of these heights and widths."""
    rng = np.random.default_rng(5)
    images = [rng.integers(0, 256, (*side, 3), dtype=np.uint8) for side in sides]
    masks = [rng.integers(0, CLASSES, side).astype(np.uint8) for side in sides]
    flat = lambda parts: np.concatenate([part.ravel() for part in parts])  # noqa: E731
    ragged = RaggedImages(flat(masks), np.array(sides), ())
    return CachedSplit(RaggedImages(flat(images), np.array(sides)), np.zeros(len(sides), np.int64), SIZE, masks=ragged)


def test_windows_and_scales() -> None:
    """Images keep their size: crops in training, windows in evaluation; one of the input's size is one pass, and the same."""
    ragged = ragged_split((32, 32), (32, 48), (64, 32))
    data = CachedData(ragged, ragged, ragged, NAMES)
    task = {"head": "linear", "scales": (1.0, 1.5), "photometric": False}
    spec = spec_of("vpt", {"prompt_length": 2}, task=task, preprocess=Preprocess(resize="original", random_flip=True), epochs=1)
    trainer = trainer_of(spec, data)
    trainer.fit()
    columns = trainer.evaluate(ragged, test=True).columns()
    assert columns["total"] == 3 and 0 < columns["miou_ms"] < 100
    assert "miou_ms" not in trainer.evaluate(ragged).columns()  # only of the test split
    image, mask = (np.asarray(parts[0])[None] for parts in (ragged.images, ragged.masks or ()))
    first = CachedSplit(image, np.zeros(1, np.int64), SIZE, masks=mask)
    whole, windowed = (trainer.evaluate(each).arrays() for each in (first, ragged))
    assert np.array_equal(whole["image_0"], windowed["image_0"])
    for place, (image, (mask,)) in enumerate(trainer.task.evaluation_batches(ragged, trainer.normalise)):  # as new images are
        (found,) = trainer.task.probabilities(trainer.model.eval(), image, SIZE, [(mask.shape[0], mask.shape[1])])
        assert np.array_equal(found.argmax(0).numpy(), windowed[f"image_{place}"])


@pytest.mark.parametrize("stride", [None, "whole"])
def test_images_that_do_not_divide_into_patches(stride: str | None) -> None:
    """Whole images, and windows that are smaller than the input, are padded to a multiple of the patch."""
    ragged = ragged_split((40, 52))
    task = {"head": "linear", "scales": (0.75,), "scale_rule": "mmseg", "stride": stride}
    spec = spec_of("vpt", {"prompt_length": 2}, task=task, preprocess=Preprocess(resize="original"))
    trainer = trainer_of(spec, CachedData(ragged, ragged, ragged, NAMES))
    scores = trainer.evaluate(ragged, test=True)
    assert 0 <= scores.columns()["miou_ms"] <= 100  # of 24 x 31 pixels
    ((image, _),) = trainer.task.evaluation_batches(ragged, trainer.normalise)
    logits = trainer.model(resized_image(image[0], (32, 42))[None])
    assert logits.shape[-2:] == (4, 6)
    whole = resized_logits(resized_logits(logits, (32, 42)), (40, 52)).argmax(1)[0].numpy()
    assert np.array_equal(scores.arrays()["image_0"], whole) == (stride == "whole")


def test_a_row_of_features_for_every_class_of_an_image() -> None:
    scores = fitted("linear").evaluate(DATA.test, features=7)
    assert scores.features is not None and scores.features.shape == (7, 192)
    assert scores.feature_images.tolist() == [0, 0, 0, 1, 1, 1, 2]
    assert set(scores.feature_labels.tolist()) == {0, 1, 2}


UNFIT = {
    "autovp", "da_vpt", "dam_vp", "expres", "gps", "ilm_vp", "lion", "mlp", "sa2vp", "sct", "sidetune", "transhp", "vqt"
}  # fmt: skip


def test_methods_that_do_not_fit_say_why() -> None:
    task = task_class("segmentation")
    why = {name: task.why_not(method, method.Config().model_dump()) for name, method in working_methods()}
    assert {name for name, reason in why.items() if reason} >= UNFIT
    assert not any(why[name] for name in ("linear", "vpt", "ivpt", "lora", "insvp", "viapt", "full", "bias", "e2vpt", "spt"))
    nano = resolve_backbone("vit-nano", image_size=64)
    with pytest.raises(UnsupportedError, match=r"^MLP.* does not fit segmentation: it is a classifier of several layers"):
        build_empty(resolve_method("mlp"), nano, CLASSES, "meta", resolve_task("segmentation"))


@pytest.mark.sweep
@pytest.mark.parametrize("label", sorted({name for name, _ in working_methods()} - UNFIT))
def test_every_other_method_trains(label: str) -> None:
    trainer = fitted(label, epochs=1)
    assert np.isfinite(losses(trainer)).all()
    assert 0 <= trainer.evaluate(DATA.test).score <= 100


def test_options_that_do_not_fit() -> None:
    task = lambda **options: make_task(resolve_task("segmentation", options), CLASSES)  # noqa: E731
    with pytest.raises(UsageError, match=r"unknown head 'setr-pop'"):
        task(head="setr-pop").check_run(spec_of("linear"))
    with pytest.raises(UsageError, match=r"unknown option of segmentation 'haed'"):
        task(haed="linear")
    with pytest.raises(UsageError, match=r"task.stride=40 leaves gaps between windows of 32 px; at most 32"):
        task(stride=40).check_run(spec_of("linear"))
    with pytest.raises(UsageError, match=r"task.stride=0 leaves gaps between windows of 32 px; at most 32"):
        task(stride=0).check_run(spec_of("linear"))
    with pytest.raises(UsageError, match=r"crops of 32 px are larger than images get \(task.longest=16\)"):
        task(longest=16).check_run(spec_of("linear"))
    with pytest.raises(UsageError, match=r"recipe.mixup is for one label of a"):
        task().check_run(spec_of("linear", mixup=0.5))
    with pytest.raises(UsageError, match=r"leave out pixels that segmentation is measured on"):
        task().check_run(spec_of("linear", preprocess=Preprocess(resize="crop")))
    with pytest.raises(UsageError, match=r"is for segmentation; classification needs"):
        make_task(resolve_task("classification"), 2).check_run(spec_of("linear", preprocess=Preprocess(resize="original")))


def test_ids_of_classification_say_nothing_of_tasks() -> None:
    spec = spec_of("linear")
    assert spec.identity()["task"]["name"] == "segmentation"
    assert "task" not in spec.model_copy(update={"task": resolve_task("classification")}).identity()
