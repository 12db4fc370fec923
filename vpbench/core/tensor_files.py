"""Tensors in files of other programs: reading them without running code, and what cannot be a weight."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

_REFUSED = re.compile(r"GLOBAL (\S+) (?:was|whose)")


class UnreadableError(ValueError):
    """A file of tensors cannot be read; its text stands behind the file's name: what the file is, and the way out."""


def read_tensors(path: Path) -> Any:
    """What a safetensors file, or a file of ``torch.save``, holds, on the CPU. Nothing in the file is executed.

    Raises:
        UnreadableError: for a file that is missing, damaged, of another kind, or with objects beside tensors.
    """
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        with warnings.catch_warnings():  # of archives with code, which are refused
            warnings.simplefilter("ignore")
            return load_pickled(path)
    except Exception as error:  # what a damaged file does to the readers is anybody's guess
        if "TorchScript" in str(error):
            text = (
                "is a TorchScript archive, as OpenAI publishes CLIP: it holds code and is not loaded; save its state dict alone"
            )
        elif (name := refused_object(error)) is not None:
            named = f" ({name})" if name else ""
            text = f"holds more than tensors{named} and is not loaded for safety: save its state dict alone"
        else:
            text = why_unreadable(path)
        raise UnreadableError(text) from error


def load_pickled(path: Path) -> Any:
    """What a file of ``torch.save`` holds, on the CPU, as ``torch.load(weights_only=True)`` reads it: never code.

    Beside tensors and plain containers two kinds of objects are read, since published checkpoints hold them: an
    ``argparse.Namespace`` (the options of DINO's and MAE's pretraining) and numbers of NumPy (an epoch's accuracy or loss).

    Raises:
        OSError: when it cannot be opened.
        Exception: of torch's reader, of many kinds, for a damaged file or another object (see :func:`refused_object`).
    """
    import torch

    allowed = torch.serialization.get_safe_globals()  # by the user; the end of the block would take these back
    with torch.serialization.safe_globals([each for each in _harmless() if each not in allowed]):
        return torch.load(path, map_location="cpu", weights_only=True)


def refused_object(error: Exception) -> str | None:
    """The full name of the object for which a file was refused; "" where torch does not say, None for other errors."""
    import pickle

    if not isinstance(error, pickle.UnpicklingError) or "GLOBAL" not in str(error):
        return None
    found = _REFUSED.search(str(error))
    return found[1] if found else ""


# How files begin that are no checkpoints of PyTorch, and what to do about each.
_SIGNATURES: tuple[tuple[bytes, str], ...] = (
    (b"version https://git-lfs", "is a pointer of Git LFS, not the file itself: fetch that with 'git lfs pull'"),
    (b"\x89HDF", "is an HDF5 file, as Keras writes: convert it to safetensors"),
    (b"\x1f\x8b", "is compressed with gzip: unpack it"),
)
_WEB_PAGE = ("<!doctype", "<html", "<?xml")
_AGAIN = "fetch it again"
_KINDS = {".safetensors": "a safetensors file", ".npz": "an .npz archive of NumPy", ".pth": "a file of torch.save"}
_READ_AS = {"": ".pth", ".safetensors": ".safetensors", ".npz": ".npz"}  # by a file's suffix; any other one is read as .pth, too


def why_unreadable(path: Path) -> str:
    """What a file is that a reader of tensors has refused, and the way out; to stand behind its name.

    It is recognised by its first bytes: readers fail in many ways, and their messages are about their own insides.
    """
    try:
        with path.open("rb") as file:
            start = file.read(1024)
    except OSError as error:
        return f"cannot be read ({error.strerror or error}): correct that"
    if not start:
        return f"is empty: {_AGAIN}"
    for signature, words in _SIGNATURES:
        if start.startswith(signature):
            return words
    text = start.decode("utf-8", "ignore")
    is_text = len(text.encode()) > len(start) - 4 and all(each.isprintable() or each.isspace() for each in text)  # its end is cut
    if text.lstrip().lower().startswith(_WEB_PAGE):
        return f"is a web page, no weight file: {_AGAIN}"
    if is_text:
        return f"is a text file, no weight file: {_AGAIN}"
    if (kind := _kind(path, start)) and kind != _READ_AS.get(path.suffix, ".pth"):
        return f"is {_KINDS[kind]}: give it a name that ends in {kind}"
    return f"is no weight file, or a damaged one: {_AGAIN}"


def _kind(path: Path, start: bytes) -> str:
    """How the name of a whole file of tensors ends, by its content; empty where that is not known."""
    import zipfile

    if start[8:10] == b'{"' and int.from_bytes(start[:8], "little") < path.stat().st_size:
        return ".safetensors"
    if start.startswith(b"PK") and zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
        return ".pth" if any(name.endswith("data.pkl") for name in names) else ".npz" if names[0].endswith(".npy") else ""
    return ".pth" if start[:1] == b"\x80" and start[1:2] in b"\x02\x03\x04\x05" else ""


def _harmless() -> list[Any]:
    """What torch's reader may make beside tensors, as it wants it: classes, and functions with the name in the file."""
    from argparse import Namespace

    import numpy as np

    def dtype(name: str, *rest: Any) -> np.dtype[Any]:
        made = np.dtype(name, *rest)
        if made.kind not in "biuf":
            raise ValueError(f"NumPy's {made} is no type of a number")
        return made

    def scalar(kind: np.dtype[Any], content: Any) -> Any:
        # A pickle of protocol 2 keeps bytes as text.
        return np.frombuffer(content.encode("latin1") if isinstance(content, str) else content, kind)[0]

    modules = ("numpy.core.multiarray", "numpy._core.multiarray")  # before NumPy 2, and since
    functions = [(dtype, "numpy.dtype"), *((scalar, f"{module}.scalar") for module in modules)]
    return [Namespace, *functions, *{type(np.dtype(code)) for code in "?bBhHiIlLqQefd"}]


def _is_finite(tensor: Tensor) -> bool:
    """Whether no value is NaN or infinite. A finite sum says so at a tenth of the cost; another one may have overflowed."""
    return bool(tensor.sum().isfinite()) or bool(tensor.isfinite().all())


def unfit_values(tensors: Mapping[str, Tensor]) -> str:
    """Why tensors cannot be weights, in words; empty when all are finite floating point numbers."""
    strange = {name: tensor.dtype for name, tensor in tensors.items() if not tensor.is_floating_point()}
    if strange:
        kinds = ", ".join(sorted({str(dtype).removeprefix("torch.") for dtype in strange.values()}))
        return f"{_counted(list(strange))} {kinds}, not floating point: quantised or counted values, which are no weights"
    broken = [name for name, tensor in tensors.items() if not _is_finite(tensor.float())]
    if broken:
        return f"{_counted(broken)} NaN or infinite values, as after a training that diverged"
    return ""


def _counted(names: list[str]) -> str:
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    return f"{names[0]}{more} {'have' if more else 'has'}"
