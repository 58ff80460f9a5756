"""Geometry of QR codes: which modules carry data, what the others hold. Embedding and extraction both stand on this.

A code is a bool matrix [size, size], True = dark = 1 (or light, where its format says so, but for the function patterns). Its
*data modules* are those left after taking out finder patterns with separators, timing and alignment patterns, format and version information and the dark module
(ISO/IEC 18004). Only data modules are written into a mask (paper, section 3.3.2: "without finder, alignment, and
version patterns"); the rest follows from the standard.
"""

from dataclasses import dataclass

import numpy as np
import qrcode
from qrcode import base, constants, util

ERROR_CORRECTION = {
    "L": constants.ERROR_CORRECT_L,
    "M": constants.ERROR_CORRECT_M,
    "Q": constants.ERROR_CORRECT_Q,
    "H": constants.ERROR_CORRECT_H,
}
MASK_PATTERNS = range(8)
VERSIONS = range(1, 41)


@dataclass(frozen=True)
class CodeFormat:
    """What must be known of a code to lay it out.

    version: 1 to 40; error_correction: a key of ERROR_CORRECTION; mask_pattern: 0 to 7, the standard's checkerboards
    that are XORed onto the data. light: whether ones stand for light modules instead of dark ones, as in the original's files.
    """

    version: int
    error_correction: str = "H"
    mask_pattern: int = 0
    light: bool = False

    @property
    def size(self) -> int:
        """Modules along one side."""
        return code_size(self.version)


def code_size(version: int) -> int:
    """Modules along one side of a code of `version`."""
    return 17 + 4 * version


def capacity(version: int, error_correction: str) -> int:
    """Bytes of text a code holds in byte mode."""
    blocks = base.rs_blocks(version, ERROR_CORRECTION[error_correction])
    header = 4 + util.length_in_bits(util.MODE_8BIT_BYTE, version)
    return (8 * sum(block.data_count for block in blocks) - header) // 8


class _FunctionPatterns(qrcode.QRCode):
    """The library's code, stopped before data is laid in: what is left undecided are the data modules."""

    def map_data(self, data, mask_pattern):
        pass


def function_patterns(code_format: CodeFormat) -> tuple[np.ndarray, np.ndarray]:
    """What the standard fixes.

    Returns:
        fixed: bool [size, size], the values of all modules that carry no data (False at the data modules).
        is_data: bool [size, size], True at the data modules.
    """
    blank = _FunctionPatterns(code_format.version, ERROR_CORRECTION[code_format.error_correction])
    blank.data_cache = []
    blank.makeImpl(False, code_format.mask_pattern)
    is_data = np.array([[module is None for module in row] for row in blank.modules])
    fixed = np.array([[bool(module) for module in row] for row in blank.modules])
    return fixed, is_data


def data_modules(version: int) -> np.ndarray:
    """bool [size, size], True at the data modules; the same for every error correction and mask pattern."""
    return function_patterns(CodeFormat(version))[1]


def encode(signature: str, code_format: CodeFormat) -> np.ndarray:
    """The code of a signature: bool [size, size], `encode(s)` of the paper's Algorithm 2.

    The text is laid down as UTF-8 in byte mode, whatever its letters, so the layout depends on its length alone.
    Raises ValueError if it does not fit (see `capacity`).
    """
    return encode_bytes(signature.encode("utf-8"), code_format)


def encode_bytes(content: bytes, code_format: CodeFormat) -> np.ndarray:
    """`encode` of any bytes, whether or not they are a text."""
    if not 0 < len(content) <= capacity(code_format.version, code_format.error_correction):
        raise ValueError(f"{len(content)} bytes do not fit a version {code_format.version} code")
    code = qrcode.QRCode(code_format.version, ERROR_CORRECTION[code_format.error_correction])
    code.add_data(util.QRData(content, mode=util.MODE_8BIT_BYTE, check_data=False), optimize=0)
    code.makeImpl(False, code_format.mask_pattern)
    modules = np.array(code.modules, dtype=bool)
    return modules ^ data_modules(code_format.version) if code_format.light else modules


def restore_patterns(modules: np.ndarray, code_format: CodeFormat) -> np.ndarray:
    """A readable code from what a mask holds: data modules are kept, or turned where the format's ones are light, all others set
    as the standard says.

    Args:
        modules: bool [size, size]; values outside the data modules are not looked at.
    """
    fixed, is_data = function_patterns(code_format)
    return np.where(is_data, modules ^ code_format.light, fixed)
