"""A trained model from wherever it lies: a results folder, a file, an exported folder, or the Hugging Face hub."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from vpbench.analysis.load import read_saved, stored_spec
from vpbench.core.errors import StoreError, UsageError
from vpbench.core.hub import hub_api, hub_errors
from vpbench.core.names import shortened
from vpbench.core.torch_state import own_torch_state
from vpbench.core.user_folders import user_path
from vpbench.models.peft_folder import CONFIG_FILE, load_adapter
from vpbench.models.registry import current_options
from vpbench.models.saved import AGAIN, Description, TrainedModel, load_saved, model_of
from vpbench.store.artefacts import ARTEFACTS
from vpbench.store.find_run import find_run_id, is_run_id
from vpbench.store.store import DEFAULT_FOLDER, Store

MODEL_FILE = "model.safetensors"
"""In folders and repositories, where a results folder has ``weights.safetensors``."""

_REPOSITORY = re.compile(r"(?P<name>[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(/(?P<folder>[\w.+-]+))?(@(?P<revision>[\w./-]+))?")


@own_torch_state()
def load_run(
    run: str | Path,
    *,
    results: str | Path = DEFAULT_FOLDER,
    weights: str | Path | None = None,
    device: torch.device | str = "cpu",
    class_names: Sequence[str] | None = None,
) -> TrainedModel:
    """A trained model, in evaluation mode, without any training data.

    The model is a torch module from images (B, 3, S, S) to logits (B, classes), with ``transform`` (from a path, bytes, PIL
    image or uint8 array to (3, S, S)), ``class_names``, and ``description`` for the rest. On the processor that it was tested on
    it makes the predictions of its row.

    Args:
        run: a run's id (its first digits are enough), a file of trained weights, a folder that ``vpbench export --to folder``,
            ``--to peft`` or a run has left, or a repository of the Hugging Face hub, ``owner/name`` or ``owner/name/folder``
            where it has several, with ``@revision`` behind it for a certain version.
        results: folder of the rows, for a run's id.
        weights: file or folder of the backbone's weights, where they are not in their usual place.
        device: where the model ends up.
        class_names: that the model must have, in this order; None accepts any.

    Raises:
        StoreError: when there is no such run or file, it has no trained weights, or they do not fit what describes them.
        WeightsError: when the backbone's weights are not on this machine, or are others than the run's.
        UsageError: for other class names, or for something that is none of the above.
    """
    model = _found(str(run), Store(user_path(results)), weights, device)
    if class_names is not None:
        check_class_names(str(run), model.class_names, class_names)
    return model


def check_class_names(run: str, found: Sequence[str], wanted: Sequence[str]) -> None:
    """
    Raises:
        UsageError: when a model has other classes, or the same in another order.
    """
    if list(found) == list(wanted):
        return
    place = next((i for i, (own, other) in enumerate(zip(found, wanted)) if own != other), min(len(found), len(wanted)))
    own, other = (f"'{names[place]}'" if place < len(names) else "none" for names in (found, wanted))
    raise UsageError(
        f"{run} has other class names: {len(found)} instead of {len(wanted)}, and class {place} is {own} instead of {other}."
    )


def _found(run: str, store: Store, weights: str | Path | None, device: torch.device | str) -> TrainedModel:
    place = user_path(run)
    if place.is_file():
        return load_saved(place, weights, device)
    if place.is_dir():
        if (place / CONFIG_FILE).is_file():
            return load_adapter(place, weights, device)
        return load_saved(_file_in(place), weights, device)
    if is_run_id(run):
        return _stored(find_run_id(store, run), store, weights, device)
    if (found := _REPOSITORY.fullmatch(run)) and not place.parent.is_dir():
        return load_saved(_from_hub(run, **found.groupdict()), weights, device, "Remove it, and it is fetched again.")
    raise UsageError(
        f"'{shortened(run)}' is no run: give a run's id in {store.folder}, a file of trained weights, a folder with "
        f"{MODEL_FILE}, or owner/name on the Hugging Face hub."
    )


def _file_in(folder: Path) -> Path:
    for name in (MODEL_FILE, ARTEFACTS["weights"]):
        if (folder / name).is_file():
            return folder / name
    hint = f"of a results folder give the run's id and --results {folder}"
    raise StoreError(f"{folder} has no {MODEL_FILE} and no {ARTEFACTS['weights']}; {hint}.")


def _stored(run_id: str, store: Store, weights: str | Path | None, device: torch.device | str) -> TrainedModel:
    row = store.read_row(run_id)
    if row is None:
        raise StoreError(f"run {run_id} is gone from {store.folder}.")
    if row["stage"] == "search":
        raise StoreError(f"run {run_id} is a trial of a search, of which no weights are kept: take the search's final run.")
    if row["stage"] == "shift":
        raise StoreError(f"run {run_id} is a test of the model of run {row['trained_run']}: load that one.")
    if row["status"] != "ok":
        raise StoreError(f"run {run_id} ({row['method']}) has no model: its status is {row['status']}. Run it again.")
    saved, path = read_saved(row, store)
    if saved.description is not None:
        _check_row(saved.description, row, path)
    return model_of(saved, path, weights, device, last_seen=stored_spec(row).backbone.path)


def _check_row(description: Description, row: dict[str, Any], path: Path) -> None:
    """
    Raises:
        StoreError: when a file says something else of its model than the row.
    """
    spec = stored_spec(row)
    name = spec.method.name
    pairs = {
        "method": (description.method.label, spec.method.label),
        "options": (current_options(name, description.method.config), current_options(name, spec.method.config)),
        "backbone": (description.backbone.name, spec.backbone.name),
        "hash of the backbone's weights": (description.backbone.sha256, row["weights_sha256"]),
        "number of classes": (len(description.class_names), row["classes"]),
        "preprocessing": (description.preprocess, spec.preprocess),
        "task": (description.task, spec.task),
    }
    for what, (of_file, of_row) in pairs.items():
        if of_file != of_row:
            raise StoreError(f"{path} does not fit its row: the {what}, {of_file} in the file and {of_row} in the row. {AGAIN}")


def _from_hub(run: str, name: str, folder: str | None, revision: str | None) -> Path:
    """The file of a repository, from the hub's cache on this machine or from the hub.

    Args:
        run: what the user has written, which may be a folder's name with a mistake in it.
    """
    file = "/".join(filter(None, [folder, MODEL_FILE]))
    with hub_errors(name, StoreError, file=file, ending=f"There is no file or folder '{run}' here either."):
        return Path(hub_api().hf_hub_download(name, file, revision=revision))
