"""A small image in the middle of the network's input, and a prompt around it: ILM-VP, AutoVP."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vpbench.interface import BackboneShape, F, torch

if TYPE_CHECKING:
    from torch import Tensor


def of_channel(values: tuple[float, ...], like: Tensor) -> Tensor:
    """One value per channel, to compute with images (B, C, S, S)."""
    return torch.tensor(values, dtype=like.dtype, device=like.device).view(-1, 1, 1)


def to_pixels(images: Tensor, shape: BackboneShape) -> Tensor:
    """Normalised images with values as pixels have them, 0 to 1."""
    return images * of_channel(shape.std, images) + of_channel(shape.mean, images)


def normalised(pixels: Tensor, shape: BackboneShape) -> Tensor:
    """Pixels from 0 to 1, normalised as the backbone expects them."""
    return (pixels - of_channel(shape.mean, pixels)) / of_channel(shape.std, pixels)


def placed(images: Tensor, side: int, value: float = 0.0) -> Tensor:
    """Images (B, C, S, S) shrunk to ``side`` pixels and placed in the middle, ``value`` around them; an odd pixel is on the
    left and on top."""
    size = images.shape[-1]
    if side != size:
        images = F.interpolate(images, size=(side, side), mode="bilinear", antialias=True)
    before, behind = (size - side + 1) // 2, (size - side) // 2
    return F.pad(images, (before, behind, before, behind), value=value)


def scaled(images: Tensor, scale: Tensor) -> Tensor:
    """Images (B, C, S, S) scaled around their centre, bilinear, 0 from outside; with gradient for the scale.

    The same as ``affine_grid`` and ``grid_sample`` with aligned corners, one axis after the other.
    """
    size = images.shape[-1]
    centre = (size - 1) / 2
    places = (torch.arange(size, device=images.device) - centre) / scale + centre
    return _interpolated(_interpolated(images, places, 2), places, 3)


def _interpolated(images: Tensor, places: Tensor, dim: int) -> Tensor:
    """Values at fractional places of an axis."""
    size = images.shape[dim]
    shape = [1] * images.ndim
    shape[dim] = size

    def at(index: Tensor) -> Tensor:
        inside = ((index >= 0) & (index < size)).to(images.dtype)
        return images.index_select(dim, index.clamp(0, size - 1).long()) * inside.view(shape)

    low = places.detach().floor()
    weight = (places - low).view(shape)
    return at(low) * (1 - weight) + at(low + 1) * weight


def outside(size: int, side: Tensor) -> Tensor:
    """1 outside of a square of ``side`` pixels in the middle and 0 inside, (size, size)."""
    place = torch.arange(size, device=side.device)
    inside = (place >= torch.floor((size - side) / 2)) & (place < torch.floor((size + side) / 2))
    return 1.0 - (inside[:, None] & inside[None]).to(torch.float32)
