"""What a method file needs: ``from vpbench.interface import Method, MethodConfig, option, Tokens, torch``.

Importing this imports no torch.
"""

from vpbench.interface.config import Fidelity, MethodConfig, Preset, option
from vpbench.interface.context import Context
from vpbench.interface.later import F, nn, torch
from vpbench.interface.method import Method, uniform_prompts
from vpbench.interface.precision import full_precision
from vpbench.interface.scope import ClassAttention, Scope
from vpbench.interface.session import Session
from vpbench.interface.shape import BackboneShape
from vpbench.interface.tokens import Tokens

__all__ = [
    "BackboneShape",
    "ClassAttention",
    "Context",
    "F",
    "Fidelity",
    "Method",
    "MethodConfig",
    "Preset",
    "Scope",
    "Session",
    "Tokens",
    "full_precision",
    "nn",
    "option",
    "torch",
    "uniform_prompts",
]
