"""``vpbench.load_run``: a trained model by its run, its file or its folder, with the predictions of its row."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command import rows, vpbench
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import vpbench as package
from vpbench.core.errors import StoreError, UsageError, VpbenchError
from vpbench.store.artefacts import CHECKSUMS


def run_of(results: Path, method: str) -> Any:
    (row,) = rows(results).query(f"method == '{method}'").itertuples()
    return row


def weights_of(results: Path, method: str) -> Path:
    return results / "_artefacts" / run_of(results, method).run_id / "weights.safetensors"


@pytest.mark.parametrize("method", ["linear", "vpt"])
def test_the_model_makes_the_predictions_of_its_row(method: str, finished: Path, images: Path) -> None:
    """From the image files alone: the very ranking and confidence that the run's test left."""
    row = run_of(finished, method)
    model = package.load_run(row.run_id[:8], results=finished)
    assert not model.training
    assert model.class_names == ("c0", "c1", "c2")
    files = sorted((images / "test").rglob("*.png"))
    with torch.no_grad():
        probabilities = model(torch.stack([model.transform(file) for file in files])).softmax(-1)
    kept = np.load(weights_of(finished, method).with_name("predictions.npz"))
    top = probabilities.topk(3)
    assert np.array_equal(top.indices.numpy(), kept["ranked"])
    assert np.array_equal(top.values[:, 0].numpy(), kept["confidence"])
    truth = torch.tensor([model.class_names.index(file.parent.name) for file in files])
    assert int((top.indices[:, 0] == truth).sum()) == row.correct


def test_a_run_a_file_and_a_folder_are_the_same_model(finished: Path, images: Path) -> None:
    path = weights_of(finished, "vpt")
    x = torch.randn(2, 3, 40, 40, generator=torch.Generator().manual_seed(0))
    by_run = package.load_run(path.parent.name, results=finished)
    with torch.no_grad():
        wanted = by_run(x)
        for place in (path, path.parent, str(path.parent)):
            assert torch.equal(package.load_run(place)(x), wanted)
    assert by_run.description.method.label == "vpt"


def test_what_the_transform_takes(finished: Path, images: Path) -> None:
    transform = package.load_run(weights_of(finished, "linear")).transform
    file = next((images / "test").rglob("*.png"))
    wanted = transform(file)
    assert wanted.shape == (3, 40, 40) and wanted.dtype == torch.float32
    for same in (str(file), file.read_bytes(), Image.open(file), np.asarray(Image.open(file))):
        assert torch.equal(transform(same), wanted)
    with pytest.raises(UsageError, match=r"the image is float64 \(4, 4, 3\): give a path"):
        transform(np.zeros((4, 4, 3)))
    assert "image_size=40" in repr(transform)


def test_weights_are_kept_by_default(tmp_path: Path, command: list[str], unmeasured: None) -> None:
    """And a row without them, as of an earlier version, is no reason to train again, unless they are asked for."""
    words = (*command, tmp_path, "--methods", "linear")
    assert "1 of them new" in vpbench(*words).out
    path = weights_of(tmp_path, "linear")
    assert package.load_run(path).class_names == ("c0", "c1", "c2")
    path.unlink()
    assert "0 of them new" in vpbench(*words).out
    assert "1 of them new" in vpbench(*words, "--save", "weights").out
    assert path.exists()


def rewritten(path: Path, **changes: Any) -> None:
    """The file with another description, as if it had been written so."""
    with safe_open(path, "pt") as content:
        metadata = content.metadata()
    del metadata["sha256"]
    for name, value in changes.items():
        metadata[name] = json.dumps({**json.loads(metadata[name]), **value} if isinstance(value, dict) else value)
    save_file(load_file(path), path, metadata)
    path.with_name(CHECKSUMS).unlink(missing_ok=True)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"class_names": ["c0", "c1"]}, "the number of classes, 2 in the file and 3 in the row"),
        ({"run_id": "0" * 32}, "belongs to another run, 00000000"),
        ({"backbone": {"sha256": "0" * 64}}, "the hash of the backbone's weights, 000"),
        ({"preprocess": {"background": "black"}}, "the preprocessing, "),
        ({"precision": "fp16"}, "of a later vpbench"),
    ],
)
def test_a_file_that_does_not_fit_its_row(changes: dict[str, Any], words: str, results: Path) -> None:
    path = weights_of(results, "linear")
    rewritten(path, **changes)
    with pytest.raises(StoreError, match=words) as caught:
        package.load_run(path.parent.name, results=results)
    assert "\n" not in str(caught.value)


def test_other_options_than_the_row_s(results: Path) -> None:
    path = weights_of(results, "vpt")
    with safe_open(path, "pt") as content:
        method = json.loads(content.metadata()["method"])
    rewritten(path, method={**method, "config": {**method["config"], "dropout": 0.5}})
    with pytest.raises(StoreError, match="does not fit its row: the options, "):
        package.load_run(path.parent.name, results=results)


def test_class_names_that_are_asked_for(finished: Path) -> None:
    path = weights_of(finished, "linear")
    assert package.load_run(path, class_names=["c0", "c1", "c2"])
    with pytest.raises(UsageError, match=r"other class names: 3 instead of 3, and class 1 is 'c1' instead of 'c2'"):
        package.load_run(path, class_names=["c0", "c2", "c1"])
    with pytest.raises(UsageError, match=r"3 instead of 2, and class 2 is 'c2' instead of none"):
        package.load_run(path, class_names=["c0", "c1"])


def test_runs_without_weights_and_what_is_no_run(results: Path, tmp_path: Path) -> None:
    path = weights_of(results, "linear")
    run_id = path.parent.name
    shutil.rmtree(path.parent)
    cases = {
        run_id: rf"run {run_id} \(linear\) left no weights in .*: run it again with --save weights",
        "ffffffff": "no run 'ffffffff'",
        str(results): "has no model.safetensors and no weights.safetensors; of a results folder give the run's id",
        "no such thing": "'no such thing' is no run",
        str(tmp_path / "gone.safetensors"): "is no run",
    }
    for name, words in cases.items():
        with pytest.raises(VpbenchError, match=words) as caught:
            package.load_run(name, results=results)
        assert "\n" not in str(caught.value)
