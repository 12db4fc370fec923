"""Checkpoints: a run is paused in the middle of its training and resumed later, with the same numbers.

A method's ``phases`` are a Python function, which cannot be entered in its middle. It is called again from the beginning, and
its trainings are replayed: one that had ended returns its final state at once, and the one that was running resumes at its
step. What a method does between trainings (validate, score, prune) is repeated from the same state, with the same result.
"""

from __future__ import annotations

import copy
import io
import math
import random
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vpbench.core.errors import StoreError
from vpbench.models.prompted import PromptedModel
from vpbench.store.store import Store

FORMAT = 1  # of the file; others are not read

State = dict[str, Any]


class UnusableCheckpointError(Exception):
    """A checkpoint lacks something, or has something that does not fit the run."""


class Paused(BaseException):  # not an Exception, so that no method takes it for an error of its own
    """The run was asked to stop, and its checkpoint is written."""


@dataclass
class Training:
    """One training under way: what its loop carries from step to step, apart from the optimizer.

    Attributes:
        epoch: from 0.
        step: steps done in this epoch.
        losses: of those steps.
        best: accuracy and tensors of the best epoch on validation data so far.
        order: state of the data's generator when the epoch began.
        average: of the trained tensors, where the recipe asks for it.
    """

    epoch: int = 0
    step: int = 0
    losses: list[Tensor] = field(default_factory=list)
    best: tuple[float, dict[str, Tensor]] | None = None
    order: Tensor | None = None
    average: list[Tensor] | None = None

    def next_epoch(self) -> None:
        self.epoch, self.step, self.losses, self.order = self.epoch + 1, 0, [], None

    def state(self) -> State:
        return {**vars(self), "losses": torch.stack(self.losses)}

    @classmethod
    def of(cls, state: State, device: torch.device) -> Training:
        average = None if state["average"] is None else [value.to(device) for value in state["average"]]
        return cls(**{**state, "losses": list(state["losses"].to(device)), "average": average})


class Checkpoints:
    """A run's checkpoint: read at the start, replayed, and written when it is due. Without a store, nothing of that.

    Args:
        store: its results folder keeps the file, until the run's row is written.
        run_id: of the run.
        identity: what has to be the same to resume, e.g. versions of the code.
        every_s: seconds between two checkpoints; None writes one only when the run is paused.
        paused: whether the run is to pause as soon as possible.
        note: called with one sentence, that a run resumes or why it cannot.
    """

    def __init__(
        self, store: Store | None = None, run_id: str = "", identity: Mapping[str, str] | None = None,
        every_s: float | None = None, paused: Callable[[], bool] = lambda: False, note: Callable[[str], None] = lambda text: None,
    ) -> None:  # fmt: skip
        self._store, self._run_id, self._every_s, self._paused, self._note = store, run_id, every_s, paused, note
        self._identity = {"format": str(FORMAT), **(identity or {})}
        found = self._read() or {"elapsed_s": 0.0, "ended": [], "now": None}
        self._ended: list[State] = found["ended"]
        self._now: State | None = found["now"]
        self._replayed = 0
        self._before_s: float = found["elapsed_s"]
        self._began = self._written = time.monotonic()

    @property
    def elapsed_s(self) -> float:
        """Seconds spent on the run, all attempts together, as far as their checkpoints were written."""
        return self._before_s + time.monotonic() - self._began

    @property
    def resumes(self) -> bool:
        """Whether an earlier attempt has left a state."""
        return self._before_s > 0

    def replayed(self) -> State | None:
        """The state after the training that begins now, if that had ended before the checkpoint."""
        if self._replayed == len(self._ended):
            return None
        self._replayed += 1
        return self._ended[self._replayed - 1]

    def under_way(self) -> State | None:
        """The state in the middle of the training that begins now, if the checkpoint is from there."""
        return self._now

    def ended(self, state: State) -> None:
        """A training has ended."""
        self._ended.append(state)
        self._replayed, self._now = len(self._ended), None

    def may_pause(self, now: Callable[[], State] | None = None) -> None:
        """Called where a run can pause: writes a checkpoint if one is due.

        Args:
            now: gives the state of the training under way, if there is one.

        Raises:
            Paused: after that, when the run is to pause.
        """
        pausing = self._paused()
        if pausing or (self._every_s is not None and time.monotonic() > self._written + self._every_s):
            self._now = now() if now else self._now
            self._write()
        if pausing:
            raise Paused

    def _write(self) -> None:
        """A checkpoint that cannot be written (a full disk) costs time later, not the run."""
        self._written = time.monotonic()
        if self._store is None:
            return
        content, file = {"elapsed_s": self.elapsed_s, "ended": self._ended, "now": self._now}, io.BytesIO()
        torch.save({"identity": self._identity, **content}, file)
        try:
            self._store.write_checkpoint(self._run_id, file.getvalue())
        except StoreError as error:
            self._note(f"no checkpoint of run {self._run_id[:8]}: {error}")

    def _read(self) -> State | None:
        if self._store is None:
            return None
        path = self._store.checkpoint_path(self._run_id)
        try:
            content = self._store.read_checkpoint(self._run_id)
            if content is None:
                return None
            with zipfile.ZipFile(io.BytesIO(content)) as archive:
                if archive.testzip():  # for files without a checksum of ours: torch does not look whether values have changed
                    raise ValueError("its checksum does not fit")
            found: State = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
            theirs, seconds = dict(found["identity"]), float(found["elapsed_s"])
            if not isinstance(found["ended"], list) or not 0 <= seconds < math.inf or "now" not in found:
                raise ValueError("it is no state of a run")
        except StoreError:
            raise
        except Exception as error:  # of pickle and torch, whatever is wrong with the file
            self._note(f"{path} is no readable checkpoint ({' '.join(str(error).split())[:100]}); the run starts again.")
            return None
        for name, ours in self._identity.items():
            if theirs.get(name) != ours:
                self._note(f"{path} is of another {name} ({theirs.get(name)}, now {ours}); the run starts again.")
                return None
        self._note(f"run {self._run_id[:8]} resumes from its checkpoint, {seconds:.0f} s after its start.")
        return found

    def forget(self, error: Exception) -> None:
        """Removes a checkpoint that turned out to be of no use, so that the run starts again."""
        if self._store is not None:
            self._store.remove_checkpoint(self._run_id)
            what = " ".join(str(error).split())[:100]
            self._note(f"the checkpoint of run {self._run_id[:8]} does not fit ({what}); the run starts again.")


@contextmanager
def usable() -> Iterator[None]:
    """Context manager around what restores a state from a checkpoint.

    Raises:
        UnusableCheckpointError: for whatever goes wrong in the block.
    """
    try:
        yield
    except (MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        raise UnusableCheckpointError(f"{type(error).__name__}: {error}") from error


def state_of(model: PromptedModel, order: torch.Generator) -> State:
    """Everything in a model and its method that training may change, and the state of all random generators.

    Args:
        order: the data's generator.
    """
    kind, words, *rest = np.random.get_state()
    return {
        "tensors": {name: tensor.detach().to("cpu", copy=True) for name, tensor in _changing(model).items()},
        "method": copy.deepcopy({name: value for name, value in vars(model.method).items() if _is_plain(value)}),
        "order": order.get_state(),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else [],
        "numpy": (kind, np.asarray(words).tolist(), *rest),
        "python": random.getstate(),
    }


def load_state(model: PromptedModel, order: torch.Generator, state: State) -> None:
    """Put everything of :func:`state_of` back."""
    with torch.no_grad():
        for name, tensor in _changing(model).items():
            tensor.copy_(state["tensors"][name])
    vars(model.method).update(copy.deepcopy(state["method"]))
    order.set_state(state["order"])
    torch.set_rng_state(state["torch"])
    if state["cuda"]:
        torch.cuda.set_rng_state_all(state["cuda"])
    np.random.set_state(state["numpy"])
    random.setstate(state["python"])


def _changing(model: PromptedModel) -> dict[str, Tensor]:
    """The tensors that a row's weights are made of, and buffers that are not saved there, such as running sums."""
    return {
        **dict(model.own_tensors()),
        **{f"own.{name}": buffer for name, buffer in model.own.named_buffers()},
        **{f"head.{name}": buffer for name, buffer in model.head.named_buffers()},
    }


def _is_plain(value: Any) -> bool:
    """Whether a method's attribute is a value, which may change, and not a part of it, which does not."""
    if type(value) in (list, tuple, set):  # and not of a kind of its own, which could not be read back
        return all(map(_is_plain, value))
    if type(value) is dict:
        return all(map(_is_plain, [*value, *value.values()]))
    return value is None or type(value) in (bool, int, float, str)
