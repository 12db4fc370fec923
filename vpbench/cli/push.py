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
    from vpbench.sharing.repositories import check_token, repository_name

    *runs, repository = given
    if not runs:
        raise UsageError(f"what is to go to {repository}? Say vpbench push RUN... {repository}, or a results folder for RUN.")
    name, _, revision = repository_name(repository)
    if revision:
        raise UsageError(f"{repository}: a push is a new revision; leave out @{revision}.")
    check_choice(on_conflict)
    check_token()
    folders = [run for run in runs if _is_results(Path(run))]
    if not folders:
        _push_models(runs, name, results, weights, public, as_json)
    elif len(runs) == 1:
        _push_rows(Path(folders[0]), name, public, artefacts, on_conflict, as_json)
    else:
        raise UsageError(f"{folders[0]} is a results folder: push it alone, and runs into another repository.")


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


def _push_rows(folder: Path, name: str, public: bool, artefacts: str | None, on_conflict: str | None, as_json: bool) -> None:
    import json

    from vpbench.cli.import_rows import tell
    from vpbench.core.names import counted
    from vpbench.sharing.shared_rows import push_rows
    from vpbench.spec.parsing import words
    from vpbench.store.artefacts import artefact_files

    kinds = words(artefacts) or [] if artefacts else []
    artefact_files(kinds)  # an unknown one is an error
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
