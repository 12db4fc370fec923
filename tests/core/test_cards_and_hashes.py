"""Cards that are wrong, and hashes that identify runs."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from vpbench.backbones.named import BackboneCard, backbone_names
from vpbench.core import cards
from vpbench.core.cards import card_names, read_card
from vpbench.core.errors import UsageError, VpbenchError
from vpbench.core.hashing import canonical_json, digest, file_sha256
from vpbench.spec.recipe import Recipe
from vpbench.spec.run_spec import BackboneSpec, DataSpec, MethodSpec, Preprocess, RunSpec

GOOD = """
title = "T"
file = "t.safetensors"
sha256 = "00"
mean = [0.5, 0.5, 0.5]
std = [0.5, 0.5, 0.5]
parameters = 3
pretraining = "none"
licence = "none"
source = "here"
[vit]
depth = 1
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of cards in place of the packaged one."""
    (tmp_path / "backbones").mkdir()
    monkeypatch.setattr(cards, "_folder", lambda name: tmp_path / name)
    return tmp_path / "backbones"


def test_good_card(folder: Path) -> None:
    (folder / "good.toml").write_text(GOOD)
    (folder / "good.safetensors").write_text("")
    assert card_names("backbones") == ["good"]
    assert read_card("backbones", "good", BackboneCard, "backbone").vit == {"depth": 1}


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('title = "T"\n', "", "it lacks title"),
        ("parameters = 3", 'parameters = "three"', "parameters: "),
        ("parameters = 3", "parameters = 0", "(given: 0)"),
        ("parameters = 3", "parameters = 3\nparametres = 4", "parametres: there is no such field"),
        ("mean = [0.5, 0.5, 0.5]", "mean = [0.5, nan, 0.5]", "mean.1"),
        ("mean = [0.5, 0.5, 0.5]", "mean = [0.5]", "mean"),
        ('title = "T"', "title = T", "line 2"),
        ("[vit]", "[vit", "line"),
    ],
)
def test_bad_card(old: str, new: str, words: str, folder: Path) -> None:
    assert old in GOOD
    (folder / "bad.toml").write_text(GOOD.replace(old, new, 1))
    with pytest.raises(UsageError) as caught:
        read_card("backbones", "bad", BackboneCard, "backbone")
    message = str(caught.value)
    assert message.startswith("benchmarks/backbones/bad.toml")
    assert words in message
    assert "\n" not in message


def test_card_that_is_no_text(folder: Path) -> None:
    (folder / "bad.toml").write_bytes(b"\xff\xfe\0")
    with pytest.raises(UsageError, match=r"bad\.toml is not valid TOML"):
        read_card("backbones", "bad", BackboneCard, "backbone")


def test_unknown_card() -> None:
    with pytest.raises(UsageError, match=r"unknown backbone 'vit-nan0'. Did you mean 'vit-nano'\?"):
        read_card("backbones", "vit-nan0", BackboneCard, "backbone")


def test_packaged_backbone_cards_are_good() -> None:
    assert "vit-nano" in backbone_names()
    for name in backbone_names():
        read_card("backbones", name, BackboneCard, "backbone")


def test_canonical_json() -> None:
    assert canonical_json({"b": [1, 2.5, None], "a": {"d": True, "c": "é"}}) == '{"a":{"c":"\\u00e9","d":true},"b":[1,2.5,null]}'
    assert digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1}) == hashlib.sha256(b'{"a":1,"b":2}').hexdigest()[:32]
    assert digest([1, 2]) != digest([2, 1])
    assert digest({"a": 1}) != digest({"a": 1.5})
    for value in (float("nan"), float("inf")):
        with pytest.raises(ValueError, match="not JSON compliant"):
            digest(value)


def test_file_sha256(tmp_path: Path) -> None:
    content = bytes(range(256)) * 5000
    (tmp_path / "a").write_bytes(content)
    assert file_sha256(tmp_path / "a") == hashlib.sha256(content).hexdigest()


def make_spec(**changes: Any) -> RunSpec:
    parts: dict[str, Any] = {
        "method": MethodSpec(name="vpt", config={"prompt_length": 10, "deep": True}),
        "backbone": BackboneSpec(
            name="vit-nano", weights="file", sha256="5a" * 32, image_size=40, patch_size=8, mean=(0.5,) * 3, std=(0.5,) * 3
        ),
        "data": DataSpec(suite="mini", dataset="digits", digest="d1"),
        "preprocess": Preprocess(), "recipe": Recipe(), "seed": 0,
    }  # fmt: skip
    return RunSpec(**{**parts, **changes})


def moved(spec: RunSpec) -> RunSpec:
    return spec.model_copy(
        update={
            "backbone": spec.backbone.model_copy(update={"path": "/elsewhere/w.safetensors"}),
            "data": spec.data.model_copy(update={"path": "/elsewhere/images"}),
        }
    )


def test_run_id_is_the_identity() -> None:
    spec = make_spec()
    assert len(spec.run_id) == 32 and int(spec.run_id, 16) >= 0
    assert spec.run_id == make_spec().run_id == moved(make_spec()).run_id
    swapped = make_spec(method=MethodSpec(name="vpt", config={"deep": True, "prompt_length": 10}))
    assert spec.run_id == swapped.run_id
    assert spec.run_id == RunSpec.model_validate_json(spec.model_dump_json()).run_id
    assert spec.run_id == RunSpec.model_validate(json.loads(json.dumps(spec.identity(), sort_keys=True))).run_id
    assert "path" not in json.dumps(spec.identity())


CHANGES: list[dict[str, Any]] = [
    {"method": MethodSpec(name="vpt", config={"prompt_length": 11, "deep": True})},
    {"method": MethodSpec(name="vpt", version=2, config={"prompt_length": 10, "deep": True})},
    {"method": MethodSpec(name="vpt", preset="released", config={"prompt_length": 10, "deep": True})},
    {"backbone": make_spec().backbone.model_copy(update={"sha256": "5b" * 32})},
    {"backbone": make_spec().backbone.model_copy(update={"image_size": 48})},
    {"data": DataSpec(suite="mini", dataset="digits", digest="d2")},
    {"preprocess": Preprocess(random_flip=True)},
    {"recipe": Recipe(lr=0.26)},
    {"selection": "best_val"},
    {"precision": "bf16"},
]


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: next(iter(change)))
def test_everything_else_changes_the_ids(change: dict[str, Any]) -> None:
    changed, spec = make_spec(**change), make_spec()
    assert changed.run_id != spec.run_id
    assert changed.group_id != spec.group_id


def test_group_id_is_equal_across_seeds_only() -> None:
    seeds = [make_spec(seed=seed) for seed in range(3)]
    assert len({spec.run_id for spec in seeds}) == 3
    assert len({spec.group_id for spec in seeds}) == 1
    assert seeds[0].group_id == moved(seeds[0]).group_id
    assert seeds[0].group_id != seeds[0].run_id


def test_run_id_is_the_same_in_another_process() -> None:
    """Not so if it depended on the order of a set or on Python's own hashes."""
    code = "import sys; from vpbench.spec.run_spec import RunSpec; print(RunSpec.model_validate_json(sys.argv[1]).run_id)"
    root = Path(__file__).resolve().parents[2]
    found = subprocess.run(
        [sys.executable, "-c", code, make_spec().model_dump_json()], cwd=root, check=True, capture_output=True, text=True,
        env={"PYTHONHASHSEED": "7"},
    )  # fmt: skip
    assert found.stdout.strip() == make_spec().run_id


def test_exit_codes() -> None:
    def kinds(kind: type[VpbenchError]) -> list[type[VpbenchError]]:
        return [kind, *(lower for sub in kind.__subclasses__() for lower in kinds(sub))]

    codes = [kind.exit_code for kind in kinds(VpbenchError) if kind.__module__ == "vpbench.core.errors"]
    assert set(codes) == {1, 2, 3, 4, 5, 6, 143}
