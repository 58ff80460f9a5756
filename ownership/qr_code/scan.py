"""Looking for a code in all layers, at all offsets, where nobody says where it lies: by correlation, before any decoding.

With the signature, every code of it is compared with every window. Without, what is the same for all texts of a length
(header, length and padding) is looked for: more than half of a code that holds a short text, nothing of a full one.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from pruner.qr_code import geometry as qr_code
from pruner.qr_code.embedding import Place, occupancy
from pruner.qr_code.linear_code import linear_code
from pruner.masks import Mask
from pruner.qr_code.geometry import CodeFormat

FEWEST_KNOWN = 40  # modules that must be known of a length for it to be looked for
BATCH = 2**24  # floats per inverse transform


@dataclass(frozen=True)
class Candidate:
    """A window that agrees with a code better than chance.

    deviations: of the agreement from its mean under the hypergeometric distribution, in standard deviations.
    """

    place: Place
    code_format: CodeFormat
    deviations: float


@dataclass(frozen=True)
class Scan:
    """candidates: the best first, one per window and format. searched: windows times codes compared with each, in both
    polarities."""

    candidates: list[Candidate]
    searched: int


def scan(mask: Mask, versions: Sequence[int], error_correction: str, signature: str | None = None,
         mask_pattern: int | None = None, keep: int = 8) -> Scan:
    """Compare every window of every layer with the signature's codes, or with what all codes have in common.

    Args:
        versions: of the codes looked for; those that don't hold the signature are left out.
        keep: candidates to return.
    """
    patterns = qr_code.MASK_PATTERNS if mask_pattern is None else (mask_pattern,)
    best: dict[tuple[Place, CodeFormat], float] = {}
    searched = 0
    for version in versions:
        templates = list(_templates(version, error_correction, signature, patterns))
        size = qr_code.code_size(version)
        for name, layer in mask.items():
            if min(layer.shape[:2]) < size or not templates:
                continue
            windows = (layer.shape[0] - size + 1) * (layer.shape[1] - size + 1)
            for compared, codes in templates:
                searched += 2 * windows * len(codes)
                deviations = _correlate(occupancy(layer), compared, codes)
                turned, flat = deviations.reshape(-1) < 0, np.abs(deviations).reshape(-1)  # codes whose ones are light disagree
                for index in np.argpartition(flat, -min(keep, len(flat)))[-min(keep, len(flat)):]:
                    pattern, x, y = np.unravel_index(index, deviations.shape)
                    found = Place(name, int(x), int(y)), CodeFormat(version, error_correction, patterns[pattern],
                                                                                    bool(turned[index]))
                    best[found] = max(best.get(found, -np.inf), float(flat[index]))
    ranked = sorted(best.items(), key=lambda item: -item[1])[:keep]
    return Scan([Candidate(place, code_format, value) for (place, code_format), value in ranked], max(1, searched))


def _templates(version: int, error_correction: str, signature: str | None,
               patterns: Sequence[int]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(compared, codes): bool [size, size], modules to look at; bool [patterns, size, size], how they should be."""
    longest, is_data = qr_code.capacity(version, error_correction), qr_code.data_modules(version)
    lengths = range(1, longest + 1) if signature is None else [len(signature.encode("utf-8"))]
    for length in lengths:
        if length > longest:
            continue
        codes, compared = np.zeros((len(patterns), *is_data.shape), dtype=bool), is_data.copy()
        for index, pattern in enumerate(patterns):
            code_format = CodeFormat(version, error_correction, pattern)
            if signature is not None:
                codes[index] = qr_code.encode(signature, code_format)
                continue
            code = linear_code(code_format, length)
            compared[is_data] = ~code.depends_on_text
            codes[index][is_data] = code.offset
        if signature is not None or compared.sum() >= FEWEST_KNOWN:
            yield compared, codes & compared


def _correlate(occupied: np.ndarray, compared: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """Standardised agreement of every window: float [codes, out - size + 1, in - size + 1]."""
    shape = torch.Size(occupied.shape)
    rows, columns = (length - compared.shape[0] + 1 for length in occupied.shape)
    layer = torch.fft.rfft2(torch.from_numpy(occupied).float())

    def sums(pictures: np.ndarray) -> np.ndarray:  # of the occupied modules under each picture's ones
        parts = torch.from_numpy(pictures).float().split(max(1, BATCH // occupied.size))
        return torch.cat([torch.fft.irfft2(layer * torch.fft.rfft2(part, s=shape).conj(), s=shape)[:, :rows, :columns]
                          for part in parts]).round().double().numpy()

    modules, there = compared.sum(), sums(compared[None])
    ones = codes.sum((1, 2))[:, None, None].astype(float)
    variance = there * (modules - there) * ones * (modules - ones) / (modules**2 * (modules - 1.0))
    surplus = sums(codes) - there * ones / modules
    return np.divide(surplus, np.sqrt(variance), out=np.zeros_like(surplus), where=variance > 0)
