"""``--to peft``: an adapter folder that the library peft loads on the plain timm model."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

import timm
from torch import nn

from vpbench.backbones.frozen_linear import freeze_linears
from vpbench.backbones.weights import timm_architecture
from vpbench.core.torch_state import own_torch_state
from vpbench.deploy.export_target import ExportTarget
from vpbench.deploy.inference_form import check_logits, exact_logits, example_inputs
from vpbench.deploy.model_card import write_card, write_config
from vpbench.models.peft_folder import write_adapter
from vpbench.models.saved import TrainedModel

USAGE = """
import peft
import timm

model = timm.create_model("{name}", num_classes={classes}, **{arguments})  # and the backbone's weights, see above
model = peft.PeftModel.from_pretrained(model, "THIS_FOLDER").eval()
logits = model(images)  # (B, 3, {size}, {size}), prepared as below
"""


class Peft(ExportTarget):
    """adapter_config.json and adapter_model.safetensors with the adapters and the classifier, for ``lora`` and ``peft``."""

    summary: ClassVar[str] = "an adapter of the library peft for the plain timm model, of the methods lora and peft"

    def write(self, trained: TrainedModel, folder: Path, row: Mapping[str, Any] | None) -> str:
        description = trained.description
        freeze_linears(trained.model.backbone, "default")
        write_adapter(trained.model.eval(), folder, description.backbone.name)
        if find_spec("peft") is not None:
            _check(trained, folder)
        name, arguments = timm_architecture(description.backbone)
        usage = USAGE.format(name=name, classes=len(trained.class_names), arguments=arguments, size=trained.transform.image_size)
        write_config(description, folder)
        write_card(description, folder, usage, row)
        return "an adapter: peft.PeftModel.from_pretrained(timm's model, '{folder}')"


def _check(trained: TrainedModel, folder: Path) -> None:
    """
    Raises:
        UnsupportedError: when what peft loads on the plain model computes something else.
    """
    import peft

    images = example_inputs(trained)
    wanted = exact_logits(trained.model, images)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of peft: timm's models have no configuration of transformers
        loaded = peft.PeftModel.from_pretrained(_plain(trained), str(folder)).eval()
    check_logits("what peft loads", exact_logits(loaded, images), wanted)


def _plain(trained: TrainedModel) -> nn.Module:
    """timm's model with the frozen backbone's values, and a classifier."""
    name, arguments = timm_architecture(trained.description.backbone)
    with own_torch_state():
        plain: nn.Module = timm.create_model(name, num_classes=len(trained.class_names), **arguments)
    with trained.model.scope.disabled():
        state = trained.model.backbone.timm_model.state_dict()
        plain.load_state_dict({name.replace(".attn.inner.", ".attn."): value for name, value in state.items()}, strict=False)
    return plain.eval()
