"""The images that a user names: files, folders and parquet files, without labels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from vpbench.core.errors import DataError
from vpbench.core.user_folders import user_path
from vpbench.data.sources._columns import USUAL, image_columns
from vpbench.data.sources._image_files import Ignored, images_below

_ROWS = 64  # of a parquet file that are in memory at a time


@dataclass(frozen=True)
class NamedImage:
    """An image and what it is called in results and messages.

    Attributes:
        content: a path, the bytes of an encoded image, or None where a parquet file has a null.
        place: for a file that is written for it: its path below the folder that was named, without ending.
    """

    name: str
    content: Path | bytes | None
    place: Path


class Images(Protocol):
    """Some images; they are read when they are iterated over."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[NamedImage]: ...


class ImageFiles:
    """Images in files below a folder, named after their paths."""

    def __init__(self, files: Sequence[Path], folder: Path) -> None:
        self._files, self._folder = files, folder

    def __len__(self) -> int:
        return len(self._files)

    def __iter__(self) -> Iterator[NamedImage]:
        return (NamedImage(str(file), file, file.relative_to(self._folder).with_suffix("")) for file in self._files)


class ParquetImages:
    """The column of encoded images of a parquet file (bytes, or a struct with ``bytes``), named ``row 0 of FILE``, ...

    Args:
        column: its name; None: the usual one, or the only one there is.

    Raises:
        DataError: when the file is unreadable or has no such column.
    """

    def __init__(self, file: Path, column: str | None = None) -> None:
        self._file = file
        try:
            with pq.ParquetFile(file) as opened:
                schema, self._rows = opened.schema_arrow, opened.metadata.num_rows
        except (pa.ArrowException, OSError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise DataError(f"{file} is not a readable parquet file ({reason}).") from error
        self._column = self._chosen(schema, column)

    def _chosen(self, schema: pa.Schema, column: str | None) -> str:
        candidates = image_columns(schema)
        usual = [name for name in USUAL["image"] if name in candidates]
        if column is not None and column in candidates:
            return column
        if column is None and (usual or len(candidates) == 1):
            return (usual or candidates)[0]
        what = f"no images in a column '{column}'" if column else "several columns of images" if candidates else "no images"
        held = f"encoded images are in {', '.join(candidates)}" if candidates else f"it has {', '.join(schema.names)}"
        raise DataError(f"{self._file} has {what} ({held}); name a column of encoded images with --column.")

    def __len__(self) -> int:
        return int(self._rows)

    def __iter__(self) -> Iterator[NamedImage]:
        row = 0
        with pq.ParquetFile(self._file) as opened:
            for batch in opened.iter_batches(_ROWS, columns=[self._column]):
                for value in batch.column(0).to_pylist():
                    content = value.get("bytes") if isinstance(value, dict) else value
                    yield NamedImage(f"row {row} of {self._file}", content, Path(f"{self._file.stem}-{row:06}"))
                    row += 1


def find_images(paths: Sequence[str | Path], column: str | None = None) -> list[Images]:
    """The images that paths name: a file, every image below a folder, or the rows of a ``.parquet`` file.

    Args:
        column: of parquet files.

    Raises:
        DataError: for a path that is not there, a folder without images, or a parquet file without a column of images.
    """
    return [_images_at(user_path(path), column) for path in paths]


def _images_at(path: Path, column: str | None) -> Images:
    if path.is_dir():
        if not (files := images_below(path, set(), Ignored())):
            raise DataError(f"{path} holds no images.")
        return ImageFiles(files, path)
    if not path.exists():
        raise DataError(f"{path}: there is no such file or folder.")
    return ParquetImages(path, column) if path.suffix == ".parquet" else ImageFiles([path], path.parent)
