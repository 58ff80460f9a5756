"""Scheme P, the check: how many bits of the passports' signature the suspect's weights show, against coin tosses.

It counts only where vectors and bits were both drawn by one hash: of whatever weights a suspect has, the signs are then right by
coin tosses, and whoever wants other vectors, bits, layers or texts has to try another nonce. Vectors that came from pictures were
somebody's choice: for a public model anybody can solve for vectors that show any bits, and those show on its descendants too.
"""

from collections.abc import Mapping
from fractions import Fraction
from typing import Any

import torch

from ownership.claims.case import Case, Files, NotRun, numbering, price_of, suspects_of
from ownership.claims.commitment import Refused
from ownership.claims.p_values import by_chance, corrected, scientific
from ownership.claims.scheme import Remains, SchemeCheck
from ownership.claims.verdict import NOT_SHOWN, SHOWN, Check
from ownership.passports.claim import ClaimedPassports
from ownership.suspects.reading import Suspect
from passports.files import PassportFile, read_passports
from passports.signature import Reading, read_signature, total


class Checker(SchemeCheck):
    """Of a part `ClaimedPassports`."""

    part: ClaimedPassports

    def check(self, case: Case) -> Check:
        claimed, vectors = self.part, self._vectors(case)
        tries = [case.suspect, *(one for one in case.aligned if self.name in one.counted)]
        readings = [self._read(suspect, vectors) for suspect in suspects_of(tries)]
        p_values = [by_chance(*total(reading), 2) for reading in readings]
        number = p_values.index(min(p_values))
        where, numbers = numbering(tries[number], tries)
        right, bits = total(readings[number])
        layers = {layer: [one.right, one.bits] for layer, one in readings[number].items()}
        texts = {layer: one.text for layer, one in readings[number].items() if claimed.draw.texts[layer]}
        detail = f"{right} of {bits} bits right" + "".join(f"; {layer} reads {text!r}" for layer, text in texts.items()) + where
        figures = {"right": right, "bits": bits, "layers": layers, "texts": texts, "scheme": claimed.scheme,
                   "key_type": claimed.key_type, **numbers}
        if not claimed.is_drawn:
            return Check(self.name, NOT_SHOWN, f"{detail}; not counted: vectors of type {claimed.key_type} are somebody's choice, and can "
                         "be solved for to show any bits (main_passport.py --key_type vector draws them)", None,
                         {**figures, "uncounted_p": scientific(p_values[number])})
        p, words, choices = corrected(p_values[number], {"nonces": case.standing.tries, **price_of(tries)})
        return Check(self.name, SHOWN if p <= case.given.max_false else NOT_SHOWN, f"{detail}; {words}", p, {**figures, **choices})

    def _vectors(self, case: Case) -> Mapping[str, torch.Tensor]:
        """Those that the hash draws, or else those in the owner's file. Raises NotRun where that is needed and not given, Refused
        for another one, UserError for one that can't be read."""
        path = case.given.proofs.get("passports") or case.given.proofs.get(self.name.lower())
        if path is not None:
            file = case.read("--passports", path, read_file)
            if not self.belongs("passports", path, case.files, self.part.arch):
                raise Refused(f"--passports {path}: is not the file that the claim names (p.file_sha256)")
        if self.part.is_drawn:
            return self.part.vectors()
        if path is None:
            raise NotRun("needs the owner's --passports")
        return file.vectors

    def _read(self, suspect: Suspect, vectors: Mapping[str, torch.Tensor]) -> Mapping[str, Reading]:
        """Raises NotRun for a suspect whose weights are not known in a layer with passports."""
        if suspect.weights is None:
            raise NotRun("needs the suspect's weights; its file holds masks only")
        for layer, vector in vectors.items():
            if layer not in suspect.weights or suspect.weights[layer][0].numel() != len(vector):
                raise NotRun(f"the suspect has no layer {layer} of the claim's shape where masks are")
        return read_signature(self.part.draw, vectors, suspect.weights)

    def belongs(self, flag: str, path: str, files: Files, arch: str) -> bool:
        return files.bytes_of(path).sha256 == self.part.file_sha256

    def is_drawn_from(self, reference: Suspect) -> bool:
        return reference.sha256() == self.part.ticket_sha256

    def left_after(self, suspect: Suspect) -> Remains | None:
        if not self.part.is_drawn:
            return None
        try:
            right, bits = total(self._read(suspect, self.part.vectors()))
        except NotRun:  # layers of other shapes, which only a verdict brings back into the network's
            return None
        return Remains({"passport_right": right, "passport_bits": bits, "p_passports": float(max(by_chance(right, bits, 2),
                                                                                                 Fraction(1, 10**300)))})

    def left_in_words(self, row: Mapping[str, Any], prefix: str) -> tuple[str, str] | None:
        if f"{prefix}passport_right" not in row:
            return None
        right, bits, p = (row[f"{prefix}{name}"] for name in ("passport_right", "passport_bits", "p_passports"))
        return "passports", f"{right} of {bits} bits right, p {p:.1e}"


def read_file(files: Files, path: str, arch: str) -> PassportFile:
    """Raises UserError as `passports.files.read_passports`."""
    return files.once(("passports", path, arch), lambda: read_passports(files.bytes_of(path), arch))
