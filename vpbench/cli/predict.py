"""``vpbench predict``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vpbench.cli import options

if TYPE_CHECKING:
    from vpbench.deploy.prediction import Predictor

FAILED = 1
TABLE = "table"


def predict(
    run: Annotated[str, typer.Argument(metavar="RUN", help="a run's id, a weight file, an exported folder, or owner/name (hub)")],
    paths: Annotated[list[str], typer.Argument(metavar="PATH...", help="images, folders of images, parquet files")],
    top: Annotated[int, options.number("--top", 1, "How many classes of each image, best first.", metavar="K")] = 5,
    ensemble: Annotated[
        str | None, typer.Option(metavar="RUN,...", help="More runs, with commas: their probabilities are averaged with RUN's.")
    ] = None,
    format: Annotated[str | None, typer.Option(metavar="FORMAT", help="On stdout: table, csv or json. Default: table.")] = None,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Write FILE.csv, FILE.json or FILE.parquet instead.")] = None,
    masks: Annotated[Path | None, typer.Option(metavar="FOLDER", help="Of a segmentation: write each mask there as PNG.")] = None,
    column: Annotated[str | None, typer.Option(metavar="NAME", help="The column of images in parquet files.")] = None,
    device: Annotated[str, typer.Option(metavar="DEVICE", help="auto, cpu or cuda.")] = "auto",
    batch: Annotated[int, options.number("--batch", 1, "Images of a forward pass.")] = 64,
    weights: Annotated[str | None, typer.Option(metavar="FILE", help="The backbone's weights, if they have moved.")] = None,
    results: options.Results = options.RESULTS,
) -> None:
    """Say what is on new images, with a trained model of 'vpbench run'.

    Of each image the most probable classes are shown; of a segmentation, the classes of most pixels.
    An image that cannot be read is named on stderr and left out; the exit code is 1 then.

    Examples:

    \b
      vpbench predict 3fa9 photo.jpg
      vpbench predict 3fa9 holiday/ more.parquet --top 1 --out found.csv
      # the mean of three seeds
      vpbench predict 3fa9 holiday/ --ensemble 77ab,c01d
      vpbench predict weights.safetensors photo.jpg --format json
      # a segmentation: the value of a pixel is its class
      vpbench predict 51ab street/ --masks masks/
    """
    from vpbench.core.counting import counting
    from vpbench.core.errors import DataError, UsageError
    from vpbench.core.names import counted, unknown
    from vpbench.deploy.image_list import find_images
    from vpbench.deploy.mask_images import MaskFolder
    from vpbench.deploy.prediction import Unreadable
    from vpbench.deploy.prediction_formats import TEXTS, check_out, ranked_rows, write_predictions

    if out is not None:
        if format is not None:
            raise UsageError("--out takes the format of its ending; leave out --format.")
        check_out(out)
    elif (format or TABLE) not in (TABLE, *TEXTS):
        raise unknown("value of --format", format or "", (TABLE, *TEXTS), "Parquet is written with --out FILE.parquet.")
    images = find_images(paths, column)
    total = sum(map(len, images))
    predictor = _predictor([run, *(ensemble or "").replace(" ", "").strip(",").split(",")], weights, results, device, batch)
    if masks is not None and not predictor.makes_masks:
        raise UsageError("--masks is for models of a segmentation, and this one gives one label to an image.")
    folder = MaskFolder(masks) if masks is not None else None
    count, rows = min(top, len(predictor.class_names)), []
    with counting("predict") as on_progress:
        for number, each in enumerate(predictor(image for some in images for image in some), start=1):
            if isinstance(each, Unreadable):
                typer.echo(f"skipped: {each.reason}", err=True)
            else:
                if folder is not None:
                    folder.write(each)
                rows += ranked_rows([each], predictor.class_names, count)
            on_progress(number, total)
    if not rows:
        raise DataError(f"none of {counted(total, 'image')} can be read.")
    done = len(rows) // count
    if masks is not None:
        typer.echo(f"{counted(done, 'mask')} in {masks}.", err=True)
    if out is not None:
        write_predictions(rows, out)
        typer.echo(f"predictions of {counted(done, 'image')} in {out}.", err=True)
    elif format in TEXTS:
        typer.echo(TEXTS[format](rows), nl=False)
    else:
        _print(rows)
    if skipped := total - done:
        typer.echo(f"vpbench: {counted(skipped, 'image')} of {total} skipped.", err=True)
        raise typer.Exit(FAILED)


def _predictor(runs: Sequence[str], weights: str | None, results: Path, device: str, batch: int) -> Predictor:
    from vpbench.deploy.load_run import load_run
    from vpbench.deploy.prediction import Predictor
    from vpbench.spec.device import resolve_device

    names = [name for name in runs if name]
    place = resolve_device(device)
    return Predictor([load_run(name, results=results, weights=weights, device=place) for name in names], names, place, batch)


def _print(rows: Sequence[dict[str, Any]]) -> None:
    """A line per image."""
    from rich.table import Table

    from vpbench.core.escaping import one_line
    from vpbench.core.terminal import Terminal

    most = max(row["rank"] for row in rows)
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("image", overflow="fold")
    for rank in range(1, most + 1):
        table.add_column(f"{rank}", overflow="fold")
    for name, *cells in _lines(rows, most):
        table.add_row(one_line(name), *map(one_line, cells))
    Terminal().print(table)


def _lines(rows: Sequence[dict[str, Any]], most: int) -> Iterator[list[str]]:
    for start in range(0, len(rows), most):
        ranked = rows[start : start + most]
        value = "share" if "share" in ranked[0] else "probability"
        yield [ranked[0]["image"], *(f"{row['class']} {100 * row[value]:.1f} %" for row in ranked)]
