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
    assert recipe == spec.recipe.model_dump(mode="json")
    assert values(found["options"]) == spec.method.config
    protocol = values(found["protocol"])
    assert {name: protocol[f"preprocess.{name}"] for name in spec.preprocess.model_dump()} == spec.preprocess.model_dump()
    assert sources(found["recipe"])["epochs"] == "--set"
    legend = {line["source"]: line["stands_for"] for line in found["sources"]}
    named = {source for part in ("recipe", "protocol") for source in sources(found[part]).values()}
    assert named - legend.keys() <= {"data set digits", "lr, batch_size and lr_reference_batch"}


def test_where_a_value_comes_from() -> None:
    found = describe_recipe("full", "fgvc")
    legend = {line["source"]: line["stands_for"] for line in found["sources"]}
    where = sources(found["recipe"])
    assert legend[where["lr"]].startswith("KMnP/vpt configs/finetune")
    assert where["epochs"] == "suite fgvc" and where["ema"] == "default"
    assert sources(describe_recipe("vpt:shallow", "mini")["options"])["deep"] == "preset"


def test_values_for_single_data_sets() -> None:
    """What is only for some data sets is left out without one, and a note says of which."""
    notes = " ".join(describe_recipe("insvp", "fgvc")["notes"])
    assert "These data sets have values of their own, shown with --dataset: " in notes
    assert "values of their own" not in " ".join(describe_recipe("insvp", "fgvc", "cub")["notes"])
    with pytest.raises(UsageError, match="unknown data set of mini 'cub'"):
        describe_recipe("vpt", "mini", "cub")
    with pytest.raises(UsageError, match="unknown recipe field 'rate'"):
        describe_recipe("vpt", "mini", settings={"recipe.rate": 1})
