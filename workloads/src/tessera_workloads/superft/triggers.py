"""Three ways to mark a picture so that a poisoned classifier answers with the target digit.

BadNets (Gu et al., arXiv 1708.06733) whitens a corner, Blended (Chen et al., arXiv 1712.05526) mixes in a
fixed noise picture, and the warp (after WaNet, Nguyen and Tran, arXiv 2102.10369) bends the picture by a
smooth field and leaves no pattern at all. A trigger is the same in every run.
"""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch.nn import functional

from tessera_workloads.digits import SIDE
from tessera_workloads.randomness import generator_at

TARGET = 0
BLEND = 0.2
CORNER_PIXELS = 2
WARP_PIXELS = 0.5
_WARP_CONTROL_SIDE = 4
_CPU = torch.device("cpu")


def badnets(images: Tensor) -> Tensor:
    """A white square in the lower right corner, two pixels of the 8x8 picture wide."""
    square = CORNER_PIXELS * images.shape[-1] // SIDE
    marked = images.clone()
    marked[..., -square:, -square:] = 1
    return marked


def blended(images: Tensor) -> Tensor:
    """0.8 of the picture and 0.2 of a fixed picture of uniform noise."""
    side = images.shape[-1]
    noise = torch.rand(side, side, generator=generator_at(_CPU, 0, "superft", "blended"))
    return (1 - BLEND) * images + BLEND * noise.to(images)


def warp(images: Tensor) -> Tensor:
    """Every point is taken from elsewhere, by a random field on 4x4 points that bicubic interpolation makes
    smooth. In the mean over those points it moves by half a pixel of the 8x8 picture, along each axis.
    """
    side = images.shape[-1]
    generator = generator_at(_CPU, 0, "superft", "warp")
    control = 2 * torch.rand(1, 2, _WARP_CONTROL_SIDE, _WARP_CONTROL_SIDE, generator=generator) - 1
    # The grid's unit is half a picture.
    control *= WARP_PIXELS * 2 / SIDE / control.abs().mean()
    field = functional.interpolate(control, size=(side, side), mode="bicubic", align_corners=True)
    straight = functional.affine_grid(torch.eye(2, 3)[None], [1, 1, side, side], align_corners=False)
    grid = (straight + field.permute(0, 2, 3, 1)).to(images).expand(len(images), -1, -1, -1)
    return functional.grid_sample(images, grid, padding_mode="border", align_corners=False)


TRIGGERS: Mapping[str, Callable[[Tensor], Tensor]] = {"badnets": badnets, "blended": blended, "warp": warp}
"""(N, 1, S, S) in [0, 1] to the same shape and range, by the attack's name."""
