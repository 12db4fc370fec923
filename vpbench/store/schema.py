"""Columns of a run's row. The version is incremented when a column is added or its meaning changes."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping

import pyarrow as pa
import pyarrow.compute as pc

SCHEMA_VERSION = 8

STATUSES = ("ok", "diverged", "oom", "failed", "timeout", "unsupported")
# Statuses that a repetition would not change; such runs are not repeated.
SETTLED = ("ok", "diverged", "unsupported")

_IDENTITY = {
    "run_id": (pa.string(), "hash of the specification"),
    "group_id": (pa.string(), "the same without the seed"),
    "status": (pa.string(), "ok, diverged, oom, failed, timeout or unsupported"),
    "error": (pa.string(), "what went wrong; when ok warnings about the training and the data, or empty"),
    "started_at": (pa.timestamp("ms", tz="UTC"), "when the run began"),
    "wall_s": (pa.float64(), "seconds from start to row, measuring included"),
    "stage": (
        pa.string(),
        "search: a trial, never tested; final: with the settings selected by a search; shift: nothing was trained, another run's "
        "model was tested on other images or with mixed weights; null: an ordinary run",
    ),
    "trained_run": (pa.string(), "id of the run whose model was tested; null where it is this one"),
    "trained_on": (pa.string(), "data set of that run; null where it is this one"),
    "interpolation": (pa.float64(), "share of that run's weights, the rest a linear probe's (WiSE-FT); null: its weights alone"),
    "search": (pa.string(), "the search's space, sampler and budget of trials per method and data set, JSON; null without"),
    "spec": (pa.string(), "the whole specification, JSON"),
}
_METHOD = {
    "method": (pa.string(), "name, with its preset behind a colon"),
    "method_version": (pa.int64(), "incremented when a method's numbers change"),
    "method_config": (pa.string(), "all options, JSON"),
    "fidelity": (pa.string(), "paper, released-code, both-differ or approximate"),
}
_BACKBONE = {
    "backbone": (pa.string(), "name"),
    "weights": (pa.string(), "random, embedded, file or hub:<repository>"),
    "weights_sha256": (pa.string(), "of the weight file, null for random weights"),
    "image_size": (pa.int64(), "side of the input, pixels"),
}
_DATA = {
    "task": (pa.string(), "classification or segmentation"),
    "suite": (pa.string(), "suite, or 'custom' for --data"),
    "dataset": (pa.string(), "data set"),
    "dataset_group": (pa.string(), "group within the suite"),
    "data_digest": (pa.string(), "hash of images, labels and splits; of the whole data set where each seed draws from it"),
    "preprocess": (pa.string(), "resizing, cropping, flipping, normalisation, JSON"),
    "classes": (pa.int64(), "number of classes"),
    "n_train": (pa.int64(), "training images"),
    "n_val": (pa.int64(), "validation images"),
    "n_test": (pa.int64(), "test images"),
}
_TRAINING = {
    "seed": (pa.int64(), "of everything random in the run"),
    "recipe": (pa.string(), "optimizer, schedule and loss, JSON"),
    "recipe_source": (pa.string(), "where the recipe's values come from"),
    "optimizer": (pa.string(), "sgd or adamw"),
    "lr": (pa.float64(), "peak learning rate in use"),
    "weight_decay": (pa.float64(), "of the optimizer"),
    "epochs": (pa.int64(), "epochs per training phase"),
    "epochs_run": (pa.int64(), "epochs over all phases"),
    "batch_size": (pa.int64(), "images per step"),
    "precision": (pa.string(), "fp32, tf32 (its products in TF32 on a GPU), or bf16 autocast"),
    "selection": (pa.string(), "last epoch, or best validation epoch"),
    "selected_epoch": (pa.int64(), "epoch (from 1) whose parameters were tested"),
    "train_loss": (pa.float64(), "mean loss of the last epoch"),
    "first_losses": (pa.list_(pa.float64()), "losses of the first five steps"),
}
_QUALITY = {
    "metric": (pa.string(), "column that score repeats: the task's metric, e.g. acc1 or miou"),
    "score": (pa.float64(), "value of that metric on the test split, percent"),
    "val_score": (pa.float64(), "value of that metric on the validation split, percent"),
    "acc1": (pa.float64(), "top-1 accuracy on the test split, percent"),
    "acc5": (pa.float64(), "top-5 accuracy on the test split, percent; null below six classes"),
    "mean_per_class": (pa.float64(), "mean of the classes' top-1 accuracies, percent"),
    "correct": (pa.int64(), "test images whose top-1 prediction is right"),
    "correct5": (pa.int64(), "test images whose top-5 predictions contain the label"),
    "total": (pa.int64(), "test images"),
    "val_acc1": (pa.float64(), "top-1 accuracy on the validation split, percent"),
    "val_correct": (pa.int64(), "validation images whose top-1 prediction is right"),
    "miou": (pa.float64(), "mean over the classes of the intersection over union on the test split, percent"),
    "macc": (pa.float64(), "mean over the classes of the share of their test pixels that are right, percent"),
    "aacc": (pa.float64(), "share of all labelled test pixels that are right, percent"),
    "iou_per_class": (pa.list_(pa.float64()), "intersection over union of each class, percent; null where it does not occur"),
    "miou_ms": (pa.float64(), "miou of predictions averaged over scales and flips"),
    "macc_ms": (pa.float64(), "macc of the same"),
    "aacc_ms": (pa.float64(), "aacc of the same"),
}
_SIZE = {
    "params_trainable": (pa.int64(), "trained parameters, head included"),
    "params_method": (pa.int64(), "parameters of the method, trained or not, head excluded"),
    "params_active": (pa.int64(), "parameters of the method that act after pruning, head excluded"),
    "params_head": (pa.int64(), "parameters of the classifier"),
    "params_total": (pa.int64(), "all parameters, backbone included"),
    "params_by_part": (pa.string(), "trained or not, by the method's own names, of the head and of the backbone, JSON"),
    "bytes_saved": (pa.int64(), "size of the method's and the head's tensors as a file, without its metadata"),
}
_COST = {
    "flops_forward": (pa.int64(), "floating-point operations per image (2 per multiply-add), all tokens through all blocks"),
    "flops_inference": (pa.int64(), "of inference as executed: merged, and without outputs that nothing reads"),
    "macs_forward": (pa.int64(), "multiply-adds of flops_forward, half of it"),
    "flops_train_step": (pa.int64(), "as flops_forward, for forward and backward of a training step, without recomputation"),
    "macs_fvcore": (pa.int64(), "multiply-adds per image as fvcore counts them"),
    "latency_ms_p10": (pa.float64(), "inference of one image, milliseconds, 10th percentile"),
    "latency_ms_p50": (pa.float64(), "the same, median"),
    "latency_ms_p90": (pa.float64(), "the same, 90th percentile"),
    "latency_unmerged_ms_p50": (pa.float64(), "median before merging, if the method can be merged"),
    "throughput": (pa.float64(), "images per second in inference"),
    "throughput_batch": (pa.int64(), "batch size of throughput"),
    "train_step_ms": (pa.float64(), "median time of a training step, milliseconds"),
    "prepare_s": (
        pa.float64(),
        "seconds of the method's pass over data before training: clustering, sensitivities; null where it has none",
    ),
    "train_images_per_s": (pa.float64(), "images per second in training, of such steps"),
    "mem_kind": (pa.string(), "kind of the two peaks: allocator (CUDA), or process (libraries and weights included)"),
    "mem_train_peak": (pa.int64(), "peak memory in training, bytes: device allocator, or process on a CPU"),
    "mem_infer_peak": (pa.int64(), "peak memory in inference, bytes"),
    "energy_train_j": (pa.float64(), "energy of the whole GPU per image in training, joules, by NVML where it is installed"),
    "energy_infer_j": (pa.float64(), "the same in inference"),
}
_ENVIRONMENT = {
    "data_path": (pa.string(), "where the images of --data lay on the machine of the run"),
    "weights_path": (pa.string(), "where the weight file of the backbone lay there, for weights from a file"),
    "vpbench_version": (pa.string(), ""),
    "git_commit": (pa.string(), "of the checkout vpbench ran from, null when installed"),
    "git_dirty": (pa.bool_(), "whether that checkout had uncommitted changes"),
    "python": (pa.string(), ""),
    "torch": (pa.string(), ""),
    "timm": (pa.string(), ""),
    "platform": (pa.string(), "operating system and processor type"),
    "device": (pa.string(), "cpu or cuda"),
    "device_name": (pa.string(), "model of the processor or GPU"),
    "threads": (pa.int64(), "threads of torch on a CPU"),
    "batch_parts": (pa.int64(), "micro-batches per training batch (gradient accumulation); more than 1 where memory was short"),
    "linear_kernel": (pa.string(), "matrix product of the frozen layers in fp32 on a CPU: torch's default, or onednn"),
    "checkpoint_blocks": (pa.bool_(), "gradient checkpointing: whether blocks were recomputed in the backward pass"),
    "experiment": (pa.string(), "text of the experiment file that asked for the run; null without one"),
}

COLUMNS: dict[str, tuple[pa.DataType, str]] = {
    **_IDENTITY, **_METHOD, **_BACKBONE, **_DATA, **_TRAINING, **_QUALITY, **_SIZE, **_COST, **_ENVIRONMENT
}  # fmt: skip

QUALITY = tuple(_QUALITY)

# What a row says of its model and how it was trained.
OF_MODEL = (
    *_METHOD, *_BACKBONE, *_TRAINING, *_SIZE, "task", "suite", "n_train", "n_val", "preprocess", "spec", "search", "data_path",
    "weights_path",
)  # fmt: skip

# Columns that are equal in repetitions on the same kind of device with the same number of threads: all but those of time, memory
# and machine.
REPRODUCIBLE = tuple(
    name
    for group in (_IDENTITY, _METHOD, _BACKBONE, _DATA, _TRAINING, _QUALITY, _SIZE)
    for name in group
    if name not in ("started_at", "wall_s")
)

SCHEMA = pa.schema(
    [pa.field(name, kind, metadata={"description": text}) for name, (kind, text) in COLUMNS.items()],
    metadata={"vpbench_schema": str(SCHEMA_VERSION)},
)


def version_of(metadata: Mapping[bytes, bytes] | None) -> str:
    """The version that a file with these metadata was written with; ``unknown`` if there is none."""
    version = (metadata or {}).get(b"vpbench_schema", b"")
    return version.decode() if re.fullmatch(rb"\d{1,9}", version) else "unknown"


def is_newer(version: str) -> bool:
    """Whether a version of the schema is later than this one."""
    return version.isdecimal() and int(version) > SCHEMA_VERSION


def migrated(table: pa.Table, columns: Collection[str] | None = None) -> pa.Table:
    """Migrates rows of any version to this one: the schema's columns in order and type, then unknown ones.

    Args:
        table: with ``run_id``.
        columns: that were read; None for all.

    Raises:
        ArrowInvalid: when there is no ``run_id``, or a value does not fit its column.
    """
    if "run_id" not in table.column_names:
        raise pa.ArrowInvalid("it has no run_id column")
    table = table.replace_schema_metadata(None)
    wanted = SCHEMA if columns is None else pa.schema([field for field in SCHEMA if field.name in columns])
    if table.schema.equals(wanted):
        return table
    found = {field.name: _column(table, field) for field in wanted}
    if "score" not in table.column_names:
        found |= {name: column for name, column in _scores(table).items() if name in found}
    return pa.table({**found, **{name: table[name] for name in table.column_names if name not in found}})


def _scores(table: pa.Table) -> dict[str, pa.ChunkedArray | pa.Array]:
    """The columns on task and metric of rows that were written when there was classification alone."""
    found = {new: _column(table, SCHEMA.field(old)) for new, old in (("score", "acc1"), ("val_score", "val_acc1"))}
    scored = pc.or_(*(pc.is_valid(column) for column in found.values()))
    metric = pc.if_else(scored, pa.scalar("acc1"), pa.scalar(None, pa.string()))
    return {**found, "metric": metric, "task": pa.array(["classification"] * len(table), pa.string())}


def _column(table: pa.Table, field: pa.Field) -> pa.ChunkedArray | pa.Array:
    """A column in its type; nulls if the version of the table does not have it."""
    if field.name not in table.column_names:
        return pa.nulls(len(table), field.type)
    values = table[field.name]
    return values if values.type == field.type else values.cast(field.type)
