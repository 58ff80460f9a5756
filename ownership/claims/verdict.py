"""From a claim and a suspect to one verdict (paper, section 3.2: fidelity evaluation F and verification V).

Every scheme is checked on its own. V2 and V3 give p-values; they need not be independent of each other, so they are combined by
Bonferroni's rule: the smallest, times the number of those schemes in the claim, whether or not they were run. V1 is no test of
chance: the key completes the mask exactly or it does not, which proves something only where a commitment fixed the ticket
before. F says whether the suspect works as well as the claimed model; a copy that was damaged is a copy still, so F alone
neither makes a verdict nor prevents one. Where a thief may have renumbered the channels, V1 and V2 are tried in the owner's
numbering too (see `ownership.suspects.alignment`), and V2's p-value is corrected for the choice. `ownership.claims.rivals` compares two
verdicts on one suspect.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction

import numpy as np
from torch import nn

from ownership.qr_code import soft_decoding
from ownership.qr_code.window import align_claimed, cleaned, window_of
from ownership.suspects.alignment import Alignment, align, read_reference
from ownership.trigger_set.evidence import by_chance, scientific
from ownership.qr_code.claim import CodeClaim
from ownership.claims.commitment import Refused
from ownership.qr_code.extraction import Extraction, extract_claimed
from ownership.claims.owner_claim import KEYED, Fidelity, KeyMask, OwnerClaim, Triggers, mask_sha256
from ownership.suspects.reading import Suspect, expected_by
from pruner.key_mask import split as key_masks
from pruner.qr_code import geometry as qr_code
from pruner.channel_groups import channel_groups
from pruner.qr_code.embedding import Place
from pruner.masks import Mask
from pruner.tickets import ModelFile
from utils.errors import UserError

OWNED, NOT_SHOWN, REFUSED = "owned", "not shown", "refused"
SHOWN, MET, NOT_MET, NOT_RUN = "shown", "met", "not met", "not run"
LEVEL = soft_decoding.MAX_FALSE
TESTED = ("V2", "V3")  # schemes with p-values
KEYS_TRIED = 1 << 80  # trigger keys that somebody who makes up a claim afterwards could try at the very most


@dataclass(frozen=True)
class Aligned:
    """The suspect in the owner's numbering of channels.

    reference: the owner's file that says what it is. alignment: its suspect is cleaned if the claim has a threshold. mask: the
    suspect's, renumbered alike and not cleaned. counted: whether the file is known to be older than the suspect. Somebody who
    makes it up afterwards can have it show any code, in any model.
    """

    reference: str
    alignment: Alignment
    mask: Mask
    counted: bool


@dataclass(frozen=True)
class Code:
    """What one place shows. modules, wrong: bool [size, size], the code as found with its function patterns put back, and the
    data modules that differ from the claimed code."""

    place: Place
    modules: np.ndarray
    wrong: np.ndarray


@dataclass(frozen=True)
class Check:
    """One line of the verdict.

    name: F, V1, V2 or V3. result: MET, NOT_MET, SHOWN, NOT_SHOWN or NOT_RUN. detail: why, for people. p: that chance gives as
    much, all corrections for what was searched included, or None where the check is no test of chance. figures: for machines.
    """

    name: str
    result: str
    detail: str
    p: Fraction | None = None
    figures: dict[str, object] = field(default_factory=dict)
    codes: tuple[Code, ...] = ()


@dataclass(frozen=True)
class Verdict:
    """verdict: OWNED, NOT_SHOWN or REFUSED. p: combined, or None where nothing was tested. notes: what it rests on."""

    verdict: str
    checks: tuple[Check, ...]
    p: Fraction | None
    level: float
    notes: tuple[str, ...]


def decide(claim: OwnerClaim, checks: Sequence[Check], committed: bool, signed: bool, level: float = LEVEL,
           later: bool = False) -> Verdict:
    """One verdict from what the checks found.

    Args:
        committed, signed: whether the claim was opened against a commitment, and that one bears the owner's signature.
        level: `owned` means that chance gives as much with at most this probability.
        later: a rival committed before; the checks were made as if this claim had not been committed to.
    """
    tested = [scheme for scheme in claim.schemes if scheme in TESTED]
    p_values = [check.p for check in checks if check.p is not None]
    combined = min(Fraction(1), len(tested) * min(p_values)) if p_values else None
    identical = any(check.name == "V1" and check.result == SHOWN for check in checks)
    owned = identical or (combined is not None and combined <= level)
    notes = []
    if later:
        notes.append("committed to later than the other claim, so perhaps made up by somebody who had seen the model: judged as "
                     "if it had not been committed to. V1 is not counted; p-values are corrected for all texts and 2^80 trigger "
                     "keys")
    elif not committed:
        notes.append("without a commitment nothing shows when the claim was made, nor that it was made before the suspect was "
                     "signed by somebody else; p-values are corrected for all texts and 2^80 trigger keys that a claim made up "
                     "afterwards could choose from")
    if committed and not signed:
        notes.append("the commitment is not signed: it shows that somebody claimed this before, not who")
    if committed and not later:
        notes.append("when the commitment was made is for its publication to show; it must be older than the suspect")
    if owned and any(check.name == "F" and check.result == NOT_MET for check in checks):
        notes.append("the suspect is below the claim's accuracy: a damaged copy")
    return Verdict(OWNED if owned else NOT_SHOWN, tuple(checks), combined, level, tuple(notes))


def refusal(reason: str, level: float = LEVEL) -> Verdict:
    """The verdict on a claim that does not hold together."""
    return Verdict(REFUSED, (), None, level, (reason,))


# --- the checks -------------------------------------------------------------------------------------------------------


def not_run(name: str, why: str) -> Check:
    return Check(name, NOT_RUN, why)


def fidelity(claimed: Fidelity, accuracy: float) -> Check:
    """F: `accuracy`, percent of the claim's test pictures, against the target less the tolerance."""
    least = claimed.target - claimed.tolerance
    met = accuracy >= least
    return Check("F", MET if met else NOT_MET,
                 f"accuracy {accuracy:.2f}%, claimed {claimed.target:.2f}% with {claimed.tolerance:g} "
                 f"{'point' if claimed.tolerance == 1 else 'points'} of tolerance",
                 figures={"accuracy": accuracy, "target": claimed.target, "least": least})


def align_to(reference: str, suspect: Suspect, model: nn.Module, claim: OwnerClaim, committed: bool,
             published: bool = False) -> Aligned:
    """Undo a renumbering of the suspect's channels by the owner's model, ticket or mask file.

    Of V2 the claim's regions take no part, or its p-value would be worth nothing; V1 alone is no test of chance, so all does.
    The numbering counts where the file was published before, or has the mask that V1 of a committed claim names. V1 names no
    trained weights, and their signs can be chosen afterwards to put any channel anywhere; so by such a file V2 is aligned by
    masks alone.

    Raises UserError as `ownership.suspects.alignment.read_reference` and `align_claimed`.
    """
    owner, groups = read_reference(reference, model, expected_by(claim.arch)), channel_groups(model)
    named = committed and claim.v1 is not None and mask_sha256(owner.mask) == claim.v1.ticket_mask_sha256
    if named and claim.v2 and not published:
        owner = Suspect(owner.mask)
    found = align_claimed(owner, suspect, model, claim.v2) if claim.v2 else align(owner, suspect, groups, {})
    return Aligned(reference, found, groups.renumbered_mask(suspect.mask, np.argsort(found.order)), published or named)


def _numbering(shown: Aligned | None, tried: int) -> tuple[str, dict[str, object]]:
    """For a check's detail and figures: in which numbering of channels it was found, where more than one was tried."""
    if tried == 1:
        return "", {}
    if shown is None:
        return "; in the suspect's own numbering of channels", {"numberings": tried, "aligned_to": None, "moved": 0}
    moved, channels = shown.alignment.moved, len(shown.alignment.order)
    return f"; aligned to {shown.reference}, {moved} of {channels} channels had another number", {
        "numberings": tried, "aligned_to": shown.reference, "moved": moved}


def key_mask(claimed: KeyMask, suspect: Mask, key: ModelFile, committed: bool, merged: Check | None = None,
             merged_mask: Mask | None = None, aligned: Sequence[Aligned] = (), later: bool = False) -> Check:
    """V1: whether the key completes the suspect's mask to exactly the claimed ticket's.

    Args:
        suspect: the locked part, as a file or a trained model shows it.
        aligned: other numberings of its channels to try; the key fits exactly or not, so nothing needs correcting.
        later: the reason why it is not counted as committed to is a rival who was earlier.
        merged: F of a model that was trained from ticket and key together, and merged_mask: its mask.
    Raises:
        Refused: the key, or the merged model, is not the claim's.
    """
    if key.facts.get("part") != "key" or key.mask is None or key.initial is None:
        raise UserError(f"--key {key.path}: is not the key part of a split ticket")
    if key_masks.fingerprint(key.mask, key.initial) != claimed.key_sha256 or key.mask.nonzeros != claimed.key_nonzeros:
        raise Refused(f"--key {key.path}: is not the key that the claim names (v1.key_sha256)")
    if merged_mask is not None and mask_sha256(merged_mask) != claimed.ticket_mask_sha256:
        raise Refused("--merged: has another mask than the ticket that the claim names (v1.ticket_mask_sha256)")
    figures: dict[str, object] = {"key_nonzeros": claimed.key_nonzeros, "suspect_nonzeros": suspect.nonzeros}
    completed = [_completed(claimed, mask, key.mask) for mask in (suspect, *(other.mask for other in aligned))]
    number = next((number for number, (completes, _) in enumerate(completed) if completes), 0)
    completes, overlap = completed[number]
    where, numbering = _numbering(([None, *aligned])[number], len(completed))
    if overlap is not None:
        figures |= {"overlap": overlap}
    figures |= {"completes": completes, **numbering}
    if not completes:
        tried = f", in none of {len(completed)} numberings of channels" if len(completed) > 1 else ""
        return Check("V1", NOT_SHOWN, f"key and suspect together are not the claimed ticket's mask{tried}", figures=figures)
    detail = (f"the key's {claimed.key_nonzeros} weights complete the suspect's {suspect.nonzeros} to the claimed mask exactly"
              f"{where}")
    if merged is None:
        detail += "; accuracy together not measured (--merged)"
    else:
        figures |= {f"merged_{name}": value for name, value in merged.figures.items()}
        detail += f"; together: {merged.detail}"
    if not committed:
        why = "anybody who has seen a mask can make a key for it" if later \
            else "without a commitment anybody can make a key for a mask"
        return Check("V1", NOT_SHOWN, f"{detail}; but {why}", figures=figures)
    return Check("V1", NOT_SHOWN if merged is not None and merged.result == NOT_MET else SHOWN, detail, figures=figures)


def _completed(claimed: KeyMask, suspect: Mask, key: Mask) -> tuple[bool, int | None]:
    """Whether key and suspect make the claimed mask, and how many weights both have; None if they are of other layers."""
    if suspect.keys() != key.keys():
        return False, None
    overlap = sum(int((key[name] & suspect[name]).sum()) for name in suspect)
    together = Mask({name: key[name] | suspect[name] for name in suspect})
    return not overlap and mask_sha256(together) == claimed.ticket_mask_sha256, overlap


def code(claimed: CodeClaim, suspect: Suspect, committed: bool, level: float = LEVEL,
         restarts: int = soft_decoding.RESTARTS, aligned: Sequence[Aligned] = ()) -> Check:
    """V2: what the suspect shows where the claim says.

    Two tests, corrected for both and for all places and mask patterns that a claim could name: how well the region agrees with
    the code (`ownership.qr_code.evidence`), and whether the soft decoder reads the text (its own bound, which counts all texts). Where
    nothing was committed to before, the text may have been made up to fit, so agreement is corrected for all texts of its kind
    too. ZXing's and zbar's readings are told, but have no p-value.

    Other numberings of the suspect's channels in `aligned` are tried as well; of those that are counted, and its own, the
    smallest p-value counts, times their number (Bonferroni). What the others show is told.

    Raises Refused where the claim names a place that the network lacks.
    """
    try:
        counted, told = ([other for other in aligned if other.counted == kind] for kind in (True, False))
        suspects = [suspect, *(other.alignment.suspect for other in counted)]
        number, found, p = _best_code(claimed, suspects, committed, level, 0)
        if p > level and restarts:
            number, found, p = _best_code(claimed, suspects, committed, level, restarts)
        where, numbering = _numbering(([None, *counted])[number], len(suspects))
        if told:
            best, _, uncounted = _best_code(claimed, [other.alignment.suspect for other in told], committed, level, 0)
            where += (f"; aligned to {told[best].reference} p is {scientific(uncounted)}, not counted: a file that was not "
                      "committed to can be made up to show any code (--aligned_committed)")
            numbering |= {"uncounted_p": scientific(uncounted)}
        suspect = suspects[number]
        suspect = cleaned(suspect, claimed)
        expected, is_data = qr_code.encode(claimed.signature, claimed.code_format), qr_code.data_modules(claimed.version)
        codes = []
        for place in claimed.places:
            modules = qr_code.restore_patterns(window_of(suspect, place, claimed.version).occupied, claimed.code_format)
            codes.append(Code(place, modules, (modules != expected) & is_data))
    except UserError as error:
        raise Refused(f"field 'v2': {error}") from None
    readers = [reader for reader, text in found.texts.items() if text == claimed.signature]
    flips = found.flips
    return Check("V2", SHOWN if p <= level else NOT_SHOWN,
                 f"{flips.count} of {flips.data_modules} data modules differ; "
                 + (f"text read by {', '.join(readers)}" if readers else "text not read") + where, p,
                 {"readers": found.texts, "lost": flips.lost, "added": flips.added, "data_modules": flips.data_modules,
                  "p_agreement": found.evidence.p_value, "p_any_text": found.evidence.p_any_text,
                  "searched": found.evidence.searched,
                  "p_reading": found.soft.false_probability if found.soft is not None else None, **numbering},
                 tuple(codes))


def _best_code(claimed: CodeClaim, suspects: Sequence[Suspect], committed: bool, level: float,
               restarts: int) -> tuple[int, Extraction, Fraction]:
    """Which of the suspect's numberings shows most, what it shows, and its p-value, corrected for their number."""
    found = [extract_claimed(suspect, claimed, level, restarts) for suspect in suspects]
    p_values = [_p_of_code(shown, claimed.signature, committed) for shown in found]
    number = p_values.index(min(p_values))
    return number, found[number], min(Fraction(1), len(suspects) * p_values[number])


def _p_of_code(found: Extraction, signature: str, committed: bool) -> Fraction:
    searched = found.evidence.searched
    p_values = [searched * Fraction(found.evidence.p_value) if committed else Fraction(found.evidence.p_any_text)]
    if found.soft is not None and found.soft.text == signature:
        p_values.append(searched * Fraction(found.soft.false_probability))
    return min(Fraction(1), 2 * min(p_values))


def triggers(claimed: Triggers, expected: np.ndarray, answers: np.ndarray, key_shown: bool, committed: bool,
             level: float = LEVEL) -> Check:
    """V3: the suspect's answers on the claim's trigger set, against chance.

    The p-value counts only where the secret key was shown to give the set: that labels were drawn at random is the owner's word
    otherwise, and somebody who chose them to be what any model answers would own every model. Where nothing was committed to
    before, it is corrected for KEYS_TRIED.

    Args:
        expected, answers: int64 [pictures].
    """
    right = int((expected == answers).sum())
    p = min(Fraction(1), by_chance(right, len(expected), claimed.num_classes) * (1 if committed else KEYS_TRIED))
    figures = {"correct": right, "pictures": len(expected), "num_classes": claimed.num_classes, "kind": claimed.kind,
               "key_shown": key_shown}
    detail = f"{right} of {len(expected)} trigger pictures right, chance {len(expected) / claimed.num_classes:g}"
    if key_shown:
        return Check("V3", SHOWN if p <= level else NOT_SHOWN, detail, p, figures)
    why = "show the secret key (--trigger_key)" if claimed.kind == KEYED else "everybody has this set"
    return Check("V3", NOT_SHOWN, f"{detail}; not counted: {why}", None, {**figures, "uncounted_p": scientific(p)})
