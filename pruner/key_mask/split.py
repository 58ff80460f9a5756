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
from utils.digests import sha256_of_parts
from utils.errors import UserError

WHOLE = "identity"
LABEL = "lottery-verification/drawn-key/1"  # no digest that was made for another purpose can be taken for one of these


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


def split(mask: Mask, scores: Scores, ratio: float, less: int = 0) -> tuple[Mask, Mask]:
    """Split a mask into key and locked mask by the highest scores over all layers together (Algorithm 1).

    Args:
        mask: the ticket's.
        scores: as of `pruner.key_mask.scores`, -inf where pruned.
        ratio: relative sparsity of the key, rspar(key, ticket).
        less: so many weights of it are left to be drawn (see `draw`).
    Returns:
        (key, locked): the key holds exactly round(ratio * nonzeros) - less weights, locked the others. Of equal scores the
        ones first in the mask's order go into the key.
    Raises:
        UserError: see `key_size`; or the score would pick none.
    """
    count = key_size(mask, ratio) - less
    if count < 1:
        raise UserError(f"--drawn {less}: the key has {count + less} weights in all; draw fewer, or choose a higher --key_ratio")
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


@dataclass(frozen=True)
class Drawn:
    """The part of a key that nobody chose: so many weights of the ticket, beside those that the score picked, as a hash says.

    That a key completes a mask proves nothing where the rest could be foreseen, as of a public network that anybody prunes alike.
    owner_key: Ed25519, public, 32 bytes. positions: which of the key's weights, counted in the mask's order.
    """

    owner_key: bytes
    nonce: bytes
    positions: tuple[int, ...]

    def facts(self) -> dict[str, str]:
        """What the key's file says of it."""
        return {"drawn_for": self.owner_key.hex(), "drawn_nonce": self.nonce.hex(), "drawn": " ".join(map(str, self.positions))}


def draw(ticket: Mask, ticket_sha256: str, scored: Mask, count: int, owner_key: bytes, nonce: bytes) -> tuple[Mask, Drawn]:
    """Add so many weights of the ticket to those that a score picked: (the key, what of it was drawn).

    All choices of `count` of the others are equally probable, to anybody who has to try nonces or tickets to get another one.

    Args:
        ticket_sha256: its `fingerprint`, with weights, which a court can't check: it has the mask alone.
        scored: a part of the ticket.
    Raises:
        UserError: nothing would be left of the ticket.
    """
    left = [int((ticket[name] & ~scored[name]).sum()) for name in ticket]
    if not 0 < count < sum(left):
        raise UserError(f"--drawn {count}: of a ticket of {ticket.nonzeros} weights, of which {scored.nonzeros} are in the key, no "
                        "so many can be drawn; choose fewer")
    masks = (bytes.fromhex(fingerprint(mask)) for mask in (ticket, scored))  # or a ticket could be made up around the numbers
    seed = sha256_of_parts(LABEL.encode(), bytes.fromhex(ticket_sha256), owner_key, nonce, *masks)
    picked = np.zeros(sum(left), dtype=bool)
    picked[_distinct(seed, count, len(picked))] = True
    key, drawn = {}, {}
    for name, part in zip(ticket, np.split(picked, np.cumsum(left)[:-1])):
        drawn[name] = torch.zeros_like(ticket[name])
        drawn[name][ticket[name] & ~scored[name]] = torch.from_numpy(part)
        key[name] = scored[name] | drawn[name]
    among_key = np.concatenate([drawn[name][key[name]].numpy() for name in key])
    return Mask(key), Drawn(owner_key, nonce, tuple(np.flatnonzero(among_key).tolist()))


def _distinct(seed: bytes, count: int, bound: int) -> list[int]:
    """So many different numbers below `bound`, each as probable as any other; the same on every machine."""
    numbers: dict[int, None] = {}
    limit, block = (1 << 64) // bound * bound, 0  # words past the last whole multiple are thrown away
    while len(numbers) < count:
        digest = hashlib.sha256(seed + block.to_bytes(8, "big")).digest()
        for at in range(0, 32, 8):
            word = int.from_bytes(digest[at:at + 8], "big")
            if word < limit and len(numbers) < count:
                numbers[word % bound] = None
        block += 1
    return list(numbers)


def drawn_part(key: tickets.ModelFile) -> Drawn | None:
    """What a key's file says was drawn, None where nothing was. Raises UserError for anything else."""
    texts = [key.facts.get(name) for name in ("drawn_for", "drawn_nonce", "drawn")]
    if texts == [None] * 3:
        return None
    try:
        drawn = Drawn(bytes.fromhex(texts[0]), bytes.fromhex(texts[1]), tuple(map(int, texts[2].split(" "))))
    except (TypeError, ValueError, AttributeError):
        drawn = None
    in_order = drawn and all(low < high for low, high in zip((-1, *drawn.positions), (*drawn.positions, key.mask.nonzeros)))
    if not in_order or list(drawn.facts().values()) != texts:
        raise UserError(f"--key {key.path}: its drawn part is damaged; give the file that main_eval_all.py wrote")
    return drawn


def follows(drawn: Drawn, key: Mask, ticket: Mask, ticket_sha256: str) -> bool:
    """Whether that part of the key is what the hash draws."""
    flags = np.ones(key.nonzeros, dtype=bool)
    flags[list(drawn.positions)] = False
    scored = {}
    for name, part in zip(key, np.split(flags, np.cumsum([int(layer.sum()) for layer in key.values()])[:-1])):
        scored[name] = torch.zeros_like(key[name])
        scored[name][key[name]] = torch.from_numpy(part)
    again, _ = draw(ticket, ticket_sha256, Mask(scored), len(drawn.positions), drawn.owner_key, drawn.nonce)
    return all(torch.equal(again[name], key[name]) for name in key)


def split_visited(mask: Mask, counts: Scores) -> tuple[Mask, Mask]:
    """Split off every weight that scores above zero: with the scores of drawn paths, all that they run through.

    Raises UserError if that is the whole ticket.
    """
    key = Mask({name: counts[name] > 0 for name in mask})
    if key.nonzeros == mask.nonzeros:
        raise UserError("--num_paths: the paths run through the whole ticket; draw fewer, or give --key_ratio")
    return key, Mask({name: mask[name] & ~key[name] for name in mask})


def fingerprint(mask: Mask, weights: Mapping[str, torch.Tensor] | None = None, drawn: Drawn | None = None) -> str:
    """SHA-256, in hex, of a mask and, where they are given, of the weights it keeps, layer by layer, and a key's drawn part."""
    digest = hashlib.sha256()
    for name, kept in mask.items():
        digest.update(f"{name} {tuple(kept.shape)}\n".encode())
        digest.update(np.packbits(kept.numpy()).tobytes())
        if weights is not None:
            digest.update(weights[f"{name}.weight"].detach().cpu()[kept].float().numpy().astype("<f4").tobytes())
    if drawn is not None:
        digest.update("\n".join(drawn.facts().values()).encode())
    return digest.hexdigest()


def write_split(key_path: str | Path, locked_path: str | Path, key: Mask, locked: Mask,
                weights: Mapping[str, torch.Tensor], facts: Mapping[str, Any], drawn: Drawn | None = None) -> None:
    """Write both parts as tickets: the key with the weights W0 * Ms, the locked one with W0 * (M - Ms).

    Weights outside the masks' layers (stem, batch norm, classifier) go into both files, so that each reads as a ticket. What of
    the key was drawn is for the key's file alone.
    """
    whole = Mask({name: key[name] | locked[name] for name in key})
    facts = {**facts, "ticket_sha256": fingerprint(whole, weights), "key_sha256": fingerprint(key, weights, drawn),
             "key_nonzeros": key.nonzeros, "key_ratio": key.nonzeros / whole.nonzeros}
    for path, part, role in ((key_path, key, "key"), (locked_path, locked, "locked")):
        tickets.write_ticket(path, part, {**weights, **{f"{name}.weight": weights[f"{name}.weight"].cpu() * kept
                                                        for name, kept in part.items()}}, {**facts, "part": role,
                                                        **(drawn.facts() if drawn and role == "key" else {})},
                             secret=role == "key")


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
    if fingerprint(key.mask, key.initial, drawn_part(key)) != locked.facts.get("key_sha256"):
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
