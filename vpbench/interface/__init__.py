"""What a method file needs: ``from vpbench.interface import Method, MethodConfig, option, Tokens, torch``.

Importing this imports no torch.
"""

from vpbench.interface.attention_rows import ClassAttention, ReceivedAttention
from vpbench.interface.autocast import full_precision
from vpbench.interface.config import Fidelity, MethodConfig, Preset, option
from vpbench.interface.context import Context
from vpbench.interface.lazy import F, nn, torch
from vpbench.interface.method import ALL_PARTS, NO_PARTS, Method, Part
from vpbench.interface.peft_adapter import PEFT_PREFIX, PeftAdapter
from vpbench.interface.per_block import block_prompts, of_block, per_block, stage_tensors, uniform_prompts
from vpbench.interface.pinned_file import PinnedFile, pinned_tensors
from vpbench.interface.scope import SITES, Scope, Site
from vpbench.interface.session import OtherData, Session
from vpbench.interface.shape import ALL_FAMILIES, BackboneShape, Stage
from vpbench.interface.tokens import Tokens

__all__ = [
    "ALL_FAMILIES",
    "ALL_PARTS",
    "NO_PARTS",
    "PEFT_PREFIX",
    "SITES",
    "BackboneShape",
    "ClassAttention",
    "Context",
    "F",
    "Fidelity",
    "Method",
    "MethodConfig",
    "OtherData",
    "Part",
    "PeftAdapter",
    "PinnedFile",
    "Preset",
    "ReceivedAttention",
    "Scope",
    "Session",
    "Site",
    "Stage",
    "Tokens",
    "block_prompts",
    "full_precision",
    "nn",
    "of_block",
    "option",
    "per_block",
    "pinned_tensors",
    "stage_tensors",
    "torch",
    "uniform_prompts",
]
