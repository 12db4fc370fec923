"""Total time of linear probing for 100 epochs, relative to one forward pass of the plain frozen backbone over its images.

    python benchmarks/speed/probe.py [--method linear] [--images 1000] [--epochs 100] [--threads 2] [--set partial.blocks=1]

Images are random and in memory. Both are measured in one process, half of the plain passes before and half after
training, so that a change of load affects both. Methods with a frozen prefix (`linear`, `mlp`, `partial`, `vpt` with
`start`) use cached activations; the others do not.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # or waiting threads would count as CPU time

import numpy as np
import timm
import torch

from vpbench.backbones.named import resolve_backbone
from vpbench.data.batches import Normaliser, evaluation_batches
from vpbench.data.cache import CachedData, CachedSplit
from vpbench.models.build import build_model
from vpbench.models.registry import resolve_method
from vpbench.spec.recipe import Recipe
from vpbench.spec.run_spec import DataSpec, Preprocess, RunSpec
from vpbench.training.fit import Trainer

HALF = (0.5, 0.5, 0.5)
BATCH = 64


def seconds(call: Callable[[], object]) -> tuple[float, float]:
    """Wall and CPU seconds of a call."""
    wall, processor = time.perf_counter(), time.process_time()
    call()
    return time.perf_counter() - wall, time.process_time() - processor


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--method", default="linear")
    parser.add_argument("--set", action="append", default=[], metavar="OPTION=N", help="an option of the method, a number")
    parser.add_argument("--backbone", default="vit_base_patch16_224")
    parser.add_argument("--size", type=int, default=224, help="side of the images, pixels")
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--classes", type=int, default=100)
    parser.add_argument("--threads", type=int, default=2)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    rng = np.random.default_rng(0)
    labels = np.arange(asked.images) % asked.classes
    pixels = rng.integers(0, 256, (asked.images, asked.size, asked.size, 3), dtype=np.uint8)
    split, empty = CachedSplit(pixels, labels, asked.size), CachedSplit(pixels[:0], labels[:0], asked.size)
    half = [CachedSplit(pixels[part::2], labels[part::2], asked.size) for part in (0, 1)]
    backbone = resolve_backbone(asked.backbone, "random", asked.size)
    options = {name: int(value) for name, _, value in (word.partition("=") for word in asked.set)}
    spec = RunSpec(
        method=resolve_method(asked.method, options), backbone=backbone, preprocess=Preprocess(), seed=0,
        data=DataSpec(suite="custom", dataset="random", digest="0"),
        recipe=Recipe(optimizer="adamw", lr=1e-3, epochs=asked.epochs, batch_size=BATCH),
    )  # fmt: skip
    model = build_model(spec.method, backbone, asked.classes)
    model.backbone.use_fastest_kernels("cpu", "fp32")
    plain = timm.create_model(asked.backbone, num_classes=0, img_size=asked.size).eval()
    normalise = Normaliser(HALF, HALF)
    data = CachedData(split, empty, empty, tuple(map(str, range(asked.classes))))
    trainer = Trainer(model, data, spec, normalise, torch.device("cpu"))

    def forward(part: CachedSplit) -> None:
        with torch.inference_mode():
            for images, _ in evaluation_batches(part, BATCH, normalise):
                plain(images)

    forward(CachedSplit(pixels[:BATCH], labels[:BATCH], asked.size))  # warm-up
    before, training, after = (
        seconds(lambda: forward(half[0])), seconds(trainer.fit), seconds(lambda: forward(half[1]))
    )  # fmt: skip
    for kind, one, whole, other in zip(("wall", "processor"), before, training, after):
        sys.stdout.write(
            f"{kind}: {asked.epochs} epochs of {spec.method.label} on {asked.images} images {whole:.1f} s, one plain forward pass"
            f" {one + other:.1f} s: {whole / (one + other):.2f} forward passes\n"
        )


if __name__ == "__main__":
    main()
