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

State = dict[str, Tensor]
Shapes = dict[str, tuple[int, ...]]

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
    while isinstance(loaded, dict):
        inner = next((loaded[key] for key in WRAPPERS if isinstance(loaded.get(key), dict)), None)
        if inner is None:
            break
        loaded = inner
    return loaded


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
        WeightsError: when position embeddings are of images that are not square; it does not name the file.
    """
    encoder, foreign = encoder_of(state)
    encoder = transformers_names.joined(encoder)
    _check_grid(encoder.get("pos_embed"), model)
    found = timm_filter(dict(encoder), model)
    two_towers = any(name.startswith("visual.") for name in encoder)
    for name, tensor in encoder.items():
        left_out = LEFT_OUT.match(name) or (two_towers and TEXT_TOWER.match(name))
        if name not in found and not left_out and not _reached(name, tensor, found):
            foreign.append(name)
    wanted = model.state_dict()
    return {name: tensor for name, tensor in found.items() if name in wanted or not name.startswith(CLASSIFIERS)}, foreign


def _check_grid(embeddings: Tensor | None, model: Any) -> None:
    """That position embeddings of another size, (1, tokens, D), can be resampled: timm takes their grid for a square."""
    own = getattr(model, "pos_embed", None)
    if own is None or embeddings is None or embeddings.ndim != 3 or embeddings.shape == own.shape:
        return
    tokens = embeddings.shape[1]
    # Where timm gives prefix tokens no position, files of DINOv2 still have one for the class token.
    prefixes = (0, 1) if getattr(model, "no_embed_class", False) else (getattr(model, "num_prefix_tokens", 1),)
    patches = [tokens - prefix for prefix in prefixes]
    if not any(count > 0 and math.isqrt(count) ** 2 == count for count in patches):
        raise WeightsError(
            f"its position embeddings are of images that are not square: pos_embed has {tokens} tokens, and "
            f"{' or '.join(map(str, patches))} patches are no square grid, which this backbone's images need. "
            "Choose the backbone it belongs to, or weights of square images."
        )


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
        f"{name} {found[name]} instead of {wanted[name]}" for name in wanted.keys() & found.keys() if found[name] != wanted[name]
    }
    if wrong:
        problems.append(f"{len(wrong)} of another shape ({some(wrong)})")
    return "; ".join(problems)


def some(names: Collection[str]) -> str:
    """The first three names, and how many there are beside."""
    listed = sorted(names)
    return ", ".join(listed[:3]) + (f" and {len(listed) - 3} more" if len(listed) > 3 else "")


def google_names(vit: Any) -> tuple[set[str], tuple[str, ...]]:
    """Names of Google's vision_transformer in an ``.npz`` file: those that a ViT needs, and beginnings of those it does not."""
    needed = {"embedding/kernel", "embedding/bias", "Transformer/posembed_input/pos_embedding"}
    needed |= {"cls"} if vit.cls_token is not None else set()
    norms = ["Transformer/encoder_norm"]
    for index in range(len(vit.blocks)):
        block = f"Transformer/encoderblock_{index}/"
        norms += [f"{block}LayerNorm_0", f"{block}LayerNorm_2"]
        layers = [f"{block}MultiHeadDotProductAttention_1/{part}" for part in ("query", "key", "value", "out")]
        layers += [f"{block}MlpBlock_3/Dense_{index}" for index in (0, 1)]
        needed |= {f"{layer}/{part}" for layer in layers for part in ("kernel", "bias")}
    return needed | {f"{norm}/{part}" for norm in norms for part in ("scale", "bias")}, ("head/", "pre_logits/")
