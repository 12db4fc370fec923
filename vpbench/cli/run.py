"""``vpbench run``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from vpbench.execution.plan import Plan

FAILED = 1


def run(
    methods: Annotated[str | None, typer.Option(help="Methods, with commas: insvp,vpt:shallow. Default: all six.")] = None,
    suite: Annotated[str | None, typer.Option(help="Data sets and protocol. Default: mini, which is built in.")] = None,
    data: Annotated[
        str | None, typer.Option(metavar="PATH", help="Your own images: an ImageFolder tree or a parquet file.")
    ] = None,
    data_root: Annotated[
        str | None, typer.Option(metavar="FOLDER", help="Where published data sets lie. Default: VPBENCH_DATA.")
    ] = None,
    datasets: Annotated[str | None, typer.Option(help="Only these data sets of the suite, with commas.")] = None,
    backbone: Annotated[str | None, typer.Option(help="A name of 'vpbench list backbones', or any ViT of timm.")] = None,
    weights: Annotated[
        str | None, typer.Option(metavar="FILE_OR_FOLDER", help="Weights of the backbone; 'random' for none.")
    ] = None,
    image_size: Annotated[int | None, typer.Option(min=1, metavar="N", help="Pixels; position embeddings are resampled.")] = None,
    epochs: Annotated[int | None, typer.Option(min=1, metavar="N", help="Epochs of every training.")] = None,
    seeds: Annotated[int, typer.Option(metavar="N", help="How many of the suite's seeds.")] = 1,
    setting: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="METHOD.OPTION=VALUE", help="An option; recipe.lr=0.1 for the recipe. Repeatable."),
    ] = None,
    precision: Annotated[str | None, typer.Option(help="fp32, bf16 or auto.")] = None,
    selection: Annotated[str | None, typer.Option(help="Epoch that is tested: last or best_val.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    results: Annotated[Path, typer.Option(metavar="FOLDER", help="Results folder.")] = Path("results/runs"),
    save: Annotated[
        str, typer.Option(help="What to keep beside each row: features, predictions, curve, weights, or none.")
    ] = "features,predictions,curve",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the plan and stop.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="The plan or the rows as JSON on stdout.")] = False,
) -> None:
    """Train and measure methods; what is stored already is skipped, so the same command continues an interrupted one.

    Examples:

    \b
      vpbench run    six methods on the built-in suite and backbone
      vpbench run --methods linear,vpt,insvp:released --suite mini --seeds 3
      vpbench run --data flowers.parquet --backbone vit_tiny_patch16_224 --weights vit_tiny.safetensors --image-size 96
      vpbench run --methods vpt --set vpt.prompt_length=50 --set recipe.lr=0.005 --epochs 20 --dry-run
    """
    import json

    from vpbench.api import execute_plan, plan_runs
    from vpbench.cli.progress import GridProgress
    from vpbench.execution.plan import DEFAULT_METHODS, Request

    chosen = _words(methods)
    request = Request(
        methods=tuple(chosen) if chosen is not None else DEFAULT_METHODS, suite=suite, data=data, data_root=data_root,
        datasets=_words(datasets), backbone=backbone, weights=weights, image_size=image_size, epochs=epochs, seeds=seeds,
        settings=_settings(setting or []), precision=precision, selection=selection, device=device,
    )  # fmt: skip
    kept = [] if save == "none" else _words(save) or []
    plan, store = plan_runs(request, results, kept)
    for name, raw in plan.data.items():
        if raw.note:
            typer.echo(f"note on {name}: {raw.note}", err=True)
    if dry_run:
        _show_plan(plan, as_json)
        return
    with GridProgress(plan) as progress:
        frame = execute_plan(plan, store, device, kept, progress)
    if as_json:
        typer.echo(json.dumps(json.loads(frame.to_json(orient="records", date_format="iso", double_precision=15)), indent=2))
    else:
        _summary(plan, frame, results)
    if (frame["status"] != "ok").any():
        raise typer.Exit(FAILED)


def _words(text: str | None) -> list[str] | None:
    return None if text is None else [word.strip() for word in text.split(",") if word.strip()]


def _settings(given: list[str]) -> dict[str, Any]:
    """``["vpt.prompt_length=50"]`` to a mapping; values are read as JSON where they are JSON, else as text."""
    import json

    from vpbench.core.errors import UsageError

    settings: dict[str, Any] = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise UsageError(f"--set {text}: write METHOD.OPTION=VALUE, e.g. --set vpt.prompt_length=50.")
        try:
            settings[name] = json.loads(value.replace("True", "true").replace("False", "false").replace("None", "null"))
        except json.JSONDecodeError:
            settings[name] = value
    return settings


def _show_plan(plan: Plan, as_json: bool) -> None:
    import json

    from rich.console import Console
    from rich.table import Table

    rows: list[dict[str, Any]] = [
        {
            "run_id": run.spec.run_id, "status": "stored" if run.spec.run_id in plan.stored else "missing",
            "method": run.spec.method.label, "dataset": run.spec.data.dataset, "backbone": run.spec.backbone.name,
            "weights": run.spec.backbone.weights, "seed": run.spec.seed, "epochs": run.spec.recipe.epochs,
            "lr": run.spec.recipe.peak_lr, "precision": run.spec.precision,
        }
        for run in plan.runs
    ]  # fmt: skip
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
        return
    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in rows[0]:  # on a narrow terminal, names break into lines; what tells runs apart does not
        table.add_column(column, overflow="fold", no_wrap=column in ("run_id", "status", "seed", "epochs", "precision"))
    for row in rows:
        table.add_row(*(row["run_id"][:8] if name == "run_id" else str(value) for name, value in row.items()))
    Console().print(table)
    typer.echo(
        f"{len(plan.runs)} runs, {len(plan.runs) - len(plan.missing)} stored, {len(plan.missing)} missing. Nothing was run."
    )


def _summary(plan: Plan, frame: Any, results: Path) -> None:
    """What went wrong, where the rows are, and what to do next."""
    for row in frame[frame["status"] != "ok"].itertuples():
        reason = (row.error.strip().splitlines() or [""])[-1]
        typer.echo(
            f"{row.method} on {row.dataset}, seed {row.seed}: {row.status} - {reason} (vpbench show run {row.run_id[:8]})",
            err=True,
        )
    typer.echo(
        f"{len(frame)} rows in {results}, {len(plan.missing)} of them new. Next: vpbench report --table 1 --results {results}"
    )
