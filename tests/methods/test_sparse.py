"""Single entries of frozen weights: updates of a few and gradients of all, against whole matrices and autograd."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from vpbench.methods._sparse import SiteGradients, dense, mixed_batches, patches_of, sparse_linear


@pytest.mark.parametrize("with_rows", [False, True])
def test_an_update_is_a_matrix_with_few_entries(with_rows: bool) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 5, 7, dtype=torch.float64, requires_grad=True)
    if with_rows:  # entries anywhere, some in one row, some in one column
        rows, columns = torch.tensor([0, 0, 3, 8]), torch.tensor([[2, 6, 2, 0]], dtype=torch.int32)
    else:
        rows, columns = None, torch.stack([torch.randperm(7)[:3] for _ in range(9)], 1).int()
    values = torch.randn(columns.shape, dtype=torch.float64, requires_grad=True)
    whole = dense(columns, values, (9, 7), rows)
    assert int((whole != 0).sum()) == values.numel()
    expected = x @ whole.T
    found = sparse_linear(x, columns, values, 9, rows)
    torch.testing.assert_close(found, expected)
    weights = torch.randn_like(found)
    wanted = torch.autograd.grad((expected * weights).sum(), [x, values])
    for one, other in zip(torch.autograd.grad((found * weights).sum(), [x, values]), wanted):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-6)


def test_no_entries_at_all() -> None:
    x, values = torch.randn(2, 7, requires_grad=True), torch.zeros(1, 0, requires_grad=True)
    none = torch.zeros(0, dtype=torch.int64)
    found = sparse_linear(x, none.unsqueeze(0), values, 9, none)
    assert found.shape == (2, 9) and not found.any()


@pytest.mark.parametrize("squared", [False, True])
def test_gradients_of_frozen_layers(squared: bool) -> None:
    """Sums over batches of what autograd gives for parameters that require gradients, or of its squares."""
    torch.manual_seed(0)
    norm, linear = nn.LayerNorm(6), nn.Linear(6, 4)
    nn.init.normal_(norm.weight)
    batches = [torch.randn(3, 5, 6) for _ in range(2)]
    expected: dict[tuple[str, str], Tensor] = {}
    for x in batches:
        loss = linear(norm(x)).pow(3).sum() + linear(norm(2 * x)).sum()
        for key, found in zip(
            [("n", "weight"), ("n", "bias"), ("l", "weight"), ("l", "bias")],
            torch.autograd.grad(loss, [norm.weight, norm.bias, linear.weight, linear.bias]),
        ):
            expected[key] = expected.get(key, torch.zeros(())) + (found**2 if squared else found)
    for each in (*norm.parameters(), *linear.parameters()):
        each.requires_grad_(False)
    gradients = SiteGradients(squared)

    def forward(x: Tensor) -> Tensor:
        h = gradients.watch_norm(("n",), nn.functional.layer_norm(x, (6,)), norm(x))
        return gradients.watch_linear(("l",), h, linear(h))

    for x in batches:
        (forward(x).pow(3).sum() + forward(2 * x).sum()).backward()
        gradients.end_batch()
    assert gradients.sums.keys() == expected.keys()
    for key, found in expected.items():
        torch.testing.assert_close(gradients.sums[key], found, rtol=1e-4, atol=1e-4)


def test_pixels_of_patches_are_in_the_order_of_a_convolution() -> None:
    images, convolution = torch.randn(2, 3, 8, 8), nn.Conv2d(3, 5, 4, 4, bias=False)
    expected = convolution(images).flatten(2).mT
    torch.testing.assert_close(patches_of(images, 4) @ convolution.weight.flatten(1).T, expected, rtol=1e-5, atol=1e-5)


class Sorted:
    """A session whose training images are sorted by class; each image is its own number."""

    def training_batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        numbers = torch.arange(3000.0).view(-1, 1, 1, 1)
        yield from zip(numbers.split(50), torch.arange(3000).div(100, rounding_mode="floor").split(50))


def test_batches_mix_classes_and_have_every_image_once() -> None:
    session: Any = Sorted()
    batches = list(mixed_batches(session))
    images = torch.cat([each for each, _ in batches]).flatten()
    assert sorted(images.tolist()) == list(range(3000))
    assert all(len(labels) == 50 for _, labels in batches)
    assert min(len(labels.unique()) for _, labels in batches) > 4
    assert torch.equal(torch.cat([labels for _, labels in batches]), images.long().div(100, rounding_mode="floor"))
