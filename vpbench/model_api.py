"""The part of the Python interface that needs no data: a model with a method on it, and what methods cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vpbench.core.errors import UsageError
from vpbench.core.names import unknown
from vpbench.core.torch_state import own_torch_state
from vpbench.spec.flag import names_mistakes
from vpbench.spec.parsing import words

if TYPE_CHECKING:
    import pandas as pd

    from vpbench.models.prompted import PromptedModel

CREATED_WITH = ("weights", "image_size", "seed")  # arguments of create_method beside the method's own


@own_torch_state()
def create_method(
    method: str,
    backbone: str,
    classes: int,
    *,
    weights: str | Path | None = None,
    image_size: int | None = None,
    seed: int | None = None,
    **options: Any,
) -> PromptedModel:
    """A frozen backbone with a method on it: a torch module from normalised images to logits.

    Only the trainable tensors require gradients. ``model.backbone.shape`` has the sizes.

    Args:
        method: ``name`` or ``name:preset``.
        backbone: a name of ``vpbench list backbones``, or any ViT or Swin of timm.
        classes: number of classes, from 1 up.
        weights: None for the backbone's own, ``"random"``, or a file or folder.
        image_size: pixels; None for the size of pretraining.
        seed: of the method's initial values; None takes torch's current random state.
        options: of the method, e.g. ``prompt_length=10``.

    Raises:
        VpbenchError: for an unknown name, an option that does not fit, or missing weights.
    """
    import torch

    from vpbench.backbones.named import resolve_backbone
    from vpbench.models.build import build_model
    from vpbench.models.registry import check_preset, method_class, resolve_method

    if isinstance(classes, bool) or not isinstance(classes, int) or classes < 1:
        raise UsageError(f"classes={classes!r}: a head needs a whole number of classes, from 1 up.")
    name = method.partition(":")[0]
    if name.isidentifier():
        known = [*method_class(name).Config.model_fields, *method_class(name).Config.former_names()]
        for option in options:
            if option not in known:
                raise unknown(f"argument of vpbench.create_method with {name}", option, [*known, *CREATED_WITH])
    check_preset(method, {f"{name}.{option}": value for option, value in options.items()})
    spec = resolve_backbone(backbone, str(weights) if weights else None, image_size)
    chosen = resolve_method(method, options)
    if seed is not None:
        torch.manual_seed(seed)
    return build_model(chosen, spec, classes)


@names_mistakes
@own_torch_state()
def measure(
    methods: Sequence[str] | str = "all",
    backbone: str = "vit-nano",
    *,
    image_size: int | None = None,
    classes: int = 100,
    batch: int = 8,
    repeat: int = 3,
    threads: int | None = None,
    device: str = "auto",
    precision: str = "fp32",
    suite: str | None = None,
    settings: Mapping[str, Any] | None = None,
    timing: bool = True,
    progress: bool | None = None,
) -> pd.DataFrame:
    """Measure what methods cost: parameters, operations, time and memory, with random weights and without any training.

    Args:
        methods: names, as a list or with commas; ``all`` for every method.
        backbone: a name of ``vpbench list backbones``, or any of timm.
        image_size: pixels; None for the size of pretraining.
        classes: of the classifier.
        batch: images of a training step, and of an inference for throughput.
        repeat: rounds of timing, behind one that warms up.
        threads: of torch on a CPU.
        device, precision: as for :func:`run`.
        suite: whose recipes set options of the methods; None: the methods' own.
        settings: options of methods, ``{"vpt.prompt_length": 50}``.
        timing: False for parameters and operations alone.
        progress: whether a bar is shown; None: where a person watches, on a terminal or in a notebook.

    Returns:
        one row per method behind that of the plain backbone; columns as in ``vpbench.measure.cost_file``.

    Raises:
        VpbenchError: when something in the request cannot work.
        KeyboardInterrupt: when measuring was interrupted.
    """
    import pandas as pd

    from vpbench.measure.cost_progress import measure_all
    from vpbench.measure.cost_request import CostRequest
    from vpbench.measure.costs import Costs

    request = CostRequest(
        methods=words(methods) or [] if isinstance(methods, str) else list(methods), backbone=backbone, image_size=image_size,
        classes=classes, batch=batch, repeat=repeat, threads=threads, device=device, precision=precision,
        suite=suite, settings=settings or {}, timing=timing,
    )  # fmt: skip
    costs = Costs(request)
    if not measure_all(costs, progress):
        raise KeyboardInterrupt
    return pd.DataFrame(costs.rows())
