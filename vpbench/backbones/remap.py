"""Checkpoints by the names of their tensors: each tensor of a file is used, or left out for a reason that stands here.

timm knows the layouts that it publishes itself; what wraps them, and what pretraining leaves beside an encoder, is named
below. Anything else in a file is an error.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

State = dict[str, Tensor]
Shapes = dict[str, tuple[int, ...]]

# Under which a file may keep its tensors; the first that is there counts. DINO's pretraining keeps student and teacher, and
# evaluates the teacher.
WRAPPERS = ("state_dict", "model", "teacher", "module")


@dataclass(frozen=True)
class Layout:
    """How one kind of checkpoint names an encoder's tensors.

    Attributes:
        title: what wrote it.
        sign: beginning of a name that tells it from others.
        encoder: beginning of the encoder's names, which is cut off.
        dropped: beginnings of names that belong to pretraining alone, before ``encoder`` is cut off.
    """

    title: str
    sign: str
    encoder: str = ""
    dropped: tuple[str, ...] = ()

    def read(self, state: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
        """The encoder's tensors under their own names, and names that are not recognised."""
        rest = {name: tensor for name, tensor in state.items() if not name.startswith(self.dropped)}
        foreign = [name for name in rest if not name.startswith(self.encoder)]
        return {name.removeprefix(self.encoder): rest[name] for name in rest if name not in foreign}, foreign


# The first whose sign is found is applied.
LAYOUTS = (
    Layout(
        "MoCo v3, pretraining (facebookresearch/moco-v3 moco/builder.py)",
        "module.base_encoder.",
        encoder="module.base_encoder.",
        # The projector takes the place of the encoder's classifier.
        dropped=("module.base_encoder.head.", "module.momentum_encoder.", "module.predictor."),
    ),
    Layout(
        "DINO, the teacher of pretraining (facebookresearch/dino main_dino.py)",
        "module.backbone.",
        encoder="module.backbone.",
        dropped=("module.head.",),
    ),
    Layout(
        "DINO and DINOv2, the teacher of pretraining without distribution",
        "backbone.",
        encoder="backbone.",
        dropped=("head.", "dino_head.", "ibot_head."),
    ),
    Layout(
        "a distributed model, as in MoCo v3's linear probe (facebookresearch/moco-v3 main_lincls.py)",
        "module.",
        encoder="module.",
        dropped=("module.head.",),
    ),
    Layout(
        "MAE, pretraining with its decoder (facebookresearch/mae models_mae.py)",
        "decoder_",
        dropped=("decoder_", "mask_token"),
    ),
)

# What timm's reading leaves out on purpose, by name: classifiers, buffers that follow from the sizes, the mask tokens of
# masked pretraining, and the text tower beside an image tower.
LEFT_OUT = re.compile(
    r"(module\.)?(head|head_dist|pre_logits|lm_head)\."
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


def layout_of(names: Iterable[str]) -> Layout:
    """How a file names its tensors; as timm where nothing tells it from others."""
    listed = list(names)
    return next((one for one in LAYOUTS if any(name.startswith(one.sign) for name in listed)), Layout("timm", ""))


def renamed(state: State, model: nn.Module, timm_filter: Callable[[State, nn.Module], State]) -> tuple[State, list[str]]:
    """A file's tensors under timm's names and in the model's sizes.

    Args:
        state: as it stands in the file.
        model: sizes to resample to.
        timm_filter: timm's renaming and resampling for the model's family.

    Returns:
        The tensors, without classifiers, and names in the file that are not recognised.
    """
    encoder, foreign = layout_of(state).read(state)
    found = timm_filter(dict(encoder), model)
    two_towers = any(name.startswith(("visual.", "module.visual.")) for name in encoder)
    for name, tensor in encoder.items():
        left_out = LEFT_OUT.match(name) or (two_towers and TEXT_TOWER.match(name))
        if name not in found and not left_out and not _reached(name, tensor, found):
            foreign.append(name)
    wanted = model.state_dict()
    return {name: tensor for name, tensor in found.items() if name in wanted or not name.startswith(CLASSIFIERS)}, foreign


# Resampled by timm into new memory, under another name.
_RESAMPLED = re.compile(
    r"(module\.)?(visual\.(trunk\.)?)?(positional_embedding|pos_embed|conv1\.weight|patch_embed\.proj\.weight)$"
)


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
