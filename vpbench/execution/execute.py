"""One run, from its specification to its row."""

from __future__ import annotations

import csv
import json
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vpbench.core.errors import DivergedError, StoppedError, StoreError, UnsupportedError, WeightsError
from vpbench.data.batches import Normaliser
from vpbench.data.cache import CachedData
from vpbench.measure.operations import count_operations
from vpbench.measure.size import bytes_saved, parameter_counts, parameters_by_part, serialised
from vpbench.measure.timing import measure_inference, measure_training
from vpbench.models.build import build_model
from vpbench.models.registry import method_class
from vpbench.planning.plan import PlannedRun
from vpbench.spec.device import describe
from vpbench.spec.precision import float32_products
from vpbench.spec.run_spec import RunSpec
from vpbench.store.artefacts import ARTEFACTS
from vpbench.store.store import Store
from vpbench.training.checkpoint import Checkpoints
from vpbench.training.evaluate import Scores
from vpbench.training.fit import Epoch, Trainer
from vpbench.training.memory import is_out_of_memory

FEATURE_IMAGES = 1000  # test images whose features are kept for t-SNE


def execute(
    run: PlannedRun, data: CachedData, store: Store, device: torch.device, save: Iterable[str] = (),
    on_epoch: Callable[[Epoch], None] = lambda epoch: None, timeout_s: float | None = None,
    checkpoints: Checkpoints | None = None, *, checkpoint_blocks: bool = False,
) -> dict[str, Any]:  # fmt: skip
    """Train, measure, test once, and store. What goes wrong in the run becomes a row with a status and the error.

    A trial of a search is trained, scored on validation images and stored; nothing else.

    Args:
        run: what to do.
        data: the decoded data set.
        store: receives the row, and before it the artefacts.
        device: where to compute.
        save: keys of :data:`ARTEFACTS` to leave beside the row.
        on_epoch: progress.
        timeout_s: seconds after which the run is given up, with the status ``timeout``.
        checkpoints: where the run goes on and may be left; what it took before counts, for ``timeout_s`` as well.
        checkpoint_blocks: compute the backbone's blocks again in the backward pass: less memory in training, and the same
            quality and size columns, so that it is no part of the run's identity.

    Returns:
        the row as stored.

    Raises:
        StoreError: when the row cannot be written.
        WeightsError: when the backbone cannot be loaded, which no method is to blame for.
        Paused: when the run was left, for another process to go on with; there is no row then.
        StoppedError: when a second SIGTERM came before it could be left; there is no row then either.
    """
    started, checkpoints = datetime.now(UTC), checkpoints or Checkpoints()
    sizes = {"classes": len(data.class_names), "n_train": len(data.train), "n_val": len(data.val), "n_test": len(data.test)}
    row = {
        **described(run, sizes), "started_at": started, "status": "ok", "error": "", "checkpoint_blocks": checkpoint_blocks
    }  # fmt: skip
    try:
        left_s = None if timeout_s is None else max(0.001, timeout_s - checkpoints.elapsed_s)
        with _time_limit(left_s, on_epoch) as after_epoch, float32_products(run.spec.precision):
            row.update(_run(run.spec, data, store, device, set(save), after_epoch, checkpoints, checkpoint_blocks))
    except (StoreError, WeightsError, StoppedError):
        raise
    except DivergedError as error:
        row.update(status="diverged", error=str(error))
    except UnsupportedError as error:
        row.update(status="unsupported", error=str(error))
    except torch.OutOfMemoryError as error:
        row.update(status="oom", error=str(error).splitlines()[0])
    except MemoryError:
        row.update(status="oom", error="the machine has too little memory for this run: --checkpoint-blocks, or a smaller batch.")
    except _TimeUp:
        row.update(status="timeout", error=f"{traceback.format_exc(limit=-6)}{timed_out(timeout_s)}")
    except Exception as error:
        row.update(status="oom" if is_out_of_memory(error) else "failed", error=traceback.format_exc(limit=-6))
    row.update(describe(device), wall_s=checkpoints.elapsed_s)
    store.write_row(row)
    return row


def store_failure(
    run: PlannedRun, sizes: Mapping[str, int], store: Store, *, status: str, error: str, started_at: datetime,
    environment: Mapping[str, Any],
) -> dict[str, Any]:  # fmt: skip
    """Write and return the row of a run whose process could not do so, because it died or hung.

    Args:
        sizes: ``classes``, ``n_train``, ``n_val``, ``n_test``.
        status: ``failed``, ``oom`` or ``timeout``.
        error: what is known; its last line is what summaries show.
        started_at: of the last attempt, with a time zone.
        environment: columns of the machine, as far as they are known (see ``vpbench.spec.device.describe``).
    """
    row = {
        **described(run, sizes), **environment, "started_at": started_at, "status": status, "error": error,
        "wall_s": (datetime.now(UTC) - started_at).total_seconds(),
    }  # fmt: skip
    store.write_row(row)
    return row


def timed_out(seconds: float | None) -> str:
    """The last line of the error of a run that took too long."""
    return f"the run took longer than --timeout {seconds:g} s."


class _TimeUp(BaseException):
    """Not an Exception, so that no method takes it for an error of its own."""


@contextmanager
def _time_limit(seconds: float | None, on_epoch: Callable[[Epoch], None]) -> Iterator[Callable[[Epoch], None]]:
    """Raises in the block when its time is up: at once where signals can do it (the main thread of a Unix process), and
    after an epoch elsewhere. The block gets what to call after each epoch."""
    if seconds is None:
        yield on_epoch
        return
    end = time.perf_counter() + seconds

    def after_epoch(epoch: Epoch) -> None:
        on_epoch(epoch)
        if time.perf_counter() > end:
            raise _TimeUp

    over = False

    def ring(*_: object) -> None:
        if not over:
            raise _TimeUp

    if not hasattr(signal, "setitimer") or threading.current_thread() is not threading.main_thread():
        yield after_epoch
        return
    before = signal.signal(signal.SIGALRM, ring)
    # Again and again, because Python drops an exception that comes while an object is being deleted.
    signal.setitimer(signal.ITIMER_REAL, seconds, 1.0)
    try:
        yield after_epoch
    finally:
        over = True
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def described(run: PlannedRun, sizes: Mapping[str, int]) -> dict[str, Any]:
    """What is known of a run before it happens. ``sizes`` are ``classes``, ``n_train``, ``n_val`` and ``n_test``."""
    spec = run.spec
    return {
        "run_id": spec.run_id,
        "group_id": spec.group_id,
        "spec": json.dumps(spec.identity(), sort_keys=True),
        "stage": spec.stage,
        "search": spec.search.model_dump_json() if spec.search else None,
        "method": spec.method.label,
        "method_version": spec.method.version,
        "method_config": json.dumps(spec.method.config, sort_keys=True),
        "fidelity": method_class(spec.method.name).fidelity,
        "backbone": spec.backbone.name,
        "weights": spec.backbone.weights,
        "weights_sha256": spec.backbone.sha256,
        "image_size": spec.backbone.image_size,
        "suite": spec.data.suite,
        "dataset": spec.data.dataset,
        "dataset_group": run.group,
        "data_digest": spec.data.digest,
        "preprocess": spec.preprocess.model_dump_json(),
        **sizes,
        "seed": spec.seed,
        "recipe": spec.recipe.model_dump_json(),
        "recipe_source": run.recipe_source,
        "optimizer": spec.recipe.optimizer,
        "lr": spec.recipe.peak_lr,
        "weight_decay": spec.recipe.weight_decay,
        "epochs": spec.recipe.epochs,
        "batch_size": spec.recipe.batch_size,
        "precision": spec.precision,
        "selection": spec.selection,
    }


def _run(
    spec: RunSpec, data: CachedData, store: Store, device: torch.device, save: set[str], on_epoch: Callable[[Epoch], None],
    checkpoints: Checkpoints, checkpoint_blocks: bool,
) -> dict[str, Any]:  # fmt: skip
    torch.manual_seed(spec.seed)
    model = build_model(spec.method, spec.backbone, len(data.class_names), device)
    model.backbone.use_fastest_kernels(device.type, spec.precision)
    model.backbone.checkpoint_blocks(checkpoint_blocks)
    normalise = Normaliser(spec.backbone.mean, spec.backbone.std, device)
    trainer = Trainer(model, data, spec, normalise, device, on_epoch, checkpoints)
    sizes = {**parameter_counts(model), "params_by_part": json.dumps(parameters_by_part(model))}
    trainer.fit()
    sizes["params_active"] = parameter_counts(model)["params_active"]
    found = {
        **sizes,
        "weights_sha256": model.backbone.weights_sha256,
        "epochs_run": len(trainer.curve),
        "selected_epoch": trainer.selected_epoch,
        "train_loss": trainer.curve[-1].train_loss,
        "first_losses": trainer.first_losses,
        "bytes_saved": bytes_saved(model),
        "linear_kernel": model.backbone.linear_kernel,
        "batch_parts": trainer.batch_parts,
    }
    if spec.stage == "search":
        return {**found, **_validated(trainer)}
    scores = trainer.evaluate(data.test, FEATURE_IMAGES if "features" in save else 0)
    found.update(
        {
            "acc1": scores.acc1,
            "acc5": scores.acc5,
            "mean_per_class": scores.mean_per_class,
            "correct": scores.correct,
            "correct5": scores.correct5,
            "total": scores.total,
        },
        **_validated(trainer),
    )
    _save(spec.run_id, trainer, scores, store, save)
    found.update(measure_training(model, spec.recipe, device, spec.precision))
    found.update(measure_inference(model, device, spec.precision))
    found.update(count_operations(spec.method, spec.backbone, len(data.class_names)))
    return found


def _validated(trainer: Trainer) -> dict[str, Any]:
    if not len(trainer.data.val):
        return {}
    scores = trainer.evaluate(trainer.data.val)
    return {"val_acc1": scores.acc1, "val_correct": scores.correct}


def _save(run_id: str, trainer: Trainer, scores: Scores, store: Store, save: set[str]) -> None:
    def write_npz(**arrays: Any) -> Callable[[Path], None]:
        def write(path: Path) -> None:
            with path.open("wb") as stream:
                np.savez_compressed(stream, **arrays)

        return write

    def write_curve(path: Path) -> None:
        with path.open("w", newline="", encoding="utf-8") as stream:
            table = csv.DictWriter(stream, list(asdict(trainer.curve[0])))
            table.writeheader()
            table.writerows(asdict(epoch) for epoch in trainer.curve)

    def write_weights(path: Path) -> None:
        # Written by Python, since a full disk is an OSError there and a SafetensorError in save_file.
        path.write_bytes(serialised(trainer.model))

    if scores.features is not None:
        count = len(scores.features)
        arrays = {"features": scores.features, "labels": scores.labels[:count], "indices": np.arange(count)}
        store.write_artefact(run_id, ARTEFACTS["features"], write_npz(**arrays))
    if "predictions" in save:
        arrays = {"labels": scores.labels, "ranked": scores.ranked, "confidence": scores.confidence}
        store.write_artefact(run_id, ARTEFACTS["predictions"], write_npz(**arrays))
    if "curve" in save:
        store.write_artefact(run_id, ARTEFACTS["curve"], write_curve)
    if "weights" in save:
        store.write_artefact(run_id, ARTEFACTS["weights"], write_weights)
