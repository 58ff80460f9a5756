"""A QR code as what it is to a decoder: an affine linear code over GF(2).

With the text's length known, mode, length field, terminator and padding are known too, and every data module is the XOR
of a fixed bit and of some bits of the text: modules = offset XOR generator * text. Reed-Solomon decoders ignore most of
that; `pruner.qr_code.ordered_statistics` uses it.
"""

from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
import qrcode
from qrcode import base, util

from pruner.qr_code import geometry as qr_code
from pruner.qr_code.geometry import CodeFormat


@dataclass(frozen=True, eq=False)  # by identity: arrays can't be compared in one go
class LinearCode:
    """All codes of one format and text length.

    offset: bool [modules], the data modules, row by row, of the text of zero bits. generator: bool [modules, 8 * length],
    which bits of the text, byte by byte from the highest bit, each module changes with.
    """

    offset: np.ndarray
    generator: np.ndarray

    @property
    def length(self) -> int:
        """Bytes of text."""
        return self.generator.shape[1] // 8

    @cached_property
    def depends_on_text(self) -> np.ndarray:
        """bool [modules]: False where a module is the same for all texts of this length.

        In a version 3-H code of at most 11 bytes these are more than half: the second Reed-Solomon block holds nothing
        but padding.
        """
        return self.generator.any(1)

    @cached_property
    def mixes_text(self) -> np.ndarray:
        """bool [modules]: True where a module is a sum of several bits of the text, as parity is.

        The text's own bits are alike in most texts (small letters all begin with 011); their sums are as good as random.
        """
        return self.generator.sum(1) > 1

    @cached_property
    def parts(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """The code as codes that share no module, (modules, bits) each: its Reed-Solomon blocks that hold text."""
        parts, left = [], np.ones(self.generator.shape[1], dtype=bool)
        while left.any():
            bits, grown = left & (np.cumsum(left) == 1), 0
            while grown < (grown := int(bits.sum())):
                bits = self.generator[self.generator[:, bits].any(1)].any(0)
            parts.append((np.flatnonzero(self.generator[:, bits].any(1)), np.flatnonzero(bits)))
            left &= ~bits
        return parts

    def encode(self, bits: np.ndarray) -> np.ndarray:
        """bool [modules] of a text's bits, bool [8 * length]."""
        return self.offset ^ ((self.generator.astype(np.int64) @ bits) % 2 == 1)

    def text(self, bits: np.ndarray) -> str | None:
        """The text of bool [8 * length]; None if they are no valid UTF-8."""
        try:
            return np.packbits(bits).tobytes().decode("utf-8")
        except UnicodeDecodeError:
            return None


@lru_cache(maxsize=256)
def linear_code(code_format: CodeFormat, length: int) -> LinearCode:
    """The code of texts of `length` bytes. Raises ValueError if that is 0 or does not fit the format."""
    version, level = code_format.version, code_format.error_correction
    if not 0 < length <= qr_code.capacity(version, level):
        raise ValueError(f"{length} bytes do not fit a version {version} code")
    order, pattern = layout(version, code_format.mask_pattern)
    generator = _generator(version, level, length)
    reference = pattern ^ code_format.light
    reference[order] ^= _laid_bits(version, level, _reference(length), len(order))
    return LinearCode(reference ^ LinearCode(np.zeros_like(pattern), generator).encode(_bits(_reference(length))), generator)


def _reference(length: int) -> bytes:
    """A text to measure differences from: the library can't divide a block of zeros, so one without any."""
    return b"\x55" * length


def _bits(content: bytes) -> np.ndarray:
    return np.unpackbits(np.frombuffer(content, dtype=np.uint8)).astype(bool)


@lru_cache(maxsize=256)
def _generator(version: int, level: str, length: int) -> np.ndarray:
    # a shorter text has the same bits at the same places, since its header is as long: so few matrices serve all lengths
    rounded = max(64, 1 << (length - 1).bit_length())
    if length < (longest := min(qr_code.capacity(version, level), rounded)):
        return np.ascontiguousarray(_generator(version, level, longest)[:, :8 * length])
    order, _ = layout(version, 0)
    reference = _laid_bits(version, level, _reference(length), len(order))
    generator = np.zeros((len(order), 8 * length), dtype=bool)
    for bit in range(8 * length):
        content = bytearray(_reference(length))
        content[bit // 8] ^= 0x80 >> bit % 8
        generator[order, bit] = _laid_bits(version, level, bytes(content), len(order)) ^ reference
    return generator


def _laid_bits(version: int, level: str, content: bytes, modules: int) -> np.ndarray:
    """bool [modules]: codewords of bytes, data and parity interleaved, as the bits that are laid one after another."""
    data = util.QRData(content, mode=util.MODE_8BIT_BYTE, check_data=False)
    codewords = util.create_data(version, qr_code.ERROR_CORRECTION[level], [data])
    bits = _bits(bytes(codewords))
    return np.pad(bits, (0, modules - len(bits)))  # the remainder bits that fill some versions up


@lru_cache(maxsize=64)
def layout(version: int, mask_pattern: int) -> tuple[np.ndarray, np.ndarray]:
    """(order, pattern): int [modules], which data module, counted row by row, each laid bit goes to; bool [modules], the
    mask pattern there, in row order."""
    is_data = qr_code.data_modules(version)

    def laid(bits: np.ndarray) -> np.ndarray:
        blank = qrcode.QRCode(version, qr_code.ERROR_CORRECTION["H"])
        blank.data_cache = np.packbits(bits).tolist()
        blank.makeImpl(False, mask_pattern)
        return np.array(blank.modules, dtype=bool)[is_data]

    modules = int(is_data.sum())
    position = np.arange(modules)
    pattern = laid(np.zeros(modules, dtype=bool))
    place = np.zeros(modules, dtype=np.int64)  # which laid bit is at each data module
    for bit in range(modules.bit_length()):
        place += (laid(position >> bit & 1 == 1) ^ pattern).astype(np.int64) << bit
    return np.argsort(place), pattern


@lru_cache(maxsize=64)
def reed_solomon_blocks(version: int, level: str) -> list[tuple[np.ndarray, int]]:
    """Of each block: which codewords it has, int [codewords], numbered as they are laid, data before parity; and how many are data.

    Any so many of them determine the block, and every choice of their values is a block: the code is maximum distance separable.
    """
    blocks = base.rs_blocks(version, qr_code.ERROR_CORRECTION[level])
    data = [block.data_count for block in blocks]
    parity = [block.total_count - block.data_count for block in blocks]
    laid = [block for counts in (data, parity) for row in range(max(counts)) for block in range(len(blocks)) if row < counts[block]]
    return [(np.flatnonzero(np.array(laid) == block), count) for block, count in enumerate(data)]
