"""Time of a training step and of inference of each method, relative to one forward pass of the plain frozen backbone.

    python benchmarks/speed/steps.py [--rounds 5] [--batch 8] [--threads 2] [--only vpt-10,insvp] [--out FILE.md]

Every round runs the plain timm model and every case once, in random order, and ratios are taken within a round, so that
a change of load affects all alike. Wall time and CPU time are reported; use the second if other processes share the
cores. Saved memory is what autograd keeps for the backward pass, per image, without parameters and tensors derived from
frozen weights.
"""

from __future__ import annotations

import argparse
import copy
import gc
import os
import random
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # or waiting threads would count as CPU time

import timm
import torch
from torch import Tensor

from vpbench.backbones.base import Backbone
from vpbench.backbones.family import adapter_for
from vpbench.backbones.frozen_linear import freeze_linears
from vpbench.core.processor import processor
from vpbench.measure.costs import with_shared_weights
from vpbench.models.build import add_method, needs_classifier
from vpbench.models.prompted import PromptedModel
from vpbench.models.registry import method_registry, resolve_method

CLASSES = 100


@dataclass(frozen=True)
class Case:
    """One way of computing; ``released`` and ``least`` are the ratios of the released code and of the bare arithmetic."""

    name: str
    method: str
    options: dict[str, Any] = field(default_factory=dict)
    bf16: bool = False
    onednn: bool = False
    lean: bool = True
    checkpointed: bool = False
    compiled: bool = False
    released: str = ""
    target: str = ""


# Special ones; a method without any is a case of its own, with its defaults. Released codes: medians of quiet samples of wall
# time, or of processor time where it says so, which is 2 to 16 % above; measured on a machine of its own.
SPECIAL = [
    Case("linear", "linear", released="1.01 to 1.09 (processor time)"),
    Case("vpt-10 in the last 3 blocks", "vpt", {"prompt_length": 10, "start": 9}),
    Case("vpt-10", "vpt", {"prompt_length": 10}, released="2.15; PETL_Vision 2.31 (processor time)", target="1.95"),
    Case("vpt-10 without dropout", "vpt", {"prompt_length": 10, "dropout": 0.0}, target="1.95"),
    Case("vpt-10 whole", "vpt", {"prompt_length": 10}, lean=False, released="2.15"),
    Case("vpt-50", "vpt", {"prompt_length": 50}, released="2.48", target="2.00; inference 1.03"),
    Case("vpt-50 without dropout", "vpt", {"prompt_length": 50, "dropout": 0.0}, target="2.00; inference 1.03"),
    Case("vpt-50 whole", "vpt", {"prompt_length": 50}, lean=False, released="2.48"),
    Case("vpt-shallow-10", "vpt", {"deep": False, "prompt_length": 10, "dropout": 0.0}, released="2.30 (processor time)"),
    Case("insvp", "insvp", released="4.45", target="2.4"),
    Case("e2vpt-5+5", "e2vpt", {"prompt_length": 5, "kv_length": 5}, released="2.14 (processor time)", target="2.0"),
    Case("ivpt", "ivpt", target="2.0"),
    Case("vpt-10 onednn", "vpt", {"prompt_length": 10}, onednn=True, target="1.15"),
    Case("vpt-10 bf16", "vpt", {"prompt_length": 10}, bf16=True, target="0.75"),
    Case("vpt-10 compiled", "vpt", {"prompt_length": 10}, compiled=True),
    Case("vpt-10 checkpointed", "vpt", {"prompt_length": 10}, checkpointed=True),
    Case("vpt-10 bf16 checkpointed", "vpt", {"prompt_length": 10}, bf16=True, checkpointed=True),
]
SOURCE_CLASSES = 1000  # of the classifier that some methods map labels from


def all_cases() -> list[Case]:
    """One or more of every method that is installed."""
    special = {case.method for case in SPECIAL}
    return [*SPECIAL, *(Case(name, name) for name in method_registry().names() if name not in special)]


def frozen_backbone(name: str, device: str) -> Backbone:
    """With random weights, for any number of :class:`Running`."""
    return adapter_for(timm.create_model(name, num_classes=0)).to(device)


class Running:
    """A case with its model and optimizer.

    Args:
        frozen: the backbone; models share its values, unless their method trains some of them.
    """

    def __init__(self, case: Case, frozen: Backbone, device: str) -> None:
        torch.manual_seed(0)
        self.case, self.device = case, device
        self.model = self._built(with_shared_weights(frozen))
        if self.model.scope.trained:
            self.model = self._built(copy.deepcopy(frozen))
        adapter = self.model.backbone
        adapter.skip_unused = case.lean
        adapter.use_fused_attention(device == "cuda" or not case.bf16)
        adapter.checkpoint_blocks(case.checkpointed)
        if case.onednn:
            freeze_linears(adapter, "onednn")
        if case.compiled:
            self.model.compile()
            self.model.training_loss = torch.compile(self.model.training_loss)  # type: ignore[method-assign]
        self.optimizer = torch.optim.AdamW([tensor for _, tensor in self.model.trainable()], lr=1e-3)

    def _built(self, adapter: Backbone) -> PromptedModel:
        method = resolve_method(self.case.method, self.case.options)
        if needs_classifier(method):
            adapter.set_source_classifier(torch.nn.Linear(adapter.feature_width, SOURCE_CLASSES))
        return add_method(method, adapter, CLASSES).to(self.device)

    def _precision(self) -> AbstractContextManager[Any]:
        return torch.autocast(self.device, torch.bfloat16, enabled=self.case.bf16)

    def loss(self, images: Tensor) -> Tensor:
        with self._precision():
            return self.model.training_loss(images, torch.arange(len(images), device=self.device) % CLASSES)[0]

    def step(self, images: Tensor) -> None:
        self.model.train()
        self.optimizer.zero_grad(set_to_none=True)
        self.loss(images).backward()
        self.optimizer.step()

    def infer(self, images: Tensor) -> None:
        self.model.eval()
        with torch.inference_mode(), self._precision():
            self.model(images)

    def saved(self, images: Tensor) -> float:
        """MiB that autograd keeps per image."""
        known = {tensor.untyped_storage().data_ptr() for tensor in [*self.model.parameters(), *self.model.buffers(), images]}
        for module in self.model.modules():
            for made in vars(module).get("_kept", {}).values():
                parts = made if isinstance(made, tuple) else (made,)
                known |= {part.untyped_storage().data_ptr() for part in parts if isinstance(part, Tensor)}
        kept: dict[int, int] = {}

        def keep(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in known:
                kept[storage.data_ptr()] = storage.nbytes()
            return tensor

        self.model.train()
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            loss = self.loss(images)
        del loss
        return sum(kept.values()) / 2**20 / len(images)


def timed(call: Callable[[], None], device: str) -> tuple[float, float]:
    """Wall and CPU seconds of a call."""
    if device == "cuda":
        torch.cuda.synchronize()
    wall, processor = time.perf_counter(), time.process_time()
    call()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - wall, time.process_time() - processor


def measure(cases: list[Case], asked: argparse.Namespace) -> list[list[str]]:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    plain = timm.create_model(asked.backbone, num_classes=0).eval().requires_grad_(False).to(device)
    images = torch.randn(asked.batch, 3, asked.size, asked.size, generator=torch.Generator().manual_seed(0)).to(device)
    ratios: dict[tuple[str, str], list[tuple[float, float]]] = {}
    forwards: list[float] = []
    saved: dict[str, float] = {}
    compiling: dict[str, float] = {}

    def forward() -> None:
        with torch.inference_mode():
            plain(images)

    frozen = frozen_backbone(asked.backbone, device)
    running = {case.name: Running(case, frozen, device) for case in cases}
    for name, each in running.items():  # warm-up
        begin = time.perf_counter()
        each.step(images)
        each.infer(images)
        compiling[name] = time.perf_counter() - begin
        saved[name] = each.saved(images)
        gc.collect()
        sys.stderr.write(f"warmed up {name}\n")
    forward()
    for round_ in range(asked.rounds):
        for name in random.Random(round_).sample(list(running), len(running)):
            each = running[name]
            # The plain model directly before and after, under the same load as the case.
            before = timed(forward, device)
            step, infer = timed(lambda each=each: each.step(images), device), timed(lambda each=each: each.infer(images), device)
            after = timed(forward, device)
            reference = [(one + two) / 2 for one, two in zip(before, after)]
            forwards.append(reference[0])
            for kind, took in (("step", step), ("infer", infer)):
                ratios.setdefault((name, kind), []).append((took[0] / reference[0], took[1] / reference[1]))
        sys.stderr.write(f"round {round_ + 1} of {asked.rounds}: forward {forwards[-1]:.3f} s\n")
    sys.stderr.write(f"plain forward: median {median(forwards):.3f} s\n")

    def cell(name: str, kind: str, which: int) -> str:
        return f"{median(pair[which] for pair in ratios[name, kind]):.2f}"

    return [
        [
            case.name, cell(case.name, "step", 0), cell(case.name, "step", 1), cell(case.name, "infer", 0),
            cell(case.name, "infer", 1), f"{saved[case.name]:.1f}", f"{compiling[case.name]:.0f}" if case.compiled else "",
            case.released, case.target,
        ]
        for case in cases
    ]  # fmt: skip


HEADER = [
    "case", "step, wall", "step, processor", "inference, wall", "inference, processor", "saved MiB/image", "compiling, s",
    "released code: step", "target: step at most",
]  # fmt: skip


def machine() -> str:
    return torch.cuda.get_device_name() if torch.cuda.is_available() else processor()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backbone", default="vit_base_patch16_224")
    parser.add_argument("--size", type=int, default=224, help="side of the images, pixels")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", help="names of cases, separated by commas")
    parser.add_argument("--out", type=Path, help="write the table there, as Markdown")
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    cases = all_cases()
    names = asked.only.split(",") if asked.only else [case.name for case in cases]
    if unknown := set(names) - {case.name for case in cases}:
        parser.error(f"unknown: {', '.join(sorted(unknown))}; there are {', '.join(case.name for case in cases)}")
    rows = measure([case for case in cases if case.name in names], asked)
    text = (
        f"{datetime.now(UTC):%Y-%m-%d}, {machine()}, {asked.threads} threads, torch {torch.__version__}, timm"
        f" {timm.__version__}: {asked.backbone}, {asked.size} px, batch {asked.batch}, {asked.rounds} rounds. Ratios to one"
        " float32 forward pass of the plain model in the same round.\n\n"
    )
    for row in [HEADER, ["---"] * len(HEADER), *rows]:
        text += "| " + " | ".join(row) + " |\n"
    sys.stdout.write(text)
    if asked.out:
        asked.out.write_text(text)


if __name__ == "__main__":
    main()
