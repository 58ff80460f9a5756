"""forge: a signature made up after a look at the model, that seems to have been in it all along (the invert process I).

(Paper, sections 3.2 and 4.4.) Nothing is written into the model. For every region there is a text whose code agrees with it far
better than chance would have it, and the owner's own decoder finds it. What that shows is what a claim is worth that was not
committed to before: `ownership.qr_code.evidence` keeps a p-value for it.
"""

from dataclasses import dataclass, replace

import numpy as np
from tqdm import tqdm

from pruner.qr_code import geometry as qr_code
from pruner.qr_code.embedding import Place
from pruner.qr_code.linear_code import LinearCode, linear_code
from pruner.masks import Mask, weights_per_kernel
from pruner.qr_code.ordered_statistics import decode
from pruner.qr_code.geometry import CodeFormat
from utils.errors import UserError

COUNTED = 3  # weights of a kernel that say something
LETTER = (False, True, True)  # the first three bits of small letters, and of five other characters


@dataclass(frozen=True)
class Forgery:
    """A made-up signature. agreement: how much fuller the kernels at its parity modules' ones are than those at the zeros, in
    standard deviations of what chance gives."""

    signature: str
    place: Place
    code_format: CodeFormat
    agreement: float


def forge(mask: Mask, budget: int, length: int, version: int, error_correction: str, seed: int) -> Forgery:
    """Look at `budget` places and mask patterns drawn at random, and keep the text that agrees best.

    Args:
        mask: the model's.
        length: bytes of text; the longer it is, the more texts there are to choose from.
        seed: of the places and patterns.
    Raises:
        UserError: the text does not fit the code, or no layer has room for it.
    """
    if length > qr_code.capacity(version, error_correction):
        raise UserError(f"--length {length}: a version {version}-{error_correction} code holds "
                        f"{qr_code.capacity(version, error_correction)} bytes")
    size, is_data = qr_code.code_size(version), qr_code.data_modules(version)
    rooms = {name: (kept.shape[0] - size + 1, kept.shape[1] - size + 1) for name, kept in mask.items()
             if min(kept.shape[:2]) >= size}
    if not rooms:
        raise UserError(f"--version {version}: no layer of this network has room for a code of {size}x{size}")
    counts = {name: np.minimum(weights_per_kernel(mask[name]), COUNTED) for name in rooms}
    names, areas = list(rooms), np.array([high * wide for high, wide in rooms.values()], dtype=np.float64)
    random, best = np.random.default_rng(seed), None
    for _ in tqdm(range(budget), desc="places", unit="place", disable=None):
        name = names[random.choice(len(names), p=areas / areas.sum())]
        place = Place(name, *(int(random.integers(room)) for room in rooms[name]))
        code_format = CodeFormat(version, error_correction, int(random.integers(len(qr_code.MASK_PATTERNS))))
        window = counts[name][place.start_x:place.start_x + size, place.start_y:place.start_y + size][is_data]
        code = linear_code(code_format, length)
        bits = _letters(decode(window - window.mean(), _of_letters(code)))
        ones = code.encode(bits)[code.mixes_text]
        found = Forgery(code.text(bits), place, code_format, _agreement(window[code.mixes_text], ones))
        if best is None or found.agreement > best.agreement:
            best = found
    return best


def _is_free(bits: int) -> np.ndarray:
    """bool [bits], True for those of a text of small letters that are not alike in all of them."""
    return np.arange(bits) % 8 >= len(LETTER)


def _of_letters(code: LinearCode) -> LinearCode:
    """The texts of small letters among a code's, by their five free bits a letter."""
    free = _is_free(code.generator.shape[1])
    fixed = np.resize(np.array(LETTER), int((~free).sum()))
    return replace(code, offset=code.offset ^ ((code.generator[:, ~free].astype(np.int64) @ fixed) % 2 == 1),
                   generator=code.generator[:, free])


def _letters(free_bits: np.ndarray) -> np.ndarray:
    """All bits of the text with these free ones."""
    bits = np.resize(np.array((*LETTER, *[False] * 5)), len(free_bits) // 5 * 8)
    bits[_is_free(len(bits))] = free_bits
    return bits


def _agreement(window: np.ndarray, ones: np.ndarray) -> float:
    if window.std() == 0 or ones.all() or not ones.any():
        return 0.0
    return float((window[ones].mean() - window[~ones].mean()) / (window.std() * np.sqrt(1 / ones.sum() + 1 / (~ones).sum())))
