"""One claim before the court: it is opened, and what it says is checked on the suspect as far as the given files allow."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from ownership import SCHEMES, in_a_row
from ownership.claims import commitment, owner_claim, verdict
from ownership.claims.case import Case, Files, Given, NotRun, checks_of
from ownership.claims.commitment import Commitment, Refused
from ownership.claims.owner_claim import OwnerClaim
from ownership.claims.scheme import SchemeCheck
from ownership.claims.verdict import NOT_RUN, SHOWN, Check, Standing, Verdict
from utils.checkpoint import FileBytes
from utils.errors import UserError


@dataclass(frozen=True)
class Opened:
    """A claim's files. commitment_path: None where there is none. claim, public: None where the claim is refused."""

    path: str
    commitment_path: str | None
    claim: OwnerClaim | None
    public: Commitment | None
    refused: Refused | None = None


@dataclass(frozen=True)
class Side:
    """A claim and what became of it.

    facts: for people, by name. standing: as it was judged. refused: why, if it was, when opened or by a check.
    """

    opened: Opened
    verdict: Verdict
    facts: Mapping[str, str]
    standing: Standing
    refused: Refused | None = None

    @property
    def claim(self) -> OwnerClaim | None:
        """None where it did not open."""
        return self.opened.claim


def open_claim(path: FileBytes, commitment_path: FileBytes | None, files: Files) -> Opened:
    """A claim with its commitment, or why it is refused."""
    claim = public = refused = None
    try:
        private, public = commitment.open_claim(path, commitment_path, "owner_key")
        claim = owner_claim.from_fields(private.values, path, private.format)
    except Refused as error:
        public, refused = None, error
    files.record("--claim", path.path)
    if commitment_path is not None:
        files.record("--commitment", commitment_path.path)
    return Opened(path.path, commitment_path and commitment_path.path, claim, public, refused)


def judge_in_order(opened: Sequence[Opened], given: Sequence[Given], files: Files) -> list[Side]:
    """The verdict on each claim by what was given for it; of two claims the one that was committed to earlier first.

    Of two claims, whatever goes wrong with one alone is its refusal, so that nobody's claim stops the other's. Raises UserError as
    `run_checks`, of two claims where it is so for both.
    """
    sides, errors = [], []
    for one, its_own in zip(opened, given):
        earlier_rival = any(side.standing is not Standing.NONE and side.refused is None for side in sides)
        standing = Standing.NONE if one.public is None else Standing.LATER if earlier_rival else Standing.COMMITTED
        try:
            sides.append(judge(one, its_own, standing, files))
        except Exception as error:
            if len(opened) == 1:
                raise
            errors.append(error)
            why = str(error) if isinstance(error, UserError) else f"could not be judged ({type(error).__name__}: {error})"
            sides.append(refused_side(one, Refused(f"{one.path}: {why}"), its_own, standing))
    if len(errors) == len(sides):
        raise errors[0]
    return sides


def refused_side(opened: Opened, why: Refused, given: Given, standing: Standing) -> Side:
    """A claim that was refused before anything was checked."""
    return Side(opened, verdict.refusal(str(why), given.max_false),
                {"suspect": given.suspect or given.predictions or given.endpoint}, standing, why)


def judge(opened: Opened, given: Given, standing: Standing, files: Files) -> Side:
    """The verdict on one claim. Raises UserError as `run_checks`."""
    claim, public, refused = opened.claim, opened.public, opened.refused
    if claim is None:
        return refused_side(opened, refused, given, standing)
    facts = {"suspect": given.suspect or given.predictions or given.endpoint, "claimed by": claim.owner, "claims": ", ".join(claimed(claim)) or "nothing",
             "commitment": public.root.hex() if public else "none given",
             "signed by": claim.owner_key if public and claim.owner_key else "nobody"}
    try:
        case = Case(claim, opened.path, standing, given, files)
        found = verdict.decide(claim, run_checks(case), standing, public is not None and public.signature is not None,
                               given.max_false)
        found = replace(found, notes=(*found.notes, *(look_at_prior(case, path) for path in given.priors)))
    except Refused as error:
        found, refused = verdict.refusal(str(error), given.max_false), error
    return Side(opened, found, facts, standing, refused)


def claimed(claim: OwnerClaim) -> list[str]:
    """What is checked of a claim, by the names of the checks."""
    return [*(["F"] if claim.fidelity else []), *claim.schemes]


def run_checks(case: Case) -> list[Check]:
    """F and each scheme, those of the claim, as far as the given files allow.

    Raises:
        Refused: a file contradicts the claim, or the claim names what the network lacks.
        UserError: a file can't be read, or the claim has no use for it.
    """
    claim, given = case.claim, case.given
    for name, scheme in SCHEMES.items():
        for flag in scheme.flags.PROOFS:
            if given.proofs.get(flag) is not None and name not in claim.schemes:
                raise UserError(f"--{flag}: the claim has no {name}")
    schemes, checks = checks_of(claim), []
    for scheme in schemes:
        scheme.look_ahead(case)
    if given.suspect is not None:
        case.suspect  # nothing goes without it
        if any(SCHEMES[name].numbered for name in claim.schemes):
            case.aligned
        case.pictures
    elif not any(SCHEMES[name].by_answers for name in claim.schemes):
        names = [name for name, scheme in SCHEMES.items() if scheme.by_answers]
        raise UserError(f"--claim {case.path}: has no {in_a_row(names, 'or')}, which is all that answers can show")
    if claim.fidelity:
        checks.append(case.fidelity_of(given.suspect) if given.suspect else Check("F", NOT_RUN, "needs the suspect's file"))
    return [*checks, *(run(scheme, case) for scheme in schemes)]


def check_marks(case: Case) -> list[Check]:
    """The claim's tests of chance on a model's file, which stands in the case as the suspect's. Raises UserError as
    `run_checks`."""
    checks = []
    for scheme in checks_of(case.claim):
        if SCHEMES[scheme.name].has_p_value:
            try:
                checks.append(run(scheme, case))
            except Refused as error:  # seen only here where the suspect can't be looked into
                checks.append(Check(scheme.name, NOT_RUN, str(error)))
    return checks


def look_at_prior(case: Case, path: str) -> str:
    """What the claim shows on a model that is said to be older, in a sentence. Raises UserError as `run_checks`."""
    older = replace(case, given=replace(case.given, suspect=path, suspect_flag="--prior"))
    shown = [check.name for check in check_marks(older) if check.result == SHOWN]
    found = f"{in_a_row(shown)} {'shows' if len(shown) == 1 else 'show'} on it already" if shown else "the claim does not show on it"
    return f"prior {path}: {found}; when that model was made nothing says, so this is told and does not count"


def run(scheme: SchemeCheck, case: Case) -> Check:
    """One scheme's check, or why it can't be run. Raises Refused and UserError as `run_checks`."""
    try:
        return scheme.check(case)
    except NotRun as error:
        return Check(scheme.name, NOT_RUN, str(error))
