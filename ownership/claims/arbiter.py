"""One claim before the court: it is opened, and what it says is checked on the suspect as far as the given files allow."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from ownership import SCHEMES, in_a_row
from ownership.claims import commitment, owner_claim, verdict
from ownership.claims.case import Case, Files, Given, NotRun, Prior, Unreadable, checks_of
from ownership.claims.commitment import Commitment, Refused
from ownership.claims.owner_claim import OwnerClaim
from ownership.claims.scheme import SchemeCheck
from ownership.claims.timestamps import Dated, in_utc
from ownership.claims.verdict import NOT_RUN, REFUSED, SHOWN, UNREADABLE, Check, Standing, Verdict
from utils.checkpoint import FileBytes
from utils.errors import UserError


@dataclass(frozen=True)
class Opened:
    """A claim's files. commitment_path: None where there is none. claim, public: None where the claim is refused. number: among
    the claims as they were named. dated: when the commitment was there, as far as that was verified."""

    path: str
    commitment_path: str | None
    claim: OwnerClaim | None
    public: Commitment | None
    refused: Refused | None = None
    number: int = 0
    dated: Dated | None = None

    def is_older_than(self, when: datetime) -> bool:
        """Whether a verified date shows that the commitment is: who claims an age has to show it, and equal is not older."""
        return self.dated is not None and self.dated.before < when


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
    """The verdict on each claim by what was given for it, in order of commitment (see `ownership.claims.sorting.put_in_order`).

    Of two claims, whatever goes wrong with one alone is its refusal, so that nobody's claim stops the other's. Raises UserError as
    `run_checks`, of two claims where it is so for both.
    """
    sides, errors = [], []
    for one, its_own in zip(opened, given):
        standing = standing_of(one, sides, opened, its_own.suspect_dated)
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


def standing_of(one: Opened, judged: Sequence[Side], opened: Sequence[Opened], suspect_dated: datetime | None) -> Standing:
    """How a claim stands behind those that were judged before it, and by the suspect's date."""
    if one.public is None:
        return Standing.NONE
    if are_tied(opened):
        return Standing.TIED
    if any(side.standing is not Standing.NONE and side.refused is None for side in judged):
        return Standing.LATER
    return Standing.COMMITTED if suspect_dated is None or one.is_older_than(suspect_dated) else Standing.AFTER_SUSPECT


def are_tied(opened: Sequence[Opened]) -> bool:
    """Whether two claims' commitments have the same verified date, so that neither is the earlier."""
    dates = [one.dated and one.dated.before for one in opened]
    return len(dates) == 2 and None not in dates and dates[0] == dates[1]


def refused_side(opened: Opened, why: Refused, given: Given, standing: Standing) -> Side:
    """A claim that was refused before anything was checked."""
    return Side(opened, verdict.unjudged(REFUSED, str(why), given.max_false),
                {"suspect": given.suspect or given.predictions or given.endpoint}, standing, why)


def judge(opened: Opened, given: Given, standing: Standing, files: Files) -> Side:
    """The verdict on one claim. Raises UserError as `run_checks`."""
    claim, public, refused = opened.claim, opened.public, opened.refused
    if claim is None:
        for flag in ("suspect", "predictions"):
            if getattr(given, flag) is not None:
                files.bytes_of(getattr(given, flag))
                files.record(f"--{flag}", getattr(given, flag))
        return refused_side(opened, refused, given, standing)
    facts = {"suspect": given.suspect or given.predictions or given.endpoint, "claimed by": claim.owner,
             "claims": ", ".join(claimed(claim)) or "nothing",
             "commitment": public.root.hex() if public else "none given",
             **({"committed": str(opened.dated)} if opened.dated else {}),
             "signed by": claim.owner_key if public and claim.owner_key else "nobody"}
    try:
        case = Case(claim, opened.path, standing, given, files)
        if given.priors:
            case.suspect  # that it can't be read comes first
        priors = [look_at_prior(case, prior, opened) for prior in given.priors]
        if case.committed and any(counts for counts, _ in priors):
            standing = Standing.AFTER_PRIOR
            case = replace(case, standing=standing)
        found = verdict.decide(claim, run_checks(case), standing, public is not None and public.signature is not None,
                               given.max_false, opened.dated)
        if given.suspect is not None and case.suspect.undone:
            facts["its form"] = "; ".join(case.suspect.undone)
        words = [] if given.suspect_dated is None else [f"that nobody else could see the suspect before "
                                                        f"{in_utc(given.suspect_dated)} is the word of whoever judges (--suspect_dated)"]
        if given.suspect is not None and (read_as := files.derivations[given.suspect].in_words()):
            facts["read as"] = read_as
        found = replace(found, notes=(*found.notes, *words, *(note for _, note in priors)))
    except Refused as error:
        found, refused = verdict.unjudged(REFUSED, str(error), given.max_false), error
    except Unreadable as error:
        found = verdict.unjudged(UNREADABLE, str(error), given.max_false)
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


def look_at_prior(case: Case, prior: Prior, opened: Opened) -> tuple[bool, str]:
    """Whether the claim shows on a model that its commitment is not shown to be older than, and what was found, in a sentence.
    Raises UserError as `run_checks`."""
    older = replace(case, given=replace(case.given, suspect=prior.path, suspect_flag="--prior"))
    checks = check_marks(older)
    shown = [check.name for check in checks if check.result == SHOWN]
    if all(check.result == NOT_RUN for check in checks):
        found = "the claim could not be looked for in it with what was given"
    else:
        found = f"{in_a_row(shown)} {'shows' if len(shown) == 1 else 'show'} on it already" if shown else \
            "the claim does not show on it"
    if prior.dated is None:
        return False, f"prior {prior.path}: {found}; when that model was made nothing says, so this is told and does not count"
    counts = bool(shown) and not opened.is_older_than(prior.dated.before)
    weighed = "nothing verified shows the commitment to be older, so the claim is judged as if it had not been committed to" \
        if counts else "the commitment is older, so this does not count" if shown else "that changes nothing"
    return counts, f"prior {prior.path}, there {prior.dated}: {found}; {weighed}"


def run(scheme: SchemeCheck, case: Case) -> Check:
    """One scheme's check, or why it can't be run. Raises Refused and UserError as `run_checks`."""
    try:
        return scheme.check(case)
    except NotRun as error:
        return Check(scheme.name, NOT_RUN, str(error))
