"""What methods cost on a backbone, side by side: no data, no training, no weights.

Values do not change a cost, so that the backbone's are random and shared by all models. Absolute times say as much about the
machine, and about who else uses it, as about a method: everything is timed in rounds, each method directly behind the plain
frozen backbone, and the ratio of the two is a column. Memory is the peak of a process that does nothing else.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import nn

from vpbench.backbones.base import Backbone
from vpbench.backbones.classifier import add_classifier
from vpbench.backbones.named import resolve_backbone
from vpbench.backbones.weights import load_backbone
from vpbench.core.errors import UnsupportedError, UsageError
from vpbench.measure.cost_file import COLUMNS
from vpbench.measure.cost_request import CostRequest
from vpbench.measure.energy import joules_per_call
from vpbench.measure.operations import count_by_dispatch, count_plain, merges
from vpbench.measure.peak import RECIPE, Load, peak_of
from vpbench.measure.size import bytes_saved, parameter_counts, parameters_by_part
from vpbench.measure.timing import example_images, inference, seconds_of_calls, training_step
from vpbench.models.build import add_method, build_empty, needs_classifier
from vpbench.models.prompted import PromptedModel
from vpbench.models.registry import method_class
from vpbench.spec.device import describe, resolve_device
from vpbench.spec.precision import float32_products, resolve_precision
from vpbench.spec.run_spec import BackboneSpec, MethodSpec

PLAIN = "(plain backbone)"
SECONDS = 0.2  # of each figure in each round, at least
SINGLE_CALLS = 3  # of the latency in each round, at least
LATENCIES = ("latency_ms_p10", "latency_ms_p50", "latency_ms_p90")

Pair = tuple[list[float], list[float]]  # seconds of a method's calls in a round, and of the plain backbone's directly before


@dataclass
class Entry:
    """One row on its way: ``columns`` are final, ``samples`` are times by what was timed, a pair for each round."""

    label: str
    spec: MethodSpec | None
    columns: dict[str, Any]
    samples: dict[str, list[Pair]] = field(default_factory=dict)

    @property
    def is_ok(self) -> bool:
        return bool(self.columns["status"] == "ok")


class Costs:
    """A table of costs that fills up: :meth:`steps` does the work, :meth:`rows` shows what there is at any time.

    Args:
        request: what to measure; parameters and operations of all methods are counted at once.

    Raises:
        VpbenchError: when something in the request cannot work.
    """

    def __init__(self, request: CostRequest) -> None:
        self.task, specs = request.resolved()
        self.request, self.device = request, resolve_device(request.device)
        self.precision = resolve_precision(request.precision, self.device)
        self.backbone: BackboneSpec = resolve_backbone(request.backbone, "random", request.image_size)
        self.entries = [Entry(PLAIN, None, self._plain_columns())]
        self.entries += [Entry(spec.label, spec, {"status": "ok", "error": ""}) for spec in specs]
        for entry in self.entries[1:]:
            with _failures(entry):
                entry.columns.update(self._counted(entry))

    def _plain_columns(self) -> dict[str, Any]:
        self._plain_flops = count_plain(self.backbone)
        flops = {"flops_forward": self._plain_flops, "flops_inference": self._plain_flops, "macs_forward": self._plain_flops // 2}
        return {"status": "ok", "error": "", **flops, "flops_ratio": 1.0}

    def _counted(self, entry: Entry) -> dict[str, Any]:
        assert entry.spec is not None
        counted = count_by_dispatch(build_empty(entry.spec, self.backbone, self.request.classes, "meta", self.task))
        model = build_empty(entry.spec, self.backbone, self.request.classes, "cpu", self.task)
        return {
            **parameter_counts(model),
            "params_by_part": json.dumps(parameters_by_part(model)),
            "bytes_saved": bytes_saved(model),
            **counted,
            "flops_ratio": counted["flops_forward"] / self._plain_flops,
        }

    def __len__(self) -> int:
        """Number of :meth:`steps`."""
        count = sum(entry.is_ok for entry in self.entries)
        return (2 * count - 1 + (self.request.repeat + 1) * (count - 1)) if self.request.timing else 0

    def steps(self) -> Iterator[str]:
        """Measure; yields in words what comes next, before it is done."""
        if not self.request.timing:
            return
        if self.request.threads:
            torch.set_num_threads(self.request.threads)
        timed = list(self._models())
        for turn in range(self.request.repeat + 1):
            for entry, calls in timed:
                if entry.is_ok:
                    yield f"{entry.label}, {f'round {turn} of {self.request.repeat}' if turn else 'warming up'}"
                    with _failures(entry), float32_products(self.precision):
                        self._round(entry, calls, keep=turn > 0)
        for entry, calls in timed:
            if entry.is_ok:
                with _failures(entry):
                    self._energy(entry, calls)
        timed.clear()  # a GPU's memory is for the processes that come now
        for entry in self.entries:
            for training in (False, True) if entry.spec else (False,):
                if entry.is_ok:
                    yield f"{entry.label}, memory in {'training' if training else 'inference'}"
                    with _failures(entry):
                        self._memory(entry, training)

    def _models(self) -> Iterator[tuple[Entry, _Calls]]:
        """What is timed. All models share one set of frozen values; each has its own modules, which its method may change."""
        plain = load_backbone(self.backbone)
        plain.use_fastest_kernels(self.device.type, self.precision)  # as in a run
        plain = plain.to(self.device).eval()
        batch = self.request.batch
        one, many = (example_images(plain.shape, count, self.device) for count in (1, batch))
        recipe = RECIPE.model_copy(update={"batch_size": batch})

        def made(spec: MethodSpec) -> PromptedModel:
            own = with_shared_weights(plain)
            if needs_classifier(spec):
                add_classifier(own, self.backbone, None)
            return add_method(spec, own, self.request.classes, self.task).to(self.device)

        for entry in self.entries[1:]:
            if not entry.is_ok or entry.spec is None:
                continue
            with _failures(entry):
                trained, final = made(entry.spec), made(entry.spec).eval()
                unmerged = inference(made(entry.spec).eval(), one, self.precision) if merges(final) else None
                final.merge()
                yield entry, _Calls(
                    plain_one=inference(plain, one, self.precision), plain_many=inference(plain, many, self.precision),
                    one=inference(final, one, self.precision), many=inference(final, many, self.precision), unmerged=unmerged,
                    step=training_step(trained, recipe, self.device, self.precision),
                )  # fmt: skip

    def _round(self, entry: Entry, calls: _Calls, keep: bool) -> None:
        def ones(call: Callable[[], None]) -> list[float]:
            return seconds_of_calls(call, SECONDS, SINGLE_CALLS)

        def batches(call: Callable[[], None]) -> list[float]:
            return seconds_of_calls(call, SECONDS, 1)

        plain_one, plain_many = ones(calls.plain_one), batches(calls.plain_many)
        taken = {
            "one": (ones(calls.one), plain_one),
            "many": (batches(calls.many), plain_many),
            "step": (batches(calls.step), plain_many),
        }
        if calls.unmerged is not None:
            taken["unmerged"] = (ones(calls.unmerged), plain_one)
        for name, pair in taken.items() if keep else ():
            entry.samples.setdefault(name, []).append(pair)

    def _energy(self, entry: Entry, calls: _Calls) -> None:
        for column, call in (("energy_infer_j", calls.many), ("energy_train_j", calls.step)):
            joules = joules_per_call(call, self.device)
            entry.columns[column] = None if joules is None else joules / self.request.batch

    def _memory(self, entry: Entry, training: bool) -> None:
        load = Load(
            backbone=self.backbone, method=entry.spec, classes=self.request.classes, batch=self.request.batch, training=training,
            device=self.device.type, precision=self.precision, threads=torch.get_num_threads(), task=self.task,
        )  # fmt: skip
        entry.columns["mem_kind"], entry.columns[f"mem_{'train' if training else 'infer'}_peak"] = peak_of(load)

    def rows(self) -> list[dict[str, Any]]:
        """One row per method, behind that of the plain backbone, with all of :data:`vpbench.measure.cost_file.COLUMNS`; None
        where nothing is known, or not yet."""
        fixed = {
            "backbone": self.backbone.name, "weights": "random", "image_size": self.backbone.image_size,
            "classes": self.request.classes, "precision": self.precision, **describe(self.device),
        }  # fmt: skip
        plain = [pair[1] for entry in self.entries for pair in entry.samples.get("one", [])]
        plain_many = [pair[1] for entry in self.entries for pair in entry.samples.get("many", [])]
        of_plain = {"one": [(own, own) for own in plain], "many": [(own, own) for own in plain_many]}
        rows = []
        for entry in self.entries:
            timed = self._timed(entry.samples if entry.spec else of_plain)
            found = {**fixed, "method": entry.label, **entry.columns, **timed}
            if entry.spec is not None:
                found["method_config"] = json.dumps(entry.spec.config, sort_keys=True)
                found["fidelity"] = method_class(entry.spec.name).fidelity
            rows.append({name: found.get(name) for name in COLUMNS})
        return rows

    def _timed(self, samples: Mapping[str, list[Pair]]) -> dict[str, Any]:
        batch = self.request.batch
        found: dict[str, Any] = {"rounds": len(samples.get("many", [])) if samples.get("many") else None}
        if one := samples.get("one"):
            found |= dict(zip(LATENCIES, np.percentile(_milliseconds(one), [10, 50, 90]).tolist(), strict=True))
            found["latency_ratio"] = _ratio(one)
            found["latency_unmerged_ms_p50"] = float(np.median(_milliseconds(samples.get("unmerged", one))))
        if many := samples.get("many"):
            found |= {"throughput": 1e3 * batch / float(np.median(_milliseconds(many))), "throughput_batch": batch}
            found["infer_ratio"] = _ratio(many)
        if step := samples.get("step"):
            found["train_step_ms"] = float(np.median(_milliseconds(step)))
            found["train_images_per_s"] = 1e3 * batch / found["train_step_ms"]
            found |= {"train_batch": batch, "train_ratio": _ratio(step)}
        return found


@dataclass(frozen=True)
class _Calls:
    """What is timed of a method: inference of one image and of a batch, merged where it can be, and a training step."""

    plain_one: Callable[[], None]
    plain_many: Callable[[], None]
    one: Callable[[], None]
    many: Callable[[], None]
    unmerged: Callable[[], None] | None
    step: Callable[[], None]


def with_shared_weights(backbone: Backbone) -> Backbone:
    """A copy of a frozen backbone's modules over the same memory: a method can change it without changing the other."""
    shared: dict[int, Any] = {id(value): nn.Parameter(value.detach(), requires_grad=False) for value in backbone.parameters()}
    return copy.deepcopy(backbone, {**shared, **{id(value): value for value in backbone.buffers()}})


def _milliseconds(rounds: list[Pair]) -> list[float]:
    return [1e3 * seconds for own, _ in rounds for seconds in own]


def _ratio(rounds: list[Pair]) -> float:
    """Median over the rounds of a method's median time by the plain backbone's directly before."""
    return float(np.median([np.median(own) / np.median(plain) for own, plain in rounds]))


@contextmanager
def _failures(entry: Entry) -> Iterator[None]:
    """A failure of one method is reported in its row; the others continue."""
    try:
        yield
    except UnsupportedError as error:
        entry.columns.update(status="unsupported", error=str(error))
    except (torch.OutOfMemoryError, MemoryError) as error:
        entry.columns.update(status="oom", error=(str(error).splitlines() or ["too little memory; lower --batch"])[0])
    except UsageError:
        raise  # an option that does not fit the backbone
    except Exception as error:
        entry.columns.update(status="failed", error=f"{type(error).__name__}: {str(error).strip()}")
