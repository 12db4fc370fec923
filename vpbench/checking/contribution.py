"""Rows to publish: what a file of them is checked for before it stands beside those of others in ``results/published``.

A file is one study, as ``vpbench export --publish`` writes it. Every row must be a run of vpbench from a clean commit, with the
protocol of its suite, with numbers that agree with each other, and without anything on the machine or the person behind it.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow as pa
from pydantic import BaseModel, ValidationError

from vpbench.checking.contribution_columns import column_faults, missing_values
from vpbench.checking.contribution_numbers import odd_numbers
from vpbench.checking.contribution_origin import origin_fault
from vpbench.checking.contribution_sizes import Sizes
from vpbench.checking.equal_budgets import SearchedRun, budget_faults
from vpbench.checking.personal_data import personal_data
from vpbench.checking.suite_protocol import Protocols
from vpbench.core.cards import first_error
from vpbench.core.errors import StoreError, UsageError
from vpbench.core.escaping import one_line
from vpbench.core.names import counted
from vpbench.execution.spec_columns import spec_columns
from vpbench.models.registry import current_options
from vpbench.spec.recipe import Recipe
from vpbench.spec.run_spec import Preprocess, RunSpec, Search
from vpbench.store.checked_parquet import checked
from vpbench.store.importing import open_source, plan_merge
from vpbench.store.plausible import implausible
from vpbench.store.reading import columns_in
from vpbench.store.schema import COLUMNS, SETTLED, is_newer, migrated
from vpbench.store.store import Store

_RECORDED = ("vpbench_version", "python", "torch", "timm", "platform", "device")
PARQUET = b"PAR1"  # the first and the last bytes of such a file
_MOST_FAULTS = 20  # of a file, that are shown

Row = dict[str, Any]


@dataclass(frozen=True)
class Contribution:
    """A file that was checked.

    Attributes:
        rows: how many it has, as far as it can be read.
        content: what they are, for people.
        faults: sentences on what is wrong with it; none: it can be published.
    """

    path: Path
    rows: int
    content: str
    faults: tuple[str, ...]


def check_contributions(given: Iterable[Path]) -> list[Contribution]:
    """Check files of rows, each against the others and those beside it.

    Args:
        given: parquet files, and folders whose parquet files are meant.

    Raises:
        UsageError: for a file that is not there, or a folder without any.
    """
    files = list(dict.fromkeys(file for place in given for file in _files(place)))
    beside = [file for place in dict.fromkeys(file.parent for file in files) for file in sorted(place.glob("*.parquet"))]
    every = list(dict.fromkeys([*beside, *files]))
    protocols = Protocols()
    return [_checked(file, [other for other in every if not other.samefile(file)], protocols) for file in files]


def _files(place: Path) -> list[Path]:
    if place.is_dir():
        found = sorted(place.glob("*.parquet"))
        if not found:
            raise UsageError(f"{place} has no parquet files to check.")
        return found
    if not place.is_file():
        raise UsageError(f"{place} does not exist: give a parquet file of 'vpbench export --publish', or a folder of such.")
    return [place]


def _checked(path: Path, others: Sequence[Path], protocols: Protocols) -> Contribution:
    try:
        table = _read(path)
    except (UsageError, StoreError) as error:
        return Contribution(path, 0, "", (str(error),))
    rows = table.to_pylist()
    faults = _Faults()
    for place, reason in implausible(table).items():
        faults.add(reason, rows[place])
    if not faults.by_text:  # the others rely on columns that a row needs
        _add_row_faults(rows, faults, protocols)
    if not faults.by_text:
        for text in _digest_faults(rows, others, protocols):
            faults.add(text)
    for text in _conflicts(path, others):
        faults.add(text)
    return Contribution(path, len(rows), _content(rows), tuple(faults.sentences()))


def _read(path: Path) -> pa.Table:
    """The rows of a file, in the columns of this version.

    Raises:
        StoreError: when it is no file of vpbench's, or not as vpbench wrote it.
        UsageError: when a run is in it twice.
    """
    again = "write it with: vpbench export --publish --to FILE.parquet"
    try:
        content = path.read_bytes()
    except OSError as error:
        raise StoreError(f"it cannot be read: {error.strerror or error}") from error
    if content[:4] == PARQUET and content[-4:] != PARQUET:
        raise StoreError(f"it is cut off or damaged, as it does not end like a parquet file; copy it again, or {again}")
    try:
        line = checked(content)
        raw, version = columns_in(content)
        table = migrated(raw)
        table.validate(full=True)
    except Exception as error:  # of pyarrow, whatever is wrong with a file of another program
        raise StoreError(f"it is no readable file of rows ({one_line(str(error)).strip()[:200]}); {again}") from error
    if not version.isdecimal() or line is None:
        raise StoreError(f"it has no {'checksum' if version.isdecimal() else 'schema version'}; {again}")
    if is_newer(version):
        raise StoreError(f"a later vpbench wrote it (schema version {version}); install that one to check it")
    if surplus := [name for name in table.column_names if name not in COLUMNS]:
        raise StoreError(f"it has columns that no row of vpbench has: {', '.join(map(one_line, surplus))}; {again}")
    if faults := "; ".join(column_faults(raw, int(version))):
        raise StoreError(f"{faults}; {again}")
    if not len(table):
        raise StoreError("it has no rows")
    twice = [run_id for run_id, times in Counter(table["run_id"].to_pylist()).items() if times > 1]
    if twice:
        raise UsageError(f"{counted(len(twice), 'run')} twice in it, the first {twice[0]}; {again}")
    return table


class _Faults:
    """Equal faults of many rows together."""

    def __init__(self) -> None:
        self.by_text: dict[str, list[str]] = defaultdict(list)

    def add(self, text: str, row: Mapping[str, Any] | None = None) -> None:
        self.by_text[text] += [] if row is None else [_label(row)]

    def sentences(self) -> Iterator[str]:
        for text, labels in list(self.by_text.items())[:_MOST_FAULTS]:
            first = f"{labels[0]}: " if labels else ""
            others = f" (and of {counted(len(labels) - 1, 'other run')})" if len(labels) > 1 else ""
            yield f"{first}{text}{others}"
        if (more := len(self.by_text) - _MOST_FAULTS) > 0:
            yield f"and {counted(more, 'other fault')}"


def _label(row: Mapping[str, Any]) -> str:
    return one_line(f"{row['method']} on {row['dataset']}, seed {row['seed']}, run {str(row['run_id'])[:8]}")


def _add_row_faults(rows: Sequence[Row], faults: _Faults, protocols: Protocols) -> None:
    specified: list[tuple[Row, RunSpec]] = []
    searched: list[SearchedRun] = []
    there = {row["run_id"]: row for row in rows}
    for row in rows:
        for text in (*_provenance(row), *personal_data(row), *missing_values(row), *odd_numbers(row)):
            faults.add(text, row)
        if row["stage"] == "shift":
            if there.get(row["trained_run"], {}).get("status") != "ok":
                faults.add(f"it is a test of the model of run {row['trained_run']}, which is not in the file", row)
            continue
        try:
            spec, search = _specification(row)
        except StoreError as error:
            faults.add(str(error), row)
            continue
        for text in _protocol(row, spec, search, protocols):
            faults.add(text, row)
        if row["status"] == "ok":
            specified.append((row, spec))
        if search is not None:
            searched.append(SearchedRun(row, spec, search))
    if not faults.by_text:
        for text in budget_faults(searched):
            faults.add(text)
        sizes = Sizes()
        for row, spec in specified:
            for text in sizes.faults(row, spec):
                faults.add(text, row)


def _provenance(row: Row) -> Iterator[str]:
    """Where the row comes from, and that it is final."""
    if row["status"] not in SETTLED:
        yield f"it is {row['status']}, which another attempt may change; leave it out"
    if fault := origin_fault(row):
        yield fault
    if missing := [name for name in _RECORDED if not row[name]]:
        yield f"it does not record {', '.join(missing)}"
    if not row["recipe_source"]:
        yield "it does not say where its recipe comes from (recipe_source)"


def _specification(row: Row) -> tuple[RunSpec, Search | None]:
    """
    Raises:
        StoreError: when the row has none that can be read.
    """
    try:
        spec = RunSpec.model_validate(json.loads(row["spec"]))
        return spec, Search.model_validate_json(row["search"]) if row["search"] else None
    except ValidationError as error:
        raise StoreError(f"its specification is that of another version ({first_error(error)})") from error
    except (TypeError, ValueError, RecursionError) as error:
        raise StoreError("it has no readable specification") from error


def _protocol(row: Row, spec: RunSpec, search: Search | None, protocols: Protocols) -> Iterator[str]:
    """That the row is of the run that its specification describes, and that this one follows the suite's protocol."""
    for column, value in spec_columns(spec).items():
        if row[column] != value and not (column == "weights_sha256" and value is None):
            yield f"its {column} is {row[column]}, and by its specification {value}"
            return
    for column, same in _repeated(row, spec).items():
        if not same:
            yield f"its {column} is not that of its specification"
            return
    if (spec.stage is None) != (search is None):
        yield f"its stage is {spec.stage}, and {'no ' if search is None else 'a '}search is named"
        return
    if spec.stage == "final" and spec.search != search:
        yield "its search is another than its specification's"
        return
    if spec.backbone.weights != "random" and not row["weights_sha256"]:
        yield "it does not record the hash of its backbone's weights"
    yield from protocols.faults(row, spec, search)


def _repeated(row: Row, spec: RunSpec) -> dict[str, bool]:
    """Whether the columns that hold JSON say what the specification says, by name."""
    options = _options(spec.method.name, json.dumps(spec.method.config))
    return {
        "recipe": _parsed(Recipe, row["recipe"]) == spec.recipe,
        "preprocess": _parsed(Preprocess, row["preprocess"]) == spec.preprocess,
        "method_config": _options(spec.method.name, row["method_config"]) == options,
    }


@lru_cache
def _parsed(kind: type[BaseModel], text: str | None) -> BaseModel | None:
    """None for what cannot be read."""
    with suppress(ValidationError):
        return kind.model_validate_json(text or "")
    return None


@lru_cache
def _options(method: str, text: str | None) -> dict[str, Any] | None:
    """A method's options by their present names; None for what cannot be read."""
    with suppress(TypeError, ValueError, RecursionError):
        found = json.loads(text or "")
        return current_options(method, found) if isinstance(found, dict) else None
    return None


def _digest_faults(rows: Sequence[Row], others: Sequence[Path], protocols: Protocols) -> Iterator[str]:
    """Data sets of suites whose images differ from those of other rows with as many: another version, or a damaged copy."""
    known: dict[tuple[Any, ...], tuple[str, str]] = {}
    for other in others:
        with suppress(StoreError):  # reported when that file is checked
            for row in open_source(other).rows.to_pylist():
                known.setdefault(_data_key(row), (row["data_digest"], str(other)))
    for row in rows:
        digest, place = known.setdefault(_data_key(row), (row["data_digest"], "the file itself"))
        if digest != row["data_digest"] and not protocols.is_own(row["suite"]):
            yield f"{row['dataset']} has other images than in {place}, by its data_digest"
            return


def _data_key(row: Row) -> tuple[Any, ...]:
    return row["suite"], row["dataset"], row["n_train"], row["n_val"], row["n_test"]


def _conflicts(path: Path, others: Sequence[Path]) -> Iterator[str]:
    """Runs that another file has with other numbers."""
    sources = []
    for file in (*others, path):
        with suppress(StoreError):
            sources.append(open_source(file))
    with TemporaryDirectory() as nowhere:
        merge = plan_merge(Store(nowhere), sources)
    for conflict in merge.conflicts:
        if conflict["source"] == str(path):
            pairs = [f"{name} {old} there and {new} here" for name, (old, new) in conflict["differ"].items()]
            other = merge.new[conflict["run_id"]].path
            yield f"{_label(conflict)} is in {one_line(str(other))}, too, with other numbers: {', '.join(pairs)}"


def _content(rows: Sequence[Row]) -> str:
    """Counts of methods and data sets, and names of the suites."""
    suites, methods, datasets = ({row[name] for row in rows} for name in ("suite", "method", "dataset"))
    named = ", ".join(sorted(one_line(str(name)) for name in suites))
    return f"{counted(len(rows), 'row')}, {counted(len(methods), 'method')}, {counted(len(datasets), 'data set')}, suite {named}"
