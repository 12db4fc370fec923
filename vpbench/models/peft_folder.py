"""A trained method as a folder of the library peft, ``adapter_config.json`` and ``adapter_model.safetensors``, and back.

``peft.PeftModel.from_pretrained(model, folder)`` loads it on the plain timm model with a classifier of as many classes, whose
values are in the folder too. Writing and reading needs no peft, apart from the methods that do.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from vpbench.core.errors import StoreError, UnsupportedError
from vpbench.core.tensor_digest import checked_metadata, with_digest
from vpbench.core.tensor_files import unfit_values, why_unreadable
from vpbench.interface import PEFT_PREFIX, PeftAdapter
from vpbench.models.prompted import PromptedModel
from vpbench.models.saved import Description, TrainedModel, described_model

CONFIG_FILE, TENSOR_FILE = "adapter_config.json", "adapter_model.safetensors"


def write_adapter(model: PromptedModel, folder: Path, base_model: str | None = None) -> None:
    """Write a model's method and head as an adapter of peft's.

    Args:
        model: not merged.
        folder: that exists.
        base_model: what the adapter's configuration calls the frozen model.

    Raises:
        UnsupportedError: when the method is no such adapter, or its head no linear layer.
    """
    if type(model.head) is not nn.Linear:
        raise UnsupportedError(f"{model.method.title} has no linear head, and an adapter of peft is exported with one.")
    adapter = model.method.to_peft(model.scope)
    classifier = _classifier(model)
    saved = [*(adapter.config.get("modules_to_save") or ()), classifier]
    config = {**adapter.config, "base_model_name_or_path": base_model, "modules_to_save": saved, "task_type": None}
    tensors = {**adapter.tensors, **{f"{PEFT_PREFIX}{classifier}.{name}": each for name, each in model.head.named_parameters()}}
    content = save({name: each.detach().cpu().contiguous() for name, each in tensors.items()}, {"format": "pt"})
    (folder / TENSOR_FILE).write_bytes(with_digest(content))
    (folder / CONFIG_FILE).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def read_adapter(model: PromptedModel, folder: Path) -> None:
    """Give a model the values of an adapter of peft's, and those of its head where the folder has them.

    Args:
        model: with the method ``lora`` or ``peft``, of options that fit.
        folder: as peft or :func:`write_adapter` wrote it.

    Raises:
        StoreError: when a file is missing or damaged.
        UsageError: when the adapter does not fit the method's options or the backbone.
        UnsupportedError: when the method is no adapter of peft's.
    """
    config, tensors = read_config(folder), _tensors(folder / TENSOR_FILE)
    names = {name: f"{PEFT_PREFIX}{_classifier(model)}.{name}" for name in ("weight", "bias")}
    head = {name: tensors.pop(stored) for name, stored in names.items() if stored in tensors}
    shapes = {name: tuple(each.shape) for name, each in model.head.named_parameters()}
    if head and {name: tuple(each.shape) for name, each in head.items()} != shapes:
        raise StoreError(
            f"{folder / TENSOR_FILE}: its classifier is for {len(head['weight'])} classes, the model for another number."
        )
    model.method.load_peft(PeftAdapter(config, tensors), model.scope)
    if head:
        model.head.load_state_dict(head)
    model.method.restored()


def load_adapter(
    folder: Path, weights: str | Path | None = None, device: torch.device | str = "cpu"
) -> TrainedModel:  # fmt: skip
    """A trained model from a folder of ``vpbench export --to peft``, whose ``config.json`` describes it.

    Raises:
        StoreError, UsageError: as of :func:`read_adapter`; or for a folder that peft alone wrote.
        WeightsError: when the backbone's weights are not on this machine, or are others than the run's.
    """
    path = folder / "config.json"
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        description = Description.model_validate({name: found[name] for name in Description.model_fields if name in found})
    except OSError as error:
        raise StoreError(
            f"{folder} is an adapter of peft's without vpbench's config.json: build a model with the method 'peft' and its"
            f" {CONFIG_FILE}, and give it the values with vpbench.models.peft_folder.read_adapter."
        ) from error
    except (ValueError, TypeError) as error:
        raise StoreError(f"{path} does not describe a model of vpbench: {str(error).splitlines()[0]}.") from error
    return described_model(description, path, lambda model: read_adapter(model, folder), weights, device)


def read_config(folder: Path) -> dict[str, Any]:
    """The content of a folder's ``adapter_config.json``.

    Raises:
        StoreError: when it is missing or damaged.
    """
    path = folder / CONFIG_FILE
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise StoreError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}.") from error
    if not isinstance(found, dict) or "peft_type" not in found:
        raise StoreError(f"{path} is no configuration of peft's: it has no peft_type.")
    return found


def _tensors(path: Path) -> dict[str, Tensor]:
    try:
        content = path.read_bytes()
        found: dict[str, Tensor] = load(content)
        checked_metadata(content)
    except OSError as error:
        raise StoreError(f"{path} cannot be read: {error.strerror or error}.") from error
    except SafetensorError as error:
        raise StoreError(f"{path} {why_unreadable(path)}.") from error
    except (ValueError, KeyError) as error:
        raise StoreError(f"{path} cannot be read: {str(error).splitlines()[0]}. Copy it again.") from error
    if reason := unfit_values({name: each for name, each in found.items() if torch.is_floating_point(each)}):
        raise StoreError(f"{path}: {reason}.")
    return found


def _classifier(model: PromptedModel) -> str:
    """timm's name of the classifier of a model's backbone."""
    config: Any = getattr(model.backbone.timm_model, "pretrained_cfg", None) or {}
    name = config.get("classifier") or "head"
    return name if isinstance(name, str) else name[0]
