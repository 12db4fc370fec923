"""Norms of gradients before the first step, for methods that learn little: does the loss reach what they train?

    python benchmarks/studies/gradients.py --suite open-mini --dataset textures --methods linear,transhp,dam_vp

The model of each method's first tested run is built as it was before training, and the gradient of the training loss is averaged
over the first ten batches of training images. A line per method: the loss, then for its own tensors and for the head how many
there are, how many have a gradient of exactly zero, and the norm of the gradient, by that of linear probing's head in
parentheses.
"""

from __future__ import annotations

import argparse
import sys
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vpbench.analysis.load import open_data, stored_spec
from vpbench.backbones.find_weights import find_weights
from vpbench.data.batches import Normaliser
from vpbench.data.cache import prepare
from vpbench.interface import Method
from vpbench.models.build import build_model
from vpbench.store.store import Store
from vpbench.training.fit import Trainer

BATCHES = 10


def untrained(row: dict[str, Any]) -> Trainer:
    """The model of a run and its data, as they are before the first step."""
    spec = stored_spec(row)
    backbone, raw = find_weights(spec.backbone), open_data(spec)
    torch.manual_seed(spec.seed)
    model = build_model(spec.method, backbone, len(raw.class_names), task=spec.task)
    normalise = Normaliser(backbone.mean, backbone.std)
    trainer = Trainer(model, prepare(raw, spec.preprocess, backbone.image_size), spec, normalise, torch.device("cpu"))
    if type(model.method).prepare is not Method.prepare:
        model.method.prepare(trainer)
    return trainer


def gradients(trainer: Trainer) -> tuple[float, dict[str, Tensor]]:
    """Loss and its mean gradient over some training images, by the name of the tensor."""
    model = trainer.model
    trained = {name: tensor for name, tensor in model.named_parameters() if tensor.requires_grad}
    loss, images = 0.0, 0
    for inputs, targets in islice(trainer.training_batches(), BATCHES):
        value, _ = model.training_loss(inputs, targets)
        (value * len(targets)).backward()
        loss, images = loss + float(value.detach()) * len(targets), images + len(targets)
    found = {name: tensor.grad if tensor.grad is not None else torch.zeros_like(tensor) for name, tensor in trained.items()}
    return loss / images, {name: gradient / images for name, gradient in found.items()}


def norm(parts: list[Tensor]) -> float:
    return float(torch.stack([part.norm() for part in parts]).norm()) if parts else 0.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--results", type=Path, default=Path("results/published"))
    parser.add_argument("--suite", default="open-mini")
    parser.add_argument("--dataset", default="digits")
    parser.add_argument("--methods", default="linear", help="names, with commas")
    asked = parser.parse_args()
    rows = Store(asked.results).load()
    rows = rows[rows["status"] == "ok"]
    rows = rows[(rows["suite"] == asked.suite) & (rows["dataset"] == asked.dataset) & (rows["stage"] == "final")]
    first = rows.sort_values("seed").drop_duplicates("method").set_index("method", drop=False).to_dict("index")
    names = asked.methods.split(",")
    if missing := [name for name in ("linear", *names) if name not in first]:
        parser.error(f"{asked.results} has no tested run of {', '.join(missing)} on {asked.dataset} of {asked.suite}.")
    _, probe = gradients(untrained(first["linear"]))
    scale = norm(list(probe.values()))
    sys.stdout.write("| method | loss | own tensors | zero | gradient | head | zero | gradient |\n|---|" + "---:|" * 7 + "\n")
    for name in names:
        loss, found = gradients(untrained(first[name]))
        cells = [name, f"{loss:.3f}"]
        for is_head in (False, True):
            parts = [gradient for key, gradient in found.items() if key.startswith("head.") == is_head]
            zero = sum(not part.any() for part in parts)
            cells += [str(len(parts)), str(zero), f"{norm(parts):.3g} ({norm(parts) / scale:.2f})"]
        sys.stdout.write(f"| {' | '.join(cells)} |\n")


if __name__ == "__main__":
    main()
