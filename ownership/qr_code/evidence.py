"""How improbable it is that a region agrees with a signature's code by chance: an exact permutation test.

Null hypothesis: the signature has nothing to do with the suspect. Then which of its code's parity modules are ones is as
good as drawn at random, whatever the region looks like, dead rows and columns included. Each module scores the
weights in its kernel, at most COUNTED of them, over all copies of the code; the statistic is the ones' total. Given the
scores and the number of ones its distribution is known exactly. (Were only one weight counted, this would be Fisher's exact
test of occupancy. An add-on attack that occupies most of the zeros with a weight each is why more are.)

What that assumes: the signature was chosen without looking at the suspect. Somebody who makes it up afterwards need not try
many: a decoder finds, in milliseconds, a text whose code agrees with any region far better than chance would have it. So a
signature should be bound to its owner, say by publishing a salted hash of it, or of the claim, before the dispute. Where it
was not, `p_any_text` is what is left: corrected for all texts of its kind as well. Header and padding are left out, since any
other owner's code agrees in them as well; so are the modules that hold the text itself, since letters have bits in common. And
where a code has several independent parts (Reed-Solomon blocks), the p-value is the largest of theirs: two texts with the same
ending share a whole block.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import binom

from ownership.qr_code.claim import LIGHT, CodeClaim
from ownership.qr_code.soft_decoding import log2_texts
from ownership.qr_code.window import Window
from pruner.qr_code import geometry as qr_code
from pruner.qr_code.linear_code import LinearCode, linear_code
from pruner.masks import Mask
from pruner.qr_code.geometry import CodeFormat

COUNTED = 3  # weights of a kernel that count
PRICE_OF_LIGHT = 1 << 20  # of the two polarities, so that dark, which most claims have, costs 1 + 2^-20, or nothing to speak of
SMALLEST = 1e-300  # tails below are not told apart in double precision


@dataclass(frozen=True)
class Evidence:
    """One test.

    modules: that were compared, in each copy. agreeing: share of them that agree, over all copies. p_value: for the place
    and format of the claim alone, as is right where the claim was published before the suspect was. searched: places and
    mask patterns that somebody who knows the text but not the place could choose from. p_corrected: with Bonferroni's
    correction for them. log2_texts: texts that somebody who makes up a signature afterwards could choose from, log2.
    p_any_text: with the correction for these too.
    """

    modules: int
    agreeing: float
    p_value: float
    searched: int
    log2_texts: float

    @property
    def p_corrected(self) -> float:
        return float(np.exp2(min(0.0, math.log2(self.p_value) + math.log2(self.searched))))

    @property
    def p_any_text(self) -> float:
        return float(np.exp2(min(0.0, math.log2(self.p_value) + math.log2(self.searched) + self.log2_texts)))


def agreement(windows: Sequence[Window], signature: str, code_format: CodeFormat, searched: int = 1) -> Evidence:
    """Test what the windows (one per copy, at least one) show against a signature's code.

    Raises ValueError if the signature does not fit the format.
    """
    is_data = qr_code.data_modules(code_format.version)
    code = linear_code(code_format, len(signature.encode("utf-8")))
    ones = qr_code.encode(signature, code_format)[is_data]
    counts = np.stack([window.counts[is_data] for window in windows])
    scores = np.minimum(counts, COUNTED).sum(0)
    parts = parity_parts(code)
    compared = np.concatenate(parts)
    return Evidence(len(compared), float(((counts > 0) == ones)[:, compared].mean()),
                    max(p_value(scores[part], ones[part]) for part in parts), searched, log2_texts(signature))


def parity_parts(code: LinearCode) -> list[np.ndarray]:
    """Indices of the parity modules of each independent part of a code."""
    return [part[0][code.mixes_text[part[0]]] for part in code.parts]


def p_value(scores: np.ndarray, ones: np.ndarray) -> float:
    """Probability that as many ones, drawn at random without replacement, have a total score as high: exact.

    Args:
        scores: int [modules], small and not negative.
        ones: bool [modules].
    """
    chosen, total = int(ones.sum()), int(scores[ones].sum())
    if not 0 < chosen < len(ones):
        return 1.0
    table = totals(scores, chosen)[chosen]
    return float(min(1.0, max(SMALLEST, table[total:].sum() / table.sum())))


def totals(scores: np.ndarray, most: int) -> np.ndarray:
    """Of modules drawn independently of each other: float [most + 1, largest total + 1], the probability to draw so many
    with this total. Each row, divided by its sum, is the distribution of the total given the number drawn.

    Args:
        scores: int [modules], not negative. most: about as many as will be drawn, which keeps the numbers in range.
    """
    share, top = most / len(scores), int(np.sort(scores)[-most:].sum())
    table = np.zeros((most + 1, top + 1))
    table[0, 0] = 1.0
    for score, count in zip(*np.unique(scores, return_counts=True)):
        drawn = np.zeros_like(table)
        for many, probability in enumerate(binom.pmf(np.arange(min(count, most) + 1), count, share)):
            shift = int(many * score)
            if shift > top:
                break
            drawn[many:, shift:] += probability * table[:most + 1 - many, :top + 1 - shift]
        table = drawn
    return table


def places_for(mask: Mask, version: int) -> int:
    """Places where a code of this version could lie, times the mask patterns it could have."""
    return max(1, len(qr_code.MASK_PATTERNS) * _places(mask, version))


def _places(mask: Mask, version: int) -> int:
    size = qr_code.code_size(version)
    return sum(max(0, layer.shape[0] - size + 1) * max(0, layer.shape[1] - size + 1) for layer in mask.values())


def freedom(mask: Mask, claim: CodeClaim, renumbered: bool = False) -> dict[str, int]:
    """What the maker of a claim could choose of place and form after a look at the suspect, and among how many. One number of
    copies costs a factor of 2, two cost 4 and so on; a threshold lies between two of the weights, or is not there: of those in
    the claimed layers, or of all where `renumbered`, since what is cleaned decides how channels are put in order."""
    copies, named = len(claim.places), mask if renumbered else {place.layer for place in claim.places}
    return {
        "places" if copies == 1 else f"sets of {copies} places": max(1, sum(math.comb(_places(mask, version), copies)
                                                                            for version in qr_code.VERSIONS)),
        **({"polarity": PRICE_OF_LIGHT} if claim.polarity == LIGHT else {}),
        "patterns": len(qr_code.MASK_PATTERNS), "levels": len(qr_code.ERROR_CORRECTION),
        "numbers of copies": 1 << copies,
        **({} if claim.derived else {"lengths": qr_code.capacity(claim.version, claim.error_correction)}),
        "thresholds": 2 if claim.threshold is None else 2 * max(1, sum(int(mask[name].sum()) for name in named if name in mask))}
