"""Figures that look inside trained models, and accuracy under noise: on runs of real methods on a few small images."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from sweeps import some

import vpbench
from vpbench.analysis.inside import attention_by_block, first_prompts, grad_cam, prompted_pixels
from vpbench.analysis.load import StoredModel, find_weights, load_stored
from vpbench.analysis.noise import NoisySplit, evaluate_noise, image_noise
from vpbench.analysis.robustness import evaluate_corruptions
from vpbench.cli.show import show
from vpbench.core.cards import packaged_file
from vpbench.core.errors import DataError, StoreError, UsageError, WeightsError
from vpbench.execution import execute as worker
from vpbench.reporting.describe import describe
from vpbench.reporting.frame import Filters
from vpbench.reporting.keys import SectionKey
from vpbench.reporting.make_report import make_report
from vpbench.reports.plots import _models, confusion
from vpbench.store.artefacts import CHECKSUMS
from vpbench.store.store import Store

METHODS = ("linear", "vpt", "e2vpt", "insvp", "ivpt", "viapt")
SIZE = 40


def write_images(folder: Path) -> None:
    """Three classes of twelve images, a bright square at a place of the class's own."""
    generator = np.random.default_rng(0)
    for split, count in (("train", 8), ("test", 4)):
        for label in range(3):
            for number in range(count):
                pixels = generator.integers(0, 60, (SIZE, SIZE, 3), dtype=np.uint8)
                pixels[5 : 5 + 8, 2 + 12 * label : 2 + 12 * label + 8] = 255
                path = folder / split / f"place {label}" / f"{number}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels).save(path)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """All methods after an epoch, with their tensors; data root and cache stay set while the tests run."""
    root = tmp_path_factory.mktemp("data")
    write_images(root / "places")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VPBENCH_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("VPBENCH_DATA", str(root))
        patch.delenv("VPBENCH_WEIGHTS", raising=False)
        with pytest.MonkeyPatch.context() as quick:
            for name in ("measure_training", "measure_inference", "count_operations"):
                quick.setattr(worker, name, lambda *_: {})
            store = Store(tmp_path_factory.mktemp("runs"))
            frame = vpbench.run(
                METHODS, data=root / "places", backbone="vit-nano", epochs=1, device="cpu", precision="fp32",
                results=store.folder, save=("weights", "predictions"),
            )  # fmt: skip
        assert set(frame["status"]) == {"ok"}, frame["error"].tolist()
        yield store


@pytest.fixture
def copy(trained: Store, tmp_path: Path) -> Store:
    return Store(shutil.copytree(trained.folder, tmp_path / "runs"))


def row_of(store: Store, method: str) -> dict[str, object]:
    rows = store.load()
    (found,) = rows[rows["method"] == method].to_dict("records")
    return {str(name): None if isinstance(value, float) and value != value else value for name, value in found.items()}


def stored(store: Store, method: str) -> StoredModel:
    return load_stored(row_of(store, method), store)


def images_of(model: StoredModel, count: int = 3) -> torch.Tensor:
    from vpbench.data.batches import Normaliser

    return Normaliser(model.spec.backbone.mean, model.spec.backbone.std)(model.data.test.take(np.arange(count)))


@pytest.mark.parametrize("method", some(METHODS, 2))
def test_a_stored_model_predicts_what_the_run_predicted(trained: Store, method: str) -> None:
    model = stored(trained, method)
    with np.load(trained.artefact_path(model.spec.run_id, "predictions.npz")) as arrays:
        ranked, confidence = arrays["ranked"], arrays["confidence"]
    with torch.no_grad():
        top = model.model(images_of(model, len(ranked))).softmax(-1).max(-1)
    assert top.indices.tolist() == ranked[:, 0].tolist()
    assert top.values.numpy() == pytest.approx(confidence, abs=1e-5)


@pytest.mark.parametrize(
    ("name", "methods", "stem"),
    [
        # linear has none to show
        pytest.param("prompts", "linear,insvp", "prompts_vit-nano_places_insvp_seed42", marks=pytest.mark.sweep),
        ("attention", "linear,vpt,e2vpt", "attention_vit-nano_places_seed42"),  # e2vpt's cannot be read
        pytest.param("gradcam", "e2vpt,viapt", "gradcam_vit-nano_places_seed42", marks=pytest.mark.sweep),
        # vpt's are the same for every image
        pytest.param("tsne-prompts", "vpt,viapt", "tsne_prompts_vit-nano_places_seed42", marks=pytest.mark.sweep),
    ],
)
def test_figures(trained: Store, tmp_path: Path, name: str, methods: str, stem: str) -> None:
    paths = [Path(path) for path in make_report(plot=name, results=trained.folder, out=tmp_path, method=methods)]
    assert [path.name for path in paths] == [f"{stem}.png", f"{stem}.pdf"]
    with Image.open(paths[0]) as picture:
        assert 400 < picture.width < 1600
    if name == "prompts":
        first = [path.read_bytes() for path in paths]
        make_report(plot=name, results=trained.folder, out=tmp_path, method=methods)
        assert [path.read_bytes() for path in paths] == first


def test_pixel_prompts_and_tokens_by_method(trained: Store) -> None:
    for method, on_pixels, tokens in (("linear", False, 0), ("vpt", False, 10), ("insvp", True, 9)):
        model = stored(trained, method)
        images = images_of(model)
        assert (prompted_pixels(model.model, images) != images).any().item() == on_pixels
        assert first_prompts(model.model, images).shape == (3, tokens, model.model.backbone.shape.width)
    insvp = stored(trained, "insvp")
    images = images_of(insvp)
    expected = insvp.model.method.image_prompt(images, training=False)  # type: ignore[attr-defined]
    torch.testing.assert_close(prompted_pixels(insvp.model, images) - images, expected, atol=1e-5, rtol=0)


def test_attention_is_a_distribution_over_prefix_prompts_and_patches(trained: Store) -> None:
    model = stored(trained, "vpt")
    images = images_of(model)
    blocks = attention_by_block(model.model, images)
    assert len(blocks) == model.model.backbone.shape.depth
    for block in blocks:
        assert block.patches.shape == (3, 5, 5)
        assert block.prompts is not None
        rest = 1 - block.patches.sum((1, 2)) - block.prompts  # what the class token pays to itself
        assert (rest > 0).all()
        assert (block.prompts > 0).all()
    plain = attention_by_block(stored(trained, "linear").model, images)
    assert all(block.prompts is not None and not block.prompts.any() for block in plain)


def test_looking_leaves_no_trace(trained: Store) -> None:
    model = stored(trained, "ivpt")
    images = images_of(model)
    with torch.no_grad():
        before = model.model(images)
    attention_by_block(model.model, images)
    grad_cam(model.model, images, torch.tensor([0, 1, 2]))
    first_prompts(model.model, images)
    with torch.no_grad():
        assert torch.equal(model.model(images), before)
    assert "run_block" not in vars(model.model.backbone)
    assert all(parameter.grad is None for parameter in model.model.parameters())


def test_grad_cam_by_hand(trained: Store) -> None:
    """Against the gradient that autograd gives for the patch tokens when the last block is run on its own."""
    model = stored(trained, "linear").model
    images, targets = images_of(stored(trained, "linear")), torch.tensor([2, 0, 1])
    maps = grad_cam(model, images, targets)
    backbone = model.backbone
    with torch.no_grad():
        tokens = backbone.embed(images)
        for block in range(backbone.shape.depth - 1):
            tokens = backbone.block(block, tokens)
    entering = tokens.x.clone().requires_grad_(True)
    logits = model.head(backbone.pool(backbone.block(backbone.shape.depth - 1, type(tokens)(entering, tokens.prefix))))
    for image, target in enumerate(targets.tolist()):
        (gradient,) = torch.autograd.grad(logits[image, target], entering, retain_graph=True)
        weights = gradient[image, tokens.prefix :].mean(0)
        expected = (entering[image, tokens.prefix :] @ weights).clamp(min=0).detach()
        expected = expected / expected.max().clamp(min=1e-30)
        assert maps[image].ravel() == pytest.approx(expected.numpy(), abs=1e-5)


# What is not there


def test_a_store_without_tensors_names_the_run(copy: Store) -> None:
    row = row_of(copy, "vpt")
    path = copy.artefact_path(str(row["run_id"]), "weights.safetensors")
    tensors = load_file(path)
    path.write_bytes(b"broken")
    with pytest.raises(StoreError, match=r"weights\.safetensors cannot be read: its checksum"):
        load_stored(row, copy)
    path.with_name(CHECKSUMS).unlink()  # as in folders of earlier versions
    with pytest.raises(StoreError, match=r"weights\.safetensors cannot be read"):
        load_stored(row, copy)
    save_file({name: tensor for name, tensor in tensors.items() if name != "own.prompts"}, path)
    with pytest.raises(StoreError, match=r"'own\.prompts' has shape none in the file"):
        load_stored(row, copy)
    path.unlink()
    with pytest.raises(StoreError, match=r"left no weights.*--save weights"):
        load_stored(row, copy)


def test_data_that_moved_or_changed(copy: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    row = row_of(copy, "vpt")
    monkeypatch.setenv("VPBENCH_DATA", str(tmp_path))
    load_stored(row, copy)  # from the place that the row names
    row["data_path"] = str(tmp_path / "gone")
    with pytest.raises(DataError, match="let VPBENCH_DATA name the folder"):
        load_stored(row, copy)
    write_images(tmp_path / "places")
    load_stored(row, copy)
    (tmp_path / "places" / "test" / "place 0" / "0.png").unlink()
    with pytest.raises(DataError, match="digest differs"):
        load_stored(row, copy)


def test_weights_of_another_file(trained: Store) -> None:
    backbone = stored(trained, "vpt").spec.backbone
    other = backbone.model_copy(update={"weights": "file", "sha256": "0" * 64})
    with pytest.raises(WeightsError, match="let VPBENCH_WEIGHTS name the run's file"):
        find_weights(other)


def test_rows_name_the_places_of_own_data_and_weights(
    copy: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Outside of their identity: figures find both without the environment, and the command that repeats a run names them."""
    nano = packaged_file("backbones", "vit-nano.safetensors")
    weights = shutil.copy(nano, tmp_path / "vit-nano.safetensors")
    data = Path(str(row_of(copy, "vpt")["data_path"]))
    monkeypatch.setattr(worker, "measure_training", lambda *_: {})
    monkeypatch.setattr(worker, "measure_inference", lambda *_: {})
    monkeypatch.setattr(worker, "count_operations", lambda *_: {})
    asked = {"methods": "linear", "data": data, "backbone": "vit-nano", "epochs": 1, "device": "cpu", "precision": "fp32"}
    (run,) = vpbench.run(**asked, weights=weights, results=copy.folder, save=("weights", "predictions")).to_dict("records")
    assert (run["data_path"], run["weights_path"]) == (str(data), str(weights))
    assert str(tmp_path) not in str(run["spec"])
    monkeypatch.delenv("VPBENCH_DATA")
    assert load_stored(run, copy).spec.backbone.path == str(weights)
    facts = describe("run", str(run["run_id"]), copy.folder)
    words = shlex.split(facts["repeat_with"])
    assert words[words.index("--data") + 1] == str(data)
    assert words[words.index("--weights") + 1] == str(weights)
    show("run", str(run["run_id"]), copy.folder)
    assert "repeat_with: vpbench run --methods linear" in " ".join(capsys.readouterr().out.split())
    ((_, figure), *_) = confusion.draw(copy, copy.load(), Filters(method=("linear",), backbone=("vit-nano",)))
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["place 0", "place 1", "place 2"]


def test_one_problem_of_several_groups_is_told_once(copy: Store, tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    for path in copy.folder.rglob("weights.safetensors"):
        path.write_bytes(b"broken")
    with pytest.raises(StoreError, match="cannot be read"):
        make_report(plot="attention", results=copy.folder, out=tmp_path / "figures")
    assert [str(warning.message) for warning in recwarn if "no figure of" in str(warning.message)] == []


@pytest.mark.sweep
def test_one_model_that_is_broken_leaves_the_others(copy: Store, tmp_path: Path) -> None:
    """A second data set's model is drawn although the first one's tensors are broken."""
    first, second = row_of(copy, "vpt"), row_of(copy, "insvp")
    for path in copy.folder.glob("*.parquet"):
        if path.stem not in (first["run_id"], second["run_id"]):
            path.unlink()
    frame = pd.read_parquet(copy.row_path(str(second["run_id"])))
    copy.write_row({**second, "dataset": "zoo", "started_at": frame["started_at"].iloc[0].to_pydatetime()})
    copy.artefact_path(str(first["run_id"]), "weights.safetensors").write_bytes(b"broken")
    with pytest.warns(UserWarning, match=r"no figure of places.*cannot be read"):
        paths = make_report(plot="gradcam", results=copy.folder, out=tmp_path / "figures")
    assert [Path(path).name for path in paths] == ["gradcam_vit-nano_zoo_seed42.png", "gradcam_vit-nano_zoo_seed42.pdf"]


# Noise


def test_no_noise_gives_the_accuracy_of_the_run(copy: Store) -> None:
    for method in ("linear", "vpt"):
        row = row_of(copy, method)
        found = evaluate_noise(row, copy, (0.5, 0), "cpu")
        assert found["sigma"].tolist() == [0, 0.5]
        assert (found["acc1"].iloc[0], found["correct"].iloc[0], found["total"].iloc[0]) == (row["acc1"], row["correct"], 12)
        assert copy.artefact_path(str(row["run_id"]), "noise.csv").exists()


def test_a_known_sigma_is_not_evaluated_again(copy: Store) -> None:
    row = row_of(copy, "vpt")
    evaluate_noise(row, copy, (0, 0.2), "cpu")
    path = copy.artefact_path(str(row["run_id"]), "noise.csv")
    marked = pd.read_csv(path)
    marked.loc[marked["sigma"] == 0.2, "acc1"] = 12.5  # a value that no evaluation of 12 images gives
    copy.write_artefact(str(row["run_id"]), "noise.csv", lambda new: marked.to_csv(new, index=False))
    found = evaluate_noise(row, copy, (0.2, 0.4), "cpu")
    assert found["sigma"].tolist() == [0, 0.2, 0.4]
    assert found["acc1"].tolist()[1] == 12.5


@pytest.mark.sweep
def test_corruptions_are_tested_once_in_five_severities(copy: Store) -> None:
    row = row_of(copy, "vpt")
    found = evaluate_corruptions(row, copy, ["contrast", "pixelate"], "cpu")
    assert list(found[["corruption", "severity"]].itertuples(index=False, name=None)) == [
        (name, severity) for name in ("contrast", "pixelate") for severity in (1, 2, 3, 4, 5)
    ]
    assert set(found["total"]) == {12}
    assert (found["acc1"] == 100 * found["correct"] / 12).all()
    path = copy.artefact_path(str(row["run_id"]), "corruptions.csv")
    marked = pd.read_csv(path).assign(acc1=12.5)
    copy.write_artefact(str(row["run_id"]), "corruptions.csv", lambda new: marked.to_csv(new, index=False))
    found = evaluate_corruptions(row, copy, ["pixelate", "brightness"], "cpu")
    assert set(found[found["corruption"] != "brightness"]["acc1"]) == {12.5}
    assert len(found) == 15
    copy.write_artefact(str(row["run_id"]), "corruptions.csv", lambda new: new.write_text("nothing"))
    with pytest.raises(StoreError, match=r"corruptions.csv is no table of accuracies under corruptions"):
        evaluate_corruptions(row, copy, ["fog"], "cpu")


def test_noise_belongs_to_the_image_and_grows_with_sigma() -> None:
    images = np.random.default_rng(0).integers(100, 150, (5, 8, 8, 3), dtype=np.uint8)
    labels = np.zeros(5, np.int64)
    clean, little, much = (NoisySplit(images, labels, 8, sigma=sigma) for sigma in (0, 0.01, 0.02))
    everything = little.take(np.arange(5))
    assert np.array_equal(everything[[3, 1]], little.take(np.array([3, 1])))
    assert np.array_equal(clean.take(np.arange(5)), images)
    assert 2 * (everything - images) == pytest.approx(much.take(np.arange(5)) - images, abs=1e-4)
    assert (everything - images)[2] == pytest.approx(2.55 * image_noise(2, (8, 8, 3)), abs=1e-4)
    loud = NoisySplit(images, labels, 8, sigma=50).take(np.arange(5))
    assert (loud.min(), loud.max()) == (0, 255)
    sample = np.concatenate([image_noise(index, (100, 100)).ravel() for index in range(20)])
    assert (sample.mean(), sample.std()) == pytest.approx((0, 1), abs=0.01)


@pytest.mark.parametrize("sigmas", [(), (-0.1,), (float("nan"),)])
def test_sigmas_that_cannot_be(trained: Store, sigmas: tuple[float, ...]) -> None:
    with pytest.raises(UsageError, match="--noise"):
        evaluate_noise(row_of(trained, "vpt"), trained, sigmas, "cpu")


def test_a_group_that_a_figure_is_not_for_is_left_out(recwarn: pytest.WarningsRecorder) -> None:
    found: list[Any] = [
        Mock(dataset=dataset, section=Mock(key=SectionKey("b", task=task)))
        for dataset, task in (("street", "segmentation"), ("photos", None))
    ]

    def make(group: Any) -> Iterator[tuple[str, Any]]:
        _models.by_class_alone(group)
        yield group.dataset, None

    assert list(_models.each(found, make)) == [("photos", None)]
    assert not recwarn.list
    with pytest.raises(StoreError, match="street is for segmentation"):
        list(_models.each(found[:1], make))
