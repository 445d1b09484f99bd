"""The mask picture: what every head looks at on average, above what is left of it.

One column per head and two rows per layer. Attention is drawn by its square root, because most of it is
faint; in the mask, ink is computed and paper is left out. Of a large model only the first heads and layers
are drawn.
"""

from PIL import Image, ImageDraw
from torch import Tensor

from tessera_workloads.drawing import INK, PAPER, font, png

_CELL, _GAP, _MARGIN, _LABEL_WIDTH, _HEADER = 150, 10, 20, 130, 30
_PAPER, _INK = PAPER[0], INK[0]
_MOST_LAYERS, _MOST_HEADS = 4, 6


def draw_masks(attention: Tensor, kept: Tensor) -> bytes:
    """Average attention and kept entries, both (layers, H, N, N), as one labelled PNG."""
    layers, heads = min(len(kept), _MOST_LAYERS), min(kept.shape[1], _MOST_HEADS)
    step = _CELL + _GAP
    size = (2 * _MARGIN + _LABEL_WIDTH + heads * step, 2 * _MARGIN + _HEADER + 2 * layers * step)
    sheet = Image.new("L", size, _PAPER)
    draw = ImageDraw.Draw(sheet)
    text = font(16)
    for head in range(heads):
        left = _MARGIN + _LABEL_WIDTH + head * step
        draw.text((left + _CELL // 2, _MARGIN + 8), f"head {head + 1}", fill=_INK, font=text, anchor="mm")
        for layer in range(layers):
            seen = attention[layer, head]
            for row, values in enumerate(((seen / seen.max()).sqrt(), kept[layer, head].float())):
                top = _MARGIN + _HEADER + (2 * layer + row) * step
                sheet.paste(_map(values), (left, top))
                if head == 0:
                    label = f"layer {layer + 1}\n" + ("attention", "computed")[row]
                    draw.text((_MARGIN, top + 4), label, fill=_INK, font=text)
    return png(sheet)


def _map(values: Tensor) -> Image.Image:
    """Numbers in [0, 1] from paper to ink, a query per line."""
    shades = (_PAPER + (_INK - _PAPER) * values).round().byte().cpu().numpy()
    return Image.fromarray(shades).resize((_CELL, _CELL), Image.Resampling.BOX)
