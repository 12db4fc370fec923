"""Checkpoints by the names of their tensors: each tensor of a file is used, or left out for a reason that stands here.

timm knows the layouts that it publishes itself; what wraps them, and what pretraining leaves beside an encoder, is named
below. Anything else in a file is an error.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from vpbench.backbones import transformers_names
from vpbench.core.errors import WeightsError
from vpbench.core.names import counted

State = dict[str, Tensor]
Shapes = dict[str, tuple[int, ...]]
ANY = (-1,)  # in place of a shape that is not compared

# Under which a file may keep its tensors; the first that is there counts. DINO's pretraining keeps student and teacher, and
# evaluates the teacher.
WRAPPERS = ("state_dict", "model", "model_state_dict", "teacher", "net", "module")

# What programs put before the names of a whole model: distributed training, torch.compile, Lightning and the like by the name of
# an attribute, transformers by that of the architecture. They may be nested.
PREFIXES = ("module.", "_orig_mod.", "model.", "net.", "teacher.", "base_model.", "vit.", "deit.", "dinov2.")


@dataclass(frozen=True)
class Layout:
    """How one kind of checkpoint names an encoder's tensors.

    Attributes:
        title: what wrote it.
        sign: beginning of a name that tells it from others.
        encoder: beginning of the encoder's names, which is cut off.
        dropped: beginnings of names that belong to pretraining alone, before ``encoder`` is cut off.
        rename: from the encoder's names to timm's.
    """

    title: str
    sign: str
    encoder: str = ""
    dropped: tuple[str, ...] = ()
    rename: Callable[[str], str] = str

    def read(self, state: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
        """The encoder's tensors under their own names, and names that are not recognised."""
        rest = {name: tensor for name, tensor in state.items() if not name.startswith(self.dropped)}
        foreign = [name for name in rest if not name.startswith(self.encoder)]
        kept = (name for name in rest if name not in foreign)
        return {self.rename(name.removeprefix(self.encoder)): rest[name] for name in kept}, foreign


# The first whose sign is found is applied, after PREFIXES are cut off.
LAYOUTS = (
    Layout(
        "MoCo v3, pretraining (facebookresearch/moco-v3 moco/builder.py)",
        "base_encoder.",
        encoder="base_encoder.",
        # The projector takes the place of the encoder's classifier.
        dropped=("base_encoder.head.", "momentum_encoder.", "predictor."),
    ),
    Layout(
        "DINOv2, student and teacher of pretraining in one model (facebookresearch/dinov2 ssl_meta_arch.py)",
        "teacher.backbone.",
        encoder="teacher.backbone.",
        dropped=("student.", "teacher.dino_head.", "teacher.ibot_head."),
    ),
    Layout(
        "DINO and DINOv2, the teacher of pretraining (facebookresearch/dino main_dino.py)",
        "backbone.",
        encoder="backbone.",
        dropped=("head.", "dino_head.", "ibot_head."),
    ),
    Layout(
        "MAE, pretraining with its decoder (facebookresearch/mae models_mae.py)",
        "decoder_",
        dropped=("decoder_", "mask_token"),
    ),
    Layout(
        "transformers' ViTs",
        transformers_names.SIGN,
        dropped=transformers_names.DROPPED,
        rename=transformers_names.timm_name,
    ),
)

# What timm's reading leaves out on purpose, by name: classifiers, buffers that follow from the sizes, the mask tokens of
# masked pretraining, and the text tower beside an image tower.
LEFT_OUT = re.compile(
    r"(head|head_dist|pre_logits|lm_head)\."
    r"|(.*\.)?mask_token$"
    r"|.*\.(relative_position_index|attn_mask|bias_mask|periods)$"
    r"|(.*\.)?rope(_embed)?\.(?!freqs$)"
    r"|visual\.(head|proj)(\.|$)"
)
TEXT_TOWER = re.compile(
    r"(text|transformer|token_embedding|ln_final)\."
    r"|(positional_embedding|text_projection|logit_scale|logit_bias|input_resolution|context_length|vocab_size)$"
)
CLASSIFIERS = ("head.", "head_dist.", "pre_logits.")


def unwrapped(loaded: Any) -> Any:
    """What a checkpoint keeps under its usual keys, through all layers of them."""
    while isinstance(loaded, dict) and (key := _wrapper(loaded)):
        loaded = loaded[key]
    return loaded


def state_dicts(whole: Any) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Where :func:`unwrapped` finds the state dict of a checkpoint, and where others are; each as the keys that lead to it.

    Others are as large, at least by half: losses keep a few tensors, too.
    """
    taken: list[str] = []
    beside: dict[tuple[str, ...], Any] = {}
    while isinstance(whole, dict) and (key := _wrapper(whole)):
        beside |= {(*taken, str(name)): unwrapped(value) for name, value in whole.items() if name != key}
        taken.append(key)
        whole = whole[key]
    if not isinstance(whole, dict):
        return tuple(taken), []
    return tuple(taken), [keys for keys, value in beside.items() if _is_state_dict(value) and 2 * len(value) >= len(whole)]


def _is_state_dict(value: Any) -> bool:
    return isinstance(value, dict) and bool(value) and all(isinstance(each, Tensor) for each in value.values())


def _wrapper(whole: dict[Any, Any]) -> str | None:
    return next((key for key in WRAPPERS if isinstance(whole.get(key), dict)), None)


def encoder_of(state: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """An encoder's tensors by timm's names, as far as names alone can say it, and names that are not recognised.

    Args:
        state: tensors, or anything else, by a file's names.
    """
    state = _without_prefixes(state)
    layout = next((one for one in LAYOUTS if any(name.startswith(one.sign) for name in state)), Layout("timm", ""))
    return layout.read(state)


def _without_prefixes(state: Mapping[str, Any]) -> dict[str, Any]:
    """Without what stands before most names; a name that has it not stays as it is."""
    found = dict(state)
    while prefix := next((one for one in PREFIXES if 2 * sum(name.startswith(one) for name in found) > len(found)), None):
        shorter = {name.removeprefix(prefix): value for name, value in found.items()}
        if len(shorter) < len(found):  # two tensors would have one name
            break
        found = shorter
    return found


def renamed(state: State, model: nn.Module, timm_filter: Callable[[State, nn.Module], State]) -> tuple[State, list[str]]:
    """A file's tensors under timm's names and in the model's sizes.

    Args:
        state: as it stands in the file.
        model: sizes to resample to.
        timm_filter: timm's renaming and resampling for the model's family.

    Returns:
        The tensors, without classifiers, and names in the file that are not recognised.

    Raises:
        WeightsError: when a tensor cannot be brought into the model's shape; to stand behind the file's name.
    """
    encoder, foreign = encoder_of(state)
    encoder = transformers_names.joined(encoder)
    wanted = model.state_dict()
    if "pos_embed" in encoder:
        check_grid(tuple(encoder["pos_embed"].shape), model)
    try:
        found = timm_filter(dict(encoder), model)
    except Exception as error:  # timm recognises layouts by their names and trusts their shapes
        raise WeightsError(
            f"does not match the architecture: {_misshapen(encoder, wanted)}. Choose the backbone it belongs to."
        ) from error
    two_towers = any(name.startswith("visual.") for name in encoder)
    for name, tensor in encoder.items():
        left_out = LEFT_OUT.match(name) or (two_towers and TEXT_TOWER.match(name))
        if name not in found and not left_out and not _reached(name, tensor, found):
            foreign.append(name)
    return {name: tensor for name, tensor in found.items() if name in wanted or not name.startswith(CLASSIFIERS)}, foreign


def _misshapen(encoder: State, wanted: State) -> str:
    """Why timm cannot read an encoder's tensors, as far as their shapes show it."""
    both = {name: (tuple(tensor.shape), tuple(wanted[name].shape)) for name, tensor in encoder.items() if name in wanted}
    dimensions = [
        f"{name} has {counted(len(found), 'dimension')} instead of {len(right)}"
        for name, (found, right) in both.items()
        if len(found) != len(right)
    ]
    if dimensions:
        return some(dimensions)
    shapes = [f"{name} {found} instead of {right}" for name, (found, right) in both.items() if found != right]
    if shapes:
        return f"{len(shapes)} of another shape ({some(shapes)})"
    return f"its tensors ({some(encoder)}) have other shapes than timm's files with such names"


def check_grid(shape: tuple[int, ...], model: Any) -> None:
    """That position embeddings of another size, (1, tokens, D), can be resampled: timm takes their grid for a square.

    Raises:
        WeightsError: when they cannot; to stand behind the file's name.
    """
    own = getattr(model, "pos_embed", None)
    if own is None or len(shape) != 3 or shape == tuple(own.shape):
        return
    tokens = shape[1]
    # Where timm gives prefix tokens no position, files of DINOv2 still have one for the class token.
    prefixes = (0, 1) if getattr(model, "no_embed_class", False) else (getattr(model, "num_prefix_tokens", 1),)
    if any(_side(tokens - prefix) for prefix in prefixes):
        return
    other = next((count for count in _USUAL_PREFIXES if _side(tokens - count)), None)
    if other is not None:
        side = _side(tokens - other)
        raise WeightsError(
            f"does not match the architecture: pos_embed has {tokens} tokens, {side} x {side} patches and "
            f"{_prefix_words(other)}, and this backbone has {_prefix_words(prefixes[0])}. Choose the backbone it belongs to."
        )
    patches = " or ".join(str(tokens - prefix) for prefix in prefixes)
    raise WeightsError(
        f"has position embeddings of images that are not square: pos_embed has {tokens} tokens, and {patches} patches are no "
        "square grid, which this backbone's images need. Choose the backbone it belongs to, or weights of square images."
    )


_USUAL_PREFIXES = (0, 1, 2, 5)  # class token, distillation token, four registers


def _side(patches: int) -> int:
    """Of a square grid; 0 where it is none."""
    side = math.isqrt(max(0, patches))
    return side if side**2 == patches else 0


def _prefix_words(count: int) -> str:
    return {0: "no class token", 1: "a class token"}.get(count, f"{count} tokens beside them, such as class token and registers")


# Resampled by timm into new memory, under another name.
_RESAMPLED = re.compile(r"(visual\.(trunk\.)?)?(positional_embedding|pos_embed|conv1\.weight|patch_embed\.proj\.weight)$")


def _reached(name: str, tensor: Tensor, found: State) -> bool:
    """Whether a tensor is part of what timm made of the file: its memory is, or it is a zero bias that the model lacks."""
    start, end = tensor.data_ptr(), tensor.data_ptr() + tensor.numel() * tensor.element_size()
    if any(start <= other.data_ptr() < end for other in found.values()) or _RESAMPLED.match(name):
        return True
    return name.endswith("attn.qkv.bias") and not tensor.any()  # DINOv3's, which timm's models do without


def differences(found: Shapes, wanted: Shapes, foreign: Collection[str] = ()) -> str:
    """How a file's tensors differ from an architecture's, in words; empty when they do not."""
    problems = []
    surplus = (found.keys() - wanted.keys()) | set(foreign)
    for word, names in (("missing", wanted.keys() - found.keys()), ("surplus", surplus)):
        if names:
            problems.append(f"{len(names)} {word} ({some(names)})")
    wrong = {
        f"{name} {found[name]} instead of {wanted[name]}"
        for name in wanted.keys() & found.keys()
        if found[name] != wanted[name] and wanted[name] != ANY
    }
    if wrong:
        problems.append(f"{len(wrong)} of another shape ({some(wrong)})")
    return "; ".join(problems)


def some(names: Collection[str]) -> str:
    """The first three names, and how many there are beside."""
    listed = sorted(names)
    return ", ".join(listed[:3]) + (f" and {len(listed) - 3} more" if len(listed) > 3 else "")


POSITIONS = "Transformer/posembed_input/pos_embedding"


def google_shapes(vit: Any) -> tuple[Shapes, tuple[str, ...]]:
    """Names and shapes of Google's vision_transformer in an ``.npz`` file: those that a ViT needs, and beginnings of those it
    does not. What timm resamples, the patches' kernel and the positions, has its own shape in each file, here ``ANY``."""
    width, heads = vit.embed_dim, vit.blocks[0].attn.num_heads
    hidden, each = vit.blocks[0].mlp.fc1.out_features, width // heads
    shapes: Shapes = {"embedding/kernel": ANY, "embedding/bias": (width,), POSITIONS: ANY}
    if vit.cls_token is not None:
        shapes["cls"] = (1, 1, width)
    norms = ["Transformer/encoder_norm"]
    for index in range(len(vit.blocks)):
        block = f"Transformer/encoderblock_{index}/"
        norms += [f"{block}LayerNorm_0", f"{block}LayerNorm_2"]
        attention, mlp = f"{block}MultiHeadDotProductAttention_1/", f"{block}MlpBlock_3/Dense_"
        for part in ("query", "key", "value"):
            shapes |= {f"{attention}{part}/kernel": (width, heads, each), f"{attention}{part}/bias": (heads, each)}
        shapes |= {f"{attention}out/kernel": (heads, each, width), f"{attention}out/bias": (width,)}
        shapes |= {f"{mlp}0/kernel": (width, hidden), f"{mlp}0/bias": (hidden,)}
        shapes |= {f"{mlp}1/kernel": (hidden, width), f"{mlp}1/bias": (width,)}
    return shapes | {f"{norm}/{part}": (width,) for norm in norms for part in ("scale", "bias")}, ("head/", "pre_logits/")
