"""Stored models, put together again: the backbone, the method and the tensors that a run left with ``--save weights``."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file

from vpbench.backbones.named import backbone_card, resolve_backbone
from vpbench.core.cards import first_error, packaged_file
from vpbench.core.errors import DataError, StoreError, WeightsError
from vpbench.data.cache import CachedData, prepare
from vpbench.data.catalog import dataset_card
from vpbench.data.places import data_root
from vpbench.data.raw import RawData
from vpbench.data.sources import open_dataset, open_path
from vpbench.models.build import build_model
from vpbench.models.prompted import PromptedModel
from vpbench.planning.suites import CUSTOM_SUITE, apply_protocol, suite_card
from vpbench.spec.run_spec import BackboneSpec, RunSpec
from vpbench.store.artefacts import ARTEFACTS
from vpbench.store.store import Store


@dataclass(frozen=True)
class StoredModel:
    """A trained model as a run left it, in evaluation mode, with its data set.

    Attributes:
        spec: of the run, with the paths of this machine filled in.
        model: on the device asked for.
        data: the data set, decoded; its digest is the run's.
    """

    spec: RunSpec
    model: PromptedModel
    data: CachedData


def has_weights(store: Store, run_id: str) -> bool:
    """Whether a run left its trained tensors."""
    return store.artefact_path(run_id, ARTEFACTS["weights"]).exists()


def load_stored(
    row: Mapping[Any, Any],
    store: Store,
    device: torch.device | str = "cpu",
    raw: RawData | None = None,
    backbone: BackboneSpec | None = None,
) -> StoredModel:
    """The model that a row describes, without any training.

    Args:
        row: of the store; ``run_id``, ``row`` or ``method``, and ``spec`` are read.
        store: holds the run's tensors.
        device: where the model ends up.
        raw: the data set where it is open already; otherwise it is looked for, see :func:`open_data`.
        backbone: the run's, where the path of its weights is known already; otherwise it is looked for.

    Raises:
        StoreError: when the run left no tensors, or those do not fit the model that its specification describes.
        WeightsError: when the backbone's weights are not on this machine, or are other ones.
        DataError: when the data set is not on this machine, or is another version.
    """
    spec = stored_spec(row)
    tensors = _tensors(row, store)
    raw = raw if raw is not None else open_data(spec)
    backbone = backbone if backbone is not None else find_weights(spec.backbone)
    model = build_model(spec.method, backbone, len(raw.class_names), device)
    _restore(model, tensors, row, store)
    model.backbone.use_fastest_kernels(torch.device(device).type, spec.precision)  # as in training
    data = prepare(raw, spec.preprocess, backbone.image_size)
    return StoredModel(spec.model_copy(update={"backbone": backbone}), model.eval(), data)


def stored_spec(row: Mapping[Any, Any]) -> RunSpec:
    """The specification in a row.

    Raises:
        StoreError: when this version of vpbench does not understand it.
    """
    try:
        return RunSpec.model_validate(json.loads(row["spec"]))
    except ValidationError as error:
        raise StoreError(
            f"run {row['run_id']} was described by another version of vpbench ({first_error(error)}); run it again."
        ) from error
    except (TypeError, ValueError) as error:
        raise StoreError(f"run {row['run_id']} has no readable specification; run it again.") from error


def find_weights(backbone: BackboneSpec) -> BackboneSpec:
    """The backbone with the path of its weights on this machine.

    Raises:
        WeightsError: when they are not there, or are others than the run's.
    """
    if backbone.weights == "random":
        return backbone
    if backbone.weights == "embedded" and (file := backbone_card(backbone.name).file):
        # Whatever VPBENCH_WEIGHTS names; loading checks the hash.
        return backbone.model_copy(update={"path": str(packaged_file("backbones", file))})
    found = resolve_backbone(backbone.name, None, backbone.image_size, backbone.patch_size)
    if found.weights != backbone.weights or (backbone.sha256 and found.sha256 and found.sha256 != backbone.sha256):
        raise WeightsError(
            f"the stored run used weights '{backbone.weights}' of {backbone.name}"
            f"{f' with sha256 {backbone.sha256[:8]}...' if backbone.sha256 else ''}, and here are '{found.weights}'"
            f"{f' with {found.sha256[:8]}...' if found.sha256 else ''}: let VPBENCH_WEIGHTS name the run's file."
        )
    return backbone.model_copy(update={"path": found.path})


def open_data(spec: RunSpec) -> RawData:
    """The data set of a run, opened again: a known one by its card, a user's own by its name below the data root.

    Raises:
        DataError: when it is not there, or its digest is not the run's.
    """
    name, suite = spec.data.dataset, spec.data.suite
    card = suite_card(suite)
    if suite == CUSTOM_SUITE or name in card.data:
        path = Path(card.data.get(name) or _own_data(name, data_root()))
        raw, place = open_path(path), str(path)
    else:
        raw, place = open_dataset(dataset_card(name)), name
    raw = apply_protocol(raw, card, spec.stage)
    if raw.digest != spec.data.digest:
        raise DataError(f"{place} is not the data that the stored run saw (its digest differs); run it again on this data.")
    return raw


def _own_data(name: str, root: Path) -> Path:
    """A user's own images, which a row knows by name only."""
    for path in (root / name, root / f"{name}.parquet"):
        if path.exists():
            return path
    raise DataError(
        f"the stored run used your own data '{name}', and {root} has neither a folder {name} nor {name}.parquet: "
        "let VPBENCH_DATA name the folder that it lies in."
    )


def _tensors(row: Mapping[Any, Any], store: Store) -> dict[str, torch.Tensor]:
    path = store.artefact_path(row["run_id"], ARTEFACTS["weights"])
    try:
        return load_file(path)
    except FileNotFoundError as error:
        raise StoreError(
            f"run {row['run_id']} ({row['method']}) left no weights in {store.folder}: run it again with --save weights."
        ) from error
    except (SafetensorError, OSError) as error:
        raise StoreError(f"{path} cannot be read: {str(error).splitlines()[0]}. Run it again with --save weights.") from error


def _by_timms_names(tensors: dict[str, torch.Tensor], trained: Iterable[str]) -> dict[str, torch.Tensor]:
    """Files of earlier versions number the tensors that were trained in the backbone, ``backbone.0`` and so on."""
    names = {f"backbone.{index}": f"backbone.{name}" for index, name in enumerate(trained)}
    return {names.get(name, name): tensor for name, tensor in tensors.items()}


def _restore(model: PromptedModel, tensors: dict[str, torch.Tensor], row: Mapping[Any, Any], store: Store) -> None:
    tensors = model.method.unpack(_by_timms_names(tensors, model.scope.trained))
    wanted = {name: tuple(tensor.shape) for name, tensor in model.own_tensors()}
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if wanted != found:
        name = sorted(dict(set(wanted.items()) ^ set(found.items())))[0]
        raise StoreError(
            f"{store.artefact_path(row['run_id'], ARTEFACTS['weights'])} does not fit {row['method']} as it is now: '{name}' has "
            f"shape {found.get(name, 'none')} in the file and {wanted.get(name, 'none')} in the model. Run it again."
        )
    model.restore(tensors)
