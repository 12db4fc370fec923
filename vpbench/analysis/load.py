"""Stored models, put together again: the backbone, the method and the tensors that a run left with ``--save weights``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError

from vpbench.backbones.find_weights import find_weights
from vpbench.core.cards import first_error
from vpbench.core.checksums import DamagedError
from vpbench.core.errors import DataError, StoreError
from vpbench.core.file_names import is_file_name
from vpbench.core.hub import is_on_hub
from vpbench.data.cache import CachedData, prepare
from vpbench.data.catalog import dataset_card
from vpbench.data.class_names import normalised
from vpbench.data.places import data_root
from vpbench.data.raw import RawData
from vpbench.data.sources import open_dataset, open_path
from vpbench.models.build import build_model
from vpbench.models.prompted import PromptedModel
from vpbench.models.saved import AGAIN, SavedFile, decode_model, restore
from vpbench.planning.suites import apply_protocol, suite_card
from vpbench.spec.run_spec import BackboneSpec, RunSpec
from vpbench.store.artefacts import ARTEFACTS
from vpbench.store.store import Store
from vpbench.tasks import task_class


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
    saved, path = read_saved(row, store)
    raw = raw if raw is not None else open_data(spec)
    backbone = backbone if backbone is not None else find_weights(spec.backbone)
    model = build_model(spec.method, backbone, len(raw.class_names), device, spec.task)
    restore(model, saved, path)
    model.backbone.use_fastest_kernels(torch.device(device).type, spec.precision)  # as in training
    data = prepare(raw, spec.preprocess, backbone.image_size)
    return StoredModel(spec.model_copy(update={"backbone": backbone}), model.eval(), data)


def stored_spec(row: Mapping[Any, Any]) -> RunSpec:
    """The specification in a row, with the paths that the row names where they are there on this machine.

    Raises:
        StoreError: when this version of vpbench does not understand it.
    """
    try:
        spec = RunSpec.model_validate(json.loads(row["spec"]))
    except ValidationError as error:
        raise StoreError(
            f"run {row['run_id']} was described by another version of vpbench ({first_error(error)}); run it again."
        ) from error
    except (TypeError, ValueError, RecursionError) as error:
        raise StoreError(f"run {row['run_id']} has no readable specification; run it again.") from error
    backbone = spec.backbone.model_copy(update={"path": _still_there(row.get("weights_path"))})
    return spec.model_copy(
        update={"backbone": backbone, "data": spec.data.model_copy(update={"path": _still_there(row.get("data_path"))})}
    )


def _still_there(path: Any) -> str | None:
    """A path that a row names, where something is there on this machine or on the hub."""
    return path if isinstance(path, str) and path and (is_on_hub(path) or Path(path).exists()) else None


def open_data(spec: RunSpec) -> RawData:
    """The data set of a run, opened again: a known one by its card, a user's own by its path, or its name below the data root.

    Raises:
        DataError: when it is not there, or its digest is not the run's.
    """
    name, suite = spec.data.dataset, spec.data.suite
    card = suite_card(suite)
    for path in dict.fromkeys((spec.data.path, card.data.get(name), None)):
        if card.is_own or name in card.data:
            own = path or str(_own_data(name, data_root()))
            target = task_class(spec.task.name).target
            raw, place = open_path(own, spec.data.columns, target, skip_unreadable=spec.data.unreadable > 0), own
        else:
            raw, place = open_dataset(dataset_card(name)), name
        raw = apply_protocol(raw, card, spec.stage, spec.seed)
        if raw.digest == spec.data.digest:
            return raw
    raise DataError(f"{place} is not the data that the stored run saw (its digest differs); run it again on this data.")


def _own_data(name: str, root: Path) -> Path:
    """A user's own images, which a row knows by name only."""
    for path in (root / name, root / f"{name}.parquet") if is_file_name(name) else ():
        if path.exists():
            return path
    for path in sorted(root.iterdir()) if root.is_dir() else ():  # a row has the normalised name
        own = path.name if path.is_dir() else path.stem if path.suffix == ".parquet" else ""
        with suppress(DataError):
            if own and normalised(own, str(path)) == name:
                return path
    raise DataError(
        f"the stored run used your own data '{name}', and {root} has neither a folder {name} nor {name}.parquet: "
        "let VPBENCH_DATA name the folder that it lies in."
    )


def read_saved(row: Mapping[Any, Any], store: Store) -> tuple[SavedFile, Path]:
    """A run's trained tensors, and where they are.

    Raises:
        StoreError: when it left none, or the file is damaged or of another run.
    """
    path = store.artefact_path(row["run_id"], ARTEFACTS["weights"])
    try:
        saved = decode_model(store.read_artefact(row["run_id"], ARTEFACTS["weights"]), path)
    except FileNotFoundError as error:
        raise StoreError(
            f"run {row['run_id']} ({row['method']}) left no weights in {store.folder}: run it again with --save weights."
        ) from error
    except (DamagedError, OSError) as error:
        raise StoreError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}. {AGAIN}") from error
    if saved.description is not None and saved.description.run_id != row["run_id"]:
        raise StoreError(f"{path} belongs to another run, {saved.description.run_id}. {AGAIN}")
    return saved, path
