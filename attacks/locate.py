"""locate: a thief who knows the scheme but not the place looks for a code in the mask, then clears or fills it.

The paper (sections 3.3.2 and 4.4) takes it that a code without its finder patterns can't be seen. It can, where it breaks what
pruning leaves behind; `locate` says how well, and `clear` and `fill` do to the place what a thief would.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from scipy import fft
from scipy.special import xlogy

from attacks.noise import add_noise_weights, draw_in_kernels, keep_only
from pruner.qr_code import geometry as qr_code
from pruner.masks import Mask, weights_per_kernel
from pruner.qr_code.placement import MANY, class_log_probabilities, natural_probabilities
from utils.errors import UserError


@dataclass(frozen=True)
class Found:
    """A block that looks like a code: `size` x `size` kernels from output channel start_x and input channel start_y on.

    score: log-likelihood ratio in nats. The largest of an unsigned ticket is rarely above 15.
    """

    layer: str
    start_x: int
    start_y: int
    version: int
    score: float

    @property
    def size(self) -> int:
        """Modules along one side."""
        return qr_code.code_size(self.version)


def locate(mask: Mask, versions: Iterable[int] = qr_code.VERSIONS, limit: int = 10) -> list[Found]:
    """Blocks most likely to hold a code, best first, by a scan over all layers, offsets and code sizes that fit.

    The statistic of a block is a log-likelihood ratio over its data modules. Without a code, how many weights a kernel
    holds is binomial with a probability that depends on its row and its column (`placement.natural_probabilities`).
    With a code, all modules follow one distribution, whatever their channels: either of the number of weights per
    kernel (0, 1, 2, more), or only of whether a kernel is occupied; the larger ratio counts. So a code shows by its
    density in a fuller or emptier layer; by kernels that are empty while others hold the weights of several, where
    density fits; and by channels that are as full as their neighbours, where that fits too.

    The plainer ratio, of two occupancies (inside, outside) against one, does not work: in real masks channels differ so
    much that blocks of theirs beat a code, in deep layers by far. The rest of the layer is not fitted anew for each
    block, which understates a code that covers most of its layer, but leaves sums: every size costs three FFTs a layer.

    Args:
        mask: a suspect's, or a victim's.
        versions: QR versions looked for, 1 to 40.
        limit: at most so many are returned. Blocks that share more than half of the smaller one with a better one are
            left out.
    Returns:
        Found, by falling score; empty if no code of these sizes fits any layer. Of equals the first in order of layer,
        version, start_x, start_y comes first.
    """
    of_shape = defaultdict(list)
    for name, layer in mask.items():
        of_shape[tuple(layer.shape)].append(name)
    versions, order = sorted(set(versions)), {name: index for index, name in enumerate(mask)}
    found = []
    for shape, names in of_shape.items():
        fitting = [version for version in versions if qr_code.code_size(version) <= min(shape[:2])]
        if not fitting:
            continue
        maps = {name: _spectra(mask[name]) for name in names}
        for version in fitting:
            is_data = qr_code.data_modules(version)
            template = np.conj(fft.fft2(is_data.astype(np.float64), shape[:2]))
            for name in names:
                ratio = _ratio(maps[name], template, len(is_data), int(is_data.sum()))
                found += [Found(name, x, y, version, score) for x, y, score in _peaks(ratio, len(is_data), limit)]
    found.sort(key=lambda block: (-block.score, order[block.layer], block.version, block.start_x, block.start_y))
    kept = []
    for block in found:
        if len(kept) < limit and not any(_same_place(block, better) for better in kept):
            kept.append(block)
    return kept


def _spectra(layer: torch.Tensor) -> list[np.ndarray]:
    """Fourier transforms of what is summed over blocks, two real maps [out, in] in each complex one."""
    counts, area = weights_per_kernel(layer), layer[0, 0].numel()
    log_class = class_log_probabilities(natural_probabilities(counts.sum(1), counts.sum(0), area), area)
    by_count = np.take_along_axis(log_class, np.minimum(counts, MANY)[None], 0)[0]
    by_occupancy = np.where(counts > 0, np.log(-np.expm1(log_class[0])), log_class[0])
    maps = [by_count, by_occupancy, *(counts == number for number in range(MANY)), np.zeros(counts.shape)]
    return [fft.fft2(first + 1j * second) for first, second in zip(maps[::2], maps[1::2])]


def _ratio(maps: list[np.ndarray], template: np.ndarray, size: int, modules: int) -> np.ndarray:
    """The statistic at every offset: float64 [out - size + 1, in - size + 1]."""
    rows, columns = (length - size + 1 for length in template.shape)
    sums = []
    for spectrum in maps:
        # the template is real, so the two maps stay apart
        pair = fft.ifft2(spectrum * template)[:rows, :columns]
        sums += [pair.real, pair.imag]
    by_count, by_occupancy, *numbers = sums[:2 + MANY]
    numbers = [number.round().astype(np.int32) for number in numbers]
    numbers.append(modules - sum(numbers))
    terms = xlogy(np.arange(modules + 1), np.arange(modules + 1))  # n log n, of whole numbers only: a table is faster
    uniform_counts = sum(terms[number] for number in numbers) - terms[modules]
    uniform_occupancy = terms[numbers[0]] + terms[modules - numbers[0]] - terms[modules]
    return np.maximum(uniform_counts - by_count, uniform_occupancy - by_occupancy)


def _peaks(ratio: np.ndarray, size: int, limit: int) -> list[tuple[int, int, float]]:
    """The `limit` largest values (x, y, value), none within half a block of a larger one. Overwrites `ratio`."""
    peaks, reach = [], size // 2
    while len(peaks) < limit and ratio.max() > -np.inf:
        x, y = map(int, np.unravel_index(ratio.argmax(), ratio.shape))
        peaks.append((x, y, float(ratio[x, y])))
        ratio[max(0, x - reach):x + reach + 1, max(0, y - reach):y + reach + 1] = -np.inf
    return peaks


def _same_place(first: Found, second: Found) -> bool:
    """Whether two blocks share more than half of the smaller one."""
    if first.layer != second.layer:
        return False
    shared = [min(a + first.size, b + second.size) - max(a, b)
              for a, b in ((first.start_x, second.start_x), (first.start_y, second.start_y))]
    return min(shared) > 0 and 2 * shared[0] * shared[1] > min(first.size, second.size) ** 2


def clear(mask: Mask, weights: Mapping[str, torch.Tensor], found: Found) -> tuple[Mask, dict[str, torch.Tensor]]:
    """Empty all kernels of a block.

    Args:
        mask: where weights are.
        weights: complete state_dict.
        found: the block.
    Returns:
        mask and weights without the weights of the block; what was given is not changed.
    Raises:
        UserError: the block is not in the mask.
    """
    window = _window(mask, found)
    kept = mask[found.layer].clone()
    kept[window] = False
    cleared = Mask({**mask, found.layer: kept})
    return cleared, keep_only(Mask({found.layer: kept}), weights)


def fill(mask: Mask, weights: Mapping[str, torch.Tensor], found: Found, noise: float,
         seed: int) -> tuple[Mask, dict[str, torch.Tensor]]:
    """Occupy the empty kernels of a block with noise weights, so that no zero of a code is left.

    Each gets as many weights, at random positions, as the layer's occupied kernels hold on average (rounded, at least
    1).

    Args:
        mask: where weights are.
        weights: complete state_dict.
        found: the block.
        noise: standard deviation of the new weights, which are drawn from a normal distribution.
        seed: of positions and weights.
    Returns:
        mask and weights with these; what was given is not changed.
    Raises:
        UserError: the block is not in the mask.
    """
    window = _window(mask, found)
    layer = mask[found.layer]
    counts, area = weights_per_kernel(layer), layer[0, 0].numel()
    each = max(1, round(float(counts[counts > 0].mean()))) if counts.any() else 1
    random = np.random.default_rng(seed)
    drawn = draw_in_kernels(counts[window] == 0, each, area, random)
    added = torch.zeros_like(layer)
    added[window] = torch.from_numpy(drawn).reshape(added[window].shape)
    return add_noise_weights(mask, weights, {found.layer: added}, noise, random)


def locate_and_strike(mask: Mask, weights: Mapping[str, torch.Tensor], then: str, noise: float,
                      seed: int) -> tuple[Mask, dict[str, torch.Tensor]]:
    """Clear (`then` is "clear") or fill ("fill") the block that looks most like a code.

    Raises UserError if no code fits any layer. See `locate`, `clear` and `fill` for the rest.
    """
    found = locate(mask, limit=1)
    if not found:
        raise UserError("--arch: no layer of this network has room for a code; there is nothing to locate")
    return clear(mask, weights, found[0]) if then == "clear" else fill(mask, weights, found[0], noise, seed)


def _window(mask: Mask, found: Found) -> tuple[slice, slice]:
    if found.layer not in mask:
        raise UserError(f"no layer {found.layer} to find a block in; the mask has {', '.join(mask)}")
    out, into = mask[found.layer].shape[:2]
    if min(found.start_x, found.start_y) < 0 or found.start_x + found.size > out or found.start_y + found.size > into:
        raise UserError(f"a block of {found.size}x{found.size} kernels at ({found.start_x}, {found.start_y}) is not "
                        f"inside layer {found.layer} with its {out}x{into}")
    return slice(found.start_x, found.start_x + found.size), slice(found.start_y, found.start_y + found.size)
