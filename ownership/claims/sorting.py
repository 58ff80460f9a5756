"""Which of the given files belongs to which of two rivals' claims. Digests tell, so the files may be named in any order."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timezone
from typing import Any

from datasets import ImageSizeError
from ownership import SCHEMES, in_a_row
from ownership.claims import arbiter, commitment, rivals, timestamps
from ownership.claims.arbiter import Opened
from ownership.claims.commitment import AnotherFile, Commitment, Refused, SaltedClaim
from ownership.claims.case import Files, Given, Prior, wrong_size
from ownership.claims.owner_claim import OwnerClaim
from ownership.claims.timestamps import Dated, Trust
from utils import cli
from utils.checkpoint import FileBytes
from utils.errors import UserError

LATEST = datetime.max.replace(tzinfo=timezone.utc)  # stands for the date of what is not dated

# --- claims and commitments -------------------------------------------------------------------------------------------


def open_claims(paths: Sequence[str], commitments: Sequence[str], suspect: str | None, inputs: Files) -> list[Opened]:
    """Each claim with its commitment, or why it is refused.

    Args:
        paths: one claim, or two.
        commitments: at most as many, in any order.
        suspect: its file, which two claims about different networks can't both be about.
    Raises:
        UserError: a file that can't be read, or is there twice; files that were confused; a commitment of neither of two claims.
    """
    paths, commitments = ([inputs.bytes_of(path, commitment.MAX_BYTES) for path in some] for some in (paths, commitments))
    its_own = commitments_of(paths, commitments) if len(paths) == 2 else [commitments[0] if commitments else None]
    opened = [replace(arbiter.open_claim(path, own, inputs), number=number)
              for number, (path, own) in enumerate(zip(paths, its_own))]
    if all(isinstance(one.refused, AnotherFile) for one in opened):
        raise UserError("; ".join(str(one.refused) for one in opened))
    if suspect is None or len(opened) == 1 or any(one.refused for one in opened):
        return opened
    return refuse_other_networks(opened, suspect, inputs)


def commitments_of(claims: Sequence[FileBytes], commitments: Sequence[FileBytes]) -> list[FileBytes | None]:
    """Of two claims the commitment of each, told by its root.

    Nobody's claim is refused for a file that may be the rival's: a commitment that opens neither claim is an error, and so are a
    changed copy of one, and a claim in its place. Raises UserError for these, and for a file that can't be read, or is there twice.
    """
    private = [_or_refused(commitment.read_claim, path) for path in claims]
    public = [_or_refused(commitment.read_commitment, path) for path in commitments]
    confused = [one for one in public if isinstance(one, AnotherFile)]
    if confused:
        raise UserError(str(confused[0]))
    roots = [(None, None) if isinstance(one, Refused) else (commitment.root_of(one[0].leaves()), one[1]) for one in private]
    published = [None if isinstance(one, Refused) else one.root for one in public]
    _refuse_the_same("claim", claims, [of_fields for of_fields, _ in roots])
    _refuse_the_same("commitment", commitments, published)
    whose = pair_commitments(roots, published)
    for index, path in enumerate(commitments):
        if index not in whose:
            raise UserError(f"--commitment {path}: {_why_nobodys(public[index], private)}")
    for name, one, (of_fields, _), index in zip(rivals.NAMES, private, roots, whose):
        if index is not None and of_fields is not None and published[index] == of_fields:
            _check_signer(commitments[index], public[index], one[0], name)
    return [None if index is None else commitments[index] for index in whose]


def _refuse_the_same(flag: str, paths: Sequence[FileBytes], roots: Sequence[bytes | None]) -> None:
    """Raise UserError where two files are one: a root stands for all content; where there is none, the bytes do."""
    if len(paths) == 2 and len({root or path.sha256 for root, path in zip(roots, paths)}) == 1:
        raise UserError(f"--{flag}: {paths[0]} and {paths[1]} are the same {flag}; name the two rivals' files")


def _check_signer(path: FileBytes, public: Commitment, private: SaltedClaim, name: str) -> None:
    """Raise UserError where a commitment to all of a claim's fields is not signed as the claim says. name: which claim's."""
    key = None if public.owner_key is None else public.owner_key.hex()
    if private.values.get("owner_key") != key:
        raise UserError(f"--commitment {path}: has the fields of the {name} claim, but is signed by "
                        f"{'nobody' if key is None else 'another key'}; take the file from where it was published")


def _or_refused(read: Callable[[FileBytes], Any], path: FileBytes) -> Any:
    """What is in a file, or why it is refused."""
    try:
        return read(path)
    except Refused as error:
        return error


def _why_nobodys(public: Commitment | Refused, private: Sequence[tuple[SaltedClaim, bytes] | Refused]) -> str:
    """For a commitment that no claim opens."""
    if isinstance(public, Refused):
        return f"belongs to neither claim, as it can't be read ({public}); take the file from where it was published"
    for name, found in zip(rivals.NAMES, private):
        if not isinstance(found, Refused):
            changed = commitment.changed_fields(found[0], public)
            if not changed >= found[0].values.keys():
                return (f"belongs to neither claim; the {name} has some of its fields, and differs from it in "
                        f"{commitment.in_words(changed)}. Leave it out, or name the claim as it was committed to")
    return "belongs to neither claim; leave it out"


def pair_commitments(claims: Sequence[tuple[bytes | None, bytes | None]],
                     commitments: Sequence[bytes | None]) -> list[int | None]:
    """Which commitment is whose.

    Args:
        claims: the root that each claim's fields give, and the one that its file states; None where it can't be read.
        commitments: their roots, likewise. At most as many as claims.
    Returns:
        for each claim the number of the commitment that it opens; failing that, of the one whose root it states; for a claim that
        can't be read, which is refused in any case, of one that is left over. None where there is none.
    """
    found: list[int | None] = [None] * len(claims)
    for kind in (0, 1):
        for number, roots in enumerate(claims):
            if found[number] is None and roots[kind] is not None:
                found[number] = next((index for index, root in enumerate(commitments)
                                      if root == roots[kind] and index not in found), None)
    left = [index for index in range(len(commitments)) if index not in found]
    return [left.pop(0) if index is None and left and roots == (None, None) else index for index, roots in zip(found, claims)]


def refuse_other_networks(opened: Sequence[Opened], suspect: str, inputs: Files) -> list[Opened]:
    """Of two claims about different networks the suspect contradicts one; if both, it is no model that can be read, as they will
    find."""
    if len({one.claim.arch for one in opened}) == 1:
        return list(opened)
    errors = [why_not_readable(suspect, one.claim.arch, inputs) for one in opened]
    return [one if error is None or all(errors) else replace(one, claim=None, public=None, refused=Refused(
        f"{one.path}: is about {one.claim.arch}, which the suspect is not ({error})")) for one, error in zip(opened, errors)]


def why_not_readable(path: str, arch: str, inputs: Files) -> UserError | None:
    """What is wrong with a file as a network's model; None where nothing is."""
    try:
        inputs.suspect(path, arch)
    except UserError as error:
        return error
    return None


# --- dates ------------------------------------------------------------------------------------------------------------


def trust_in(certificates: str | None, headers: str | None, inputs: Files) -> Trust:
    """What dates are checked by, read once. Raises UserError for a file that is not there."""
    read = {}
    for flag, path in (("--tsa_certificates", certificates), ("--block_headers", headers)):
        with cli.named(flag):
            read[flag] = None if path is None else inputs.bytes_of(path, timestamps.MAX_TRUSTED)
        if path is not None:
            inputs.record(flag, path)
    return Trust(*read.values())


def put_in_order(opened: Sequence[Opened], stamps: Sequence[str], trust: Trust, inputs: Files) -> tuple[list[Opened], list[str]]:
    """The claims with the dates of their commitments, the earlier one first, and notes on what is left over beside a refused one.

    What is dated goes before what is not: nothing shows the other one's age. Where no date tells, the order stays.

    Args:
        stamps: tokens and proofs; each is about the root of one claim's commitment. The earliest of several counts.
        trust: what they are checked by.
    Raises:
        UserError: a stamp that does not hold, or is about no claim's root where all are open; the second of two claims alone opens a
            commitment.
    """
    dates: list[list[Dated]] = [[] for _ in opened]
    unused = []
    for path in stamps:
        with cli.named("--timestamp"):
            stamp = inputs.bytes_of(path, timestamps.MAX_BYTES)
            whose = [index for index, one in enumerate(opened) if one.public and timestamps.is_of(stamp, one.public.root)]
            if whose:
                dates[whose[0]].append(timestamps.read_date(stamp, opened[whose[0]].public.root, trust))
            elif any(one.refused for one in opened):
                unused.append(f"--timestamp {path}: is about no commitment that a claim opens; it was not used")
            else:
                raise UserError(f"{path}: is a date of something else, of no commitment here; leave it out")
        inputs.record("--timestamp", path)
    ordered = sorted((replace(one, dated=min(its_own, key=lambda dated: dated.before, default=None))
                      for one, its_own in zip(opened, dates)), key=lambda one: one.dated.before if one.dated else LATEST)
    if not any(one.refused for one in ordered) and ordered[0].public is None and ordered[-1].public is not None:
        raise UserError(f"--claim {ordered[0].path}: no --commitment is its own, so nothing shows that it is the earlier; name the "
                        "other one first")
    return ordered, unused


def date_priors(paths: Sequence[str], dates: Sequence[datetime | str | None], trust: Trust, opened: Sequence[Opened],
                inputs: Files) -> tuple[Prior, ...]:
    """The models that may be older than a claim.

    Args:
        dates: of each a time, on the arbiter's word; a token's or proof's file, over the model's; or None.
        opened: the claims; one of them at least is about a model of each's network.
    Raises:
        UserError: a stamp that does not hold; a model that can't be read.
    """
    priors = []
    for path, date in zip(paths, dates):
        errors = [why_not_readable(path, one.claim.arch, inputs) for one in opened if one.claim is not None]
        if errors and all(errors):
            with cli.named("--prior"):
                raise errors[0]
        dated = Dated(date, "whoever judges (--prior_dated)") if isinstance(date, datetime) else None
        if isinstance(date, str):
            with cli.named("--prior_dated"):
                dated = timestamps.read_date(inputs.bytes_of(date, timestamps.MAX_BYTES), inputs.bytes_of(path).raw, trust)
            inputs.record("--prior_dated", date)
        priors.append(Prior(path, dated))
    return tuple(priors)


# --- files of one claim -----------------------------------------------------------------------------------------------


def sort_files(common: Given, files: Mapping[str, Sequence[str]], opened: Sequence[Opened],
               inputs: Files) -> tuple[list[Given], list[str]]:
    """What was given for each claim, and notes on what is left over beside a refused one.

    Args:
        common: what was given for all claims.
        files: flag -> files of one claim each: the schemes' PROOFS in any order, predictions in the claims' order.
        opened: the claims. One claim gets all files; of two each gets those which its digests name, and its own predictions.
    Raises:
        UserError: a file that can't be read, or belongs to a claim that has one already; or that no claim has a use for, where
            all are open.
    """
    numbered = [name for name, scheme in SCHEMES.items() if scheme.numbered]
    if common.aligned_to and not any(one.refused or set(numbered) & set(one.claim.schemes) for one in opened):
        raise UserError(f"--aligned_to: has no use without {in_a_row(numbered, 'or')} in a claim")
    if len(opened) == 1:
        proofs = {flag: paths[0] if paths else None for flag, paths in files.items()}
        return [replace(common, predictions=proofs.pop("predictions"), proofs={**common.proofs, **proofs})], []
    theirs: list[dict[str, Any]] = [{} for _ in opened]
    proofs: list[dict[str, str]] = [{} for _ in opened]
    unused = []
    for name, scheme in SCHEMES.items():
        for flag, path in ((flag, path) for flag in scheme.flags.PROOFS for path in files[flag]):
            whose = owners_of(name, flag, path, opened, inputs)
            if not whose:
                unused.append(f"--{flag} {path}: belongs to neither claim ({name.lower()}.{scheme.flags.PROOFS[flag]})")
            for number in whose:
                if flag in proofs[number]:
                    raise UserError(f"--{flag} {path}: the {rivals.NAMES[number]} claim has its own in {proofs[number][flag]}")
                proofs[number][flag] = path
    if common.dataset is not None:
        reasons = why_not_measured(common, opened, inputs)
        for its_own, why in zip(theirs, reasons):
            its_own |= {} if why is None else {"dataset": None, "no_pictures": why}
        if all(reasons):
            unused.append(f"--dataset {common.dataset}: neither claim is about these test pictures")
    if unused and not any(one.refused for one in opened):
        raise UserError(unused[0])
    for its_own, one in zip(theirs, opened if files["predictions"] else ()):
        its_own["predictions"] = files["predictions"][one.number]
    nothing = dict.fromkeys(flag for flag in files if flag != "predictions")
    return [replace(common, **its_own, proofs={**common.proofs, **nothing, **files_of_it})
            for its_own, files_of_it in zip(theirs, proofs)], [f"{text}; it was not used" for text in unused]


def owners_of(scheme: str, flag: str, path: str, opened: Sequence[Opened], inputs: Files) -> list[int]:
    """The numbers of the claims whose part of a scheme names a file. Raises UserError for one that can't be read as any of
    theirs."""
    whose, errors = [], []
    for number, one in enumerate(opened):
        if one.claim is not None and scheme in one.claim.parts:
            try:
                if SCHEMES[scheme].check.Checker(scheme, one.claim.parts[scheme]).belongs(flag, path, inputs, one.claim.arch):
                    whose.append(number)
            except UserError as error:  # of another network than this claim's, perhaps
                errors.append(error)
    if errors and not whose:
        raise errors[0]
    return whose


def why_not_measured(common: Given, opened: Sequence[Opened], inputs: Files) -> list[str | None]:
    """For each claim why its accuracy is not measured on the pictures that were given; None where it is.

    Raises UserError where they can't be had for either claim. A size of pictures that this data set can't have is one claim's
    fault, and no reason to stop the other.
    """
    reasons, errors = [], []
    for one in opened:
        try:
            reasons.append(other_pictures(common, one.claim, inputs))
        except UserError as error:
            reasons.append(f"the test pictures can't be had as the claim names them ({error})")
            errors.append(wrong_size(one.claim, one.path, error) if isinstance(error, ImageSizeError) else error)
    if errors and all(reasons):
        raise errors[0]
    return reasons


def other_pictures(common: Given, claim: OwnerClaim | None, inputs: Files) -> str | None:
    """Why a claim is about other pictures than those that were given, or None. Raises UserError as `datasets.load_dataset`."""
    if claim is None or claim.fidelity is None:
        return "the claim says nothing of accuracy"
    if claim.fidelity.dataset != common.dataset:
        return f"the claim is about {claim.fidelity.dataset}"
    _, digest = inputs.pictures(common.dataset, common.data, claim.fidelity.image_size)
    return None if digest == claim.fidelity.test_sha256 else f"the claim is about other test pictures of {common.dataset}"
