"""The part of a claim that names a ticket and the key that completes it (scheme V1)."""

import hashlib
from dataclasses import dataclass

import numpy as np

from models import build_model
from ownership.claims.commitment import read_owner_key
from ownership.claims.fields import ClaimPart, field, is_digest, whole
from pruner import tickets
from pruner.key_mask import split as key_masks
from pruner.masks import Mask
from utils import cli
from utils.errors import UserError


@dataclass(frozen=True)
class KeyMask(ClaimPart):
    """Which ticket the key completes.

    ticket_sha256, key_sha256: as `pruner.key_mask.split.fingerprint`, of mask and rewound weights, and of what
    of the key was drawn. ticket_mask_sha256: of the whole ticket's mask alone (see `mask_sha256`), which is what a trained
    suspect still shows.
    """

    ticket_sha256: str = field(is_digest)
    ticket_mask_sha256: str = field(is_digest)
    key_sha256: str = field(is_digest)
    key_nonzeros: int = field(whole(1, 1 << 40))


Part = KeyMask


def make(args) -> KeyMask:
    """From both files of a split ticket. Raises UserError for anything else."""
    model, files = build_model(args.arch, num_classes=2), []
    for flag, path in (("--v1", args.v1), ("--key", args.key)):
        with cli.named(flag):
            files.append(tickets.read_model_file(path, model, head=False))
    locked, key = files
    mask, weights = key_masks.merge(locked, key, "--v1")
    drawn = key_masks.drawn_part(key)
    if drawn is not None:
        with cli.named("--sign"):
            signs = read_owner_key(args.sign).public_key().public_bytes_raw() if args.sign else None
        if drawn.owner_key != signs:
            raise UserError(f"--sign: a part of --key {args.key} was drawn for the owner of another key; sign with that one")
    return KeyMask(key_masks.fingerprint(mask, weights), mask_sha256(mask),
                   key_masks.fingerprint(key.mask, key.initial, drawn), key.mask.nonzeros)


def mask_sha256(mask: Mask) -> str:
    """SHA-256, in hex, of which weights of which layers are there, in the order of the layers' names."""
    digest = hashlib.sha256()
    for name in sorted(mask):
        digest.update(f"{name} {tuple(mask[name].shape)}\n".encode() + np.packbits(mask[name].numpy()).tobytes())
    return digest.hexdigest()
