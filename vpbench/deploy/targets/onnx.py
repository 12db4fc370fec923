"""``--to onnx``: a graph for ONNX Runtime and others."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import onnxruntime
import onnxscript  # noqa: F401 - torch's exporter needs it, and asks for it late
import torch

from vpbench.core.errors import UnsupportedError
from vpbench.deploy.export_target import ExportTarget
from vpbench.deploy.inference_form import check_logits, exact_logits, example_inputs, inference_form
from vpbench.deploy.model_card import write_card, write_config
from vpbench.deploy.traced import traced
from vpbench.models.saved import TrainedModel

GRAPH = "model.onnx"
TOLERANCE = 1e-4  # other kernels, other orders of summation
LARGEST = 1 << 30  # bytes of a graph in one file; protobuf ends at 2 GiB
USAGE = """
import onnxruntime

session = onnxruntime.InferenceSession("THIS_FOLDER/model.onnx")
(logits,) = session.run(None, {{"images": images}})  # float32 (B, 3, {size}, {size}), prepared as below
"""


class Onnx(ExportTarget):
    """A graph from ``images`` (batch, 3, S, S) to ``logits`` (batch, classes), which ONNX Runtime compares with the model."""

    summary: ClassVar[str] = "a graph for ONNX Runtime, compared with the trained model to 1e-4"

    def write(self, trained: TrainedModel, folder: Path, row: Mapping[str, Any] | None) -> str:
        model = inference_form(trained)
        program = traced(model, trained)
        path, label = folder / GRAPH, trained.description.method.label
        size = sum(tensor.nbytes for tensor in program.state_dict.values())
        try:
            with _quiet():
                graph = torch.onnx.export(program, input_names=["images"], output_names=["logits"], dynamo=True)
                assert graph is not None
                graph.save(str(path), external_data=size > LARGEST)
            session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        except Exception as error:  # of torch's exporter or ONNX Runtime, of many kinds
            raise UnsupportedError(f"{label} cannot be exported to ONNX ({_reason(error)}).") from error
        for count in (1, 3):
            images = example_inputs(trained, count)
            (found,) = session.run(None, {"images": images.numpy()})
            check_logits(f"{label} in ONNX Runtime", torch.from_numpy(found), exact_logits(model, images), TOLERANCE)
        write_config(trained.description, folder)
        write_card(trained.description, folder, USAGE.format(size=trained.transform.image_size), row)
        return f"a graph: onnxruntime.InferenceSession('{{folder}}/{GRAPH}')"


def _reason(error: BaseException) -> str:
    """The first line of the error at the bottom, which names the operation."""
    while error.__cause__ is not None:
        error = error.__cause__
    line = (str(error).strip().splitlines() or [""])[0]
    return f"{type(error).__name__}: {line[:300].rstrip(' .')}"


@contextlib.contextmanager
def _quiet() -> Any:
    """Without the reports that torch's exporter prints."""
    loggers = [logging.getLogger(name) for name in ("onnxscript", "onnx_ir", "torch.onnx")]
    before = [logger.level for logger in loggers]
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, before):
                logger.setLevel(level)
