"""Parameters, bytes, times and memory of a model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from sweeps import FEW, case

from vpbench.measure import energy, timing
from vpbench.measure.size import bytes_saved, parameter_counts, parameters_by_part
from vpbench.measure.timing import measure_inference, measure_training
from vpbench.models.build import build_model
from vpbench.models.prompted import PromptedModel
from vpbench.models.registry import resolve_method
from vpbench.spec.recipe import Recipe
from vpbench.spec.run_spec import BackboneSpec
from vpbench.tasks import resolve_task

CPU = torch.device("cpu")
RECIPE = Recipe(batch_size=4, epochs=1, lr=1.0, weight_decay=0.1)
METHODS = sorted(path.stem for path in (Path(__file__).parents[2] / "methods").glob("[!_]*.py"))


@pytest.fixture(autouse=True)
def in_a_hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "SECONDS", 0.002)
    monkeypatch.setattr(timing, "THROUGHPUT_BATCH", 4)
    monkeypatch.setattr(timing.gc, "collect", lambda: 0)  # a quarter of a second on what a test session holds


def make(method: str, backbone: BackboneSpec, **options: object) -> PromptedModel:
    return build_model(resolve_method(method, options), backbone, 10)


def test_counts_of_linear(tiny: BackboneSpec) -> None:
    model = make("linear", tiny)
    backbone = sum(tensor.numel() for tensor in model.backbone.parameters())
    assert parameter_counts(model) == {
        "params_trainable": 1930, "params_method": 0, "params_active": 0, "params_head": 1930, "params_total": backbone + 1930,
    }  # fmt: skip


def test_counts_of_vpt(tiny: BackboneSpec) -> None:
    counts = parameter_counts(make("vpt", tiny, prompt_length=5))
    assert counts["params_method"] == counts["params_active"] == 6 * 5 * 192
    assert counts["params_trainable"] == 6 * 5 * 192 + 1930


@pytest.mark.parametrize("method", [case(method, always=FEW) for method in METHODS])
def test_counts_add_up(method: str, tiny: BackboneSpec) -> None:
    model = make(method, tiny)
    counts = parameter_counts(model)
    assert counts["params_trainable"] <= counts["params_method"] + counts["params_head"]
    assert counts["params_active"] <= counts["params_method"]
    assert counts["params_total"] == sum(tensor.numel() for tensor in model.parameters())
    assert counts["params_trainable"] == sum(tensor.numel() for tensor in model.parameters() if tensor.requires_grad)


@pytest.mark.parametrize("method", [case(method, always=FEW) for method in METHODS])
def test_parts_add_up(method: str, tiny: BackboneSpec) -> None:
    model = make(method, tiny)
    counts, parts = parameter_counts(model), parameters_by_part(model)
    assert sum(parts.values()) == counts["params_total"]
    assert parts["head"] == counts["params_head"]
    assert (
        sum(count for part, count in parts.items() if part not in ("head", "backbone", "source classifier"))
        == counts["params_method"]
    )


def test_parts_have_the_methods_names(tiny: BackboneSpec) -> None:
    assert list(parameters_by_part(make("insvp", tiny))) == ["common", "patch", "global", "specific", "head", "backbone"]


def test_parameters_trained_in_the_backbone_count_once(tiny: BackboneSpec) -> None:
    model = make("linear", tiny)
    before = parameter_counts(model)
    model.scope.train({"norm.bias": model.backbone.vit.norm.bias})
    after = parameter_counts(model)
    assert after["params_total"] == before["params_total"]
    for name in ("params_trainable", "params_method", "params_active"):
        assert after[name] == before[name] + 192
    assert parameters_by_part(model)["trained in the backbone"] == 192
    assert len([name for name, _ in model.own_tensors() if name.startswith("backbone.")]) == 1


@pytest.mark.parametrize("method", [case(method, always=FEW) for method in METHODS])
def test_bytes_saved(method: str, tiny: BackboneSpec, tmp_path: Path) -> None:
    model = make(method, tiny)
    packed = model.method.pack({name: tensor.detach() for name, tensor in model.own_tensors()})
    save_file(packed, tmp_path / "own.safetensors")
    assert bytes_saved(model) == (tmp_path / "own.safetensors").stat().st_size
    stored = model.method.unpack(load_file(tmp_path / "own.safetensors"))
    assert stored.keys() == dict(model.own_tensors()).keys()
    if packed.keys() == stored.keys():
        assert all(torch.equal(stored[name], tensor) for name, tensor in model.own_tensors())


@pytest.mark.parametrize("method", [case(method, always=FEW) for method in METHODS])
def test_measuring_leaves_all_tensors(method: str, tiny: BackboneSpec) -> None:
    model = make(method, tiny)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    taken = measure_training(model, RECIPE, CPU, "fp32", 100)
    assert model.state_dict().keys() == before.keys()
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    step = taken["train_step_ms"]
    assert isinstance(step, float) and step > 0
    assert taken["train_images_per_s"] == pytest.approx(4 / (step / 1e3))
    assert taken["mem_kind"] == "process"
    assert taken["energy_train_j"] is None  # there is no such counter for a processor


def test_training_is_what_is_timed(tiny: BackboneSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    """The step that is timed does change the tensors that train."""
    model = make("vpt", tiny)
    before = model.snapshot()
    monkeypatch.setattr(PromptedModel, "restore", lambda self, snapshot: None)
    measure_training(model, RECIPE, CPU, "fp32", 100)
    assert all(not torch.equal(before[name], tensor) for name, tensor in model.own_tensors())


@pytest.mark.parametrize(("method", "precision"), [*(case(method, "fp32", always=FEW) for method in METHODS), ("vpt", "bf16")])
def test_inference(method: str, precision: str, tiny: BackboneSpec) -> None:
    model = make(method, tiny)
    taken = measure_inference(model, CPU, precision)
    figures: dict[str, Any] = {name: value for name, value in taken.items() if value is not None}
    assert taken.keys() - figures.keys() == {"energy_infer_j"}
    assert 0 < figures["latency_ms_p10"] <= figures["latency_ms_p50"] <= figures["latency_ms_p90"]
    assert figures["throughput_batch"] == 4
    assert figures["throughput"] > 0
    assert figures["mem_infer_peak"] > 1e7  # bytes: Python with torch alone takes more
    assert isinstance(figures["mem_infer_peak"], int)
    assert not model.training
    assert model(torch.zeros(1, 3, 32, 32)).isfinite().all()


def test_both_latencies_are_kept(tiny: BackboneSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    """The one before the method turns into its form for inference, and the one afterwards."""
    seen: list[bool] = []

    def times(call: object) -> list[float]:
        seen.append("gamma" in dict(model.own.named_modules()) or hasattr(model.own, "gamma"))
        return [float(len(seen))]

    monkeypatch.setattr(timing, "_times", times)
    model = make("ivpt", tiny)
    taken = measure_inference(model, CPU, "fp32")
    assert seen == [True, False, False]
    assert (taken["latency_unmerged_ms_p50"], taken["latency_ms_p50"]) == (1e3, 2e3)
    model = make("linear", tiny)
    taken = measure_inference(model, CPU, "fp32")
    assert taken["latency_unmerged_ms_p50"] == taken["latency_ms_p50"]


def test_each_call_is_timed_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a busy machine, where the first call is slow, too: percentiles of one block of calls are all the same."""
    clock = [0.0]
    seconds = iter([0.9, 0.1, 0.3, 0.2, 5.0])

    def call() -> None:
        clock[0] += next(seconds)

    monkeypatch.setattr(timing.time, "perf_counter", lambda: clock[0])
    assert timing._times(call) == pytest.approx([0.1, 0.3, 0.2])
    assert timing._times(call) == [pytest.approx(5.0)]


def test_one_slow_call_has_no_percentiles(tiny: BackboneSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "_times", lambda call: [5.0])
    taken = measure_inference(make("linear", tiny), CPU, "fp32")
    assert (taken["latency_ms_p10"], taken["latency_ms_p50"], taken["latency_ms_p90"]) == (None, 5000.0, None)


def test_a_head_of_maps_is_measured_with_its_model(tiny: BackboneSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    """Auxiliary heads in training alone; statistics of batch norm are put back."""
    task = resolve_task("segmentation", {"head": "setr-pup", "width": 4})
    model = build_model(resolve_method("vpt", {"prompt_length": 2}), tiny, 3, task=task)
    head: Any = model.head
    calls: list[str] = []
    head.decode_head.register_forward_hook(lambda *_: calls.append("decode"))
    head.auxiliary_head[0].register_forward_hook(lambda *_: calls.append("auxiliary"))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    assert measure_training(model, RECIPE, CPU, "fp32", 100)["train_step_ms"]
    assert calls.count("decode") == calls.count("auxiliary") > 0
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    calls.clear()
    taken = measure_inference(model, CPU, "fp32")
    assert taken["latency_ms_p50"] and taken["mem_infer_peak"]
    assert set(calls) == {"decode"}


def test_energy_is_of_one_call(monkeypatch: pytest.MonkeyPatch) -> None:
    counts = iter((1000.0, 1060.0))
    monkeypatch.setattr(energy, "_counter", lambda device: lambda: next(counts))
    monkeypatch.setattr(energy, "SECONDS", 0.001)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: None)
    calls: list[int] = []
    assert energy.joules_per_call(lambda: calls.append(1), torch.device("cuda")) == 60 / len(calls)


def test_throughput_belongs_to_latency(tiny: BackboneSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    """Units: images per second, and milliseconds."""
    monkeypatch.setattr(timing, "_times", lambda call: [0.01, 0.02, 0.03])
    taken = measure_inference(make("linear", tiny), CPU, "fp32")
    assert taken["latency_ms_p50"] == pytest.approx(20)
    assert taken["throughput"] == pytest.approx(4 / 0.02)
    assert measure_training(make("linear", tiny), RECIPE, CPU, "fp32", 100)["train_step_ms"] == pytest.approx(20)


def test_peak_is_forgotten(tiny: BackboneSpec) -> None:
    """Memory that was used and freed before does not count."""
    if not Path("/proc/self/clear_refs").exists():
        pytest.skip("only Linux forgets a process's highest resident size")
    block = torch.ones(100_000_000)
    assert timing._highest_resident() > 4e8
    del block
    with timing.Peak(CPU) as peak:
        pass
    assert peak.bytes is not None
    with timing.Peak(CPU) as higher:
        torch.ones(50_000_000)
    assert higher.bytes is not None and higher.bytes - peak.bytes == pytest.approx(2e8, rel=0.2)
