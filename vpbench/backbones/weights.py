"""Building a frozen backbone and filling it with weights. Nothing is ever left at a random value by accident."""

from __future__ import annotations

from collections.abc import Collection
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from timm.models import VisionTransformer
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from vpbench.backbones.base import Backbone
from vpbench.backbones.classifier import add_classifier
from vpbench.backbones.family import adapter_for, create, timm_filter
from vpbench.backbones.fetch import fetched
from vpbench.backbones.named import BackboneCard, backbone_card, backbone_names, weights_sha256
from vpbench.backbones.remap import (
    POSITIONS,
    WRAPPERS,
    Shapes,
    check_grid,
    differences,
    google_shapes,
    renamed,
    some,
    state_dicts,
    unwrapped,
)
from vpbench.backbones.vit import ViTAdapter
from vpbench.core.errors import UsageError, WeightsError
from vpbench.core.tensor_files import UnreadableError, read_tensors, unfit_values, why_unreadable
from vpbench.spec.run_spec import BackboneSpec, PosResample

UNFILLED = -(2.0**100)  # no weight has this value
PLAIN_VIT = "vit_base_patch16_224"  # has the default values of timm's VisionTransformer, and takes others
RANDOM_SEED = 0  # of --weights random: the same values in every run


def load_backbone(spec: BackboneSpec, source_classifier: bool = False) -> Backbone:
    """The frozen backbone that ``spec`` describes.

    Args:
        source_classifier: whether to load the classifier that its weights were trained with, too.

    Raises:
        WeightsError: when the weight file is missing, unreadable, changed since ``spec`` was made, or does not match the
            architecture; the message names the keys.
        UnsupportedError: when timm's model cannot carry prompts, or the weights have no classifier and it is asked for.
    """
    card = backbone_card(spec.name) if spec.name in backbone_names() else None
    is_filled = spec.weights != "random" and not (card and card.fresh)
    with torch.random.fork_rng(devices=[]), _Undrawn() if is_filled else nullcontext():
        torch.manual_seed(RANDOM_SEED)
        model = _architecture(spec, card)
    sha256, path, note = None, None, ""
    if spec.weights != "random":
        path = Path(spec.path) if spec.path else fetched(spec)
        sha256 = weights_sha256(path)
        if spec.sha256 and sha256 != spec.sha256:
            raise WeightsError(f"{path} is not the file that the run was planned with (its SHA-256 differs); plan the run again.")
        note = fill(model, path, card.unused if card else (), card.fresh if card else (), spec.pos_resample)
    backbone = adapter_for(model, sha256, **({"pool_prompts": True} if card and card.pool_prompts else {}))
    if isinstance(backbone, ViTAdapter):
        backbone.pos_resample = spec.pos_resample
    backbone.note = note
    backbone.shape = replace(backbone.shape, mean=spec.mean, std=spec.std)
    if source_classifier:
        add_classifier(backbone, spec, path, RANDOM_SEED)
    return backbone


class _Undrawn(TorchFunctionMode):
    """In the block no random initial values are drawn: that takes a second for a ViT-B, and a file fills all tensors anyway."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func not in _DRAWS:
            return func(*args, **(kwargs or {}))
        return args[0] if args else (kwargs or {})["tensor"]


# A function of torch.nn.init that asks for overrides itself comes here as a whole, and what it calls does not.
_DRAWS = frozenset(
    {torch.Tensor.uniform_, torch.Tensor.normal_, torch.Tensor.erfinv_}
    | {nn.init.uniform_, nn.init.normal_, nn.init.trunc_normal_, nn.init.orthogonal_}
    | {nn.init.kaiming_uniform_, nn.init.kaiming_normal_, nn.init.xavier_uniform_, nn.init.xavier_normal_}
)


def _architecture(spec: BackboneSpec, card: BackboneCard | None) -> Any:
    if card is None:
        return create(spec.name.split(".")[0], None, spec.image_size, spec.patch_size)
    if card.timm is not None:
        return create(card.timm, {**card.arguments, "global_pool": card.global_pool}, spec.image_size, spec.patch_size)
    sizes = {"img_size": spec.image_size, "patch_size": spec.patch_size, "num_classes": 0, "global_pool": card.global_pool}
    try:
        return VisionTransformer(**{**(card.vit or {}), **sizes})
    except (TypeError, AssertionError) as error:
        raise UsageError(f"{spec.name} cannot be built: {error}") from error


def timm_architecture(spec: BackboneSpec) -> tuple[str, dict[str, Any]]:
    """Name and arguments with which ``timm.create_model`` builds the backbone's architecture."""
    sizes = {"img_size": spec.image_size, "patch_size": spec.patch_size}
    if spec.name not in backbone_names():
        return spec.name.split(".")[0], sizes
    card = backbone_card(spec.name)
    pooled = {"global_pool": card.global_pool, **sizes}
    if card.timm is not None:
        return card.timm, {**card.arguments, **pooled}
    return PLAIN_VIT, {**(card.vit or {}), **pooled}


def fill(
    model: Any, path: Path, unused: Collection[str] = (), fresh: Collection[str] = (), pos_resample: PosResample = "bicubic"
) -> str:  # fmt: skip
    """Load a weight file into a model of timm, resampling position and patch embeddings to its sizes.

    Args:
        model: receives the values, in float32.
        path: ``.safetensors``, Google's ``.npz``, or a PyTorch file, which may hold tensors only.
        unused: tensors that may be in the file and are left out.
        fresh: tensors that may be missing in the file and keep the values they have.
        pos_resample: how position embeddings of another grid are resampled.

    Returns:
        a sentence for the user where the file holds further state dicts, else nothing.

    Raises:
        WeightsError: when the file cannot be read, a key is missing, surplus or of another shape, or a value is no weight: of an
            integer type, NaN or infinite.
    """
    if path.suffix == ".npz":
        _fill_from_npz(model, path)
        return ""
    state, note = _state(path)
    try:
        found, foreign = renamed(state, model, timm_filter(model, pos_resample))
    except WeightsError as error:
        raise WeightsError(f"{path} {error}") from error
    wanted = model.state_dict()
    found = {name: tensor for name, tensor in found.items() if name in wanted or name not in unused}
    found.update({name: wanted[name] for name in fresh if name not in found})
    if problems := differences(_shapes(found), _shapes(wanted), foreign):
        raise WeightsError(f"{path} does not match the architecture: {problems}. Choose the backbone it belongs to.")
    if reason := unfit_values({name: tensor for name, tensor in found.items() if wanted[name].is_floating_point()}):
        raise _unfit(path, reason)
    model.load_state_dict({name: tensor.float() for name, tensor in found.items()}, strict=True)
    return note


def _unfit(path: Path, reason: str) -> WeightsError:
    return WeightsError(f"{path}: {reason}. Name another file with --weights.")


def _shapes(state: dict[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in state.items()}


def _state(path: Path) -> tuple[dict[str, Tensor], str]:
    """The state dict in a file, and a note on others beside it."""
    try:
        whole = read_tensors(path)
    except UnreadableError as error:
        more = " The hub has the same weights, which clip-vit-b16 takes." if "TorchScript" in str(error) else ""
        raise WeightsError(f"{path} {error}, or name another with --weights.{more}") from error
    loaded = unwrapped(whole)
    if (
        not isinstance(loaded, dict)
        or not loaded
        or not all(isinstance(k, str) and isinstance(v, Tensor) for k, v in loaded.items())
    ):
        raise WeightsError(f"{path} holds no state dict (a mapping of names to tensors){_contents(loaded)}.")
    if empty := [name for name, tensor in loaded.items() if tensor.layout != torch.strided or tensor.is_meta]:
        raise WeightsError(f"{path}: {some(empty)}: sparse, or saved without values (device 'meta'); save dense tensors.")
    return loaded, _other_state_dicts(path, whole)


def _other_state_dicts(path: Path, whole: Any) -> str:
    """That a checkpoint has further state dicts than the one that is loaded; empty where it has none."""
    taken, others = state_dicts(whole)
    if not others:
        return ""
    keys = "".join(f"[{key!r}]" for key in others[0])
    names = ", ".join(f"'{'.'.join(keys)}'" for keys in others)
    return (
        f"{path.name} holds the state dicts '{'.'.join(taken)}' and {names}: '{'.'.join(taken)}' is loaded. To load another, "
        f"save it as a file of its own: torch.save(torch.load('{path.name}', weights_only=True){keys}, '{others[0][-1]}.pth')."
    )


def _contents(loaded: Any) -> str:
    """What a file has instead of a state dict."""
    if not isinstance(loaded, dict) or not loaded:
        return ""
    others = [f"{key} ({type(value).__name__})" for key, value in loaded.items() if not isinstance(value, Tensor)]
    more = f" and {len(others) - 8} more" if len(others) > 8 else ""
    return f", as it is or under {', '.join(WRAPPERS)}; it has {', '.join(others[:8])}{more}" if others else ""


def _fill_from_npz(vit: nn.Module, path: Path) -> None:
    """Google's JAX checkpoints, through timm's own mapping of their names."""
    if not isinstance(vit, VisionTransformer):
        raise WeightsError(
            f"{path}: .npz files hold Google's ViTs, and this backbone is a {type(vit).__name__}; name another file."
        )
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = _headers(archive)
    except Exception as error:  # as of the other formats
        raise WeightsError(f"{path} {why_unreadable(path)}, or name another with --weights.") from error
    mismatch = f"{path} does not match the architecture:"
    prefix = "opt/target/" if "opt/target/embedding/kernel" in arrays else ""
    kernel = arrays.get(f"{prefix}embedding/kernel")
    if kernel is None:
        raise WeightsError(f"{mismatch} 1 missing (embedding/kernel), so it is none of Google's ViT files.")
    blocks = {name.split("encoderblock_")[1].split("/")[0] for name in arrays if "encoderblock_" in name}
    width = kernel.shape[-1] if kernel.shape else 0
    if (len(blocks), width) != (len(vit.blocks), vit.embed_dim):
        raise WeightsError(
            f"{mismatch} it has {len(blocks)} blocks of width {width} instead of {len(vit.blocks)} of width {vit.embed_dim}. "
            "Choose the backbone it belongs to."
        )
    needed, left_out = google_shapes(vit)
    # Beside "opt/target/" lies the optimizer's state.
    own = {name.removeprefix(prefix): header for name, header in arrays.items() if name.startswith(prefix)}
    found: Shapes = {name: header.shape for name, header in own.items() if not name.startswith(left_out)}
    if problems := differences(found, needed):
        raise WeightsError(f"{mismatch} {problems}. Choose the backbone it belongs to.")
    if whole := {name: own[name].dtype for name in needed if own[name].dtype.kind != "f"}:
        raise _unfit(path, f"{some(whole)}: {next(iter(whole.values()))}, not floating point, which are no weights")
    try:
        check_grid(found[POSITIONS], vit)
    except WeightsError as error:
        raise WeightsError(f"{path} {error}") from error
    with torch.no_grad():  # timm passes over what the file does not have
        for parameter in vit.parameters():
            parameter.fill_(UNFILLED)
    try:
        vit.load_pretrained(str(path))
    except Exception as error:  # timm trusts shapes
        raise WeightsError(f"{mismatch} timm cannot read its arrays. Choose the backbone it belongs to.") from error
    if empty := {name for name, parameter in vit.named_parameters() if (parameter == UNFILLED).any()}:
        raise WeightsError(f"{mismatch} {len(empty)} missing ({some(empty)}). Choose the backbone it belongs to.")
    if reason := unfit_values(dict(vit.named_parameters())):
        raise _unfit(path, reason)


@dataclass(frozen=True)
class _Header:
    shape: tuple[int, ...]
    dtype: np.dtype[Any]


def _headers(archive: Any) -> dict[str, _Header]:
    """Shape and type of each array of an open ``.npz`` file, without its values."""
    found = {}
    for name in archive.files:
        with archive.zip.open(f"{name}.npy") as member:
            read = {1: np.lib.format.read_array_header_1_0, 2: np.lib.format.read_array_header_2_0}
            shape, _, dtype = read[np.lib.format.read_magic(member)[0]](member)
        found[name] = _Header(shape, dtype)
    return found
