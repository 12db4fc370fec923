"""InsVP against the released model's numbers, and what must hold at any size."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from timm.models import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional

from golden_fill import (
    check_gradient,
    check_logits,
    filled,
    golden_cases,
    golden_model,
    images,
    labels,
    load_golden,
    matrix_scale,
)
from vpbench.backbones.vit import ViTAdapter
from vpbench.core.errors import UsageError
from vpbench.interface import BackboneShape, Context, Tokens
from vpbench.methods.insvp import InsVP, InsVPConfig, convolve, specific_sizes, weighted_by_simam
from vpbench.models.prompted import PromptedModel

VIT_B16 = BackboneShape(family="vit", image_size=224, patch_size=16, width=768, depth=12, heads=12, prefix=1)
CLASSES = 3


def build(shape: BackboneShape, **settings: Any) -> InsVP:
    method = InsVP(InsVPConfig(**settings), shape, CLASSES)
    method.build()
    return method


def small(size: int = 32, patch: int = 8, width: int = 48, **settings: Any) -> Any:
    torch.manual_seed(0)
    vit = VisionTransformer(img_size=size, patch_size=patch, embed_dim=width, depth=2, num_heads=4, num_classes=0)
    adapter = ViTAdapter(vit)
    return PromptedModel(adapter, InsVP(InsVPConfig(**settings), adapter.shape, CLASSES), CLASSES)


def released(**settings: Any) -> dict[str, Any]:
    return {**InsVP.presets["released"].settings, **settings}


# The released model's numbers

RELEASED_NAMES = {
    "meta_net.0": "patch.0",
    "meta_net.2": "patch.2",
    "meta_net_2.0": "global_.0",
    "meta_net_2.2": "global_.1",
    "TokenPrompt.conv1": "specific.0",
    "TokenPrompt.conv2": "specific.1",
    "TokenPrompt.conv3": "specific.2",
}


def released_tensors(model: Any) -> Iterator[tuple[str, Tensor]]:
    yield "prompts", model.own.common
    for theirs, ours in RELEASED_NAMES.items():
        module = model.own.get_submodule(ours)
        yield f"{theirs}.weight", module.weight
        yield f"{theirs}.bias", module.bias


def golden_insvp(config: dict[str, Any], simam: bool) -> Any:
    settings = released(
        prompt_length=config["prompt_length"], patch_hidden=config["patch_prompter_hidden"],
        global_hidden=config["global_prompter_hidden"], global_kernels=config["global_kernels"],
        specific_kernels=config["specific_kernels"], global_weight=config["global_weight"],
        scale_kernels=False, train_specific=True, simam=simam,
    )  # fmt: skip
    model: Any = golden_model(config, InsVP, settings)
    with torch.no_grad():
        for name, tensor in released_tensors(model):
            scale = 0.5 if name == "prompts" else 0.1 if name.endswith("bias") else matrix_scale(tensor.flatten(1).shape)
            tensor.copy_(filled(f"insvp.{name}", tensor.shape, scale, 0.0, config))
    return model


@pytest.mark.parametrize("name", golden_cases("insvp"))
def test_golden(name: str) -> None:
    golden = load_golden("insvp")
    config, case, simam = golden["config"], golden["cases"][name], name.endswith("simam_True")
    model, batch = golden_insvp(config, simam), images(golden["config"])
    context = Context(batch, False)
    logits = model.head(model.features(batch, context))
    check_logits(logits, case)
    loss = functional.cross_entropy(logits, labels(config))
    assert loss.item() == pytest.approx(case["loss"], rel=1e-4)

    with torch.no_grad():
        source = weighted_by_simam(batch) if simam else batch
        prompt = model.method.image_prompt(source, False)
    first = case["image_prompt_first"]
    assert float(prompt.abs().mean()) == pytest.approx(case["image_prompt_mean_abs"], rel=1e-4)
    assert prompt.flatten()[: len(first)].tolist() == pytest.approx(first, rel=1e-4, abs=1e-4)
    specific, first = context.stash["specific_prompts"].detach(), case["specific_prompt_first"]
    assert list(specific.shape) == case["specific_prompt_shape"]
    assert specific.flatten()[: len(first)].tolist() == pytest.approx(first, rel=1e-4)
    assert float(specific.double().norm()) == pytest.approx(case["specific_prompt_l2"], rel=1e-4)

    torch.autograd.backward(loss)
    gradients = {key: tensor.grad for key, tensor in released_tensors(model)} | {"head.weight": model.head.weight.grad}
    for tensor_name, expected in case["params"].items():
        gradient = gradients[tensor_name]
        check_gradient(None if gradient is None else gradient.reshape(expected["shape"]), expected)
    assert {key: tensor.numel() for key, tensor in released_tensors(model)} == case["param_count"]


def test_released_optimizer_gets_what_the_released_preset_trains() -> None:
    case = next(iter(load_golden("insvp")["cases"].values()))
    trained = {name for name, tensor in released_tensors(small(**released())) if tensor.requires_grad}
    assert trained == set(case["trained_by_official_optimizer"])


# Counts and sizes


@pytest.mark.parametrize(
    ("length", "kernels", "total", "optimised"),
    [(9, (9, 5, 3), 136_627, 121_741), (16, (7, 9, 3), 271_661, 186_253), (20, (7, 9, 3), 355_797, 223_117)],
)
def test_parameter_counts_on_vit_b16(length: int, kernels: tuple[int, int, int], total: int, optimised: int) -> None:
    for settings, trained in (({}, total), (released(), optimised)):
        own = build(VIT_B16, prompt_length=length, specific_kernels=kernels, **settings).own
        assert sum(tensor.numel() for tensor in own.parameters()) == total
        assert sum(tensor.numel() for tensor in own.parameters() if tensor.requires_grad) == trained


def test_inner_sizes_of_the_released_code() -> None:
    sizes = specific_sizes(224, 768, 3)
    assert (sizes.first_side, sizes.first_side // sizes.first_pool, sizes.second_side, sizes.grid) == (208, 52, 48, 16)
    assert [specific_sizes(224, width, 3)[-2:] for width in (1024, 1280, 384, 192)] == [(16, 4), (16, 5), (8, 6), (8, 3)]


@pytest.mark.parametrize("size", [32, 48, 64, 96, 224])
@pytest.mark.parametrize("width", [48, 96, 192, 384, 768, 1152, 1280])
def test_inner_sizes_fit_together(size: int, width: int) -> None:
    sizes = specific_sizes(size, width, 3)
    assert sizes.channels * sizes.grid**2 == width
    assert size >= sizes.first_side > 0
    assert sizes.first_side % sizes.first_pool == 0
    assert sizes.first_side // sizes.first_pool >= sizes.second_side == sizes.second_pool * sizes.grid


def test_impossible_width_is_named() -> None:
    with pytest.raises(UsageError, match=r"width 66 .* 32 pixels"):
        specific_sizes(32, 66, 3)


def test_kernels_scale_with_the_image() -> None:
    def kernels(size: int, **settings: Any) -> list[int]:
        shape = BackboneShape(family="vit", image_size=size, patch_size=16, width=192, depth=1, heads=3, prefix=1)
        own = build(shape, **settings).own
        return [module.kernel_size[0] for module in (*own.global_, *own.specific)]

    assert kernels(224) == kernels(64, scale_kernels=False) == [11, 25, 9, 5, 3]
    assert kernels(64) == [3, 7, 3, 3, 3]
    assert kernels(448) == [21, 49, 17, 9, 5]


@pytest.mark.parametrize(
    "settings",
    [{"global_kernels": (10, 25)}, {"prompt_length": 0}, {"dropout": 1.0}, {"specific_kernels": (9, 5)}, {"beta": 0.7}],
)
def test_wrong_options_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        InsVPConfig(**settings)


@pytest.mark.parametrize(("size", "patch", "width"), [(32, 8, 48), (48, 12, 192), (64, 16, 96), (40, 12, 192)])
@pytest.mark.parametrize("settings", [{}, released(), {"simam": True, "dilation": 2}])
def test_runs_at_other_sizes(size: int, patch: int, width: int, settings: dict[str, Any]) -> None:
    model = small(size, patch, width, **settings)
    loss, logits = model.training_loss(torch.randn(2, 3, size, size), torch.tensor([0, 1]))
    torch.autograd.backward(loss)
    assert logits.shape == (2, CLASSES)
    assert all(tensor.grad is not None and tensor.grad.isfinite().all() for _, tensor in model.trainable())


# Locality and layout


def test_token_t_is_channels_3t_to_3t_plus_2_of_the_last_map() -> None:
    method = build(VIT_B16)
    maps: list[Tensor] = []
    method.own.specific[2].register_forward_hook(lambda _module, _inputs, output: maps.append(output))
    with torch.no_grad():
        tokens = method.specific_prompts(torch.randn(1, 3, 224, 224), False)
    for token in (0, 4, 8):
        assert torch.equal(tokens[0, token], maps[0][0, 3 * token : 3 * token + 3].flatten())


def test_patch_prompt_depends_on_its_patch_only() -> None:
    method = small().method
    batch = torch.randn(1, 3, 32, 32)
    changed = batch.clone()
    changed[..., 8:16, 16:24] += 1
    with torch.no_grad():
        moved = (method.patch_prompt(changed) != method.patch_prompt(batch)).any(1)[0]
    assert moved[8:16, 16:24].all()
    assert moved.sum() == 64


def test_patch_prompter_is_two_linear_layers_per_patch() -> None:
    method = small(patch_hidden=5).method.own
    batch = torch.randn(2, 3, 32, 32)
    vectors = batch.unfold(2, 8, 8).unfold(3, 8, 8).permute(0, 2, 3, 1, 4, 5).flatten(3)  # (B, rows, columns, values)
    first, second = method.patch[0], method.patch[2]
    outputs = functional.linear(vectors, first.weight.flatten(1), first.bias).relu()
    outputs = functional.linear(outputs, second.weight.flatten(1), second.bias)
    expected = outputs.reshape(2, 4, 4, 3, 8, 8).permute(0, 3, 1, 4, 2, 5).reshape(2, 3, 32, 32)
    torch.testing.assert_close(method.patch(batch), expected)


def test_global_prompt_sees_35_pixels() -> None:
    method = build(VIT_B16)
    batch = torch.randn(1, 3, 96, 96, requires_grad=True)
    (gradient,) = torch.autograd.grad(method.global_prompt(batch)[0, 0, 48, 48], batch)
    seen = gradient[0].abs().sum(0)
    rows, columns = (seen > 1e-6 * seen.max()).nonzero().unbind(1)  # Fourier transforms round 0 to less than that
    assert (int(rows.min()), int(rows.max())) == (int(columns.min()), int(columns.max())) == (48 - 17, 48 + 17)


@pytest.mark.parametrize(("kernel", "dilation"), [(15, 1), (25, 1), (15, 2)])
def test_the_cheap_form_of_a_large_convolution_is_equal(kernel: int, dilation: int) -> None:
    convolution = nn.Conv2d(4, 3, kernel, padding=dilation * (kernel // 2), dilation=dilation).double()
    batch = torch.randn(2, 4, 20, 20, dtype=torch.float64, requires_grad=True)
    tensors = (batch, *convolution.parameters())
    weights = torch.randn(2, 3, 20, 20, dtype=torch.float64)
    direct, cheap = convolution(batch), convolve(batch, convolution)
    torch.testing.assert_close(cheap, direct, rtol=0, atol=1e-12)
    for ours, theirs in zip(
        torch.autograd.grad((cheap * weights).sum(), tensors), torch.autograd.grad((direct * weights).sum(), tensors)
    ):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-10)


@pytest.mark.parametrize("side", [20, 64, 224, 256, 384, 448, 518])
def test_transforms_have_the_next_size_that_is_a_product_of_2_3_and_5(side: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another size would change the last digits of stored runs."""
    sizes = []
    transform = torch.fft.rfft2

    def recording(values: Tensor, s: tuple[int, int]) -> Tensor:
        sizes.append(s)
        return transform(values, s=s)

    monkeypatch.setattr(torch.fft, "rfft2", recording)
    convolve(torch.zeros(1, 1, side, side), nn.Conv2d(1, 1, 25, padding=12))
    smooth = sorted(2**i * 3**j * 5**k for i in range(11) for j in range(7) for k in range(5))
    expected = next(size for size in smooth if size >= side + 12)
    assert set(sizes) == {(expected, expected)}


def entering(model: Any, batch: Tensor) -> list[Tokens]:
    """The sequences that enter the blocks."""
    seen: list[Tokens] = []
    block = model.backbone.block

    def spy(index: int, tokens: Tokens, wanted: Any) -> Tokens:
        seen.append(tokens)
        out: Tokens = block(index, tokens, wanted)
        return out

    model.backbone.block = spy
    with torch.no_grad():
        model.features(batch)
    model.backbone.block = block
    return seen


def test_every_block_sees_class_token_prompts_and_patches() -> None:
    model = small(prompt_length=5).eval()
    assert [tokens.x.shape for tokens in entering(model, torch.randn(2, 3, 32, 32))] == [(2, 1 + 5 + 16, 48)] * 2


def test_prompts_have_no_position_embedding() -> None:
    model, batch = small().eval(), torch.randn(2, 3, 32, 32)
    before = entering(model, batch)[0]
    with torch.no_grad():
        model.backbone.vit.pos_embed.add_(1)
    after = entering(model, batch)[0]
    assert torch.equal(before.prompt_tokens, after.prompt_tokens)
    assert not torch.equal(before.patch_tokens, after.patch_tokens)


def test_fusion_weights() -> None:
    model, batch = small(dropout=0.0).eval(), torch.randn(2, 3, 32, 32)
    method = model.method
    with torch.no_grad():
        local, overall = method.patch_prompt(batch), method.global_prompt(batch)
        torch.testing.assert_close(method.pixels(batch, Context(batch, False)), batch + 0.3 * local + 0.7 * overall)
        expected = 0.5 * model.own.common[1] + 0.5 * method.specific_prompts(batch, False)
    torch.testing.assert_close(entering(model, batch)[1].prompt_tokens, expected)


# Training


def step(model: Any, batch: Tensor) -> None:
    optimizer = torch.optim.SGD([tensor for _, tensor in model.trainable()], lr=0.1)
    model.training_loss(batch, torch.arange(len(batch)) % CLASSES)[0].backward()
    optimizer.step()


def test_specific_prompter_is_trained_only_where_it_should_be() -> None:
    batch = torch.randn(2, 3, 32, 32)
    for settings, trained in (({}, True), (released(), False)):
        model = small(**settings)
        before = model.snapshot()
        step(model, batch)
        moved = [not torch.equal(before[name], tensor) for name, tensor in model.own_tensors() if "specific" in name]
        assert moved == [trained] * 6
        assert [name for name, _ in model.trainable() if "specific" in name] == [n for n in before if "specific" in n and trained]


def test_gradient_reaches_the_image_prompt_through_an_untrained_specific_prompter() -> None:
    model = small(**released(dropout=0.0))
    method, batch = model.method, torch.randn(2, 3, 32, 32)
    context = Context(batch, False)
    method.pixels(batch, context)
    context.stash["specific_prompts"].square().sum().backward()
    assert all(tensor.grad is not None and tensor.grad.any() for tensor in model.own.patch.parameters())
    assert all(tensor.grad is None for tensor in model.own.specific.parameters())


def test_backbone_stays_as_it_was_and_has_no_dropout() -> None:
    model, batch = small(dropout=0.0), torch.randn(2, 3, 32, 32)
    before = {name: tensor.clone() for name, tensor in model.backbone.state_dict().items()}
    assert torch.equal(model(batch), model(batch))
    step(model, batch)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.backbone.state_dict().items())
    assert all(tensor.grad is None for tensor in model.backbone.parameters())


def test_anew_per_block_differs_in_dropout_only() -> None:
    batch = torch.randn(2, 3, 32, 32)
    once, anew = small(dropout=0.0), small(dropout=0.0, per_layer_specific=True)
    torch.testing.assert_close(once(batch), anew(batch))
    prompts = [tokens.prompt_tokens for tokens in entering(small(dropout=0.5, common_weight=0.0, per_layer_specific=True), batch)]
    assert not torch.equal(prompts[0], prompts[1])
    prompts = [tokens.prompt_tokens for tokens in entering(small(dropout=0.5, common_weight=0.0), batch)]
    assert torch.equal(prompts[0], prompts[1])


def test_an_image_alone_and_in_a_batch() -> None:
    model, batch = small().double().eval(), torch.randn(3, 3, 32, 32, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(model(batch[1:2]), model(batch)[1:2], rtol=0, atol=1e-10)


def test_global_prompter_stays_in_float32_under_autocast() -> None:
    model, batch = small(), torch.randn(2, 3, 32, 32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert model.method.pixels(batch, Context(batch, True)).dtype == torch.float32
        loss, _ = model.training_loss(batch, torch.tensor([0, 1]))
    torch.autograd.backward(loss)
    assert all(tensor.grad is not None and tensor.grad.dtype == torch.float32 for _, tensor in model.trainable())
