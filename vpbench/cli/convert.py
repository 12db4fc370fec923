"""``vpbench data convert``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vpbench.cli.data_options import Root, Suite, chosen
from vpbench.cli.data_progress import stepwise

if TYPE_CHECKING:
    from vpbench.data.conversion import Source

Ids = Annotated[list[str] | None, typer.Argument(metavar="NAME...", help="Data sets.", show_default=False)]


def convert(
    ids: Ids = None,
    suite: Suite = None,
    source: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="SOURCE",
            help="tfds: TensorFlow Datasets; original: the publisher's files. Default: original for RESISC45, else tfds.",
        ),
    ] = None,
    path: Annotated[
        Path | None,
        typer.Option(metavar="FILE_OR_FOLDER", help="What to convert; TFDS's own data folder when left out with --from tfds."),
    ] = None,
    data_root: Root = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be converted and stop.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace what an earlier conversion wrote.")] = False,
) -> None:
    """Write images of data sets as files below the data root, with the split lists that vpbench reads.

    Of several data sets those that are there are skipped, those whose files need a login or another step by hand come last, and
    one that fails does not stop the others.

    Examples:

    \b
      vpbench data convert vtab.dtd
      vpbench data convert --suite vtab1k
      vpbench data convert vtab.dsprites-location --from original \\
          --path dsprites_ndarray_co1sh3sc6or40x32y32_64x64.npz
    """
    from typing import cast, get_args

    from vpbench.core.names import unknown
    from vpbench.data.catalog import dataset_card
    from vpbench.data.conversion import MANUAL, Source, default_source, in_order
    from vpbench.data.places import data_root as resolve

    if source is not None and source not in get_args(Source):
        raise unknown("source of a conversion", source, get_args(Source))
    root, names = resolve(data_root), in_order(chosen(ids, suite))
    if len(names) > 1 and not force:
        names = _without_those_there(names, root)
    sources = {name: cast(Source, source or default_source(name)) for name in names}
    failed = _Failures(alone=len(names) == 1)
    if dry_run:
        for name, origin in sources.items():
            target = root / (dataset_card(name).folders or (name,))[0]
            first = f" ({MANUAL[name]})" if name in MANUAL else ""
            typer.echo(f"{name}: from {origin} to {target}{first}")
        _without_those_lacking(sources, failed)
    else:
        _convert_all(_without_those_lacking(sources, failed), path, root, force, failed)
    failed.end()


def _without_those_lacking(sources: dict[str, Source], failed: _Failures) -> dict[str, Source]:
    """Those that can be converted as far as installed packages go, which is said before anything is fetched."""
    from vpbench.core.errors import UsageError
    from vpbench.data.conversion import convertible, lacking

    missing = {source: lacking(source) for source in set(sources.values())}
    stopped = [name for name, source in sources.items() if name in convertible(source) and missing[source]]
    for name in stopped:
        failed.add(name, UsageError(missing[sources[name]]))
    return {name: source for name, source in sources.items() if name not in stopped}


def _without_those_there(names: list[str], root: Path) -> list[str]:
    from vpbench.data.catalog import dataset_card
    from vpbench.data.doctor import examine

    there = [name for name in names if examine(name, dataset_card(name), root).ready]
    for name in there:
        typer.echo(f"{name}: there already")
    return [name for name in names if name not in there]


def _convert_all(sources: dict[str, Source], path: Path | None, root: Path, force: bool, failed: _Failures) -> None:
    """Under one bar of the images of all data sets. An error of the only one is raised; one of several is a line on stderr."""
    from vpbench.core.counting import counting
    from vpbench.core.errors import VpbenchError
    from vpbench.data.catalog import dataset_card
    from vpbench.data.conversion import convert as write
    from vpbench.data.conversion import fetch_original

    cards = {name: dataset_card(name) for name in sources}
    sizes = {name: card.n_train + card.n_val + card.n_test for name, card in cards.items()}
    files: dict[str, Path | None] = dict.fromkeys(sources, path)
    before = 0
    for name in [name for name, source in sources.items() if source == "original" and path is None]:
        try:
            with stepwise(name) as on_step:
                files[name] = fetch_original(name, root, on_step)
        except VpbenchError as error:
            failed.add(name, error)
            del files[name]
    if not files:
        return
    with counting(f"converting {next(iter(files)) if len(files) == 1 else f'{len(files)} data sets'}") as on_progress:
        for name, file in files.items():
            try:
                typer.echo(write(name, sources[name], file, root, force=force, on_progress=_from(before, sizes, on_progress)))
            except VpbenchError as error:
                failed.add(name, error)
            before += sizes[name]


def _from(before: int, sizes: dict[str, int], on_progress: Callable[[int, int], None]) -> Callable[[int, int], None]:
    """The progress of one data set as that of all."""
    return lambda done, _: on_progress(before + done, sum(sizes.values()))


class _Failures:
    """Errors that do not stop the other data sets: each message is said once, when it is first met.

    Args:
        alone: whether there are no others, so that the error is raised.
    """

    def __init__(self, alone: bool) -> None:
        self._alone = alone
        self._names: dict[str, list[str]] = {}
        self._code = 0

    def add(self, name: str, error: Exception) -> None:
        if self._alone:
            raise error
        text = " ".join(str(error).split())
        if text not in self._names:
            typer.echo(f"vpbench: {name}: {text}", err=True)
        self._names.setdefault(text, []).append(name)
        self._code = self._code or int(getattr(error, "exit_code", 1))

    def end(self) -> None:
        """Whose the same messages were.

        Raises:
            typer.Exit: with the code of the first error, if there was one.
        """
        for first, *others in self._names.values():
            if others:
                typer.echo(f"vpbench: {', '.join(others)}: the same as {first}.", err=True)
        if self._code:
            raise typer.Exit(self._code)
