"""peft as a method: counts, refusals, merging, AdaLoRA's ranks, resuming; equal to the method lora; folders that peft reads."""

from __future__ import annotations

import copy
import json
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from sweeps import some
from timm.models.eva import Eva

from vpbench.backbones.eva import EvaAdapter
from vpbench.backbones.vit import ViTAdapter
from vpbench.core.errors import StoreError, UnsupportedError, UsageError
from vpbench.measure.size import parameter_counts
from vpbench.models.build import build_empty
from vpbench.models.peft_folder import read_adapter, write_adapter
from vpbench.models.prompted import PromptedModel
from vpbench.models.registry import expand_labels, method_class, resolve_method, working_methods
from vpbench.spec.recipe import Recipe
from vpbench.spec.run_spec import BackboneSpec
from vpbench.training.checkpoint import load_state, state_of
from vpbench.training.optim import make_optimizer

pytestmark = pytest.mark.skipif(
    find_spec("peft") is None, reason="peft is not installed (pip install 'vpbench[peft]'); NOT TESTED"
)

SMALL = {"img_size": 32, "patch_size": 8, "depth": 2, "embed_dim": 64, "num_heads": 2}
ARCH = "vit_tiny_patch16_224"
IMAGES = torch.randn(6, 3, 32, 32, generator=torch.Generator().manual_seed(1))
TARGETS = torch.tensor([0, 3, 4, 2, 1, 1])
CLASSES = 5


def timm_model(classes: int = 0) -> Any:
    torch.manual_seed(3)
    model = timm.create_model(ARCH, num_classes=0, **SMALL)
    model.reset_classifier(classes)
    return model


def model_of(label: str, settings: dict[str, Any] | None = None) -> PromptedModel:
    spec = resolve_method(label, settings)
    adapter, kind = ViTAdapter(timm_model()), method_class(spec.name)
    torch.manual_seed(0)
    return PromptedModel(adapter, kind(kind.Config.model_validate(spec.config), adapter.shape, CLASSES), CLASSES)


def lora(**config: Any) -> dict[str, Any]:
    return {"config": {"peft_type": "LORA", "target_modules": ["qkv"], **config}}


def losses(model: PromptedModel, steps: int = 4, lr: float = 0.05) -> list[float]:
    optimizer = make_optimizer(model.trainable(), Recipe(optimizer="adamw", lr=lr))
    found = []
    for step in range(steps):
        model.train()
        optimizer.zero_grad()
        loss, _ = model.training_loss(IMAGES, TARGETS)
        loss.backward()
        optimizer.step()
        model.method.step_ended(step, steps)
        found.append(loss.item())
    return found


def with_values_of(model: PromptedModel, other: PromptedModel) -> PromptedModel:
    """The model with the initial values of another one that is the same function."""
    model.method.load_peft(other.method.to_peft(other.scope), model.scope)
    model.head.load_state_dict(other.head.state_dict())
    return model


@pytest.mark.parametrize(
    ("config", "expected"),
    some(
        [
            ({"peft_type": "LORA", "r": 8, "lora_alpha": 8}, 294_912),
            ({"peft_type": "LORA", "r": 8, "target_modules": ["qkv", "attn.proj", "fc1", "fc2"]}, 1_179_648),
            ({"peft_type": "LORA", "r": 8, "target_modules": "patch_embed.proj"}, 12_288),
            pytest.param({"peft_type": "RANDLORA", "r": 32}, 230_400, marks=pytest.mark.sweep),
            pytest.param({"peft_type": "C3A", "block_size": 64}, 331_776, marks=pytest.mark.sweep),
            pytest.param({"peft_type": "ROAD"}, 27_648, marks=pytest.mark.sweep),
            pytest.param({"peft_type": "DELORA", "r": 8}, 294_924, marks=pytest.mark.sweep),
            ({"peft_type": "SHIRA", "r": 8}, 294_912),
            pytest.param({"peft_type": "WAVEFT", "n_frequency": 1000}, 12_000, marks=pytest.mark.sweep),
        ],
        1,
    ),
    ids=lambda value: value if isinstance(value, int) else value["peft_type"],
)
def test_counts_on_vit_b16(config: dict[str, Any], expected: int) -> None:
    """As peft 0.21.2 counts on timm's ViT-B/16; SHiRA needs values, which there are none of on the meta device."""
    counts = parameter_counts(
        build_empty(resolve_method("peft", {"config": {"target_modules": ["qkv"], **config}}), B16, 10, "meta")
    )
    assert counts["params_method"] == counts["params_active"] == counts["params_trainable"] - counts["params_head"] == expected


B16 = BackboneSpec(name="vit_base_patch16_224", weights="random", image_size=224, patch_size=16, mean=(0.5,) * 3, std=(0.5,) * 3)
PRESETS = {
    "dora": 322_560, "adalora": 442_512, "ia3": 64_512, "vera": 30_720, "loha": 589_824, "lokr": 21_504, "oft": 142_848,
    "boft": 101_376, "fourierft": 12_000, "hra": 73_728, "ln_tuning": 36_864,
}  # fmt: skip


@pytest.mark.parametrize("preset", ["dora", *(pytest.param(name, marks=pytest.mark.sweep) for name in PRESETS if name != "dora")])
def test_counts_of_presets_on_vit_b16(preset: str) -> None:
    assert PRESETS.keys() == method_class("peft").presets.keys()
    counts = parameter_counts(build_empty(resolve_method(f"peft:{preset}"), B16, 10, "meta"))
    assert counts["params_method"] == counts["params_trainable"] - counts["params_head"] == PRESETS[preset]


@pytest.mark.parametrize(
    ("label", "config"),
    [
        ("lora:noah", {"r": 8, "lora_alpha": 8}),
        ("lora:all-linears", {"r": 8, "lora_alpha": 8, "target_modules": ["qkv", "attn.proj", "fc1", "fc2"]}),
        ("lora:qv", {"r": 16, "lora_alpha": 16}),
    ],
)
def test_it_starts_as_the_method_lora_does(label: str, config: dict[str, Any]) -> None:
    own = model_of(label)
    with torch.no_grad():
        for name, each in own.own.named_parameters():
            if name.endswith("B"):
                each.normal_(std=0.1)
    other = with_values_of(model_of("peft", lora(**config)), own)
    torch.testing.assert_close(other.eval()(IMAGES), own.eval()(IMAGES), rtol=1e-6, atol=1e-6)


def test_losses_equal_those_of_the_method_lora_step_by_step() -> None:
    """Bit by bit on a CPU: NOAH's LoRA and peft's, with the same initial values."""
    own = model_of("lora:noah")
    assert losses(with_values_of(model_of("peft", lora(r=8, lora_alpha=8)), own)) == losses(own)


def test_the_content_of_a_file_is_what_counts(tmp_path: Path) -> None:
    config = {"peft_type": "LORA", "r": 4, "target_modules": ["qkv", "fc1"], "lora_alpha": 8}
    (tmp_path / "a.json").write_text(json.dumps(config))
    (tmp_path / "adapter_config.json").write_text(
        json.dumps({
            **config, "target_modules": ["fc1", "qkv"], "modules_to_save": ["head"], "inference_mode": True, "task_type": None,
            "peft_version": "0.1", "base_model_name_or_path": "timm/vit",
        })
    )  # fmt: skip
    found = [resolve_method("peft", {"config": each}) for each in (str(tmp_path / "a.json"), str(tmp_path), config)]
    assert found[0] == found[1] == found[2]
    assert found[0].config["config"] == {**config, "target_modules": ["fc1", "qkv"]}
    assert resolve_method("peft", found[0].config) == found[0]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"peft.config: .*lora.json cannot be read: No such file"),
        ("{", r"lora.json is no JSON file"),
        ("[]", r"is a mapping with a 'peft_type'"),
        ('{"r": 8}', r"is a mapping with a 'peft_type'"),
    ],
)
def test_files_that_are_no_configuration(content: str | None, message: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "lora.json").write_text(content)
    with pytest.raises(UsageError, match=message):
        resolve_method("peft", {"config": str(tmp_path / "lora.json")})


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"peft_type": "LORA", "target_modules": ["query"]}, r"peft cannot apply LORA .*: Target modules .*query.* not found"),
        ({"peft_type": "LORA", "target_modules": ["attn"]}, r"peft cannot apply LORA .*: Target module Attention"),
        ({"peft_type": "LORA", "target_modules": ["qkv"], "rank": 8}, r"unexpected keyword argument 'rank'"),
        ({"peft_type": "LORA", "target_modules": ["qkv"], "r": 0}, r"`r` should be a positive integer value"),
        ({"peft_type": "LORA", "target_modules": ["qkv"], "init_lora_weights": "eva"}, r"needs activations of training images"),
        ({"peft_type": "BOFT", "target_modules": ["qkv"], "boft_block_size": 7}, r"peft cannot apply BOFT"),
        ({"peft_type": "PROMPT_TUNING", "num_virtual_tokens": 4}, r"language models of transformers alone"),
        ({"peft_type": "LARA"}, r"has no peft_type 'LARA'; it has ADALORA"),
    ],
    ids=lambda value: None if isinstance(value, str) else value["peft_type"],
)
def test_what_peft_cannot_apply_is_refused_with_its_reason(config: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        build_empty(resolve_method("peft", {"config": config}), small_spec(), CLASSES, "meta")
    assert "\n" not in str(caught.value)


def small_spec() -> BackboneSpec:
    return BackboneSpec(name=ARCH, weights="random", image_size=32, patch_size=8, mean=(0.5,) * 3, std=(0.5,) * 3)


def test_a_layer_that_timm_never_calls() -> None:
    """EVA's attention reads the joint projection's weight and adds biases of its own."""
    with torch.device("meta"):
        adapter: Any = EvaAdapter(Eva(32, 8, embed_dim=48, depth=2, num_heads=3, num_classes=0))
        with pytest.raises(UnsupportedError, match=r"Eva reads the weight of 'blocks.0.attn.qkv' and never calls"):
            PromptedModel(adapter, method_class("peft")(resolved(lora()), adapter.shape, CLASSES), CLASSES)


def resolved(settings: dict[str, Any]) -> Any:
    return method_class("peft").Config.model_validate(settings)


@pytest.mark.parametrize("config", [lora(bias="all", modules_to_save=["norm"]), lora(init_lora_weights="pissa", r=4)])
def test_undone_it_leaves_nothing_behind(config: dict[str, Any]) -> None:
    model, plain = model_of("peft", config), ViTAdapter(timm_model())
    before = plain(IMAGES)
    losses(model, 2)
    trained = model.eval()(IMAGES).detach()
    with model.scope.disabled():
        if "bias" not in config["config"]:
            assert torch.equal(model.backbone(IMAGES), before)
    assert torch.equal(model(IMAGES), trained)
    model.merge()
    torch.testing.assert_close(model(IMAGES), trained, rtol=1e-5, atol=1e-5)
    assert torch.equal(model.plain_features(IMAGES), before) or "bias" in config["config"]
    model.scope.undo()
    assert torch.equal(model.backbone(IMAGES), before)
    assert model.backbone.state_dict().keys() == plain.state_dict().keys()


def test_dropout_of_adapters_acts_in_training_alone() -> None:
    model = with_values_of(model_of("peft", lora(lora_dropout=0.5)), trained := model_of("peft", lora()))
    losses(trained, 2)
    with_values_of(model, trained)
    assert torch.equal(model.eval()(IMAGES), trained.eval()(IMAGES))
    model.train()
    assert not torch.equal(model(IMAGES), trained(IMAGES))


def test_adalora_cuts_ranks_and_resumes() -> None:
    """Also from a state in the middle: importances and ranks are part of it."""
    config = {
        "config": {
            "peft_type": "ADALORA",
            "target_modules": ["qkv"],
            "init_r": 6,
            "target_r": 2,
            "tinit": 1,
            "tfinal": 2,
            "deltaT": 1,
        }
    }
    model, other = model_of("peft", config), model_of("peft", config)
    order = torch.Generator()
    optimizer, second = (torch.optim.SGD([each for _, each in one.trainable()], lr=0.05) for one in (model, other))

    def step(one: PromptedModel, chosen: Any, number: int) -> float:
        one.train()
        chosen.zero_grad()
        loss, _ = one.training_loss(IMAGES, TARGETS)
        loss.backward()
        chosen.step()
        one.method.step_ended(number, 8)
        return loss.item()

    first = [step(model, optimizer, number) for number in range(4)]
    state = copy.deepcopy(state_of(model, order))
    rest = [step(model, optimizer, number) for number in range(4, 8)]
    load_state(other, order, state)
    assert [step(other, second, number) for number in range(4, 8)] == rest and len(set(first)) == 4
    ranks = sum(int((each != 0).sum()) for name, each in model.own.named_parameters() if "lora_E" in name)
    assert ranks == 2 * SMALL["depth"]


FOLDERS = {
    "lora": ("lora:noah", None), "lora-qv": ("lora:qv", {"alpha": 4.0}), "lora-all": ("lora:all-linears", None),
    "peft-bias": ("peft", lora(bias="all", use_dora=True)),
    **{f"peft-{name}": (f"peft:{name}", None) for name in PRESETS if name != "dora"},
}  # fmt: skip
ALWAYS = ("lora-qv", "peft-bias", "peft-adalora")


@pytest.mark.parametrize("case", [name if name in ALWAYS else pytest.param(name, marks=pytest.mark.sweep) for name in FOLDERS])
def test_a_folder_that_peft_and_vpbench_read(case: str, tmp_path: Path) -> None:
    import peft  # takes seconds, which collecting tests need not

    label, settings = FOLDERS[case]
    model = model_of(label, settings)
    losses(model, 3)
    expected = model.eval()(IMAGES).detach()
    write_adapter(model, tmp_path, ARCH)
    loaded = peft.PeftModel.from_pretrained(timm_model(CLASSES).eval(), str(tmp_path)).eval()
    torch.testing.assert_close(loaded(IMAGES), expected, rtol=1e-5, atol=1e-5)
    fresh = model_of(label, settings)
    read_adapter(fresh, tmp_path)
    assert torch.equal(fresh.eval()(IMAGES), expected)
    if label.startswith("lora"):  # the same through peft
        other = model_of("peft", {"config": str(tmp_path)})
        read_adapter(other, tmp_path)
        torch.testing.assert_close(other.eval()(IMAGES), expected, rtol=1e-5, atol=1e-5)


def test_lora_reads_what_peft_saved(tmp_path: Path) -> None:
    import peft

    torch.manual_seed(5)
    config = peft.LoraConfig(r=8, lora_alpha=8, target_modules=["qkv"], modules_to_save=["head"], init_lora_weights=False)
    saved = peft.get_peft_model(timm_model(CLASSES), config).eval()
    saved.save_pretrained(str(tmp_path))
    model = model_of("lora:noah")
    read_adapter(model, tmp_path)
    torch.testing.assert_close(model.eval()(IMAGES), saved(IMAGES), rtol=1e-5, atol=1e-5)


def test_folders_that_do_not_fit(tmp_path: Path) -> None:
    model = model_of("lora:noah")
    write_adapter(model, tmp_path)
    with pytest.raises(UsageError, match=r"r=8, and lora with these options has 4; the method peft has it"):
        read_adapter(model_of("lora", {"rank": 4}), tmp_path)
    with pytest.raises(UsageError, match=r"does not fit"):
        read_adapter(model_of("peft", lora(r=4)), tmp_path)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    (tmp_path / "adapter_config.json").write_text(json.dumps({**config, "use_rslora": True}))
    with pytest.raises(UsageError, match=r"use_rslora=True, and lora with these options has False; the method peft has it"):
        read_adapter(model, tmp_path)
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    other = model_of("peft", lora(r=16, lora_alpha=16, init_lora_weights=False))
    write_adapter(other, tmp_path)
    with pytest.raises(UsageError, match=r"updates keys, or mixes the updates of queries and values"):
        read_adapter(model_of("lora:qv"), tmp_path)
    with pytest.raises(UnsupportedError, match=r"VPT is no adapter of the library peft"):
        write_adapter(model_of("vpt"), tmp_path)
    (tmp_path / "adapter_model.safetensors").write_bytes(b"damaged")
    with pytest.raises(StoreError, match=r"adapter_model.safetensors is a text file, no weight file: fetch it again"):
        read_adapter(model, tmp_path)
    (tmp_path / "adapter_config.json").unlink()
    with pytest.raises(StoreError, match=r"adapter_config.json cannot be read: No such file"):
        read_adapter(model, tmp_path)


def test_without_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    """One line for the method by its name; ``all`` goes on without it."""
    monkeypatch.setitem(sys.modules, "peft", None)
    monkeypatch.delitem(sys.modules, "vpbench.methods._peft_layers", raising=False)
    with pytest.raises(UsageError, match=r"needs the library peft .*: pip install 'vpbench\[peft\]'"):
        build_empty(resolve_method("peft"), small_spec(), CLASSES, "meta")
    with pytest.warns(UserWarning, match=r"method 'peft' is left out: it needs an extra, pip install 'vpbench\[peft\]'"):
        assert "peft" not in expand_labels(["all"])
    assert "peft" in dict(working_methods())
