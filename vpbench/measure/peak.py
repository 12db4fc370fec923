"""Peak memory of one method in training or in inference, in a process of its own that does nothing else."""

from __future__ import annotations

import multiprocessing
import signal
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any

from vpbench.spec.recipe import Recipe
from vpbench.spec.run_spec import BackboneSpec, MethodSpec, TaskSpec

RECIPE = Recipe.model_validate(
    {"optimizer": "adamw", "lr": 1e-3, "weight_decay": 1e-4}
)  # of steps whose cost is measured; the batch size is set apart


@dataclass(frozen=True)
class Load:
    """What the process does: one training step, or an inference; ``method`` None is the plain backbone."""

    backbone: BackboneSpec
    method: MethodSpec | None
    classes: int
    batch: int
    training: bool
    device: str
    precision: str
    threads: int
    task: TaskSpec = field(default_factory=TaskSpec)


def peak_of(load: Load) -> tuple[str, int]:
    """What the peak is of (``allocator`` or ``process``), and its bytes.

    Raises:
        MemoryError: when the process was killed, as a system out of memory does, or found no memory.
    """
    context = multiprocessing.get_context("spawn")  # a fork would start with this process's memory
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_report, args=(theirs, load), daemon=True)
    process.start()
    theirs.close()
    try:
        found: Any = ours.recv()
    except EOFError:
        process.join()
        raise MemoryError(f"the process that measures memory died (exit code {process.exitcode}); lower --batch") from None
    finally:
        process.terminate()
        process.join()
    if isinstance(found, Exception):
        raise found
    kind, peak = found
    return str(kind), int(peak)


def _report(connection: Connection, load: Load) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that asked
    try:
        connection.send(_peak(load))
    except Exception as error:
        connection.send(MemoryError(str(error)) if "memory" in str(error) else RuntimeError(f"{type(error).__name__}: {error}"))


def _peak(load: Load) -> tuple[str, int | None]:
    import torch

    from vpbench.backbones.weights import load_backbone
    from vpbench.measure.timing import Peak, example_images, inference, training_step
    from vpbench.models.build import build_model

    torch.set_num_threads(load.threads)
    device = torch.device(load.device)
    if load.method is None:
        plain = load_backbone(load.backbone).to(device).eval()
        plain.use_fastest_kernels(load.device, load.precision)
        call = inference(plain, example_images(plain.shape, load.batch, device), load.precision)
    else:
        model = build_model(load.method, load.backbone, load.classes, device, load.task)
        model.backbone.use_fastest_kernels(load.device, load.precision)
        if load.training:
            call = training_step(model, RECIPE.model_copy(update={"batch_size": load.batch}), device, load.precision)
        else:
            model.eval().merge()
            call = inference(model, example_images(model.backbone.shape, load.batch, device), load.precision)
    with Peak(device) as peak:
        call()
    return peak.kind, peak.bytes
