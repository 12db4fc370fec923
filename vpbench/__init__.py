"""vpbench: compare ways of adapting a frozen vision transformer.

The Python interface is a few functions, which the command line calls too::

    import vpbench

    vpbench.run(methods=["linear", "vpt"], suite="mini", results="results/runs")
    frame = vpbench.load_results("results/runs")
    print(vpbench.report(table="1", results="results/runs"))  # in a notebook without print: a table
    vpbench.compare("vpt", "linear", results="results/runs")
    vpbench.tune(methods=["vpt"], suite="mini", space="vpt-grid")
    vpbench.measure("vpt,lora", "vit-b16-in21k", timing=False)
    vpbench.show("method", "insvp")
    model = vpbench.create_method("vpt", "vit_base_patch16_224", 100, weights="random", prompt_length=10)
    model = vpbench.load_run("3fa9")  # as trained: model(model.transform("photo.jpg")[None]) are logits

A mistake raises ``vpbench.VpbenchError``, whose text is one line that says what to do.

Importing vpbench imports no torch; the functions do when they need it.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vpbench.core.version import __version__

_HOMES = {  # of names that are not in vpbench.api
    **dict.fromkeys(("compare", "load_results", "remove_runs", "report", "show"), "vpbench.results"),
    **dict.fromkeys(("create_method", "measure"), "vpbench.model_api"),
    "load_run": "vpbench.deploy.load_run",
    "VpbenchError": "vpbench.core.errors",
}
__all__ = [
    "VpbenchError", "__version__", "compare", "create_method", "load_results", "load_run", "measure", "remove_runs", "report",
    "run", "show", "tune",
]  # fmt: skip

# In a checkout that is not installed, methods/, benchmarks/ and reports/ lie beside this folder: make them subpackages.
_CHECKOUT = Path(__file__).resolve().parent.parent
if not (Path(__file__).parent / "methods").exists() and (_CHECKOUT / "methods" / "__init__.py").exists():
    __path__.append(str(_CHECKOUT))

if TYPE_CHECKING:
    from vpbench.api import run, tune
    from vpbench.core.errors import VpbenchError
    from vpbench.deploy.load_run import load_run
    from vpbench.model_api import create_method, measure
    from vpbench.results import compare, load_results, remove_runs, report, show


def __dir__() -> list[str]:
    return sorted({*__all__, *(name for name in globals() if name.startswith("__"))})


def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(import_module(_HOMES.get(name, "vpbench.api")), name)
    raise AttributeError(f"module 'vpbench' has no attribute {name!r}")
