"""What a verdict means, in sentences for people who know nothing of codes and p-values: on the terminal as on the page."""

import math
from fractions import Fraction

from ownership.claims.arbiter import Side
from ownership.claims.p_values import log10, written
from ownership.claims.rivals import Comparison
from ownership.claims.verdict import NOT_SHOWN, REFUSED, SHOWN, UNREADABLE, Standing
from utils.cli import one_line


def meaning(side: Side) -> str:
    """Of one claim's verdict: what was measured, what chance makes of it, and what it does not say."""
    found = side.verdict
    if found.verdict == REFUSED:
        return ("The claim does not hold together, so it shows nothing, whatever the suspect holds. Whose the suspect is, that does "
                "not say.")
    if found.verdict == UNREADABLE:
        return "The suspect can't be read as a model of the claim's network, so nothing was checked. Whose it is, that does not say."
    made = "committed to" if side.standing is Standing.COMMITTED else "claims"
    mark, needed = f'the mark that "{one_line(side.claim.owner)}" {made}', written(Fraction(found.level))
    if found.verdict == NOT_SHOWN:
        chance = "none of the checks that were run counts" if found.p is None else (
            f"with a probability of up to {written(found.p)} a model that owes the claimant nothing looks like this by chance, and "
            f"at most {needed} is needed")
        return (f"What was given does not show that the suspect carries {mark}: {chance}. This is not to say that the suspect is somebody "
                "else's: another check, or a key that was not given, may show it.")
    return (f"The suspect carries {mark}. A model that owes the claimant nothing looks like this by chance at most once in "
            f"{_tests(found.p)} such tests (probability {written(found.p)}); once in {_tests(Fraction(found.level))} is needed.")


def _tests(p: Fraction) -> str:
    """Among how many tests chance gives as much once: a power of ten, rounded down, where they are many."""
    power = math.floor(1e-9 - log10(p))
    return f"10^{power}" if power > 3 else str(int(1 / float(p) + 1e-9))


def meaning_of_two(found: Comparison) -> str:
    """Of two claims' verdicts: the owner's, or why there is none."""
    verdicts = [side.verdict.verdict for side in found.sides]
    if found.owner is not None:
        return meaning(found.sides[found.owner])
    if UNREADABLE in verdicts:
        return "The suspect can't be read as a model, so nothing was checked. Whose it is, that does not say."
    if all(verdict.startswith(SHOWN) for verdict in verdicts):
        return "The suspect carries both marks. Nothing that was given tells which was there first."
    if all(verdict == REFUSED for verdict in verdicts):
        return "Neither claim holds together, so nothing was shown. Whose the suspect is, that does not say."
    return ("What was given shows no mark in the suspect. This is not to say that it is neither claimant's: another check, or a key "
            "that was not given, may show one.")
