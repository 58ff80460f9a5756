"""Two claims on one suspect: which of them owns it, and what else tells them apart.

A thief can sign a stolen model again, and commit to that; both marks then show, and the earlier commitment decides. He can also
write nothing at all: on any model a text is found in a minute whose code agrees with it (`attacks/forgeries/forge.py`), and anybody can
make a key for a mask. Alone such a claim is refuted by its date, which must be older than the suspect; beside another claim the
later one is therefore judged as if it had not been committed to (see `ownership.claims.verdict.decide`).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ownership import SCHEMES
from ownership.claims import scheme
from ownership.claims.arbiter import Side, are_tied, check_marks
from ownership.claims.case import Case, Files, Given
from ownership.claims.p_values import written
from ownership.claims.verdict import (MET, NOT_RUN, NOT_SHOWN, OWNED, REFUSED, SHOWN, UNREADABLE, Standing, Verdict, decide,
                                      names_of_tests)

NAMES = ("first", "second")  # in the order of their commitments, see `ownership.claims.sorting.put_in_order`
# verdicts on a claim that would own the suspect if it stood alone
EARLIER_OWNS, UNDECIDED = f"{SHOWN} (the earlier claim owns)", f"{SHOWN} (nothing tells which claim is the earlier)"


@dataclass(frozen=True)
class Accuracy:
    """Percent of the test pictures. targets: of both claims, None where nothing is claimed. suspect: as measured for each claim,
    None where it was not. met: whether that reaches the target less the tolerance, as F says. claimed_cost: the earlier target
    less the later, where both are of the same pictures; suspect_cost: the earlier target less what the suspect has."""

    targets: tuple[float | None, ...]
    suspect: tuple[float | None, ...]
    met: tuple[bool | None, ...]
    claimed_cost: float | None
    suspect_cost: float | None


@dataclass(frozen=True)
class OwnModels:
    """Which claim shows on which claimant's own model. files: first the first claimant's. found[claim][model]: by the
    tests of chance, neither claim counted as committed to before, so that no date plays a part; SHOWN or NOT_SHOWN."""

    files: tuple[str, str]
    found: tuple[tuple[Verdict, ...], ...]

    def shows(self, claim: int, model: int) -> bool | None:
        """None where nothing could be tested."""
        found = self.found[claim][model]
        return None if found.p is None else found.verdict == SHOWN

    @property
    def supports(self) -> int | None:
        """Whose mark is in the other's own model, where that is so for one of them alone."""
        crossed = self.shows(0, 1), self.shows(1, 0)
        return None if None in crossed or crossed[0] == crossed[1] else crossed.index(True)


@dataclass(frozen=True)
class Comparison:
    """Both sides, each with its verdict beside the other, and what came of it. owner: 0 or 1, None where it is undecided.
    conclusion: in one line. schemes: what each scheme tells of them."""

    sides: tuple[Side, ...]
    owner: int | None
    conclusion: str
    schemes: list[scheme.Comparison]
    accuracy: Accuracy
    own_models: OwnModels | None
    notes: tuple[str, ...]


def look_at_own_models(files: Sequence[str], sides: Sequence[Side], given: Sequence[Given], inputs: Files) -> OwnModels:
    """What chance excludes of both claims on both claimants' own models. No commitment counts: it is to show what dates can't.

    Args:
        files: their models, first the first claimant's.
        sides, given: both claims, which opened, and what was given for each.
    Raises:
        Refused, UserError: as `ownership.claims.arbiter.check_marks`.
    """

    def look(side: Side, its_own: Given, path: str) -> Verdict:
        on_own = replace(its_own, suspect=path, suspect_flag="--own", predictions=None, endpoint=None)
        checks = check_marks(Case(side.claim, side.opened.path, Standing.NONE, on_own, inputs))
        found = decide(side.claim, checks, Standing.NONE, signed=False, level=its_own.max_false)
        return replace(found, verdict=SHOWN if found.verdict == OWNED else NOT_SHOWN, notes=())

    return OwnModels(tuple(files), tuple(tuple(look(side, its_own, path) for path in files)
                                         for side, its_own in zip(sides, given)))


def compare(sides: Sequence[Side], own_models: OwnModels | None = None, notes: Sequence[str] = ()) -> Comparison:
    """Two verdicts on one suspect, the earlier claim's first. notes: what else is to be said."""
    owner, conclusion = conclude(sides)
    owned, refused = ([side.verdict.verdict == verdict for side in sides] for verdict in (OWNED, REFUSED))
    said = [] if own_models is None else [in_words(own_models)]
    if all(owned) and owner is not None:
        said.append("both marks are in the suspect: the second was "
                    f"{'not committed to' if sides[1].standing is Standing.NONE else 'committed to later'}, so it counts as "
                    "written into "
                    "what was the first's already")
    if refused[0] and not refused[1]:
        said.append("the first claim is refused, so the second is judged as if it were alone")
    dates = [side.opened.dated for side in sides]
    if are_tied([side.opened for side in sides]):
        said.append("both commitments have the same verified date, so neither is the earlier, and both claims are judged as if not "
                    "committed to")
    if any(side.standing is Standing.LATER for side in sides):
        said.append("this holds only if the first commitment was published before the second. No dates were given "
                    "that this program can check: it goes by the order of --claim" if not any(dates) else
                    "the first commitment is the older one by the verified dates" if all(dates) else
                    "the first commitment is dated; nothing verified shows how old the other one is, so it counts as the later")
    if own_models is not None and owner is not None and own_models.supports not in (None, owner):
        said.append(f"the models that the claimants present contradict the conclusion: they speak for the "
                    f"{NAMES[own_models.supports]} claim, the order of commitments speaks for the {NAMES[owner]}. Look at how the "
                    "commitments were dated, and at where each model comes from")
    schemes = scheme.compare_schemes([side.claim for side in sides], [side.verdict.checks for side in sides])
    beside = UNDECIDED if owner is None else EARLIER_OWNS
    sides = [replace(side, verdict=replace(side.verdict, verdict=beside)) if shows and number != owner else side
             for number, (side, shows) in enumerate(zip(sides, owned))]
    return Comparison(tuple(sides), owner, conclusion, schemes, compare_accuracy(sides), own_models, (*said, *notes))


def conclude(sides: Sequence[Side]) -> tuple[int | None, str]:
    """Who owns the suspect, and the sentence that says so."""
    owned, refused = ([side.verdict.verdict == verdict for side in sides] for verdict in (OWNED, REFUSED))
    who = [f"the {name} claim" + (f" ({side.claim.owner})" if side.claim else "") for name, side in zip(NAMES, sides)]
    if all(refused):
        return None, "both claims are refused"
    if any(side.verdict.verdict == UNREADABLE for side in sides) and not any(owned):
        return None, "the suspect can't be read" + refusals_in_words(sides)
    if all(owned):
        if all(side.standing is Standing.NONE for side in sides):
            return None, "both show; neither was committed to, so nothing tells which is the earlier"
        if are_tied([side.opened for side in sides]):
            return None, "both show; their commitments have the same verified date, so nothing tells which is the earlier"
        if needs_date(sides[0]):
            return None, ("both show; the suspect comes from a model with the first's mark, which may be another's who built on it: no "
                          "verified date of its commitment was given, so nothing tells which is the earlier")
        decides = "only the first was committed to" if sides[1].standing is Standing.NONE else "the earlier commitment decides"
        return 0, f"both show; {decides}: {who[0]} owns"
    for number, other in ((0, 1), (1, 0)):
        if owned[number]:
            return number, f"{who[number]} owns; the {NAMES[other]} " + ("is refused" if refused[other] else "does not show")
    return None, "not shown" + refusals_in_words(sides)


def needs_date(side: Side) -> bool:
    """Whether all that shows of a claim would make an owner by a verified date alone, and there is none."""
    shown = [SCHEMES[check.name] for check in side.verdict.checks if check.result == SHOWN]
    return side.opened.dated is None and bool(shown) and all(one.needs_date for one in shown)


def refusals_in_words(sides: Sequence[Side]) -> str:
    """To be added to what is said of both."""
    return "".join(f"; the {name} claim is refused" for name, side in zip(NAMES, sides) if side.verdict.verdict == REFUSED)


def compare_accuracy(sides: Sequence[Side]) -> Accuracy:
    """What the claims promise, what the suspect has, and what the later claim has cost."""
    claimed = [side.claim.fidelity if side.verdict.verdict != REFUSED else None for side in sides]
    checks = [next((check for check in side.verdict.checks if check.name == "F" and check.result != NOT_RUN), None)
              for side in sides]
    measured = [check and check.figures["accuracy"] for check in checks]
    alike = all(claimed) and len({(one.dataset, one.test_sha256) for one in claimed}) == 1
    return Accuracy(tuple(one and one.target for one in claimed), tuple(measured),
                    tuple(check and check.result == MET for check in checks),
                    claimed[0].target - claimed[1].target if alike else None,
                    claimed[0].target - measured[0] if measured[0] is not None else None)


def in_words(found: OwnModels) -> str:
    """What the claimants' own models say, in one sentence."""
    if found.supports is not None:
        name, other = NAMES[found.supports], NAMES[1 - found.supports]
        return (f"own models: the {name}'s mark is in the {other}'s own model, the {other}'s is not in the {name}'s own; that "
                f"supports the {name}, whatever the dates say")
    crossed = found.shows(0, 1), found.shows(1, 0)
    return "own models: " + ("one of the two marks could not be tested on the other's" if None in crossed else
                             "each mark is in the other's own model" if all(crossed) else
                             "neither mark is in the other's own model") + "; that tells nothing"


def rows(found: Comparison) -> list[tuple[str, tuple[str, ...]]]:
    """What tells the claims apart, the strongest first, as (name, the first claim's and the second's) or (name, text) for
    people."""
    table = [(f"mark in the {whose}'s own model", tuple(cell(of_claim[model]) for of_claim in found.own_models.found))
             for model, whose in enumerate(NAMES if found.own_models else ())]
    table += [row for one in found.schemes for row in one.rows]
    for name, measured in (("claimed accuracy", found.accuracy.targets), ("the suspect's accuracy", found.accuracy.suspect)):
        if any(percent is not None for percent in measured):
            table.append((name, tuple("" if percent is None else f"{percent:.2f}%" for percent in measured)))
    cost = cost_in_words(found.accuracy)
    return [*table, ("accuracy", ("; ".join(cost),))] if cost else table


def cost_in_words(accuracy: Accuracy) -> list[str]:
    """What the later claim, and whatever else was done to the suspect, has cost."""
    said = []
    if accuracy.claimed_cost is not None:
        said.append(f"the second claim's target is {beside_the_target(accuracy.claimed_cost)}")
    if accuracy.suspect_cost is not None:
        met = {None: "", True: ", within its tolerance", False: ", more than its tolerance"}[accuracy.met[0]]
        said.append(f"the suspect is {beside_the_target(accuracy.suspect_cost, met)}")
    return said


def beside_the_target(cost: float, met: str = "") -> str:
    """So many points less than the first claim's target. met: what that is to its tolerance, said of a loss alone."""
    if not round(cost, 2):
        return "as high as the first's target"
    return f"{abs(cost):.2f} points {'above' if cost < 0 else 'below'} the first's target" + (met if cost > 0 else "")


def cell(found: Verdict) -> str:
    """What one claim shows on one model, in a few words."""
    if found.p is None:
        return "not run: " + ("; ".join(check.detail for check in found.checks if check.result == NOT_RUN)
                              or f"no {names_of_tests('or')} that counts")
    return f"{found.verdict}, p {written(found.p)}"
