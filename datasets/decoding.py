"""Pictures from files of anybody, in any format Pillow reads by itself."""

import io
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from utils.errors import UserError

DEPTHS = (1, 2, 4, 8, 10, 12, 14, 16)  # bits that cameras, scanners and programs use of those there are
DEEP_COLOUR = "16-bit colours"  # of these Pillow gives the upper halves alone
DARK = 63  # of 255; upper halves that are all below are of values of 14 bits or fewer


@cache
def formats() -> tuple[str, ...]:
    """What Pillow reads by itself; EPS would be handed to Ghostscript, an interpreter of programs."""
    Image.init()
    return tuple(name for name in Image.OPEN if name != "EPS")


def is_picture(path: str | Path) -> bool:
    """Whether a file says that it is a picture, by the end of its name or by its first bytes; it may be damaged."""
    if Image.registered_extensions().get(Path(path).suffix.lower()) in formats():
        return True
    try:
        with Image.open(path, formats=formats()):
            return True
    except Exception:
        return False


def deepest(path: str | Path) -> tuple[str, int] | None:
    """How a picture with more than 8 bits holds its values (Pillow's mode of 16-bit or 32-bit grey, or DEEP_COLOUR), and the
    largest. None for one with 8. Raises UserError for a file that is none, and values that have no brightness."""
    try:
        with Image.open(path, formats=formats()) as image:
            kind = _kind(image)
            return kind and (kind, _largest(image))
    except Exception as error:
        raise _unreadable(path, error) from None


def _kind(image: Image.Image) -> str | None:
    if image.mode[0] in "IF":
        return image.mode[:4]
    raw = [part for tile in image.tile for part in (tile[3] if isinstance(tile[3], tuple) else (tile[3],))]
    return DEEP_COLOUR if any(isinstance(part, str) and ";16" in part for part in raw) else None


def _largest(image: Image.Image) -> int:
    if image.mode == "F":
        raise ValueError("floating-point pictures have no defined range")
    values = np.asarray(image if image.mode[0] == "I" else image.convert("RGB"))
    if values.min() < 0 or values.max() >= 1 << DEPTHS[-1]:
        raise ValueError("values outside 16 bits")
    return int(values.max())


def white_of(pictures: Iterable[tuple[str, int]]) -> dict[str, int]:
    """The value that is white, by kind, in all pictures of a data set with more than 8 bits: the largest of the fewest bits, out of
    DEPTHS, that hold them all.

    Args:
        pictures: kind and largest value of each, see `deepest`.
    Raises:
        ValueError: pictures in colour would be read as all but black.
    """
    largest: dict[str, int] = {}
    for kind, value in pictures:
        largest[kind] = max(value, largest.get(kind, 0))
    if largest.get(DEEP_COLOUR, 255) <= DARK:
        raise ValueError("16-bit pictures in colour use at most 14 of their bits, and would be read as all but black; save them with "
                         "8 bits per colour")
    return {kind: next((1 << bits) - 1 for bits in DEPTHS if value < 1 << bits) for kind, value in largest.items()}


def read_rgb(path: str | Path, content: bytes | None = None, size: tuple[int, int] | None = None,
             white: Mapping[str, int] | None = None) -> Image.Image:
    """A picture in 8-bit RGB, turned as its camera was held.

    Args:
        content: the file's, where it was read already.
        size: width and height that it must say it has, before anything is decoded.
        white: see `white_of`; without, a picture with more than 8 bits must show by itself that it uses all 16.
    Raises:
        UserError: a file that is no picture, or of another size; values below 0; more than 8 bits, and nothing says how many of them are used.
    """
    try:
        with Image.open(path if content is None else io.BytesIO(content), formats=formats()) as image:
            if size is not None and image.size != size:
                raise ValueError(f"is {image.width}x{image.height}, should be {size[0]}x{size[1]}")
            kind = _kind(image)
            if kind and white is None:
                white = white_of([(kind, _largest(image))])
                if kind != DEEP_COLOUR and white[kind] != 0xffff:
                    raise ValueError("it has more than 8 bits per value, and nothing says how many of them are used")
            image = ImageOps.exif_transpose(image)
            if kind and kind != DEEP_COLOUR:
                values, top = np.asarray(image).astype(np.int64), white[kind]
                image = Image.fromarray((values * 256 // (top + 1) if top >= 255 else values * 255 // top).astype(np.uint8))
            return image.convert("RGB")
    except Exception as error:  # decoders of damaged pictures fail in many ways
        raise _unreadable(path, error) from None


def _unreadable(path: str | Path, error: Exception) -> UserError:
    return UserError(f"{path}: not a picture that can be read ({error}); mend or remove it")
