"""Scheme V4: a short text in the signs of places, which the key alone reads.

Text and checksum are the message of a linear code that the key draws. Each module of its word is spread over the entries of a
group, whose signs it turns or not; ordered statistics reads it from the groups' sums.
"""

import binascii
import math

import numpy as np

from pruner.keyed_mask.pattern import Key, in_all, place_agreement
from pruner.masks import Mask
from pruner.qr_code.linear_code import LinearCode
from pruner.qr_code.ordered_statistics import decode
from utils.errors import UserError

MODULES = {64: 192, 128: 256}  # bits of a message -> of its word
CHECKSUM = 2  # bytes
CERTAIN = 20  # natural logarithm of how improbable a word is by chance that is no more doubted
RESTARTS = 60  # of the decoder, with random reliabilities


def bits_for(text: str) -> int:
    """Of a message with this text and its checksum. Raises UserError for a longer one than there is."""
    size = len(text.encode("utf-8"))
    for bits in MODULES:
        if size <= bits // 8 - CHECKSUM and "\0" not in text:
            return bits
    raise UserError(f"--payload {text!r}: has {size} bytes; at most {max(MODULES) // 8 - CHECKSUM} of UTF-8 without NULs can be carried")


def choices(bits: int) -> int:
    """Messages that have a right checksum, of which a reader picks one: what a p-value with the message that was read pays for."""
    return 1 << bits - 8 * CHECKSUM if bits else 1


def word_of(key: Key, text: str) -> np.ndarray:
    """bool [modules]."""
    content = text.encode("utf-8").ljust(key.payload_bits // 8 - CHECKSUM, b"\0")
    message = content + binascii.crc_hqx(content, 0).to_bytes(CHECKSUM, "big")
    return _code(key).encode(np.unpackbits(np.frombuffer(message, np.uint8)))


def read(key: Key, mask: Mask) -> tuple[str, np.ndarray] | None:
    """The text that the mask's weights at places agree best with, of those with a right checksum that were found, and its word,
    bool [modules]; None where none was found. Whether to believe it is for its p-value to say."""
    code, sums = _code(key), group_sums(key, mask)
    weights = in_all(place_agreement(key, mask)).squares
    random, best = np.random.default_rng(0), None
    for restart in range(RESTARTS + 1):
        bits = decode(-sums, code, noise=random if restart else None)
        content = np.packbits(bits).tobytes()
        if binascii.crc_hqx(content, 0):  # of a message with its own checksum behind it this is 0
            continue
        word = code.encode(bits)
        agreeing = float((1 - 2 * word.astype(int)) @ sums)
        if best is None or agreeing > best[0]:
            best = agreeing, content[:-CHECKSUM].rstrip(b"\0").decode("utf-8", "replace"), word
        if agreeing ** 2 / 2 > weights * (key.payload_bits * math.log(2) + CERTAIN):
            break
    return best and best[1:]


def group_sums(key: Key, mask: Mask) -> np.ndarray:
    """float64 [modules], of the weights in each group those at places of sign 1 less those at -1."""
    modules = MODULES[key.payload_bits]
    sums = np.zeros(modules)
    for name, kept in mask.items():
        shape, there = tuple(kept.shape), kept.reshape(-1, math.prod(kept.shape[2:])).numpy()
        signs = key.place_signs(name, shape)
        there = there & (signs != 0)
        sums += np.bincount(key.groups(name, shape, modules)[there], signs[there], modules)
    return sums


def _code(key: Key) -> LinearCode:
    """As random as the key."""
    bits, modules = key.payload_bits, MODULES[key.payload_bits]
    drawn = np.unpackbits(np.frombuffer(key.bytes_for("code", modules * bits // 8), np.uint8))
    return LinearCode(np.zeros(modules, dtype=bool), drawn.reshape(modules, bits).astype(bool))
