"""Two claims on one suspect: which of them owns it, and what else tells them apart.

A thief can sign a stolen model again, and commit to that; both marks then show, and the earlier commitment decides. He can also
write nothing at all: on any model a text is found in a minute whose code agrees with it (`attacks/forgeries/forge.py`), and anybody can
make a key for a mask. Alone such a claim is refuted by its date, which must be older than the suspect; beside another claim the
later one is therefore judged as if it had not been committed to (see `ownership.claims.verdict.decide`).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from ownership.claims.arbiter import Side, check_marks
from ownership.trigger_set.evidence import scientific
from ownership.qr_code.claim import CodeClaim
from ownership.claims.case import Given, Inputs
from ownership.claims.verdict import MET, NOT_RUN, OWNED, REFUSED, SHOWN, Check, Verdict, decide
from pruner.qr_code import geometry as qr_code
from pruner.qr_code.embedding import Place

NAMES = ("first", "second")  # in the order in which their commitments were published
LARGEST_SIDE = 1 << 21  # of a layer, channels


@dataclass(frozen=True)
class Regions:
    """How two codes lie to each other, in modules, which are kernels. overlap: in the squares of both. contested: of these, data
    modules of both in which the two codes differ, so that one of them must be wrong."""

    overlap: int
    contested: int


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
    """Which claim shows on which claimant's own model. files: first the first claimant's. found[claim][model]: of V2 and V3,
    neither claim counted as committed to before, so that no date plays a part."""

    files: tuple[str, str]
    found: tuple[tuple[Verdict, ...], ...]

    def shows(self, claim: int, model: int) -> bool | None:
        """None where nothing could be tested."""
        found = self.found[claim][model]
        return None if found.p is None else found.verdict == OWNED

    @property
    def supports(self) -> int | None:
        """Whose mark is in the other's own model, where that is so for one of them alone."""
        crossed = self.shows(0, 1), self.shows(1, 0)
        return None if None in crossed or crossed[0] == crossed[1] else crossed.index(True)


@dataclass(frozen=True)
class Comparison:
    """Both sides, and what came of it. owner: 0 or 1, None where it is undecided. conclusion: in one line."""

    sides: tuple[Side, ...]
    owner: int | None
    conclusion: str
    regions: Regions | None
    accuracy: Accuracy
    own_models: OwnModels | None
    notes: tuple[str, ...]


def standing(found: Comparison, number: int) -> str:
    """A claim's verdict beside the other: one that shows on the suspect, but does not own it, is not called owned."""
    verdict = found.sides[number].verdict.verdict
    return SHOWN if verdict == OWNED and found.owner != number else verdict


def look_at_own_models(files: Sequence[str], sides: Sequence[Side], given: Sequence[Given], inputs: Inputs) -> OwnModels:
    """V2 and V3 of both claims on both claimants' own models. No commitment counts: it is to show what dates can't.

    Args:
        files: their models, first the first claimant's.
        sides, given: both claims, which opened, and what was given for each.
    Raises:
        Refused, UserError: as `ownership.claims.arbiter.check_marks`.
    """

    def look(side: Side, its_own: Given, path: str) -> Verdict:
        checks = check_marks(side.opened, replace(its_own, suspect=path, predictions=None, endpoint=None), inputs)
        return replace(decide(side.claim, checks, committed=False, signed=False, level=its_own.max_false), notes=())

    found = tuple(tuple(look(side, its_own, path) for path in files) for side, its_own in zip(sides, given))
    for path in files:
        inputs.note("--own", path)
    return OwnModels(tuple(files), found)


def compare(sides: Sequence[Side], own_models: OwnModels | None = None, notes: Sequence[str] = ()) -> Comparison:
    """Two verdicts on one suspect, the earlier claim's first. notes: what else is to be said."""
    owner, conclusion = conclude(sides)
    owned, refused = ([side.verdict.verdict == verdict for side in sides] for verdict in (OWNED, REFUSED))
    said = []
    if all(owned) and sides[0].committed:
        said.append("both marks are in the suspect: the second was "
                    f"{'committed to later' if sides[1].committed else 'not committed to'}, so it counts as written into "
                    "what was the first's already")
    if refused[0] and not refused[1]:
        said.append("the first claim is refused, so the second is judged as if it were alone")
    if any(side.later for side in sides):
        said.append("that the first commitment is the older one is for their publication to show; here it is told by the order "
                    "of --claim")
    if own_models is not None:
        said.append(in_words(own_models))
        if own_models.supports not in (None, owner) and owner is not None:
            said.append(f"the models that the claimants present contradict the conclusion: they speak for the "
                        f"{NAMES[own_models.supports]} claim, the order of commitments speaks for the {NAMES[owner]}. Look at "
                        "how the commitments were dated, and at where each model comes from")
    codes = [side.code for side in sides]
    regions = None
    # in two numberings of the channels the same kernel has two places
    if all(codes) and len({code.figures.get("aligned_to") for code in codes}) == 1:
        regions = compare_regions(*(side.claim.v2 for side in sides))
    return Comparison(tuple(sides), owner, conclusion, regions, compare_accuracy(sides), own_models, (*said, *notes))


def conclude(sides: Sequence[Side]) -> tuple[int | None, str]:
    """Who owns the suspect, and the sentence that says so."""
    owned, refused = ([side.verdict.verdict == verdict for side in sides] for verdict in (OWNED, REFUSED))
    who = [f"the {name} claim" + (f" ({side.claim.owner})" if side.claim else "") for name, side in zip(NAMES, sides)]
    if all(refused):
        return None, "both claims are refused"
    if all(owned):
        if not any(side.committed for side in sides):
            return None, "both show; neither was committed to, so nothing tells which is the earlier"
        decides = "the earlier commitment decides" if sides[1].committed else "only the first was committed to"
        return 0, f"both show; {decides}: {who[0]} owns"
    for number, other in ((0, 1), (1, 0)):
        if owned[number]:
            return number, f"{who[number]} owns; the {NAMES[other]} " + ("is refused" if refused[other] else "does not show")
    return None, "not shown" + "".join(f"; the {name} claim is refused" for name, is_so in zip(NAMES, refused) if is_so)


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


def rows(found: Comparison) -> list[tuple[str, str]]:
    """What tells the claims apart, as (name, text) for people."""
    table = []
    for name, side in zip(NAMES, found.sides):
        if side.code:
            table.append((f"{name} code", code_in_words(side.code)))
    if found.regions is not None:
        overlap, contested = found.regions.overlap, found.regions.contested
        table.append(("regions", f"overlap in {overlap} {'module' if overlap == 1 else 'modules'}; in {contested} of "
                                 "these the codes contradict each other"
                      if overlap else "do not overlap"))
    elif all(side.code for side in found.sides):
        table.append(("regions", "not comparable: the codes show in different numberings of the channels"))
    accuracy = accuracy_in_words(found.accuracy)
    if accuracy:
        table.append(("accuracy", "; ".join(accuracy)))
    for claim, name in enumerate(NAMES if found.own_models else ()):
        table.append((f"{name}'s mark", "; ".join(f"in the {whose}'s own model {cell(found.own_models.found[claim][model])}"
                                                  for model, whose in enumerate(NAMES))))
    return table


def code_in_words(code: Check) -> str:
    """Where a code lies and how much of it is there."""
    places = [f"{one.place.layer}, start_x {one.place.start_x}, start_y {one.place.start_y}: {int(one.wrong.sum())} wrong"
              for one in code.codes]
    return (f"{code.figures['lost']} lost, {code.figures['added']} added of {code.figures['data_modules']} data modules; "
            + "; ".join(places))


def accuracy_in_words(accuracy: Accuracy) -> list[str]:
    """Targets, the suspect's, and what the later claim has cost."""
    said = [f"the {name} claim {target:.2f}%" + (f", the suspect {suspect:.2f}%" if suspect is not None else "")
            for name, target, suspect in zip(NAMES, accuracy.targets, accuracy.suspect) if target is not None]
    met = "" if accuracy.met[0] is None else f", {'within' if accuracy.met[0] else 'more than'} its tolerance"
    for what, cost, beside in (("the second claim's target is", accuracy.claimed_cost, ""),
                               ("the suspect is", accuracy.suspect_cost, met)):
        if cost is not None:
            said.append(f"{what} " + (f"{abs(cost):.2f} points {'above' if cost < 0 else 'below'} the first's target"
                                      + (beside if cost > 0 else "") if round(cost, 2) else "as high as the first's target"))
    return said


def cell(found: Verdict) -> str:
    """What one claim shows on one model, in a few words."""
    if found.p is None:
        return "not run: " + ("; ".join(check.detail for check in found.checks if check.result == NOT_RUN) or "no V2 or V3")
    return f"{'shown' if found.verdict == OWNED else 'not shown'}, p {scientific(found.p)}"
