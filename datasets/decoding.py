"""Pictures from files of anybody, in any format Pillow reads by itself."""

import io
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from utils.errors import UserError


@cache
def _formats() -> tuple[str, ...]:
    """What Pillow reads by itself; EPS would be handed to Ghostscript, an interpreter of programs."""
    Image.init()
    return tuple(name for name in Image.OPEN if name != "EPS")


def read_rgb(path: str | Path, content: bytes | None = None, size: tuple[int, int] | None = None) -> Image.Image:
    """A picture in 8-bit RGB, turned as its camera was held.

    content: the file's, where it was read already. size: width and height that it must say it has, before anything is decoded.
    Raises UserError for a file that is none, or of another size.
    """
    try:
        with Image.open(path if content is None else io.BytesIO(content), formats=_formats()) as image:
            if size is not None and image.size != size:
                raise ValueError(f"is {image.width}x{image.height}, should be {size[0]}x{size[1]}")
            image = ImageOps.exif_transpose(image)
            if image.mode == "F":
                raise ValueError("floating-point pictures have no defined range")
            if image.mode.startswith("I"):  # 16 bits, which convert() would clip to 8
                values = np.asarray(image).astype(np.int64)
                if values.min() < 0 or values.max() >= 1 << 16:
                    raise ValueError("values outside 16 bits")
                image = Image.fromarray((values >> 8).astype(np.uint8))
            return image.convert("RGB")
    except Exception as error:  # decoders of damaged pictures fail in many ways
        raise UserError(f"{path}: not a picture that can be read ({error}); mend or remove it") from None
