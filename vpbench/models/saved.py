"""A trained model as one file, and the model from the file.

A tested run leaves a safetensors file with everything that training changed. Tensors of the backbone have timm's names
(``blocks.11.attn.qkv.weight``), the head's begin with ``head.``, the method's own with ``own.``. The metadata describe the model,
each entry as JSON: ``method`` with all options, ``backbone`` with the SHA-256 of its weights, ``class_names``, ``preprocess``,
``data``, ``run_id``, ``precision`` and ``versions``; ``sha256`` is a checksum (``vpbench.core.tensor_digest``).
:func:`load_saved` puts all of it together.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from vpbench.backbones.find_weights import find_weights
from vpbench.core.cards import first_error
from vpbench.core.errors import StoreError
from vpbench.core.frozen_model import FrozenModel
from vpbench.core.tensor_digest import checked_metadata, with_digest
from vpbench.core.tensor_files import unfit_values
from vpbench.core.version import __version__
from vpbench.data.decoding import EACH_ALONE, WhiteLevels
from vpbench.data.image_transform import ImageTransform
from vpbench.models.build import build_model
from vpbench.models.prompted import PromptedModel
from vpbench.models.registry import current_options, method_class
from vpbench.spec.precision import autocast, float32_products
from vpbench.spec.run_spec import BackboneSpec, DataSpec, MethodSpec, Precision, Preprocess, RunSpec, TaskSpec

PARTS = ("own.", "head.", "backbone.")  # of a model, by the beginnings of its tensors' names; files of timm's names lack the last
AGAIN = "Run it again with --save weights."
COPY_AGAIN = "Copy it again, or run it again with --save weights."  # of a file that somebody names


class Description(FrozenModel):
    """What a file says of its model.

    Attributes:
        levels: what became 255 in training images of more than 8 bits per sample.
        versions: of vpbench, torch and timm that wrote the file.
    """

    run_id: str
    method: MethodSpec
    backbone: BackboneSpec
    class_names: tuple[str, ...]
    preprocess: Preprocess
    data: DataSpec
    precision: Precision
    levels: WhiteLevels = EACH_ALONE
    versions: dict[str, str]
    task: TaskSpec = TaskSpec()

    @classmethod
    def of(
        cls, spec: RunSpec, model: PromptedModel, class_names: Iterable[str], levels: WhiteLevels | None = None
    ) -> Description:  # fmt: skip
        """Of a run's model."""
        return cls(
            run_id=spec.run_id, method=spec.method, preprocess=spec.preprocess, class_names=tuple(class_names),
            levels=levels or EACH_ALONE,
            backbone=spec.backbone.model_copy(update={"path": None, "sha256": model.backbone.weights_sha256}),
            data=spec.data.model_copy(update={"path": None}), precision=spec.precision,
            versions={"vpbench": __version__, "torch": str(torch.__version__), "timm": timm.__version__}, task=spec.task,
        )  # fmt: skip

    def metadata(self) -> dict[str, str]:
        """As safetensors keeps it."""
        values = self.model_dump(mode="json", exclude={"backbone": {"path"}, "data": {"path"}, "method": {"hashed_names"}})
        if self.data.hub is None:
            del values["data"]["hub"]
        if self.levels == EACH_ALONE:
            del values["levels"]
        if self.task == TaskSpec():
            del values["task"]
        return {"format": "pt", **{name: json.dumps(value, sort_keys=True) for name, value in values.items()}}

    @classmethod
    def read(cls, metadata: Mapping[str, str]) -> Description:
        """From a file's metadata.

        Raises:
            ValueError: when they are no description of a model, or that of a later vpbench.
        """
        return cls.model_validate({name: json.loads(text) for name, text in metadata.items() if name != "format"})


@dataclass(frozen=True)
class SavedFile:
    """The content of a file.

    Attributes:
        tensors: by the model's names, as the method packs them; of the earliest versions, those of the backbone are numbered.
        description: of the model; None in files of versions that wrote none.
    """

    tensors: dict[str, Tensor]
    description: Description | None


class TrainedModel(nn.Module):
    """A trained model in evaluation mode, which maps images (B, 3, S, S), as ``transform`` makes them, to logits (B, classes).

    It computes in the precision of its run, so that predictions are those of the run's test.

    Attributes:
        model: backbone, method and head.
        description: of the model: method, backbone, data, preprocessing.
        transform: from an image (a path, bytes, PIL image or uint8 array) to (3, S, S).
    """

    def __init__(self, model: PromptedModel, description: Description) -> None:
        super().__init__()
        self.model, self.description = model, description
        self.transform = ImageTransform(description.preprocess, description.backbone, description.levels)
        self.eval()

    @property
    def class_names(self) -> tuple[str, ...]:
        """Of class id 0, 1, ..."""
        return self.description.class_names

    def forward(self, images: Tensor) -> Tensor:
        precision = self.description.precision
        with float32_products(precision), autocast(precision, images.device.type):
            logits: Tensor = self.model(images)
        return logits.float()


def packed_tensors(model: PromptedModel) -> dict[str, Tensor]:
    """Everything that training may change, as the method packs it, on the CPU."""
    packed = model.method.pack({name: tensor.detach() for name, tensor in model.own_tensors()})
    return {name: tensor.cpu().contiguous() for name, tensor in packed.items()}


def encode_model(model: PromptedModel, description: Description) -> bytes:
    """The file of a trained model, with the same bytes in every process."""
    tensors = {name.removeprefix("backbone."): tensor for name, tensor in packed_tensors(model).items()}
    return with_digest(save(tensors, description.metadata()))


def decode_model(content: bytes, path: Path, way_out: str = AGAIN) -> SavedFile:
    """What is in a file.

    Args:
        path: of the file, for messages.
        way_out: of a damaged file, a sentence.

    Raises:
        StoreError: when it is damaged, or of a later vpbench.
    """
    try:
        tensors = load(content)
        metadata = checked_metadata(content)
    except (SafetensorError, ValueError, KeyError) as error:
        raise StoreError(f"{path} cannot be read: {str(error).splitlines()[0]}. {way_out}") from error
    named = {name if name.startswith(PARTS) else f"backbone.{name}": tensor for name, tensor in tensors.items()}
    return SavedFile(named, _description(metadata, path, way_out) if "method" in metadata else None)


def _description(metadata: Mapping[str, str], path: Path, way_out: str) -> Description:
    try:
        return Description.read(metadata)
    except ValueError as error:
        reason = first_error(error) if isinstance(error, ValidationError) else str(error)
        raise StoreError(
            f"{path}: its description is damaged or of a later vpbench than {__version__} ({reason}). {way_out}"
        ) from error


def restore(model: PromptedModel, saved: SavedFile, path: Path) -> None:
    """Give a freshly built model the values of a file.

    Args:
        path: of the file, for messages.

    Raises:
        StoreError: when a tensor is missing, surplus, of another shape, or not finite; the model is as before then.
    """
    # Files of the earliest versions number the tensors that were trained in the backbone.
    numbered = {f"backbone.{index}": f"backbone.{name}" for index, name in enumerate(model.scope.trained)}
    tensors = model.method.unpack({numbered.get(name, name): tensor for name, tensor in saved.tensors.items()})
    wanted = {name: tuple(tensor.shape) for name, tensor in model.own_tensors()}
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if wanted != found:
        name = sorted(dict(set(wanted.items()) ^ set(found.items())))[0]
        raise StoreError(
            f"{path} does not fit {type(model.method).title} as it is now: '{name}' has shape {found.get(name, 'none')} in the "
            f"file and {wanted.get(name, 'none')} in the model. Run it again."
        )
    if reason := unfit_values({name: tensor for name, tensor in tensors.items() if tensor.is_floating_point()}):
        raise StoreError(f"{path}: {reason}. {AGAIN}")
    model.restore(tensors)


def load_saved(
    path: str | Path, weights: str | Path | None = None, device: torch.device | str = "cpu", way_out: str = COPY_AGAIN
) -> TrainedModel:
    """A trained model from its file alone: backbone, method, options and head as the run left them.

    Args:
        path: of a file of trained weights.
        weights: file or folder of the backbone's weights, where they are not in their usual place.
        device: where the model ends up.
        way_out: of a damaged file, a sentence.

    Raises:
        StoreError: when the file is missing, damaged, without a description, or of another version of the method.
        WeightsError: when the backbone's weights are not on this machine, or are others than the run's.
        UsageError: for a method that is not installed.
    """
    path = Path(path)
    try:
        saved = decode_model(path.read_bytes(), path, way_out)
    except OSError as error:
        raise StoreError(f"{path} cannot be read: {error.strerror or error}.") from error
    return model_of(saved, path, weights, device)


def model_of(
    saved: SavedFile, path: Path, weights: str | Path | None = None, device: torch.device | str = "cpu",
    last_seen: str | None = None,
) -> TrainedModel:  # fmt: skip
    """The model of a file's content, see :func:`load_saved`.

    Args:
        last_seen: where the backbone's weights were when the run was done, if a row says so.
    """
    if (description := saved.description) is None:
        raise StoreError(f"{path} does not say which model it is of, like files of earlier versions. {AGAIN}")
    return described_model(description, path, lambda model: restore(model, saved, path), weights, device, last_seen)


def described_model(
    description: Description, path: Path, fill: Callable[[PromptedModel], None], weights: str | Path | None = None,
    device: torch.device | str = "cpu", last_seen: str | None = None,
) -> TrainedModel:  # fmt: skip
    """The model that a file describes, see :func:`load_saved`.

    Args:
        path: of the file, for messages.
        fill: gives the freshly built model its trained values.
        last_seen: where the backbone's weights were when the run was done, if a row says so.
    """
    method = _present_method(description.method, path)
    backbone = find_weights(description.backbone.model_copy(update={"path": last_seen}), weights)
    with torch.random.fork_rng(devices=[]):  # first values are drawn, and then replaced
        model = build_model(method, backbone, len(description.class_names), device, description.task)
    fill(model)
    model.backbone.use_fastest_kernels(torch.device(device).type, description.precision)  # as in training
    return TrainedModel(model, description)


def _present_method(method: MethodSpec, path: Path) -> MethodSpec:
    """The method with its options by their present names.

    Raises:
        StoreError: when it is another version of the method, or has other options now.
    """
    kind = method_class(method.name)
    if method.version != kind.version:
        raise StoreError(f"{path} is of {method.label}, version {method.version}, and here is version {kind.version}. {AGAIN}")
    try:
        config: Any = kind.Config.model_validate(current_options(method.name, method.config))
    except ValidationError as error:
        raise StoreError(f"{path}: options of {method.label} do not fit ({first_error(error)}). {AGAIN}") from error
    return method.model_copy(update={"config": config.model_dump(mode="json")})
