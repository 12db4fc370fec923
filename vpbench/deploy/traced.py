"""Tracing of a trained model by ``torch.export``: the computation alone, without the code that describes it."""

from __future__ import annotations

import warnings

import torch
from torch.export import Dim, ExportedProgram

from vpbench.core.errors import UnsupportedError
from vpbench.deploy.inference_form import check_logits, exact_logits, example_inputs
from vpbench.models.prompted import PromptedModel
from vpbench.models.saved import TrainedModel


def traced(model: PromptedModel, trained: TrainedModel) -> ExportedProgram:
    """The program from images (B, 3, S, S), B from 1 up, to logits.

    Args:
        model: see :func:`vpbench.deploy.inference_form.inference_form`.

    Raises:
        UnsupportedError: when the method decides something by the values of an image, so that no fixed program computes it, or
            when the program computes something else.
    """
    label = trained.description.method.label
    images = example_inputs(trained)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.export.export(model, (images,), dynamic_shapes=({0: Dim("batch", min=1)},), strict=False)
            module = program.module()
    except Exception as error:  # of many kinds; what they have in common is that there is no program
        reason = (str(error).strip().splitlines() or [""])[0][:200].rstrip(" .")
        raise UnsupportedError(
            f"{label} cannot be exported: its forward pass is no fixed program ({type(error).__name__}: {reason}). "
            "--to folder keeps it for vpbench.load_run."
        ) from error
    for count in (1, 4):
        inputs = example_inputs(trained, count)
        check_logits(f"{label}, traced by torch.export,", exact_logits(module, inputs), exact_logits(model, inputs))
    return program
