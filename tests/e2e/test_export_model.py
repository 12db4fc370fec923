"""From a folder of photos to a model that runs without vpbench: train, export, and load in a fresh process."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from alone import alone, write_card
from command import rows, vpbench

import vpbench as package
from vpbench.core.errors import UnsupportedError
from vpbench.deploy.export_run import export_run
from vpbench.deploy.export_target import target_registry


@pytest.mark.sweep  # each target by itself is in tests/deploy/test_targets.py
def test_train_predict_and_export(
    images: Path, command: list[str], tmp_path: Path, unmeasured: None, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    """LoRA merges into a model of timm; VPT becomes a program of torch.export and a graph; all say the same of new photos."""
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    monkeypatch.setenv("VPBENCH_PATH", str(write_card(tmp_path / "cards")))
    results = tmp_path / "runs"
    backbone = ("--backbone", "two-blocks", "--weights", "random")
    assert vpbench(*command, results, "--methods", "lora,vpt", "--epochs", 2, *backbone).code == 0
    ids = dict(zip(rows(results)["method"], rows(results)["run_id"]))
    photos = sorted((images / "val").rglob("*.png"))
    shown = json.loads(vpbench("predict", ids["lora"], *photos, "--results", results, "--format", "json").out)
    assert [each["image"] for each in shown] == list(map(str, photos))
    for method, to in (("lora", "torch"), ("vpt", "torch"), ("vpt", "onnx"), ("vpt", "folder")):
        done = vpbench("export", ids[method][:8], "--to", to, "--out", tmp_path / f"{method}-{to}", "--results", results)
        assert done.code == 0, done.err
        assert str(tmp_path / f"{method}-{to}") in done.out
    models = {method: package.load_run(ids[method], results=results) for method in ("lora", "vpt")}
    prepared = torch.stack([models["vpt"].transform(photo) for photo in photos])
    with torch.no_grad():
        wanted = {method: model(prepared) for method, model in models.items()}
        of_folder = package.load_run(tmp_path / "vpt-folder")
        assert torch.equal(of_folder(prepared), wanted["vpt"])
    found = alone(prepared, tmp_path, *(tmp_path / name for name in ("lora-torch", "vpt-torch", "vpt-onnx")))
    for name, logits in found.items():
        torch.testing.assert_close(logits, wanted[name.partition("-")[0]], rtol=1e-5, atol=1e-4 if "onnx" in name else 1e-5)
    check_files(tmp_path, models)


def check_files(folder: Path, models: dict[str, Any]) -> None:
    """What lies beside the tensors."""
    names = {name: sorted(path.name for path in (folder / name).iterdir()) for name in ("lora-torch", "vpt-torch", "vpt-onnx")}
    assert names["lora-torch"] == ["README.md", "config.json", "model.safetensors"]
    assert names["vpt-torch"] == ["README.md", "config.json", "model.pt2"]
    assert names["vpt-onnx"] == ["README.md", "config.json", "model.onnx"]
    timm_config = json.loads((folder / "lora-torch" / "config.json").read_text())
    assert timm_config["label_names"] == ["c0", "c1", "c2"]
    assert timm_config["pretrained_cfg"]["input_size"] == [3, 40, 40]
    config = json.loads((folder / "vpt-onnx" / "config.json").read_text())
    assert config["id2label"] == {"0": "c0", "1": "c1", "2": "c2"}
    assert config["method"]["name"] == "vpt" and config["run_id"] == models["vpt"].description.run_id
    card = (folder / "vpt-folder" / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: vpbench\n") and "license: apache-2.0" in card
    assert "% of 12 images" in card and 'vpbench.load_run("THIS_FOLDER")' in card


@pytest.mark.sweep
def test_an_adapter_that_peft_loads(images: Path, tmp_path: Path, unmeasured: None) -> None:
    """Of the methods lora and peft; vpbench loads the folder, too, and says why other methods have none."""
    pytest.importorskip("peft")
    frame = package.run(
        "lora,peft:dora,linear", data=images, backbone="vit-nano", epochs=1, results=tmp_path / "runs", device="cpu",
        precision="fp32", executor="inline", save=("weights",),
    )  # fmt: skip
    assert set(frame["status"]) == {"ok"}, frame["error"].tolist()
    ids = dict(zip(frame["method"], frame["run_id"]))
    for method in ("lora", "peft:dora"):
        folder, _ = export_run(ids[method], "peft", tmp_path / method.replace(":", "-"), results=tmp_path / "runs")
        assert sorted(path.name for path in folder.iterdir()) == [
            "README.md", "adapter_config.json", "adapter_model.safetensors", "config.json"
        ]  # fmt: skip
        wanted, found = package.load_run(ids[method], results=tmp_path / "runs"), package.load_run(folder)
        pixels = torch.rand(2, 3, 40, 40, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            assert torch.equal(found(pixels), wanted(pixels))
        assert found.class_names == wanted.class_names
    with pytest.raises(UnsupportedError, match=r"Linear probing is no adapter of the library peft; lora and peft are."):
        export_run(ids["linear"], "peft", tmp_path / "linear", results=tmp_path / "runs")


@pytest.mark.sweep
def test_what_cannot_be_exported_says_why(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A method whose computation depends on the values of an image; nothing is left behind."""
    from vpbench.methods.vpt import VPT

    run_id = rows(finished).query("method == 'vpt'")["run_id"].item()
    plain = VPT.pixels
    monkeypatch.setattr(VPT, "pixels", lambda self, x, c: plain(self, x, c) if x.mean() > 0.5 else -x)
    with pytest.raises(UnsupportedError, match=r"vpt cannot be exported: its forward pass is no fixed program") as caught:
        export_run(run_id, "torch", tmp_path / "out", results=finished)
    assert "\n" not in str(caught.value) and str(caught.value).endswith("--to folder keeps it for vpbench.load_run.")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("RUN", "--to", "tensorflow"), 2, "unknown export target 'tensorflow'"),
        (("RUN", "--to", "rows.csv"), 2, "--to rows.csv is a file of rows: leave out RUN, or write a model --to folder,"),
        (("--to", "torch"), 2, "--to torch writes the model of a run: vpbench export RUN --to torch."),
        (("RUN", "--to", "folder", "--seed", "1"), 2, "--seed chooses rows: leave it out with RUN"),
        (("--to", "rows.csv", "--out", "x"), 2, "--out and --weights are for a model"),
        (("RUN", "--to", "folder", "--out", "full"), 2, "full exists already: choose another --out, or remove it."),
        (("ffff", "--to", "folder"), 5, "no run 'ffff'"),
    ],
)
def test_mistakes_are_one_line(words: tuple[str, ...], code: int, message: str, finished: Path, work: Path) -> None:
    (work / "full").mkdir()
    (work / "full" / "file").touch()
    given = [rows(finished)["run_id"][0] if word == "RUN" else word for word in words]
    done = vpbench("export", *given, "--results", finished)
    assert done.code == code
    assert message in done.err and len(done.err.splitlines()) == 1


def test_the_usual_folder_and_json(finished: Path, work: Path) -> None:
    run_id = rows(finished).query("method == 'linear'")["run_id"].item()
    done = json.loads(vpbench("export", run_id, "--to", "folder", "--results", finished, "--json").out)
    assert done == {
        "folder": f"linear-grey-{run_id[:8]}-folder", "to": "folder", "files": ["README.md", "config.json", "model.safetensors"]
    }  # fmt: skip
    assert package.load_run(work / done["folder"]).class_names == ("c0", "c1", "c2")


def test_every_target_has_a_summary() -> None:
    registry = target_registry()
    assert {"folder", "torch"} <= set(registry.names())
    assert all(registry.get(name).summary for name in ("folder", "torch"))
    shown = vpbench("export", "--help").out
    assert all(name in shown for name in registry.names())
