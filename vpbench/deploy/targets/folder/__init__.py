"""``--to folder``: the trained tensors alone, for ``vpbench.load_run`` and the Hugging Face hub."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from vpbench.deploy.export_target import ExportTarget
from vpbench.deploy.load_run import MODEL_FILE
from vpbench.deploy.model_card import write_card, write_config
from vpbench.models.saved import TrainedModel, encode_model

USAGE = """
import vpbench

model = vpbench.load_run("{place}")
logits = model(model.transform("photo.jpg")[None])
"""


class Folder(ExportTarget):
    """safetensors, configuration and model card in the layout of the Hugging Face hub, without the backbone's weights."""

    summary: ClassVar[str] = "what was trained, as safetensors with config and model card; loaded by vpbench.load_run"

    def write(self, trained: TrainedModel, folder: Path, row: Mapping[str, Any] | None) -> str:
        (folder / MODEL_FILE).write_bytes(encode_model(trained.model, trained.description))
        write_config(trained.description, folder)
        write_card(trained.description, folder, USAGE.format(place="THIS_FOLDER"), row)
        return "vpbench.load_run loads it; the backbone's weights are not in it"
