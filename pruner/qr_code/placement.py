"""Where a code should lie: hidden from an eye that looks for it, or firm against pruning (paper, section 3.3.2).

The paper takes the most similar region of the first stage with room and calls the code imperceptible. In a layer whose
kernels are nearly all occupied it is not: half of the region has to be emptied. This module says what a code would show
at each place and what it would cost there, so that an owner can choose. Hidden here means hidden from statistics of the
mask (`attacks.locate`); whoever tries to decode every place finds a fresh code anywhere, by its parity alone.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy import fft
from scipy.special import xlogy
from scipy.stats import binom

from pruner.qr_code import geometry as qr_code
from pruner.qr_code.embedding import Region, Wish, choose_version
from pruner.masks import Mask, weights_per_kernel
from utils.errors import UserError

# weights per kernel from here on are one class: a code shows in how many kernels are empty or nearly so
MANY = 3
# of the fit below; it is then right within a thousandth up to a density of a half, and within some hundredths in fuller
# layers, where channels that are full wherever others are not dead have odds without end
FIT_SWEEPS = 20
# a row without weights would otherwise be certain to stay so, and one weight there infinitely surprising
LEAST_PROBABILITY = 1e-6


def natural_probabilities(rows: np.ndarray, columns: np.ndarray, area: int) -> np.ndarray:
    """How likely a weight is at each kernel, if it is a matter of the kernel's output and input channel alone.

    What pruning leaves differs greatly between channels, some of which die, and hardly otherwise. So log-odds are the
    sum of a term per row and one per column, chosen such that every row and column is expected to have as many weights
    as it has: the maximum of the likelihood, found by proportional fitting. Writing a code moves weights within few
    rows and columns, so it hardly changes the fit, and is seen against it.

    Args:
        rows: [out], weights of each row. columns: [in], of each column, with the same sum.
        area: entries per kernel.
    Returns:
        float64 [out, in], strictly between 0 and 1.
    """
    rows, columns = rows / area, columns / area
    density = np.clip(rows.sum() / (len(rows) * len(columns)), LEAST_PROBABILITY, 1 - LEAST_PROBABILITY)
    row_odds = np.full(len(rows), np.sqrt(density / (1 - density)))
    column_odds = np.full(len(columns), np.sqrt(density / (1 - density)))
    tiny = np.finfo(float).tiny
    for _ in range(FIT_SWEEPS):
        # the row's own odds cancel out of expected / odds, which is what makes this a fixed point and no division by 0
        row_odds = rows / np.maximum((column_odds / (1 + row_odds[:, None] * column_odds)).sum(1), tiny)
        row_odds = np.minimum(row_odds, 1 / LEAST_PROBABILITY**2)
        column_odds = columns / np.maximum((row_odds[:, None] / (1 + row_odds[:, None] * column_odds)).sum(0), tiny)
        column_odds = np.minimum(column_odds, 1 / LEAST_PROBABILITY**2)
    odds = row_odds[:, None] * column_odds
    return np.clip(odds / (1 + odds), LEAST_PROBABILITY, 1 - LEAST_PROBABILITY)


def class_log_probabilities(chance: np.ndarray, area: int) -> np.ndarray:
    """How likely kernels hold 0, 1, ..., MANY - 1, or at least MANY of `area` weights.

    Args:
        chance: [out, in], how likely each of a kernel's weights is there, independent of the others.
        area: entries per kernel.
    Returns:
        float64 [MANY + 1, out, in], logarithms; -inf for numbers above `area`.
    """
    numbers = [binom.logpmf(number, area, chance) for number in range(MANY)]
    return np.stack([*numbers, binom.logsf(MANY - 1, area, chance)])


def window_sums(maps: Sequence[np.ndarray], template: np.ndarray) -> Iterator[np.ndarray]:
    """For each map, its sum weighted by `template` at every offset: float64 [out - size + 1, in - size + 1].

    Args:
        maps: [out, in], all of one shape.
        template: [size, size], not larger.
    """
    shape, (height, width) = maps[0].shape, template.shape
    # circular correlation: where the template fits, nothing wraps around
    spectrum = np.conj(fft.rfft2(template.astype(np.float64), shape))
    for values in maps:
        sums = fft.irfft2(fft.rfft2(values.astype(np.float64)) * spectrum, shape)
        yield sums[:shape[0] - height + 1, :shape[1] - width + 1]


@dataclass(frozen=True)
class PlaceScores:
    """What a code would do at every place of a layer; float64 [mask patterns, out - size + 1, in - size + 1] each.

    similarity: share of data modules that are already right; the others are what embedding changes.
    visibility: log-likelihood ratio (nats) that `attacks.locate` is expected to find there, about 0 or less if nothing.
    weights_per_one: how many weights each of the code's ones is expected to hold after embedding, at least 1.
    fragility: share of the code's ones expected to be lost if half of the weights are pruned at random.
    """

    similarity: np.ndarray
    visibility: np.ndarray
    weights_per_one: np.ndarray
    fragility: np.ndarray


def score_places(layer: torch.Tensor, codes: np.ndarray, is_data: np.ndarray) -> PlaceScores:
    """Score all offsets in one layer for all codes, from counts and sums, without embedding anything.

    Embedding gives the weights of the window's data modules to the code's ones, w / n1 each on average (at least 1, at
    most all), so one holds 1 + Binomial(area - 1, .) of them, whatever its channels. Let o be how likely a kernel is
    occupied by nature (`natural_probabilities`), q_k how likely it holds k weights, p_k the same for the code's ones;
    for n modules, n1 ones and n0 zeros the statistic of `attacks.locate` will then be the larger of

        occupancy:  sum over ones of -log o  +  sum over zeros of -log(1 - o)  -  n H(n1 / n)
        counts:     sum over ones of -(p_1 log q_1 + p_2 log q_2 + ...)  +  sum over zeros of -log q_0
                    -  n H(n1 / n)  -  n1 H(p_1, p_2, ...)

    with H the entropy. Both are sums over the window of maps that don't depend on the place. Since a code evens out
    what differs between the rows and columns it covers, and nature is judged by what is then there, they count as
    nearer to the mean, by the share of them that is covered.

    Args:
        layer: the mask, bool [out, in, height, width].
        codes: bool [mask patterns, size, size]. is_data: bool [size, size].
    """
    counts, area = weights_per_kernel(layer), layer[0, 0].numel()
    n, shape = int(is_data.sum()), np.array(counts.shape)
    rows, columns = (sums + covered * (sums.mean() - sums)
                     for sums, covered in zip((counts.sum(1), counts.sum(0)), n / len(is_data) / shape[::-1]))
    log_class = class_log_probabilities(natural_probabilities(rows, columns, area), area)
    empty = log_class[0]
    occupied = np.log(-np.expm1(empty))
    possible = range(1, min(MANY, area) + 1)
    weights, = window_sums([counts], is_data)

    scores = []
    for code in codes:
        ones, zeros = is_data & code, is_data & ~code
        n1, n0 = int(ones.sum()), int(zeros.sum())
        agreement, = window_sums([counts > 0], ones.astype(float) - zeros)
        empty_zeros, = window_sums([empty], zeros)
        occupied_ones, *class_ones = window_sums([occupied, *(log_class[number] for number in possible)], ones)
        mean = np.clip(weights / n1, 1, area)
        rate = (mean - 1) / max(area - 1, 1)
        shares = [binom.pmf(number - 1, area - 1, rate) for number in possible]
        shares[-1] = 1 - sum(shares[:-1])
        by_counts = sum(xlogy(n1 * share, share) - share * natural for share, natural in zip(shares, class_ones))
        visibility = (np.maximum(by_counts, -occupied_ones) - empty_zeros + xlogy(n1, n1 / n) + xlogy(n0, n0 / n))
        # of a one with 1 + Binomial weights each is pruned with probability 1/2
        scores.append(((agreement.round() + n0) / n, visibility, mean, 0.5 * (1 - rate / 2) ** (area - 1)))
    return PlaceScores(*(np.stack(parts) for parts in zip(*scores)))


def best_place(mask: Mask, signature: str, wish: Wish = Wish(), hidden: float = 1.0) -> Region:
    """The place for a signature's code that weighs being hidden against being firm (paper, section 3.3.2).

    Of all layers with room, offsets and mask patterns the one with the smallest

        hidden * visibility / (largest visibility of all)  +  (1 - hidden) * ((1 - similarity) + fragility) / 2

    (`PlaceScores`; a visibility below 0 counts as 0). Both sides lie between 0 and 1: how well the code can be seen, as
    a share of how well it can be seen at worst; and the mean of the modules that embedding changes and of the ones that
    a pruning of half of all weights takes. With hidden = 0 the code goes where its ones hold many weights, the first
    stages' full layers, as with `embedding.find_region`; with hidden = 1 to where half of the kernels are empty anyway.
    Of equals the first in order of layer, mask pattern, start_x, start_y is taken.

    Args:
        mask: the ticket's.
        signature, wish: as in `embedding.find_region`; of the wish the form of the code counts, not the place.
        hidden: from 0 to 1.
    Raises:
        UserError: `hidden` is outside, the text is empty or too long, or no layer has room.
    """
    if not 0 <= hidden <= 1:
        raise UserError(f"--hidden {hidden:g}: must be from 0 (firm) to 1 (hidden)")
    version = choose_version(mask, signature, wish)
    size, is_data, formats = qr_code.code_size(version), qr_code.data_modules(version), wish.formats(version)
    codes = np.stack([qr_code.encode(signature, code_format) for code_format in formats])
    visible, soft = {}, {}  # single precision: a deep network has 10^8 places
    for name, layer in mask.items():
        if min(layer.shape[:2]) >= size:
            score = score_places(layer, codes, is_data)
            visible[name] = np.maximum(score.visibility, 0).astype(np.float32)
            soft[name] = ((1 - score.similarity + score.fragility) / 2).astype(np.float32)
    worst = max(float(values.max()) for values in visible.values()) or 1.0

    best = None
    for name in visible:
        cost = hidden / worst * visible[name] + (1 - hidden) * soft[name]
        place = np.unravel_index(cost.argmin(), cost.shape)
        if best is None or cost[place] < best[0]:
            best = (cost[place], name, *map(int, place))
    _, name, pattern, x, y = best
    similarity = score_places(mask[name], codes[pattern:pattern + 1], is_data).similarity[0, x, y]
    return Region(name, x, y, formats[pattern], float(similarity))
