"""Scheme V4: how improbable it is that a mask agrees as well with a key's signs by chance.

Whatever the mask is, the key's signs are fair coins to it, if it was made without the key. So of n weights in kernels that carry
signs of places the number at places of sign 1 is binomial(n, 1/2), exactly; and of counts, and of both carriers together, the
sum is one of independent signs times numbers that the mask fixes, for which Hoeffding's bound exp(-z^2 / 2) holds. Which of a
suspect's weights are looked at may be chosen by the suspect alone.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction

import torch

from ownership.claims.p_values import of_log10
from ownership.suspects import canonical
from ownership.suspects.reading import Suspect
from pruner.keyed_mask import payload
from pruner.keyed_mask.pattern import Agreement, Key, count_agreement, in_all, place_agreement
from pruner.masks import Mask

ALL, LARGEST = "all", "largest"
PLACES, COUNTS, BOTH = "places", "counts", "both"
TESTS = 6  # three carriers, on all weights and on the largest


@dataclass(frozen=True)
class Test:
    """carrier: PLACES, COUNTS or BOTH. weights: ALL, or LARGEST. p: an upper bound, alone. messages: of payloads that the reader
    chose from, which it is to be multiplied by."""

    carrier: str
    weights: str
    z: float
    p: Fraction
    messages: int = 1


@dataclass(frozen=True)
class Reading:
    """tests: the TESTS of them. layers: of each the z of places and of counts, of all weights. payload: the text, None where there is
    none or none was read."""

    tests: tuple[Test, ...]
    layers: Mapping[str, tuple[float, float]]
    payload: str | None

    @property
    def best(self) -> Test:
        return min(self.tests, key=lambda test: test.p * test.messages)

    def z(self, carrier: str, weights: str = ALL) -> float:
        return next(test.z for test in self.tests if (test.carrier, test.weights) == (carrier, weights))


def read(key: Key, suspect: Suspect) -> Reading:
    """What a suspect shows of a key's signs."""
    tests, layers, text = _tests_of(key, suspect.mask, ALL)
    largest = largest_of(suspect, key.largest)
    if largest is suspect.mask:
        more = [Test(test.carrier, LARGEST, test.z, test.p, test.messages) for test in tests]
    else:
        more, _, text_of_largest = _tests_of(key, largest, LARGEST)
        text = text_of_largest if min(more, key=lambda test: test.p).p < min(tests, key=lambda test: test.p).p else text
    return Reading((*tests, *more), layers, text)


def largest_of(suspect: Suspect, count: int) -> Mask:
    """The mask of so many of the suspect's weights, those that are the largest beside their rows and columns."""
    surplus = suspect.mask.nonzeros - count
    if surplus <= 0 or suspect.weights is None:
        return suspect.mask
    sizes = canonical.magnitudes(suspect.mask, suspect.weights)
    least = torch.cat([sizes[name][kept] for name, kept in suspect.mask.items()]).kthvalue(surplus).values
    return Mask({name: kept & (sizes[name] > least) for name, kept in suspect.mask.items()})


def _tests_of(key: Key, mask: Mask, weights: str) -> tuple[list[Test], dict[str, tuple[float, float]], str | None]:
    """Of one mask: the three tests, z of places and counts by layer, and the payload."""
    found = payload.read(key, mask) if key.payload_bits else (None, None)
    places = place_agreement(key, mask, found[1]) if found else dict.fromkeys(mask, Agreement())
    counts = count_agreement(key, mask)
    place, count = in_all(places), in_all(counts)
    both = (place.z + count.z) / math.sqrt(2)
    messages = payload.choices(key.payload_bits)
    tail = log10_of_tail(round((place.squares + place.agreeing) / 2), round(place.squares))
    tests = [Test(PLACES, weights, place.z, of_log10(tail), messages),
             Test(COUNTS, weights, count.z, hoeffding(count.z)), Test(BOTH, weights, both, hoeffding(both), messages)]
    return tests, {name: (places[name].z, counts[name].z) for name in mask}, found and found[0]


def hoeffding(z: float) -> Fraction:
    """Bound of the probability that signs times numbers, whose squares add up to 1, add up to z or more."""
    return of_log10(-max(z, 0.0) ** 2 / 2 / math.log(10))


def log10_of_tail(count: int, total: int) -> float:
    """log10 of the probability that of `total` fair coins at least `count` show heads, however small it is: the first term, then the
    rest as multiples of it, which fall faster and faster."""
    if count <= 0:
        return 0.0
    if 2 * count <= total:
        return math.log1p(-10 ** log10_of_tail(total - count + 1, total)) / math.log(10)
    first = math.lgamma(total + 1) - math.lgamma(count + 1) - math.lgamma(total - count + 1) - total * math.log(2)
    term = tail = 1.0
    for heads in range(count, total):
        term *= (total - heads) / (heads + 1)
        tail += term
        if term < 1e-17 * tail:
            break
    return (first + math.log(tail)) / math.log(10)
