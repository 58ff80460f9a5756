"""Scheme V2, the check: what the suspect shows where the claim says, against chance; and two codes beside each other."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import partial
from typing import Any

import numpy as np
import torch

from ownership.claims.case import Aligned, Case, numbering, price_of, suspects_of, tried
from ownership.claims.commitment import Refused
from ownership.claims.p_values import corrected, scientific, written
from ownership.claims.scheme import Comparison, Remains, SchemeCheck
from ownership.claims.verdict import LEVEL, NOT_SHOWN, SHOWN, Check, Exhibit, Figure, Standing
from ownership.qr_code import window
from ownership.qr_code.claim import CodeClaim
from ownership.qr_code.drawn_text import Belief
from ownership.qr_code.evidence import freedom
from ownership.qr_code.extraction import Extraction, extract_claimed, extract_of_masks
from ownership.qr_code.readers import write_code
from ownership.qr_code.soft_decoding import RESTARTS, log2_texts
from ownership.suspects.reading import Suspect
from pruner.masks import Mask
from pruner.qr_code import geometry as qr_code
from pruner.qr_code.embedding import Place
from utils.errors import UserError

LARGEST_SIDE = 1 << 21  # of a layer, channels
LEGEND = """Each square is one kernel of the suspect, a small block of its weights. Black: it has weights, white: it has none, as in
the claimed code. Dark red: it has weights where the claimed code has none. Light red: it has none where the claimed code has some.
Grey: not measured, since those squares are the same in every QR code and no mark. ZXing and zbar are common readers of QR codes;
ordered statistics is this project's own decoder of damaged ones."""
NOT_THERE = "no code was found here"


class Checker(SchemeCheck):
    """Of a part `CodeClaim`."""

    part: CodeClaim

    def check(self, case: Case) -> Check:
        return self._look(case, case.given.proofs.get("restarts", RESTARTS))

    def check_on_own_model(self, case: Case) -> Check:
        """Without restarts: it is not damaged."""
        return self._look(case, restarts=0)

    def _look(self, case: Case, restarts: int) -> Check:
        return code(self.part, case.suspect, case.standing, case.given.max_false, restarts, case.aligned)

    def left_out(self, mask: Mask) -> Mapping[str, torch.Tensor]:
        return window.region_kernels(mask, self.part.places, self.part.version)

    def cleaned(self, suspect: Suspect) -> Suspect:
        return window.cleaned(suspect, self.part)

    def is_drawn_from(self, reference: Suspect) -> bool:
        return self.part.derived and reference.sha256() == self.part.ticket_sha256

    def left_after(self, suspect: Suspect) -> Remains:
        """What the owner reads. Raises UserError for a claim about another network."""
        _, _, reading = extract_of_masks(suspect, lambda one, *how: (self.part.places, extract_claimed(one, self.part, *how)),
                                         self.part.signature)
        flips, evidence = reading.flips, reading.evidence
        return Remains({
            "code_lost": flips.lost, "code_ones": flips.ones, "code_added": flips.added, "code_zeros": flips.zeros,
            **{f"read by {reader}": text == self.part.signature for reader, text in reading.texts.items()},
            "p_value": evidence.p_value, "p_corrected": evidence.p_corrected}, partial(write_code, reading.modules))

    def left_in_words(self, row: Mapping[str, Any], prefix: str) -> tuple[str, str]:
        first = f"{prefix}read by "
        readers = [column.removeprefix(first) for column, value in row.items() if column.startswith(first) and value]
        lost, ones, added, zeros, p = (row[f"{prefix}{name}"] for name in ("code_lost", "code_ones", "code_added", "code_zeros",
                                                                           "p_corrected"))
        return "code", (f"{lost} of {ones} ones lost, {added} of {zeros} zeros added, read by "
                        f"{', '.join(readers) or 'nobody'}, p {p:.1e}")

    def told(self) -> Mapping[str, Any]:
        claim = self.part
        return {"max_name": claim.layer, "start_x": claim.start_x, "start_y": claim.start_y, "version": claim.version,
                "error_correction": claim.error_correction, "mask_pattern": claim.mask_pattern}

    def is_hit(self, layer: str, start_x: int, start_y: int) -> bool:
        size = self.part.code_format.size
        return any(layer == place.layer and 2 * abs(start_x - place.start_x) < size and 2 * abs(start_y - place.start_y) < size
                   for place in self.part.places)

    @classmethod
    def compare(cls, parts: Sequence[CodeClaim | None], checks: Sequence[Check | None]) -> Comparison:
        """How the two codes lie to each other, and how much of each is there."""
        shown = [check if check is not None and check.exhibit is not None else None for check in checks]
        rows, regions = [("code", tuple(in_words(check) if check else "" for check in shown))] if any(shown) else [], None
        # in two numberings of the channels the same kernel has two places
        if all(shown) and len({check.figures.get("aligned_to") for check in shown}) == 1:
            regions = compare_regions(*parts)
            rows.append(("regions", (f"overlap in {regions.overlap} {'module' if regions.overlap == 1 else 'modules'}; in "
                                     f"{regions.contested} of these the codes contradict each other"
                                     if regions.overlap else "do not overlap",)))
        elif all(shown):
            rows.append(("regions", ("not comparable: the codes show in different numberings of the channels",)))
        return Comparison(tuple(rows), {"regions": regions and vars(regions)})


def code(claimed: CodeClaim, suspect: Suspect, standing: Standing, level: float = LEVEL, restarts: int = RESTARTS,
         aligned: Sequence[Aligned] = ()) -> Check:
    """V2: what the suspect shows where the claim says.

    A derived text counts, by `ownership.qr_code.drawn_text`, corrected for all that its maker could choose
    (`ownership.qr_code.evidence.freedom`) and for the nonces that he could try. A text that somebody chose can have been guessed,
    or made up to fit: what agrees with it, and who reads it, is told and never counts.

    The suspect without what was filled into it, and other numberings of its channels in `aligned`, are tried as well; of those that
    are counted, and its own, the smallest p-value counts, times their number (Bonferroni). What the others show is told.

    Raises Refused where the claim names a place that the network lacks.
    """
    try:
        counted, told = ([other for other in aligned if ("V2" in other.counted) == kind] for kind in (True, False))
        tries = tried(suspect, counted)
        best = _best_code(claimed, tries, standing, level, 0)
        if best.p > level and restarts:
            best = _best_code(claimed, tries, standing, level, restarts)
        where, numbers = numbering(tries[best.number], tries)
        if told:
            other = _best_code(claimed, told, standing, level, 0)
            where += (f"; aligned to {told[other.number].reference} p is {written(other.p)}, not counted: by a file that is not "
                      "the ticket whose hash the text is, any model can be made to show any code")
            numbers |= {"uncounted_p": scientific(other.p)}
        exhibit = exhibit_of(claimed, window.cleaned(suspects_of(tries)[best.number], claimed), best, numbers, level)
    except UserError as error:
        raise Refused(f"field 'v2': {error}") from None
    found, flips = best.found, best.found.flips
    readers = [reader for reader, text in found.texts.items() if text == claimed.signature]
    detail = (f"{flips.count} of {flips.data_modules} data modules differ; "
              + (f"text read by {', '.join(readers)}" if readers else "text not read") + where)
    figures = {"readers": found.texts, "lost": flips.lost, "added": flips.added, "data_modules": flips.data_modules,
               "derived": claimed.derived, **best.choices, **numbers}
    if claimed.derived:
        return Check("V2", SHOWN if best.p <= level else NOT_SHOWN, f"{detail}; {best.words}", best.p, figures, exhibit)
    there = "the text is there; anybody could have named it" if readers or best.p <= level else "a text that somebody chose"
    return Check("V2", NOT_SHOWN, f"{detail}; not counted: {there} (embed_qrcode.py --owner derives one)", None,
                 {**figures, "p_agreement": found.evidence.p_value, "p_any_text": found.evidence.p_any_text,
                  "p_reading": found.soft.false_probability if found.soft is not None else None,
                  "uncounted_p": scientific(best.p)}, exhibit)


@dataclass(frozen=True)
class Best:
    """Where of several numberings a suspect shows most. number: of the numbering. p: corrected, for their number too; words,
    choices: how it came about."""

    number: int
    found: Extraction
    p: Fraction
    words: str
    choices: Mapping[str, object]


def _best_code(claimed: CodeClaim, tries: Sequence[Suspect | Aligned], standing: Standing, level: float, restarts: int) -> Best:
    """Of all numberings, and of copies together or alone, what has the smallest p-value."""
    suspects = suspects_of(tries)
    shown = [extract_claimed(suspect, claimed, level, restarts) for suspect in suspects]
    tests = [(number, *test) for number, (found, suspect) in enumerate(zip(shown, suspects))
             for test in tests_of_code(found, suspect, claimed, isinstance(tries[number], Aligned))]
    number, p, choices = min(tests, key=lambda test: test[1] * math.prod(test[2].values()))
    if claimed.derived:
        choices |= {"nonces": standing.tries}
    elif standing is not Standing.COMMITTED:
        choices |= {"texts": math.ceil(2 ** log2_texts(claimed.signature))}
    return Best(number, shown[number], *corrected(p, choices | price_of(tries)))


def tests_of_code(found: Extraction, suspect: Suspect, claimed: CodeClaim,
                  renumbered: bool) -> Iterator[tuple[Fraction, dict[str, int]]]:
    """p for one place and form, and what could be chosen of these: of a derived text as `ownership.qr_code.drawn_text` says, of
    another that its code's parity agrees as well by chance.

    A derived text's copies are tested together, and each alone: where one is whole it need not pay for the others' places, but
    where the suspect was `renumbered`, since what all of them leave out decides how.
    """
    free = freedom(suspect.mask, claimed, renumbered)
    if not claimed.derived:
        yield Fraction(found.evidence.p_value), free
        return
    several = {"ways to take copies, together or alone": 2} if claimed.copies else {}
    shown = window.cleaned(suspect, claimed)
    windows = [window.window_of(shown, place, claimed.version) for place in claimed.places]
    readings = sum(text == claimed.signature for text in found.texts.values())
    yield Belief(windows, claimed.code_format, len(claimed.signature)).p_value(claimed.signature, readings), {**free, **several}
    for place, one in zip(claimed.places, windows if several else ()):  # readers have looked at all of them
        alone = replace(claimed, layer=place.layer, copies=())
        yield (Belief([one], claimed.code_format, len(claimed.signature)).p_value(claimed.signature, 0),
               {**(free if renumbered else freedom(suspect.mask, alone)), **several})


def exhibit_of(claimed: CodeClaim, suspect: Suspect, best: "Best", numbers: Mapping[str, object], level: float) -> Exhibit:
    """Each copy of the code as it lies in the suspect, and what was read. Raises UserError as
    `ownership.qr_code.window.window_of`."""
    expected, is_data = qr_code.encode(claimed.signature, claimed.code_format), qr_code.data_modules(claimed.version)
    figures, texts = [], best.found.texts
    for place in claimed.places:
        occupied = window.window_of(suspect, place, claimed.version).occupied
        figures.append(Figure(f"{place.layer}, start_x {place.start_x}, start_y {place.start_y}", occupied & is_data,
                              (occupied != expected) & is_data, is_data))
    lines = [(f"{reader}: nothing read", None) if text is None else (f"{reader}: ", text)
             for reader, text in texts.items()]
    if numbers.get("aligned_to"):
        lines.append(("channels in the numbering of\n", numbers["aligned_to"]))
    return Exhibit("the code as the suspect shows it", "the codes as the suspect shows them", LEGEND, tuple(figures),
                   tuple(lines), "" if best.p <= level or claimed.signature in texts.values() else NOT_THERE)


def in_words(check: Check) -> str:
    """Where a code lies and how much of it is there."""
    places = [f"{one.caption}: {int(one.wrong.sum())} wrong" for one in check.exhibit.figures]
    return (f"{check.figures['lost']} lost, {check.figures['added']} added of {check.figures['data_modules']} data modules; "
            + "; ".join(places))


# --- two codes --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Regions:
    """How two codes lie to each other, in modules, which are kernels. overlap: in the squares of both. contested: of these, data
    modules of both in which the two codes differ, so that one of them must be wrong."""

    overlap: int
    contested: int


def compare_regions(first: CodeClaim, second: CodeClaim) -> Regions:
    """All copies of both codes."""
    layers = sorted({place.layer for claim in (first, second) for place in claim.places})
    squares, written = [], []
    for claim in (first, second):
        ones, is_data = qr_code.encode(claim.signature, claim.code_format), qr_code.data_modules(claim.version)
        squares.append(_kernels(claim.places, np.ones_like(is_data), layers))
        written.append([_kernels(claim.places, chosen & is_data, layers) for chosen in (ones, ~ones)])
    (first_ones, first_zeros), (second_ones, second_zeros) = written
    contested = np.union1d(np.intersect1d(first_ones, second_zeros), np.intersect1d(first_zeros, second_ones))
    return Regions(len(np.intersect1d(*squares)), len(contested))


def _kernels(places: Sequence[Place], chosen: np.ndarray, layers: Sequence[str]) -> np.ndarray:
    """The kernels under the chosen modules, bool [size, size], of all copies, each as one whole number: int64."""
    rows, columns = np.nonzero(chosen)
    return np.unique(np.concatenate([
        (layers.index(place.layer) * LARGEST_SIDE + place.start_x + rows) * LARGEST_SIDE + place.start_y + columns
        for place in places]))
