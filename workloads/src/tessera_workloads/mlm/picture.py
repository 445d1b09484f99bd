"""The picture of the contradictions: a point per probe, on the diagonal where two numbers agree.

A row per form of the model. On the left its joint against its conditional: what is off the diagonal it
contradicts itself in. On the right the average of both against the truth.
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from tessera_workloads.drawing import FAINT, INK, PAPER, font, png
from tessera_workloads.mlm.consistency import Columns

_SIDE, _GAP, _MARGIN, _HEADER = 300, 60, 30, 30
_WRONG = (196, 60, 40)
_FARTHEST = 8.0
"""Log-odds at the edge of a panel, in nats; points beyond it are drawn on it."""


def draw_contradictions(forms: Mapping[str, Columns]) -> bytes:
    """One PNG; pairs with opposite signs are red."""
    size = (2 * (_MARGIN + _SIDE) + _GAP, 2 * _MARGIN + len(forms) * (_HEADER + _SIDE + _GAP) - _GAP)
    sheet = Image.new("RGB", size, PAPER)
    draw = ImageDraw.Draw(sheet)
    text = font(15)
    for row, (form, columns) in enumerate(forms.items()):
        top = _MARGIN + row * (_HEADER + _SIDE + _GAP)
        average = (columns["joint"] + columns["conditional"]) / 2
        panels = (
            (f"{form}: conditional over joint", columns["joint"], columns["conditional"]),
            (f"{form}: their average over the truth", columns["truth"], average),
        )
        for column, (title, across, upward) in enumerate(panels):
            left = _MARGIN + column * (_SIDE + _GAP)
            draw.text((left, top), title, fill=INK, font=text)
            _draw_panel(draw, left, top + _HEADER, across, upward)
    draw.text(
        (_MARGIN, size[1] - _MARGIN + 6),
        f"log-odds from -{_FARTHEST:g} to {_FARTHEST:g} nats",
        fill=INK,
        font=text,
    )
    return png(sheet)


def _draw_panel(
    draw: ImageDraw.ImageDraw, left: int, top: int, across: NDArray[np.float64], upward: NDArray[np.float64]
) -> None:
    middle, right, bottom = _SIDE // 2, left + _SIDE, top + _SIDE
    draw.rectangle((left, top, right, bottom), outline=FAINT)
    for line in (
        (left + middle, top, left + middle, bottom),
        (left, top + middle, right, top + middle),
        (left, bottom, right, top),
    ):
        draw.line(line, fill=FAINT)
    shares = np.clip(np.stack([across, upward]) / _FARTHEST, -1, 1)
    for x, y in np.rint(middle + middle * shares).astype(int).T:
        place = (left + int(x), bottom - int(y))
        wrong = (x - middle) * (y - middle) < 0
        draw.rectangle((*place, place[0] + 1, place[1] + 1), fill=_WRONG if wrong else INK)
