"""In which numbers a run computes."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from vpbench.core.errors import UsageError
from vpbench.spec import precision as precision_module
from vpbench.spec.precision import autocast, float32_products, gpu_computes_bf16, resolve_precision

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


def test_what_is_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    assert [resolve_precision("fp32", CPU), resolve_precision("bf16", CUDA)] == ["fp32", "bf16"]
    for able, precision in ((True, "bf16"), (False, "fp32")):
        monkeypatch.setattr(precision_module, "cpu_computes_bf16", lambda able=able: able)
        assert resolve_precision("auto", CPU) == precision
    for here, able, precision in ((True, True, "bf16"), (True, False, "fp32"), (False, False, "bf16")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda here=here: here)

        def supported(including_emulation: bool = True, native: bool = able) -> bool:
            return native or including_emulation

        monkeypatch.setattr(torch.cuda, "is_bf16_supported", supported)
        assert resolve_precision("auto", CUDA) == precision


@pytest.mark.parametrize(("capability", "native"), [((7, 5), False), ((8, 0), True)])
def test_torch_without_the_argument(capability: tuple[int, int], native: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
    assert gpu_computes_bf16() == native


def test_tf32_is_of_gpus() -> None:
    assert resolve_precision("tf32", CUDA) == "tf32"
    with pytest.raises(UsageError, match="only GPUs multiply in TF32"):
        resolve_precision("tf32", CPU)


def test_unknown() -> None:
    with pytest.raises(UsageError, match=r"unknown value of --precision 'bf61'\. Did you mean 'bf16'"):
        resolve_precision("bf61", CPU)


@pytest.mark.parametrize(("precision", "allowed"), [("tf32", True), ("fp32", False), ("bf16", False)])
def test_float32_products_and_what_was_set_before(precision: str, allowed: bool) -> None:
    products: Any = torch.backends.cuda.matmul
    convolutions: Any = torch.backends.cudnn
    before = products.allow_tf32, convolutions.allow_tf32
    with pytest.raises(RuntimeError), float32_products(precision):
        assert products.allow_tf32 == convolutions.allow_tf32 == allowed
        raise RuntimeError
    assert (products.allow_tf32, convolutions.allow_tf32) == before


def test_autocast() -> None:
    for precision, expected in (("bf16", torch.bfloat16), ("fp32", torch.float32)):
        with autocast(precision, "cpu"):
            assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == expected
