"""Sites inside blocks: the same names on every family, edits that act where they say, exact merging, and no trace after undo."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest
import torch
from sweeps import case
from timm.models import Eva, SwinTransformer, VisionTransformer
from torch import Tensor, nn

from vpbench.backbones.base import Backbone
from vpbench.backbones.family import adapter_for
from vpbench.core.errors import UnsupportedError
from vpbench.interface import SITES, Scope, Tokens

ViT = VisionTransformer
VIT: dict[str, Any] = {"img_size": 32, "patch_size": 8, "embed_dim": 48, "depth": 2, "num_heads": 3, "num_classes": 0}
SWIN: dict[str, Any] = {
    "img_size": 32, "patch_size": 4, "embed_dim": 24, "depths": (2, 2), "num_heads": (2, 4), "window_size": 4, "num_classes": 0,
}  # fmt: skip
BACKBONES: dict[str, Callable[[], nn.Module]] = {
    "vit": lambda: ViT(**VIT),
    "registers": lambda: ViT(**VIT, reg_tokens=2, init_values=0.1),
    "mean": lambda: ViT(**VIT, global_pool="avg"),
    "eva": lambda: Eva(**VIT, use_rot_pos_emb=True, qkv_fused=False, mlp_ratio=4, init_values=0.1),
    "eva fused": lambda: Eva(**VIT, use_rot_pos_emb=True, qkv_fused=True),
    "eva swiglu": lambda: Eva(**VIT, use_rot_pos_emb=True, swiglu_mlp=True, scale_mlp=True),
    "swin": lambda: SwinTransformer(**SWIN),
    "swin padded": lambda: SwinTransformer(**{**SWIN, "img_size": 40}),
}
IN_BLOCKS = [site for site in SITES if site not in ("patch_embed", "norm")]
LINEAR = ("qkv", "proj", "fc1", "fc2")
AFFINE = [*LINEAR, "norm1", "norm2", "norm", "patch_embed"]
OFTEN = ("vit", "eva", "swin")  # one of each family
sweep = pytest.mark.parametrize("name", [case(name, always=OFTEN) for name in BACKBONES])


def adapter_of(name: str) -> Backbone:
    torch.manual_seed(0)
    model = BACKBONES[name]().double()
    with torch.no_grad():  # no value of these is special, as zeros and ones are
        for each in model.parameters():
            each.add_(0.1 * torch.randn_like(each))
    return adapter_for(model)


def images(adapter: Backbone) -> Tensor:
    torch.manual_seed(1)
    return torch.randn(2, 3, adapter.shape.image_size, adapter.shape.image_size, dtype=torch.float64)


def at(site: str) -> int | None:
    return None if site in ("patch_embed", "norm") else 1


def has_site(name: str, site: str) -> bool:
    return not (name == "eva swiglu" and site == "fc1")


def pairs(sites: Iterable[str]) -> Iterator[Any]:
    return (case(name, site, always=OFTEN) for name in BACKBONES for site in sites if has_site(name, site))


def prompted(adapter: Backbone, x: Tensor, block: int = 1, prompts: int = 3) -> Tokens:
    """What enters a block, with prompts."""
    torch.manual_seed(2)
    tokens = adapter.embed(x)
    for index in range(block):
        tokens = adapter.block(index, tokens)
    width = adapter.shape.width_of(block)
    return tokens.with_prompts(torch.randn(prompts, width, dtype=torch.float64)) if prompts else tokens


def seen(adapter: Backbone, site: str, call: Callable[[], object], block: int | None) -> tuple[Tensor, Tensor]:
    """What goes into a site and what comes out of it."""
    found: list[tuple[Tensor, Tensor]] = []

    def look(x: Tensor, y: Tensor) -> Tensor:
        found.append((x, y))
        return y

    scope = Scope(adapter)
    scope.after(site, look, block)  # type: ignore[arg-type]
    call()
    scope.undo()
    assert len(found) == 1
    return found[0]


def same(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("name", "site"), list(pairs(list(SITES))))
def test_an_edit_that_changes_nothing(name: str, site: str) -> None:
    adapter = adapter_of(name)
    x = images(adapter)
    expected = adapter(x)
    scope = Scope(adapter)
    scope.after(site, lambda _, y: y, at(site))  # type: ignore[arg-type]
    scope.before(site, lambda x: x, at(site))  # type: ignore[arg-type]
    same(adapter(x), expected)
    scope.undo()
    assert torch.equal(adapter(x), expected)


@pytest.mark.parametrize(("name", "site"), list(pairs(IN_BLOCKS)))
def test_shapes_and_rows(name: str, site: str) -> None:
    """All tokens, prefix, prompts and patches, in this order: a module called by hand gives y from x."""
    adapter = adapter_of(name)
    tokens = prompted(adapter, images(adapter))
    x, y = seen(adapter, site, lambda: adapter.block(1, tokens), 1)
    width = adapter.shape.width_of(1)
    ratio = {"qkv": 3, "fc1": y.shape[-1] / width}.get(site, 1)
    assert y.shape[::2] == (2, ratio * width) and x.shape[:2] == y.shape[:2]
    if name != "swin padded" or site != "qkv":  # there the map is padded to whole windows
        assert y.shape[1] == tokens.x.shape[1]
    if site in ("attention_branch", "mlp_branch", "attention"):
        return
    try:
        module = Scope(adapter).module(site, 1)  # type: ignore[arg-type]
    except UnsupportedError:
        assert name.startswith("eva") and site == "qkv"
        return
    same(module(x), y)


@sweep
def test_branches_are_what_a_block_adds(name: str) -> None:
    adapter = adapter_of(name)
    tokens = prompted(adapter, images(adapter))
    stream, added = seen(adapter, "attention_branch", lambda: adapter.block(1, tokens), 1)
    same(stream, tokens.x)
    middle, more = seen(adapter, "mlp_branch", lambda: adapter.block(1, tokens), 1)
    same(middle, stream + added)
    same(adapter.block(1, tokens).x, middle + more)
    # An edit of one changes the sum by what it adds, and nothing in front of it.
    scope = Scope(adapter)
    scope.after("mlp_branch", lambda x, y: y + 2 * x, 1)
    same(adapter.block(1, tokens).x, 3 * middle + more)


@pytest.mark.parametrize(("name", "site"), list(pairs(["qkv", "proj", "fc1", "fc2"])))
def test_before_and_after_a_linear_layer_agree(name: str, site: str) -> None:
    """Adding d to the input adds W d to the output."""
    adapter = adapter_of(name)
    x = images(adapter)
    width = seen(adapter, site, lambda: adapter(x), 1)[0].shape[-1]
    shift = torch.randn(width, dtype=torch.float64)
    scope = Scope(adapter)
    scope.before(site, lambda x: x + shift, 1)  # type: ignore[arg-type]
    found = adapter(x)
    scope.undo()
    weight = torch.cat([affine.module.weight for affine in adapter.affine(site, 1)])  # type: ignore[arg-type]
    scope.after(site, lambda _, y: y + weight @ shift, 1)  # type: ignore[arg-type]
    if name != "swin padded" or site != "qkv":  # padding is shifted by one and not by the other
        same(adapter(x), found)
    assert (found - adapter_of(name)(x)).abs().max() > 1e-3


@pytest.mark.parametrize(("name", "site"), list(pairs(AFFINE)))
def test_folding_is_exact(name: str, site: str) -> None:
    """scale * y + bias + W x as an edit, and merged into frozen weights; undo restores every bit."""
    adapter = adapter_of(name)
    x = images(adapter)
    expected, state = adapter(x), {key: value.clone() for key, value in adapter.state_dict().items()}
    given, y = seen(adapter, site, lambda: adapter(x), at(site))
    torch.manual_seed(3)
    scale, bias = (torch.randn(y.shape[-1], dtype=torch.float64) for _ in range(2))
    weight = torch.randn(y.shape[-1], given.shape[-1], dtype=torch.float64) / 10 if site in LINEAR else None

    def edit(x: Tensor, y: Tensor) -> Tensor:
        y = scale * y + bias
        return y if weight is None else y + x @ weight.mT

    scope = Scope(adapter)
    scope.after(site, edit, at(site), tokenwise=True)  # type: ignore[arg-type]
    edited = adapter(x)
    scope.fold(site, at(site), scale=scale, bias=bias, weight=weight)  # type: ignore[arg-type]
    same(adapter(x), edited)
    assert (edited - expected).abs().max() > 1e-3
    scope.undo()
    assert torch.equal(adapter(x), expected)
    assert all(torch.equal(value, state[key]) for key, value in adapter.state_dict().items())
    assert adapter.state_dict().keys() == state.keys()


@pytest.mark.parametrize(("name", "site"), list(pairs(LINEAR)))
def test_folding_what_goes_into_a_layer_is_exact(name: str, site: str) -> None:
    """x + M x + c as an edit, and merged into the weights behind it; undo restores every bit."""
    adapter = adapter_of(name)
    x = images(adapter)
    plain, (given, _) = adapter(x), seen(adapter, site, lambda: adapter(x), 1)
    torch.manual_seed(3)
    width = given.shape[-1]
    weight, bias = torch.randn(width, width, dtype=torch.float64) / 10, torch.randn(width, dtype=torch.float64)
    scope = Scope(adapter)
    scope.before(site, lambda x: x + x @ weight.mT + bias, 1, tokenwise=True)  # type: ignore[arg-type]
    expected = adapter(x)
    scope.fold_before(site, 1, weight=weight, bias=bias)  # type: ignore[arg-type]
    same(adapter(x), expected)
    assert (expected - plain).abs().max() > 1e-3
    scope.undo()
    assert torch.equal(adapter(x), plain)


@pytest.mark.parametrize("name", [name for name in BACKBONES if not name.startswith("swin")])
def test_folding_into_position_embeddings(name: str) -> None:
    """What every image gets behind the patch embedding, as an edit and in the position embeddings; undo restores every bit."""
    adapter = adapter_of(name)
    x = images(adapter)
    plain, embeddings = adapter(x), adapter.vit.pos_embed.clone()  # type: ignore[union-attr, operator]
    delta = torch.randn(adapter.shape.patches, adapter.shape.width, dtype=torch.float64)
    scope = Scope(adapter)
    scope.after("patch_embed", lambda x, y: y + delta, tokenwise=False)
    expected = adapter(x)
    scope.undo()
    scope.fold_positions(delta)
    same(adapter(x), expected)
    assert (expected - plain).abs().max() > 1e-3
    scope.undo()
    assert torch.equal(adapter(x), plain) and torch.equal(adapter.vit.pos_embed, embeddings)  # type: ignore[union-attr, arg-type]


def test_backbones_without_position_embeddings_cannot_fold() -> None:
    rotary_only = adapter_for(Eva(**VIT, use_rot_pos_emb=True, use_abs_pos_emb=False))
    for adapter in (adapter_of("swin"), rotary_only):
        with pytest.raises(UnsupportedError, match="no absolute position embeddings"):
            Scope(adapter).fold_positions(torch.zeros(adapter.shape.patches, adapter.shape.width))


@pytest.mark.parametrize("name", ["vit", "eva", "swin"])
def test_folding_weights_of_norms(name: str) -> None:
    adapter = adapter_of(name)
    given, y = seen(adapter, "norm2", lambda: adapter(images(adapter)), 1)
    weight = torch.randn(y.shape[-1], dtype=torch.float64)
    scope = Scope(adapter)
    scope.fold("norm2", 1, weight=weight)
    normed = torch.nn.functional.layer_norm(given, given.shape[-1:], eps=scope.module("norm2", 1).eps)  # type: ignore[arg-type]
    same(scope.module("norm2", 1)(given), y + weight * normed)


@pytest.mark.parametrize("name", ["vit", "registers", "eva"])
def test_folding_weights_of_the_patch_embedding(name: str) -> None:
    """As (out, in_channels p p): pixels of a patch channel by channel, row by row."""
    adapter = adapter_of(name)
    x, scope = images(adapter), Scope(adapter)
    before, size = scope.module("patch_embed")(x), adapter.shape.patch_size
    weight = torch.randn(adapter.shape.width, 3 * size**2, dtype=torch.float64)
    scope.fold("patch_embed", weight=weight)
    patches = torch.nn.functional.unfold(x, size, stride=size).mT
    same(scope.module("patch_embed")(x), before + patches @ weight.T)


@sweep
@pytest.mark.parametrize("site", ["norm1", "qkv", "attention"])
def test_add_to_prompts(name: str, site: Any) -> None:
    adapter = adapter_of(name)
    tokens = prompted(adapter, images(adapter))
    _, plain = seen(adapter, site, lambda: adapter.block(1, tokens), 1)
    values = nn.Parameter(torch.randn(3, plain.shape[-1], dtype=torch.float64))
    scope = Scope(adapter)
    scope.add_to_prompts(1, site, values)
    _, changed = seen(adapter, site, lambda: adapter.block(1, tokens), 1)
    front = adapter.shape.prefix
    same(changed[:, front : front + 3], plain[:, front : front + 3] + values)
    same(changed[:, :front], plain[:, :front])
    same(changed[:, front + 3 :], plain[:, front + 3 :])
    adapter.block(1, tokens).x.square().sum().backward()
    assert values.grad is not None and values.grad.abs().min() > 0


@sweep
@pytest.mark.parametrize("site", ["qkv", "proj", "fc2", "attention_branch", "mlp_branch"])
def test_tokenwise_edits_leave_unused_outputs_out(name: str, site: Any) -> None:
    """In the last block the class token alone goes through the edit; values and gradients are those of the plain form."""
    adapter = adapter_of(name)
    x, last = images(adapter), adapter.shape.depth - 1
    tokens = prompted(adapter, x, prompts=3) if len(adapter.shape.stages) == 1 else None
    if tokens is None:
        return  # a Swin uses all of its tokens
    factor = nn.Parameter(torch.full((1,), 0.5, dtype=torch.float64))
    rows: list[int] = []

    def edit(x: Tensor, y: Tensor) -> Tensor:
        rows.append(y.shape[1])
        return y + factor * (y * y)

    scope = Scope(adapter)
    scope.after(site, edit, last, tokenwise=True)
    results = []
    for skip in (True, False):
        adapter.skip_unused, factor.grad = skip, None
        features = adapter.pool(adapter.block(last, tokens, adapter.pooled))
        features.square().sum().backward()
        results.append((features.detach(), factor.grad))
    for found, expected in zip(*results, strict=True):
        same(found, expected)
    if name in ("vit", "registers") and site != "qkv":
        assert rows == [1, tokens.x.shape[1]]


def test_an_edit_that_needs_all_tokens_gets_them() -> None:
    adapter = adapter_of("vit")
    tokens, rows = prompted(adapter, images(adapter)), []
    for site in ("proj", "mlp", "mlp_branch", "attention"):
        scope = Scope(adapter)
        scope.after(site, lambda x, y: rows.append(y.shape[1]) or y, 1)  # type: ignore[arg-type, func-returns-value]
        adapter.block(1, tokens, "class")
        scope.undo()
    assert set(rows) == {tokens.x.shape[1]}


@sweep
def test_disabled_edits(name: str) -> None:
    adapter = adapter_of(name)
    x = images(adapter)
    expected = adapter(x)
    scope = Scope(adapter)
    for site in ("norm1", "qkv", "mlp_branch"):
        scope.after(site, lambda _, y: 2 * y, 1)  # type: ignore[arg-type]
    with scope.disabled():
        same(adapter(x), expected)
    assert (adapter(x) - expected).abs().max() > 1e-3


@sweep
def test_parameters_have_timms_names(name: str) -> None:
    adapter = adapter_of(name)
    expected = dict(adapter.timm_model.named_parameters())
    scope = Scope(adapter)
    assert scope.parameters() == expected
    if adapter.shape.prefix:
        scope.watch_class_attention()  # opens every attention
        assert scope.parameters().keys() == expected.keys()
    inside = scope.parameters(block=1)
    assert inside and inside.keys() < expected.keys() and all(parameter is expected[key] for key, parameter in inside.items())
    assert set(scope.parameters("norm2", 1)) <= set(inside)
    assert all(key.split(".")[0] in ("norm", "fc_norm") for key in scope.parameters("norm")) and scope.parameters("norm")


@sweep
def test_trained_parameters_come_back(name: str) -> None:
    adapter = adapter_of(name)
    x = images(adapter)
    expected, scope = adapter(x), Scope(adapter)
    scope.train({key: each for key, each in scope.parameters().items() if key.endswith("bias")})
    adapter(x).square().sum().backward()
    with torch.no_grad():
        for each in scope.trained.values():
            each.add_(1.0)
    assert (adapter(x) - expected).abs().max() > 1e-3
    scope.undo()
    assert torch.equal(adapter(x), expected)
    assert not any(each.requires_grad or each.grad is not None for each in adapter.parameters())


@pytest.mark.parametrize(
    ("site", "block", "words"),
    [
        ("qvk", 0, "there is no site 'qvk'"),
        ("qkv", None, "the site qkv has no block None"),
        ("qkv", 2, "the site qkv has no block 2: blocks are 0 to 1"),
        ("norm", 0, "the site norm has no block 0"),
    ],
)
def test_sites_that_are_not_there(site: Any, block: int | None, words: str) -> None:
    with pytest.raises(UnsupportedError, match=words):
        Scope(adapter_of("vit")).after(site, lambda _, y: y, block)


def test_sites_that_a_backbone_lacks() -> None:
    with pytest.raises(UnsupportedError, match="needs the site fc1"):
        Scope(adapter_of("eva swiglu")).after("fc1", lambda _, y: y, 0)
    post_norm = adapter_for(Eva(**VIT, use_post_norm=True))
    with pytest.raises(UnsupportedError, match="no norm there"):
        Scope(post_norm).after("norm1", lambda _, y: y, 0)


@sweep
def test_drop_path(name: str) -> None:
    """Whole branches fall out in training, more of them in later blocks; evaluation is the plain backbone."""
    adapter = adapter_of(name)
    x = images(adapter)
    expected, scope = adapter(x), Scope(adapter)
    adapter.set_drop_path(scope, 0.5)
    same(adapter(x), expected)
    adapter.train_drop_path(True)
    torch.manual_seed(0)
    last = adapter.shape.depth - 1
    branches = [seen(adapter, "mlp_branch", lambda: adapter(x), block)[1] for block in (0, last) for _ in range(10)]
    dropped = [sum(not branch.any() for each in some for branch in each) for some in (branches[:10], branches[10:])]
    assert dropped[0] == 0 and 4 <= dropped[1] <= 16
    adapter.train_drop_path(False)
    same(adapter(x), expected)
    scope.undo()
    assert torch.equal(adapter(x), expected)
