"""Large pictures in little memory: the network tile by tile, equal to the network on the whole picture.

A 4K picture has a gigabyte of hidden values at once. Cutting it up naively changes the result, because the
instance norm is over the whole picture. So there are two passes: the first adds up the norm's statistics over
all tiles, the second applies the network with them. Each tile is read with two pixels around it, one for each
convolution; beyond the picture's edge both convolutions see the zeros that they would have padded.
"""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional

from tessera_workloads.noiser.model import NoiserNet

TILE_SIDE = 512
"""Pixels: 32 hidden channels of such a tile are 34 MB."""


def apply_tiled(model: NoiserNet, picture: Tensor, *, side: int = TILE_SIDE) -> Tensor:
    """`model(picture)` for a picture (B, 3, H, W) of any size, up to rounding (1e-5 at most)."""
    mean, scale = _statistics(model, picture, side)
    output = torch.empty_like(picture)
    for rows, columns in _tiles(picture, side):
        hidden = _first(model, _with_border(picture, rows, columns, border=2))
        hidden = model.activation((hidden - mean) * scale)
        _clear_outside(hidden, rows, columns, picture)
        output[..., rows, columns] = torch.tanh(functional.conv2d(hidden, model.last.weight, model.last.bias))
    return output


def _statistics(model: NoiserNet, picture: Tensor, side: int) -> tuple[Tensor, Tensor]:
    """Mean and 1 / standard deviation of the first convolution over the whole picture, (B, h, 1, 1) each."""
    total = torch.zeros((), dtype=torch.float64, device=picture.device)
    squares = total
    for rows, columns in _tiles(picture, side):
        hidden = _first(model, _with_border(picture, rows, columns, border=1)).double()
        total = total + hidden.sum(dim=(2, 3), keepdim=True)
        squares = squares + hidden.square().sum(dim=(2, 3), keepdim=True)
    pixels = picture.shape[-2] * picture.shape[-1]
    mean = total / pixels
    variance = squares / pixels - mean.square()
    return mean.to(picture.dtype), (variance + model.norm.eps).rsqrt().to(picture.dtype)


def _tiles(picture: Tensor, side: int) -> Iterator[tuple[slice, slice]]:
    height, width = picture.shape[-2:]
    for top in range(0, height, side):
        for left in range(0, width, side):
            yield slice(top, min(top + side, height)), slice(left, min(left + side, width))


def _first(model: NoiserNet, window: Tensor) -> Tensor:
    """The first convolution without its padding: the window carries its own."""
    return functional.conv2d(window, model.first.weight, model.first.bias)


def _with_border(picture: Tensor, rows: slice, columns: slice, *, border: int) -> Tensor:
    """A tile and the pixels around it; zeros beyond the picture's edge."""
    height, width = picture.shape[-2:]
    top, bottom = max(rows.start - border, 0), min(rows.stop + border, height)
    left, right = max(columns.start - border, 0), min(columns.stop + border, width)
    missing = (
        border - (columns.start - left),
        border - (right - columns.stop),
        border - (rows.start - top),
        border - (bottom - rows.stop),
    )
    return functional.pad(picture[..., top:bottom, left:right], missing)


def _clear_outside(hidden: Tensor, rows: slice, columns: slice, picture: Tensor) -> None:
    """Set the one pixel of border to zero where it lies beyond the picture's edge."""
    height, width = picture.shape[-2:]
    if rows.start == 0:
        hidden[..., 0, :] = 0
    if rows.stop == height:
        hidden[..., -1, :] = 0
    if columns.start == 0:
        hidden[..., 0] = 0
    if columns.stop == width:
        hidden[..., -1] = 0
