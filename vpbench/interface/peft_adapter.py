"""What the library peft keeps of an adapter in a folder."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

PEFT_PREFIX = "base_model.model."
"""In front of timm's names, in the names of an adapter's tensors."""


@dataclass(frozen=True)
class PeftAdapter:
    """An adapter of peft's.

    Attributes:
        config: the content of its ``adapter_config.json``.
        tensors: those of its ``adapter_model.safetensors``, ``base_model.model.blocks.0.attn.qkv.lora_A.weight`` and so on.
    """

    config: dict[str, Any]
    tensors: dict[str, Tensor]
