"""Small models of ViaPT."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from timm.models import VisionTransformer
from torch import Tensor

from vpbench.backbones.vit import ViTAdapter
from vpbench.methods.viapt import ViaPT, ViaPTConfig
from vpbench.models.prompted import PromptedModel

WIDTH, DEPTH, CLASSES = 48, 3, 5
MODES = ("running", "batch", "sample", "fixed", "random_proj", "random_coord", "learned")


def small(**settings: Any) -> Any:
    """ViaPT on a random ViT, float64, with ``n_dataset=3, n_instance=2, pca_dim=12`` unless said otherwise."""
    torch.manual_seed(0)
    vit = VisionTransformer(img_size=32, patch_size=8, embed_dim=WIDTH, depth=DEPTH, num_heads=4, num_classes=0)
    adapter = ViTAdapter(vit)
    config = ViaPTConfig(**({"n_dataset": 3, "n_instance": 2, "pca_dim": 12, "gen_hidden": 8} | settings))
    return PromptedModel(adapter, ViaPT(config, adapter.shape, CLASSES), CLASSES).double()


def batch_of(count: int, seed: int = 1) -> Tensor:
    return torch.randn(count, 3, 32, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


class CalibrationSession:
    """As much of a session as ``prepare`` uses."""

    def __init__(self, model: Any) -> None:
        self.model = model

    def training_batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        for seed in range(3):
            yield batch_of(4, seed), torch.arange(4)

    def logits(self, images: Tensor) -> Tensor:
        self.model.eval()
        logits: Tensor = self.model(images)
        self.model.train()
        return logits


def fitted(**settings: Any) -> Any:
    """A model whose bases come from data, in evaluation mode."""
    model = small(**settings)
    model.method.prepare(CalibrationSession(model))
    with torch.no_grad():
        model.training_loss(batch_of(8), torch.arange(8) % CLASSES)
    model.method.epoch_ended(0, 100)
    return model.eval()


def plain(model: Any, batch: Tensor, *prompts: Tensor) -> Tensor:
    """Logits with the given prompts before the first blocks; later blocks get the outputs."""
    tokens = model.backbone.embed(batch)
    for block in range(DEPTH):
        if block < len(prompts):
            tokens = tokens.with_prompts(prompts[block])
        tokens = model.backbone.block(block, tokens)
    logits: Tensor = model.head(model.backbone.pool(tokens))
    return logits


def same(first: Tensor, second: Tensor) -> None:
    torch.testing.assert_close(first, second, rtol=0, atol=1e-10)


def distance(first: Tensor, second: Tensor) -> float:
    return float((first - second).detach().abs().max())


def train(model: Any, steps: int) -> Any:
    torch.manual_seed(3)
    optimizer = torch.optim.SGD([tensor for _, tensor in model.trainable()], lr=0.1)
    for step in range(steps):
        optimizer.zero_grad()
        model.train().training_loss(batch_of(4, step), torch.arange(4))[0].backward()
        optimizer.step()
        model.method.epoch_ended(step, 100)
    return model
