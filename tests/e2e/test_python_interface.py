"""The functions of ``import vpbench``."""

from __future__ import annotations

import importlib
import random
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

import vpbench
from vpbench.api import _models, plan_request
from vpbench.core.errors import UsageError
from vpbench.execution.callbacks import Callback
from vpbench.reporting.page import site
from vpbench.spec.request import Request
from vpbench.spec.run_options import RunOptions
from vpbench.store.artefacts import CHECKSUMS
from vpbench.store.schema import COLUMNS


def test_run_gives_the_rows_of_the_request(results: Path, images: Path, unmeasured: None) -> None:
    def run(methods: str | list[str], **more: object) -> pd.DataFrame:
        return vpbench.run(
            methods, data=images, image_size=40, epochs=1, device="cpu", precision="fp32", results=results, save=(), **more
        )

    before = set(vpbench.load_results(results)["run_id"])
    stored = run("linear, vpt")
    assert set(stored["run_id"]) == before
    fresh = run(["vpt"], settings={"vpt.prompt_length": 3})
    assert len(fresh) == 1
    assert set(vpbench.load_results(results)["run_id"]) == before | set(fresh["run_id"])


def test_a_generator_of_artefacts(tmp_path: Path, images: Path, unmeasured: None) -> None:
    frame = vpbench.run(
        ["linear"],
        data=images,
        image_size=40,
        epochs=1,
        device="cpu",
        results=tmp_path,
        save=(name for name in ["curve", "predictions"]),
    )
    kept = tmp_path / "_artefacts" / frame["run_id"].item()
    assert sorted(path.name for path in kept.iterdir()) == [CHECKSUMS, "curve.csv", "predictions.npz"]


def test_no_methods_are_not_all_methods(images: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="names no method"):
        vpbench.run([], data=images, results=tmp_path / "new")
    assert list(tmp_path.iterdir()) == []


def test_empty_results_have_all_columns(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="there is no results folder") as caught:
        frame = vpbench.load_results(tmp_path / "none")
    assert [warning.filename for warning in caught] == [__file__]
    assert len(frame) == 0
    assert list(frame.columns) == list(COLUMNS)


def test_report(finished: Path, tmp_path: Path) -> None:
    assert "linear" in vpbench.report(table=1, results=finished)
    vpbench.report(table="1", results=finished, format="csv", out=tmp_path / "table.csv")
    assert "vpt" in (tmp_path / "table.csv").read_text()


def test_names() -> None:
    assert set(vpbench.__all__) <= set(dir(vpbench))
    functions = {"run", "tune", "report", "show", "load_results", "create_method", "compare", "measure", "remove_runs"}
    assert functions <= set(vpbench.__all__)
    assert all(callable(getattr(vpbench, name)) for name in functions)
    assert {name for name in dir(vpbench) if not name.startswith("__")} == {*vpbench.__all__} - {"__version__"}
    with pytest.raises(vpbench.VpbenchError, match="Did you mean 'table'"):
        vpbench.report(tabel=1)


def test_texts_where_lists_are_meant(finished: Path) -> None:
    assert list(vpbench.load_results(finished, "method,acc1").columns) == ["method", "acc1"]
    assert Request.from_keywords(datasets="digits", methods="linear, vpt").datasets == ("digits",)
    options = RunOptions.from_keywords(save="weights", noise="0,0.1")
    assert (options.save, options.noise) == (("weights",), (0.0, 0.1))
    given = {
        "methods": "linear, vpt", "backbone": "a,b", "data": "my images", "columns": "image=img", "settings": "vpt.dropout=0.1",
        "timeout_s": "2h", "checkpoint_s": "never", "gpus": "0,2", "executor_options": ["partition=gpu"], "save": "none",
    }  # fmt: skip
    request, options = _models("run", given, Request, RunOptions)
    assert (request.methods, request.backbone, request.data) == (("linear", "vpt"), ("a", "b"), ("my images",))
    assert (request.columns, request.settings) == ({"image": "img"}, {"vpt.dropout": 0.1})
    assert (options.timeout_s, options.checkpoint_s, options.gpus, options.save) == (7200, None, (0, 2), ())
    assert options.executor_options == {"partition": "gpu"}
    table = vpbench.report(compare=("vpt", "linear"), results=finished)
    assert vpbench.report(compare="vpt,linear", results=finished) == table
    assert vpbench.report(compare=[["vpt", "linear"]], results=finished) == table
    for wrong in ("vpt", ["vpt"], [("vpt", "linear", "e2vpt")]):
        with pytest.raises(UsageError, match="two methods are compared"):
            vpbench.report(compare=wrong, results=finished)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: vpbench.run("linear", lr=3), r"unknown argument of vpbench.run 'lr'.*settings=\{'recipe.lr': ...\}"),
        (lambda: vpbench.run("linear", epoch=3), "Did you mean 'epochs'"),
        (lambda: vpbench.load_run(3), "run=3: write a run's id as a text, e.g. load_run"),
        (lambda: vpbench.remove_runs(3), "runs=3: write ids of runs, as a list or as a text with commas"),
        (lambda: vpbench.remove_runs([3]), "3 is no run's id"),
        (lambda: vpbench.run(3), r"methods: write names, as a list or as a text with commas \(given: 3\)"),
        (lambda: vpbench.tune("vpt", trails=3), "unknown argument of vpbench.tune 'trails'. Did you mean 'trials'"),
        (lambda: vpbench.report(tabel=1), "unknown argument of vpbench.report 'tabel'. Did you mean 'table'"),
        (lambda: vpbench.report(datasets="digits"), "Did you mean 'dataset'"),
        (lambda: vpbench.report(table=1, html="page"), "leave out table"),
        (lambda: vpbench.report(out="x.docx"), r"x.docx: no format ends with .docx: take .*\.md"),
        (lambda: vpbench.create_method("vpt:shallow", "vit-nano", 3, deep=True), "undoes what vpt:shallow is"),
        (lambda: vpbench.create_method("vpt", "vit-nano", 3, wieghts="random"), "Did you mean 'weights'"),
        (lambda: vpbench.compare("vpt", "linear", datasets="digits"), "argument of vpbench.compare 'datasets'. Did you mean"),
        (lambda: vpbench.measure("vpt", clases=3), "argument of vpbench.measure 'clases'. Did you mean 'classes'"),
        (lambda: vpbench.load_results(results="runs"), "argument of vpbench.load_results 'results'"),
        (lambda: vpbench.show("method", nam="vpt"), "Did you mean 'name'"),
        (lambda: vpbench.measure("linear", classes="x"), r"classes: take a whole number of at least 1 \(given: 'x'\)"),
        (lambda: vpbench.create_method("vpt", "vit-nano", 0), "classes=0: a head needs a whole number of classes, from 1 up"),
        (lambda: vpbench.create_method("vpt", "vit-nano", -3), "classes=-3"),
        (lambda: vpbench.create_method("vpt", "vit-nano", 2.5), "classes=2.5"),
        (lambda: vpbench.create_method("vpt", "vit-nano", 3, image_size=1_000_000), "15,625,000,000 tokens of 8 px patches"),
    ],
)
def test_refused(call: Callable[[], object], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=words) as caught:
        call()
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_report_in_a_notebook(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """rich sends what it prints to the display there; the table has to be in the text."""
    from rich import console

    plain = vpbench.report(results=finished)
    monkeypatch.setattr(console, "_is_jupyter", lambda: True)
    text = vpbench.report(results=finished)
    assert text == plain and "linear" in text
    shown = text._repr_html_()
    assert "<h2>Table 1: Top-1 accuracy" in shown and '<th scope="row">Linear' in shown and "<script" not in shown


def test_compare(finished: Path) -> None:
    table = vpbench.compare("vpt", "linear", results=finished)
    assert table == vpbench.report(compare=("vpt", "linear"), results=finished)
    assert table == vpbench.compare("vpt,linear", results=finished) == vpbench.compare(["vpt", "linear"], results=finished)
    assert vpbench.compare(results=finished) == vpbench.report(statistics=True, results=finished)


@pytest.mark.sweep
def test_measure(capsys: pytest.CaptureFixture[str]) -> None:
    frame = vpbench.measure("linear, vpt", classes=7, timing=False, settings={"vpt.prompt_length": 3})
    assert importlib.import_module("vpbench.measure.costs")  # the package has the function's name from here on
    again = vpbench.measure(["linear", "vpt"], classes=7, timing=False, settings={"vpt.prompt_length": 3})
    assert frame["method"].tolist() == again["method"].tolist() == ["(plain backbone)", "linear", "vpt"]
    assert frame["params_trainable"].tolist()[1:] == [7 * 193, 7 * 193 + 6 * 3 * 192]
    assert capsys.readouterr().err == ""


def test_remove_runs(results: Path) -> None:
    run_id = vpbench.load_results(results)["run_id"].iloc[0]
    assert vpbench.remove_runs(run_id[:8], results) == [run_id]
    assert run_id not in set(vpbench.load_results(results)["run_id"])


def test_report_of_figures_and_a_page(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("x.svg", "x.docx"):
        with pytest.raises(UsageError, match=rf"{name} names a file; figures need a folder"):
            vpbench.report(plot="seeds", results=finished, out=tmp_path / name)
    figures = vpbench.report(plot="seeds", results=finished, out=tmp_path / "figures")
    assert sorted(path.name for path in figures) == ["seeds_vit-nano.pdf", "seeds_vit-nano.png"]
    monkeypatch.setattr(site, "draw_all", lambda *_: [])
    assert vpbench.report(html=tmp_path / "page", results=finished) == [tmp_path / "page" / "index.html"]


def test_progress(images: Path, tmp_path: Path, unmeasured: None, capsys: pytest.CaptureFixture[str]) -> None:
    given = {"data": images, "image_size": 40, "epochs": 1, "device": "cpu", "results": tmp_path, "save": ()}
    vpbench.run("linear", **given)
    assert capsys.readouterr().err == ""  # nobody watches
    vpbench.run("vpt", progress=True, **given)
    assert "[1/1] vpt on" in capsys.readouterr().err
    with pytest.raises(UsageError, match="exclude each other"):
        vpbench.run("vpt", progress=True, callback=Callback(), **given)


@pytest.mark.sweep
def test_bars_in_a_notebook(images: Path, tmp_path: Path, unmeasured: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without ipywidgets, of which rich's own bars are made there."""
    from rich import console

    shown: list[str] = []
    handle = SimpleNamespace(update=shown.append)
    display = ModuleType("IPython.display")
    vars(display).update(HTML=str, display=lambda first, display_id=False: handle if display_id else None)
    monkeypatch.setitem(sys.modules, "IPython", ModuleType("IPython"))
    monkeypatch.setitem(sys.modules, "IPython.display", display)
    monkeypatch.setattr(console, "_is_jupyter", lambda: True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        vpbench.run("linear", data=images, image_size=40, epochs=1, device="cpu", results=tmp_path, save=())
        assert '<progress value="1" max="1"></progress> 1 of 1 runs' in shown
        assert len(vpbench.measure("linear", timing=False)) == 2


@pytest.mark.sweep
def test_tune(images: Path, tmp_path: Path, unmeasured: None) -> None:
    space = tmp_path / "space.toml"
    space.write_text(
        'title = "two"\ndescription = "two rates"\nsource = "assumption: none"\n[parameters]\n"recipe.lr" = [0.1, 0.01]\n'
    )
    outcomes = vpbench.tune(
        "linear", data=images, image_size=40, epochs=1, device="cpu", results=tmp_path / "runs", space=str(space), seeds=1
    )
    (outcome,) = outcomes
    assert len(outcome.trials) == 2 and len(outcome.finals) == 1
    assert str(outcomes).split()[:6] == ["method", "dataset", "trials", "winner", "validation", "test"]
    assert "2 complete" in str(outcomes) and "<td>2 complete</td>" in outcomes._repr_html_()


def test_what_the_caller_has_set_in_torch_stays(images: Path, tmp_path: Path, unmeasured: None) -> None:
    """A run is the same whatever that is, and leaves it as it was."""

    def run(place: str) -> dict[str, object]:
        frame = vpbench.run(
            "vpt", data=images, image_size=40, epochs=1, device="cpu", precision="fp32", results=tmp_path / place, threads=1,
            settings={"recipe.mixup": 0.2}, save=(),
        )  # fmt: skip
        assert frame["status"].tolist() == ["ok"], frame["error"].tolist()
        found: dict[str, object] = frame[["run_id", "train_loss", "correct", "params_trainable"]].iloc[0].to_dict()
        return found

    def seed() -> None:
        torch.manual_seed(3)
        np.random.seed(4)
        random.seed(5)

    def draw() -> list[float]:
        return [torch.rand(()).item(), np.random.rand(), random.random()]

    threads = torch.get_num_threads()
    seed()
    numbers = draw()
    seed()
    plain = run("plain")
    assert draw() == numbers
    torch.set_default_dtype(torch.float64)
    try:
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            assert run("other") == plain
            model = vpbench.create_method("vpt", "vit-nano", 3, seed=0)
            assert not torch.is_grad_enabled() and torch.is_autocast_enabled("cpu")
        with torch.inference_mode():
            assert run("inference") == plain
        assert torch.get_default_dtype() == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)
    assert {tensor.dtype for tensor in model.parameters()} == {torch.float32}
    assert torch.get_num_threads() == threads


def test_seeds_beyond_the_suites_are_named(images: Path, tmp_path: Path) -> None:
    notes: list[str] = []

    class Notes(Callback):
        def note(self, text: str) -> None:
            notes.append(text)

    request = Request(methods=("linear",), data=str(images), image_size=40, seeds=7, device="cpu")
    plan_request(request, RunOptions(), tmp_path, Notes())
    assert notes == ["suite custom has the seeds 42, 44, 82, 100, 800; beyond them these are taken: 801, 802."]


def test_show(finished: Path) -> None:
    assert vpbench.show("method", "vpt:released")["name"] == "vpt:released"
    run_id = vpbench.load_results(finished)["run_id"].iloc[0]
    assert vpbench.show("run", run_id[:8], finished)["run_id"] == run_id


def test_create_method() -> None:
    model = vpbench.create_method("vpt", "vit_tiny_patch16_224", 100, weights="random", prompt_length=10, image_size=32, seed=0)
    assert {name for name, _ in model.trainable()} == {"own.prompts", "head.weight", "head.bias"}
    assert model.own.prompts.shape == (12, 10, 192)
    logits = model.eval()(torch.zeros(2, 3, 32, 32))
    assert logits.shape == (2, 100)
    logits.sum().backward()
    assert [name for name, tensor in model.backbone.named_parameters() if tensor.requires_grad or tensor.grad is not None] == []
    again = vpbench.create_method("vpt", "vit_tiny_patch16_224", 100, weights="random", prompt_length=10, image_size=32, seed=0)
    assert torch.equal(model.own.prompts, again.own.prompts)


def test_create_method_refuses() -> None:
    with pytest.raises(UsageError, match=r"Did you mean 'prompt_length'\?"):
        vpbench.create_method("vpt", "vit-nano", 3, promt_length=10)
