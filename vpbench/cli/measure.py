"""``vpbench measure``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from vpbench.cli.options import number
from vpbench.core.names import counted

INTERRUPTED = 130
FAILED = 1

Row = dict[str, Any]


def measure(
    methods: Annotated[
        str, typer.Option(metavar="NAMES", help="Methods, with commas: insvp,vpt:shallow. 'all': every one there is.")
    ] = "all",
    backbone: Annotated[
        str, typer.Option(metavar="NAME", help="A name of 'vpbench list backbones', or any ViT of timm.")
    ] = "vit-nano",
    image_size: Annotated[int | None, number("--image-size", 1, "Pixels. Default: the size of pretraining.")] = None,
    classes: Annotated[int, number("--classes", 1, "Classes of the head.")] = 100,
    task: Annotated[
        str, typer.Option(metavar="TASK", help="Whose head: classification, or segmentation (--set task.head=setr-pup).")
    ] = ("classification"),
    suite: Annotated[
        str | None, typer.Option(metavar="NAME", help="Options as this suite's recipes set them. Default: the methods' own.")
    ] = None,
    batch: Annotated[int, number("--batch", 1, "Images of a training step, and of inference for throughput.")] = 8,
    setting: Annotated[
        list[str] | None, typer.Option("--set", metavar="METHOD.OPTION=VALUE", help="An option of a method. Repeatable.")
    ] = None,
    repeat: Annotated[int, number("--repeat", 1, "Rounds of timing, behind one that warms up.")] = 3,
    threads: Annotated[int | None, number("--threads", 1, "Threads on a CPU.")] = None,
    device: Annotated[str, typer.Option(metavar="DEVICE", help="auto, cpu or cuda.")] = "auto",
    precision: Annotated[str, typer.Option(metavar="KIND", help="fp32, tf32 (GPUs), bf16 or auto.")] = "fp32",
    no_timing: Annotated[bool, typer.Option("--no-timing", help="Parameters and operations alone: takes seconds.")] = False,
    reported: Annotated[bool, typer.Option("--reported", help="Show what the iVPT paper's Table 8 prints, apart.")] = False,
    output: Annotated[Path | None, typer.Option(metavar="FILE.parquet", help="Write the rows, too.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="The rows as JSON on stdout.")] = False,
) -> None:
    """Measure what methods cost: parameters, operations, time and memory, with random weights and without any training.

    Times are taken in rounds, each method directly behind the plain frozen backbone; 'x plain' is the ratio of the two, which
    means more than milliseconds on a machine that others use. Operations are those of the form that is executed.

    Examples:

    \b
      vpbench measure --backbone vit-b16-in21k --threads 2
      vpbench measure --methods vpt,ivpt --set vpt.prompt_length=50 \\
          --backbone vit-b16-in21k --no-timing
      vpbench measure --backbone vit-b16-in21k --device cuda --batch 64 \\
          --output costs.parquet
      vpbench measure --suite mini --output mini.parquet  # options as in its runs
      vpbench measure --task segmentation --backbone vit-l16-in21k \\
          --image-size 512 --classes 150 --no-timing
    """
    import json

    from vpbench.measure.cost_file import check_writable, write_costs
    from vpbench.measure.cost_request import CostRequest
    from vpbench.spec.parsing import settings_of, words

    request = CostRequest(
        methods=words(methods) or [], backbone=backbone, image_size=image_size, classes=classes, batch=batch, repeat=repeat,
        threads=threads, device=device, precision=precision, suite=suite, settings=settings_of(setting or []),
        timing=not no_timing, task=task,
    )  # fmt: skip
    request.resolved()  # a mistyped name is an error before torch is imported
    if output is not None:
        check_writable(output)
    from vpbench.measure.cost_progress import measure_all
    from vpbench.measure.costs import Costs

    costs = Costs(request)
    whole = measure_all(costs)
    rows = costs.rows()
    if as_json:
        typer.echo(json.dumps({"costs": rows, "reported": _reported() if reported else []}, indent=2))
    else:
        _print_sizes(rows)
        if costs.request.timing:
            _print_times(rows)
        if reported:
            _print_reported(_reported())
    for row in rows:
        if row["status"] != "ok":
            typer.echo(f"{row['method']}: {row['status']} - {row['error']}", err=True)
    if output is not None and not whole and output.exists():
        typer.echo(f"{output} is as it was: a part does not replace it.", err=True)
    elif output is not None:
        write_costs(rows, output)
        typer.echo(f"{counted(len(rows), 'row')} in {output}.", err=True)
    if not whole:
        typer.echo("vpbench: interrupted; what was measured is above, a dash is what was not.", err=True)
        raise typer.Exit(INTERRUPTED)
    if any(row["status"] not in ("ok", "unsupported") for row in rows):
        raise typer.Exit(FAILED)


def _print_sizes(rows: list[Row]) -> None:
    first = rows[0]
    _table(
        f"Size, and operations of one image of {first['image_size']} px, {first['classes']} classes, {first['backbone']}",
        rows,
        {
            "trained": _count("params_trainable"),
            "KiB": _number("bytes_saved", 2**10, 1),
            "GFLOPs": _number("flops_forward", 1e9, 2),
            "GMACs": _number("macs_forward", 1e9, 2),
            "x plain": _number("flops_ratio", 1, 3),
            "executed": _number("flops_inference", 1e9, 2),
            "step": _number("flops_train_step", 1e9, 1),
        },
    )
    typer.echo(
        "KiB on disk. GFLOPs, multiply-adds and their ratio with every token in every block; executed: GFLOPs that a prediction\n"
        "computes; step: GFLOPs of forward and backward in training.\n"
    )
    _table("Parameters by part", [row for row in rows if row["params_by_part"]], {"parts": _parts})


def _print_times(rows: list[Row]) -> None:
    first = rows[0]
    batch = next((row["throughput_batch"] for row in rows if row["throughput_batch"]), "-")
    where = f"{first['device_name']}" + ("" if first["device"] == "cuda" else f", {counted(first['threads'], 'thread')}")
    _table(
        f"Inference, {first['precision']}, {where}",
        rows,
        {
            "ms p10": _number("latency_ms_p10", 1, 1),
            "p50": _number("latency_ms_p50", 1, 1),
            "p90": _number("latency_ms_p90", 1, 1),
            "unmerged": _number("latency_unmerged_ms_p50", 1, 1),
            "x plain": _number("latency_ratio", 1, 3),
            f"images/s of {batch}": _number("throughput", 1, 1),
            "x plain ": _number("infer_ratio", 1, 3),
        },
    )
    _table(
        f"Training in steps of {batch} images, and peak memory ({first['mem_kind'] or 'not measured yet'})",
        rows,
        {
            "step ms": _number("train_step_ms", 1, 0),
            "images/s": _number("train_images_per_s", 1, 1),
            "x plain": _number("train_ratio", 1, 3),
            "train MiB": _number("mem_train_peak", 2**20, 0),
            "infer MiB": _number("mem_infer_peak", 2**20, 0),
            **({"train J/image": _number("energy_train_j", 1, 3)} if any(row["energy_train_j"] for row in rows) else {}),
            **({"infer J/image": _number("energy_infer_j", 1, 3)} if any(row["energy_infer_j"] for row in rows) else {}),
        },
    )


def _number(column: str, scale: float, digits: int) -> Callable[[Row], str]:
    return lambda row: "-" if row[column] is None else f"{row[column] / scale:,.{digits}f}"


def _count(column: str) -> Callable[[Row], str]:
    return _number(column, 1, 0)


def _parts(row: Row) -> str:
    import json

    return ", ".join(f"{part} {count:,}" for part, count in json.loads(row["params_by_part"]).items())


def _table(title: str, rows: list[Row], columns: dict[str, Callable[[Row], str]]) -> None:
    from rich.table import Table

    from vpbench.core.terminal import Terminal

    table = Table(title=title, title_justify="left", box=None, header_style="bold", pad_edge=False)
    table.add_column("method", no_wrap=True)
    # Headings and lists of parts break between words on a narrow terminal. A figure cut off to fit would read as another one.
    cells = {name: [show(row) for row in rows] for name, show in columns.items()}
    for name, shown in cells.items():
        words = [*name.split(), *(word for cell in shown for word in cell.split())]
        table.add_column(name.strip(), justify="left" if name == "parts" else "right", min_width=max(map(len, words)))
    for row, *shown in zip(rows, *cells.values()):
        table.add_row(row["method"], *shown)
    console = Terminal()
    least = console.measure(table, options=console.options.update(width=1000)).minimum
    console.width = max(console.width, least + 1)  # rich leaves the last column's padding out of the minimum
    console.print(table)
    typer.echo()


def _reported() -> list[Row]:
    """Table 8 of the iVPT paper, as printed."""
    import csv
    from importlib.resources import files

    source = files("vpbench.benchmarks") / "reference" / "ivpt_8.csv"
    return [row for row in csv.DictReader(source.read_text(encoding="utf-8").splitlines()) if row["source"].endswith("Table 8")]


def _print_reported(figures: list[Row]) -> None:
    methods = list(dict.fromkeys(figure["method"] for figure in figures))
    cells = {(figure["method"], figure["metric"]): figure["value"] for figure in figures}
    names = list(dict.fromkeys(figure["metric"] for figure in figures if "top-1" not in figure["metric"]))
    columns: dict[str, Callable[[Row], str]] = {
        name: lambda row, name=name: cells.get((row["method"], name), "-")  # type: ignore[misc]
        for name in names
    }
    _table(f"As printed, not measured here: {figures[0]['source']}", [{"method": method} for method in methods], columns)
    notes = dict.fromkeys(figure["note"] for figure in figures if figure["note"])
    typer.echo(f"Its GFLOPs are multiply-adds, without the products inside attention; {'; '.join(notes)}.")
