"""Reading a signature back out of a suspect's masks (paper, sections 3.3.2 and 3.4, scheme V2)."""

from dataclasses import dataclass

import numpy as np

from ownership.readers import read_all
from pruner import qr_code
from pruner.embedding import named_layer, occupancy
from pruner.masks import Mask
from pruner.qr_code import CodeFormat
from utils.errors import UserError


@dataclass(frozen=True)
class Flips:
    """Data modules that differ from the claimed code. lost: ones found empty; added: zeros found occupied."""

    lost: int
    added: int
    data_modules: int

    @property
    def count(self) -> int:
        return self.lost + self.added

    @property
    def share(self) -> float:
        return self.count / self.data_modules


@dataclass(frozen=True)
class Extraction:
    """What was found at one place.

    modules: bool [size, size], the code with its function patterns put back. texts: reader -> text or None.
    flips: against the claimed code, None where no signature was given.
    """

    code_format: CodeFormat
    modules: np.ndarray
    texts: dict[str, str | None]
    flips: Flips | None

    @property
    def text(self) -> str | None:
        """What the first successful reader read."""
        return next((text for text in self.texts.values() if text is not None), None)

    def shows(self, signature: str) -> bool:
        """Whether any reader read exactly this text."""
        return signature in self.texts.values()


def region_modules(mask: Mask, layer: str, start_x: int, start_y: int, version: int) -> np.ndarray:
    """The window of a layer where a code would lie: bool [size, size], True where a kernel has weights.

    Raises:
        UserError: no such layer, or the window leaves it.
    """
    occupied, size = occupancy(named_layer(mask, layer)), qr_code.code_size(version)
    if start_x + size > occupied.shape[0] or start_y + size > occupied.shape[1]:
        raise UserError(f"--start_x {start_x} --start_y {start_y}: a version {version} code ({size}x{size}) at this "
                        f"offset leaves layer {layer} ({occupied.shape[0]}x{occupied.shape[1]})")
    return occupied[start_x:start_x + size, start_y:start_y + size]


def count_flips(modules: np.ndarray, signature: str, code_format: CodeFormat) -> Flips:
    """Compare data modules, bool [size, size], with the signature's code."""
    code, is_data = qr_code.encode(signature, code_format), qr_code.data_modules(code_format.version)
    return Flips(int((code & ~modules & is_data).sum()), int((~code & modules & is_data).sum()), int(is_data.sum()))


def candidate_formats(mask: Mask, layer: str, start_x: int, start_y: int, version: int | None,
                      error_correction: str, mask_pattern: int | None) -> list[CodeFormat]:
    """All formats that a code at this place could have, where a claim does not say.

    Raises UserError if there is no such layer, or no code fits there.
    """
    rows, columns = named_layer(mask, layer).shape[:2]
    room = min(rows - start_x, columns - start_y)
    versions = [v for v in qr_code.VERSIONS if qr_code.code_size(v) <= room] if version is None else [version]
    if not versions:
        raise UserError(f"--start_x {start_x} --start_y {start_y}: no code fits there into layer {layer} "
                        f"({rows}x{columns})")
    return [CodeFormat(v, error_correction, pattern) for v in versions
            for pattern in (qr_code.MASK_PATTERNS if mask_pattern is None else [mask_pattern])]


def extract(mask: Mask, layer: str, start_x: int, start_y: int, formats: list[CodeFormat],
            signature: str | None = None) -> Extraction:
    """Read the place in every one of `formats` and return the one that says most.

    With a signature: one in which a reader reads it, else the one closest to its code. Without: the first that a
    reader reads, else the first.

    Raises:
        UserError: see `region_modules`; or the signature fits none of the formats.
    """
    if signature is not None:
        size = len(signature.encode("utf-8"))
        formats = [f for f in formats if size <= qr_code.capacity(f.version, f.error_correction)]
        if not formats:
            raise UserError(f"--signature: {size} bytes do not fit any code that fits there; is the place right?")
    best = None
    for code_format in formats:
        found = region_modules(mask, layer, start_x, start_y, code_format.version)
        modules = qr_code.restore_patterns(found, code_format)
        flips = None if signature is None else count_flips(found, signature, code_format)
        extraction = Extraction(code_format, modules, read_all(modules), flips)
        if extraction.shows(signature) if signature is not None else extraction.text is not None:
            return extraction
        if best is None or (flips is not None and flips.share < best.flips.share):
            best = extraction
    return best
