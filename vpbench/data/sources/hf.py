"""Data sets of the Hugging Face hub, ``hf:owner/name:config@revision``, through the library ``datasets``.

What ``datasets`` has downloaded and written to its own cache is remembered by commit, in ``hub`` of vpbench's cache folder. From
then on the data set is opened from there, without network and whatever has changed on the hub.
"""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.compute as pc
from huggingface_hub.errors import HfHubHTTPError

from vpbench.core.errors import DataError, UsageError
from vpbench.core.file_names import file_name
from vpbench.core.files import write_atomically
from vpbench.core.hub import HubData, hub_api, hub_errors, hub_token
from vpbench.core.names import counted
from vpbench.core.user_folders import cache_root
from vpbench.data.flaws import Flaw
from vpbench.data.raw import RawData
from vpbench.data.sources._columns import choose_columns
from vpbench.data.sources._split_names import split_of
from vpbench.data.sources.parquet import Part, data_of
from vpbench.data.target import Target

OFFLINE = "Without network, what was opened once is opened from the cache."


def pinned_now(path: str) -> str:
    """A data set's name with the commit that its revision stands for now, or when it was last seen.

    Raises:
        DataError: when it does not exist, or the hub cannot be reached and it was never opened here.
        UsageError: for a name of another form.
    """
    data = HubData.parse(path)
    if data.is_pinned:
        return path
    try:
        with hub_errors(data.repository, DataError, OFFLINE):
            found = hub_api().dataset_info(data.repository, revision=data.revision).sha
    except DataError as error:
        found = None if isinstance(error.__cause__, HfHubHTTPError) else _last_seen(data)  # an answer of the hub holds
        if not found:
            raise
        warnings.warn(f"{error} Taken from there: {data} at commit {found[:12]}.", stacklevel=2)
    return str(HubData(data.repository, data.config, found))


def read(path: str, columns: Mapping[str, str] | None = None, target: Target = "class", skip_unreadable: bool = False) -> RawData:
    """A data set of the hub. Its splits are those of the hub, by their usual names; others are left out with a note.

    Args:
        path: ``hf:owner/name``, optionally with ``:config`` and ``@revision``.
        columns: by ``image``, ``label`` or ``mask``, and ``split``; by default the usual names.
        target: whether images have labels or masks.
        skip_unreadable: whether images that cannot be decoded are left out, for which every image is decoded once.

    Raises:
        DataError: in one line: the data set, the value and how to fix it.
    """
    data = HubData.parse(pinned_now(str(path)))
    tables, given = _tables(data), columns or {}
    splits = _splits(data, list(tables), by_column="split" in given)
    parts = [Part(f"{data} ({name})", split, tables[name]) for name, split in splits.items()]
    left_out = [f"{name} ({counted(len(table), 'row')})" for name, table in tables.items() if name not in splits]
    notes = [Flaw(f"Ignored, as their names say no split: {', '.join(left_out)}.")] if left_out else []
    chosen = choose_columns(parts[0].table.schema, given, str(data), with_split=False, target=target)
    return data_of(str(data), parts, chosen, notes, _contents, skip_unreadable=skip_unreadable)


def _splits(data: HubData, names: Sequence[str], *, by_column: bool) -> dict[str, str]:
    """``train``, ``val`` or ``test`` by the hub's name of a split; all empty where a column says it, or there is only one.

    Raises:
        DataError: when there are several and none of a usual name.
    """
    known = {name: split for name in names if (split := split_of(name))}
    if by_column or len(names) == 1:
        return dict.fromkeys(names, "")
    if not known:
        raise DataError(
            f"{data}: none of its splits ({', '.join(names)}) has a usual name, train, val or test; if a column says the split "
            "of each image, name it with --columns split=NAME."
        )
    return known if len(set(known.values())) > 1 else dict.fromkeys(known, "")


def _tables(data: HubData) -> dict[str, pa.Table]:
    """The table of each split, memory-mapped."""
    record = _record(data)
    files = _recorded(record)
    if files is None:
        files = _downloaded(data)
        record.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(record, lambda path: path.write_text(json.dumps(files, indent=1), encoding="utf-8"))
    return {split: pa.concat_tables(map(_mapped, names)) for split, names in files.items()}


def _mapped(file: str) -> pa.Table:
    return pa.ipc.open_stream(pa.memory_map(file)).read_all()


def _downloaded(data: HubData) -> dict[str, list[str]]:
    """Arrow files by split, from the cache of ``datasets``.

    Raises:
        UsageError: for a version of ``datasets`` that would run code from the repository.
    """
    if int(datasets.__version__.partition(".")[0]) < 4:
        raise UsageError(f"datasets {datasets.__version__} can run code of a repository: pip install 'datasets>=4'.")
    if not sys.stderr.isatty():
        datasets.disable_progress_bars()
    with hub_errors(data.repository, DataError, OFFLINE):
        try:
            loaded: Any = datasets.load_dataset(
                data.repository, data.config, revision=data.revision, token=hub_token(), keep_in_memory=False
            )
        except datasets.exceptions.DatasetNotFoundError as error:
            raise DataError(f"{data}: {_one_line(error)}") from error
        except (ValueError, RuntimeError, NotImplementedError, datasets.exceptions.DatasetsError) as error:
            hint = f" Say hf:{data.repository}:CONFIG." if "onfig name is missing" in str(error) else ""
            raise DataError(f"{data} cannot be loaded: {_one_line(error)}{hint}") from error
    return {str(split): [file["filename"] for file in part.cache_files] for split, part in loaded.items()}


def _one_line(error: BaseException, length: int = 400) -> str:
    text = " ".join(str(error).split())
    return text if len(text) <= length else f"{text[:length]}..."


def _records(data: HubData) -> Path:
    return cache_root() / "hub" / file_name(data.repository.replace("/", "__")) / file_name(data.config or "default")


def _record(data: HubData) -> Path:
    return _records(data) / f"{data.revision}.json"


def _recorded(record: Path) -> dict[str, list[str]] | None:
    """What was remembered of a commit; None where there is nothing, or its files are gone."""
    with suppress(OSError, ValueError, AttributeError):
        files: dict[str, list[str]] = json.loads(record.read_text(encoding="utf-8"))
        if files and all(Path(name).is_file() for names in files.values() for name in names):
            return files
    return None


def _last_seen(data: HubData) -> str | None:
    """The commit that was opened last of all whose files are still there."""
    records = sorted(_records(data).glob("*.json"), key=lambda record: record.stat().st_mtime, reverse=True)
    return next((record.stem for record in records if _recorded(record)), None)


def _contents(column: pa.ChunkedArray, origin: str) -> pa.ChunkedArray:
    """The bytes of images, from the files that ``datasets`` has downloaded where a row has the path alone.

    Raises:
        DataError: for a path that leads out of the hub's cache, since rows are others' work.
    """
    found = pc.struct_field(column, "bytes")
    if not found.null_count or column.type.get_field_index("path") < 0:
        return found
    homes = [Path(place).resolve() for place in _caches()]
    paths = pc.struct_field(column, "path").to_pylist()
    images = [
        _content(path, homes, row, origin) if content is None else content
        for row, (content, path) in enumerate(zip(found.to_pylist(), paths, strict=True))
    ]
    return pa.chunked_array([images], pa.large_binary())


def _caches() -> Sequence[str]:
    from huggingface_hub import constants

    return [constants.HF_HUB_CACHE, datasets.config.HF_DATASETS_CACHE, datasets.config.DOWNLOADED_DATASETS_PATH]


def _content(path: str | None, homes: Sequence[Path], row: int, origin: str) -> bytes | None:
    if not path:
        return None
    place = Path(path).resolve()
    if not any(place.is_relative_to(home) for home in homes):
        raise DataError(f"{origin}: row {row} names a file outside of the hub's cache, {path!r}; it is not read.")
    try:
        return place.read_bytes()
    except OSError as error:
        raise DataError(f"{origin}: row {row}: {path} cannot be read ({error.strerror or error}).") from error
