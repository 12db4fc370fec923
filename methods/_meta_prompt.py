"""Reptile over data sets that a user names: DAM-VP's meta prompt (shikiw/DAM-VP meta-training/meta_ht.py)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import cos, pi
from typing import TYPE_CHECKING

from vpbench.interface import F, OtherData, nn, torch

if TYPE_CHECKING:
    from torch import Tensor


@dataclass
class MetaTask:
    """A data set of meta-training.

    Attributes:
        data: its training images.
        prototypes: of its clusters, (M, D).
        head: linear, kept from one step to the next; its learning rate does not follow the schedule.
    """

    data: OtherData
    prototypes: Tensor
    head: nn.Linear


@dataclass(frozen=True)
class Reptile:
    """Settings of meta-training: in every step, each data set takes ``inner_steps`` of SGD on one batch from prompts that are
    copies of the meta prompt, one per cluster; then meta += step_size * mean over all clusters of (prompt - meta)."""

    epochs: int
    inner_steps: int
    step_size: float
    lr: float
    head_lr: float
    batch_size: int
    weight_decay: float

    def fit(
        self, meta: dict[str, Tensor], tasks: list[MetaTask], features: Callable[[dict[str, Tensor], Tensor, Tensor], Tensor]
    ) -> dict[str, Tensor]:
        """The meta prompt after training.

        Args:
            meta: a prompt's tensors by name, at the start.
            tasks: one per data set.
            features: of images with their prompts, with gradient, from prompts with one row per cluster, the clusters'
                prototypes, and images.
        """
        lengths = [sum(1 for _ in task.data.batches(self.batch_size)) for task in tasks] if self.epochs else [0]
        steps, done = self.epochs * min(lengths), 0
        for _ in range(self.epochs):
            for batches in zip(*(task.data.batches(self.batch_size) for task in tasks)):
                done += 1
                lr = 0.5 * (1 + cos(pi * done / steps)) * self.lr
                moves = [self._moves(meta, task, lr, batch, features) for task, batch in zip(tasks, batches)]
                clusters = sum(len(task.prototypes) for task in tasks)
                meta = {
                    name: value + self.step_size / clusters * sum(move[name] for move in moves) for name, value in meta.items()
                }
        return meta

    def _moves(
        self, meta: dict[str, Tensor], task: MetaTask, lr: float, batch: tuple[Tensor, Tensor],
        features: Callable[[dict[str, Tensor], Tensor, Tensor], Tensor],
    ) -> dict[str, Tensor]:  # fmt: skip
        """How far a data set moves its clusters' prompts, summed over them."""
        images, labels = batch
        count = len(task.prototypes)
        prompts = {name: value.expand(count, *value.shape).clone().requires_grad_() for name, value in meta.items()}
        tensors = [*prompts.values(), *task.head.parameters()]
        rates = [(lr, self.weight_decay)] * len(prompts) + [(self.head_lr, 0.0)] * 2
        for _ in range(self.inner_steps):
            loss = F.cross_entropy(task.head(features(prompts, task.prototypes, images)), labels)
            with torch.no_grad():
                for tensor, gradient, (rate, decay) in zip(tensors, torch.autograd.grad(loss, tensors), rates):
                    tensor.sub_(rate * (gradient + decay * tensor))
        return {name: (prompt.detach() - meta[name]).sum(0) for name, prompt in prompts.items()}
