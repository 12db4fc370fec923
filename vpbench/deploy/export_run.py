"""Exporting a trained model: a folder that is whole or not there."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from vpbench.core.errors import StoreError, UsageError
from vpbench.core.file_names import file_name
from vpbench.core.torch_state import own_torch_state
from vpbench.core.user_folders import user_path
from vpbench.deploy.export_target import target_registry
from vpbench.deploy.load_run import load_run
from vpbench.models.saved import Description
from vpbench.store.store import DEFAULT_FOLDER, Store


@own_torch_state()
def export_run(
    run: str | Path,
    to: str,
    out: str | Path | None = None,
    *,
    results: str | Path = DEFAULT_FOLDER,
    weights: str | Path | None = None,
) -> tuple[Path, str]:
    """Write a trained model for other programs.

    Args:
        run: as of :func:`vpbench.deploy.load_run.load_run`.
        to: a target's name: ``folder``, ``onnx``, ``torch``, ...
        out: a folder, which must not exist or be empty; None: one named after method, data and run, in the working folder.
        results: folder of the rows, for a run's id and for measured numbers on the model card.
        weights: file or folder of the backbone's weights, where they are not in their usual place.

    Returns:
        the folder, and a sentence on how its content is loaded.

    Raises:
        UnsupportedError: when the method cannot be exported exactly, with the reason.
        UsageError: for an unknown target, or a folder that is in use.
        StoreError, WeightsError: as of :func:`vpbench.deploy.load_run.load_run`; or when nothing can be written there.
    """
    target = target_registry().get(to)()
    if out is not None:
        _check_free(user_path(out))
    trained = load_run(run, results=results, weights=weights)
    place = user_path(out) if out is not None else Path(_usual_name(trained.description, to))
    _check_free(place)
    row = _row_of(trained.description, Store(user_path(results)))
    try:
        place.absolute().parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=place.absolute().parent, prefix=f".{place.name}-") as scratch:
            whole = Path(scratch, place.name)
            whole.mkdir()
            said = target.write(trained, whole, row)
            if place.is_dir():
                place.rmdir()
            shutil.move(whole, place)
    except OSError as error:
        raise StoreError(f"{place} cannot be written: {error.strerror or error}. Choose another --out.") from error
    return place, said.replace("{folder}", str(place))


def _check_free(place: Path) -> None:
    """
    Raises:
        UsageError: for a file, or a folder with something in it.
    """
    if place.is_dir() and not any(place.iterdir()):
        return
    if place.exists():
        raise UsageError(f"{place} exists already: choose another --out, or remove it.")


def _usual_name(description: Description, to: str) -> str:
    return file_name(f"{description.method.label}-{description.data.dataset}-{description.run_id[:8]}-{to}".replace(":", "-"))


def _row_of(description: Description, store: Store) -> Mapping[str, Any] | None:
    """The run's row, where the results folder has it."""
    return store.read_row(description.run_id) if store.folder.is_dir() else None
