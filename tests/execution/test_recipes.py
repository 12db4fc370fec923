"""The recipes that ship: every value has a source, fits its method, and is what the source says."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from vpbench.core.cards import card_file, card_names, read_toml
from vpbench.models.registry import method_class, method_registry, resolve_method
from vpbench.planning.suites import (
    DEFAULT_PRESET,
    RecipeCard,
    RecipeEntry,
    method_options,
    recipe_card,
    recipe_entries,
    resolve_recipe,
    suite_card,
    suite_names,
)
from vpbench.spec.recipe import Recipe

HERE = Path(__file__).parent
SUITES = [name for name in suite_names() if suite_card(name).part_of is None]
VTAB_SGD = ("vtab1k", "vtab1k-vpt")
VTAB = (*VTAB_SGD, "vtab1k-noah")
FGVC = ("fgvc", "fgvc-vpt")
SIX = suite_card("mini").methods


def labels(method: str) -> list[str]:
    return [method, *(f"{method}:{preset}" for preset in method_class(method).presets)]


def resolved(label: str, suite: str, dataset: str) -> tuple[dict[str, Any], Recipe, str]:
    """Options, recipe and its source, as a plan settles them."""
    method, _, preset = label.partition(":")
    entries = recipe_entries(method, suite, dataset, preset or None)
    recipe, source = resolve_recipe(suite_card(suite), entries, {})
    return resolve_method(label, method_options(entries)).config, recipe, source


def entries() -> Iterator[tuple[str, RecipeEntry]]:
    for method in card_names("recipes"):
        for entry in recipe_card(method).recipe:
            yield method, entry


def named(condition: str | tuple[str, ...] | None) -> tuple[str, ...]:
    return (condition,) if isinstance(condition, str) else condition or ()


def test_every_built_in_method_has_a_recipe() -> None:
    assert card_names("recipes") == sorted(method_registry().names())
    assert set(SIX) <= set(method_registry().names())


@pytest.mark.parametrize("source", [{}, {"source": ""}, {"source": "  "}])
def test_a_value_without_a_source_is_an_error(source: dict[str, str]) -> None:
    for method in card_names("recipes"):
        content = read_toml(card_file("recipes", method, "recipe"))
        RecipeCard.model_validate(content)
        bare = {key: value for key, value in content["recipe"][-1].items() if key != "source"}
        with pytest.raises(ValidationError, match="source"):
            RecipeCard.model_validate({"recipe": [*content["recipe"][:-1], {**bare, **source}]})


def test_entries_name_only_what_there_is() -> None:
    for method, entry in entries():
        suites, datasets = named(entry.suite) or tuple(SUITES), named(entry.dataset)
        assert set(suites) <= set(SUITES), f"{method}: {entry}"
        known = {name for suite in suites for name in suite_card(suite).datasets}
        assert set(datasets) <= known, f"{method}: {entry}"
        assert set(named(entry.preset)) <= {DEFAULT_PRESET, *method_class(method).presets}, f"{method}: {entry}"
        assert entry.training or entry.options or entry.note, f"{method}: {entry}"
    assert all(DEFAULT_PRESET not in method_class(method).presets for method in SIX)


def test_every_combination_resolves() -> None:
    """Unknown options and recipe fields, and values of the wrong kind, are errors here."""
    suites = {name: suite_card(name) for name in SUITES}  # each is a file to read
    combinations: dict[tuple[str, str, tuple[int, ...]], list[RecipeEntry]] = {}
    count = 0
    for method in SIX:
        recipe = recipe_card(method).recipe
        for label in labels(method):
            for suite, card in suites.items():
                for dataset in card.datasets or ("own",):
                    found = [entry for entry in recipe if entry.applies(suite, dataset, label.partition(":")[2] or None)]
                    combinations[label, suite, tuple(map(id, found))] = found
                    count += 1
    assert count > 1000
    for (label, suite, _), found in combinations.items():
        resolve_method(label, method_options(found))
        resolve_recipe(suites[suite], found, {})


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"options": {"prompt_lenght": 5}}, "Did you mean 'prompt_length'"),
        ({"options": {"prompt_length": 0}}, "prompt_length"),
        ({"training": {"learning_rate": 5}}, "recipe.learning_rate"),
        ({"training": {"lr": -1}}, "recipe.lr"),
    ],
)
def test_values_that_do_not_fit_are_errors(entry: dict[str, Any], message: str) -> None:
    found = [RecipeEntry(source="x", **entry)]
    with pytest.raises(Exception, match=message):
        resolve_recipe(suite_card("mini"), found, {})
        resolve_method("vpt", method_options(found))


def test_published_values_stay_out_of_mini_and_custom() -> None:
    """Recorded before the published values came."""
    before = json.loads((HERE / "data" / "mini_and_custom.json").read_text())
    for key, wanted in before.items():
        suite, label = key.split()
        for dataset in suite_card(suite).datasets or ("cub", "own"):
            config, recipe, _ = resolved(label, suite, dataset)
            assert recipe == Recipe.model_validate(wanted["recipe"]), key  # fields that are newer have their defaults
            assert config == resolve_method(label, wanted["options"]).config, key
    assert {key.split()[1] for key in before} == {label for method in SIX for label in labels(method)}


def test_values_for_small_data_hold_in_all_suites_like_mini() -> None:
    """These have mini's protocol; a method would otherwise get there what was meant for VTAB-1k."""
    for method in card_names("recipes"):
        wanted = recipe_entries(method, "mini", "digits", None)
        assert recipe_entries(method, "open-mini", "textures", None) == wanted, method
        assert recipe_entries(method, "photos-mini", "photos.pets37", None) == wanted, method


def test_conditions() -> None:
    entry = RecipeEntry(suite=("fgvc", "hta"), dataset="cub", preset=("default", "released"), source="x")
    assert entry.applies("hta", "cub", None)
    assert entry.applies("fgvc", "cub", "released")
    assert not entry.applies("hta", "cub", "shallow")
    assert not entry.applies("hta", "cars", None)
    assert not entry.applies("mini", "cub", None)


def test_the_second_source_of_a_row_is_in_its_recipe_source() -> None:
    _, _, source = resolved("vpt", "vtab1k", "vtab.sun397")
    assert source.startswith("protocol: VPT's")
    assert "visinf/adapter_plus" in source
    assert "demo.ipynb" in source


# VPT


@pytest.mark.parametrize(
    ("dataset", "length"),
    [
        ("vtab.cifar100", 10), ("vtab.flowers", 1), ("vtab.svhn", 50), ("vtab.camelyon", 100), ("vtab.retinopathy", 1),
        ("vtab.clevr-distance", 200), ("vtab.kitti", 100), ("vtab.smallnorb-azimuth", 200), ("vtab.dsprites-location", 100),
    ],
)  # fmt: skip
def test_vpt_deep_lengths(dataset: str, length: int) -> None:
    for suite in VTAB:
        for label in ("vpt", "vpt:released"):
            config, _, source = resolved(label, suite, dataset)
            assert (config["prompt_length"], config["deep"]) == (length, True)
            assert "third party" in source


@pytest.mark.parametrize(("dataset", "length"), [("cub", 10), ("nabirds", 50), ("flowers", 5), ("cars", 200), ("dogs", 100)])
def test_vpt_deep_lengths_on_fgvc(dataset: str, length: int) -> None:
    for suite in FGVC:
        assert resolved("vpt", suite, dataset)[0]["prompt_length"] == length
    assert resolved("vpt", "fewshot-1", dataset)[0]["prompt_length"] == 10


@pytest.mark.parametrize(
    ("dataset", "length", "batch", "peak", "decay"),
    [
        ("vtab.dmlab", 100, 64, 0.25, 1e-3), ("vtab.eurosat", 100, 64, 0.25, 1e-3), ("vtab.sun397", 5, 128, 12.5, 1e-4),
        ("cars", 200, 64, 1.25, 1e-4), ("nabirds", 50, 128, 25.0, 1e-4), ("flowers", 5, 128, 12.5, 1e-4),
    ],
)  # fmt: skip
def test_vpt_deep_training(dataset: str, length: int, batch: int, peak: float, decay: float) -> None:
    for suite in VTAB_SGD if dataset.startswith("vtab.") else FGVC:
        config, recipe, _ = resolved("vpt", suite, dataset)
        used = (config["prompt_length"], recipe.optimizer, recipe.batch_size, recipe.peak_lr, recipe.weight_decay)
        assert used == (length, "sgd", batch, peak, decay)


def test_vpt_on_noah_trains_as_noah() -> None:
    for label in ("vpt", "vpt:shallow", "e2vpt", "insvp", "viapt", "ivpt", "linear"):
        for dataset in suite_card("vtab1k-noah").datasets:
            assert resolved(label, "vtab1k-noah", dataset)[1] == resolve_recipe(suite_card("vtab1k-noah"), [], {})[0]


@pytest.mark.parametrize(
    ("dataset", "length", "batch", "lr", "decay"),
    [
        ("vtab.cifar100", 100, 64, 10, 1e-3), ("vtab.clevr-count", 100, 64, 500, 0), ("vtab.retinopathy", 10, 128, 0.1, 1e-3),
        ("vtab.eurosat", 50, 128, 100, 1e-3), ("cub", 100, 64, 0.5, 1e-3), ("flowers", 100, 64, 5, 1e-3),
        ("cars", 100, 64, 500, 0), ("vtab.sun397", 1, 128, 1, 0), ("vtab.dsprites-orientation", 100, 64, 0.5, 1e-2),
    ],
)  # fmt: skip
def test_vpt_shallow_is_unverified(dataset: str, length: int, batch: int, lr: float, decay: float) -> None:
    config, recipe, source = resolved("vpt:shallow", "vtab1k" if dataset.startswith("vtab.") else "fgvc", dataset)
    assert (config["prompt_length"], config["deep"], config["dropout"]) == (length, False, 0.0)
    assert (recipe.batch_size, recipe.lr, recipe.lr_reference_batch, recipe.weight_decay) == (batch, lr, 256, decay)
    assert "unverified" in source


def test_shallow_has_values_for_all_of_vtab_and_three_of_fgvc() -> None:
    shallow = [entry for entry in recipe_card("vpt").recipe if entry.preset == "shallow" and entry.training]
    assert {entry.dataset for entry in shallow} == {*suite_card("vtab1k").datasets, "cub", "flowers", "cars"}
    assert len(shallow) == 22


# E2VPT


@pytest.mark.parametrize(
    ("dataset", "visual", "key_value"),
    [
        ("vtab.cifar100", 5, 5), ("vtab.caltech101", 32, 5), ("vtab.flowers", 1, 1), ("vtab.camelyon", 10, 10),
        ("vtab.svhn", 10, 5), ("vtab.dsprites-location", 5, 5), ("vtab.smallnorb-elevation", 10, 5), ("cub", 5, 5),
        ("cars", 5, 5),
    ],
)  # fmt: skip
def test_e2vpt(dataset: str, visual: int, key_value: int) -> None:
    for suite in VTAB if dataset.startswith("vtab.") else FGVC:
        for label in labels("e2vpt"):
            config, _, source = resolved(label, suite, dataset)
            assert (config["prompt_length"], config["kv_length"]) == (visual, key_value)
            assert "command.txt" in source


def test_e2vpt_has_all_sets_and_their_batches() -> None:
    covered = {name for entry in recipe_card("e2vpt").recipe if "kv_length" in entry.options for name in named(entry.dataset)}
    assert covered == {*suite_card("vtab1k").datasets, *suite_card("fgvc").datasets}
    assert resolved("e2vpt", "vtab1k", "vtab.dtd")[1].batch_size == 64
    recipe = resolved("e2vpt", "fgvc", "dogs")[1]
    assert (recipe.batch_size, recipe.peak_lr) == (128, 0.5)


def test_e2vpt_prunes_only_where_validation_images_are_left() -> None:
    for suite in SUITES:
        for dataset in suite_card(suite).datasets or ("own",):
            assert resolved("e2vpt", suite, dataset)[0]["prune"] == (suite_card(suite).fit == "train")


@pytest.mark.parametrize(
    ("dataset", "other"),
    [
        ("vtab.svhn", "20, 5"), ("vtab.clevr-count", "20, 20"), ("vtab.smallnorb-azimuth", "100, 20"),
        ("vtab.smallnorb-elevation", "100, 20"), ("vtab.dsprites-orientation", "20, 20 and 40, 10"), ("cars", "200, 1"),
        ("nabirds", "50, 1"), ("vtab.retinopathy", "10, 1"),
    ],
)  # fmt: skip
def test_e2vpts_contradicting_log_is_noted(dataset: str, other: str) -> None:
    (entry,) = (
        entry for entry in recipe_card("e2vpt").recipe if "kv_length" in entry.options and dataset in named(entry.dataset)
    )
    assert "tempo_command.txt" in entry.note
    assert f": {other}" in entry.note


# InsVP

SCRIPTS = {
    "cub": (7e-4, 2e-3, 9, [9, 5, 3], True), "dogs": (5e-4, 5e-3, 16, [7, 9, 3], True),
    "flowers": (1e-3, 1.0, 16, [7, 9, 3], False), "nabirds": (5e-3, 2e-3, 16, [7, 9, 3], False),
    "dtd": (1e-3, 0.5, 16, [7, 9, 3], False), "food101": (5e-4, 1e-3, 16, [7, 9, 3], False),
    "cifar10": (2e-3, 1e-3, 16, [7, 9, 3], False), "cifar100": (3e-3, 5e-4, 20, [7, 9, 3], False),
    "gtsrb": (2e-3, 0.07, 16, [7, 9, 3], False), "svhn": (4e-3, 1e-3, 16, [7, 9, 3], True),
}  # fmt: skip


@pytest.mark.parametrize("dataset", SCRIPTS)
def test_insvp_scripts(dataset: str) -> None:
    lr, decay, length, kernels, simam = SCRIPTS[dataset]
    suites = ["hta"] + (["fgvc", "fgvc-vpt"] if dataset in suite_card("fgvc").datasets else [])
    for suite in suites:
        config, recipe, source = resolved("insvp:released", suite, dataset)
        assert (config["prompt_length"], config["specific_kernels"], config["simam"]) == (length, kernels, simam)
        assert (recipe.optimizer, recipe.peak_lr, recipe.weight_decay, recipe.batch_size) == ("adamw", lr, decay, 64)
        assert (recipe.warmup_fraction, recipe.warmup_from_zero, recipe.mixup, recipe.epochs) == (0.2, False, 0.8, 100)
        assert "MM2024-InsVP sh/*.sh" in source
        config, recipe, _ = resolved("insvp", suite, dataset)
        assert (config["prompt_length"], config["specific_kernels"], config["simam"]) == (9, [9, 5, 3], False)
        assert (recipe.optimizer, recipe.peak_lr, recipe.weight_decay, recipe.mixup) == ("adamw", lr, decay, 0.0)
        assert recipe.warmup_fraction == 0.1


def test_insvp_without_public_values_says_so() -> None:
    for suite, dataset in (("vtab1k", "vtab.svhn"), ("fgvc", "cars"), ("fewshot-8", "cub")):
        config, recipe, source = resolved("insvp", suite, dataset)
        assert (recipe.optimizer, recipe.peak_lr, recipe.weight_decay, config["prompt_length"]) == ("adamw", 2e-3, 1e-3, 9)
        assert "assumption where no script exists" in source


# iVPT

PAPER = HERE.parent / "methods" / "ivpt_tables"
IDS = {
    "CUB-200-2011": "cub", "NABirds": "nabirds", "Oxford Flowers": "flowers", "Stanford Dogs": "dogs", "Stanford Cars": "cars",
    "CIFAR100": "vtab.cifar100", "Caltech101": "vtab.caltech101", "DTD": "vtab.dtd", "Flowers102": "vtab.flowers",
    "Pets": "vtab.pets", "SVHN": "vtab.svhn", "Sun397": "vtab.sun397", "Patch Camelyon": "vtab.camelyon",
    "EuroSAT": "vtab.eurosat", "Resisc45": "vtab.resisc45", "Retinopathy": "vtab.retinopathy", "Clevr/count": "vtab.clevr-count",
    "Clevr/dist": "vtab.clevr-distance", "DMLab": "vtab.dmlab", "KITTI/dist": "vtab.kitti",
    "dSprites/loc": "vtab.dsprites-location", "dSprites/ori": "vtab.dsprites-orientation",
    "NORB/azi": "vtab.smallnorb-azimuth", "NORB/ele": "vtab.smallnorb-elevation",
}  # fmt: skip


@pytest.mark.parametrize(("file", "number", "suites", "count"), [("table15_fgvc", 15, FGVC, 5), ("table16_vtab1k", 16, VTAB, 19)])
def test_ivpt_is_as_in_the_papers_tables(file: str, number: int, suites: tuple[str, ...], count: int) -> None:
    rows = list(csv.DictReader((PAPER / f"{file}.csv").read_text().splitlines()))
    assert len(rows) == count
    for row in rows:
        for suite in suites:
            for label in labels("ivpt"):
                config, _, source = resolved(label, suite, IDS[row["dataset"]])
                assert (config["prompt_length"], config["ar_k"]) == (int(row["N_prompts_CDC"]), int(row["k_prompts_AR"]))
                assert source.endswith(f"iVPT paper, table {number}")


@pytest.mark.parametrize(
    ("suite", "dataset", "prompts", "reinforced"),
    [
        ("hta", "nabirds", 50, 10), ("vtab1k", "vtab.smallnorb-elevation", 200, 1), ("vtab1k", "vtab.clevr-distance", 50, 100),
        ("hta", "svhn", 10, 10), ("fewshot-2", "nabirds", 10, 10),
    ],
)  # fmt: skip
def test_ivpt_spots(suite: str, dataset: str, prompts: int, reinforced: int) -> None:
    config, recipe, _ = resolved("ivpt", suite, dataset)
    assert (config["prompt_length"], config["ar_k"], recipe.optimizer) == (prompts, reinforced, "sgd")


# ViaPT and linear probing


def test_viapt() -> None:
    for suite, dataset in (("vtab1k", "vtab.dtd"), ("hta", "food101"), ("fgvc-vpt", "cars")):
        config, recipe, source = resolved("viapt:scaffold", suite, dataset)
        assert (recipe.optimizer, recipe.peak_lr, recipe.weight_decay) == ("adamw", 5e-4, 0.05)
        assert (recipe.epochs, recipe.batch_size, config["pca_dim"]) == (50, 32, 384)
        assert "AdamW is an assumption" in source
        config, recipe, source = resolved("viapt", suite, dataset)
        assert recipe == resolve_recipe(suite_card(suite), [], {})[0]
        assert (config["pca_dim"], config["n_dataset"], config["n_instance"]) == (None, 5, 5)
        assert "no training values are public" in source


def test_linear() -> None:
    for suite, dataset in (("vtab1k", "vtab.dtd"), ("hta", "food101"), ("fgvc", "cars")):
        _, recipe, source = resolved("linear", suite, dataset)
        assert recipe == resolve_recipe(suite_card(suite), [], {})[0]
        assert "no values are public" in source
