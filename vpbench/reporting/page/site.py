"""From a results folder to the files of a page."""

from __future__ import annotations

import warnings
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined

from vpbench.core.errors import StoreError
from vpbench.core.version import __version__
from vpbench.reporting.page.leaderboard import Standings, standings
from vpbench.reporting.page.links import OWN_PAGE, Place, places
from vpbench.reporting.page.methods import FIDELITIES, MethodPage, method_pages
from vpbench.reporting.page.pictures import Plot, draw_all, without_folder
from vpbench.reporting.page.publishing import check_replaceable, publish
from vpbench.reporting.page.quantities import quantity
from vpbench.reporting.page.run_pages import Known, run_page
from vpbench.reporting.rows import load_rows
from vpbench.reporting.runs import Filters, Names
from vpbench.store.store import Store

ASSETS = ("style.css", "table.js")
MOST_FAILURES = 200  # listed on the first page; more are counted


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
) -> Path:
    """Write the store as a static site that opens from the disk; the path of its first page.

    Args:
        results: the results folder.
        folder: new, empty, or an earlier page, which is replaced as a whole.
        dataset, suite, backbone, method: keep only these: one name, names with commas between them, or a list.
        seed: keep only this seed.
        figures: whether to draw what the store has data for.
        own_page: with more runs than this, runs that differ in their seed share a page, and figures are overviews.

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
        plots = draw_all(store, runs, keep, site, len(kept) > own_page) if figures else []
        pages = method_pages(kept, ranked.results)
        _write(site / "index.html", "index.html", root="", **_index(kept, ranked, plots, pages, where, broken))
        for page in pages:
            _write(site / page.file, "method.html", root="../", page=page, fidelities=FIDELITIES)
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
        raise StoreError(
            f"no runs in {store.folder}. Fill it: vpbench run --methods linear,vpt --suite mini --results {store.folder}"
        )
    return runs, [without_folder(" ".join(str(warning.message).split()), store) for warning in caught]


def _index(
    runs: pd.DataFrame, ranked: Standings, plots: list[Plot], pages: list[MethodPage], where: dict[Any, Place], broken: list[str]
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
    known = Known(store, [str(name) for name in runs.columns])
    records = dict(zip(runs.index, runs.to_dict("records"), strict=True))
    for index, place in where.items():
        by_file.setdefault(place.file, []).append((index, place.anchor))
    (site / "runs").mkdir()
    for file, members in by_file.items():
        members.sort(key=lambda member: (quantity("seed", records[member[0]]["seed"]).zfill(12), member[1]))
        own = [records[index] for index, _ in members]
        _write(site / file, "run.html", root="../", page=run_page(file, own, [anchor for _, anchor in members], known))


def _write(path: Path, template: str, **values: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = environment().get_template(template).render(version=__version__, **values)
    path.write_text(text + "\n", encoding="utf-8", newline="\n")


@lru_cache(maxsize=1)
def environment() -> Environment:
    """Templates that escape everything and know no undefined name."""
    return Environment(
        loader=PackageLoader("vpbench.reporting.page"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
