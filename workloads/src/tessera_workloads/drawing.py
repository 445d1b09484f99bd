"""What the pictures of all workloads have in common: their colours, their type face and their format."""

from io import BytesIO

from PIL import Image, ImageFont

PAPER, INK = (250, 250, 248), (28, 30, 34)
SOFT = (105, 110, 118)
"""For small print."""
FAINT = (205, 208, 212)
"""For lines behind the data."""


def font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Pillow's own type face, `size` pixels high."""
    return ImageFont.load_default(size=size)


def png(image: Image.Image, *, compress_type: int = -1) -> bytes:
    """The picture as a PNG file; `compress_type` is zlib's strategy, by default what Pillow chooses."""
    buffer = BytesIO()
    image.save(buffer, format="PNG", compress_type=compress_type)
    return buffer.getvalue()
