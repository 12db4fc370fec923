"""The classifier that a backbone's weights were trained with, for methods that map its labels to those of a task.

A backbone is loaded without it. Where a method asks for it (``Method.needs_source_classifier``), it is read from the same file
and becomes a frozen part of the backbone, ``Backbone.source_classifier``: it moves with the model, is not trained and not saved
with a method's tensors, and counts in ``params_total``.
"""

from __future__ import annotations

import re
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from safetensors import safe_open
from torch import Tensor, nn

from vpbench.backbones.base import Backbone
from vpbench.backbones.fetch import on_this_machine
from vpbench.backbones.named import BackboneCard, backbone_card, backbone_names
from vpbench.backbones.remap import encoder_of, unwrapped
from vpbench.core.errors import UnsupportedError, WeightsError
from vpbench.core.names import counted
from vpbench.core.tensor_files import load_pickled, unfit_values
from vpbench.spec.run_spec import BackboneSpec

DEFAULT_CLASSES = 1000  # of timm's constructors, where nothing says how many there are

# A file's names for a classifier, without what wraps the encoder's: timm's and Google's in PyTorch, Swin's official and timm's,
# open_clip's with timm's tower, OpenAI's CLIP (the projection to the texts' space).
_HEAD = re.compile(
    r"(?:visual\.(?:trunk\.)?)?(?:(?P<head>head\.(?:fc\.|proj\.)?(?:weight|bias))|(?P<layer>pre_logits\.(?:fc\.)?(?:weight|bias))"
    r"|(?P<second>head_dist\.weight)|(?P<projection>proj))$"
)

Heads = dict[str, Tensor]
"""``weight`` (classes, width), ``bias`` (classes,) or none, ``layer.weight`` and ``layer.bias`` of a representation layer."""


def add_classifier(backbone: Backbone, spec: BackboneSpec, path: Path | None, seed: int = 0) -> None:
    """Give a backbone the classifier of its weights.

    Args:
        spec: of the backbone.
        path: its weight file; None for random weights, whose classifier is random, too, with as many classes as the architecture
            has of itself.
        seed: of a random one.

    Raises:
        UnsupportedError: when the weights have none, or one that does not read the backbone's features.
        WeightsError: when its values are not finite.
    """
    if path is None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            backbone.set_source_classifier(nn.Linear(backbone.feature_width, _own_classes(spec)))
    else:
        backbone.set_source_classifier(_module(read_heads(path), backbone.feature_width, path))


def add_empty_classifier(backbone: Backbone, spec: BackboneSpec, device: str) -> None:
    """The same without its values, to plan and to count: no file is fetched for it.

    Raises:
        UnsupportedError: when the weights are known to have none.
    """
    path = None if spec.weights == "random" else on_this_machine(spec)
    if path is not None:
        classifier = _module(read_heads(path), backbone.feature_width, path).to("meta").to_empty(device=device)
    else:
        classifier = nn.Linear(backbone.feature_width, _own_classes(spec), device=device)
    backbone.set_source_classifier(classifier)


def _own_classes(spec: BackboneSpec) -> int:
    """Classes that timm knows of weights that are not on this machine, or of an architecture."""
    card: BackboneCard | None = backbone_card(spec.name) if spec.name in backbone_names() else None
    architecture = spec.name if card is None else f"{card.timm}.{card.tag}" if card.tag else card.timm
    if architecture is None:
        return DEFAULT_CLASSES
    if spec.weights.startswith("hub:"):
        facts = timm.get_pretrained_cfg(architecture)
        if facts is not None and not facts.num_classes:
            raise UnsupportedError(_without(f"the weights {architecture}"))
    else:  # random weights, or an address: what the architecture says
        facts = timm.get_pretrained_cfg(architecture.split(".")[0])
    return int(facts.num_classes or DEFAULT_CLASSES) if facts is not None else DEFAULT_CLASSES


def _without(what: str) -> str:
    return f"this method uses the classifier that the backbone was pretrained with, and {what} have none."


def _module(heads: Heads, width: int, path: Path) -> nn.Module:
    """The classifier as a module on features (B, width).

    Raises:
        UnsupportedError: as :func:`add_classifier`.
        WeightsError: as :func:`add_classifier`.
    """
    if "second" in heads:
        raise UnsupportedError(f"this method uses one classifier of the backbone, and {path.name} has two, of a distilled model.")
    if "weight" not in heads:
        raise UnsupportedError(_without(f"the weights {path.name}"))
    if not heads["weight"].any():
        raise UnsupportedError(f"{_without(f'the weights {path.name}')[:-1]} (its tensors are there, and zero).")
    if reason := unfit_values({f"the classifier's {name}": tensor for name, tensor in heads.items()}):
        raise WeightsError(f"{path}: {reason}. Name another file with --weights.")
    for name in ("weight", "layer.weight"):
        if name in heads and heads[name].ndim != 2:
            raise WeightsError(f"{path}: the classifier's {name} has {counted(heads[name].ndim, 'dimension')} instead of 2.")
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    if "layer.weight" in heads:
        layers["fc"], layers["act"] = _linear(heads["layer.weight"], heads.get("layer.bias")), nn.Tanh()
    layers["head"] = _linear(heads["weight"], heads.get("bias"))
    first: Any = next(iter(layers.values()))
    if first.in_features != width:
        raise UnsupportedError(
            f"this method uses the backbone's own classifier: that of {path.name} reads {first.in_features} features, and the"
            f" backbone gives {width}."
        )
    return layers["head"] if len(layers) == 1 else nn.Sequential(layers)


def _linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    with torch.random.fork_rng(devices=[]):
        linear = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None)
    with torch.no_grad():
        linear.weight.copy_(weight)
        if bias is not None:
            linear.bias.copy_(bias)
    return linear


def read_heads(path: Path) -> Heads:
    """The tensors of a classifier in a weight file; of a safetensors file, nothing else is read."""
    if path.suffix == ".npz":
        return _google(path)
    with _opened(path) as (names, tensor):
        return _named(names, tensor)


@contextmanager
def _opened(path: Path) -> Iterator[tuple[list[str], Callable[[str], Tensor]]]:
    """A file's names, and how to read one of its tensors."""
    if path.suffix == ".safetensors":
        with safe_open(path, "pt") as content:
            yield list(content.keys()), content.get_tensor
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        state = unwrapped(load_pickled(path))
    yield list(state), lambda name: state[name]


def _named(names: Iterable[str], tensor: Callable[[str], Tensor]) -> Heads:
    """By what they are, under the names of this module."""
    encoder, _ = encoder_of({name: name for name in names})
    heads: Heads = {}
    for own, name in encoder.items():
        found = _HEAD.match(own)
        if found is None:
            continue
        part = own.rpartition(".")[2]
        if found["head"]:
            heads[part] = tensor(name).float()
        elif found["layer"]:
            heads[f"layer.{part}"] = tensor(name).float()
        elif found["projection"] and own != "proj":
            heads["weight"] = tensor(name).float().T  # x @ proj
        elif found["second"]:
            heads["second"] = tensor(name)
    return heads


def _google(path: Path) -> Heads:
    """Google's names; a file of JAX keeps its kernels as (inputs, outputs)."""
    with np.load(path, allow_pickle=False) as archive:
        prefix = "opt/target/" if "opt/target/embedding/kernel" in archive.files else ""
        names = {
            f"{prefix}head/kernel": "weight", f"{prefix}head/bias": "bias",
            f"{prefix}pre_logits/kernel": "layer.weight", f"{prefix}pre_logits/bias": "layer.bias",
        }  # fmt: skip
        found = {part: torch.from_numpy(archive[name]).float() for name, part in names.items() if name in archive.files}
    return {part: tensor.T.contiguous() if part.endswith("weight") else tensor for part, tensor in found.items()}
