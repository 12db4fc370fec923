"""``vpbench push``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vpbench.cli import options

UNDECIDED = 1


def push(
    given: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN... REPO", help="runs (ids, weight files, exported folders), or a results folder; then owner/name"
        ),
    ],
    results: options.Results = options.RESULTS,
    weights: Annotated[str | None, typer.Option(metavar="FILE", help="A model's backbone, if its weights have moved.")] = None,
    public: Annotated[bool, typer.Option("--public", help="Make a new repository public. Default: private.")] = False,
    artefacts: Annotated[
        str | None, typer.Option(metavar="KINDS", help="Of a results folder, also these files: curve,predictions,features.")
    ] = None,
    on_conflict: Annotated[
        str | None,
        typer.Option(metavar="CHOICE", help="Where a run has other numbers there: keep theirs, or replace them by ours."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON, for programs.")] = False,
) -> None:
    """Share trained models, or the rows of a results folder, on the Hugging Face hub. HF_TOKEN must be set.

    A model goes to a model repository, with a model card and without its backbone's weights; vpbench.load_run("owner/name") loads
    it. Rows go to a data set, which several people can add to: a leaderboard. Paths of this machine and failed runs are left out.

    Examples:

    \b
      vpbench push 3fa9 me/vpt-flowers  # one model
      vpbench push 3fa9 81c0 me/flowers --public  # several, a folder each
      vpbench push results/runs lab/leaderboard
      vpbench push results/runs lab/leaderboard --artefacts curve,predictions
    """
    from vpbench.cli.import_rows import check_choice
    from vpbench.core.errors import UsageError
    from vpbench.sharing.repositories import check_token

    runs, name = _parted(given)
    check_choice(on_conflict)
    folders = [run for run in runs if _is_results(Path(run))]
    if folders and len(runs) > 1:
        raise UsageError(f"{folders[0]} is a results folder: push it alone, and runs into another repository.")
    of_others = {"--weights": weights} if folders else {"--artefacts": artefacts, "--on-conflict": on_conflict}
    if wrong := [option for option, value in of_others.items() if value is not None]:
        what = f"models, and {runs[0]} is a results folder" if folders else f"a results folder, and {runs[0]} is none"
        raise UsageError(f"{wrong[0]} is for {what}: leave it out.")
    kinds = _kinds(artefacts)
    check_token()
    if folders:
        _push_rows(Path(folders[0]), name, public, kinds, on_conflict, as_json)
    else:
        _push_models(runs, name, results, weights, public, as_json)


def _parted(given: list[str]) -> tuple[list[str], str]:
    """What is to be pushed, and the name of the repository behind it.

    Raises:
        UsageError: when one of the two is missing, or the repository's name cannot be one.
    """
    from vpbench.core.errors import UsageError
    from vpbench.sharing.repositories import repository_name
    from vpbench.store.find_run import is_run_id

    *runs, last = given
    if is_run_id(last) or (not runs and (Path(last).exists() or "/" not in last)):
        raise UsageError(f"the repository is missing. It comes last, owner/name: vpbench push {' '.join(given)} owner/name.")
    name, _, revision = repository_name(last)
    if not runs:
        raise UsageError(f"what is to go to {last}? Say vpbench push RUN... {last}, or a results folder for RUN.")
    if revision:
        raise UsageError(f"{last}: a push is a new revision; leave out @{revision}.")
    return runs, name


def _kinds(artefacts: str | None) -> list[str]:
    """The kinds of files that ``--artefacts`` names.

    Raises:
        UsageError: for an unknown one, or none.
    """
    from vpbench.core.errors import UsageError
    from vpbench.spec.parsing import words
    from vpbench.store.artefacts import ARTEFACTS, artefact_files

    kinds = words(artefacts) or []
    if artefacts is not None and not kinds:
        raise UsageError(f"--artefacts names no kind of file: take some of {', '.join(ARTEFACTS)}, with commas.")
    artefact_files(kinds, "kind of --artefacts")
    return kinds


def _is_results(place: Path) -> bool:
    """Whether a folder is one of results, and not that of one model."""
    return place.is_dir() and not any(place.glob("*.safetensors"))


def _push_models(runs: list[str], name: str, results: Path, weights: str | None, public: bool, as_json: bool) -> None:
    import json

    from vpbench.sharing.shared_models import push_models

    page, sent = push_models(runs, name, results=results, weights=weights, public=public)
    places = ["/".join(filter(None, [name, model.folder])) for model in sent]
    if as_json:
        facts = [{"model": place, "run_id": model.description.run_id} for place, model in zip(places, sent, strict=True)]
        typer.echo(json.dumps({"page": page, "models": facts}, indent=2))
        return
    for place, model in zip(places, sent, strict=True):
        what = f"{model.description.method.label} on {model.description.data.dataset}"
        typer.echo(f'{what}: {page}. vpbench.load_run("{place}") loads it.')


def _push_rows(folder: Path, name: str, public: bool, kinds: list[str], on_conflict: str | None, as_json: bool) -> None:
    import json

    from vpbench.cli.import_rows import tell
    from vpbench.core.names import counted
    from vpbench.sharing.shared_rows import push_rows

    pushed = push_rows(folder, name, public=public, artefacts=kinds, on_conflict=on_conflict)
    merge = pushed.merge
    undecided = bool(merge.conflicts) and on_conflict is None
    if as_json:
        facts = {"page": pushed.page, "sent": pushed.sent if pushed.done else [], "same": merge.same,
                 "conflicts": merge.conflicts, "unsettled": pushed.unsettled}  # fmt: skip
        typer.echo(json.dumps(facts, indent=2))
    else:
        tell(merge, pushed.page, undecided, ours="there")
    if pushed.unsettled:
        typer.echo(f"{counted(pushed.unsettled, 'run')} that went wrong stayed here.", err=True)
    if undecided:
        typer.echo(
            f"vpbench: {counted(len(merge.conflicts), 'run')} with other numbers there, so nothing was sent: say --on-conflict "
            "keep or --on-conflict replace.",
            err=True,
        )
        raise typer.Exit(UNDECIDED)
