"""What ``vpbench measure`` is asked for, and whether there is all that it names. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from vpbench.backbones.named import check_backbone_name
from vpbench.core.errors import UsageError
from vpbench.models.registry import check_preset, expand_labels, options_by_method, resolve_method
from vpbench.planning.suites import method_options, recipe_entries, suite_card, suite_name
from vpbench.spec.parsing import whole_number
from vpbench.spec.run_spec import DEFAULT_TASK, MethodSpec, TaskSpec
from vpbench.tasks import resolve_task

TASK_PREFIX = "task."  # of its options among the settings


@dataclass(frozen=True)
class CostRequest:
    """What ``vpbench measure`` is asked for.

    Attributes:
        methods: labels; ``all`` stands for every method that is installed.
        backbone: a name of ``vpbench list backbones``, or any of timm.
        image_size: pixels; None for the size of pretraining.
        classes: of the classifier.
        batch: images of a training step, and of an inference for throughput.
        repeat: rounds of timing, behind one that warms up.
        threads: of torch on a CPU; None: torch's choice.
        device: ``auto``, ``cpu`` or ``cuda``.
        precision: ``fp32``, ``tf32``, ``bf16`` or ``auto``.
        suite: whose recipes set options of the methods, where they set them for all of its data sets; None: the methods' own.
        settings: options of methods, ``{"vpt.prompt_length": 50}``, and of the task, ``{"task.head": "linear"}``.
        timing: False for parameters and operations alone.
        task: whose head it is: classification, or segmentation.
    """

    methods: Sequence[str]
    backbone: str
    image_size: int | None = None
    classes: int = 100
    batch: int = 8
    repeat: int = 3
    threads: int | None = None
    device: str = "auto"
    precision: str = "fp32"
    suite: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    timing: bool = True
    task: str = DEFAULT_TASK

    def resolved(self) -> tuple[TaskSpec, list[MethodSpec]]:
        """The task and the methods with all options.

        Raises:
            UsageError: for an unknown name, or a value that does not fit.
        """
        for name in ("image_size", "classes", "batch", "repeat", "threads"):
            given = getattr(self, name)
            if given is None and name in ("image_size", "threads"):
                continue
            try:
                whole_number(given, least=1)
            except ValueError as error:
                raise UsageError(f"{name}: {error} (given: {given!r})") from None
        check_backbone_name(self.backbone)
        labels = expand_labels(self.methods)
        of_task = {name: value for name, value in self.settings.items() if name.startswith(TASK_PREFIX)}
        task = resolve_task(self.task, {name.removeprefix(TASK_PREFIX): value for name, value in of_task.items()})
        settings = {name: value for name, value in self.settings.items() if name not in of_task}
        options = options_by_method(settings, labels)
        for label in labels:
            check_preset(label, settings)
        return task, [resolve_method(label, {**self._of_suite(label), **options.get(method_in(label), {})}) for label in labels]

    def _of_suite(self, label: str) -> dict[str, Any]:
        """Options that the suite's recipes set."""
        if self.suite is None:
            return {}
        name, suite = suite_name(self.suite), suite_card(self.suite)
        if suite.task != self.task:
            raise UsageError(f"suite {name} is of {suite.task}: say --task {suite.task}.")
        preset = label.partition(":")[2]
        return method_options(recipe_entries(method_in(label), suite.part_of or name, "", preset or None, suite.task))


def method_in(label: str) -> str:
    """The method of ``method:preset``."""
    return label.partition(":")[0]
