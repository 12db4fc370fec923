"""A timm model with the layers of the library peft inside of it."""

from __future__ import annotations

import copy
import json
import re
import textwrap
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from vpbench.core.errors import UnsupportedError, UsageError
from vpbench.interface import PeftAdapter

try:
    import peft
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
except ImportError as error:
    raise UsageError(f"method 'peft' needs the library peft ({error}): pip install 'vpbench[peft]'.") from error

ADAPTER = "default"
LONGEST = 400  # characters of peft's reason; some print whole modules
UNKNOWN_STEPS = 10**9  # of AdaLoRA, until the first step says how many there are
CONSTANT = "ranknum"  # of AdaLoRA: the rank that it starts with, which peft neither trains nor saves
CHANGING_INITS = ("pissa", "olora", "mica")  # initial values of LoRA for which peft subtracts them from the frozen weights
UNFIT_INITS = {
    "eva": "it needs activations of training images",
    "corda": "it needs activations of training images",
    "lora_ga": "it needs gradients of training images",
    "pissa_niter": "the frozen weights that it leaves depend on chance; 'pissa' computes the same values exactly",
}


class Adapters(nn.Module):
    """The adapters of a model apart from the frozen layers that they wrap, as ``lora_A.blocks_0_attn_qkv.default.weight``.

    Attributes:
        wrappers: peft's layers by timm's names of what they wrap.
    """

    wrappers: dict[str, nn.Module]

    def __init__(self) -> None:
        super().__init__()
        self.__dict__["wrappers"] = {}  # not modules of this one: the frozen layers are inside of them

    def train(self, mode: bool = True) -> Adapters:
        super().train(mode)
        for wrapper in self.wrappers.values():
            wrapper.training = mode
        return self

    def collect(self, model: nn.Module, before: set[int]) -> None:
        """Take over what was added to a model.

        Args:
            before: ids of the modules that it had.
        """
        self._modules.clear()
        self.wrappers.clear()
        found: set[int] = set()  # adapters that several layers share are taken once
        for path, module in model.named_modules():
            if id(module) in before or not _holds(module, before):
                continue
            self.wrappers[path] = module
            added = {name: each for name, each in module.named_children() if id(each) not in before and not _holds(each, before)}
            for name, each in [*added.items(), *module.named_parameters(recurse=False)]:
                if id(each) not in found and name != CONSTANT:
                    found.add(id(each))
                    self._hold(name, path.replace(".", "_"), each)

    def _hold(self, kind: str, place: str, value: nn.Module | nn.Parameter) -> None:
        if kind not in self._modules:
            self.add_module(kind, nn.Module())
        setattr(self._modules[kind], place, value)


def _holds(module: nn.Module, others: set[int]) -> bool:
    return any(id(each) in others for each in module.modules())


def adapted(config: Mapping[str, Any], own: Adapters, model: nn.Module) -> Any:
    """peft's model of a timm model, whose layers it replaces.

    Args:
        config: content of an ``adapter_config.json``.
        own: takes over the adapters.

    Raises:
        UsageError: when peft cannot apply the configuration, with peft's reason.
    """
    settings = _settings(config)
    before = {id(module) for module in model.modules()}
    if str(config.get("init_lora_weights")) in CHANGING_INITS:
        give_own_memory(model)
    try:
        found = peft.get_peft_model(model, settings)
    except Exception as error:
        raise _refused(config, error) from error
    own.collect(model, before)
    return found


def _settings(config: Mapping[str, Any]) -> Any:
    """The configuration as peft's object."""
    kind = str(config["peft_type"])
    kinds = {each.value: cls for each, cls in PEFT_TYPE_TO_CONFIG_MAPPING.items()}
    init = str(config.get("init_lora_weights"))
    reason = next((reason for name, reason in UNFIT_INITS.items() if init.startswith(name)), "")
    if kind not in kinds:
        raise UsageError(f"peft.config: peft {peft.__version__} has no peft_type '{kind}'; it has {', '.join(sorted(kinds))}.")
    if reason:
        raise UsageError(f"peft.config: init_lora_weights='{init}' is not possible: {reason}.")
    try:
        settings = kinds[kind](**copy.deepcopy(dict(config)))
    except Exception as error:
        raise _refused(config, error) from error
    if settings.is_prompt_learning or settings.is_adaption_prompt:
        raise UsageError(f"peft.config: peft applies {kind} to language models of transformers alone, not to timm's models.")
    return settings


def _refused(config: Mapping[str, Any], error: Exception) -> UsageError:
    said = " ".join(str(error).split()) or type(error).__name__
    said = textwrap.shorten(re.sub(r"^\w+Config\.__init__\(\) ", "", said), LONGEST, placeholder=" ...")
    return UsageError(f"peft.config: peft cannot apply {config['peft_type']} to this backbone: {said}")


def give_own_memory(model: nn.Module) -> None:
    """Copies of all frozen values, which peft may change in place."""
    for parameter in model.parameters():
        if not parameter.requires_grad:
            parameter.data = parameter.data.clone()


def adapted_on_meta(config: Mapping[str, Any], own: Adapters, model: nn.Module) -> Any:
    """The same for a model on the meta device.

    Some tuners compute indices or masks from values, which fails on the meta device; they see zeros, and are moved after it.
    """
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                zeros = torch.zeros(parameter.shape, dtype=parameter.dtype, device="cpu")
                module._parameters[name] = nn.Parameter(zeros, requires_grad=False)
    with torch.device("cpu"):
        found = adapted(config, own, model)
    found.to("meta")
    own.to("meta")
    return found


def check_called(model: nn.Module, own: Adapters, images: Tensor) -> None:
    """That timm calls every layer that peft replaced; some of its classes read a layer's weight instead.

    Args:
        images: on the meta device, as the model.

    Raises:
        UnsupportedError: when a layer is not called, so that its adapter would have no effect.
    """
    called: set[str] = set()
    with _plain_layers(own, called), torch.no_grad():
        model(images)
    if missed := [path for path in own.wrappers if path not in called]:
        raise UnsupportedError(
            f"timm's {type(model).__name__} reads the weight of '{missed[0]}' and never calls that layer, so an adapter of peft "
            "would have no effect there."
        )


@contextmanager
def _plain_layers(own: Adapters, called: set[str]) -> Iterator[None]:
    """In the block, peft's layers compute what the frozen ones do, and record that they are called."""

    def forward(path: str, wrapper: Any, *inputs: Any, **named: Any) -> Any:
        called.add(path)
        frozen = wrapper.base_layer if hasattr(wrapper, "base_layer") else wrapper.original_module
        return frozen(*inputs, **named)

    for path, wrapper in own.wrappers.items():
        wrapper.forward = partial(forward, path, wrapper)
    try:
        yield
    finally:
        for wrapper in own.wrappers.values():
            del wrapper.forward


def saved(model: Any) -> PeftAdapter:
    """The adapters of peft's model as peft saves them, with all settings that its configuration leaves to peft's defaults."""
    with _all_ranks(model):
        settings = model.peft_config[ADAPTER].to_dict()
        tensors = peft.get_peft_model_state_dict(model, adapter_name=ADAPTER, save_embedding_layers=False)
    config = json.loads(json.dumps({**settings, "peft_version": peft.__version__, "inference_mode": True}, default=sorted))
    return PeftAdapter(config, {name: tensor.detach() for name, tensor in tensors.items()})


def load_values(model: Any, adapter: PeftAdapter) -> None:
    """Give the adapters of peft's model the values of an adapter.

    Raises:
        UsageError: when tensors are missing, surplus, or of another shape.
    """
    with _all_ranks(model):
        wanted = {name: tuple(each.shape) for name, each in saved(model).tensors.items()}
        found = {name: tuple(each.shape) for name, each in adapter.tensors.items()}
        if different := sorted(dict(set(wanted.items()) ^ set(found.items()))):
            name = different[0]
            shapes = f"'{name}' has shape {found.get(name, 'none')} in it and {wanted.get(name, 'none')} in the model"
            raise UsageError(f"the adapter does not fit its configuration or the backbone: {shapes}.")
        peft.set_peft_model_state_dict(model, dict(adapter.tensors), adapter_name=ADAPTER)


@contextmanager
def _all_ranks(model: Any) -> Iterator[None]:
    """In the block, AdaLoRA keeps masked ranks too: zeros among its values, in tensors of one shape."""
    settings = model.peft_config[ADAPTER]
    pattern = getattr(settings, "rank_pattern", None)
    if settings.peft_type == "ADALORA":
        settings.rank_pattern = None
    try:
        yield
    finally:
        if settings.peft_type == "ADALORA":
            settings.rank_pattern = pattern


class RankBudget:
    """AdaLoRA's allocation of ranks: which triplets of singular values and vectors are masked, from their importance.

    peft keeps importances in dictionaries, which no checkpoint would have; here they are buffers of ``own``.

    Args:
        model: peft's.
        own: gets the buffers.
    """

    KINDS = ("ipt", "exp_avg_ipt", "exp_avg_unc")

    def __init__(self, model: Any, own: Adapters) -> None:
        self._tuner, self._own = model.base_model, own
        self._settings = model.peft_config[ADAPTER]
        self._names = [name for name, _ in self._tuner.model.named_parameters() if "lora_" in name and ADAPTER in name]
        values = dict(self._tuner.model.named_parameters())
        own.importance = nn.Module()
        for place, name in enumerate(self._names):
            for kind in self.KINDS:
                own.importance.register_buffer(f"{kind}_{place}", torch.zeros_like(values[name].data), persistent=False)

    def step_ended(self, step: int, steps: int, pattern: dict[str, Any] | None) -> dict[str, Any] | None:
        """After the optimizer's step ``step`` of ``steps``: importances, and masks where they are due.

        Args:
            pattern: the ranks as they were allocated last.

        Returns:
            the ranks as they are allocated now.
        """
        allocator = self._tuner.rankallocator
        buffers = self._own.importance
        self._settings.rank_pattern = pattern
        if self._settings.total_step == UNKNOWN_STEPS:
            allocator.set_total_step(steps)
        for kind in self.KINDS:
            setattr(allocator, kind, {name: getattr(buffers, f"{kind}_{place}") for place, name in enumerate(self._names)})
        self._tuner.update_and_allocate(step)
        for kind in self.KINDS:
            now = getattr(allocator, kind)
            for place, name in enumerate(self._names):
                buffer = getattr(buffers, f"{kind}_{place}")
                buffer.copy_(now[name]) if name in now else buffer.zero_()
        found: dict[str, Any] | None = self._settings.rank_pattern
        return found

    def penalty(self) -> Tensor:
        """``orth_reg_weight`` times the mean Frobenius norm of A A^T - I and B^T B - I."""
        norms = []
        for name, value in self._tuner.model.named_parameters():
            if f"lora_A.{ADAPTER}" in name or f"lora_B.{ADAPTER}" in name:
                gram = value @ value.T if "lora_A" in name else value.T @ value
                norms.append(torch.linalg.norm(gram - torch.eye(len(gram), device=gram.device, dtype=gram.dtype)))
        return float(self._settings.orth_reg_weight) * torch.stack(norms).mean()
