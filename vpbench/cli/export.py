"""``vpbench export``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vpbench.cli import options

if TYPE_CHECKING:
    import pyarrow as pa

_Only = "Of the rows, take only this {}; several with commas."


def export(
    to: Annotated[
        str, typer.Option("--to", metavar="FORM", help="A model: folder, onnx, peft, torch. Rows: FILE.parquet, FILE.csv.")
    ],
    run: Annotated[
        str | None,
        typer.Argument(metavar="RUN", help="the model of a run: its id, a weight file, a folder, owner/name (hub)"),
    ] = None,
    out: Annotated[Path | None, typer.Option(metavar="FOLDER", help="Where a model is written. Default: named after it.")] = None,
    weights: Annotated[str | None, typer.Option(metavar="FILE", help="A model's backbone, if its weights have moved.")] = None,
    results: options.Results = options.RESULTS,
    dataset: Annotated[str | None, typer.Option(metavar="NAMES", help=_Only.format("data set"))] = None,
    suite: Annotated[str | None, typer.Option(metavar="NAMES", help=_Only.format("suite"))] = None,
    backbone: Annotated[str | None, typer.Option(metavar="NAMES", help=_Only.format("backbone"))] = None,
    method: Annotated[str | None, typer.Option(metavar="NAMES", help=_Only.format("method"))] = None,
    seed: Annotated[int | None, options.number("--seed", None, "Of the rows, take only this seed.")] = None,
    publish: Annotated[
        bool, typer.Option("--publish", help="Rows to publish: no paths of this machine, no runs that went wrong.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="What was written, as JSON, for programs.")] = False,
) -> None:
    """Write a run's trained model for other programs, or the rows of all runs to one file.

    A model is written only if it computes the same as the trained one, else the reason is said:
    'torch' loads with torch and timm alone, 'onnx' runs in ONNX Runtime (the extra onnx), 'folder' is what was trained, as
    safetensors with config and model card, for vpbench.load_run and the Hugging Face hub, and 'peft' an adapter of
    the library peft (methods lora and peft).

    Examples:

    \b
      vpbench export 3fa9 --to torch --out flowers/
      vpbench export 3fa9 --to onnx
      vpbench export weights.safetensors --to folder
      # all rows; 'vpbench import' reads them on another machine
      vpbench export --to rows.parquet
      vpbench export --to vpt.csv --method vpt --suite mini
      # to be published, when 'vpbench check --contribution' has checked it
      vpbench export --publish --to results/published/mine.parquet
    """
    from vpbench.core.errors import UsageError

    filters = {"dataset": dataset, "suite": suite, "backbone": backbone, "method": method, "seed": seed}
    if run is not None:
        if given := [name for name, value in filters.items() if value is not None]:
            raise UsageError(f"--{given[0]} chooses rows: leave it out with RUN, or leave out RUN to write rows.")
        if publish:
            raise UsageError("--publish is for rows: leave out RUN, or share a model with vpbench push.")
        _export_model(run, to, out, weights, results, as_json)
        return
    if not Path(to).suffix:
        _refuse_target(to)
    if out is not None or weights is not None:
        raise UsageError("--out and --weights are for a model: vpbench export RUN --to torch --out FOLDER.")
    _export_rows(Path(to), results, filters, publish, as_json)


def _refuse_target(to: str) -> None:
    """
    Raises:
        UsageError: for the name of a target without a run.
    """
    from vpbench.core.errors import UsageError
    from vpbench.deploy.export_target import target_registry

    if target_registry().has(to):
        raise UsageError(f"--to {to} writes the model of a run: vpbench export RUN --to {to}.")


def _export_model(run: str, to: str, out: Path | None, weights: str | None, results: Path, as_json: bool) -> None:
    import json

    from vpbench.core.errors import UsageError
    from vpbench.deploy.export_target import target_registry

    registry = target_registry()
    if not registry.has(to) and Path(to).suffix:
        known = ", ".join(registry.names())
        raise UsageError(f"--to {to} is a file of rows: leave out RUN, or write a model --to {known}, with --out FOLDER.")
    target = registry.get(to)  # an unknown name is an error before torch is imported
    from vpbench.deploy.export_run import export_run

    place, said = export_run(run, to, out, results=results, weights=weights)
    if as_json:
        typer.echo(json.dumps({"folder": str(place), "to": to, "files": sorted(path.name for path in place.iterdir())}))
    else:
        typer.echo(f"{place}: {said}." if said else f"{place}: {target.summary}.")


def _export_rows(to: Path, results: Path, filters: dict[str, str | int | None], publish: bool, as_json: bool) -> None:
    import json
    from typing import Any

    import pyarrow as pa
    import pyarrow.compute as pc

    from vpbench.core.errors import StoreError
    from vpbench.core.names import counted
    from vpbench.reporting.frame import Filters
    from vpbench.store.exporting import to_publish, write_export, writer_for
    from vpbench.store.store import Store, as_frame

    writer_for(to)
    store = Store(results)
    store.check_there()
    rows = store.read()
    for line in rows.left_out:
        typer.echo(f"warning: {line}", err=True)
    if not len(rows.table):
        raise StoreError(f"no runs in {results}; --results chooses another folder.")
    wanted: dict[str, Any] = filters
    keep = Filters.of(**wanted)
    chosen = keep.apply(as_frame(rows.table.select(["run_id", "dataset", "suite", "backbone", "method", "seed"])))
    asked = rows.table.filter(pc.is_in(rows.table["run_id"], pa.array(chosen["run_id"])))
    table = to_publish(asked) if publish else asked
    write_export(table, to)
    if publish:
        _warn_of_origins(table)
    if as_json:
        typer.echo(json.dumps({"file": str(to), "rows": len(table)}))
    elif publish:
        left = f" {counted(len(asked) - len(table), 'run')} that went wrong left out." if len(asked) > len(table) else ""
        typer.echo(f"{counted(len(table), 'row')} in {to}.{left} To check them: vpbench check --contribution {to}")
    else:
        hint = f" To read it into another folder: vpbench import {to.name}" if to.suffix == ".parquet" else ""
        typer.echo(f"{counted(len(table), 'row')} in {to}.{hint}")


def _warn_of_origins(table: pa.Table) -> None:
    """Say at once of which rows nobody can check out the code, in the words of the check of the file."""
    from collections import Counter

    from vpbench.checking.contribution_origin import origin_fault
    from vpbench.core.names import counted

    rows = table.select(["git_commit", "git_dirty"]).to_pylist()
    for fault, times in Counter(filter(None, map(origin_fault, rows))).items():
        typer.echo(f"warning: {counted(times, 'row')} cannot be published: {fault}.", err=True)
