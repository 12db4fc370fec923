"""A search of 40 trials and five final runs in forward passes of its data: what the cache of activations leaves.

    python benchmarks/speed/search.py [--methods linear,partial,vpt] [--set vpt.start=11] [--backbone vit_base_patch16_224]

The whole of ``vpbench tune`` with VPT's grid runs in this process for one method after the other, on made-up images with the
protocol of VTAB-1k (or, with ``--fit train``, with final runs that train without the validation images), an empty cache and a
file of random weights. Its processor time is compared with that of one forward pass of the plain timm model over all images, half
of it before and half after the search. Training and evaluation are what a method does behind its frozen prefix; the ratio of
everything beyond them says whether a search costs more than one pass through that prefix. ``--without-cache`` runs it once more
without activations on the disk, and compares the rows.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # or waiting threads would count as processor time

import numpy as np
import timm
import torch
from PIL import Image
from safetensors.torch import save_file

import vpbench
from vpbench.execution import execute as run
from vpbench.store.schema import REPRODUCIBLE
from vpbench.training.activation_cache import ActivationCache
from vpbench.training.fit import Trainer

CLASSES, BATCH = 10, 64
SHARES = {"train": 0.64, "val": 0.16, "test": 0.2}
SUITE_FILE = "noise-suite.toml"
SUITE = """
base = "vtab1k"
title = "made up"
description = "made-up images with the protocol of VTAB-1k"
datasets = []
source = "this benchmark"
fit = "{fit}"
means = []
backbone = "{backbone}"
precision = "fp32"
[data]
noise = "images"
[training]
epochs = {epochs}
"""


class Clock:
    """Processor seconds by kind of call; those of a call within another count for the inner one."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._inner = [0.0]

    def timed(self, owner: Any, name: str, kind: str) -> None:
        """Times all further calls of ``owner.name``."""
        call: Callable[..., Any] = getattr(owner, name)

        @wraps(call)
        def counted(*args: Any, **keywords: Any) -> Any:
            self._inner.append(0.0)
            begin = time.process_time()
            try:
                return call(*args, **keywords)
            finally:
                spent = time.process_time() - begin
                self.seconds[kind] += spent - self._inner.pop()
                self._inner[-1] += spent

        setattr(owner, name, counted)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--methods", default="linear", metavar="NAME,...", help="each is searched by itself")
    parser.add_argument("--set", action="append", default=[], metavar="METHOD.OPTION=N", help="an option, a number")
    parser.add_argument("--backbone", default="vit_base_patch16_224")
    parser.add_argument("--size", type=int, default=224, help="side of the images, pixels")
    parser.add_argument("--images", type=int, default=1000, help="of all splits together")
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--fit", choices=["train", "train+val"], default="train+val")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--without-cache", action="store_true")
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    with tempfile.TemporaryDirectory() as folder:
        pixels = make_images(Path(folder, "images"), asked.images, asked.size)
        Path(folder, SUITE_FILE).write_text(SUITE.format(fit=asked.fit, backbone=asked.backbone, epochs=asked.epochs))
        plain = timm.create_model(asked.backbone, num_classes=0, img_size=asked.size).eval()
        save_file(plain.state_dict(), Path(folder, "weights.safetensors"))
        forward(plain, pixels[:BATCH])  # warm-up
        for method in asked.methods.split(","):
            os.environ["VPBENCH_CACHE"] = str(Path(folder, method, "cache"))
            os.environ.pop("VPBENCH_ACTIVATIONS", None)
            before = forward(plain, pixels[::2])
            spent = search(method, asked, Path(folder), Path(folder, method, "runs"))
            once = before + forward(plain, pixels[1::2])
            report(method, asked, spent, once)
            if asked.without_cache:
                os.environ["VPBENCH_ACTIVATIONS"] = "0"
                without = Path(folder, method, "without")
                report(method, asked, search(method, asked, Path(folder), without), once)
                sys.stdout.write(f"rows are equal: {rows(Path(folder, method, 'runs')).equals(rows(without))}\n")


def make_images(folder: Path, count: int, size: int) -> np.ndarray[Any, Any]:
    """Noise as PNG files in ``folder/SPLIT/CLASS/``, of different brightness; returns all pixels."""
    rng, found = np.random.default_rng(0), []
    for split, share in SHARES.items():
        for index in range(round(share * count)):
            place = folder / split / f"class{index % CLASSES}"
            place.mkdir(parents=True, exist_ok=True)
            found.append(rng.integers(0, 156 + 10 * (index % CLASSES), (size, size, 3), dtype=np.uint8))
            Image.fromarray(found[-1]).save(place / f"{index}.png", compress_level=1)
    return np.stack(found)


def forward(model: torch.nn.Module, pixels: np.ndarray[Any, Any]) -> float:
    """Processor seconds of one forward pass."""
    begin = time.process_time()
    with torch.inference_mode():
        for some in torch.from_numpy(pixels).split(BATCH):
            model(some.permute(0, 3, 1, 2).float().div(127.5).sub(1))
    return time.process_time() - begin


def search(method: str, asked: argparse.Namespace, folder: Path, results: Path) -> dict[str, float]:
    """Processor seconds of a whole search, by what they went to."""
    clock = Clock()
    saved = {(owner, name): getattr(owner, name) for owner, name in WHERE}
    for (owner, name), kind in WHERE.items():
        clock.timed(owner, name, kind)
    begin = time.process_time()
    own = [word.partition("=") for word in asked.set if word.startswith(f"{method}.")]
    settings = {key: float(value) for key, _, value in own}
    vpbench.tune(
        method, str(folder / SUITE_FILE), weights=folder / "weights.safetensors", image_size=asked.size, seeds=asked.seeds,
        threads=asked.threads, save="none", results=results, executor="inline", device="cpu", settings=settings, progress=False,
    )  # fmt: skip
    whole = time.process_time() - begin
    for (owner, name), call in saved.items():
        setattr(owner, name, call)
    return {**clock.seconds, "everything else": whole - sum(clock.seconds.values()), "whole": whole}


WHERE: dict[tuple[Any, str], str] = {
    (ActivationCache, "of"): "frozen prefix",
    (Trainer, "train"): "training",
    (Trainer, "evaluate"): "evaluation",
    (run, "build_model"): "loading the model",
    (run, "measure_training"): "measuring the cost",
    (run, "measure_inference"): "measuring the cost",
    (run, "count_operations"): "measuring the cost",
}


def report(method: str, asked: argparse.Namespace, spent: dict[str, float], once: float) -> None:
    sys.stdout.write(f"{method}, 40 trials and {asked.seeds} seeds on {asked.images} images; one forward pass: {once:.1f} s\n")
    for kind, seconds in sorted(spent.items(), key=lambda item: -item[1]):
        sys.stdout.write(f"  {kind:20} {seconds:8.1f} s  {seconds / once:6.2f} forward passes\n")
    beyond = spent["whole"] - spent["training"] - spent["evaluation"]
    fixed = sum(spent[kind] for kind in ("loading the model", "measuring the cost", "everything else"))
    sys.stdout.write(f"  beyond training and evaluation {beyond:8.1f} s  {beyond / once:6.2f} forward passes")
    sys.stdout.write(f", {(beyond - spent['measuring the cost']) / once:.2f} without measuring the cost\n")
    sys.stdout.write(f"  of that {fixed:.1f} s do not depend on the number of images\n")


def rows(folder: Path) -> Any:
    """What does not depend on the machine's mood, in the order of run ids."""
    return vpbench.load_results(folder).sort_values("run_id").reset_index(drop=True)[list(REPRODUCIBLE)]


if __name__ == "__main__":
    main()
