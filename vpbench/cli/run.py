"""``vpbench run``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from vpbench.cli import options as flags

if TYPE_CHECKING:
    from vpbench.spec.request import Request
    from vpbench.spec.run_options import RunOptions

FAILED = 1
UNBROKEN = ("run_id", "status", "seed", "epochs", "precision", "expected_s")  # columns that are not wrapped


@flags.takes(request="vpbench.spec.request.Request", options="vpbench.spec.run_options.RunOptions")
def run(
    context: typer.Context,
    request: Request,
    options: RunOptions,
    file: Annotated[
        str | None, typer.Argument(metavar="FILE.toml", help="an experiment: docs/experiments.md", show_default=False)
    ] = None,
    results: flags.Results = flags.RESULTS,
    dry_run: flags.DryRun = False,
    as_json: flags.AsJson = False,
) -> None:
    """Train and measure methods; what is stored already is skipped, so the same command continues an interrupted one.

    Examples:

    \b
      vpbench run  # six methods on the built-in suite and backbone
      vpbench run --methods linear,vpt,insvp:released --suite mini --seeds 3
      vpbench run --data flowers.parquet --backbone vit_tiny_patch16_224 \\
          --weights vit_tiny.safetensors --image-size 96
      # a data set of the Hugging Face hub
      vpbench run --data hf:uoft-cs/cifar100 \\
          --columns image=img,label=coarse_label
      # curves and rows in tools that are installed
      vpbench run --methods vpt,insvp --seeds 3 --track tensorboard,wandb
      vpbench run --methods vpt --set vpt.prompt_length=50 --set recipe.lr=0.005 \\
          --epochs 20 --dry-run
      vpbench run --methods linear,vpt --backbone vit-nano,deit_tiny_patch16_224 \\
          --image-size 48
      # then: vpbench report --plot noise
      vpbench run --methods vpt,insvp --noise 0,0.1,0.2
      vpbench run --methods linear,full --suite imagenet-16shot --wise-ft 0,0.5,1
      # two worker processes on the CPUs; a run that hangs is given up
      vpbench run --workers 2 --timeout 2h
      # what the file says: methods with settings, suites, backbones, a search
      vpbench run experiment.toml
    """
    import json

    from vpbench.cli.show_runs import run_and_show, show_plan

    if file is not None:
        from vpbench.cli.run_experiment import run_experiment

        sources = {name: context.get_parameter_source(name) for name in context.params}
        given = {name for name, source in sources.items() if source is not None and source.name == "COMMANDLINE"}
        run_experiment(file, given, request, options, results, dry_run, as_json)
        return
    if dry_run:
        rows = show_plan(request, options, results, as_json)
        if as_json:
            typer.echo(json.dumps(rows, indent=2))
        return
    rows, is_whole = run_and_show(request, options, results, as_json)
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
    if not is_whole:
        raise typer.Exit(FAILED)
