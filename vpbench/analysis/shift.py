"""Stored models on the test images of other data sets, without any training: rows of the stage ``shift``.

Classes are matched by name, which for ImageNet and its variants is their WordNet id. Where the other data set has some of the
classes alone (ImageNet-A and -R), the logits of these are compared, as their authors do. A row of this stage has the columns of
the model's row but for identity, data, quality and costs; with ``interpolation``, its weights are mixed with those of a linear
probe (:mod:`vpbench.analysis.wise_ft`).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from vpbench.analysis.wise_ft import PROBE, interpolated
from vpbench.core.errors import DataError, DivergedError, MissingDataError, StoreError, UnsupportedError, UsageError
from vpbench.core.hashing import digest
from vpbench.data.batches import Normaliser, evaluation_batches
from vpbench.data.cache import CachedSplit, prepare
from vpbench.data.catalog import dataset_card
from vpbench.data.how_to_get import how_to_get
from vpbench.data.places import data_root
from vpbench.data.raw import PartialSplit, RawData
from vpbench.data.sources import open_dataset
from vpbench.deploy.load_run import load_run
from vpbench.models.saved import TrainedModel
from vpbench.planning.check_names import suite_of
from vpbench.spec.device import describe, resolve_device
from vpbench.spec.run_options import RunOptions
from vpbench.store.schema import OF_MODEL, SETTLED
from vpbench.store.store import Store
from vpbench.tasks import task_class
from vpbench.tasks.classification import EVALUATION_BATCH, Accuracies, AccuracyScorer
from vpbench.training.memory import in_pieces

if TYPE_CHECKING:
    import pandas as pd

    from vpbench.planning.plan import Plan
    from vpbench.spec.request import Request
    from vpbench.spec.run_spec import RunSpec

Row = Mapping[str, Any]
STAGE = "shift"
# What a linear probe shares with the run whose weights are mixed with its own.
SHARED = (
    "suite", "dataset", "data_digest", "backbone", "weights", "weights_sha256", "image_size", "preprocess", "precision", "seed",
)  # fmt: skip


@dataclass(frozen=True)
class OtherData:
    """A data set whose test images models are tested on.

    Attributes:
        name: of the data set.
        group: in tables.
        raw: opened.
        decoding: how its images become RGB, as fields of :class:`~vpbench.spec.run_spec.Preprocess`; those that are left out are
            as in training.
    """

    name: str
    group: str
    raw: RawData
    decoding: Mapping[str, str] = field(default_factory=dict)


def open_others(names: Sequence[str], root: str | None = None) -> list[OtherData]:
    """Open the data sets that ``--test-on`` names; no image is decoded.

    Args:
        root: the data root; by default ``VPBENCH_DATA`` or the user's data folder.

    Raises:
        UsageError: for an unknown name.
        MissingDataError: when some are not there, with how to get all of them.
        DataError: when one is damaged.
    """
    found, missing = [], []
    for name in dict.fromkeys(names):
        card = dataset_card(name)
        try:
            found.append(OtherData(name, card.group, open_dataset(card, root), card.decoding))
        except MissingDataError:
            missing.append(name)
        except DataError as error:
            raise DataError(f"--test-on {name}: {error}") from error
    if missing:
        raise MissingDataError(
            f"{', '.join(missing)} of --test-on are not in {data_root(root)}. {how_to_get(missing)} "
            "--test-on names others, and --test-on none none."
        )
    return found


@dataclass(frozen=True)
class Shifts:
    """What the models of a request are tested on beside their own test images.

    Attributes:
        others: other data sets.
        alphas: shares of a model's weights that are mixed with a linear probe's.
        options: of the request, with the data sets that its suite tests on where the user names none.
    """

    others: Sequence[OtherData]
    alphas: Sequence[float]
    options: RunOptions = field(default_factory=RunOptions)

    @classmethod
    def asked(cls, request: Request, options: RunOptions) -> Shifts:
        """Those that options ask for, or else the request's suite; see :func:`open_others`."""
        names = suite_of(request)[1].test_on if options.test_on is None else options.test_on
        return cls(open_others(names, request.data_root), options.wise_ft or (), options.model_copy(update={"test_on": names}))

    def check(self, plan: Plan, store: Store) -> None:
        """That all can be tested, before anything is trained.

        Raises:
            UsageError: for data sets with other classes than the models', or without a linear probe to mix weights with.
        """
        if self.others or self.alphas:
            for task in {task_class(run.spec.task.name) for run in plan.runs}:
                if task.target != "class":
                    raise UsageError(f"--test-on and --wise-ft are for image classification, and this is {task.title}.")
        for name, raw in plan.data.items():
            for other in self.others:
                check_classes(other, raw.class_names, name)
        if self.alphas:
            planned = [_shared(run.spec) for run in plan.runs if run.spec.method.name == PROBE]
            for run in plan.runs:
                if run.spec.method.name != PROBE and (shared := _shared(run.spec)) not in planned:
                    _find_probe(shared, store)

    def tested(self, plan: Plan, store: Store, rows: pd.DataFrame) -> Iterator[str]:
        """Test the models of a plan's rows that are ok, one after the other in this process. Yields a line for each result."""
        for row in rows[rows["status"] == "ok"].to_dict("records") if self.others or self.alphas else ():
            run_id, dataset, device = str(row["run_id"]), str(row["dataset"]), plan.request.device
            found = list(shift_rows(run_id, store, self.others, device))
            if self.alphas and row["method"] != PROBE:
                own = OtherData(dataset, str(row["dataset_group"]), plan.data[dataset])
                found += mixed_rows(run_id, store, [own, *self.others], self.alphas, device)
            for one in found:
                share = "" if one["interpolation"] is None else f", {one['interpolation']:g} of its weights"
                result = f"{one['acc1']:.1f} % top-1" if one["status"] == "ok" else f"{one['status']} - {one['error']}"
                yield f"{one['method']} of {dataset} on {one['dataset']}{share}, seed {one['seed']}: {result}"


def check_classes(other: OtherData, class_names: Sequence[str], trained_on: str) -> None:
    """
    Raises:
        UsageError: when a data set has a class that a model of ``class_names`` does not know.
    """
    if strange := sorted(set(other.raw.class_names) - set(class_names)):
        raise UsageError(
            f"--test-on {other.name}: a model of {trained_on} does not know {len(strange)} of its {len(other.raw.class_names)} "
            f"classes, e.g. '{strange[0]}'; choose a data set with classes of the same names."
        )


def shift_rows(run_id: str, store: Store, others: Sequence[OtherData], device: str = "auto") -> Iterator[dict[str, Any]]:
    """Test a stored model on other data sets. A row that is there already, of the same model and images, is not made again.

    Args:
        run_id: of a run that is ok.
        store: has its weights, and receives the rows.
        device: ``auto``, or where to compute.

    Yields:
        the rows, in order.

    Raises:
        StoreError, WeightsError: when the model cannot be loaded.
        UsageError: for a data set with other classes.
        DataError: when images cannot be decoded.
    """
    row, model = _row(run_id, store), None
    for other in others:
        new = _identity(row, other)
        if (known := _known(new["run_id"], store, row)) is not None:
            yield known
        else:
            model = model or _load(row, store, device)
            yield _tested(new, row, store, other, model)


def mixed_rows(
    run_id: str, store: Store, others: Sequence[OtherData], alphas: Sequence[float], device: str = "auto"
) -> Iterator[dict[str, Any]]:
    """The same with the weights at every alpha between a linear probe's and the run's; unsupported where these cannot be mixed.

    Args:
        alphas: shares of the run's weights, 0 ... 1.

    Raises:
        UsageError: when the store has no linear probe of the same data, backbone and seed.
    """
    row = _row(run_id, store)
    probe = _row(_find_probe({name: row[name] for name in SHARED}, store), store)
    wanted = [(alpha, other, _identity(row, other, probe, alpha)) for alpha in alphas for other in others]
    known = {new["run_id"]: _known(new["run_id"], store, row, probe) for _, _, new in wanted}
    missing = [one for one in wanted if known[one[2]["run_id"]] is None]
    made = {new["run_id"]: new for new in _mixed(row, probe, store, missing, device)} if missing else {}
    for _, _, new in wanted:
        yield made.get(new["run_id"]) or known[new["run_id"]] or {}


def _mixed(
    row: Row, probe: Row, store: Store, wanted: Sequence[tuple[float, OtherData, dict[str, Any]]], device: str
) -> Iterator[dict[str, Any]]:
    alphas = sorted({alpha for alpha, _, _ in wanted})
    try:
        for alpha, model in interpolated(_load(probe, store, device), _load(row, store, device), alphas):
            for _, other, new in (one for one in wanted if one[0] == alpha):
                yield _tested(new, row, store, other, model)
    except UnsupportedError as error:
        for _, other, new in wanted:
            yield _store(new, row, store, other, {"status": "unsupported", "error": str(error)})


def _row(run_id: str, store: Store) -> Row:
    row = store.read_row(run_id)
    if row is None:
        raise StoreError(f"run {run_id} is gone from {store.folder}.")
    return row


def _shared(spec: RunSpec) -> dict[str, Any]:
    """What a run's linear probe has in its row, as far as a plan knows it: weights from the hub are hashed in the run."""
    backbone, data = spec.backbone, spec.data
    return {
        "suite": data.suite, "dataset": data.dataset, "data_digest": data.common_digest, "backbone": backbone.name,
        "weights": backbone.weights, "image_size": backbone.image_size, "preprocess": json.dumps(spec.preprocess.identity()),
        "precision": spec.precision, "seed": spec.seed,
    }  # fmt: skip


def _find_probe(wanted: Mapping[str, Any], store: Store) -> str:
    """The id of the newest linear probe whose row has these values.

    Raises:
        UsageError: when there is none.
    """
    rows = store.read_columns(["run_id", "method", "stage", "status", "started_at", *wanted])
    fitting = [
        one
        for one in rows
        if (one["method"], one["status"]) == (PROBE, "ok")
        and one["stage"] not in ("search", STAGE)
        and all(one[name] == value for name, value in wanted.items())
    ]
    if not fitting:
        raise UsageError(
            f"--wise-ft: at 0 the weights are those of a linear probe, and {store.folder} has none of {wanted['dataset']} on "
            f"{wanted['backbone']} with the seed {wanted['seed']}: add {PROBE} to --methods."
        )
    newest = max(fitting, key=lambda one: (str(one["started_at"]), one["run_id"]))
    return str(newest["run_id"])


def _identity(row: Row, other: OtherData, probe: Row | None = None, alpha: float | None = None) -> dict[str, Any]:
    """What identifies an evaluation: the images, the model, and what it is mixed with."""

    def hashed(of: str) -> str:
        mixed = {} if probe is None else {"probe": probe[of], "interpolation": alpha}
        return digest({"stage": STAGE, "dataset": other.name, "digest": other.raw.digest, "trained_run": row[of], **mixed})

    return {
        "run_id": hashed("run_id"), "group_id": hashed("group_id"), "trained_run": row["run_id"], "interpolation": alpha
    }  # fmt: skip


def _known(run_id: str, store: Store, *models: Row) -> dict[str, Any] | None:
    """The stored row of an evaluation, unless one of its models was trained again since."""
    found = store.read_row(run_id)
    if found is None or found["status"] not in SETTLED or any(found["started_at"] < model["started_at"] for model in models):
        return None
    return found


def _load(row: Row, store: Store, device: str) -> TrainedModel:
    model = load_run(row["run_id"], results=store.folder, device=resolve_device(device))
    if model.model.task.target != "class":
        raise UnsupportedError(f"--test-on is for models of whole images, and this one is for {model.model.task.title}.")
    return model


def _tested(new: dict[str, Any], row: Row, store: Store, other: OtherData, model: TrainedModel) -> dict[str, Any]:
    check_classes(other, model.class_names, str(row["dataset"]))
    description, started = model.description, datetime.now(UTC)
    preprocess = description.preprocess.model_copy(update=dict(other.decoding))
    split = prepare(_test_alone(other.raw), preprocess, description.backbone.image_size).test
    found: dict[str, Any] = {"preprocess": json.dumps(preprocess.identity())}
    try:
        scores = predicted(model, split, [model.class_names.index(name) for name in other.raw.class_names])
        found |= {"status": "ok", "error": "", "metric": model.model.task.metric, "score": scores.score, **scores.columns()}
    except DivergedError as error:
        found |= {"status": "diverged", "error": str(error)}
    place = next(model.parameters()).device
    return _store(new, row, store, other, {**found, **describe(place), "started_at": started})


def predicted(model: TrainedModel, split: CachedSplit, chosen: Sequence[int]) -> Accuracies:
    """Predictions on a split.

    Args:
        chosen: class ids of the model whose logits are compared, in the order of the split's own class ids.

    Raises:
        DivergedError: when the logits are not finite.
    """
    device, backbone = next(model.parameters()).device, model.description.backbone
    columns, scorer = torch.tensor(chosen, device=device), AccuracyScorer(len(chosen), 0)

    def forward(inputs: Any, with_features: bool = False) -> tuple[torch.Tensor, None]:
        return torch.cat(in_pieces(model, inputs))[:, columns], None

    with torch.no_grad():
        for images, labels in evaluation_batches(split, EVALUATION_BATCH, Normaliser(backbone.mean, backbone.std, device)):
            scorer.add(forward, images, labels)
    return scorer.scores()


def _test_alone(raw: RawData) -> RawData:
    """The same without training and validation images, which need not be decoded."""
    test = raw.splits["test"]
    nothing = PartialSplit([test], np.empty(0, np.int64))
    return replace(raw, splits={"train": nothing, "val": nothing, "test": test})


def _store(new: dict[str, Any], row: Row, store: Store, other: OtherData, found: dict[str, Any]) -> dict[str, Any]:
    started = found.get("started_at", datetime.now(UTC))
    made = {
        **{name: row.get(name) for name in OF_MODEL}, **new, "stage": STAGE, "trained_on": row["dataset"],
        "dataset": other.name, "dataset_group": other.group, "data_digest": other.raw.digest,
        "classes": len(other.raw.class_names), "n_test": len(other.raw.splits["test"]),
        "started_at": started, "wall_s": (datetime.now(UTC) - started).total_seconds(), **found,
    }  # fmt: skip
    store.write_row(made)
    return made
