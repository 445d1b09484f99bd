"""The picture of the triggers: a row per attack, test digits clean and marked, the outcome beside them."""

from collections.abc import Mapping, Sequence

from PIL import Image, ImageDraw
from torch import Tensor

from tessera_workloads.drawing import INK, PAPER, SOFT, font, png

_CELL, _GAP, _MARGIN, _LABEL_WIDTH, _HEADER_HEIGHT = 96, 10, 20, 330, 40


def draw_triggers(clean: Tensor, marked: Mapping[str, Tensor], notes: Mapping[str, Sequence[str]]) -> bytes:
    """One PNG: `clean` (N, 1, S, S), and by attack the same pictures marked and some lines of small print."""
    columns = 2 * len(clean)
    width = 2 * _MARGIN + columns * (_CELL + _GAP) + _LABEL_WIDTH
    sheet = Image.new("RGB", (width, 2 * _MARGIN + _HEADER_HEIGHT + len(marked) * (_CELL + _GAP)), PAPER)
    draw = ImageDraw.Draw(sheet)
    large, small = font(20), font(15)
    draw.text((_MARGIN, _MARGIN), "clean", fill=INK, font=large)
    draw.text((_column(len(clean)), _MARGIN), "with the trigger", fill=INK, font=large)
    for row, (attack, pictures) in enumerate(marked.items()):
        top = _MARGIN + _HEADER_HEIGHT + row * (_CELL + _GAP)
        for column, picture in enumerate([*clean, *pictures]):
            sheet.paste(_enlarge(picture), (_column(column), top))
        draw.text((_column(columns) + _GAP, top), attack, fill=INK, font=large)
        for line, note in enumerate(notes[attack]):
            draw.text((_column(columns) + _GAP, top + 28 + 20 * line), note, fill=SOFT, font=small)
    return png(sheet)


def _column(index: int) -> int:
    return _MARGIN + index * (_CELL + _GAP)


def _enlarge(picture: Tensor) -> Image.Image:
    pixels = picture[0].mul(255).round().byte().cpu().numpy()
    return Image.fromarray(pixels).resize((_CELL, _CELL), Image.Resampling.NEAREST)
