"""From a claim and a suspect to one verdict (paper, section 3.2: fidelity evaluation F and verification V).

Every scheme is checked on its own, and a claim owns by p-values alone: they bound how often chance gives as much for the
worst choice of everything that the claimant could choose. They need not be independent of each other, so they are combined by
Bonferroni's rule: the smallest, times the number of schemes in the claim that have them, whether or not they were run. What
can't be paid for, as a text or a key that somebody chose, is told and never counts. F says whether the suspect works as well
as the claimed model; a copy that was damaged is a copy still, so F alone neither makes a verdict nor prevents one.
`ownership.claims.rivals` compares two verdicts on one suspect.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from fractions import Fraction

import numpy as np

from ownership import SCHEMES, in_a_row
from ownership.claims.owner_claim import Fidelity, OwnerClaim
from ownership.claims.timestamps import Dated

OWNED, NOT_SHOWN, REFUSED, UNREADABLE = "owned", "not shown", "refused", "unreadable"
SHOWN, MET, NOT_MET, NOT_RUN = "shown", "met", "not met", "not run"
LEVEL = 1e-9


class Standing(Enum):
    """How a claim stands by its commitment. Only the first counts as made before anybody looked at the suspect."""

    COMMITTED = "committed to"
    LATER = "committed to later than the other claim"
    TIED = "committed to when the other claim was, as far as the dates of both can tell"
    AFTER_SUSPECT = "not shown to be committed to before the suspect was there (--suspect_dated)"
    AFTER_PRIOR = "shown on a model that its commitment is not shown to be older than (--prior)"
    NONE = "not committed to"

    @property
    def tries(self) -> int:
        """Keys or nonces that the claimant may have tried until one fitted: before the commitment, where others had not yet seen
        anything to fit; or afterwards, as many as anybody can at the very most."""
        return 1 << 40 if self is Standing.COMMITTED else 1 << 80


@dataclass(frozen=True)
class Figure:
    """A mark as the suspect shows it, drawn module by module.

    caption: where it is. modules, wrong, measured: bool [size, size], what is there, where that is not what is claimed, and where
    anything is claimed at all.
    """

    caption: str
    modules: np.ndarray
    wrong: np.ndarray
    measured: np.ndarray


@dataclass(frozen=True)
class Chart:
    """Numbers that would be standard normal by chance, each a bar. caption: what they are. bars: name -> number."""

    caption: str
    bars: Mapping[str, float]


@dataclass(frozen=True)
class Exhibit:
    """What a page shows of a check beside its line.

    title, titles: above it, of one claim and of two. legend: of the figures. lines: (text, what was read or named, None where
    the text says all), below them. absent: that there is no mark, where that is so. charts: beside the figures.
    """

    title: str
    titles: str
    legend: str
    figures: tuple[Figure, ...]
    lines: tuple[tuple[str, str | None], ...] = ()
    absent: str = ""
    charts: tuple[Chart, ...] = ()


@dataclass(frozen=True)
class Check:
    """One line of the verdict.

    name: F, or a scheme's. result: MET, NOT_MET, SHOWN, NOT_SHOWN or NOT_RUN. detail: why, for people. p: that chance gives as
    much, all corrections for what was searched included, or None where the check is no test of chance. figures: for machines.
    exhibit: for the page.
    """

    name: str
    result: str
    detail: str
    p: Fraction | None = None
    figures: dict[str, object] = field(default_factory=dict)
    exhibit: Exhibit | None = None


@dataclass(frozen=True)
class Verdict:
    """verdict: OWNED, NOT_SHOWN, REFUSED or UNREADABLE. p: combined, or None where nothing was tested. notes: what it rests
    on."""

    verdict: str
    checks: tuple[Check, ...]
    p: Fraction | None
    level: float
    notes: tuple[str, ...]


def decide(claim: OwnerClaim, checks: Sequence[Check], standing: Standing, signed: bool, level: float = LEVEL,
           dated: Dated | None = None) -> Verdict:
    """One verdict from what the checks found.

    Args:
        standing: what the checks were made by. signed: whether the commitment bears the owner's signature.
        level: `owned` means that chance gives as much with at most this probability.
        dated: what was verified of the commitment's date.
    """
    p_values = [check.p for check in checks if check.p is not None]
    tested = sum(SCHEMES[name].has_p_value for name in claim.schemes)
    combined = min(Fraction(1), tested * min(p_values)) if p_values else None
    owned = combined is not None and combined <= level
    notes = []
    if standing is Standing.NONE:
        notes.append("without a commitment nothing shows when the claim was made, nor that it was made before the suspect was "
                     "signed by somebody else")
    elif standing is not Standing.COMMITTED:
        notes.append(f"{standing.value}, so perhaps made up by somebody who had seen the model: judged as if it had not been "
                     "committed to")
    if standing is not Standing.NONE and not signed:
        notes.append("the commitment is not signed: it shows that somebody claimed this before, not who")
    if standing is Standing.COMMITTED and owned:
        notes.append("this holds only if the commitment was published before the suspect, and all that the suspect comes from, "
                     "existed; no date of it was given that this program can check" if dated is None else
                     f"committed {dated}; this holds only if the suspect, and all that it comes from, is younger")
    if p_values:
        tried = in_a_row(list(dict.fromkeys(scheme.corrected_for for scheme in SCHEMES.values() if scheme.has_p_value)), "or")
        notes.append(f"probabilities are multiplied by 2^{math.log2(standing.tries):.0f} for all {tried} that the claimant may have "
                     "tried until one fitted")
    if owned and any(check.name == "F" and check.result == NOT_MET for check in checks):
        notes.append("the suspect is below the claim's accuracy: a damaged copy")
    return Verdict(OWNED if owned else NOT_SHOWN, tuple(checks), combined, level, tuple(notes))


def unjudged(verdict: str, reason: str, level: float = LEVEL) -> Verdict:
    """The verdict where nothing was checked: on a claim that does not hold together, REFUSED, or a suspect that can't be read,
    UNREADABLE."""
    return Verdict(verdict, (), None, level, (reason,))


def names_of_tests(word: str = "and") -> str:
    """The schemes that give p-values, in a row."""
    return in_a_row([name for name, scheme in SCHEMES.items() if scheme.has_p_value], word)


def fidelity(claimed: Fidelity, accuracy: float) -> Check:
    """F: `accuracy`, percent of the claim's test pictures, against the target less the tolerance."""
    least = claimed.target - claimed.tolerance
    met = accuracy >= least
    return Check("F", MET if met else NOT_MET,
                 f"accuracy {accuracy:.2f}%, claimed {claimed.target:.2f}% with {claimed.tolerance:g} "
                 f"{'point' if claimed.tolerance == 1 else 'points'} of tolerance",
                 figures={"accuracy": accuracy, "target": claimed.target, "least": least})
