"""A run that stops at any step goes on to the same weights, curve and predictions; a checkpoint that does not fit is reported."""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sweeps import FEW, case, some
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from vpbench.backbones.weights import adapter_for
from vpbench.data.batches import Normaliser
from vpbench.data.cache import CachedData, CachedSplit
from vpbench.interface import Method
from vpbench.models.prompted import PromptedModel
from vpbench.models.registry import method_class, method_registry, resolve_method
from vpbench.spec.recipe import Recipe
from vpbench.spec.run_spec import BackboneSpec, DataSpec, Preprocess, RunSpec
from vpbench.store.store import Store
from vpbench.training.checkpoint import Checkpoints, Paused, UnusableCheckpointError
from vpbench.training.fit import Epoch, Trainer

HALF, SIZE = (0.5, 0.5, 0.5), 32
BACKBONE = BackboneSpec(name="vit", weights="random", image_size=SIZE, patch_size=8, mean=HALF, std=HALF)
# One training per candidate would be dozens; and a preset made for a large backbone does not fit this one.
FITTING: dict[str, dict[str, Any]] = {"sidetune": {"weights": "random"},
    "e2vpt:released": {"candidates": [[20, 20]]}, "viapt:scaffold": {"pca_dim": 96}, "viapt": {"pca_mode": "fixed"},
    "self_prompt:one-image": {"prompt_length": 8},
}  # fmt: skip
EPOCHS, STEPS = 3, 3


def split(count: int, seed: int) -> CachedSplit:
    """Noise with a margin for random crops, whose brightness depends on the class."""
    labels = np.arange(count) % 3
    pixels = np.random.default_rng(seed).integers(0, 200, (count, 36, 36, 3)) + 20 * labels[:, None, None, None]
    return CachedSplit(pixels.astype(np.uint8), labels.astype(np.int64), SIZE)


DATA = CachedData(split(9, 0), split(6, 1), split(6, 2), ("dark", "grey", "bright"))


def labels() -> Iterator[str]:
    """Every method; its presets where it does more than the training loop, which does not see other options."""
    for name in method_registry().names():
        kind = method_class(name)
        own = kind.prepare is not Method.prepare or kind.phases is not Method.phases
        yield from (name, *(f"{name}:{preset}" for preset in sorted(kind.presets) if own))


def spec(label: str, **changes: Any) -> RunSpec:
    """With all that is random: order, crops, flips, Mixup and CutMix; and the best epoch on validation data."""
    fields: dict[str, Any] = {
        "preprocess": Preprocess(random_crop=True, random_flip=True),
        "recipe": Recipe(optimizer="adamw", lr=0.01, epochs=EPOCHS, batch_size=4, mixup=0.8, cutmix=1.0, warmup_epochs=1),
        "selection": "best_val", **changes,
    }  # fmt: skip
    return RunSpec(
        method=resolve_method(label, FITTING.get(label)), backbone=BACKBONE,
        data=DataSpec(suite="custom", dataset="noise", digest="0"), seed=42, **fields,
    )  # fmt: skip


def trainer(run: RunSpec, checkpoints: Checkpoints | None = None) -> Trainer:
    """As ``vpbench.execution.execute`` makes it, over a transformer of two blocks."""
    torch.manual_seed(3)
    backbone = adapter_for(VisionTransformer(img_size=SIZE, patch_size=8, embed_dim=192, depth=2, num_heads=3, num_classes=0))
    method = method_class(run.method.name)
    if method.needs_source_classifier(run.method.config):
        backbone.set_source_classifier(torch.nn.Linear(backbone.feature_width, 24))
    torch.manual_seed(run.seed)
    model = PromptedModel(backbone, method(method.Config(**run.method.config), backbone.shape, 3), 3)
    return Trainer(model, DATA, run, Normaliser(HALF, HALF), torch.device("cpu"), checkpoints=checkpoints)


Result = tuple[dict[str, Tensor], list[Epoch], list[float], int, list[list[int]]]


def result(made: Trainer) -> Result:
    """Weights, curve, first losses, selected epoch, and what is predicted for the test split."""
    made.fit()
    ranked = made.evaluate(DATA.test).ranked.tolist()
    return made.model.snapshot(), made.curve, made.first_losses, made.selected_epoch, ranked


def undisturbed(run: RunSpec) -> tuple[Result, int]:
    """The result, and how often the run could have been left."""
    asked: list[None] = []
    return result(trainer(run, Checkpoints(paused=lambda: bool(asked.append(None))))), len(asked)


def left_at(run: RunSpec, store: Store, stops: list[int]) -> tuple[Result, list[str]]:
    """The result of a run that is left at the given opportunities of its attempts, and the messages meanwhile."""
    notes: list[str] = []
    for stop in stops:
        left = iter(range(stop))
        with pytest.raises(Paused):
            result(trainer(run, Checkpoints(store, "abc", paused=lambda left=left: next(left, None) is None, note=notes.append)))
        assert store.checkpoint_path("abc").exists()
    return result(trainer(run, Checkpoints(store, "abc", note=notes.append))), notes


def check_equal(found: Result, expected: Result) -> None:
    assert found[0].keys() == expected[0].keys()
    assert [name for name, tensor in found[0].items() if not torch.equal(tensor, expected[0][name])] == []
    assert found[1:] == expected[1:]


@pytest.mark.parametrize("label", [case(label, always=(*FEW, "sct")) for label in labels()])
def test_the_same_numbers_wherever_it_is_left(label: str, tmp_path: Path) -> None:
    """Twice in the middle of an epoch, after a training's last step, right behind that training, and while it is tested."""
    run = spec(label)
    expected, chances = undisturbed(run)
    training = EPOCHS * STEPS
    assert chances > training
    stops = [STEPS + 1, STEPS - 1, training - 2 * STEPS - 3, 0, chances - training - 2]
    found, notes = left_at(run, Store(tmp_path), stops)
    check_equal(found, expected)
    assert len(notes) == len(stops)
    assert all("resumes from its checkpoint" in note for note in notes)


def test_written_now_and_then(tmp_path: Path) -> None:
    """A run that is killed loses little, and a short one writes nothing."""
    run, store = spec("vpt"), Store(tmp_path)
    result(trainer(run, Checkpoints(store, "abc", every_s=600)))
    assert list(tmp_path.iterdir()) == []
    often = trainer(run, Checkpoints(store, "abc", every_s=0))
    with pytest.raises(ZeroDivisionError):
        often.on_epoch = lambda epoch: 1 // (EPOCHS - 1 - epoch.epoch)
        result(often)
    found, notes = left_at(run, store, [])
    check_equal(found, undisturbed(run)[0])
    assert "resumes from its checkpoint" in notes[0]


def test_seconds_add_up(tmp_path: Path) -> None:
    first = Checkpoints(Store(tmp_path), "abc", every_s=0)
    time.sleep(0.05)
    first.may_pause()
    second = Checkpoints(Store(tmp_path), "abc")
    assert second.elapsed_s > 0.05


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1000])


def change_values(path: Path) -> None:
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 200] = bytes(byte ^ 1 for byte in content[middle : middle + 200])
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("spoil", "identity", "words"),
    some(
        [
            (cut, {}, "no readable checkpoint"),
            (change_values, {}, "no readable checkpoint"),
            (lambda path: path.write_text("hello"), {}, "no readable checkpoint"),
            (lambda path: None, {"torch": "2.0"}, "another torch (1.0, now 2.0)"),
            (lambda path: None, {"torch": "1.0", "run": "abc"}, "another run (None, now abc)"),
        ],
        3,
    ),
)
def test_a_checkpoint_that_does_not_fit(
    spoil: Callable[[Path], None], identity: dict[str, str], words: str, tmp_path: Path
) -> None:
    """One line says so, and the run starts again."""
    run, store, notes = spec("linear"), Store(tmp_path), list[str]()
    with pytest.raises(Paused):
        result(trainer(run, Checkpoints(store, "abc", {"torch": "1.0"}, paused=lambda: True)))
    spoil(store.checkpoint_path("abc"))
    found = result(trainer(run, Checkpoints(store, "abc", identity or {"torch": "1.0"}, note=notes.append)))
    check_equal(found, undisturbed(run)[0])
    (note,) = notes
    assert words in note
    assert note.endswith("the run starts again.")
    assert str(store.checkpoint_path("abc")) in note
    assert "\n" not in note


def test_a_row_takes_the_checkpoint_away(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for run_id in ("abc", "def"):
        store.write_checkpoint(run_id, b"state")
    store.write_row({"run_id": "abc", "status": "failed"})
    assert store.read_checkpoint("abc") is None
    assert store.read_checkpoint("def") == b"state"


def test_a_checkpoint_that_cannot_be_written_costs_no_run(tmp_path: Path) -> None:
    run, notes = spec("linear"), list[str]()
    checkpoints = Checkpoints(Store(tmp_path), "abc", every_s=0, note=notes.append)
    (tmp_path / "_checkpoints").write_text("a file where the folder should be")
    found = result(trainer(run, checkpoints))
    check_equal(found, undisturbed(run)[0])
    assert "cannot be written" in notes[0]


KEYS = ["tensors", "method", "order", "torch", "cuda", "numpy", "python", "curve", "first_losses", "selected_epoch",
        "batch_parts", "optimizer", "training"]  # fmt: skip


def rewritten(store: Store, change: Callable[[dict[str, Any]], object]) -> None:
    """The checkpoint with another content, and a checksum that fits it."""
    content = torch.load(io.BytesIO(store.read_checkpoint("abc") or b""), weights_only=True)
    change(content)
    file = io.BytesIO()
    torch.save(content, file)
    store.write_checkpoint("abc", file.getvalue())


def paused(run: RunSpec, store: Store) -> None:
    """Left in the middle of the training."""
    left = iter(range(4))
    with pytest.raises(Paused):
        result(trainer(run, Checkpoints(store, "abc", paused=lambda: next(left, None) is None)))


@pytest.mark.parametrize("key", ["identity", "elapsed_s", "ended", "now"])
def test_a_checkpoint_that_lacks_a_part(key: str, tmp_path: Path) -> None:
    run, store, notes = spec("linear"), Store(tmp_path), list[str]()
    paused(run, store)
    rewritten(store, lambda content: content.pop(key))
    found = Checkpoints(store, "abc", note=notes.append)
    assert found.under_way() is None and found.replayed() is None
    assert len(notes) == 1 and "is no readable checkpoint" in notes[0] and "the run starts again" in notes[0]


@pytest.mark.parametrize("key", some(KEYS, 4))
def test_a_checkpoint_whose_state_lacks_a_part(key: str, tmp_path: Path) -> None:
    """It shows when the state is put back, and the run starts again."""
    run, store, notes = spec("linear"), Store(tmp_path), list[str]()
    paused(run, store)
    rewritten(store, lambda content: content["now"].pop(key))
    checkpoints = Checkpoints(store, "abc", note=notes.append)
    with pytest.raises(UnusableCheckpointError, match=key) as caught:
        result(trainer(run, checkpoints))
    checkpoints.forget(caught.value)
    assert "does not fit" in notes[-1] and "the run starts again" in notes[-1]
    assert store.read_checkpoint("abc") is None


def test_a_tensor_of_another_shape(tmp_path: Path) -> None:
    run, store = spec("linear"), Store(tmp_path)
    paused(run, store)
    rewritten(store, lambda content: content["now"]["tensors"].update({"head.weight": torch.zeros(2, 2)}))
    with pytest.raises(UnusableCheckpointError):
        result(trainer(run, Checkpoints(store, "abc")))


def test_random_bits_of_a_checkpoint(tmp_path: Path) -> None:
    run, store, rng = spec("linear"), Store(tmp_path), np.random.default_rng(0)
    paused(run, store)
    path = store.checkpoint_path("abc")
    content = path.read_bytes()
    for _ in range(60):
        damaged = np.frombuffer(content, np.uint8).copy()
        damaged[rng.integers(0, len(damaged))] ^= np.uint8(1 << rng.integers(0, 8))
        path.write_bytes(damaged.tobytes())
        notes: list[str] = []
        assert Checkpoints(store, "abc", note=notes.append).under_way() is None
        assert "is no readable checkpoint" in notes[0]


def test_a_training_that_went_wrong_with_a_finite_loss() -> None:
    good, bad = trainer(spec("linear")), trainer(spec("linear", recipe=Recipe(lr=1e30, epochs=1, batch_size=4)))
    for made in (good, bad):
        made.fit()
    assert good.doubt() == ""
    good.model.own.register_buffer("prototypes", torch.tensor([0.0, torch.inf]))
    assert good.doubt() == ""  # of clusters that are not used
    good.model.own.prototypes[0] = torch.nan
    assert "own.prototypes is not finite" in good.doubt()
    del good.model.own.prototypes
    assert bad.doubt().startswith("warning: the loss of the last epoch is ") and "that of guessing 1.1" in bad.doubt()
    with torch.no_grad():
        good.model.head.bias[0] = float("nan")
    assert good.doubt() == "warning: head.bias is not finite after training; a smaller recipe.lr may help."
