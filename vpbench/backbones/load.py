"""Building a frozen backbone and filling it with weights. Nothing is ever left at a random value by accident."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import timm
import torch
from safetensors.torch import load_file
from timm.models import VisionTransformer
from timm.models.vision_transformer import checkpoint_filter_fn
from torch import Tensor

from vpbench.backbones.named import backbone_card, backbone_names, weights_sha256
from vpbench.backbones.vit import ViTAdapter
from vpbench.core.errors import UsageError, WeightsError
from vpbench.execution.spec import BackboneSpec

RANDOM_SEED = 0  # of --weights random: the same values in every run

# Classifiers of pretraining, which no method reads.
_CLASSIFIER = ("head.", "head_dist.", "pre_logits.")


def load_backbone(spec: BackboneSpec) -> ViTAdapter:
    """The frozen backbone that ``spec`` describes.

    Raises:
        WeightsError: when the weight file is missing, unreadable, changed since ``spec`` was made, or does not match the
            architecture; the message names the keys.
        UnsupportedError: when timm's model is no ViT.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(RANDOM_SEED)
        vit = _architecture(spec)
    sha256 = None
    if spec.weights != "random":
        path = Path(spec.path) if spec.path else _download(spec)
        sha256 = weights_sha256(path)
        if spec.sha256 and sha256 != spec.sha256:
            raise WeightsError(f"{path} is not the file that the run was planned with (its SHA-256 differs); plan the run again.")
        fill(vit, path)
    return ViTAdapter(vit, sha256)


def _architecture(spec: BackboneSpec) -> VisionTransformer:
    sizes = {"img_size": spec.image_size, "patch_size": spec.patch_size}
    if spec.name in backbone_names():
        return VisionTransformer(**{**backbone_card(spec.name).vit, **sizes, "num_classes": 0})
    try:
        return timm.create_model(spec.name.split(".")[0], num_classes=0, **sizes)
    except (TypeError, AssertionError) as error:
        raise UsageError(
            f"{spec.name} cannot be built for {spec.image_size} px and patches of {spec.patch_size} px: {error}"
        ) from error


def _download(spec: BackboneSpec) -> Path:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    repository, _, filename = spec.weights.removeprefix("hub:").rpartition("/")
    try:
        return Path(hf_hub_download(repository, filename))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        raise WeightsError(
            f"weights of {spec.name} cannot be fetched from the hub ({repository}): {reason} "
            "Give a file or folder with --weights, or ask for --weights random on purpose."
        ) from error


def fill(vit: VisionTransformer, path: Path) -> None:
    """Load a weight file into a ViT, resampling position and patch embeddings to its sizes.

    Args:
        vit: receives the values, in float32.
        path: ``.safetensors``, Google's ``.npz``, or a PyTorch file, which may hold tensors only.

    Raises:
        WeightsError: when the file cannot be read, or a key is missing, surplus or of another shape.
    """
    if path.suffix == ".npz":
        _fill_from_npz(vit, path)
        return
    state = _state(path)
    try:
        state = checkpoint_filter_fn(state, vit)
    except Exception as error:  # timm recognises foreign layouts by their keys and trusts their shapes
        raise WeightsError(
            f"{path} holds no weights of this vision transformer ({_line(error)}). Choose the backbone it belongs to."
        ) from error
    wanted = vit.state_dict()
    state = {key: value for key, value in state.items() if key in wanted or not key.startswith(_CLASSIFIER)}
    _compare(
        path,
        {key: tuple(value.shape) for key, value in state.items()},
        {key: tuple(value.shape) for key, value in wanted.items()},
    )
    vit.load_state_dict({key: value.float() for key, value in state.items()}, strict=True)


def _state(path: Path) -> dict[str, Tensor]:
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        # weights_only: a checkpoint may hold tensors and plain containers, never code.
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise WeightsError(f"{path}: there is no such file.") from error
    except Exception as error:  # what a damaged file does to the readers is anybody's guess
        if isinstance(error, pickle.UnpicklingError) and "GLOBAL" in str(error):
            raise WeightsError(
                f"{path} holds more than tensors and is not loaded for safety; save its state dict alone."
            ) from error
        raise _unreadable(path, error) from error
    for wrapper in ("state_dict", "model"):
        loaded = loaded.get(wrapper, loaded) if isinstance(loaded, dict) else loaded
    if (
        not isinstance(loaded, dict)
        or not loaded
        or not all(isinstance(k, str) and isinstance(v, Tensor) for k, v in loaded.items())
    ):
        raise WeightsError(f"{path} holds no state dict (a mapping of names to tensors).")
    return loaded


def _unreadable(path: Path, error: Exception) -> WeightsError:
    return WeightsError(
        f"{path} is no weight file, or a damaged one ({_line(error)}): fetch it again, or name another with --weights."
    )


def _line(error: Exception) -> str:
    """An error's first line, or its type where it has none or torch's general advice."""
    text = "" if isinstance(error, pickle.UnpicklingError) else str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__


def _compare(path: Path, found: dict[str, tuple[int, ...]], wanted: dict[str, tuple[int, ...]]) -> None:
    problems = []
    for word, keys in (("missing", wanted.keys() - found.keys()), ("surplus", found.keys() - wanted.keys())):
        if keys:
            problems.append(f"{len(keys)} {word} ({_some(keys)})")
    wrong = {f"{key} {found[key]} instead of {wanted[key]}" for key in wanted.keys() & found.keys() if found[key] != wanted[key]}
    if wrong:
        problems.append(f"{len(wrong)} of another shape ({_some(wrong)})")
    if problems:
        raise WeightsError(f"{path} does not match the architecture: {'; '.join(problems)}. Choose the backbone it belongs to.")


def _some(names: set[str]) -> str:
    listed = sorted(names)
    return ", ".join(listed[:3]) + (f" and {len(listed) - 3} more" if len(listed) > 3 else "")


def _fill_from_npz(vit: VisionTransformer, path: Path) -> None:
    """Google's JAX checkpoints, through timm's own mapping of their names."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            names = set(archive.files)
            prefix = "opt/target/" if "opt/target/embedding/kernel" in names else ""
            width = archive[f"{prefix}embedding/kernel"].shape[-1] if f"{prefix}embedding/kernel" in names else 0
    except FileNotFoundError as error:
        raise WeightsError(f"{path}: there is no such file.") from error
    except Exception as error:
        raise _unreadable(path, error) from error
    if not width:
        raise WeightsError(
            f"{path} does not match the architecture: 1 missing (embedding/kernel), so it is none of Google's ViT files."
        )
    blocks = {name.split("encoderblock_")[1].split("/")[0] for name in names if "encoderblock_" in name}
    if (len(blocks), width) != (len(vit.blocks), vit.embed_dim):
        raise WeightsError(
            f"{path} does not match the architecture: it has {len(blocks)} blocks of width {width} instead of {len(vit.blocks)} "
            f"of width {vit.embed_dim}. Choose the backbone it belongs to."
        )
    with torch.no_grad():  # timm passes over what the file does not have: not a number until it is filled
        for parameter in vit.parameters():
            parameter.fill_(torch.nan)
    try:
        vit.load_pretrained(str(path))
    except Exception as error:
        raise WeightsError(
            f"{path} does not match the architecture: {_line(error)}. Choose the backbone it belongs to."
        ) from error
    if empty := {name for name, parameter in vit.named_parameters() if parameter.isnan().any()}:
        raise WeightsError(
            f"{path} does not match the architecture: {len(empty)} missing ({_some(empty)}). Choose the backbone it belongs to."
        )
