"""Every method can be exported, to timm where it merges and by torch.export and ONNX else, and runs without vpbench."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from alone import alone, write_card
from perturbed import trained

from vpbench.core.errors import UnsupportedError
from vpbench.deploy.export_target import target_registry
from vpbench.deploy.inference_form import check_logits, exact_logits, example_inputs
from vpbench.models.registry import method_registry

# Methods that leave a plain model of timm behind: what they trained is in its tensors after merging.
MERGED = {
    "arc", "bias", "difffit", "fact", "full", "gps", "linear", "ln_tuning", "lora", "partial", "peft", "repadapter", "spt",
    "ssf", "vp", "lor_vp",
}  # fmt: skip
# Operations that torch's exporter or ONNX Runtime does not have.
NOT_IN_ONNX = {"dam_vp": "_cdist_forward", "ivpt": "sort", "lion": "_linalg_solve_ex", "sct": "tensor\\(int32\\)"}


@pytest.mark.sweep
@pytest.mark.parametrize("method", method_registry().names())
def test_a_method_runs_without_vpbench(method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VPBENCH_PATH", str(write_card(tmp_path / "cards")))
    registry = target_registry()
    images = example_inputs(trained(method), 2)
    wanted = exact_logits(trained(method), images)
    places = []
    for name in ("torch", *(["onnx"] if method not in MERGED else [])):
        if name == "onnx":
            pytest.importorskip("onnxruntime")
            pytest.importorskip("onnxscript")
        place = tmp_path / name
        place.mkdir()
        if name == "onnx" and method in NOT_IN_ONNX:
            with pytest.raises(UnsupportedError, match=f"^{method} cannot be exported to ONNX .*{NOT_IN_ONNX[method]}.*$"):
                registry.get(name)().write(trained(method), place, None)
            continue
        registry.get(name)().write(trained(method), place, None)
        places.append(place)
    assert (tmp_path / "torch" / "model.safetensors").exists() == (method in MERGED)
    for name, logits in alone(images, tmp_path, *places).items():
        check_logits(name, logits, wanted, 1e-4 if name == "onnx" else 1e-5)


def test_what_differs_is_refused() -> None:
    with pytest.raises(UnsupportedError, match=r"this differs from the trained model: logits by 1.0e-01, 1e-05 allowed"):
        check_logits("this", torch.tensor([1.0, 0.9]), torch.tensor([1.0, 1.0]))
    with pytest.raises(UnsupportedError, match="logits by nan"):
        check_logits("this", torch.tensor([torch.nan]), torch.tensor([1.0]))
    check_logits("this", torch.tensor([100.0]), torch.tensor([100.0005]))
