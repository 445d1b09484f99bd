"""The before/after picture: one row per photo; dark, NoiSER and truth side by side, with the numbers beside
them.
"""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from tessera_workloads.drawing import INK, PAPER, SOFT, font, png
from tessera_workloads.errors import InvalidRequest
from tessera_workloads.noiser.data import Picture, to_bytes

COLUMNS = ("dark input", "NoiSER", "truth")
_CELL_WIDTH, _CELL_HEIGHT = 300, 200
_LABEL_WIDTH, _HEADER_HEIGHT, _GAP, _MARGIN = 210, 44, 10, 20


@dataclass(frozen=True)
class Row:
    """One photo: its title, lines of small print, and a picture per column."""

    title: str
    notes: Sequence[str]
    pictures: Sequence[Picture]


def read_picture(path: Path) -> Picture:
    """A picture file of any usual format, as colours in [0, 1].

    Raises:
        InvalidRequest: when it is none, or so large that it is more likely an attack.
    """
    try:
        with Image.open(path) as image:
            return np.asarray(image.convert("RGB"), dtype=np.float32) / np.float32(255)
    except (OSError, Image.DecompressionBombError) as error:
        raise InvalidRequest(f"{path} cannot be read as a picture: {error}") from error


def encode_png(picture: Picture) -> bytes:
    """A picture in [0, 1] as PNG."""
    return _png(Image.fromarray(to_bytes(picture)))


def draw_grid(rows: Sequence[Row], *, caption: str) -> bytes:
    """All rows as one labelled PNG."""
    width = 2 * _MARGIN + _LABEL_WIDTH + len(COLUMNS) * (_CELL_WIDTH + _GAP)
    height = 2 * _MARGIN + _HEADER_HEIGHT + len(rows) * (_CELL_HEIGHT + _GAP) + 24
    sheet = Image.new("RGB", (width, height), PAPER)
    draw = ImageDraw.Draw(sheet)
    large, medium, small = (font(size) for size in (22, 19, 15))
    for column, title in enumerate(COLUMNS):
        draw.text(
            (_column_x(column) + _CELL_WIDTH // 2, _MARGIN + 12), title, fill=INK, font=large, anchor="mm"
        )
    for index, row in enumerate(rows):
        top = _MARGIN + _HEADER_HEIGHT + index * (_CELL_HEIGHT + _GAP)
        draw.text((_MARGIN, top + 4), row.title, fill=INK, font=medium)
        for line, note in enumerate(row.notes):
            draw.text((_MARGIN, top + 36 + 22 * line), note, fill=SOFT, font=small)
        for column, picture in enumerate(row.pictures):
            cell = Image.fromarray(to_bytes(picture))
            cell.thumbnail((_CELL_WIDTH, _CELL_HEIGHT), Image.Resampling.LANCZOS)
            sheet.paste(cell, (_column_x(column) + (_CELL_WIDTH - cell.width) // 2, top))
    draw.text((_MARGIN, height - _MARGIN - 14), caption, fill=SOFT, font=small)
    return _png(sheet)


def _column_x(column: int) -> int:
    return _MARGIN + _LABEL_WIDTH + column * (_CELL_WIDTH + _GAP)


def _png(image: Image.Image) -> bytes:
    # Noise has no longer repetitions: zlib's search for them costs four times as much and saves nothing.
    return png(image, compress_type=zlib.Z_RLE)
