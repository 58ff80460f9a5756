"""Soft-decision decoding of a damaged code: how sure each module is, in which order to try, and when to believe the result.

A weight per module says how sure it is to be 1 (positive) or 0 (negative); `pruner.qr_code.ordered_statistics` finds the text that
agrees best with them.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
from scipy.stats import binom, rankdata

from ownership.qr_code.window import Window
from pruner.qr_code import geometry as qr_code
from pruner.qr_code.linear_code import LinearCode, linear_code
from pruner.qr_code.ordered_statistics import decode, decode_part
from pruner.qr_code.geometry import CodeFormat

MAX_FALSE = 1e-9  # accepted probability that a text is read where none, or another, was written
LONGEST = 64  # bytes of text that are searched for
SURE = 8.0  # weight of a module that the attack can't have changed
ENOUGH_KNOWN = 60  # modules of known value from which the attack's traces are learned
RESTARTS = 3000
TAIL_STEPS = 200  # a weight is counted in so many steps where a tail is summed up
WORTH_SUMMING = 12  # bits by which Chernoff's bound may miss what is accepted for the tail to be summed up
TRUSTED = 0.01  # share of modules of a kind that may be wrong where they are taken as sure
ONE_SIDED_RESTARTS = 100  # of them, with weights that trust one kind of module, where the known modules show one-sided damage
SHOWS = 3.0  # standard deviations by which header and padding must agree for a text to be looked for
WORTH_RESTARTS = 5.0  # ... for restarts to be spent on it; of all patterns and lengths, chance often reaches 3

# Texts of a kind, in bits per byte: of the classes below the text's own is the smallest that it lies in, so a text of
# small letters has to beat fewer rivals than one of any bytes. One of four classes is 2 bits more.
CLASSES = (
    (frozenset(b"abcdefghijklmnopqrstuvwxyz "), math.log2(27)),
    (frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789 "), math.log2(63)),
    (frozenset(range(32, 127)), math.log2(95)),
    (frozenset(range(256)), 8.0),
)


def log2_chance(weights: np.ndarray, code: LinearCode, bits: np.ndarray, exact: bool = False) -> float:
    """How many texts, as plausible as this one, would agree with the weights as well by chance: log2, an upper bound.

    For each independent part of the code, the sum of weights over modules that agree less those that do not, against
    modules that are drawn at random: the tail (Chernoff's bound of it, if not `exact`), times the number of texts the part can
    hold in the text's class of bytes. The parts' bounds are added, since one wrong part makes a wrong text, however well the others
    agree. Modules that are the same for all texts count nothing, so the bound also holds where another text lies there.

    Args:
        weights: float [modules], chosen without looking at how modules that depend on the text agree with it.
        bits: bool [8 * length], the text.
        exact: sum the tail up, to within half a bit, which takes tens of milliseconds and is some bits less.
    """
    cost = bits_per_byte(bits) / 8
    chances = [len(part[1]) * cost + _log2_tail(weights, code, part, bits[part[1]], exact) for part in code.parts]
    return math.log2(len(CLASSES)) + float(np.logaddexp2.reduce(chances))


def log2_texts(text: str) -> float:
    """log2 of how many texts are as plausible as this one: as long, and of its class of letters."""
    bits = np.unpackbits(np.frombuffer(text.encode("utf-8"), dtype=np.uint8)).astype(bool)
    return math.log2(len(CLASSES)) + len(bits) / 8 * bits_per_byte(bits)


def bits_per_byte(bits: np.ndarray) -> float:
    """log2 of the letters in the smallest of CLASSES that the text, bool [8 * length], lies in."""
    content = set(np.packbits(bits).tobytes())
    return next(cost for letters, cost in CLASSES if content <= letters)


def _log2_tail(weights: np.ndarray, code: LinearCode, part: tuple[np.ndarray, np.ndarray], bits: np.ndarray,
               exact: bool = False) -> float:
    """Upper bound of the probability, in log2, that random modules agree with a part's weights as well as its text."""
    modules = part[0]
    weights = weights[modules].astype(np.float64)
    scale = np.abs(weights).max(initial=0.0)
    if scale == 0:
        return 0.0
    weights = weights / scale
    encoded = code.offset[modules] ^ ((code.generator[np.ix_(*part)].astype(np.int64) @ bits) % 2 == 1)
    score = float(np.where(encoded, weights, -weights).sum())
    if exact:
        return _log2_summed_tail(np.abs(weights), score)
    tilts = np.geomspace(1e-3, 50, 200)
    products = np.abs(weights) * tilts[:, None]
    growth = (products + np.log1p(np.exp(-2 * products)) - math.log(2)).sum(1)  # log cosh, without overflow
    return min(0.0, float((growth - tilts * score).min())) / math.log(2)


def _log2_summed_tail(magnitudes: np.ndarray, score: float) -> float:
    """log2 of the probability that the magnitudes, each with a random sign, add up to `score` or more; rounded up.

    Args:
        magnitudes: at most 1. They are counted in whole steps, and what rounding can have added is taken off the score.
    """
    steps = np.rint(magnitudes * TAIL_STEPS).astype(np.int64)
    slack = np.abs(magnitudes * TAIL_STEPS - steps).sum()
    chances = np.ones(1)  # of each total of the steps with positive sign
    for step, count in zip(*np.unique(steps[steps > 0], return_counts=True)):
        longer = np.zeros(len(chances) + int(step * count))
        for positive, chance in enumerate(binom.pmf(np.arange(count + 1), count, 0.5)):
            longer[positive * step:positive * step + len(chances)] += chance * chances
        chances = longer
    # a sum of signs is twice what is positive less all
    first = math.ceil((score * TAIL_STEPS - slack + steps.sum()) / 2 - 1e-6)
    tail = chances[max(0, first):].sum()
    return math.log2(tail) if tail > 0 else -math.inf


# --- weights from what a window shows -------------------------------------------------------------------------------


def pruned(window: Window, code: LinearCode, is_data: np.ndarray) -> np.ndarray:
    """Weights if kernels were only emptied: an occupied one is surely 1; half of the modules were 1 at first."""
    occupied = window.occupied[is_data]
    lost = np.clip(1 - 2 * occupied.mean(), 0.02, 0.98)
    return np.where(occupied, SURE, math.log(lost))


def added(window: Window, code: LinearCode, is_data: np.ndarray) -> np.ndarray:
    """Weights if kernels were only filled: an empty one is surely 0."""
    occupied = window.occupied[is_data]
    filled = np.clip(2 * occupied.mean() - 1, 0.02, 0.98)
    return np.where(occupied, -math.log(filled), -SURE)


def alike(window: Window, code: LinearCode, is_data: np.ndarray) -> np.ndarray:
    """Weights if any module may have changed."""
    return np.where(window.occupied[is_data], 1.0, -1.0)


def by_count(window: Window, code: LinearCode, is_data: np.ndarray) -> np.ndarray:
    """A kernel that was opened by noise holds few weights, one that was written holds many: log-odds of the rank."""
    return _log_odds_of_rank(window.counts[is_data])


def by_magnitude(window: Window, code: LinearCode, is_data: np.ndarray) -> np.ndarray:
    """As `by_count`, by the largest magnitude in each kernel."""
    return _log_odds_of_rank(window.largest[is_data])


def learned(window: Window, code: LinearCode, is_data: np.ndarray) -> np.ndarray:
    """Log-likelihood ratios of what kernels show, learned from the modules that are the same for all texts.

    Header and padding are known for each length, so they show what damage did to ones and to zeros: how many weights a
    kernel has (none, 1, 2, 3, 4 or 5, more), and in which third of the occupied ones its largest magnitude lies.
    """
    kinds = np.searchsorted([1, 2, 3, 4, 6], window.counts[is_data], side="right")
    if window.largest is not None and window.occupied.any():
        thirds = np.quantile(window.largest[window.occupied], [1 / 3, 2 / 3])
        kinds = np.where(kinds > 0, 3 * kinds + np.searchsorted(thirds, window.largest[is_data]), 0)
    fixed, count = ~code.depends_on_text, int(kinds.max()) + 1
    ones = np.bincount(kinds[fixed & code.offset], minlength=count) + 0.5
    zeros = np.bincount(kinds[fixed & ~code.offset], minlength=count) + 0.5
    return np.log(ones / ones.sum() / (zeros / zeros.sum()))[kinds]


def _log_odds_of_rank(values: np.ndarray) -> np.ndarray:
    share = (rankdata(values) - 0.5) / len(values)
    return np.log(share / (1 - share))


WEIGHTS: dict[str, Callable[[Window, LinearCode, np.ndarray], np.ndarray]] = {
    "learned": learned, "pruned": pruned, "added": added, "by count": by_count, "by magnitude": by_magnitude,
    "alike": alike,
}


# --- reading --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class SoftReading:
    """A text that was accepted.

    weights: the name in WEIGHTS that it was read with. false_probability: upper bound of the probability that a text as
    plausible would be accepted by chance, all that was searched counted in. restarts: needed for it.
    """

    text: str
    code_format: CodeFormat
    weights: str
    false_probability: float
    restarts: int


@dataclass(frozen=True)
class _Candidate:
    """A form that the code may have, of a format and a length of text.

    fit: how well what is known of it agrees, in standard deviations. tried_bits: log2 of how much is searched, this form being
    one of it, which what chance gives is multiplied by.
    """

    code_format: CodeFormat
    code: LinearCode
    fit: float
    tried_bits: float


@dataclass(frozen=True)
class _Trial:
    """A text to be judged. weights: the name in WEIGHTS that it was found with. restarts: that it took."""

    candidate: _Candidate
    weights: str
    bits: np.ndarray
    restarts: int = 0


@dataclass(frozen=True)
class _Copies:
    """What the copies of one code show. windows: one per copy. is_data: bool [size, size], the data modules."""

    windows: Sequence[Window]
    is_data: np.ndarray

    def weigh(self, code: LinearCode, name: str) -> np.ndarray:
        """float [modules], of all copies together."""
        return sum(WEIGHTS[name](window, code, self.is_data) for window in self.windows)

    def usable_weights(self, code: LinearCode) -> list[str]:
        """Names in WEIGHTS that what is known allows."""
        known = int((~code.depends_on_text).sum())
        return [name for name in WEIGHTS
                if (name != "learned" or known >= ENOUGH_KNOWN)
                and (name != "by magnitude" or all(window.largest is not None for window in self.windows))]

    def one_sided(self, code: LinearCode) -> list[str]:
        """Names in WEIGHTS that trust ones, or zeros, if hardly any module that is known speaks against it."""
        known = ~code.depends_on_text
        wrong = sum(window.occupied[self.is_data][known] != code.offset[known] for window in self.windows)
        share = {name: wrong[code.offset[known] == bit].mean() / len(self.windows) if (code.offset[known] == bit).any() else 1.0
                 for name, bit in (("pruned", False), ("added", True))}
        return [name for name, wrongly in share.items() if wrongly < TRUSTED]

    def known_agreement(self, code: LinearCode) -> float:
        """How well occupancy agrees with the modules that are the same for all texts of this length, in standard deviations."""
        fixed = ~code.depends_on_text
        ones = code.offset[fixed]
        agreement = sum(window.occupied[self.is_data][fixed].astype(float) for window in self.windows)
        if not ones.any() or ones.all() or np.ptp(agreement) == 0:
            return 0.0
        deviation = agreement.std() * math.sqrt(1 / ones.sum() + 1 / (~ones).sum())
        return float((agreement[ones].mean() - agreement[~ones].mean()) / deviation)


def read_softly(windows: Sequence[Window], formats: Sequence[CodeFormat], places: int = 1, max_false: float = MAX_FALSE,
                restarts: int = RESTARTS, lengths: Sequence[int] | None = None) -> SoftReading | None:
    """Decode the copies of one code, of any text and length.

    Args:
        windows: one per copy, of the formats' size.
        formats: to be tried, all of one version.
        places: how many places were, or will be, read like this in search of a text; divides what is accepted.
        max_false: a text is accepted where the bound of `log2_chance`, times all that is searched, is at most this.
        restarts: with random reliabilities, if nothing was read without.
        lengths: of texts to look for, in bytes (default: all up to LONGEST).
    """
    copies = _Copies(windows, qr_code.data_modules(formats[0].version))
    candidates = _candidates(copies, formats, lengths or range(1, LONGEST + 1), places)
    close = [candidate for candidate in candidates[:3] if candidate.fit > max(candidates[0].fit - 3, WORTH_RESTARTS)]
    for trial in chain(_in_order(copies, candidates), _with_restarts(copies, close, restarts)):
        if reading := _accepted(copies, trial, max_false):
            return reading
    return None


def _candidates(copies: _Copies, formats: Sequence[CodeFormat], lengths: Sequence[int], places: int) -> list[_Candidate]:
    """The forms to look for, best fit first: header and padding differ with pattern and length, so where enough of a form is
    known and does not fit, it is not looked for at all.

    What is accepted falsely is shared half and half between those that fit and those of which too little is known: few of the
    many forms fit by chance, so those that do need not make up for all. (Whether a form fits, and whether its text agrees, are
    matters of different modules.)
    """
    fits = [(code_format, code, copies.known_agreement(code))
            for code_format in formats for length in lengths
            if length <= qr_code.capacity(code_format.version, code_format.error_correction)
            for code in [linear_code(code_format, length)]]
    fitting = [form for form in fits if form[2] > SHOWS]
    unknown = [form for form in fits if form[2] <= SHOWS and (~form[1].depends_on_text).sum() < ENOUGH_KNOWN]
    candidates = [_Candidate(*form, math.log2(places) + 1 + math.log2(len(group)) + math.log2(len(WEIGHTS)))
                  for group in (fitting, unknown) for form in group]
    return sorted(candidates, key=lambda candidate: -candidate.fit)


def _in_order(copies: _Copies, candidates: Sequence[_Candidate]) -> Iterator[_Trial]:
    """The text that agrees best with each kind of weights; then, of the best few forms, with more work."""
    for order, worth_it in ((2, candidates), (3, candidates[:3])):
        for candidate in worth_it:
            for name in copies.usable_weights(candidate.code):
                yield _Trial(candidate, name, decode(copies.weigh(candidate.code, name), candidate.code, order))


def _with_restarts(copies: _Copies, close: Sequence[_Candidate], restarts: int) -> Iterator[_Trial]:
    """Texts found with random reliabilities: first by weights that trust one kind of module, where what is known allows that."""
    for candidate in close:
        for name in copies.one_sided(candidate.code):
            yield from _restart(copies, [candidate], name, min(restarts, ONE_SIDED_RESTARTS))
    if close:
        yield from _restart(copies, close, "alike", restarts)


def _restart(copies: _Copies, candidates: Sequence[_Candidate], name: str, restarts: int) -> Iterator[_Trial]:
    """Decode with one of WEIGHTS and reliabilities drawn at random, in turn for each candidate, keeping the best that was found
    for each part; each improvement is a trial."""
    noise = np.random.default_rng(0)
    settings = [(candidate, copies.weigh(candidate.code, name), np.zeros(candidate.code.generator.shape[1], dtype=bool),
                 [0.0] * len(candidate.code.parts)) for candidate in candidates]
    for count in range(1, restarts + 1):
        candidate, weights, best, tails = settings[count % len(settings)]
        improved = False
        for index, part in enumerate(candidate.code.parts):
            bits = decode_part(weights, candidate.code, part, 2, noise)
            tail = _log2_tail(weights, candidate.code, part, bits)
            if tail < tails[index]:
                best[part[1]], tails[index], improved = bits, tail, True
        if improved:
            yield _Trial(candidate, name, best, count)


def _accepted(copies: _Copies, trial: _Trial, max_false: float) -> SoftReading | None:
    """The reading, if the text is one, is laid out as the standard says, and is no matter of chance."""
    candidate, code, most = trial.candidate, trial.candidate.code, math.log2(max_false)
    text, weights = code.text(trial.bits), copies.weigh(code, trial.weights)
    # the bound is one for all texts at once, so it does not matter how many of them were looked at
    false = candidate.tried_bits + log2_chance(weights, code, trial.bits)
    if 0 < false - most < WORTH_SUMMING:
        false = candidate.tried_bits + log2_chance(weights, code, trial.bits, exact=True)
    if text is None or false > most \
            or not np.array_equal(qr_code.encode(text, candidate.code_format)[copies.is_data], code.encode(trial.bits)):
        return None
    return SoftReading(text, candidate.code_format, trial.weights, 2.0 ** max(false, -1000.0), trial.restarts)
