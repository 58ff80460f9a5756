"""The canonical form of a suspect: transforms undone that change no output, by the suspect's file alone.

Nothing here looks at a claim, so nothing here is a try.
"""

from collections.abc import Mapping

import numpy as np
import torch

from pruner.masks import Mask

ROUNDS = 6  # of fitting rows and columns to the modes, and the modes to what is left
BINS = 400
COUNTED = 200_000  # entries of a layer, at about as many of which the modes are looked for
SMOOTH = 0.15  # of the logarithms, when they are counted
VALLEY = 0.7  # between two modes the density falls below this share of the lower one's; one skew mode has no valley
CERTAIN = 5.0  # standard deviations of the counts, by which it does
SMALLEST = 0.05, 0.002  # share of a layer's entries in the lower mode, and in the upper one
FEWEST = 64  # entries of a layer, with which there is something to tell apart


def cut(mask: Mask, weights: Mapping[str, torch.Tensor]) -> Mask:
    """The mask without what was filled into it: in each layer whose magnitudes have two modes, the entries of the upper one.

    A value in place of zeros, or noise, is small against the weights of its row and its column, whatever these were scaled by. So
    the logarithm of each magnitude is a row's number plus a column's plus one of two modes'; rows and columns are fitted by least
    squares given which mode each entry is in, and the modes by the deepest valley of what is left.
    """
    return Mask({name: kept & _upper(weights[name], kept) for name, kept in mask.items()})


def _upper(weight: torch.Tensor, kept: torch.Tensor) -> torch.Tensor:
    """bool like the weight [out, in, height, width], True in the upper of two modes; everywhere, where there is one."""
    everywhere = torch.ones_like(kept)
    logs, there = torch.where(kept, weight.abs(), 1.0).log().flatten(2), kept.flatten(2).float()
    if there.sum() < FEWEST:
        return everywhere
    step = 1 + logs.numel() // COUNTED
    counted = kept.flatten()[::step]
    modes = torch.zeros_like(logs)  # of each entry, the logarithm
    for _ in range(ROUNDS):
        left = logs - _rows_and_columns(logs - modes, there)
        found = _two_modes(left.flatten()[::step][counted].numpy())
        if found is None:
            return everywhere
        low, high, valley = found
        modes = torch.where(left > valley, high, low)
    return (left > valley).view_as(kept)


def _rows_and_columns(values: torch.Tensor, there: torch.Tensor) -> torch.Tensor:
    """What a row and a column add to each of the values [out, in, area] that are there, [out, in, 1]: by turns the mean of what is
    left of each."""
    sums, counts = (values * there).sum(2), there.sum(2)
    columns = torch.zeros_like(sums[:1])
    for _ in range(2):
        rows = (sums - counts * columns).sum(1, keepdim=True) / counts.sum(1, keepdim=True).clamp_min(1)
        columns = (sums - counts * rows).sum(0, keepdim=True) / counts.sum(0, keepdim=True).clamp_min(1)
    return (rows + columns)[:, :, None]


def _two_modes(values: np.ndarray) -> tuple[float, float, float] | None:
    """Means of two modes and the valley between them; None where there is no valley."""
    counts, edges = np.histogram(values, BINS)
    at, width = (edges[:-1] + edges[1:]) / 2, edges[1] - edges[0]
    near = np.exp(-0.5 * ((at[:, None] - at) / max(SMOOTH, width)) ** 2) @ counts
    peak = np.minimum(np.maximum.accumulate(near), np.maximum.accumulate(near[::-1])[::-1])  # the lower one of both sides
    below = np.cumsum(counts) / counts.sum()
    valleys = (peak - near > CERTAIN * np.sqrt(peak + near)) & (near < VALLEY * peak) & (below > SMALLEST[0]) & (below < 1 - SMALLEST[1])
    if not valleys.any():
        return None
    lowest = np.where(valleys, near / np.maximum(peak, 1), np.inf).argmin()
    low, high = (np.average(at[part], weights=counts[part]) for part in (slice(lowest + 1), slice(lowest + 1, None)))
    return float(low), float(high), float(edges[lowest + 1])
