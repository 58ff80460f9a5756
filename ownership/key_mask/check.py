"""Scheme V1, the check: whether a key completes the suspect's mask to exactly the claimed ticket's, and what that proves.

That a key completes a mask is identity, and proves nothing where the rest could be foreseen: anybody can make a key for a mask
that he has seen, or for the one that everybody gets who prunes a public network. So it counts by the part of the key alone
that a hash drew of ticket, owner and nonce (`pruner.key_mask.split.draw`): of the ticket's weights that no score picked, these
and no others are missing.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from models import build_model
from ownership.claims.case import Aligned, Case, Files, NotRun, numbering, price_of, tried
from ownership.claims.commitment import Refused
from ownership.claims.scheme import SchemeCheck
from ownership.claims.p_values import corrected
from ownership.claims.verdict import LEVEL, NOT_SHOWN, SHOWN, Check, Standing
from ownership.key_mask.claim import KeyMask, mask_sha256
from ownership.suspects.reading import Suspect, expected_by
from pruner import tickets
from pruner.key_mask import split as key_masks
from pruner.masks import Mask
from pruner.tickets import ModelFile
from utils.errors import UserError


@dataclass(frozen=True)
class Merged:
    """A model that was trained from ticket and key together. fidelity: its F."""

    mask: Mask
    fidelity: Check


class Checker(SchemeCheck):
    """Of a part `KeyMask`."""

    part: KeyMask

    def look_ahead(self, case: Case) -> None:
        """Raises UserError for a model of ticket and key together whose accuracy nobody claims, or can measure."""
        merged, given, claimed = case.given.proofs.get("merged"), case.given, case.claim.fidelity
        if merged is None:
            return
        if claimed is None:
            flags = "--merged" if given.dataset is None else "--merged and --dataset"
            raise UserError(f"--merged {merged}: is for its accuracy, of which {case.path} says nothing; leave out {flags}")
        if given.dataset is None and given.no_pictures is None:
            raise UserError(f"--merged {merged}: its accuracy is to be measured; give --dataset {claimed.dataset}")

    def check(self, case: Case) -> Check:
        suspect, proofs = case.suspect, case.given.proofs
        if proofs.get("key") is None:
            raise NotRun("needs the owner's --key")
        key, merged = case.read("--key", proofs["key"], read_key), None
        if proofs.get("merged") is not None:
            mask = case.files.suspect(proofs["merged"], case.claim.arch).mask
            merged = Merged(mask, case.fidelity_of(proofs["merged"]))
            case.files.record("--merged", proofs["merged"])
        aligned = [one for one in case.aligned if self.name in one.counted]
        return key_mask(self.part, suspect, key, case.claim.owner_key, case.standing, merged, aligned, case.given.max_false)

    def check_on_own_model(self, case: Case) -> None:
        """Nothing: that one has the key in it."""

    def belongs(self, flag: str, path: str, files: Files, arch: str) -> bool:
        if flag == "merged":
            return mask_sha256(files.suspect(path, arch).mask) == self.part.ticket_mask_sha256
        key = key_of(read_key(files, path, arch))
        return key_masks.fingerprint(key.mask, key.initial, key_masks.drawn_part(key)) == self.part.key_sha256

    def is_drawn_from(self, reference: Suspect) -> bool:
        """Of a ticket that was signed first, masks and weights lie in two files; the hash is of its masks alone as well."""
        return reference.sha256() == self.part.ticket_sha256 or (
            reference.weights is None and mask_sha256(reference.mask) == self.part.ticket_mask_sha256)


def read_key(files: Files, path: str, arch: str) -> ModelFile:
    """What the file of a key mask holds. Raises UserError as `pruner.tickets.read_model_file`."""
    return files.once(("key", path, arch),
                      lambda: tickets.read_model_file(files.bytes_of(path), build_model(arch, num_classes=2), False,
                                              expected_by(arch)))


def key_of(file: ModelFile) -> ModelFile:
    """The same, if it is a key's. Raises UserError for anything else."""
    if file.facts.get("part") != "key" or file.mask is None or file.initial is None:
        raise UserError(f"--key {file.path}: is not the key part of a split ticket")
    return file


def key_mask(claimed: KeyMask, suspect: Suspect, key: ModelFile, owner_key: str | None, standing: Standing,
             merged: Merged | None = None, aligned: Sequence[Aligned] = (), level: float = LEVEL) -> Check:
    """V1: whether the key completes the suspect's mask to exactly the claimed ticket's, and how improbable that is.

    Args:
        suspect: the locked part, as a file or a trained model shows it.
        owner_key: Ed25519, public, in hex, whose claim it is.
        aligned: other numberings of its channels to try; each is a try.
        merged: is told beside; it makes no owner.
    Raises:
        Refused: the key, or the merged model, is not the claim's; or a part of the key is not what the hash draws for this owner.
        UserError: the file is no key's.
    """
    key = key_of(key)
    drawn = key_masks.drawn_part(key)
    if key_masks.fingerprint(key.mask, key.initial, drawn) != claimed.key_sha256 or key.mask.nonzeros != claimed.key_nonzeros:
        raise Refused(f"--key {key.path}: is not the key that the claim names (v1.key_sha256)")
    if merged is not None and mask_sha256(merged.mask) != claimed.ticket_mask_sha256:
        raise Refused("--merged: has another mask than the ticket that the claim names (v1.ticket_mask_sha256)")
    if drawn is not None and drawn.owner_key.hex() != owner_key:
        raise Refused(f"--key {key.path}: its drawn part is another owner's than the claim's (owner_key)")
    figures: dict[str, object] = {"key_nonzeros": claimed.key_nonzeros, "suspect_nonzeros": suspect.mask.nonzeros,
                                  "drawn": len(drawn.positions) if drawn else 0}
    tries = tried(suspect, aligned)
    price, masks = price_of(tries), [one.mask for one in tries]
    completed = [_completed(claimed, mask, key.mask) for mask in masks]
    number = next((number for number, (completes, _) in enumerate(completed) if completes), 0)
    completes, overlap = completed[number]
    where, numbers = numbering(tries[number], tries)
    if overlap is not None:
        figures |= {"overlap": overlap}
    figures |= {"completes": completes, **numbers}
    if not completes:
        in_none = f", in none of {len(completed)} {next(iter(price))}" if price else ""
        return Check("V1", NOT_SHOWN, f"key and suspect together are not the claimed ticket's mask{in_none}",
                     Fraction(1) if drawn else None, figures)
    detail = (f"the key's {claimed.key_nonzeros} weights complete the suspect's {masks[number].nonzeros} to the claimed mask exactly"
              f"{where}")
    if merged is not None:
        figures |= {f"merged_{name}": value for name, value in merged.fidelity.figures.items()}
        detail += f"; together: {merged.fidelity.detail}"
    if drawn is None:
        return Check("V1", NOT_SHOWN, f"{detail}; not counted: no part of the key was drawn, so anybody could have foreseen it "
                     "(main_eval_all.py --owner)", figures=figures)
    ticket = Mask({name: key.mask[name] | masks[number][name] for name in key.mask})
    if not key_masks.follows(drawn, key.mask, ticket, claimed.ticket_sha256):
        raise Refused(f"--key {key.path}: its drawn part is not what the hash draws of this ticket")
    count = len(drawn.positions)
    p, words, choices = corrected(p_of_draw(count, masks[number].nonzeros), {
        "nonces": standing.tries, **price})
    detail += f"; of {count + masks[number].nonzeros} weights the hash left out these {count}: {words}"
    return Check("V1", SHOWN if p <= level else NOT_SHOWN, detail, p, {**figures, **choices})


def p_of_draw(drawn: int, locked: int) -> Fraction:
    """Probability that of drawn + locked weights, which are the ticket's that no score picked, a hash draws exactly those that
    are missing."""
    return Fraction(1, math.comb(drawn + locked, drawn))


def _completed(claimed: KeyMask, suspect: Mask, key: Mask) -> tuple[bool, int | None]:
    """Whether key and suspect make the claimed mask, and how many weights both have; None if they are of other layers."""
    if suspect.keys() != key.keys():
        return False, None
    overlap = sum(int((key[name] & suspect[name]).sum()) for name in suspect)
    together = Mask({name: key[name] | suspect[name] for name in suspect})
    return not overlap and mask_sha256(together) == claimed.ticket_mask_sha256, overlap
