"""A user's parquet file with the columns ``image``, ``label`` and ``split``, as Hugging Face datasets write it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from vpbench.core.errors import DataError
from vpbench.data.class_names import integer_labels
from vpbench.data.raw import Labels, RawData, RawSplit
from vpbench.data.sources._assemble import SPLIT_WORDS, Keys, assemble
from vpbench.data.splitting import Indices

COLUMNS = {
    "image": "with encoded images (bytes, or a struct with bytes)",
    "label": "with a class number or name",
    "split": "with train, val or test",
}


class ParquetSplit(RawSplit):
    """Rows of a column of encoded images; ``rows`` are their indices in the file."""

    def __init__(self, images: pa.ChunkedArray, rows: Indices, labels: Labels, path: Path) -> None:
        super().__init__(labels)
        self._images, self._rows, self._path = images, rows, path

    def name(self, index: int) -> str:
        return f"row {self._rows[index]} of {self._path}"

    def content(self, index: int) -> bytes:
        content: bytes = self._images[int(self._rows[index])].as_py()
        return content


def read(path: str | Path) -> RawData:
    """The images of a parquet file, kept in memory encoded.

    Columns: ``image``, a JPEG or PNG file as bytes or as a struct with ``bytes``; ``label``, an integer or text; ``split``,
    one of train, val (or valid, validation) and test. Class names are taken from the schema's metadata: ``class_names``, a
    JSON list, or Hugging Face's ``features``. Without validation images, a tenth of train is used.

    Raises:
        DataError: in one line: the file, the value and how to fix it.
    """
    file = Path(path)
    try:
        schema = pq.read_schema(file)
        for column, meaning in COLUMNS.items():
            if column not in schema.names:
                raise DataError(
                    f"{file} has no column '{column}' (it has {', '.join(schema.names)}); add or rename one, {meaning}."
                )
        table = pq.read_table(file, columns=list(COLUMNS))
    except pa.ArrowInvalid as error:
        raise DataError(
            f"{file} is not a readable parquet file ({str(error).splitlines()[0]}); give a .parquet file or a folder of images."
        ) from error
    images = _image_bytes(table["image"], file)
    keys = _labels(table["label"], file)
    return assemble(
        str(file),
        keys,
        _membership(table["split"], file),
        lambda part, labels: ParquetSplit(images, part, labels, file),
        _class_name(schema.metadata or {}, keys, file),
    )


def _image_bytes(column: pa.ChunkedArray, file: Path) -> pa.ChunkedArray:
    if pa.types.is_struct(column.type) and column.type.get_field_index("bytes") >= 0:
        column = pc.struct_field(column, "bytes")
    if not (pa.types.is_binary(column.type) or pa.types.is_large_binary(column.type)):
        raise DataError(f"{file}: column 'image' is {column.type}; it must be bytes, or a struct with a field 'bytes'.")
    return _without_nulls(column, "image", "bytes; store the encoded image, not only its path", file)


def _labels(column: pa.ChunkedArray, file: Path) -> Keys:
    column = _plain(column)
    if not (pa.types.is_integer(column.type) or _is_text(column.type)):
        raise DataError(f"{file}: column 'label' is {column.type}; it must be integers or text.")
    values = _without_nulls(column, "label", "label; fill it in or remove the row", file).to_pylist()
    return integer_labels(values, file) if pa.types.is_integer(column.type) else np.array(values, np.str_)


def _membership(column: pa.ChunkedArray, file: Path) -> NDArray[np.str_]:
    column = _plain(column)
    if not _is_text(column.type):
        raise DataError(f"{file}: column 'split' is {column.type}; it must be text: train, val or test.")
    words = _without_nulls(column, "split", "split; fill it in or remove the row", file).to_pylist()
    for row, word in enumerate(words):
        if word.lower() not in SPLIT_WORDS:
            raise DataError(f"{file}: row {row} has split '{word}'; use train, val (or valid, validation) or test.")
    return np.array([SPLIT_WORDS[word.lower()] for word in words], np.str_)


def _class_name(metadata: dict[bytes, bytes], keys: Keys, file: Path) -> Callable[[int | str], str]:
    """Class name of a label: text itself; for integers an entry of the list of names, if the file has one."""
    names = _names_in(metadata)
    if not names or keys.dtype.kind != "i":
        return str
    for key in np.unique(keys).tolist():
        if not 0 <= key < len(names):
            raise DataError(
                f"{file}: label {key} has no name among the {len(names)} class names of the file's metadata; correct one."
            )
    return lambda key: names[int(key)]


def _names_in(metadata: dict[bytes, bytes]) -> list[str]:
    """Class names in a schema's metadata; empty if there are none or the JSON is invalid."""

    def parsed(key: bytes) -> Any:
        try:
            return json.loads(metadata.get(key, b"null"))
        except ValueError:
            return None

    names = parsed(b"class_names")
    if names is None:
        features = parsed(b"huggingface")
        for step in ("info", "features", "label", "names"):
            features = features.get(step) if isinstance(features, dict) else None
        names = features
    return [str(name) for name in names] if isinstance(names, list) else []


def _plain(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Decodes a dictionary column (pandas' categories)."""
    return column.cast(column.type.value_type) if pa.types.is_dictionary(column.type) else column


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _without_nulls(column: pa.ChunkedArray, name: str, lacking: str, file: Path) -> pa.ChunkedArray:
    if column.null_count:
        row = int(np.flatnonzero(column.is_null().to_numpy())[0])
        raise DataError(f"{file}: row {row} of column '{name}' has no {lacking}.")
    return column
