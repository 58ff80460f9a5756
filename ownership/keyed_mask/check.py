"""Scheme V4, the check: whether the suspect's mask agrees with the signs that the owner's key draws.

The signs were drawn by a hash, so of a model that the key did not go into they are coin tosses, whatever the model: nobody can make
up a key that fits one. So a mark needs no commitment to be believed, only a smaller p-value without. What it proves is that the suspect
comes from a model with this mark; that may be somebody else's who built on a marked one. Beside a rival's mark it is
therefore the verified date of a commitment that makes an owner.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from ownership.claims.case import Case, numbering, price_of, suspects_of, tried
from ownership.claims.p_values import SMALLEST, corrected, written
from ownership.claims.scheme import Comparison, Remains, SchemeCheck
from ownership.claims.verdict import NOT_SHOWN, SHOWN, Chart, Check, Exhibit
from ownership.keyed_mask.claim import KeyedMask
from ownership.keyed_mask.evidence import BOTH, COUNTS, LARGEST, PLACES, TESTS, Reading, read
from ownership.suspects.reading import Suspect
from pruner.masks import Mask

LEGEND = """One bar for each layer: how far the weights of the suspect agree with the signs that the owner's key draws, in standard
deviations. Of a model that the key did not go into, 19 of 20 bars end within the grey band."""


class Checker(SchemeCheck):
    """Of a part `KeyedMask`."""

    part: KeyedMask

    def check(self, case: Case) -> Check:
        counted, told = ([one for one in case.aligned if (self.name in one.counted) == kind] for kind in (True, False))
        tries = tried(case.suspect, counted)
        readings = [read(self.part.key, suspect) for suspect in suspects_of(tries)]
        reading = min(readings, key=lambda one: one.best.p * one.best.messages)
        best, (where, numbers) = reading.best, numbering(tries[readings.index(reading)], tries)
        choices = {"nonces": case.standing.tries, "tests": TESTS, **({"payloads": best.messages} if best.messages > 1 else {})}
        p, words, figures = corrected(best.p, choices | price_of(tries))
        shown = p <= case.given.max_false
        detail = f"{in_words(reading)}{where}; {words}"
        if told:
            other = min((read(self.part.key, suspect) for suspect in suspects_of(told)), key=lambda one: one.best.p)
            detail += (f"; aligned to {told[0].reference} {in_words(other)}, not counted: by a file that is not the ticket that the key "
                       "was drawn for, any model can be made to show any signs")
        figures |= {"z": {f"{test.carrier}, {test.weights}": test.z for test in reading.tests}, "payload": reading.payload,
                    "layers": {layer: list(z) for layer, z in reading.layers.items()}, **numbers}
        return Check(self.name, SHOWN if shown else NOT_SHOWN,
                     detail + ("; so the suspect comes from a model with this mark" if shown else ""), p, figures, exhibit_of(reading))

    def left_out(self, mask: Mask) -> Mapping[str, torch.Tensor]:
        marked = {}
        for name, kept in mask.items():
            shape = tuple(kept.shape)
            places = (self.part.key.place_signs(name, shape) != 0).any(1).reshape(shape[:2])
            marked[name] = torch.from_numpy(places | (self.part.key.count_signs(name, shape) != 0))
        return marked

    def is_drawn_from(self, reference: Suspect) -> bool:
        return reference.sha256() == self.part.ticket_sha256

    def left_after(self, suspect: Suspect) -> Remains:
        reading = read(self.part.key, suspect)
        p = min(1.0, float(reading.best.p * reading.best.messages * TESTS))
        return Remains({"z_places": reading.z(PLACES), "z_counts": reading.z(COUNTS), "p_keyed": max(SMALLEST, p)})

    def left_in_words(self, row: Mapping[str, Any], prefix: str) -> tuple[str, str]:
        places, counts, p = (row[f"{prefix}{name}"] for name in ("z_places", "z_counts", "p_keyed"))
        return "keyed mask", f"z {places:.1f} of places, {counts:.1f} of counts, p {p:.1e}"

    @classmethod
    def compare(cls, parts: Sequence[KeyedMask | None], checks: Sequence[Check | None]) -> Comparison:
        """How strong the two marks are."""
        cells = tuple("" if check is None or check.p is None else f"p {written(check.p)}" for check in checks)
        return Comparison((("keyed mask", cells),) if any(cells) else ())


def in_words(reading: Reading) -> str:
    """Both carriers' z, the largest test, and what was read."""
    best = reading.best
    carrier = "both carriers" if best.carrier == BOTH else best.carrier
    text = "" if reading.payload is None else f", payload {reading.payload!r}"
    return (f"z {reading.z(PLACES):.1f} of places, {reading.z(COUNTS):.1f} of counts; most on "
            f"{'the largest' if best.weights == LARGEST else 'all'} weights, z {best.z:.1f} of {carrier}{text}")


def exhibit_of(reading: Reading) -> Exhibit:
    """z by layer."""
    charts = tuple(Chart(f"{carrier}: z {reading.z(carrier):.1f} in all layers together",
                         {layer: z[at] for layer, z in reading.layers.items()}) for at, carrier in enumerate((PLACES, COUNTS)))
    return Exhibit("the key's signs in the suspect, layer by layer", "the keys' signs in the suspect, layer by layer", LEGEND, (),
                   charts=charts)
