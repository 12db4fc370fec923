"""The methods where the token width changes on the way: exact counts, and what each does at the border of a stage."""

from __future__ import annotations

from typing import Any

import pytest
import timm
import torch
from sweeps import some
from timm.models import SwinTransformer
from torch import Tensor

from vpbench.backbones.swin import SwinAdapter
from vpbench.core.errors import UnsupportedError, UsageError
from vpbench.interface import Context, Method
from vpbench.interface.per_block import of_block, stage_tensors
from vpbench.methods.e2vpt import E2VPT
from vpbench.methods.insvp import InsVP, specific_sizes
from vpbench.methods.ivpt import IVPT
from vpbench.methods.partial import Partial
from vpbench.methods.viapt import ViaPT
from vpbench.methods.vpt import VPT
from vpbench.models.prompted import PromptedModel

WIDTHS = [128] * 2 + [256] * 2 + [512] * 18 + [1024] * 2  # of Swin-B's blocks
CLASSES = 5


@pytest.fixture(scope="module")
def swin_b() -> SwinAdapter:
    with torch.device("meta"):
        return SwinAdapter(timm.create_model("swin_base_patch4_window7_224", num_classes=0))


def count(adapter: SwinAdapter, method: type[Method[Any]], **options: Any) -> int:
    with torch.device("meta"):
        model = PromptedModel(adapter, method(method.Config(**options), adapter.shape, CLASSES), CLASSES)
    return sum(parameter.numel() for parameter in model.own.parameters())


def small(method: type[Method[Any]], **options: Any) -> Any:
    torch.manual_seed(0)
    swin = SwinTransformer(img_size=32, patch_size=4, embed_dim=32, depths=(2, 3), num_heads=(2, 4), window_size=4, num_classes=0)
    adapter = SwinAdapter(swin)
    return PromptedModel(adapter, method(method.Config(**options), adapter.shape, CLASSES), CLASSES).double().eval()


def batch(images: int = 3) -> Tensor:
    return torch.randn(images, 3, 32, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def same(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("length", [1, 10, 50])
def test_vpt_on_swin_b(length: int, swin_b: SwinAdapter) -> None:
    assert sum(WIDTHS) == 12032
    assert count(swin_b, VPT, prompt_length=length) == length * sum(WIDTHS)
    assert count(swin_b, VPT, prompt_length=length, deep=False) == length * 128


@pytest.mark.parametrize("start", some(range(5), 3))
@pytest.mark.parametrize("deep", [True, False])
def test_late_prompts(start: int, deep: bool) -> None:
    """Each has the width of its block, and the stages in front have none."""
    model = small(VPT, prompt_length=3, deep=deep, start=start)
    own = [rows for rows in stage_tensors(model.own.prompts) if len(rows)]
    expected = [32, 32, 64, 64, 64][start : None if deep else start + 1]
    assert [rows.shape[-1] for rows in own for _ in rows] == expected
    tokens = model.backbone.embed(batch())
    for block in range(5):
        if model.backbone.shape.starts_stage(block):
            tokens = model.backbone.enter_stage(block, tokens)
        if block == start or (deep and block > start):
            tokens = tokens.with_prompts(of_block(model.own.prompts, block - start))
        tokens = model.backbone.block(block, tokens)
    same(model(batch()), model.head(model.backbone.pool(tokens)))


def test_partial_on_swin_b(swin_b: SwinAdapter) -> None:
    """The last block of the last stage and the final norm."""
    with torch.device("meta"):
        model = PromptedModel(swin_b, Partial(Partial.Config(), swin_b.shape, CLASSES), CLASSES)
    block, norm = swin_b.swin.layers[-1].blocks[-1], swin_b.swin.norm
    assert {id(tensor) for tensor in model.scope.trained.values()} == {
        id(each) for part in (block, norm) for each in part.parameters()
    }
    model.scope.undo()


def test_e2vpt_on_swin_b(swin_b: SwinAdapter) -> None:
    assert count(swin_b, E2VPT, prompt_length=10, kv_length=5) == 15 * sum(WIDTHS)
    assert count(swin_b, E2VPT, prompt_length=10, kv_length=5, shared_kv=False, masks_trained=True) == 20 * sum(WIDTHS) + 170


def test_ivpt_on_swin_b(swin_b: SwinAdapter) -> None:
    assert count(swin_b, IVPT, prompt_length=10) == 10 * sum(WIDTHS) + 20 * 100
    assert count(swin_b, IVPT, prompt_length=10, stage_border="tile") == 10 * sum(WIDTHS) + 23 * 100
    received = 10 * sum(WIDTHS) + 20 * 100 + 7 * (sum(WIDTHS) - 1024)
    assert count(swin_b, IVPT, prompt_length=10, ar_k=7, staged_ar="received") == received
    with pytest.raises(UsageError, match="49 patch tokens"):
        count(swin_b, IVPT, ar_k=50, staged_ar="received")


def test_viapt_on_swin_b(swin_b: SwinAdapter) -> None:
    generator = (128 * 32 + 32) + (9 * 32**2 + 32) + (2 * 128 * 32 + 2 * 128)
    # With m = 128, the width of the first stage, its prompts are carried on whole: no learned values there.
    learned = sum(10 * (width - 128) for width in WIDTHS[1:])
    assert count(swin_b, ViaPT, pca_dim=128) == 5 * 128 + generator + learned
    assert count(swin_b, ViaPT) == count(swin_b, ViaPT, pca_dim=21)  # a sixth of the first stage's width
    assert count(swin_b, ViaPT, pca_dim=64) == 5 * 128 + generator + sum(10 * (width - 64) for width in WIDTHS[1:])
    with pytest.raises(UsageError, match="width 128"):
        count(swin_b, ViaPT, pca_dim=129)


def test_insvp_on_swin_b(swin_b: SwinAdapter) -> None:
    assert [specific_sizes(224, width, 3)[-2:] for width in (128, 256, 512, 1024)] == [(4, 8), (8, 4), (8, 8), (16, 4)]
    patch = 6 * 4**2 * 16 + 16 + 3 * 4**2
    overall = 3 * 6 * 11**2 + 6 + 3 * 6 * 25**2 + 3
    specific = sum(
        3 * 9 * 9**2 + 9 + c * 9**2 * 5**2 + c * 9 + c**2 * 9**2 * 3**2 + c * 9
        for c in (8, 4, 8, 4)
    )  # fmt: skip
    assert count(swin_b, InsVP) == patch + overall + specific + 9 * sum(WIDTHS)


def test_deep_prompts_have_the_width_of_their_block() -> None:
    model = small(VPT, prompt_length=3)
    assert [tuple(tensor.shape) for tensor in model.own.prompts] == [(2, 3, 32), (3, 3, 64)]
    assert [name for name, _ in model.own_tensors()][:2] == ["own.prompts.0", "own.prompts.1"]
    assert all(float(tensor.detach().abs().max()) <= model.backbone.shape.prompt_bound for tensor in model.own.prompts)
    assert of_block(model.own.prompts, 2) is not None and torch.equal(of_block(model.own.prompts, 2), model.own.prompts[1][0])
    with pytest.raises(IndexError):
        of_block(model.own.prompts, 5)


def test_shallow_prompts_differ_by_image_behind_the_first_block() -> None:
    """That is why their order among windows matters: what one image made of them must not reach another."""
    model, x = small(VPT, prompt_length=3, deep=False), batch()
    tokens = model.backbone.block(0, model.backbone.embed(x).with_prompts(model.own.prompts[0]))
    assert (tokens.prompt_tokens[0] - tokens.prompt_tokens[1]).abs().max() > 1e-6
    same(model(x), torch.cat([model(image[None]) for image in x]))
    same(model(x.flip(0)).flip(0), model(x))


def test_projected_deep_prompts_are_refused() -> None:
    with pytest.raises(UnsupportedError, match=r"vpt\.project"):
        small(VPT, project=8)
    assert small(VPT, project=8, deep=False)(batch()).shape == (3, CLASSES)


def test_e2vpt_masks_act_in_every_block() -> None:
    model = small(E2VPT, prompt_length=4, kv_length=2, segments=16)
    model.own.token_mask[0, 1] = 0
    model.own.segment_mask[0, 2, 3] = 0
    assert model.method.active_parameters() == (2 * 32 + 3 * 64) * (3 * 16 - 1) // 16 + 2 * (2 * 32 + 3 * 64)
    for block, width in enumerate([32, 32, 64, 64, 64]):
        tokens = model.backbone.embed(batch()) if block < 2 else model.backbone.enter_stage(2, model.backbone.embed(batch()))
        prompts = model.method.before_block(block, tokens, Context(batch(), False)).prompt_tokens[0]
        assert prompts.shape == (4, width)
        assert not prompts[1].any() and not prompts[2, 3 * width // 16 : 4 * width // 16].any() and prompts[0].all()
    with pytest.raises(UsageError, match="width 32"):
        small(E2VPT, segments=64)


def test_ivpt_restarts_in_every_stage() -> None:
    model = small(IVPT, prompt_length=3, da_init="xavier")
    assert model.own.gamma.shape == (3, 3, 3)
    rows, linked, gamma = [row for stage in model.own.prompts for row in stage], model.method.linked_prompts(), model.own.gamma
    expected = [rows[0], rows[1] + gamma[0] @ rows[0], rows[2], rows[3] + gamma[1] @ rows[2], rows[4] + gamma[2] @ rows[3]]
    for found, wanted in zip(linked, expected, strict=True):
        same(found, wanted)
    assert not hasattr(model.own, "reinforcement")


def test_ivpt_tiles_prompts_over_the_border() -> None:
    model = small(IVPT, prompt_length=3, da_init="xavier", stage_border="tile")
    rows, linked, gamma = [row for stage in model.own.prompts for row in stage], model.method.linked_prompts(), model.own.gamma
    merging = model.backbone.swin.layers[1].downsample
    same(linked[2], rows[2] + gamma[1] @ merging.reduction(merging.norm(rows[1].repeat(1, 4))))
    same(linked[4], rows[4] + gamma[3] @ rows[3])
    before = model(batch())
    model.merge()
    same(model(batch()), before)


@pytest.mark.parametrize("border", ["restart", "tile"])
def test_vanilla_cdc_sums_up(border: str) -> None:
    model = small(IVPT, prompt_length=3, structure="vanilla_cdc", stage_border=border)
    first, second = stage_tensors(model.own.prompts)
    linked = model.method.linked_prompts()
    same(linked[1], first.sum(0))
    carried = model.backbone.prompts_at_next_stage(2, first.sum(0)) if border == "tile" else 0
    same(linked[4], second.sum(0) + carried)


def test_ivpt_reinforces_the_tokens_that_receive_most_attention() -> None:
    model, x = small(IVPT, prompt_length=3, ar_k=4, staged_ar="received"), batch(2)
    assert [tuple(tensor.shape) for tensor in model.own.reinforcement] == [(2, 4, 32), (2, 4, 64)]
    context, backbone, method = Context(x, False), model.backbone, model.method
    tokens = method.before_block(0, backbone.embed(x), context)
    watched = model.scope.watch_received_attention()
    tokens = backbone.block(0, tokens)
    weights = watched(0)
    changed = method.after_block(0, tokens, context).patch_tokens - tokens.patch_tokens
    for image in range(2):
        order = weights[image].argsort(descending=True)[:4]
        same(changed[image, order], model.own.reinforcement[0][0])
        assert int((changed[image].abs().sum(-1) > 0).sum()) == 4
    model(x).sum().backward()
    assert all(tensor.grad.abs().sum((1, 2)).all() for tensor in model.own.reinforcement)


@pytest.mark.parametrize("structure", some(["vpt", "provp", "express", "vanilla_cdc"], 2))
@pytest.mark.parametrize("ar", some(["topk", "all", "none"], 2))
def test_ivpt_in_every_structure(structure: str, ar: str) -> None:
    model, x = small(IVPT, prompt_length=3, structure=structure, ar=ar), batch()
    if structure == "express":
        with torch.no_grad():
            for values in model.own.residual.values():
                values.normal_(std=0.1)
    logits = model(x)
    assert logits.isfinite().all()
    same(torch.cat([model(image[None]) for image in x]), logits)
    logits.sum().backward()
    idle = [name for name, tensor in model.own.named_parameters() if tensor.grad is None or not tensor.grad.any()]
    assert idle == (["residual.attention_4"] if structure == "express" else [])  # of the last block, whose prompts are dropped


@pytest.mark.parametrize("mode", some(["running", "batch", "sample", "random_proj", "random_coord", "learned"], 2))
@pytest.mark.parametrize("m", [pytest.param(8, marks=pytest.mark.sweep), 32])
def test_viapt_in_every_mode(mode: str, m: int) -> None:
    model, x = small(ViaPT, pca_mode=mode, pca_dim=m, gen_hidden=8, n_dataset=3, n_instance=2), batch(4)
    for _ in range(2):
        loss, _ = model.train().training_loss(x, torch.arange(4))
        loss.backward()
    model.method.epoch_ended(0, 100)
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in model.own.parameters())
    assert ("own.stages.0.partials" in model.snapshot()) == (m < 32)
    logits = model.eval()(x)
    same(torch.cat([model(image[None]) for image in x]), logits)


def test_viapt_carries_nothing_and_is_vpt_deep() -> None:
    model = small(ViaPT, pca_dim=0, n_instance=0, n_dataset=3)
    deep = small(VPT, prompt_length=3, dropout=0.0)
    rows = [model.own.dataset, *(row for stage in model.own.stages for row in stage.partials)]
    with torch.no_grad():
        for block, row in enumerate(rows):
            of_block(deep.own.prompts, block).copy_(row)
        deep.head.load_state_dict(model.head.state_dict())
    same(model(batch()), deep(batch()))


def test_viapt_learns_no_fresh_samples_of_several_widths() -> None:
    with pytest.raises(UnsupportedError, match="fresh_instance_per_layer"):
        small(ViaPT, pca_dim=8, fresh_instance_per_layer=True)


def test_insvp_has_a_specific_prompter_per_stage() -> None:
    model, x = small(InsVP, prompt_length=3, dropout=0.0), batch(2)
    assert len(model.own.specific) == 2
    context = Context(x, False)
    prompted = model.method.pixels(x, context)
    tokens = model.backbone.embed(prompted)
    for block in range(5):
        if block == 2:
            tokens = model.backbone.enter_stage(2, tokens)
        tokens = model.method.before_block(block, tokens, context)
        specific = model.method.specific_prompts(x, False, 0 if block < 2 else 1)
        same(tokens.prompt_tokens, 0.5 * of_block(model.own.common, block) + 0.5 * specific)
        tokens = model.backbone.block(block, tokens)


def test_insvp_names_a_width_that_no_prompter_fits() -> None:
    swin = SwinTransformer(img_size=32, embed_dim=15, depths=(1, 1), num_heads=(3, 3), window_size=4, num_classes=0)
    adapter = SwinAdapter(swin)
    with pytest.raises(UsageError, match="width 15"):
        PromptedModel(adapter, InsVP(InsVP.Config(), adapter.shape, CLASSES), CLASSES)
