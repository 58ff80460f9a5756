"""Pictures from files of anybody, in any format Pillow reads by itself."""

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


def read_rgb(path: str | Path) -> Image.Image:
    """A picture in 8-bit RGB, turned as its camera was held. Raises UserError for a file that is none."""
    try:
        with Image.open(path, formats=_formats()) as image:
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
