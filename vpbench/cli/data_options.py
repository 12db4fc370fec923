"""Options that several commands of ``vpbench data`` have."""

from __future__ import annotations

from typing import Annotated

import typer

Root = Annotated[
    str | None, typer.Option("--data-root", metavar="FOLDER", help="Where published data sets lie. Default: VPBENCH_DATA.")
]
Suite = Annotated[str | None, typer.Option(metavar="NAME", help="The data sets of this suite.")]


def chosen(ids: list[str] | None, suite: str | None, *, everything: bool = False) -> list[str]:
    """The data sets that are meant: by name (several, or with commas), of a suite, or all."""
    from vpbench.core.errors import UsageError
    from vpbench.data.catalog import dataset_names
    from vpbench.planning.suites import suite_card

    names = [name.strip() for given in ids or () for name in given.split(",") if name.strip()]
    if suite is not None:
        if names:
            raise UsageError(f"--suite {suite} and {', '.join(names)} exclude each other; leave one out.")
        names = list(suite_card(suite).datasets)
        if not names:
            raise UsageError(f"the suite '{suite}' has no data sets of its own; name another suite or data sets.")
    elif not names:
        if not everything:
            raise UsageError("name at least one data set, or --suite SUITE (vpbench data list).")
        names = dataset_names()
    return list(dict.fromkeys(names))
