"""A run's identity, and how a request becomes runs."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from vpbench.core.errors import DataError, UnsupportedError, UsageError, WeightsError
from vpbench.models.registry import expand_labels, method_registry
from vpbench.planning.plan import Plan, Request, make_plan, seeds_of
from vpbench.planning.suites import RecipeEntry, method_options, resolve_recipe, suite_card
from vpbench.planning.user_settings import split_settings
from vpbench.spec.recipe import Recipe
from vpbench.spec.run_spec import BackboneSpec, DataSpec, MethodSpec, Preprocess, RunSpec, Search
from vpbench.store.artefacts import ARTEFACTS
from vpbench.store.store import Store

SPEC = RunSpec(
    method=MethodSpec(name="vpt", preset="released", version=1, config={"prompt_length": 10, "deep": True}),
    backbone=BackboneSpec(
        name="vit-nano",
        weights="embedded",
        sha256="00ff",
        image_size=40,
        patch_size=8,
        mean=(0.5,) * 3,
        std=(0.5,) * 3,
        path="/here",
    ),
    data=DataSpec(suite="mini", dataset="digits", digest="abcd", path="/there"),
    preprocess=Preprocess(),
    recipe=Recipe(),
    seed=42,
)


def changed(**parts: dict[str, Any] | Any) -> RunSpec:
    """``SPEC`` with other fields; a mapping changes fields of a part."""
    assert SPEC.run_id  # a copy must not take it along
    return SPEC.model_copy(
        update={
            name: getattr(SPEC, name).model_copy(update=value) if isinstance(value, dict) else value
            for name, value in parts.items()
        }
    )


def test_run_id_never_changes() -> None:
    """Rows that users have are found by it. When this fails, every stored run would be run again."""
    assert SPEC.run_id == "fcdbd0663a396881db70093e57b15584"
    assert SPEC.group_id == "9ab6ee2d99b92c481063d562ea77d8f9"
    assert RunSpec.model_validate_json(SPEC.model_dump_json()).run_id == SPEC.run_id


def search(**changes: Any) -> Search:
    values = {"space": "s", "digest": "1", "searched": ("recipe.lr",), "sampler": "grid", "trials": 4}
    return Search.model_validate({**values, **changes})


def test_stages_are_different_runs() -> None:
    """A trial is the same whichever search asked for it first; a final run says which search it is the outcome of."""
    runs = {
        (stage, trials): SPEC.model_copy(update={"stage": stage, "search": search(trials=trials)})
        for stage in ("search", "final") for trials in (4, 5)
    }  # fmt: skip
    assert runs["search", 4].run_id == runs["search", 5].run_id
    assert len({SPEC.run_id, *(run.run_id for run in runs.values())}) == 4
    for run in runs.values():
        assert RunSpec.model_validate(run.identity()).run_id == run.run_id


DIFFERENT: list[dict[str, Any]] = [
    {"method": {"name": "vpt2"}}, {"method": {"preset": None}}, {"method": {"version": 2}},
    {"method": {"config": {"prompt_length": 11}}},
    {"backbone": {"name": "x"}}, {"backbone": {"weights": "random"}}, {"backbone": {"sha256": "01"}},
    {"backbone": {"image_size": 48}},
    {"backbone": {"patch_size": 4}}, {"backbone": {"mean": (0.4,) * 3}}, {"backbone": {"std": (0.4,) * 3}},
    {"data": {"suite": "x"}}, {"data": {"dataset": "x"}}, {"data": {"digest": "x"}},
    {"data": {"columns": {"label": "x"}}}, {"preprocess": {"orientation": "exif"}}, {"preprocess": {"background": "#ffffff"}},
    {"preprocess": {"resize": "crop"}}, {"preprocess": {"random_flip": True}}, {"preprocess": {"interpolation": "bilinear"}},
    {"recipe": {"lr": 0.1}}, {"recipe": {"epochs": 99}}, {"recipe": {"decay": "matrices"}},
    {"recipe": {"warmup_from_zero": True}},
    {"selection": "best_val"}, {"seed": 43}, {"precision": "bf16"},
]  # fmt: skip


def test_run_id_tells_runs_apart() -> None:
    specs = [SPEC, *(changed(**change) for change in DIFFERENT)]
    assert len({spec.run_id for spec in specs}) == len(specs)
    assert len({spec.group_id for spec in specs}) == len(specs) - 1  # the seed alone is not in it


def test_run_id_is_the_same_on_every_machine() -> None:
    moved = changed(backbone={"path": "/elsewhere"}, data={"path": None})
    assert moved.run_id == SPEC.run_id
    config = dict(reversed(SPEC.method.config.items()))
    assert changed(method={"config": config}).run_id == SPEC.run_id


def test_every_field_is_in_the_run_id() -> None:
    """A field that is added later has to be in the hash, or be named here."""
    identity = SPEC.identity()
    assert set(identity) == set(RunSpec.model_fields) - {
        "stage",
        "search",
        "task",
    }  # plain runs have no stage or search; classification came first
    for part in ("method", "backbone", "data", "preprocess", "recipe"):
        assert set(type(getattr(SPEC, part)).model_fields) - set(identity[part]) <= {
            *("path", "hub", "columns", "hashed_names", "pos_resample"),
            *("drop_path", "ema", "groups", "layer_decay", "betas", "auto_augment", "random_erasing", "repeats"),
            *("iterations", "poly_power", "min_lr", "drawn_from"),
            *("orientation", "background", "pos_resample", "hub", "unreadable"),
        }


def test_seeds() -> None:
    suite = suite_card("mini")
    assert seeds_of(suite, 1) == [42]
    assert seeds_of(suite, 5) == [42, 44, 82, 100, 800]
    assert seeds_of(suite, 7) == [42, 44, 82, 100, 800, 801, 802]


def test_settings_by_method() -> None:
    request = Request(
        methods=["vpt", "insvp:released"],
        epochs=3,
        settings={"vpt.prompt_length": 5, "recipe.lr": 0.1, "insvp.recipe.lr": 0.2, "insvp.recipe.epochs": 4},
    )
    options, recipes = split_settings(request)
    assert options == {"vpt": {"prompt_length": 5}}
    assert recipes == {"": {"epochs": 3, "lr": 0.1}, "insvp": {"lr": 0.2, "epochs": 4}}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("prompt_length", "write METHOD.OPTION=VALUE"),
        ("vpt.a.b", "write METHOD.OPTION=VALUE"),
        ("vpt.recipe.lr.x", "write METHOD.OPTION=VALUE"),
        ("insvp.n", "insvp is not among --methods vpt"),
        ("insvp.recipe.lr", "insvp is not among --methods vpt"),
        ("vptt.prompt_length", r"Did you mean 'vpt'\?"),
    ],
)
def test_settings_that_belong_nowhere(name: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        split_settings(Request(methods=["vpt"], settings={name: 1}))


def test_recipe_of_suite_then_method_then_user() -> None:
    suite = suite_card("mini")
    entries = [
        RecipeEntry(training={"lr": 0.5, "momentum": 0.8}, options={"prompt_length": 5}, source="table 7"),
        RecipeEntry(training={"lr": 0.25}, options={"prompt_length": 6, "deep": False}, source="table 8"),
    ]
    recipe, source = resolve_recipe(suite, entries, {"epochs": 2})
    assert (recipe.lr, recipe.momentum, recipe.epochs, recipe.batch_size) == (0.25, 0.8, 2, suite.training["batch_size"])
    assert source == f"{suite.source}; table 7; table 8; set by the user: epochs=2"
    assert method_options(entries) == {"prompt_length": 6, "deep": False}


def test_recipe_entries_apply_where_they_say() -> None:
    entry = RecipeEntry(suite="mini", preset="released", source="x")
    assert entry.applies("mini", "digits", "released")
    assert not entry.applies("mini", "digits", None)
    assert not entry.applies("vtab", "digits", "released")
    assert RecipeEntry(source="x").applies("any", "thing", None)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes, of which each split has an image."""
    root = tmp_path_factory.mktemp("images") / "own"
    for shade, split in enumerate(("train", "val", "test")):
        for kind in ("a", "b"):
            (root / split / kind).mkdir(parents=True)
            Image.fromarray(np.full((9, 9, 3), 50 * shade + ord(kind), np.uint8)).save(root / split / kind / "0.png")
    return root


def plan(images: Path, tmp_path: Path, artefacts: tuple[str, ...] = (), **request: Any) -> Plan:
    return make_plan(
        Request(**{"data": str(images), "methods": ["linear"], "precision": "fp32", **request}), Store(tmp_path), artefacts
    )


def test_every_combination_once(images: Path, tmp_path: Path) -> None:
    runs = plan(images, tmp_path, methods=["vpt", "linear", "vpt", "vpt:shallow"], seeds=2).runs
    assert [(run.spec.method.label, run.spec.seed) for run in runs] == [
        ("vpt", 42), ("vpt", 44), ("linear", 42), ("linear", 44), ("vpt:shallow", 42), ("vpt:shallow", 44)
    ]  # fmt: skip
    assert len({run.spec.run_id for run in runs}) == 6
    assert {run.group for run in runs} == {"custom"}


def test_several_own_data_sets(images: Path, tmp_path: Path) -> None:
    """Each has the runs that it has alone."""
    other = Path(shutil.copytree(images, tmp_path / "other"))
    both = plan(images, tmp_path / "runs", data=[images, other]).runs
    assert [run.spec.data.dataset for run in both] == ["own", "other"]
    assert [run.spec.data.path for run in both] == [str(images), str(other)]
    for run, place in zip(both, (images, other)):
        assert plan(place, tmp_path / "runs").runs[0].spec.run_id == run.spec.run_id
    again = Path(shutil.copytree(images, tmp_path / "again" / "own"))
    with pytest.raises(UsageError, match=r"would both be called 'own': rename one of them"):
        plan(images, tmp_path / "runs", data=[images, again])
    with pytest.raises(UsageError, match=r"own and --data .*own/ are the same data: name them once"):
        plan(images, tmp_path / "runs", data=[images, f"{images}/"])
    with pytest.raises(DataError, match=rf"does not exist; name each data set by itself: --data {images} --data {other}\.$"):
        plan(images, tmp_path / "runs", data=f"{images},{other}")
    with pytest.raises(DataError, match=r"does not exist; give a folder with"):
        plan(images, tmp_path / "runs", data=f"{images},elsewhere")


@pytest.mark.parametrize(
    ("status", "stored"),
    [("ok", True), ("diverged", True), ("unsupported", True), ("failed", False), ("oom", False), ("timeout", False)],
)
def test_what_counts_as_stored(status: str, stored: bool, images: Path, tmp_path: Path) -> None:
    (run,) = plan(images, tmp_path).missing
    Store(tmp_path).write_row({"run_id": run.spec.run_id, "method": "linear", "dataset": "own", "status": status})
    assert (plan(images, tmp_path).missing == []) == stored


def test_stored_without_its_artefacts_is_missing(images: Path, tmp_path: Path) -> None:
    (run,) = plan(images, tmp_path).missing
    store = Store(tmp_path)
    store.write_row({"run_id": run.spec.run_id, "method": "linear", "dataset": "own", "status": "ok"})
    assert plan(images, tmp_path, (ARTEFACTS["curve"],)).missing
    store.write_artefact(run.spec.run_id, ARTEFACTS["curve"], lambda path: path.write_text("x"))
    assert not plan(images, tmp_path, (ARTEFACTS["curve"],)).missing


def test_options_that_do_not_fit_the_backbone_fail_early(images: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="ar_k=1000"):
        plan(images, tmp_path, methods=["linear", "ivpt"], settings={"ivpt.ar_k": 1000})
    assert list(tmp_path.iterdir()) == []


def test_unsupported_is_planned(images: Path, tmp_path: Path) -> None:
    request = {"backbone": "vit_wee_patch16_reg1_gap_256", "weights": "random", "image_size": 32, "settings": {"ivpt.ar_k": 1}}
    assert len(plan(images, tmp_path, methods=["ivpt"], **request).missing) == 1
    with pytest.raises(UnsupportedError, match="ResNet cannot carry prompts"):
        plan(images, tmp_path, backbone="resnet18", weights="random")
    with pytest.raises(WeightsError, match="on purpose"):
        plan(images, tmp_path, backbone="vit_base_patch16_gap_224")


def test_nothing_is_written(images: Path, tmp_path: Path) -> None:
    plan(images, tmp_path / "new")
    assert list(tmp_path.iterdir()) == []


def test_groups_of_methods() -> None:
    every = method_registry().names()
    groups = [expand_labels([f"group:{name}"]) for name in ("partial", "extra", "prompts")]
    assert sorted(name for group in groups for name in group) == expand_labels(["all"]) == every
    assert {"full", "linear", "partial", "mlp", "bias"} <= set(groups[0]) and "lora" in groups[1] and "vpt" in groups[2]
    assert expand_labels(["vpt", "group:prompts", "vpt:shallow"])[0] == "vpt"
    assert expand_labels(["vpt", "vpt:shallow", "vpt"]) == ["vpt", "vpt:shallow"]
    with pytest.raises(UsageError, match=r"Did you mean 'prompts'"):
        expand_labels(["group:prompt"])
    with pytest.raises(UsageError, match="names no method"):
        expand_labels([])
