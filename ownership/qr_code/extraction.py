"""Reading a signature back out of a suspect's masks (paper, sections 3.3.2 and 3.4, scheme V2)."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ownership.qr_code import soft_decoding
from ownership.qr_code.claim import CodeClaim
from ownership.qr_code.evidence import Evidence, agreement, freedom
from ownership.qr_code.readers import read_all
from ownership.qr_code.scan import scan
from ownership.qr_code.soft_decoding import SoftReading, read_softly
from ownership.qr_code.window import Window, cleaned, window_of
from ownership.suspects.reading import Suspect
from pruner.qr_code import geometry as qr_code
from pruner.qr_code.embedding import Place, Wish, named_layer
from pruner.masks import Mask
from pruner.qr_code.geometry import CodeFormat
from utils.errors import UserError

SOFT_READER = "ordered statistics"
STANDS_OUT = 4.5  # standard deviations; chance alone gives about 5 somewhere in a network
SEARCHED_VERSIONS = (3, 4, 5, 6)  # embed_qrcode.py takes the smallest of 3 and up that holds the text


@dataclass(frozen=True)
class Flips:
    """Data modules that differ from the claimed code. lost: ones found empty; added: zeros found occupied.

    ones, zeros: how many there are of each in the claimed code.
    """

    lost: int
    added: int
    ones: int
    zeros: int

    @property
    def data_modules(self) -> int:
        return self.ones + self.zeros

    @property
    def count(self) -> int:
        return self.lost + self.added

    @property
    def share(self) -> float:
        return self.count / self.data_modules


@dataclass(frozen=True)
class Extraction:
    """What was found at the places of one code.

    modules: bool [size, size], the code with its function patterns put back; of several copies, what most of them show.
    texts: reader -> text or None. soft: how the soft decoder came to its text, None if to none. flips, evidence: against
    the claimed code, all copies together, None where no signature was given.
    """

    code_format: CodeFormat
    modules: np.ndarray
    texts: dict[str, str | None]
    soft: SoftReading | None
    flips: Flips | None
    evidence: Evidence | None

    @property
    def text(self) -> str | None:
        """What the first successful reader read."""
        return next((text for text in self.texts.values() if text is not None), None)

    def shows(self, signature: str) -> bool:
        """Whether any reader read exactly this text."""
        return signature in self.texts.values()


def count_flips(modules: np.ndarray, signature: str, code_format: CodeFormat) -> Flips:
    """Compare data modules, bool [size, size], with the signature's code."""
    code, is_data = qr_code.encode(signature, code_format), qr_code.data_modules(code_format.version)
    return Flips(int((code & ~modules & is_data).sum()), int((~code & modules & is_data).sum()),
                 int((code & is_data).sum()), int((~code & is_data).sum()))


def candidate_formats(mask: Mask, wish: Wish) -> list[CodeFormat]:
    """All formats that a code at the wished place could have, of both polarities.

    Raises UserError if there is no such layer, or no code fits there.
    """
    rows, columns = named_layer(mask, wish.layer).shape[:2]
    room = min(rows - wish.start_x, columns - wish.start_y)
    versions = [v for v in qr_code.VERSIONS if qr_code.code_size(v) <= room] if wish.version is None else [wish.version]
    if not versions:
        raise UserError(f"--start_x {wish.start_x} --start_y {wish.start_y}: no code fits there into layer {wish.layer} "
                        f"({rows}x{columns})")
    return [replace(code_format, light=light) for version in versions for light in (False, True)
            for code_format in wish.formats(version)]


def extract(suspect: Suspect, places: Sequence[Place], formats: Sequence[CodeFormat], signature: str | None = None,
            searched: int = 1, max_false: float = soft_decoding.MAX_FALSE,
            restarts: int = soft_decoding.RESTARTS) -> Extraction:
    """Read the copies of one code at `places`, in every one of `formats`, and return what says most.

    ZXing and zbar read what most copies show, then each copy; the soft decoder reads all together, and starts anew with
    random reliabilities only where nobody read anything. With a signature: the format in which one of them reads it, else
    the one closest to its code. Without: the first format that any reads, else the first.

    Args:
        searched: places and mask patterns that somebody who makes up a claim could choose from (see
            `ownership.qr_code.evidence.places_for`), for the corrected p-value.
        max_false, restarts: see `ownership.qr_code.soft_decoding.read_softly`.
    Raises:
        UserError: see `window_of`; or the signature fits none of the formats.
    """
    if signature is not None:
        size = len(signature.encode("utf-8"))
        written, formats = formats, [f for f in formats if size <= qr_code.capacity(f.version, f.error_correction)]
        if not formats:
            levels = ", ".join(sorted({f.error_correction for f in written}))
            raise UserError(f"--signature: {size} bytes do not fit any code of level {levels} that fits there; is the place right, and "
                            "are --version and --error_correction, if given?")
    windows = {version: [window_of(suspect, place, version) for place in places] for version in {f.version: 0 for f in formats}}

    def look(restarts: int) -> list[Extraction]:
        soft = None
        for version, shown in windows.items():
            soft = soft or read_softly(shown, [f for f in formats if f.version == version], len(windows), max_false, restarts)
        return [_show(windows[f.version], f, signature, searched, soft) for f in formats]

    found = look(0)
    if restarts and not any(extraction.text is not None for extraction in found):
        found = look(restarts)
    if signature is None:
        return next((extraction for extraction in found if extraction.text is not None), found[0])
    shown = next((extraction for extraction in found if extraction.shows(signature)), None)
    return shown or min(found, key=lambda extraction: extraction.flips.share)


def extract_claimed(suspect: Suspect, claim: CodeClaim, max_false: float = soft_decoding.MAX_FALSE,
                    restarts: int = soft_decoding.RESTARTS) -> Extraction:
    """Read a suspect where the claim says, after the owner's cleaning if the claim has a threshold. Raises UserError as
    `extract`."""
    return extract(cleaned(suspect, claim), claim.places, [claim.code_format], claim.signature,
                   math.prod(freedom(suspect.mask, claim).values()), max_false, restarts)


def extract_of_masks(suspect: Suspect, read: Callable[[Suspect, float, int], tuple[Sequence[Place], Extraction]], signature: str | None,
                     max_false: float = soft_decoding.MAX_FALSE,
                     restarts: int = soft_decoding.RESTARTS) -> tuple[Suspect, Sequence[Place], Extraction]:
    """Read the suspect as it is and without what was filled into it. Of the two tries, which are paid for, that counts which shows the
    signature, or any text where there is none, else the one with the smaller p-value.

    Args:
        read: from a suspect, the bound on false texts and the number of restarts to the places and what they show.
    """
    masks = suspect.masks
    # `read` starts without restarts itself; of two masks neither waits for the other's
    for attempt in dict.fromkeys((0, restarts) if len(masks) > 1 else (restarts,)):
        shown = [(one, *read(one, max_false / len(masks), attempt)) for one in masks]
        hits = [each for each in shown if (each[2].text is not None if signature is None else each[2].shows(signature))]
        if hits:
            break
    one, places, found = min(hits or shown, key=lambda each: each[2].evidence.p_value if each[2].evidence else 0)
    evidence = found.evidence and replace(found.evidence, searched=found.evidence.searched * len(masks))
    return one, places, replace(found, evidence=evidence)


def _show(windows: Sequence[Window], code_format: CodeFormat, signature: str | None, searched: int,
          soft: SoftReading | None) -> Extraction:
    """What the windows show in one format."""
    copies = [window.occupied for window in windows]
    most = 2 * np.sum(copies, axis=0) > len(copies)
    texts: dict[str, str | None] = {}
    for modules in [most] if len(copies) == 1 else [most, *copies]:
        for reader, text in read_all(qr_code.restore_patterns(modules, code_format)).items():
            texts[reader] = texts.get(reader) or text
    here = soft if soft is not None and soft.code_format == code_format else None
    texts[SOFT_READER] = here.text if here is not None else None
    flips = evidence = None
    if signature is not None:
        counts = [count_flips(modules, signature, code_format) for modules in copies]
        flips = Flips(*(sum(getattr(count, name) for count in counts) for name in ("lost", "added", "ones", "zeros")))
        evidence = agreement(windows, signature, code_format, searched)
    return Extraction(code_format, qr_code.restore_patterns(most, code_format), texts, here, flips, evidence)


def search_everywhere(suspect: Suspect, wish: Wish, signature: str | None = None, max_false: float = soft_decoding.MAX_FALSE,
                      restarts: int = soft_decoding.RESTARTS) -> tuple[list[Place], Extraction]:
    """Find the place by correlation (see `ownership.qr_code.scan`) and read there.

    Args:
        wish: of which the form of the code counts; without a version, those of SEARCHED_VERSIONS that fit are tried, smallest
            first, up to the first that is read.
    Returns:
        the place, and what it shows: the best one of those where something was read, else the most similar one.
    Raises:
        UserError: no layer has room for a code, or for one that holds the signature.
    """
    versions = [v for v in (SEARCHED_VERSIONS if wish.version is None else [wish.version])
                if any(min(layer.shape[:2]) >= qr_code.code_size(v) for layer in suspect.mask.values())]
    if not versions:
        raise UserError(f"--version: no layer has room for a code of version {wish.version or SEARCHED_VERSIONS[0]}")
    most_similar, searched = None, 0
    for version in versions:
        seen = scan(suspect.mask, [version], wish.error_correction, signature, wish.mask_pattern)
        searched += seen.searched
        for index, candidate in enumerate(seen.candidates):
            if index and candidate.deviations < STANDS_OUT:
                break
            found = extract(suspect, [candidate.place], [candidate.code_format], signature, searched, max_false / searched, 0)
            if found.text is not None and (signature is None or found.shows(signature)):
                return [candidate.place], found
            if most_similar is None or candidate.deviations > most_similar[0].deviations:
                most_similar = candidate, found
    if most_similar is None:
        size = len(signature.encode("utf-8"))
        enough = next((v for v in qr_code.VERSIONS if size <= qr_code.capacity(v, wish.error_correction)), None)
        raise UserError(f"--signature: no code of version {versions[0]} to {versions[-1]} holds its {size} bytes; " + (
            f"give --version {enough}, or a larger one that it was embedded in" if enough else
            f"none of level {wish.error_correction} does, see --error_correction"))
    best = most_similar[0]
    return [best.place], extract(suspect, [best.place], [best.code_format], signature, searched, max_false / searched,
                                 restarts)
