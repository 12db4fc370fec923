"""The activation cache: what a frozen prefix makes of images is computed once per machine and read by later runs.

A file holds the activations of one batch. Its name is a hash of everything they depend on, down to the size of the batch and the
kernel, since rounding depends on these too: what is read is bit by bit what would be computed. Trials of a search, seeds and
methods share files; so do splits that begin with the same images.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vpbench.backbones.named import backbone_card, backbone_names
from vpbench.core.checksums import SEAL_LENGTH
from vpbench.core.hashing import digest, file_sha256
from vpbench.data.batches import Normaliser
from vpbench.data.cache import CachedSplit
from vpbench.data.caches import activation_store
from vpbench.models.prompted import PromptedModel
from vpbench.spec.device import describe
from vpbench.spec.precision import autocast
from vpbench.spec.run_spec import RunSpec
from vpbench.store.claims import Claims
from vpbench.training.memory import in_pieces

VERSION = 1  # of the files
SOURCES = (  # the code that computes activations
    "backbones/*.py", "interface/*.py", "models/*.py", "data/batches.py", "spec/precision.py"
)  # fmt: skip
ALIGNMENT = 64  # bytes, as torch's own tensors


class ActivationCache:
    """Activations of one model's frozen blocks for whole splits.

    Args:
        model: on the normaliser's device.
        spec: its backbone and precision are part of a file's name.
        normalise: from stored bytes to the network's input.
    """

    def __init__(self, model: PromptedModel, spec: RunSpec, normalise: Normaliser) -> None:
        self._model, self._spec, self._normalise = model, spec, normalise
        self._store = activation_store()

    def keeps(self, split: CachedSplit, size: int) -> bool:
        """Whether ``size`` bytes of a split are worth their place on the disk."""
        return _is_known(split) and size <= self._store.limit // 4

    def of(self, split: CachedSplit, batch_size: int, kind: str, compute: Callable[[Tensor], Tensor]) -> Tensor:
        """What ``compute`` makes of the images of a split without augmentation, in their order: (n, ...), on the CPU.

        It is given ``batch_size`` images at a time, normalised and on the device. One process computes what is missing; others
        that want the same split wait for it.

        Args:
            kind: names what is computed, with everything it depends on besides backbone, precision and images.
        """
        batches = [np.arange(start, min(start + batch_size, len(split))) for start in range(0, len(split), batch_size)]
        if not _is_known(split) or not self._store.limit:
            return torch.cat([piece for batch in batches for piece in self._computed(split, batch, compute)])
        what = [VERSION, kind, self._conditions(), split.prepared]
        keys = [digest([what, list(split.identities[batch[0] : batch[-1] + 1])]) for batch in batches]
        if all(map(self._store.holds, keys)):
            return torch.cat([piece for pair in zip(keys, batches) for piece in self._batch(split, *pair, compute)])
        with Claims(self._store.folder).alone(digest(keys)):
            pieces = [piece for pair in zip(keys, batches) for piece in self._batch(split, *pair, compute)]
            self._store.evict()
        return torch.cat(pieces)

    def _batch(self, split: CachedSplit, key: str, batch: Any, compute: Callable[[Tensor], Tensor]) -> list[Tensor]:
        """The activations of one batch, from the disk or computed and written there."""
        if (content := self._store.read(key)) is not None:
            return [_decoded(content)]
        pieces = self._computed(split, batch, compute)
        if len(pieces) == 1:  # where memory is short, a batch goes through in pieces, which are rounded otherwise
            self._store.write(key, _encoded(pieces[0]))
        return pieces

    def _computed(self, split: CachedSplit, batch: Any, compute: Callable[[Tensor], Tensor]) -> list[Tensor]:
        with autocast(self._spec.precision, self._normalise.device.type):
            return [piece.detach().cpu() for piece in in_pieces(compute, self._normalise(split.take(batch)))]

    def _conditions(self) -> dict[str, Any]:
        """What activations depend on besides images and the number of blocks."""
        name, backbone = self._spec.backbone.name, self._model.backbone
        card = backbone_card(name).model_dump(mode="json") if name in backbone_names() else None
        machine = describe(self._normalise.device)
        names = ("torch", "timm", "platform", "device", "device_name", "threads")
        return {
            "backbone": self._spec.backbone.model_dump(mode="json", exclude={"path"}),
            "weights": backbone.weights_sha256,
            "card": card,
            "precision": self._spec.precision,
            "kernel": [backbone.linear_kernel, backbone.skip_unused],
            "code": _code(),
            "cuda": [torch.version.cuda, torch.backends.cudnn.version()] if machine["device"] == "cuda" else None,
            **{each: machine[each] for each in names},
        }


def _is_known(split: CachedSplit) -> bool:
    """Whether a split's identities say what its images are: not where it changes them when they are taken, as noise does."""
    return bool(split.identities) and type(split).take is CachedSplit.take


@cache
def _code() -> str:
    """Hash of the code that computes activations, so that a change of it never meets what it computed before."""
    root = Path(__file__).resolve().parents[1]
    files = sorted(file for source in SOURCES for file in root.glob(source))
    return digest([[file.name, file_sha256(file)] for file in files])


def _encoded(tensor: Tensor) -> bytes:
    """A line of JSON with type and shape, padded so that the values behind it are aligned in the file, and the values."""
    header = json.dumps({"dtype": str(tensor.dtype).removeprefix("torch."), "shape": list(tensor.shape)})
    padding = -(SEAL_LENGTH + len(header) + 1) % ALIGNMENT
    values = tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
    return f"{header}{' ' * padding}\n".encode() + values


def _decoded(content: memoryview) -> Tensor:
    header, _, _ = bytes(content[:256]).partition(b"\n")
    facts = json.loads(header)
    return torch.frombuffer(content, dtype=getattr(torch, facts["dtype"]), offset=len(header) + 1).reshape(facts["shape"])
