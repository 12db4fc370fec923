"""Options that ``vpbench run`` and ``vpbench tune`` share, and what is made of them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from vpbench.execution.executor import Executor

# What is run.
Methods = Annotated[str | None, typer.Option(help="Methods, with commas: insvp,vpt:shallow. Default: all six.")]
Suite = Annotated[str | None, typer.Option(help="Data sets and protocol. Default: mini, which is built in.")]
Data = Annotated[str | None, typer.Option(metavar="PATH", help="Your own images: an ImageFolder tree or a parquet file.")]
DataRoot = Annotated[str | None, typer.Option(metavar="FOLDER", help="Where published data sets lie. Default: VPBENCH_DATA.")]
Datasets = Annotated[str | None, typer.Option(help="Only these data sets of the suite, with commas.")]
Backbone = Annotated[str | None, typer.Option(help="A name of 'vpbench list backbones', or any ViT or Swin of timm.")]
Weights = Annotated[str | None, typer.Option(metavar="FILE_OR_FOLDER", help="Weights of the backbone; 'random' for none.")]
ImageSize = Annotated[int | None, typer.Option(min=1, metavar="N", help="Pixels; position embeddings are resampled.")]
Epochs = Annotated[int | None, typer.Option(min=1, metavar="N", help="Epochs of every training.")]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="METHOD.OPTION=VALUE", help="An option; recipe.lr=0.1 for the recipe. Repeatable."),
]
Precision = Annotated[str | None, typer.Option(help="fp32, tf32 (GPUs), bf16 or auto.")]
Selection = Annotated[str | None, typer.Option(help="Epoch that counts: last or best_val.")]
Save = Annotated[str, typer.Option(help="What to keep beside each tested row: features, predictions, curve, weights, or none.")]

# Where and how.
Device = Annotated[str, typer.Option(help="auto, cpu or cuda.")]
Results = Annotated[Path, typer.Option(metavar="FOLDER", help="Results folder.")]
ExecutorName = Annotated[str | None, typer.Option(help="Where runs happen: inline (this process), local, ray or slurm.")]
Workers = Annotated[int | None, typer.Option(metavar="N", help="Runs at a time: worker processes on the CPUs (local).")]
Gpus = Annotated[str | None, typer.Option(metavar="0,2", help="GPUs to use (local). Default: all.")]
PerGpu = Annotated[int | None, typer.Option(metavar="N", help="Runs that share a GPU (local, ray).")]
Retries = Annotated[
    int | None, typer.Option(metavar="N", help="How often to repeat a run whose worker died. Default: 1; ray: 3.")
]
ExecutorOptions = Annotated[
    list[str] | None,
    typer.Option("--executor-option", metavar="NAME=VALUE", help="E.g. partition=gpu for slurm: docs/scale.md. Repeatable."),
]
Threads = Annotated[int | None, typer.Option(min=1, metavar="N", help="Threads of each process on a CPU.")]
CheckpointBlocks = Annotated[
    bool, typer.Option("--checkpoint-blocks", help="Less memory in training, longer steps, the same numbers.")
]
Timeout = Annotated[str | None, typer.Option(metavar="TIME", help="Give up a run after 90s, 30m, 2h or 1d. Default: never.")]
CheckpointEvery = Annotated[
    str, typer.Option(metavar="TIME", help="Keep the state of a long run so often, to go on from if it is killed; or never.")
]
Limit = Annotated[int | None, typer.Option(min=1, metavar="N", help="Do no more than so many of the missing runs.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Show the plan and its expected time, and stop.")]
AsJson = Annotated[bool, typer.Option("--json", help="The plan or the outcome as JSON on stdout.")]

RESULTS = Path("results/runs")
SAVE = "features,predictions,curve"
CHECKPOINT_EVERY = "10m"


def artefacts(save: str) -> list[str]:
    """What ``--save`` names.

    Raises:
        UsageError: for something else.
    """
    from vpbench.cli.words import words
    from vpbench.store.artefacts import artefact_files

    kept = [] if save == "none" else words(save) or []
    artefact_files(kept)
    return kept


def chosen_executor(
    name: str | None, workers: int | None, gpus: str | None, per_gpu: int | None, retries: int | None, more: list[str] | None
) -> Executor:
    """The executor that the options mean; those of ``local`` alone mean it.

    Raises:
        UsageError: for an executor or an option that does not exist, or a value that does not fit.
    """
    from vpbench.cli.words import numbers, value_of
    from vpbench.core.errors import UsageError
    from vpbench.execution.executor import get_executor

    given = {"workers": workers, "gpus": numbers("--gpus", gpus, "0,2"), "per_gpu": per_gpu, "retries": retries}
    options: dict[str, Any] = {option: value for option, value in given.items() if value is not None}
    chosen = name or ("local" if options else "inline")
    if chosen == "inline" and options:
        option = next(iter(options)).replace("_", "-")
        raise UsageError(f"--{option} is nothing for --executor inline, which has no worker processes; say --executor local.")
    for text in more or []:
        option, equals, value = text.partition("=")
        if not equals or not option:
            raise UsageError(f"--executor-option {text}: write NAME=VALUE, e.g. --executor-option partition=gpu.")
        options[option] = value_of(value)
    return get_executor(chosen, **options)


def seconds(option: str, text: str | None) -> float | None:
    """``90``, ``90s``, ``30m``, ``2h`` or ``1d`` in seconds; None for ``never`` and for nothing.

    Raises:
        UsageError: for anything else.
    """
    import re

    from vpbench.core.errors import UsageError

    if text is None or text == "never":
        return None
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd]?)", text.strip())
    value = float(found[1]) * {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}[found[2]] if found else 0
    if not value:
        raise UsageError(f"{option} {text}: write a time such as 90s, 30m, 2h or 1d, or never.")
    return value
