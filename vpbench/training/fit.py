"""Fitting one method: the engine's side of a session."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from itertools import islice
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from timm.data import Mixup
from torch import Tensor

from vpbench.core.errors import DivergedError
from vpbench.data.batches import Normaliser
from vpbench.data.cache import CachedData, CachedSplit
from vpbench.interface import Method, OtherData
from vpbench.models.prompted import Inputs as ModelInputs
from vpbench.models.prompted import PromptedModel
from vpbench.spec.precision import autocast
from vpbench.spec.run_spec import RunSpec
from vpbench.tasks import Scores
from vpbench.training.checkpoint import Checkpoints, Training, load_state, state_of, usable
from vpbench.training.ema import MovingAverage
from vpbench.training.inputs import Batch, Inputs
from vpbench.training.memory import in_pieces, is_out_of_memory
from vpbench.training.micro_batches import whole_head_backward
from vpbench.training.optim import backbone_depths, learning_rate, lr_factor, make_optimizer
from vpbench.training.other_data import open_other

FAR_ABOVE = 100  # times the loss of guessing, where methods with losses of their own do not come


@dataclass(frozen=True)
class Epoch:
    """What is known after an epoch, for the learning curve and the progress display."""

    phase: str
    epoch: int
    epochs: int
    lr: float
    train_loss: float
    val_acc1: float | None
    val_loss: float | None = None


@dataclass
class Steps:
    """What the steps of one training share.

    Attributes:
        at: epoch and step.
        optimizer: over all trainable tensors.
        average: of these, where the recipe asks for it.
        mix: Mixup and CutMix, where the recipe asks for them.
        state: for a checkpoint.
    """

    at: Training
    optimizer: torch.optim.Optimizer
    average: MovingAverage | None
    mix: Mixup | None
    state: Callable[[], dict[str, Any]]


class Trainer:
    """A session (see :class:`vpbench.interface.Session`) over one model and one data set.

    Args:
        model: on ``device``.
        data: cached splits.
        spec: recipe, preprocessing, selection, seed and precision are read from it.
        normalise: from stored bytes to the network's input, on ``device``.
        device: where to compute.
        on_epoch: called after every epoch.
        checkpoints: to resume from, and to write; by default none.
        val_curve: score the validation images after every epoch also where nothing is chosen on them, for the curve alone.

    Attributes:
        curve: every epoch of every phase so far.
        first_losses: of the first five steps of the first phase.
        selected_epoch: epoch (from 1) of the last phase whose parameters were selected.
        batch_parts: micro-batches per training batch, 1 unless memory was short.
        prepare_s: seconds that the method's ``prepare`` took; None before it, and for a method without.
    """

    def __init__(
        self, model: PromptedModel, data: CachedData, spec: RunSpec, normalise: Normaliser, device: torch.device,
        on_epoch: Callable[[Epoch], None] = lambda epoch: None, checkpoints: Checkpoints | None = None,
        val_curve: bool = False,
    ) -> None:  # fmt: skip
        self.task = model.task
        self.model, self.data, self.spec, self.normalise, self.device = model, data, spec, normalise, device
        self.on_epoch = on_epoch
        self._val_curve = val_curve and len(data.val) > 0
        self._val_loss: float | None = None  # of the last validation
        self.curve: list[Epoch] = []
        self.first_losses: list[float] = []
        self.selected_epoch = 0
        self.batch_parts = 1
        self.prepare_s: float | None = None
        self._order = torch.Generator().manual_seed(spec.seed)
        self._checkpoints, self._in_training = checkpoints or Checkpoints(), False
        self._inputs = Inputs(model, data, spec, normalise, self._order)
        if spec.recipe.drop_path:
            model.backbone.set_drop_path(model.scope, spec.recipe.drop_path)

    def fit(self) -> None:
        """Run the method's own set-up and phases."""
        if type(self.model.method).prepare is not Method.prepare:
            self._prepare()
        self.model.method.phases(self)

    def doubt(self) -> str:
        """A warning about a training that has ended with a finite loss and yet went wrong; empty without reason for one."""
        if broken := [name for name, tensor in self.model.own_tensors() if _is_broken(tensor)]:
            return f"warning: {broken[0]} is not finite after training; a smaller recipe.lr may help."
        loss, guessing = self.curve[-1].train_loss, math.log(max(2, len(self.data.class_names)))
        if loss > FAR_ABOVE * guessing:
            return (
                f"warning: the loss of the last epoch is {loss:.3g}, and that of guessing {guessing:.3g}: "
                "the training went wrong; a smaller recipe.lr may help."
            )
        return ""

    def _prepare(self) -> None:
        """Timed to the end of what it started on a GPU."""
        begun = time.perf_counter()
        self.model.method.prepare(self)
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        self.prepare_s = time.perf_counter() - begun

    # What a method may call

    def train(self, name: str = "train") -> None:
        """See :meth:`vpbench.interface.Session.train`."""
        if (done := self._checkpoints.replayed()) is not None:
            self._load(done)
            return
        trainable, mix = self.model.trainable(), self._mixup()
        optimizer = make_optimizer(trainable, self.spec.recipe, backbone_depths(self.model, self.spec.recipe))
        at = self._begin(optimizer)
        average = self._average([tensor for _, tensor in trainable], at)
        begun = len(self.curve) - at.epoch
        steps = Steps(
            at, optimizer, average, mix,
            lambda: {**self._state(begun), "optimizer": optimizer.state_dict(), "training": at.state()},
        )  # fmt: skip
        self._in_training = True
        while at.epoch < self.spec.recipe.epochs:
            self._train_epoch(steps)
            self._end_epoch(name, at, optimizer.param_groups[0]["lr"], average)
        if at.best is not None:
            self.restore(at.best[1])
        else:
            self.selected_epoch = self.spec.recipe.epochs
            if average is not None:
                average.apply()
        self._in_training = False
        self._checkpoints.ended(self._state(begun))

    def _train_epoch(self, steps: Steps) -> None:
        """The steps of an epoch that are left."""
        recipe, at, optimizer = self.spec.recipe, steps.at, steps.optimizer
        per_epoch = math.ceil(len(self.data.train) / recipe.batch_size)
        self.model.train()
        for inputs, labels in self._remaining_inputs(at):
            factor = lr_factor(recipe, at.epoch * per_epoch + at.step, per_epoch)
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(recipe, factor, group["lr_scale"])
            if steps.mix is not None and len(labels) > 1 and isinstance(inputs, Tensor):
                # Mixup pairs the images of a batch, so an odd one leaves its last image out; a lone image stays as it is.
                inputs, labels = steps.mix(inputs[: len(inputs) // 2 * 2], labels[: len(labels) // 2 * 2])
            loss = self._backward(inputs, self._smoothed(labels), optimizer)
            optimizer.step()
            self.model.method.step_ended(at.epoch * per_epoch + at.step, recipe.epochs * per_epoch)
            if steps.average is not None:
                steps.average.update()
            at.losses.append(loss)
            if len(self.first_losses) < 5:
                self.first_losses.append(loss.item())
            at.step += 1
            self._checkpoints.may_pause(steps.state)
            if recipe.iterations == at.epoch * per_epoch + at.step:
                return

    def _end_epoch(self, name: str, at: Training, rate: float, average: MovingAverage | None) -> None:
        """Checks the loss, validates where the best epoch counts or the curve has it, and records the epoch.

        Raises:
            DivergedError: when the mean loss is not finite.
        """
        self.model.method.epoch_ended(at.epoch, self.spec.recipe.epochs)
        mean_loss = torch.stack(at.losses).mean().item()
        if not math.isfinite(mean_loss):
            raise DivergedError(f"the loss became {mean_loss} in epoch {at.epoch + 1} ({name}); the learning rate was {rate:g}.")
        accuracy, self._val_loss = None, None
        if self.spec.selection == "best_val":
            with nullcontext() if average is None else average.applied():
                accuracy = self.validate()
                if at.best is None or accuracy > at.best[0]:
                    at.best, self.selected_epoch = (accuracy, self.snapshot()), at.epoch + 1
        elif self._val_curve:
            streams = torch.random.fork_rng(devices=[self.device] if self.device.type == "cuda" else [])
            with streams, nullcontext() if average is None else average.applied():  # training goes on as without it
                accuracy = self.validate()
        self.curve.append(Epoch(name, at.epoch + 1, self.spec.recipe.epochs, rate, mean_loss, accuracy, self._val_loss))
        self.on_epoch(self.curve[-1])
        at.next_epoch()

    def validate(self) -> float:
        """See :meth:`vpbench.interface.Session.validate`."""
        scores = self.evaluate(self.data.val)
        self._val_loss = scores.loss
        return scores.score

    def training_batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """See :meth:`vpbench.interface.Session.training_batches`."""
        for batch in self.task.evaluation_batches(self.data.train, self.normalise, self.spec.recipe.batch_size):
            self._may_pause_between()
            yield batch

    def features(self, split: str = "train") -> tuple[Tensor, Tensor]:
        """See :meth:`vpbench.interface.Session.features`."""
        cached = {"train": self.data.train, "val": self.data.val}[split]
        return self._inputs.plain_features(cached), self.task.targets(cached)

    def other_data(self, name: str) -> OtherData:
        """See :meth:`vpbench.interface.Session.other_data`."""
        return open_other(name, self.spec, self.normalise)

    def logits(self, images: Tensor) -> Tensor:
        """See :meth:`vpbench.interface.Session.logits`."""
        self.model.eval()
        with self._precision():
            return self.model(images).float()

    def loss(self, images: Tensor, targets: Tensor) -> Tensor:
        """See :meth:`vpbench.interface.Session.loss`."""
        return self.task.loss(self.logits(images), targets)

    def snapshot(self) -> dict[str, Tensor]:
        """See :meth:`vpbench.interface.Session.snapshot`."""
        return self.model.snapshot()

    def restore(self, snapshot: dict[str, Tensor]) -> None:
        """See :meth:`vpbench.interface.Session.restore`."""
        self.model.restore(snapshot)

    def reinitialise(self) -> None:
        """See :meth:`vpbench.interface.Session.reinitialise`."""
        self.model.reinitialise()

    # What the engine calls

    def evaluate(
        self, split: CachedSplit, features: int = 0, test: bool = False, probabilities: bool = False
    ) -> Scores:  # fmt: skip
        """Predictions of the model on a split, in evaluation mode.

        Args:
            features: of so many images, the first ones, keep the features that the head reads.
            test: on the test split, with all that a row says of it.
            probabilities: keep those of all classes, where the task has them.
        """
        scorer = self.task.scorer(split, features, test)
        scorer.keep_probabilities = probabilities

        def forward(inputs: ModelInputs, with_features: bool = False) -> tuple[Tensor, Any]:
            pieces = in_pieces(partial(self.model.prediction, with_features=with_features), inputs)
            read = [features for _, features in pieces if features is not None]
            return torch.cat([logits for logits, _ in pieces]), torch.cat(read) if read else None

        self.model.eval()
        with torch.no_grad(), self._precision():
            for inputs, targets in self._inputs.evaluation(split):
                self._may_pause_between()
                scorer.add(forward, inputs, targets)
        return scorer.scores()

    # Checkpoint and resume

    def _begin(self, optimizer: torch.optim.Optimizer) -> Training:
        """A fresh training, or the one to resume, with its optimizer state."""
        state = self._checkpoints.under_way()
        if state is None:
            return Training()
        self._load(state)
        with usable():
            optimizer.load_state_dict(state["optimizer"])
            return Training.of(state["training"], self.device)

    def _average(self, tensors: list[Tensor], at: Training) -> MovingAverage | None:
        if not self.spec.recipe.ema:
            return None
        average = MovingAverage(tensors, self.spec.recipe.ema, at.average)
        at.average = average.values
        return average

    def _remaining_inputs(self, at: Training) -> Iterator[Batch]:
        """An epoch's batches from the step to resume at; the data's generator advances through the whole epoch."""
        if at.order is None:
            at.order = self._order.get_state()
        self._order.set_state(at.order)
        return islice(self._inputs.training(), at.step, None)

    def _state(self, begun: int) -> dict[str, Any]:
        """All that training has changed; of the curve, what comes after the first ``begun`` epochs."""
        return {
            **state_of(self.model, self._order), "curve": [asdict(epoch) for epoch in self.curve[begun:]],
            "first_losses": list(self.first_losses), "selected_epoch": self.selected_epoch,
            "batch_parts": self.batch_parts,
        }  # fmt: skip

    def _load(self, state: dict[str, Any]) -> None:
        with usable():
            load_state(self.model, self._order, state)
            self.first_losses, self.selected_epoch = list(state["first_losses"]), state["selected_epoch"]
            self.batch_parts = state["batch_parts"]
            self.curve += [Epoch(**epoch) for epoch in state["curve"]]

    def _may_pause_between(self) -> None:
        """Between trainings; within one, a run can pause after a step only."""
        if not self._in_training:
            self._checkpoints.may_pause()

    def _precision(self) -> AbstractContextManager[object]:
        return autocast(self.spec.precision, self.device.type)

    def _loss(self, inputs: ModelInputs, targets: Tensor) -> Tensor:
        with self._precision():
            return self.model.training_loss(inputs, targets)[0]

    def _backward(self, inputs: ModelInputs, targets: Tensor, optimizer: torch.optim.Optimizer) -> Tensor:
        """The mean loss of a batch, its gradients in place.

        Where memory is short the batch is split into more and more micro-batches, from then on: accumulated gradients are the
        same, except for what a method draws at random.

        Raises:
            torch.OutOfMemoryError: when single images are too many, or the method needs a whole batch at once.
        """
        while True:
            optimizer.zero_grad(set_to_none=True)
            try:
                return self._accumulated(inputs, targets)
            except (torch.OutOfMemoryError, RuntimeError) as error:
                if not is_out_of_memory(error) or self.batch_parts >= len(inputs) or self.model.needs_whole_batches:
                    raise
                self.batch_parts *= 2
            if self.device.type == "cuda":
                torch.cuda.empty_cache()

    def _accumulated(self, inputs: ModelInputs, targets: Tensor) -> Tensor:
        if self.batch_parts > 1 and self.model.head_needs_whole_batches:
            return whole_head_backward(self.model, inputs, targets, self.batch_parts, self._precision)
        total = torch.zeros((), device=targets.device)
        parts: Sequence[ModelInputs] = inputs.chunk(self.batch_parts)
        for some, wanted in zip(parts, targets.chunk(self.batch_parts)):
            loss = self._loss(some, wanted) * (len(some) / len(inputs))
            loss.backward()
            total += loss.detach()
        return total

    def _mixup(self) -> Mixup | None:
        recipe = self.spec.recipe
        if not recipe.mixup and not recipe.cutmix:
            return None
        np.random.seed(self.spec.seed)  # timm's Mixup draws from NumPy's global stream
        return Mixup(
            mixup_alpha=recipe.mixup, cutmix_alpha=recipe.cutmix, prob=recipe.mix_probability, switch_prob=recipe.mix_switch,
            label_smoothing=recipe.label_smoothing, num_classes=len(self.data.class_names),
        )  # fmt: skip

    def _smoothed(self, labels: Tensor) -> Tensor:
        smoothing = self.spec.recipe.label_smoothing
        if not smoothing or labels.ndim == 2:
            return labels
        classes = len(self.data.class_names)
        return F.one_hot(labels, classes) * (1 - smoothing) + smoothing / classes


def _is_broken(tensor: Tensor) -> bool:
    """Whether a trained tensor is not finite, or a buffer has NaN; infinity can be meant, as of a cluster that is not used."""
    return bool((~tensor.isfinite() if tensor.requires_grad else tensor.isnan()).any())
