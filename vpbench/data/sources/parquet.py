"""A user's parquet files with images and labels, as Hugging Face datasets writes them: one file, or a folder of shards."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from vpbench.core.errors import DataError
from vpbench.core.names import counted
from vpbench.data.class_names import integer_labels
from vpbench.data.flaws import Flaw
from vpbench.data.image_errors import SHOWN
from vpbench.data.raw import Labels, RawData
from vpbench.data.sources._assemble import Keys, assemble
from vpbench.data.sources._columns import Columns, choose_columns, class_names, is_image_type, name_of
from vpbench.data.sources._own_masks import OwnMasks, assemble_masks
from vpbench.data.sources._own_split import OwnSplit
from vpbench.data.sources._shards import Shards, find_shards
from vpbench.data.sources._split_names import split_of
from vpbench.data.splitting import Indices
from vpbench.data.target import Target

Place = Callable[[int], str]  # the name of a row
Contents = Callable[[pa.ChunkedArray, str], pa.ChunkedArray]


class ParquetSplit(OwnSplit):
    """Rows of a column of encoded images; ``rows`` are their indices in all files together."""

    def __init__(self, images: pa.ChunkedArray, rows: Indices, labels: Labels, place: Place) -> None:
        super().__init__(labels)
        self._images, self._rows, self._place = images, rows, place

    def name(self, index: int) -> str:
        return self._place(int(self._rows[index]))

    def content(self, index: int) -> bytes:
        content: bytes = self._images[int(self._rows[index])].as_py()
        return content


class ParquetMasks(OwnMasks):
    """Rows of a column of encoded images and one of encoded masks."""

    def __init__(self, images: pa.ChunkedArray, masks: pa.ChunkedArray, rows: Indices, place: Place) -> None:
        super().__init__(len(rows))
        self._images, self._masks, self._rows, self._place = images, masks, rows, place

    def name(self, index: int) -> str:
        return self._place(int(self._rows[index]))

    def mask_name(self, index: int) -> str:
        return f"the mask in {self.name(index)}"

    def content(self, index: int) -> bytes:
        content: bytes = self._images[int(self._rows[index])].as_py()
        return content

    def mask_content(self, index: int) -> bytes:
        content: bytes = self._masks[int(self._rows[index])].as_py()
        return content


def read(
    path: str | Path, columns: Mapping[str, str] | None = None, target: Target = "class", skip_unreadable: bool = False
) -> RawData:
    """The images of a parquet file or of a folder of shards, kept in memory encoded.

    An image is a JPEG or PNG file (or any other that Pillow opens) as bytes or as a struct with ``bytes``; a label is an integer
    or text; a split is a usual word for train, val or test, in a column of a single file and in the names of shards. Class
    names are taken from the schema's metadata: ``class_names``, a JSON list, or Hugging Face's ``features``. Without
    validation images, a tenth of train is used.

    Args:
        columns: names of the columns, by ``image``, ``label`` and ``split``; by default the usual ones.
        target: whether images have labels or masks.
        skip_unreadable: whether images that cannot be decoded are left out, for which every image is decoded once.

    Raises:
        DataError: in one line: the file, the value and how to fix it.
    """
    place = Path(path)
    shards = _shards_in(place) if place.is_dir() else Shards({"": [place]}, [])
    of_file = {file: split for split, files in shards.files.items() for file in files}
    given = columns or {}
    first = next(iter(of_file))
    schema = _schema(first)
    chosen = choose_columns(schema, given, first, with_split="" in shards.files, target=target)
    names = class_names(schema, chosen.label)
    parts = [Part(file, split, _table(file, chosen, names, first)) for file, split in of_file.items()]
    return data_of(str(place), parts, chosen, _left_out(shards), skip_unreadable=skip_unreadable)


@dataclass(frozen=True)
class Part:
    """A table of images and labels: its name in messages, and its split, empty where a column says it or nothing does."""

    name: Path | str
    split: str
    table: pa.Table


def data_of(
    origin: str, parts: Sequence[Part], chosen: Columns, notes: Sequence[str], contents: Contents | None = None, *,
    skip_unreadable: bool = False,
) -> RawData:  # fmt: skip
    """The data set that some tables are together.

    Args:
        origin: of all, for messages.
        parts: all with the chosen columns.
        notes: what is known already, as sentences.
        contents: from a column of structs, and its name in messages, to the bytes of its images; None: the field ``bytes``.
        skip_unreadable: whether images that cannot be decoded are left out.

    Raises:
        DataError: in one line: the file, the value and how to fix it.
    """

    def encoded(column: str) -> pa.ChunkedArray:
        chunks = (_image_bytes(part.table[column], column, part.name, contents).chunks for part in parts)
        return pa.chunked_array([chunk.cast(pa.large_binary()) for each in chunks for chunk in each], pa.large_binary())

    place_of = _places({part.name: len(part.table) for part in parts})
    if chosen.target == "mask":
        images, masks, count = encoded(chosen.image), encoded(chosen.label), sum(len(part.table) for part in parts)
        raw = assemble_masks(
            origin, count, _splits(parts, chosen.split), lambda part: ParquetMasks(images, masks, part, place_of),
            class_names(parts[0].table.schema, chosen.label) or None, [*([chosen.note] if chosen.note else []), *notes],
            skip_unreadable,
        )  # fmt: skip
        return replace(raw, columns=chosen.needed)
    keys = _together([_labels(part.table[chosen.label], chosen.label, part.name) for part in parts], origin, chosen.label)
    images = encoded(chosen.image)
    raw = assemble(
        origin,
        keys,
        _splits(parts, chosen.split),
        lambda part, labels: ParquetSplit(images, part, labels, place_of),
        name_of(class_names(parts[0].table.schema, chosen.label), keys, origin),
        known=[*([chosen.note] if chosen.note else []), *notes],
        skip_unreadable=skip_unreadable,
    )
    return replace(raw, columns=chosen.needed)


def _splits(parts: Sequence[Part], column: str | None) -> NDArray[np.str_] | None:
    """The split of every row; None where nothing says it."""
    if column is not None:
        return np.concatenate([_membership(part.table[column], column, part.name) for part in parts])
    return np.concatenate([np.full(len(part.table), part.split) for part in parts]) if any(part.split for part in parts) else None


def _shards_in(folder: Path) -> Shards:
    shards = find_shards(folder)
    if shards is None:
        raise DataError(f"{folder} holds no parquet files named after their splits, such as train-00000-of-00001.parquet.")
    return shards


def _schema(file: Path) -> pa.Schema:
    try:
        return pq.read_schema(file)
    except pa.ArrowInvalid as error:
        raise _unreadable(file, error) from error


def _table(file: Path, chosen: Columns, names: list[str], first: Path) -> pa.Table:
    """The chosen columns of a file that must have the class names of the first one."""
    schema = _schema(file)
    for name in chosen.names:
        if name not in schema.names:
            raise DataError(f"{file} has no column '{name}' (it has {', '.join(schema.names)}), which {first} has.")
    if class_names(schema, chosen.label) != names:
        raise DataError(f"{file} has other class names than {first}; get all files from one place.")
    try:
        return pq.read_table(file, columns=chosen.names, partitioning=None)
    except pa.ArrowInvalid as error:
        raise _unreadable(file, error) from error


def _unreadable(file: Path, error: pa.ArrowInvalid) -> DataError:
    if file.suffix != ".parquet":
        return DataError(f"{file} is neither a folder of images nor a parquet file; give one of these.")
    return DataError(
        f"{file} is not a readable parquet file ({str(error).splitlines()[0]}); give a .parquet file or a folder of images."
    )


def _places(rows: Mapping[Path | str, int]) -> Place:
    """Names of rows, counted in each file."""
    files, ends = list(rows), np.cumsum(list(rows.values()))

    def place(row: int) -> str:
        which = int(np.searchsorted(ends, row, side="right"))
        return f"row {row - (ends[which - 1] if which else 0)} of {files[which]}"

    return place


def _left_out(shards: Shards) -> list[str]:
    """A note on files of other splits, with their rows."""
    if not shards.left_out:
        return []
    shown = [f"{file.name} ({counted(pq.read_metadata(file).num_rows, 'row')})" for file in shards.left_out[:SHOWN]]
    more = f" and {len(shards.left_out) - SHOWN} more" if len(shards.left_out) > SHOWN else ""
    return [Flaw(f"Ignored, as their names say no split: {', '.join(shown)}{more}.")]


def _image_bytes(column: pa.ChunkedArray, name: str, file: Path | str, contents: Contents | None) -> pa.ChunkedArray:
    if not is_image_type(column.type):
        raise DataError(
            f"{file}: column '{name}' is {column.type}; it must be bytes, or a struct with a field 'bytes': it holds no images, "
            "choose another with --columns image=NAME."
        )
    if pa.types.is_struct(column.type):
        column = contents(column, str(file)) if contents else pc.struct_field(column, "bytes")
    return _without_nulls(column, name, "bytes; store the encoded image, not only its path", file)


def _labels(column: pa.ChunkedArray, name: str, file: Path | str) -> Keys:
    column = _plain(column)
    if not (pa.types.is_integer(column.type) or _is_text(column.type)):
        raise DataError(f"{file}: column '{name}' is {column.type}; it must be integers or text.")
    values = _without_nulls(column, name, "label; fill it in or remove the row", file).to_pylist()
    return integer_labels(values, file) if pa.types.is_integer(column.type) else np.array(values, np.str_)


def _together(parts: list[Keys], place: str, name: str) -> Keys:
    if len({part.dtype.kind for part in parts}) > 1:
        raise DataError(f"{place}: column '{name}' has numbers in some files and text in others; use one of them.")
    return cast(Keys, np.concatenate(parts))


def _membership(column: pa.ChunkedArray, name: str, file: Path | str) -> NDArray[np.str_]:
    column = _plain(column)
    if not _is_text(column.type):
        raise DataError(f"{file}: column '{name}' is {column.type}; it must be text: train, val or test.")
    words = _without_nulls(column, name, "split; fill it in or remove the row", file).to_pylist()
    splits = {word: split_of(word) for word in set(words)}
    for row, word in enumerate(words):
        if splits[word] is None:
            raise DataError(f"{file}: row {row} has split '{word}'; use train, val (or valid, validation, dev) or test.")
    return np.array([splits[word] for word in words], np.str_)


def _plain(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Decodes a dictionary column (pandas' categories)."""
    return column.cast(column.type.value_type) if pa.types.is_dictionary(column.type) else column


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _without_nulls(column: pa.ChunkedArray, name: str, lacking: str, file: Path | str) -> pa.ChunkedArray:
    if column.null_count:
        row = int(np.flatnonzero(column.is_null().to_numpy())[0])
        raise DataError(f"{file}: row {row} of column '{name}' has no {lacking}.")
    return column
