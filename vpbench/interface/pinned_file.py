"""Options that name a file: ``PATH``, which becomes ``PATH#sha256=0123456789abcdef`` as soon as the options are validated.

So the row of a run says which content was used, and a file that changed since is an error.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import AfterValidator

from vpbench.core.errors import UsageError
from vpbench.core.hashing import file_sha256
from vpbench.core.tensor_files import UnreadableError, read_tensors, unfit_values
from vpbench.core.user_folders import user_path
from vpbench.interface.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor

MARK, DIGITS = "#sha256=", 16


def _pinned(value: str) -> str:
    """The path with the beginning of its file's SHA-256; as it is where it has one already, wherever that file may be."""
    if MARK in value:
        return value
    path = user_path(value)
    if not path.is_file():
        raise ValueError(f"{value}: there is no such file")
    return f"{path.absolute()}{MARK}{file_sha256(path)[:DIGITS]}"


PinnedFile = Annotated[str, AfterValidator(_pinned)]


def pinned_tensors(value: str) -> dict[str, Tensor]:
    """The tensors of a pinned file, by name: of a safetensors file, or of a PyTorch file that holds tensors only.

    Raises:
        UsageError: when the file is not there, has changed, or holds something else.
    """
    name, _, digest = value.partition(MARK)
    path = Path(name)
    if not path.is_file():
        raise UsageError(f"{name}: there is no such file.")
    if not file_sha256(path).startswith(digest):
        raise UsageError(f"{name} is not the file that the run was planned with (its SHA-256 differs); plan the run again.")
    try:
        loaded: Any = read_tensors(path)
    except UnreadableError as error:
        raise UsageError(f"{name} {error}, or name another file.") from error
    while isinstance(loaded, dict) and isinstance(loaded.get("state_dict"), dict):
        loaded = loaded["state_dict"]
    if not isinstance(loaded, dict) or not all(isinstance(each, torch.Tensor) for each in loaded.values()):
        raise UsageError(f"{name} holds no mapping of names to tensors.")
    if reason := unfit_values({key: each for key, each in loaded.items() if each.is_floating_point()}):
        raise UsageError(f"{name}: {reason}.")
    return dict(loaded)
