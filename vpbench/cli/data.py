"""``vpbench data``: which published data sets there are, which are on this machine, and how the others get there."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vpbench.cli.convert import convert
from vpbench.cli.data_options import Root, Suite, chosen
from vpbench.cli.data_progress import stepwise
from vpbench.cli.streams import warnings_as_lines
from vpbench.cli.strict import group_of_commands

if TYPE_CHECKING:
    from vpbench.data.doctor import Finding, Verification

FAILED, NO_DATA, INTERRUPTED = 1, 3, 130

app = group_of_commands("List, fetch, check and convert published data sets.")

AsJson = Annotated[bool, typer.Option("--json", help="As JSON, for programs.")]


@app.command("list")
def list_datasets(as_json: AsJson = False) -> None:
    """List all data sets: group, classes, images, licence.

    Examples:

    \b
      vpbench data list
      vpbench data list --json
    """
    from vpbench.cli.listing import print_entries
    from vpbench.data.catalog import dataset_card
    from vpbench.reporting.describe import listing

    with warnings_as_lines():
        entries = [{**entry, "licence": dataset_card(entry["name"]).licence} for entry in listing("datasets")]
    if as_json:
        _as_json(entries)
        return
    print_entries(entries)


@app.command()
def doctor(
    ids: Annotated[
        list[str] | None, typer.Argument(metavar="NAME...", help="Data sets; default: all.", show_default=False)
    ] = None,
    suite: Suite = None,
    data_root: Root = None,
    as_json: AsJson = False,
) -> None:
    """Show which data sets are ready, and what is missing of the others. Reads lists and file sizes, no images.

    Ends with 0 when all of them are ready, else with 1.

    Examples:

    \b
      vpbench data doctor
      vpbench data doctor --suite vtab1k
      vpbench data doctor cub flowers --data-root /data --json
    """
    from vpbench.data.catalog import dataset_card
    from vpbench.data.doctor import examine
    from vpbench.data.places import data_root as resolve

    root = resolve(data_root)
    findings = [examine(name, dataset_card(name), root) for name in chosen(ids, suite, everything=True)]
    if as_json:
        _as_json([_finding(one) for one in findings])
    else:
        _show(findings, root)
        _show_way([one.name for one in findings if not one.ready], suite)
    if not all(one.ready for one in findings):
        raise typer.Exit(FAILED)


@app.command()
def get(
    ids: Annotated[list[str] | None, typer.Argument(metavar="NAME...", help="Data sets.", show_default=False)] = None,
    suite: Suite = None,
    data_root: Root = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be fetched and stop.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Fetch and unpack again whatever is there.")] = False,
) -> None:
    """Fetch data sets, check and unpack them. An interrupted transfer resumes when the command is repeated.

    Examples:

    \b
      vpbench data get cub flowers --data-root /data
      vpbench data get --suite fgvc --dry-run
    """
    from vpbench.core.errors import DataError
    from vpbench.data.catalog import dataset_card
    from vpbench.data.get import get_dataset
    from vpbench.data.places import data_root as resolve

    root = resolve(data_root)
    cards = {name: dataset_card(name) for name in chosen(ids, suite)}
    by_hand: list[str] = []
    if dry_run:
        for name, card in cards.items():
            try:
                _dry_run(name, card, root, force)
            except DataError as error:  # it is got by hand, which ends nothing where others are fetched
                if len(cards) == 1:
                    raise
                typer.echo(f"{name}: by hand. {error}")
                by_hand.append(name)
        _show_way(by_hand, suite)
        return
    findings: list[Finding] = []
    for name, card in cards.items():
        try:
            with stepwise(name) as on_step:
                findings.append(get_dataset(name, card, root, force=force, on_step=on_step))
        except DataError as error:
            if len(cards) == 1:
                raise
            by_hand.append(name)
            typer.echo(f"vpbench: {name}: {' '.join(str(error).split())}", err=True)
        except KeyboardInterrupt:
            typer.echo(f"vpbench: interrupted; what came of {name} is kept, the same command continues.", err=True)
            raise typer.Exit(INTERRUPTED) from None
    _show(findings, root)
    if by_hand:
        _show_way(by_hand, suite)
        raise typer.Exit(NO_DATA)
    if not all(one.ready for one in findings):
        raise typer.Exit(FAILED)


@app.command()
def verify(
    ids: Annotated[list[str], typer.Argument(metavar="NAME...", help="Data sets.")],
    data_root: Root = None,
    images: Annotated[bool, typer.Option("--images", help="Decode every image, too.")] = False,
    as_json: AsJson = False,
) -> None:
    """Compare data sets with their cards: classes, images per split, the split list's sha256, and whether images decode.

    Ends with 0 when nothing is wrong, else with 1.

    Examples:

    \b
      vpbench data verify digits
      vpbench data verify cub --images --data-root /data
    """
    from vpbench.core.counting import counting
    from vpbench.data.catalog import dataset_card
    from vpbench.data.doctor import verify as compare
    from vpbench.data.places import data_root as resolve

    root = resolve(data_root)
    results = []
    for name, card in {name: dataset_card(name) for name in chosen(ids, None)}.items():
        with counting(f"decoding {name}") as on_progress:
            results.append(compare(name, card, root, images=images, on_progress=on_progress))
        if not as_json:
            _show_verification(results[-1])
    if as_json:
        _as_json([_verification(one) for one in results])
    if any(one.problems for one in results):
        raise typer.Exit(FAILED)


@app.command()
def cache(
    clear: Annotated[
        str | None, typer.Option(metavar="KIND", help="Remove images, activations, or all; they are made again when needed.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show what the caches take: decoded images, and activations of frozen blocks.

    Both lie in VPBENCH_CACHE or the user's cache folder. Activations take 20 GiB at most, or what VPBENCH_ACTIVATIONS says
    (500M, 50G, 0 for none); those that were used longest ago are removed first.

    Examples:

    \b
      vpbench data cache
      vpbench data cache --clear activations
    """
    from dataclasses import asdict

    from rich.filesize import decimal

    from vpbench.core.names import unknown
    from vpbench.data.caches import KINDS, cache_use, clear_cache

    if clear not in (None, "all", *KINDS):
        raise unknown("kind of cache", str(clear), ["all", *KINDS])
    freed = sum(clear_cache(kind) for kind in KINDS if clear in ("all", kind))
    use = cache_use()
    if as_json:
        _as_json([{**asdict(one), "folder": str(one.folder)} for one in use])
        return
    if clear:
        typer.echo(f"{decimal(freed)} removed.")
    for one in use:
        most = f" of at most {decimal(one.limit)}" if one.limit is not None else ""
        typer.echo(f"{one.kind:12} {one.entries:6} entries  {decimal(one.size)}{most}  {one.folder}")


app.command()(convert)


def _as_json(value: Any) -> None:
    import json

    typer.echo(json.dumps(value, indent=2))


def _finding(one: Finding) -> dict[str, Any]:
    return {"name": one.name, "status": one.status, "folder": str(one.folder) if one.folder else None, "detail": one.detail}


def _verification(one: Verification) -> dict[str, Any]:
    from dataclasses import asdict

    from vpbench.data.doctor import NAMED

    return {
        **asdict(one),
        "folder": str(one.folder) if one.folder else None,
        "unreadable": len(one.unreadable),
        "first_unreadable": list(one.unreadable[:NAMED]),
    }


def _show(findings: list[Finding], root: Path) -> None:
    """One line per data set; below it, what there is or what to do. What is to be done about several stands behind all."""
    from collections import Counter

    from vpbench.core.extras import runnable
    from vpbench.data.how_to_get import shared_sentences

    advice, shared = shared_sentences({one.name: one.detail for one in findings if one.status == "missing"})
    wide = max((len(one.name) for one in findings), default=0)
    for one in findings:
        typer.echo(f"{one.name:{wide}}  {one.status:12}  {one.folder or ''}".rstrip())
        if one.status != "built in" and (said := advice.get(one.name, one.detail)):
            typer.echo(f"    {runnable(said)}")
    for sentence, names in shared.items():
        who = "Each that is missing" if len(names) == len(advice) else ", ".join(names)
        typer.echo(f"{who}: {runnable(sentence)}")
    if findings:
        others = Counter(one.status for one in findings if not one.ready)
        counted = "".join(f", {number} {status}" for status, number in others.items())
        typer.echo(
            f"{sum(one.ready for one in findings)} of {len(findings)} ready{counted}. "
            f"Data root: {root} (--data-root FOLDER or VPBENCH_DATA)"
        )


def _show_way(names: list[str], suite: str | None) -> None:
    """The commands that get the data sets of a suite, where many paragraphs are above."""
    from vpbench.data.conversion import convertible
    from vpbench.data.how_to_get import how_to_get

    if suite is not None and any(name in convertible("tfds") for name in names):
        typer.echo(how_to_get(names, suite))


def _show_verification(one: Verification) -> None:
    from vpbench.core.extras import runnable
    from vpbench.data.doctor import NAMED

    typer.echo(f"{one.name}: {one.state}{f', {one.folder}' if one.folder else ''}")
    if one.missing:
        typer.echo(f"    {runnable(one.missing)}")
    if one.counts:
        typer.echo("    " + ", ".join(f"{part} = {value}" for part, value in one.counts.items()))
    if one.split_sha256:
        compared = "as on its card" if one.expected_sha256 == one.split_sha256 else "its card has none to compare with"
        typer.echo(f"    split list sha256 {one.split_sha256}" + (f" ({compared})" if not _other_list(one) else ""))
    if one.decoded is not None:
        typer.echo(f"    {one.decoded - len(one.unreadable)} of {one.decoded} images can be read")
    for problem in () if one.missing else one.problems:
        typer.echo(f"    wrong: {problem}")
    for line in one.unreadable[:NAMED]:
        typer.echo(f"      {line}")
    if len(one.unreadable) > NAMED:
        typer.echo(f"      and {len(one.unreadable) - NAMED} more")
    if one.note:
        typer.echo(f"    note: {one.note}")


def _other_list(one: Verification) -> bool:
    return one.expected_sha256 not in (None, one.split_sha256)


def _dry_run(name: str, card: Any, root: Path, force: bool) -> None:
    from rich.filesize import decimal

    from vpbench.data.doctor import examine
    from vpbench.data.get import plan_steps

    found = examine(name, card, root)
    if found.ready and not force:
        typer.echo(f"{name}: {found.status}, nothing to fetch")
        return
    for step in plan_steps(card, root):
        size = decimal(step.download.size) if step.download.size else "size not known"
        if step.complete and not force:
            state = f"there already, {decimal(step.done)}"
        else:
            state = size if force or not step.done else f"{size}, {decimal(step.done)} of it are there"
        unpacked = ", unpacked" if step.download.unpack else ""
        typer.echo(f"{name}: {step.download.url} to {step.target} ({state}{unpacked})")
