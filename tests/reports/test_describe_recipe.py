"""``vpbench show recipe``: what a plan would use, value by value, with the source of each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from vpbench.core.errors import UsageError
from vpbench.planning.plan import make_plan
from vpbench.reporting.describe_recipe import describe_recipe
from vpbench.spec.request import Request
from vpbench.store.store import Store


def values(lines: list[dict[str, Any]]) -> dict[str, Any]:
    return {line["name"]: line["value"] for line in lines}


def sources(lines: list[dict[str, Any]]) -> dict[str, str]:
    return {line["name"]: line["source"] for line in lines}


@pytest.mark.parametrize("label", ["vpt", "full", "vpt:shallow"])
def test_values_are_those_of_a_plan(label: str, tmp_path: Path) -> None:
    settings = {"recipe.epochs": 7}
    request = Request(methods=(label,), suite="mini", datasets=("digits",), settings=settings)
    spec = make_plan(request, Store(tmp_path)).runs[0].spec
    found = describe_recipe(label, "mini", "digits", settings)
    recipe = values(found["recipe"])
    assert recipe.pop("learning rate in use") == spec.recipe.peak_lr
    assert recipe.pop("warm-up in use") == "0.7 epochs"  # a tenth
    assert recipe == spec.recipe.model_dump(mode="json")
    assert values(found["options"]) == spec.method.config
    protocol = values(found["protocol"])
    assert {name: protocol[f"preprocess.{name}"] for name in spec.preprocess.model_dump()} == spec.preprocess.model_dump()
    assert sources(found["recipe"])["epochs"] == "--set"
    legend = {line["source"]: line["stands_for"] for line in found["sources"]}
    named = {source for part in ("recipe", "protocol") for source in sources(found[part]).values()}
    in_use = {"lr, batch_size and lr_reference_batch", "warmup_fraction and epochs"}
    assert named - legend.keys() <= {"data set digits", *in_use}


def test_where_a_value_comes_from() -> None:
    found = describe_recipe("full", "fgvc")
    legend = {line["source"]: line["stands_for"] for line in found["sources"]}
    where = sources(found["recipe"])
    assert legend[where["lr"]].startswith("KMnP/vpt configs/finetune")
    assert where["epochs"] == "suite fgvc" and where["ema"] == "default"
    assert sources(describe_recipe("vpt:shallow", "mini")["options"])["deep"] == "preset"


def test_what_counts_where_two_fields_say_it() -> None:
    """A share of all epochs before a number of them, unless the user gives the number."""

    def warmup(**settings: Any) -> tuple[Any, ...]:
        given = {f"recipe.{name}": value for name, value in settings.items()}
        lines = {line["name"]: line for line in describe_recipe("lora", "vtab1k", settings=given)["recipe"]}
        return lines["warmup_epochs"]["value"], lines["warm-up in use"]["value"], lines["warm-up in use"]["source"]

    assert warmup() == (10, "10 epochs", "warmup_fraction and epochs")
    assert warmup(warmup_epochs=3) == (3, "3 epochs", "warmup_epochs")
    found = describe_recipe("lora", "vtab1k", settings={"recipe.warmup_epochs": 3})["recipe"]
    assert (values(found)["warmup_fraction"], sources(found)["warmup_fraction"]) == (None, "default")
    assert warmup(warmup_epochs=3, warmup_fraction=0.5) == (3, "50 epochs", "warmup_fraction and epochs")


def test_the_protocol_is_whole_and_says_what_the_card_leaves_open() -> None:
    found = describe_recipe("vpt", "noah-fewshot-coop-2", "pets-coop")["protocol"]
    assert {name: values(found)[name] for name in ("image_size", "shots", "draws", "task")} == {
        "image_size": 224, "shots": 2, "draws": "per_seed", "task": "classification"
    }  # fmt: skip
    assert (sources(found)["shots"], sources(found)["image_size"]) == ("suite noah-fewshot-coop-2",) * 2
    assert sources(found)["task"] == sources(found)["preprocess.antialias"] == "default"
    assert {"shots", "draws", "test_on", "task_options"}.isdisjoint(values(describe_recipe("vpt", "vtab1k")["protocol"]))
    assert values(describe_recipe("vpt", "imagenet-16shot")["protocol"])["test_on"][0] == "imagenet-v2"


def test_of_segmentation() -> None:
    """What recipes say without a suite is for classification."""
    found = describe_recipe("vpt", "ade20k")
    assert values(found["protocol"])["task_options"]["head"] == "setr-pup"
    assert sources(found["recipe"])["groups"] == "suite ade20k"
    assert values(found["recipe"])["warm-up in use"] == "0 epochs"
    options = {line["name"]: (line["value"], line["source"]) for line in describe_recipe("ivpt", "ade20k")["options"]}
    assert (options["ar"], options["dropout"]) == (("none", "recipe 1"), (0.1, "recipe 2"))


def test_values_for_single_data_sets() -> None:
    """What is only for some data sets is left out without one, and a note says of which."""
    notes = " ".join(describe_recipe("insvp", "fgvc")["notes"])
    assert "These data sets have values of their own, shown with --dataset: " in notes
    assert "values of their own" not in " ".join(describe_recipe("insvp", "fgvc", "cub")["notes"])
    with pytest.raises(UsageError, match="unknown data set of mini 'cub'"):
        describe_recipe("vpt", "mini", "cub")
    with pytest.raises(UsageError, match="unknown recipe field 'rate'"):
        describe_recipe("vpt", "mini", settings={"recipe.rate": 1})
