"""Profile of a training step, compared with a forward pass of the plain frozen backbone.

    python benchmarks/speed/parts.py [--case vpt-10] [--rounds 5] [--batch 8] [--threads 2]

Steps and plain forward passes alternate under torch's profiler; the table has medians per kind of operation, in
milliseconds and as a fraction of the plain forward pass, and the rate of matrix products: if it is equal in both, only
fewer operations make a step faster.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from statistics import median
from typing import Any

import steps  # steps.py sets the wait policy of threads before torch is imported
import timm
import torch
from torch.profiler import profile

FLASH = "aten::_scaled_dot_product_flash_attention"
KINDS = {
    "matrix products": ("aten::addmm", "aten::mm", "aten::bmm"),
    "attention": (f"{FLASH}_for_cpu", f"{FLASH}_for_cpu_backward"),
    "GELU": ("aten::gelu", "aten::gelu_backward"),
    "LayerNorm": ("aten::native_layer_norm", "aten::native_layer_norm_backward"),
    "copies, joins, fills": ("aten::copy_", "aten::cat", "aten::fill_", "aten::zero_"),
    "sums": ("aten::add", "aten::add_"),
    "random numbers": ("aten::bernoulli_",),
}  # fmt: skip
OTHER = "everything else"


def spent(call: Callable[[], None]) -> dict[str, float]:
    """Milliseconds of a call by kind of operation, and its matrix products in GFLOP."""
    with profile(with_flops=True) as profiler:
        call()
    kind_of = {name: kind for kind, names in KINDS.items() for name in names}
    found = dict.fromkeys([*KINDS, OTHER, "GFLOP"], 0.0)
    for event in profiler.key_averages():
        kind = kind_of.get(event.key, OTHER)
        found[kind] += event.self_cpu_time_total / 1e3
        found["GFLOP"] += event.flops / 1e9 if kind == "matrix products" else 0.0
    return found


def medians(rounds: list[dict[str, float]]) -> dict[str, float]:
    return {kind: median(each[kind] for each in rounds) for kind in rounds[0]}


def table(plain: dict[str, float], step: dict[str, float]) -> str:
    whole = sum(value for kind, value in plain.items() if kind != "GFLOP")
    lines = ["| | plain forward, ms | step, ms | plain forward | step |", "| --- | --- | --- | --- | --- |"]
    lines += [
        f"| {kind} | {plain[kind]:.0f} | {step[kind]:.0f} | {plain[kind] / whole:.3f} | {step[kind] / whole:.3f} |"
        for kind in [*KINDS, OTHER]
    ]
    total = sum(value for kind, value in step.items() if kind != "GFLOP")
    lines.append(f"| together | {whole:.0f} | {total:.0f} | 1.000 | {total / whole:.3f} |")
    rates = [each["GFLOP"] / each["matrix products"] * 1e3 for each in (plain, step)]
    lines.append(f"| matrix products, GFLOP | {plain['GFLOP']:.0f} | {step['GFLOP']:.0f} | | |")
    lines.append(f"| matrix products, GFLOP/s | {rates[0]:.0f} | {rates[1]:.0f} | | |")
    return "\n".join(lines) + "\n"


def main() -> None:
    cases = {case.name: case for case in steps.all_cases()}
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--case", default="vpt-10", choices=list(cases))
    parser.add_argument("--backbone", default="vit_base_patch16_224")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--threads", type=int, default=2)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    model: Any = timm.create_model(asked.backbone, num_classes=0).eval().requires_grad_(False)
    images = torch.randn(asked.batch, *model.default_cfg["input_size"], generator=torch.Generator().manual_seed(0))
    running = steps.Running(cases[asked.case], steps.frozen_backbone(asked.backbone, "cpu"), "cpu")

    def forward() -> None:
        with torch.inference_mode():
            model(images)

    def step() -> None:
        running.step(images)

    forward()
    step()
    rounds = [(spent(forward), spent(step)) for _ in range(asked.rounds)]
    sys.stdout.write(f"{asked.case}, {steps.machine()}, {asked.threads} threads, torch {torch.__version__}\n\n")
    sys.stdout.write(table(medians([plain for plain, _ in rounds]), medians([step for _, step in rounds])))


if __name__ == "__main__":
    main()
