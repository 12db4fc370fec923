"""One run, from its specification to its row."""

from __future__ import annotations

import csv
import json
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vpbench.core.errors import DivergedError, StoppedError, StoreError, UnsupportedError, WeightsError
from vpbench.core.hub import located
from vpbench.data.batches import Normaliser
from vpbench.data.cache import CachedData
from vpbench.execution.callbacks import Callback
from vpbench.execution.job import Job
from vpbench.execution.spec_columns import spec_columns
from vpbench.measure.operations import count_operations
from vpbench.measure.size import bytes_saved, parameter_counts, parameters_by_part
from vpbench.measure.timing import measure_inference, measure_training
from vpbench.models.build import build_model
from vpbench.models.prompted import PromptedModel
from vpbench.models.registry import method_class
from vpbench.models.saved import Description, encode_model
from vpbench.planning.validation_images import lacks_validation, unsupported
from vpbench.spec.device import describe, resolve_device
from vpbench.spec.precision import float32_products
from vpbench.spec.run_spec import RunSpec
from vpbench.store.artefacts import ARTEFACTS
from vpbench.store.store import Store
from vpbench.tasks import Scores
from vpbench.training.checkpoint import Checkpoints, UnusableCheckpointError
from vpbench.training.fit import Epoch, Trainer
from vpbench.training.memory import check_batch, is_out_of_memory

FEATURE_IMAGES = 1000  # test images whose features are kept for t-SNE


def execute(
    job: Job, data: CachedData, store: Store, callback: Callback, checkpoints: Checkpoints | None = None,
    is_new: Callable[[str], bool] = lambda note: True,
) -> dict[str, Any]:  # fmt: skip
    """Train, test once, measure, and store. What goes wrong in the run becomes a row with a status and the error; what cannot
    be measured is empty in the row of a tested model, and its error says why.

    A trial of a search is trained, scored on validation images and stored; nothing else. ``checkpoint_blocks`` recomputes the
    backbone's blocks in the backward pass: less memory in training, and the same quality and size columns, so that it is no
    part of the run's identity.

    Args:
        job: what to do, on which device and for how long at most.
        data: the decoded data set.
        store: receives the row, and before it the artefacts.
        callback: its ``epoch`` is called after every epoch.
        checkpoints: where the run resumes and may be paused; the time it took before counts, for ``timeout_s`` as well.
        is_new: whether a note on the weights was not made yet.

    Returns:
        the row as stored.

    Raises:
        StoreError: when the row cannot be written.
        WeightsError: when the backbone cannot be loaded, whatever the method.
        Paused: when the run was paused, for another process to resume; there is no row then.
        StoppedError: when a second SIGTERM came before it could be paused; there is no row then either.
        UnusableCheckpointError: when the checkpoint does not fit the run; there is no row then either.
    """
    started, checkpoints, device = datetime.now(UTC), checkpoints or Checkpoints(), resolve_device(job.device)
    row = {
        **known_columns(job), "started_at": started, "status": "ok", "error": "", "checkpoint_blocks": job.checkpoint_blocks
    }  # fmt: skip
    try:
        left_s = None if job.timeout_s is None else max(0.001, job.timeout_s - checkpoints.elapsed_s)
        on_epoch = partial(callback.epoch, job.planned)
        with _time_limit(left_s, on_epoch) as after_epoch, float32_products(job.spec.precision):
            model = _model(job, data, device)
            if (note := model.backbone.note) and is_new(note):
                callback.note(f"note on the weights: {note}")
            row.update(_run(job, model, data, store, device, after_epoch, checkpoints))
    except (StoreError, WeightsError, StoppedError, UnusableCheckpointError):
        raise
    except DivergedError as error:
        row.update(status="diverged", error=str(error))
    except UnsupportedError as error:
        row.update(status="unsupported", error=str(error))
    except torch.OutOfMemoryError as error:
        row.update(status="oom", error=str(error).splitlines()[0])
    except MemoryError as error:
        usual = "the machine has too little memory for this run: --checkpoint-blocks, or a smaller batch."
        row.update(status="oom", error=str(error) or usual)
    except _TimeUp:
        row.update(status="timeout", error=f"{traceback.format_exc(limit=-6)}{timed_out(job.timeout_s)}")
    except Exception as error:
        row.update(status="oom" if is_out_of_memory(error) else "failed", error=traceback.format_exc(limit=-6))
    if row["status"] == "ok":
        if row["error"]:
            callback.note(f"{job.label}: {row['error']}")
        row["error"] = " ".join(filter(None, [row["error"], job.warning, *data.flaws]))  # these were said when it was planned
    row.update(describe(device), wall_s=checkpoints.elapsed_s)
    store.write_row(row)
    return row


def store_failure(
    job: Job, store: Store, *, status: str, error: str, started_at: datetime, environment: Mapping[str, Any]
) -> dict[str, Any]:  # fmt: skip
    """Write and return the row of a run whose process could not do so, because it died or hung.

    Args:
        status: ``failed``, ``oom`` or ``timeout``.
        error: what is known; its last line is what summaries show.
        started_at: of the last attempt, with a time zone.
        environment: columns of the machine, as far as they are known (see ``vpbench.spec.device.describe``).
    """
    row = {
        **known_columns(job), **environment, "checkpoint_blocks": job.checkpoint_blocks, "started_at": started_at,
        "status": status, "error": error, "wall_s": (datetime.now(UTC) - started_at).total_seconds(),
    }  # fmt: skip
    store.write_row(row)
    return row


def timed_out(seconds: float | None) -> str:
    """The last line of the error of a run that took too long."""
    return f"the run took longer than --timeout {seconds:g} s."


class _TimeUp(BaseException):
    """Not an Exception, so that no method catches it as an error of its own."""


@contextmanager
def _time_limit(seconds: float | None, on_epoch: Callable[[Epoch], None]) -> Iterator[Callable[[Epoch], None]]:
    """Raises in the block when its time is up: at once where signals can do it (the main thread of a Unix process), and
    after an epoch otherwise. Yields what to call after each epoch."""
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


def known_columns(job: Job) -> dict[str, Any]:
    """The columns that are known of a run before it happens."""
    spec = job.spec
    return {
        **spec_columns(spec),
        "spec": json.dumps(spec.identity(), sort_keys=True),
        "search": spec.search.model_dump_json() if spec.search else None,
        "method_config": json.dumps(spec.method.config, sort_keys=True),
        "fidelity": method_class(spec.method.name).fidelity,
        "dataset_group": job.group,
        "preprocess": json.dumps(spec.preprocess.identity()),
        **job.sizes,
        "recipe": spec.recipe.model_dump_json(),
        "recipe_source": job.recipe_source,
        "data_path": _absolute(spec.data.path),
        "weights_path": _absolute(spec.backbone.path if spec.backbone.weights == "file" else None),
        "experiment": job.experiment,
    }


def _absolute(path: str | None) -> str | None:
    return located(path) if path else None


def _model(job: Job, data: CachedData, device: torch.device) -> PromptedModel:
    """The model as it is before training."""
    spec = job.spec
    if lacks_validation(spec.method, len(data.val)):
        raise UnsupportedError(unsupported(spec))
    torch.manual_seed(spec.seed)
    model = build_model(spec.method, spec.backbone, len(data.class_names), device, spec.task)
    model.backbone.use_fastest_kernels(device.type, spec.precision)
    model.backbone.checkpoint_blocks(job.checkpoint_blocks)
    return model


def _run(
    job: Job, model: PromptedModel, data: CachedData, store: Store, device: torch.device, on_epoch: Callable[[Epoch], None],
    checkpoints: Checkpoints,
) -> dict[str, Any]:  # fmt: skip
    spec = job.spec
    normalise = Normaliser(spec.backbone.mean, spec.backbone.std, device)
    trainer = Trainer(model, data, spec, normalise, device, on_epoch, checkpoints, job.val_curve)
    sizes = {**parameter_counts(model), "params_by_part": json.dumps(parameters_by_part(model))}
    check_batch(model, min(spec.recipe.batch_size, len(data.train)), device)
    trainer.fit()
    sizes["params_active"] = parameter_counts(model)["params_active"]
    found = {
        **sizes,
        "error": trainer.doubt(),
        "weights_sha256": model.backbone.weights_sha256,
        "epochs_run": len(trainer.curve),
        "selected_epoch": trainer.selected_epoch,
        "train_loss": trainer.curve[-1].train_loss,
        "first_losses": trainer.first_losses,
        "bytes_saved": bytes_saved(model),
        "linear_kernel": model.backbone.linear_kernel,
        "batch_parts": trainer.batch_parts,
        "prepare_s": trainer.prepare_s,
    }
    if spec.stage == "search":
        return {**found, **_validated(trainer)}
    keep = "probabilities" in job.save
    scores = trainer.evaluate(data.test, FEATURE_IMAGES if "features" in job.save else 0, test=True, probabilities=keep)
    found.update({"metric": trainer.task.metric, "score": scores.score, **scores.columns(), **_validated(trainer)})
    _save(job, trainer, scores, store)
    costs, problems = _costs(model, spec, data, device, job.measured)
    return {**found, **costs, "error": " ".join(filter(None, [str(found.get("error") or ""), *problems]))}


def _costs(
    model: PromptedModel, spec: RunSpec, data: CachedData, device: torch.device, timed: bool
) -> tuple[dict[str, Any], list[str]]:  # fmt: skip
    """The columns of cost, and sentences on those that are empty: a model that is tested is not lost by measuring it."""
    timings: dict[str, Callable[[], dict[str, Any]]] = {
        "a training step": lambda: measure_training(model, spec.recipe, device, spec.precision, len(data.train)),
        "inference": lambda: measure_inference(model, device, spec.precision),
    }
    count = {"operations": lambda: count_operations(spec.method, spec.backbone, len(data.class_names), spec.task)}
    measures = {**(timings if timed else {}), **count}
    found: dict[str, Any] = {}
    problems: list[str] = []
    for what, measure in measures.items():
        try:
            found.update(measure())
        except StoppedError:
            raise
        except _TimeUp:
            signal.setitimer(signal.ITIMER_REAL, 0)  # it would ring again
            return found, [*problems, f"The time was up before {what} was measured."]
        except Exception as error:
            reason = "too little memory" if isinstance(error, MemoryError) or is_out_of_memory(error) else _in_a_line(error)
            problems.append(f"Not measured: {what} ({reason}).")
    return found, problems


def _in_a_line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:300]


def _validated(trainer: Trainer) -> dict[str, Any]:
    if not len(trainer.data.val):
        return {}
    scores = trainer.evaluate(trainer.data.val)
    return {"metric": trainer.task.metric, "val_score": scores.score, **scores.val_columns()}


def _save(job: Job, trainer: Trainer, scores: Scores, store: Store) -> None:
    run_id, save = job.run_id, job.save

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
        description = Description.of(job.spec, trainer.model, trainer.data.class_names, trainer.data.levels)
        path.write_bytes(encode_model(trainer.model, description))

    names = np.array(trainer.data.class_names)
    if scores.features is not None:
        places = scores.feature_images
        arrays = {"features": scores.features, "labels": scores.feature_labels, "indices": places, "class_names": names}
        store.write_artefact(run_id, ARTEFACTS["features"], write_npz(**arrays))
    if "predictions" in save:
        arrays = {**scores.arrays(), "class_names": names}
        if trainer.task.target == "class":
            arrays["train_counts"] = np.bincount(trainer.data.train.labels, minlength=len(names))
        store.write_artefact(run_id, ARTEFACTS["predictions"], write_npz(**arrays))
    if "probabilities" in save:
        store.write_artefact(run_id, ARTEFACTS["probabilities"], write_npz(**_probabilities(trainer, scores), class_names=names))
    if "curve" in save:
        store.write_artefact(run_id, ARTEFACTS["curve"], write_curve)
    if "weights" in save:
        store.write_artefact(run_id, ARTEFACTS["weights"], write_weights)


def _probabilities(trainer: Trainer, scores: Scores) -> dict[str, Any]:
    """Of the test and the validation images, with their labels; of no image where the task has none."""
    val = trainer.evaluate(trainer.data.val, probabilities=True) if len(trainer.data.val) else None
    found: dict[str, Any] = {}
    for prefix, each in (("", scores), ("val_", val)):
        known = each is not None and each.probabilities is not None
        found[f"{prefix}probabilities"] = (
            each.probabilities if each and known else np.empty((0, trainer.task.classes), np.float16)
        )
        found[f"{prefix}labels"] = each.arrays()["labels"] if each and known else np.empty(0, np.int64)
    return found
