"""The rows of a results folder, shared as a data set of the hub: a leaderboard that several people add to."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import pyarrow as pa
import pyarrow.compute as pc

from vpbench.core.errors import StoreError, VpbenchError
from vpbench.core.hashing import digest
from vpbench.core.names import counted
from vpbench.reporting.make_report import make_report
from vpbench.sharing.repositories import (
    ARTEFACT_FOLDER,
    ROW_FILE,
    ROWS,
    Repository,
    check_token,
    commit,
    create_repository,
)
from vpbench.store.artefacts import ARTEFACTS, CHECKSUMS, read_checksums
from vpbench.store.exporting import to_publish, write_export
from vpbench.store.importing import Merge, Source, open_source, plan_merge
from vpbench.store.reading import COMPACTED
from vpbench.store.store import Store

TRIES = 5  # against others who commit at the same time
FILES = 50  # of rows, beyond which they become one

_FRONT_MATTER = """---
configs:
- config_name: default
  data_files:
  - split: runs
    path: {rows}/*.parquet
tags:
- vpbench
- leaderboard
---
"""


@dataclass(frozen=True)
class Pushed:
    """What was done.

    Attributes:
        page: of the repository.
        merge: of our rows into those that were there; ``conflicts`` are left out unless they are ``replaced``.
        unsettled: runs that failed, ran out of memory or time, which are not shared.
        done: whether something was committed.
    """

    page: str
    merge: Merge
    unsettled: int
    done: bool

    @property
    def sent(self) -> list[str]:
        """Ids of the runs whose rows were sent."""
        return sorted({**self.merge.new, **self.merge.better, **self.merge.replaced})


def push_rows(
    folder: Path, name: str, *, public: bool = False, artefacts: Sequence[str] = (), on_conflict: str | None = None
) -> Pushed:
    """Add the rows of a results folder to those of a repository.

    Paths of this machine are not sent, and neither are runs that went wrong, whose errors hold more of them.

    Args:
        folder: the results.
        name: ``owner/name`` of the data set, which is made if need be.
        public: whether a new one is public.
        artefacts: kinds of files beside the rows that are sent, too.
        on_conflict: ``keep`` the row there or ``replace`` it, where a run has other numbers there; None: send nothing then.

    Raises:
        StoreError: when the folder has no rows, or the hub refuses or cannot be reached.
        UsageError: without a token.
    """
    check_token()
    mine = open_source(folder)
    source = replace(mine, rows=to_publish(mine.rows))
    for _ in range(TRIES):
        repository = create_repository(name, "dataset", public=public)
        with TemporaryDirectory(prefix="vpbench-hub-") as scratch:
            there, new = Store(Path(scratch, "there")), Path(scratch, "new")
            fetch_rows(repository, there.folder)
            merge = plan_merge(there, [source], replace=on_conflict == "replace")
            pushed = Pushed(repository.page, merge, len(mine.rows) - len(source.rows), done=False)
            if not pushed.sent or (merge.conflicts and on_conflict is None):
                return pushed
            gone = _write(new, source, pushed, there, repository, artefacts)
            if commit(repository, new, f"{counted(len(pushed.sent), 'run')} by vpbench", gone):
                return replace(pushed, done=True)
    raise StoreError(f"{name}: somebody else changes it all the time; push again later.")


def fetch_rows(repository: Repository, folder: Path, artefacts: bool = False) -> None:
    """The rows of a repository as a results folder, for ``vpbench.store.importing``; nothing else of it is taken.

    Args:
        artefacts: whether the files beside the rows are fetched, too.
    """
    for file in repository.files:
        if ROW_FILE.fullmatch(file):
            repository.download(file, folder / f"{COMPACTED}{file.removeprefix(f'{ROWS}/')}")
    for file in repository.files if artefacts else ():
        first, _, rest = file.partition("/")
        run_id, _, name = rest.partition("/")
        if first == ARTEFACT_FOLDER and is_run(run_id) and name in (*ARTEFACTS.values(), CHECKSUMS):
            repository.download(file, Store(folder).artefact_path(run_id, name))


def is_run(text: str) -> bool:
    """Whether a text is the whole id of a run."""
    return len(text) == 32 and set(text) <= set("0123456789abcdef")


def _write(
    new: Path, source: Source, pushed: Pushed, there: Store, repository: Repository, artefacts: Sequence[str]
) -> list[str]:  # fmt: skip
    """Write what is to be committed; returns the files that are to be removed."""
    old = [file for file in repository.files if ROW_FILE.fullmatch(file)]
    number = 1 + max((int(file.removeprefix(f"{ROWS}/")[:6]) for file in old), default=0)
    rows = source.rows.filter(pc.is_in(source.rows["run_id"], pa.array(pushed.sent, pa.string())))
    theirs = there.read().table
    kept = theirs.filter(pc.invert(pc.is_in(theirs["run_id"], pa.array(pushed.sent, pa.string())))).select(rows.column_names)
    all_rows = pa.concat_tables([kept, rows])
    gone = old if len(old) >= FILES else []
    written = (all_rows if gone else rows).sort_by("run_id")
    path = new / ROWS / f"{number:06}-{digest([pushed.sent, repository.commit], 16)}.parquet"
    write_export(written, path)
    for run_id in pushed.sent:
        _copy_artefacts(source, run_id, new / ARTEFACT_FOLDER / run_id, artefacts)
    (new / "README.md").write_text(_card(repository.name, all_rows), encoding="utf-8")
    return gone


def _copy_artefacts(source: Source, run_id: str, target: Path, kinds: Sequence[str]) -> None:
    """Files that the run has left, with their checksums; a link is not followed."""
    if source.store is None:
        return
    for name in (ARTEFACTS[kind] for kind in kinds):
        path = source.store.artefact_path(run_id, name)
        if path.is_file() and not path.is_symlink():
            target.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target / name)
    if target.is_dir():
        known = read_checksums(source.store.artefact_path(run_id, CHECKSUMS))
        present = {name: known[name] for name in known if (target / name).is_file()}
        (target / CHECKSUMS).write_text("".join(f"{present[name]}  {name}\n" for name in sorted(present)), encoding="utf-8")


def _card(name: str, rows: pa.Table) -> str:
    """``README.md``: how to use it, and the table of accuracies as far as all rows fit into one."""
    methods, datasets = (len(pc.unique(rows[column])) for column in ("method", "dataset"))
    title = name.rpartition("/")[2]
    lines = [
        f"# {title}",
        "",
        f"{counted(len(rows), 'run')} of {counted(methods, 'method')} on {counted(datasets, 'data set')}, one row each, by "
        "vpbench: accuracy, parameters, FLOPs, latency, memory, and the whole specification.",
        "",
        "```",
        f"vpbench pull {name} --results results/{title}",
        f"vpbench report --table 1 --results results/{title}",
        f"vpbench push results/runs {name}    # adds yours",
        "```",
        "",
        _table(rows),
    ]
    return _FRONT_MATTER.format(rows=ROWS) + "\n".join(lines) + "\n"


def _table(rows: pa.Table) -> str:
    with TemporaryDirectory(prefix="vpbench-hub-") as scratch:
        Store(scratch).write_compacted(rows)
        try:
            return str(make_report(1, results=scratch, format="md"))
        except VpbenchError:  # rows that no table shows, trials of a search say
            return ""
