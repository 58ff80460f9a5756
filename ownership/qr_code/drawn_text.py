"""How improbable it is that a region shows a text that a hash has drawn: a bound for any region whatever.

Null hypothesis: the text (`pruner.qr_code.derived_text`) was drawn uniformly from all 64^length, and the suspect owes it nothing.
The verifier looks at the suspect alone, and spreads a *belief* of 1 over all texts that could be written there. At most 1 / q
texts can have a belief of q or more, or beliefs would add up to more than 1; so the chance to draw a text of at least that belief
is at most 2^-bits / q. That is the p-value. It needs no model of how innocent networks look, is never below 2^-bits, and how good it is
depends on how well the belief is placed alone.

Half of the belief goes to what readers read: to the text that each reader makes of the region, an equal share. The other half is
spread as damage suggests, over both Reed-Solomon blocks at once. Of DAMAGES, each tells for every codeword of 8 modules how
plausible each of its 256 values is. Any k codewords of a block, k as many as it has data, determine the others, and can have any
values; so the product of their k plausibilities, each normalised to 1, is a distribution over the block's words. Which k were
left undamaged nobody knows: all choices are averaged over, weighted by how sure their codewords seem. A text's belief is the
average over DAMAGES of the product over blocks. (The average over all choices is a ratio of elementary symmetric polynomials.) What
is spent on words that are no text is lost, so the sum over texts is at most 1.
"""

from collections.abc import Sequence
from fractions import Fraction

import numpy as np
from qrcode import util

from ownership.qr_code.window import Window
from pruner.qr_code import geometry as qr_code
from pruner.qr_code.derived_text import SYMBOLS, bits
from pruner.qr_code.geometry import CodeFormat
from pruner.qr_code.linear_code import layout, reed_solomon_blocks

SHARES = (0.002, 0.02, 0.08, 0.2, 0.4)  # of the code's ones that may be found empty, and of its zeros that may be found occupied
# How many weights an occupied kernel holds, 1, 2 or more: of a one, of a zero. Nothing is said of it, or written kernels hold more
COUNTS = (((1 / 3, 1 / 3, 1 / 3), (1 / 3, 1 / 3, 1 / 3)), ((0.15, 0.2, 0.65), (0.75, 0.2, 0.05)))
# log-probability of 0, 1, 2 or more weights in a kernel of a one, of a zero: float [damages, 2, 4]
DAMAGES = np.log([[[lost, *((1 - lost) * np.array(ones))], [1 - added, *(added * np.array(zeros))]]
                  for lost in SHARES for added in SHARES for ones, zeros in COUNTS])
SURENESS = 4.0  # how strongly the choices are preferred whose codewords seem sure
READINGS = 6  # texts that readers can make of a region: three readers, ordered statistics without restarts and with
ROUNDING = 1e-9  # by which a computed belief may be too large, relatively


class Belief:
    """What is believed of all texts of a length after a look at a suspect.

    Args:
        windows: of the suspect, one per copy of the code.
    """

    def __init__(self, windows: Sequence[Window], code_format: CodeFormat, length: int):
        self.code_format, self.length = code_format, length
        self._blocks = reed_solomon_blocks(code_format.version, code_format.error_correction)
        is_data = qr_code.data_modules(code_format.version)
        order, pattern = layout(code_format.version, code_format.mask_pattern)
        pattern = pattern ^ code_format.light
        found = sum(DAMAGES[:, :, np.minimum(window.counts[is_data], 3)] for window in windows)  # [damages, one or zero, modules]
        found = np.where(pattern, found[:, ::-1], found)[:, :, order]  # of the bits before the mask pattern
        found = found[:, :, :8 * sum(len(codewords) for codewords, _ in self._blocks)].reshape(len(DAMAGES), 2, -1, 4)
        values = (np.arange(16)[:, None] >> np.arange(3, -1, -1)) & 1
        scores = found[:, 0] @ values.T + found[:, 1] @ (1 - values.T) + self._log_drawn()
        scores -= np.logaddexp.reduce(scores, axis=2, keepdims=True)
        self._scores = scores  # log-plausibility of each value of half a codeword: float [damages, 2 * codewords, 16]
        self._sure = SURENESS * _in_pairs(np.logaddexp.reduce(2 * scores, axis=2))  # [damages, codewords]

    def _log_drawn(self) -> np.ndarray:
        """Logarithm of how often each value of half a codeword is drawn, [2 * codewords, 16]; of parity, all are alike to us.

        Halves of data are halves of symbols, but for those of header, end and padding, which are the same in all texts.
        """
        data = np.concatenate([codewords[:count] for codewords, count in self._blocks])
        halves = np.eye(16)[_halves(self._codewords("A" * self.length)[data])]
        first = (4 + util.length_in_bits(util.MODE_8BIT_BYTE, self.code_format.version)) // 4
        for at, half in enumerate(divmod(np.frombuffer(SYMBOLS, dtype=np.uint8), 16)):
            halves[first + at:first + 2 * self.length:2] = np.bincount(half, minlength=16) / len(SYMBOLS)
        table = np.ones((sum(len(codewords) for codewords, _ in self._blocks), 2, 16))
        table[data] = halves.reshape(-1, 2, 16)
        with np.errstate(divide="ignore"):
            return np.log(table.reshape(-1, 16))

    def _codewords(self, text: str) -> np.ndarray:
        """uint8 [codewords], as they are laid."""
        order, pattern = layout(self.code_format.version, self.code_format.mask_pattern)
        modules = qr_code.encode(text, self.code_format)[qr_code.data_modules(self.code_format.version)]
        bits_laid = (modules ^ pattern ^ self.code_format.light)[order]
        return np.packbits(bits_laid[:len(bits_laid) // 8 * 8])

    def log_share(self, text: str) -> float:
        """Natural logarithm of a text's share of the belief that is spread as damage suggests."""
        halves = _halves(self._codewords(text))
        written = _in_pairs(self._scores[:, np.arange(len(halves)), halves])
        shares = sum(log_symmetric((self._sure + written)[:, codewords], count) - log_symmetric(self._sure[:, codewords], count)
                     for codewords, count in self._blocks)
        return float(np.logaddexp.reduce(shares) - np.log(len(shares)))

    def p_value(self, text: str, readings: int) -> Fraction:
        """Bound of the probability that a drawn text gets as much belief. readings: how many of READINGS are exactly this text."""
        belief = Fraction(np.exp(self.log_share(text)) * (1 - ROUNDING)) / 2 + Fraction(readings, 2 * READINGS)
        floor = Fraction(1, 1 << bits(self.length))
        return min(Fraction(1), floor / belief if belief else Fraction(1))


def _halves(codewords: np.ndarray) -> np.ndarray:
    """int [2 * codewords], the upper and the lower four bits of each."""
    return np.stack(divmod(codewords, 16), axis=1).ravel()


def _in_pairs(halves: np.ndarray) -> np.ndarray:
    """Sums of the two halves of each codeword: [damages, codewords] of [damages, 2 * codewords]."""
    return halves[:, 0::2] + halves[:, 1::2]


def log_symmetric(logs: np.ndarray, chosen: int) -> np.ndarray:
    """Natural logarithm of the elementary symmetric polynomial: the sum over all choices of so many factors of their product.

    Args:
        logs: float [..., factors], logarithms of the factors.
    """
    sums = np.full((*logs.shape[:-1], chosen + 1), -np.inf)  # of so many chosen from the factors so far
    sums[..., 0] = 0.0
    for factor in np.moveaxis(logs, -1, 0):
        sums[..., 1:] = np.logaddexp(sums[..., 1:], sums[..., :-1] + factor[..., None])
    return sums[..., chosen]
