"""Cost against accuracy: every trained network as a point, the undominated ones joined by a line."""

from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

from tessera_workloads.drawing import FAINT, INK, PAPER, font, png
from tessera_workloads.nasa.evaluation import Scored, pareto_front

_WIDTH, _HEIGHT = 900, 600
_LEFT, _RIGHT, _TOP, _BOTTOM = 80, 30, 50, 70
_DOT = 6
RANDOM = "random, of equal cost"
_COLOURS = {
    "found by search": (20, 110, 190),
    RANDOM: (150, 150, 150),
    "one operation everywhere": (200, 90, 30),
}


def kind_of(name: str) -> str:
    """The legend's entry for a network."""
    if name.startswith("random"):
        return RANDOM
    return "one operation everywhere" if name.startswith("all_") else "found by search"


Box = tuple[float, float, float, float]
"""Left, top, right, bottom, in pixels."""


def _around(at: tuple[float, float]) -> Box:
    """The dot of a network."""
    return at[0] - _DOT, at[1] - _DOT, at[0] + _DOT, at[1] + _DOT


def _write_beside(
    draw: ImageDraw.ImageDraw,
    at: tuple[float, float],
    name: str,
    small: ImageFont.FreeTypeFont | ImageFont.ImageFont,
    taken: Sequence[Box],
) -> Box:
    """Write a name beside its dot, where it covers nothing and nothing is cut off if that can be."""
    across, down = at
    places = [
        ((across + side * 10, down + above * 10), "lm" if side > 0 else "rm")
        for above in (-1, 1, -2, 2)
        for side in (1, -1)
    ]
    boxes = [draw.textbbox(end, name, font=small, anchor=anchor) for end, anchor in places]
    free = (
        index
        for index, (left, top, right, bottom) in enumerate(boxes)
        if right < _WIDTH - 4
        and left > _LEFT
        and not any(
            left < others_right and others_left < right and top < others_bottom and others_top < bottom
            for others_left, others_top, others_right, others_bottom in taken
        )
    )
    chosen = next(free, 0)
    end, anchor = places[chosen]
    draw.text(end, name, fill=INK, font=small, anchor=anchor)
    return boxes[chosen]


def draw_pareto(scored: Sequence[Scored]) -> bytes:
    """A PNG: relative cost from 0 to 1 to the right, accuracy in per cent upwards."""
    sheet = Image.new("RGB", (_WIDTH, _HEIGHT), PAPER)
    draw = ImageDraw.Draw(sheet)
    text, small = font(17), font(14)
    lowest = min(one.accuracy for one in scored)
    floor = min(int(lowest * 20) / 20, 0.95)
    ceiling = 1.0
    right = max(1.0, *(one.cost for one in scored))

    def place(cost: float, share: float) -> tuple[float, float]:
        across = _LEFT + cost / right * (_WIDTH - _LEFT - _RIGHT)
        return across, _TOP + (ceiling - share) / (ceiling - floor) * (_HEIGHT - _TOP - _BOTTOM)

    for tick in range(6):
        share = floor + (ceiling - floor) * tick / 5
        draw.line([place(0, share), place(right, share)], fill=FAINT)
        draw.text((_LEFT - 10, place(0, share)[1]), f"{share:.0%}", fill=INK, font=small, anchor="rm")
        cost = right * tick / 5
        draw.text(
            (place(cost, floor)[0], _HEIGHT - _BOTTOM + 14), f"{cost:.1f}", fill=INK, font=small, anchor="mm"
        )
    draw.text(
        (_WIDTH / 2, _HEIGHT - 22),
        "energy of the cells, all-convolution = 1",
        fill=INK,
        font=text,
        anchor="mm",
    )
    draw.text((16, 24), "test accuracy, mean of the trainings", fill=INK, font=text, anchor="lm")
    front = [place(one.cost, one.accuracy) for one in pareto_front(list(scored))]
    draw.line(front, fill=INK, width=2)
    names: dict[tuple[float, float], str] = {}
    for one in scored:
        across, down = place(one.cost, one.accuracy)
        kind = kind_of(one.name)
        draw.ellipse(_around((across, down)), fill=_COLOURS[kind])
        if kind != RANDOM:
            name = one.name.replace("_", " ")
            names[across, down] = f"{names[across, down]}, {name}" if (across, down) in names else name
    taken = [_around(place(one.cost, one.accuracy)) for one in scored]
    for at, text_beside in names.items():
        taken.append(_write_beside(draw, at, text_beside, small, taken))
    for index, (entry, colour) in enumerate(_COLOURS.items()):
        down = _HEIGHT - _BOTTOM - 70 + 22 * index
        draw.ellipse([_WIDTH - 240, down - 6, _WIDTH - 228, down + 6], fill=colour)
        draw.text((_WIDTH - 220, down), entry, fill=INK, font=small, anchor="lm")
    return png(sheet)
