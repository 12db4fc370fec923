"""How and where runs happen, declared once for the command line and the Python interface. Imports no torch.

Nothing here is part of a run's identity: a stored row counts whatever the options are.
"""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any

from pydantic import Field, field_validator

from vpbench.core.errors import UsageError
from vpbench.core.frozen_model import FrozenModel
from vpbench.spec.flag import Flag
from vpbench.spec.parsing import LONGEST_S, alphas_of, executor_options_of, names_of, numbers, scales_of, seconds, sigmas_of
from vpbench.store.artefacts import artefact_files

DEFAULT_SAVE = ("features", "predictions", "curve", "weights")


def _kinds(option: str, text: str, example: str) -> list[str]:
    found = names_of(option, text, example)
    if "none" in found and len(found) > 1:
        raise UsageError(f"{option} {text}: none stands alone.")
    return [] if found == ["none"] else found


class JobOptions(FrozenModel):
    """How one run is done, wherever it is done."""

    save: Annotated[
        tuple[str, ...],
        Flag(metavar="KINDS", parse=partial(_kinds, "--save", example="curve,weights"), shown=",".join(DEFAULT_SAVE)),
    ] = Field(
        default=DEFAULT_SAVE,
        description="What to keep beside each tested row: features, predictions, probabilities, curve, weights, or none.",
    )
    track: Annotated[tuple[str, ...], Flag(metavar="NAME,...", parse=partial(names_of, "--track", example="tensorboard"))] = (
        Field(default=(), description="Report runs to tensorboard, wandb, mlflow or trackio, with commas; each is an extra.")
    )
    threads: Annotated[int | None, Flag(kind=int, least=1, metavar="N")] = Field(
        default=None, description="Threads of each process on a CPU."
    )
    val_curve: Annotated[bool, Flag(kind=bool)] = Field(
        default=False, description="Score the validation images after every epoch, for learning curves; the same results."
    )
    checkpoint_blocks: Annotated[bool, Flag(kind=bool)] = Field(
        default=False, description="Less memory in training, longer steps, the same numbers."
    )
    timeout_s: Annotated[float | None, Flag(name="--timeout", metavar="TIME", parse=partial(seconds, "--timeout"))] = Field(
        default=None,
        gt=0,
        le=LONGEST_S,
        description="Give up a run after 90s, 30m, 1h30m or 1d (a number alone: seconds). Default: never.",
    )
    checkpoint_s: Annotated[
        float | None,
        Flag(name="--checkpoint-every", metavar="TIME", parse=partial(seconds, "--checkpoint-every"), shown="10m"),
    ] = Field(
        default=600.0,
        gt=0,
        le=LONGEST_S,
        description="How often a run writes a checkpoint, from which it resumes if it is killed; or never.",
    )

    experiment: str | None = Field(default=None, repr=False, description="Text of the experiment file, for the rows.")

    @field_validator("track")
    @classmethod
    def _tracker_names(cls, given: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(dict.fromkeys(given))

    @field_validator("save")
    @classmethod
    def _artefacts(cls, given: tuple[str, ...]) -> tuple[str, ...]:
        artefact_files(given)
        return given


class RunOptions(JobOptions):
    """How and where the runs of a request happen, and which of them.

    ``workers``, ``gpus``, ``per_gpu``, ``retries`` and ``executor_options`` are arguments of the executor's class.
    """

    noise: Annotated[tuple[float, ...] | None, Flag(metavar="0,0.1,...", parse=sigmas_of)] = Field(
        default=None, description="Test the models on images with such noise too, trained before or now; keeps weights."
    )
    test_on: Annotated[
        tuple[str, ...] | None, Flag(metavar="NAMES", parse=partial(_kinds, "--test-on", example="imagenet-v2"))
    ] = Field(
        default=None,
        description="Test the models on these data sets too, or none; keeps weights. Default: the suite's.",
    )
    wise_ft: Annotated[tuple[float, ...] | None, Flag(metavar="0,0.5,...", parse=alphas_of)] = Field(
        default=None, description="Test with such shares of the trained weights too, the rest a linear probe's; keeps weights."
    )
    corruptions: Annotated[
        tuple[str, ...] | None, Flag(metavar="all,blur,fog,...", parse=partial(names_of, "--corruptions", example="all"))
    ] = Field(
        default=None, description="Test the models on images corrupted as in ImageNet-C too: all, groups or names; keeps weights."
    )
    scales: Annotated[tuple[float, ...] | None, Flag(metavar="0.5,1,...", parse=scales_of)] = Field(
        default=None, description="Test segmentations on these scales too, and mirrored, trained before or now; keeps weights."
    )
    executor: Annotated[str | None, Flag(metavar="NAME")] = Field(
        default=None, description="Where runs happen: inline (this process), local, ray or slurm."
    )
    workers: Annotated[int | None, Flag(kind=int, least=1, metavar="N")] = Field(
        default=None, description="Runs at a time: worker processes on the CPUs (local)."
    )
    gpus: Annotated[tuple[int, ...] | None, Flag(metavar="0,2", parse=partial(numbers, "--gpus", example="0,2"))] = Field(
        default=None, description="GPUs to use (local). Default: all."
    )
    per_gpu: Annotated[int | None, Flag(kind=int, least=1, metavar="N")] = Field(
        default=None, description="Runs that share a GPU (local, ray)."
    )
    retries: Annotated[int | None, Flag(kind=int, least=0, metavar="N")] = Field(
        default=None, description="How often to retry a run whose worker died. Default: 1; ray: 3."
    )
    executor_options: Annotated[
        dict[str, Any], Flag(name="--executor-option", metavar="NAME=VALUE", parse=executor_options_of, repeatable=True)
    ] = Field(default_factory=dict, description="E.g. partition=gpu for slurm: docs/scale.md. Repeatable.")
    rerun: Annotated[str | None, Flag(metavar="WHICH")] = Field(
        default=None, description="Repeat stored runs: failed, stale (by other versions of vpbench or torch) or all."
    )
    limit: Annotated[int | None, Flag(kind=int, least=1, metavar="N")] = Field(
        default=None, description="Do no more than so many of the missing runs."
    )

    @field_validator("noise")
    @classmethod
    def _has_sigmas(cls, given: tuple[float, ...] | None) -> tuple[float, ...] | None:
        if given == ():
            raise UsageError("--noise names no standard deviation; for example --noise 0,0.1,0.2.")
        return given

    @field_validator("scales")
    @classmethod
    def _has_ratios(cls, given: tuple[float, ...] | None) -> tuple[float, ...] | None:
        if given == ():
            raise UsageError("--scales names no ratio; for example --scales 0.5,1,1.5.")
        return given

    @field_validator("wise_ft")
    @classmethod
    def _shares(cls, given: tuple[float, ...] | None) -> tuple[float, ...] | None:
        if given is None:
            return None
        if wrong := [alpha for alpha in given if not 0 <= alpha <= 1]:
            raise UsageError(f"--wise-ft {wrong[0]:g}: a share of the trained weights is a number from 0 to 1.")
        if not given:
            raise UsageError("--wise-ft names no share; for example --wise-ft 0,0.25,0.5,0.75,1.")
        return tuple(sorted(set(given)))

    @property
    def tests_weights(self) -> bool:
        """Whether stored models are tested further, for which their weights are kept."""
        return bool(self.noise or self.corruptions or self.test_on or self.wise_ft or self.scales)

    @property
    def artefacts(self) -> tuple[str, ...]:
        """What each run leaves beside its row: what is asked for, and the weights if they are to be tested further."""
        return tuple(dict.fromkeys([*self.save, "weights"])) if self.tests_weights else self.save

    @property
    def required(self) -> tuple[str, ...]:
        """What a stored run must have left, else it is done again: whatever is asked for. Weights that are kept by default alone
        are no reason, since runs of earlier versions did not keep them."""
        by_default = self.save == DEFAULT_SAVE and not self.tests_weights
        return tuple(kind for kind in self.artefacts if kind != "weights" or not by_default)

    @property
    def of_a_job(self) -> JobOptions:
        """The options that a single run has."""
        values = {name: getattr(self, name) for name in JobOptions.model_fields}
        return JobOptions(**{**values, "save": self.artefacts})
