"""Scheme V1: splitting a ticket into a key and a lock, and putting them together again (paper, section 3.3.1).

The key holds a share of the ticket's mask and the weights there, the locked ticket the rest. Both files name the ticket
they come from by a fingerprint, so a key of another ticket, or one that was changed, is found out when merging.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from pruner import tickets
from pruner.masks import Mask
from pruner.key_mask.scores import Scores
from utils.errors import UserError

WHOLE = "identity"


@dataclass(frozen=True)
class Ticket:
    """A ticket as it is handed over.

    mask: of the part that is there. weights: complete state_dict to start from. missing: weights of the whole ticket that
    are not in the mask, 0 for a whole one. split: the score its key was split off by, `identity` for a whole one.
    """

    mask: Mask
    weights: dict[str, torch.Tensor]
    missing: int = 0
    split: str = WHOLE

    @property
    def missing_share(self) -> float | None:
        """Relative sparsity of the missing key, None for a whole ticket."""
        return self.missing / (self.missing + self.mask.nonzeros) if self.missing else None


def load_ticket(mask_path: str, key_path: str | None, weights_path: str | None, model: nn.Module, head: bool) -> Ticket:
    """Read a ticket from its files.

    Args:
        mask_path: masks with or without weights, or a locked ticket.
        key_path: the key to put back into it, if any.
        weights_path: weights to start from instead of those in the other files.
        model: see `pruner.tickets.read_model_file`.
        head: whether the classifier's weights are wanted.
    Raises:
        UserError: see `merge` and `pruner.tickets`; or there are no weights.
    """
    given = tickets.read_model_file(mask_path, model, head)
    mask, missing, split_by = given.need_mask("--mask_dir", model), 0, WHOLE
    if key_path:
        mask, weights = merge(given, tickets.read_model_file(key_path, model, head))
    elif given.facts.get("part") == "locked":
        missing, split_by = given.facts.get("key_nonzeros"), str(given.facts.get("split"))
        if type(missing) is not int or not 0 < missing <= mask.entries - mask.nonzeros:
            raise UserError(f"--mask_dir {mask_path}: is damaged: key_nonzeros {missing!r} is no size of a key")
    if weights_path:
        weights = tickets.read_model_file(weights_path, model, head).need_weights("--pretrained")
    elif not key_path:
        weights = given.need_weights("--mask_dir")
    return Ticket(mask, weights, missing, split_by)


def split(mask: Mask, scores: Scores, ratio: float) -> tuple[Mask, Mask]:
    """Split a mask into key and locked mask by the highest scores over all layers together (Algorithm 1).

    Args:
        mask: the ticket's.
        scores: as of `pruner.key_mask.scores`, -inf where pruned.
        ratio: relative sparsity of the key, rspar(key, ticket).
    Returns:
        (key, locked): the key holds exactly round(ratio * nonzeros) weights, locked the others. Of equal scores the
        ones first in the mask's order go into the key.
    Raises:
        UserError: see `key_size`.
    """
    count = key_size(mask, ratio)
    survivors = np.concatenate([scores[name][kept].numpy() for name, kept in mask.items()])
    threshold = np.partition(survivors, len(survivors) - count)[len(survivors) - count]
    chosen = survivors > threshold
    equals = np.flatnonzero(survivors == threshold)
    chosen[equals[:count - int(chosen.sum())]] = True

    key, start = {}, 0
    for name, kept in mask.items():
        end = start + int(kept.sum())
        layer = torch.zeros_like(kept)
        layer[kept] = torch.from_numpy(chosen[start:end])
        key[name], start = layer, end
    return Mask(key), Mask({name: mask[name] & ~key[name] for name in mask})


def key_size(mask: Mask, ratio: float) -> int:
    """Weights of a key of this relative sparsity. Raises UserError if it would hold none of the ticket's, or all."""
    count = round(ratio * mask.nonzeros)
    if not 0 < count < mask.nonzeros:
        raise UserError(f"--key_ratio {ratio}: a key of {count} of the ticket's {mask.nonzeros} weights is none; "
                        "choose another ratio")
    return count


def split_visited(mask: Mask, counts: Scores) -> tuple[Mask, Mask]:
    """Split off every weight that scores above zero: with the scores of drawn paths, all that they run through.

    Raises UserError if that is the whole ticket.
    """
    key = Mask({name: counts[name] > 0 for name in mask})
    if key.nonzeros == mask.nonzeros:
        raise UserError("--num_paths: the paths run through the whole ticket; draw fewer, or give --key_ratio")
    return key, Mask({name: mask[name] & ~key[name] for name in mask})


def fingerprint(mask: Mask, weights: Mapping[str, torch.Tensor]) -> str:
    """SHA-256, in hex, of a mask and of the weights it keeps, layer by layer."""
    digest = hashlib.sha256()
    for name, kept in mask.items():
        digest.update(f"{name} {tuple(kept.shape)}\n".encode())
        digest.update(np.packbits(kept.numpy()).tobytes())
        digest.update(weights[f"{name}.weight"].detach().cpu()[kept].float().numpy().astype("<f4").tobytes())
    return digest.hexdigest()


def write_split(key_path: str | Path, locked_path: str | Path, key: Mask, locked: Mask,
                weights: Mapping[str, torch.Tensor], facts: Mapping[str, Any]) -> None:
    """Write both parts as tickets: the key with the weights W0 * Ms, the locked one with W0 * (M - Ms).

    Weights outside the masks' layers (stem, batch norm, classifier) go into both files, so that each reads as a ticket.
    """
    whole = Mask({name: key[name] | locked[name] for name in key})
    facts = {**facts, "ticket_sha256": fingerprint(whole, weights), "key_sha256": fingerprint(key, weights),
             "key_nonzeros": key.nonzeros, "key_ratio": key.nonzeros / whole.nonzeros}
    for path, part, role in ((key_path, key, "key"), (locked_path, locked, "locked")):
        tickets.write_ticket(path, part, {**weights, **{f"{name}.weight": weights[f"{name}.weight"].cpu() * kept
                                                        for name, kept in part.items()}}, {**facts, "part": role})


def merge(locked: tickets.ModelFile, key: tickets.ModelFile,
          locked_flag: str = "--mask_dir") -> tuple[Mask, dict[str, torch.Tensor]]:
    """Put a ticket together from its two files. locked_flag: what the locked one was given by, for messages.

    Returns:
        the ticket's mask and its weights, bit for bit those that were split (pruned entries zero).
    Raises:
        UserError: a file is not the part it is given as, the key is another ticket's, or it was changed.
    """
    for part, role, flag in ((locked, "locked", locked_flag), (key, "key", "--key")):
        if part.facts.get("part") != role or part.mask is None or part.initial is None:
            raise UserError(f"{flag} {part.path}: is not the {role} part of a split ticket")
    if key.facts.get("ticket_sha256") != locked.facts.get("ticket_sha256"):
        raise UserError(f"--key {key.path}: is the key of another ticket than {locked.path}")
    if list(key.mask) != list(locked.mask):
        raise UserError(f"--key {key.path}: covers other layers than {locked.path}")
    if fingerprint(key.mask, key.initial) != locked.facts.get("key_sha256"):
        raise UserError(f"--key {key.path}: was changed after the split")
    if any((key.mask[name] & locked.mask[name]).any() for name in key.mask):
        raise UserError(f"--key {key.path}: overlaps with {locked.path}; one of the two was changed")
    mask = Mask({name: key.mask[name] | locked.mask[name] for name in key.mask})
    weights = dict(locked.initial)
    for name, kept in key.mask.items():
        weights[f"{name}.weight"] = torch.where(kept, key.initial[f"{name}.weight"], weights[f"{name}.weight"])
    if fingerprint(mask, weights) != locked.facts.get("ticket_sha256"):
        raise UserError(f"{locked_flag} {locked.path}: was changed after the split")
    return mask, weights
