"""E2VPT: golden outputs with and without masks, exact counts, and the phases of pruning."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from sweeps import some
from test_vpt import fill_prompts
from timm.models import VisionTransformer
from torch import Tensor

from golden_fill import check_gradient, check_logits, filled, golden_model, images, labels, load_golden
from vpbench.backbones.vit import ViTAdapter
from vpbench.core.errors import UsageError
from vpbench.methods.e2vpt import E2VPT
from vpbench.methods.vpt import VPT
from vpbench.models.prompted import PromptedModel


def tiny(seed: int = 0, **options: Any) -> PromptedModel:
    torch.manual_seed(seed)
    adapter = ViTAdapter(VisionTransformer(img_size=32, patch_size=8, embed_dim=48, depth=3, num_heads=4, num_classes=0).double())
    return PromptedModel(adapter, E2VPT(E2VPT.Config(**options), adapter.shape, 5), 5).double()


X = torch.randn(3, 3, 32, 32, dtype=torch.double, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("case", ["no_mask", "ones_mask", "pruned"])
def test_golden(case: str) -> None:
    golden = load_golden("e2vpt")
    config, expected = golden["config"], golden["cases"][case]
    settings = {
        "prompt_length": config["prompt_length"], "kv_length": config["kv_length"], "segments": config["segments"],
        "segment_layout": "interleaved", "masks_trained": True,
    }  # fmt: skip
    model = golden_model(config, E2VPT, settings)
    fill_prompts(model.own.prompts, config)
    with torch.no_grad():
        for block, prompts in enumerate(model.own.kv_prompts):
            prompts[0].copy_(filled(f"kv_prompt.{block}", prompts[0].shape, 0.5, 0.0, config))
        model.own.token_mask[:, expected["masked_tokens"] or []] = 0
        for token, segments in (expected["masked_segments"] or {}).items():
            model.own.segment_mask[:, int(token), segments] = 0
    logits = model(images(config))
    check_logits(logits, expected)
    loss = torch.nn.functional.cross_entropy(logits, labels(config))
    assert loss.item() == pytest.approx(expected["loss"], rel=1e-4)
    loss.backward()
    for name, gradient in expected["params"].items():
        kind, _, block = name.partition(".")
        if kind == "kv_prompt":
            found = model.own.kv_prompts.grad[int(block), 0]
        else:
            found = model.own.prompts.grad[:1] if block == "0" else model.own.prompts.grad[1:]
        check_gradient(found, gradient)
    if case == "ones_mask":
        segments = torch.tensor(expected["segment_mask_grad"])
        torch.testing.assert_close(model.own.segment_mask.grad[0], segments, rtol=0, atol=1e-4 * float(segments.abs().max()))
        # The derivative of a whole token's mask is a sum that cancels almost entirely, so its scale is the segments'.
        tokens = torch.tensor(expected["token_mask_grad"])
        torch.testing.assert_close(model.own.token_mask.grad[0], tokens, rtol=0, atol=1e-4 * float(segments.abs().max()))


@pytest.mark.parametrize(
    ("visual", "key_value", "count"), [(1, 1, 18_432), (5, 5, 92_160), (10, 5, 138_240), (10, 10, 184_320), (20, 20, 368_640)]
)
def test_parameter_count_on_vit_b16(visual: int, key_value: int, count: int, vit_b16: ViTAdapter) -> None:
    for trained, extra in ((False, 0), (True, 17 * visual)):
        with torch.device("meta"):
            config = E2VPT.Config(prompt_length=visual, kv_length=key_value, masks_trained=trained)
            model = PromptedModel(vit_b16, E2VPT(config, vit_b16.shape, 5), 5)
        model.scope.undo()
        assert sum(parameter.numel() for parameter in model.own.parameters()) == count + extra


@pytest.mark.parametrize(
    ("visual", "key_value", "tokens", "segments", "count"),
    some([(1, 1, 0, 12, 11_520), (5, 5, 4, 12, 48_384), (32, 5, 28, 12, 55_296)], 1),
)
def test_pruned_count_on_vit_b16_width(visual: int, key_value: int, tokens: int, segments: int, count: int) -> None:
    shape_only = ViTAdapter(
        VisionTransformer(img_size=32, patch_size=16, embed_dim=768, depth=12, num_heads=12, mlp_ratio=0.01, num_classes=0)
    )
    model = PromptedModel(shape_only, E2VPT(E2VPT.Config(prompt_length=visual, kv_length=key_value), shape_only.shape, 2), 2)
    method: Any = model.method
    method.mask(torch.rand(1, visual), tokens, torch.rand(1, visual, 16), segments)
    assert method.active_parameters() == count


def test_masks_of_one_and_copied_tensors_change_nothing() -> None:
    shared, doubled = tiny(prune=False), tiny(shared_kv=False)
    with torch.no_grad():
        doubled.own.prompts.copy_(shared.own.prompts)
        doubled.own.kv_prompts.copy_(shared.own.kv_prompts.expand(-1, 2, -1, -1, -1))
        doubled.head.load_state_dict(shared.head.state_dict())
    torch.testing.assert_close(shared.eval()(X), doubled.eval()(X), rtol=0, atol=1e-12)


@pytest.mark.parametrize(("layout", "channels"), [("interleaved", [3, 19, 35]), ("contiguous", [9, 10, 11])])
def test_a_segment_is_a_set_of_channels(layout: str, channels: list[int]) -> None:
    model = tiny(segment_layout=layout).eval()
    with torch.no_grad():
        model.own.segment_mask[0, 2, 3] = 0
    method: Any = model.method
    mask = method._over_channels(model.own.segment_mask[0], model.backbone.shape.width)
    assert (mask[2] == 0).nonzero().flatten().tolist() == channels
    assert (mask == 0).sum() == len(channels)


def test_without_key_value_prompts_it_is_vpt_deep() -> None:
    model = tiny(kv_length=1).eval()
    with_prompts = model(X)
    model.scope.undo()
    reference = PromptedModel(ViTAdapter(model.backbone.vit), VPT(VPT.Config(), model.backbone.shape, 5), 5).double().eval()
    with torch.no_grad():
        reference.own.prompts.copy_(model.own.prompts)
        reference.head.load_state_dict(model.head.state_dict())
    torch.testing.assert_close(model(X), reference(X), rtol=0, atol=1e-12)
    assert not torch.allclose(with_prompts, reference(X))


def test_queries_do_not_grow_and_keys_do() -> None:
    model = tiny(prompt_length=4, kv_length=3).eval()
    seen: list[tuple[int, int]] = []
    attention = torch.nn.functional.scaled_dot_product_attention

    def spy(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        seen.append((query.shape[2], key.shape[2]))
        return attention(query, key, value)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.nn.functional, "scaled_dot_product_attention", spy)
        model(X)
        # Prompts are replaced before the next block and ask nothing; in the last block the class token asks by itself.
        assert seen == [(1 + 16, 1 + 4 + 16 + 3)] * 2
        seen.clear()
        model.backbone.skip_unused = False
        model(X)
    assert seen == [(1 + 4 + 16, 1 + 4 + 16 + 3)] * 3


def test_removing_masked_prompts_shortens_the_sequence() -> None:
    model = tiny(prompt_length=4, remove_masked=True).eval()
    method: Any = model.method
    method.mask(torch.tensor([[0.0, 3, 1, 2]]), 2, torch.rand(1, 4, 16), 0)
    tokens = model.backbone.embed(X)
    prompted = method.before_block(0, tokens, None or type("C", (), {"training": False})())
    assert torch.equal(prompted.prompt_tokens[0], model.own.prompts[0, [1, 3]])


def test_candidates() -> None:
    def counts(**options: Any) -> list[tuple[int, int]]:
        method: Any = tiny(**options).method
        return method.candidate_counts()

    assert counts() == [(2, 3), (5, 8)]
    released = counts(candidates="released")
    assert len(released) == 72
    assert {tokens for tokens, _ in released} == set(range(1, 10))
    assert {segments for _, segments in released} == {1, 3, 4, 6, 8, 9, 11, 12}
    assert len(counts(candidates="released", prompt_length=5)) == 40
    assert len(counts(candidates="released", prompt_length=1)) == 8


class FakeSession:
    """Replays validation accuracies; one step of plain gradient descent stands for a training."""

    def __init__(self, model: PromptedModel, accuracies: list[float]) -> None:
        self.model, self.accuracies, self.trainings = model, accuracies, 0
        self.starts: list[dict[str, Tensor]] = []

    def train(self, name: str = "train") -> None:
        self.starts.append(self.model.snapshot())
        loss = self.model(X).square().mean()
        tensors = [tensor for _, tensor in self.model.trainable()]
        with torch.no_grad():
            for tensor, gradient in zip(tensors, torch.autograd.grad(loss, tensors)):
                tensor -= 0.1 * gradient
        self.trainings += 1

    def validate(self) -> float:
        return self.accuracies.pop(0)

    def training_batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        yield X[:2], torch.tensor([0, 1])
        yield X[2:], torch.tensor([2])

    def logits(self, images: Tensor) -> Tensor:
        return self.model.eval()(images)

    def loss(self, images: Tensor, targets: Tensor) -> Tensor:
        return self.model.task.loss(self.logits(images), targets)

    def snapshot(self) -> dict[str, Tensor]:
        return self.model.snapshot()

    def restore(self, snapshot: dict[str, Tensor]) -> None:
        self.model.restore(snapshot)

    def reinitialise(self) -> None:
        self.model.reinitialise()


def test_phases_rewind_to_the_initial_values_and_keep_the_best() -> None:
    model = tiny()
    initial = model.snapshot()
    session = FakeSession(model, [50.0, 60.0, 55.0])
    model.method.phases(session)
    assert session.trainings == 3
    for start in session.starts:
        assert torch.equal(start["own.prompts"], initial["own.prompts"])
        assert torch.equal(start["head.weight"], initial["head.weight"])
    assert int((model.own.token_mask == 0).sum()) == 2, "the second of three had the best accuracy"
    assert int((model.own.segment_mask == 0).sum()) == 3 * 10


def test_ties_prune_more_tokens_and_fresh_rewinding_draws_anew() -> None:
    model = tiny(rewind="fresh")
    session = FakeSession(model, [50.0, 50.0, 50.0])
    model.method.phases(session)
    assert int((model.own.token_mask == 0).sum()) == 5
    assert not torch.equal(session.starts[0]["own.prompts"], session.starts[1]["own.prompts"])


def test_importance_is_the_mean_gradient_of_the_masks() -> None:
    signed, absolute = tiny(importance="signed"), tiny(importance="absolute")
    session = FakeSession(signed, [])
    token_scores, segment_scores = signed.method.importance(session)  # type: ignore[attr-defined]
    gradients = []
    for x, y in session.training_batches():
        signed.own.segment_mask.requires_grad_(True)
        loss = torch.nn.functional.cross_entropy(signed(x), y)
        gradients.append(torch.autograd.grad(loss, signed.own.segment_mask)[0])
    torch.testing.assert_close(segment_scores, (gradients[0] + gradients[1]) / 2)
    _, positive = absolute.method.importance(FakeSession(absolute, []))  # type: ignore[attr-defined]
    torch.testing.assert_close(positive, (gradients[0].abs() + gradients[1].abs()) / 2)
    assert token_scores.shape == (1, 10)


def test_segments_must_divide_the_width() -> None:
    with pytest.raises(UsageError, match=r"e2vpt.segments=7 does not divide the token width 48"):
        tiny(segments=7)
