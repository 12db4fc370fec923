"""Run ids of today's specifications, pinned: rows that users have are found by them, whatever is moved in the code.

``data/run_ids.json`` has, for a data set of each suite, the run id and the group id of the first two seeds. The digest of the
data and the hash of the weights are made up, so that neither images nor weights are needed; suites, recipes and options are the
real ones. When a card changes on purpose, print what ``planned_ids`` returns and replace the entry; what else changes an id
would make every stored run of users run again.
"""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from vpbench.planning.plan import ResolvedRequest, _normalised, seeds_of
from vpbench.planning.suites import suite_card
from vpbench.planning.user_settings import split_settings
from vpbench.spec.request import Request
from vpbench.spec.run_spec import BackboneSpec

CASES = json.loads((Path(__file__).parent / "data" / "run_ids.json").read_text())
HALF = (0.5, 0.5, 0.5)
BACKBONES = {
    "vit_base_patch16_224.orig_in21k": BackboneSpec(
        name="vit_base_patch16_224.orig_in21k", weights="hub:timm/vit_base_patch16_224.orig_in21k", sha256="ab" * 32,
        image_size=224, patch_size=16, mean=HALF, std=HALF,
    ),
    "vit-nano": BackboneSpec(
        name="vit-nano", weights="embedded", sha256="cd" * 32, image_size=40, patch_size=8, mean=HALF, std=HALF
    ),
}  # fmt: skip
SEEDS = 2


def planned_ids(case: dict[str, Any]) -> dict[str, list[str]]:
    """Run id and group id by the label of the run, as a request for these methods plans them."""
    suite = suite_card(case["suite"])
    own = {"data": "/somewhere/flowers"} if case["suite"] == "custom" else {"suite": case["suite"]}
    request = Request(methods=case["methods"], precision="fp32", device="cpu", **own, **case.get("request", {}))
    raw: Any = SimpleNamespace(digest="0123456789abcdef0123456789abcdef", unreadable=0, columns={})
    options, overrides = split_settings(request)
    resolved = ResolvedRequest(
        request, suite, suite.part_of or case["suite"], {}, {case["dataset"]: raw},
        _normalised(BACKBONES[suite.backbone], suite), suite.selection, "fp32", options, overrides,
    )  # fmt: skip
    specs = [
        run.spec for label in case["methods"] for run in resolved.runs(label, case["dataset"], seeds_of(suite, SEEDS))
    ]  # fmt: skip
    return {spec.label: [spec.run_id, spec.group_id] for spec in specs}


@pytest.mark.parametrize("case", CASES, ids=[f"{case['suite']}, {case['dataset']}" for case in CASES])
def test_run_ids_never_change(case: dict[str, Any]) -> None:
    assert planned_ids(case) == case["ids"]


def test_every_kind_of_suite_is_pinned() -> None:
    suites = {case["suite"] for case in CASES}
    assert {"mini", "ci", "custom", "fgvc", "hta", "vtab1k", "vtab1k-natural", "fewshot-4"} <= suites
    assert {"ivpt", "vpt:released", "insvp:released"} <= {label for case in CASES for label in case["methods"]}
