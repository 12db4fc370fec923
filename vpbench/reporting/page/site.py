"""From a results folder to the files of a page.

The folder is replaced as a whole, and only when everything in it was written by an earlier page.
"""

from __future__ import annotations

import os
import shutil
import warnings
from collections.abc import Callable
from contextlib import suppress
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from vpbench.core.counting import Counter
from vpbench.core.errors import UsageError
from vpbench.core.escaping import visible
from vpbench.core.version import __version__
from vpbench.reporting.frame import Filters, Names, load_rows
from vpbench.reporting.no_rows import no_rows
from vpbench.reporting.page.leaderboard import Standings, standings
from vpbench.reporting.page.links import OWN_PAGE, Place, places
from vpbench.reporting.page.method_pages import MethodPage, method_pages
from vpbench.reporting.page.pictures import Drawn, draw_all, without_folder
from vpbench.reporting.page.run_pages import Shared, run_page
from vpbench.reporting.quantities import quantity
from vpbench.store.store import Store

ASSETS = ("style.css", "table.js")
MOST_FAILURES = 200  # listed on the first page; more are counted

# A line that identifies the file, then the files of the page, one per line.
MARKER = ".vpbench-page"
_FIRST_LINE = "Files of a page written by vpbench report --html; the next one replaces them."


def write_page(
    results: Path | str,
    folder: Path | str,
    *,
    dataset: Names = None,
    suite: Names = None,
    backbone: Names = None,
    method: Names = None,
    seed: int | None = None,
    figures: bool = True,
    own_page: int = OWN_PAGE,
    on_progress: Counter | None = None,
) -> Path:
    """Write the store as a static site that opens from the disk; the path of its first page.

    Args:
        results: the results folder.
        folder: new, empty, or an earlier page, which is replaced as a whole.
        dataset, suite, backbone, method: keep only these: one name, names with commas between them, or a list.
        seed: keep only this seed.
        figures: whether to draw what the store has data for.
        own_page: with more runs than this, runs that differ in their seed share a page, and figures are overviews.
        on_progress: called with the plots that are drawn, which takes most of the time.

    Raises:
        StoreError: when the store holds no run.
        UsageError: for a folder that holds anything else, cannot be written, or filters that leave nothing.
    """
    check_replaceable(Path(folder))
    store = Store(results)
    runs, broken = _load(store)
    keep = Filters.of(dataset, suite, backbone, method, seed)
    kept = keep.apply(runs)
    where = dict(zip(kept.index, places(kept, own_page), strict=True))
    ranked = standings(runs, keep, where)

    def fill(site: Path) -> None:
        for name in ASSETS:
            (site / name).write_bytes(files("vpbench.reporting.page").joinpath(name).read_bytes())
        plots = draw_all(store, runs, keep, site, len(kept) > own_page, on_progress) if figures else []
        pages = method_pages(kept, ranked.results)
        _write(site / "index.html", "index.html", root="", **_index(kept, ranked, plots, pages, where, broken))
        for page in pages:
            _write(site / page.file, "method.html", root="../", page=page)
        _write_runs(site, kept, where, store)

    return publish(Path(folder), fill)


def _load(store: Store) -> tuple[pd.DataFrame, list[str]]:
    """All runs, and a line for every file that is none; these lines are warnings too."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        runs = load_rows(store)
    for warning in caught:
        warnings.warn(warning.message, stacklevel=3)
    if runs.empty:
        raise no_rows(store)
    return runs, [without_folder(" ".join(str(warning.message).split()), store) for warning in caught]


def _index(
    runs: pd.DataFrame, ranked: Standings, plots: list[Drawn], pages: list[MethodPage], where: dict[Any, Place], broken: list[str]
) -> dict[str, Any]:
    failed = runs[runs["status"] != "ok"].sort_values(["method", "dataset", "seed", "run_id"])
    failures = [
        {
            "href": where[index].href,
            "title": f"{method} on {dataset}, seed {quantity('seed', seed)}",
            "status": quantity("status", status),
            "reason": (str(error).strip().splitlines() or [""])[-1] if isinstance(error, str) else "",
        }
        for index, method, dataset, seed, status, error in failed[["method", "dataset", "seed", "status", "error"]]
        .head(MOST_FAILURES)
        .itertuples(name=None)
    ]
    return {
        "boards": ranked.boards,
        "footer": (*ranked.footer, *broken),
        "plots": plots,
        "pages": pages,
        "failures": failures,
        "more_failures": len(failed) - len(failures),
        "n_failed": len(failed),
        "n_runs": len(runs),
        "choices": {
            "method": [page.name for page in pages],
            "backbone": sorted(runs["backbone"].dropna().unique()),
            "suite": sorted(runs["suite"].dropna().unique()),
            "dataset": sorted(runs["dataset"].dropna().unique()),
        },
    }


def _write_runs(site: Path, runs: pd.DataFrame, where: dict[Any, Place], store: Store) -> None:
    by_file: dict[str, list[tuple[Any, str]]] = {}
    shared = Shared(store, [str(name) for name in runs.columns])
    records = dict(zip(runs.index, runs.to_dict("records"), strict=True))
    for index, place in where.items():
        by_file.setdefault(place.file, []).append((index, place.anchor))
    (site / "runs").mkdir()
    for file, members in by_file.items():
        members.sort(key=lambda member: (quantity("seed", records[member[0]]["seed"]).zfill(12), member[1]))
        own = [records[index] for index, _ in members]
        _write(site / file, "run.html", root="../", page=run_page(file, own, [anchor for _, anchor in members], shared))


def _write(path: Path, template: str, **values: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = environment().get_template(template).render(version=__version__, **values)
    path.write_text(text + "\n", encoding="utf-8", newline="\n")


@lru_cache(maxsize=1)
def environment() -> Environment:
    """Templates that escape everything, show control characters and raise for undefined names."""
    return Environment(
        loader=PackageLoader("vpbench.reporting.page"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_shown,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _shown(value: Any) -> Any:
    """What a template writes: no control characters."""
    if isinstance(value, Markup):
        return Markup(visible(value))
    return visible(value) if isinstance(value, str) else value


# The folder


def publish(folder: Path, fill: Callable[[Path], None]) -> Path:
    """Let ``fill`` write a page into a scratch folder, then rename it to ``folder``.

    An interruption leaves what was there before. An earlier page is replaced; anything else is never deleted.

    Returns:
        the page's ``index.html``.

    Raises:
        UsageError: when ``folder`` holds a file that is not of an earlier page, or cannot be written.
    """
    target = folder.resolve()
    check_replaceable(folder)
    scratch = target.with_name(f".{target.name}.{os.getpid()}.partial")
    old = target.with_name(f".{target.name}.{os.getpid()}.old")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir()
        fill(scratch)
        names = [path.relative_to(scratch).as_posix() for path in scratch.rglob("*") if path.is_file()]
        (scratch / MARKER).write_text("\n".join([_FIRST_LINE, *sorted(names)]) + "\n", encoding="utf-8")
        check_replaceable(folder)  # drawing takes a while, and somebody may have put a file there
        _swap(scratch, target, old)
    except OSError as error:
        raise UsageError(f"{folder} cannot be written: {error.strerror or error}. Choose another folder with --html.") from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return folder / "index.html"


def check_replaceable(folder: Path) -> None:
    """Fail where writing a page would delete something that is not ours.

    Raises:
        UsageError: for a file, a folder with files and no marker, or a file that the marker does not list.
    """
    if not folder.exists():
        return
    if not folder.is_dir():
        raise UsageError(f"--html {folder} is a file; a page needs a folder.")
    try:
        # A link counts as a file, so that its target is never deleted.
        found = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_symlink() or not path.is_dir()}
        lines = (folder / MARKER).read_text(encoding="utf-8").splitlines() if MARKER in found else []
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"--html {folder} cannot be read: {error}. Choose another folder.") from error
    if found and lines[:1] != [_FIRST_LINE]:
        raise UsageError(f"--html {folder} is not empty and holds no earlier page: choose a new folder, or empty this one.")
    if strange := sorted(found - set(lines[1:]) - {MARKER}):
        raise UsageError(
            f"--html {folder} holds {strange[0]}, which is not of the earlier page and would be lost: "
            "move it away, or choose another folder."
        )


def _swap(new: Path, target: Path, old: Path) -> None:
    """Put ``new`` in the place of ``target``; when that fails, what was there is there again."""
    if target.exists():
        target.replace(old)
    try:
        new.replace(target)
    except OSError:
        with suppress(OSError):
            old.replace(target)
        raise
    shutil.rmtree(old, ignore_errors=True)
