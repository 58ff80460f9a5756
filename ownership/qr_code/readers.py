"""Independent readers of QR codes: ZXing (always there) and zbar (where the system library libzbar0 is)."""

import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image

from utils.checkpoint import write_atomic

QUIET_ZONE = 4  # modules of white around a code, as the standard asks
PIXELS = 8  # per module


def render(modules: np.ndarray) -> np.ndarray:
    """A picture of a code: uint8 [pixels, pixels], dark modules black, with the quiet zone."""
    picture = np.where(np.pad(modules, QUIET_ZONE), 0, 255).astype(np.uint8)
    return np.kron(picture, np.ones((PIXELS, PIXELS), dtype=np.uint8))


def write_code(modules: np.ndarray, path: str | Path) -> None:
    """Write a code's picture as PNG."""
    write_atomic(path, lambda file: Image.fromarray(render(modules)).save(file, "PNG"))


def read_with_zxing(picture: np.ndarray) -> str | None:
    """The text ZXing reads, None if nothing."""
    import zxingcpp

    found = zxingcpp.read_barcodes(picture, formats=zxingcpp.BarcodeFormat.QRCode, is_pure=True)
    # what ZXing can't read it returns as an invalid barcode, and noise now and then as a Micro QR code
    readable = [code for code in found if code.valid and str(code.format).startswith("QR")]
    return _text(bytes(readable[0].bytes)) if readable else None


def read_with_zbar(picture: np.ndarray) -> str | None:
    """The text zbar reads, None if nothing."""
    from pyzbar import pyzbar

    found = pyzbar.decode(picture, symbols=[pyzbar.ZBarSymbol.QRCODE])
    return _text(found[0].data) if found else None


def _text(content: bytes) -> str:
    return content.decode("utf-8", errors="replace")


@cache
def available_readers() -> dict[str, Callable[[np.ndarray], str | None]]:
    """Name -> reader of what this machine has; says once on stderr if zbar is missing."""
    readers = {"ZXing": read_with_zxing}
    try:
        from pyzbar import pyzbar  # noqa: F401 (loads the system library)
        readers["zbar"] = read_with_zbar
    except ImportError:
        print("zbar is not installed (Debian/Ubuntu: apt-get install libzbar0); ZXing reads alone", file=sys.stderr)
    return readers


def read_all(modules: np.ndarray) -> dict[str, str | None]:
    """What each available reader makes of a code: bool [size, size] with its function patterns in place."""
    picture = render(modules)
    return {name: read(picture) for name, read in available_readers().items()}
