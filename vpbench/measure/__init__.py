"""What methods cost: parameters, operations, time, memory and energy.

The package and the function :func:`vpbench.measure` have one name. Python gives the name to the package as soon as a module of it
is imported, so the package can be called, too.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import Any


class _CallablePackage(ModuleType):
    def __call__(self, *values: Any, **named: Any) -> Any:
        return import_module("vpbench.model_api").measure(*values, **named)


sys.modules[__name__].__class__ = _CallablePackage
