"""All that an owner claims of a model: accuracy, and what each of the schemes V1 to V3 will show (paper, section 3.2).

In files a claim is a table of fields (see `ownership.claims.commitment`), `part.name` -> JSON value. Every claim has the same fields,
those of parts it lacks are null: so a commitment does not even tell which schemes there are.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np

from datasets import DATASETS
from models import ARCHITECTURES
from ownership.qr_code import claim as signature_claim
from ownership.claims.commitment import Refused
from pruner.masks import Mask
from utils.errors import UserError

MAX_TEXT = 1000  # letters of a name
MAX_COPIES = 32  # of a code; the time of reading grows with them
MAX_PICTURES, MAX_PIXELS = 10_000, 1 << 28  # of a trigger set that is made again from its key
MAX_SIDE = 512  # of pictures
KEYED = "keyed"  # the one kind of trigger set whose labels are known to be drawn at random


@dataclass(frozen=True)
class Fidelity:
    """How accurate the model is: percent of the test pictures, and how many points less a copy may have.

    dataset: a name of the registry. image_size: as its flag, or None. test_sha256: of test pictures and labels.
    """

    dataset: str
    image_size: int | None
    test_sha256: str
    target: float
    tolerance: float


@dataclass(frozen=True)
class KeyMask:
    """Scheme V1: which ticket the key completes.

    ticket_sha256, key_sha256: as `pruner.key_mask.split.fingerprint`, of mask and rewound weights. ticket_mask_sha256: of the whole
    ticket's mask alone (see `mask_sha256`), which is what a trained suspect still shows.
    """

    ticket_sha256: str
    ticket_mask_sha256: str
    key_sha256: str
    key_nonzeros: int


@dataclass(frozen=True)
class Triggers:
    """Scheme V3: which trigger set. sha256: `datasets.trigger.TriggerSet.fingerprint`. pictures: how many; size: pixels per
    side."""

    kind: str
    sha256: str
    pictures: int
    size: int
    num_classes: int


@dataclass(frozen=True)
class OwnerClaim:
    """owner: a name. owner_key: the Ed25519 public key that signs the commitment, in hex, or None. arch: network."""

    owner: str
    owner_key: str | None
    arch: str
    fidelity: Fidelity | None = None
    v1: KeyMask | None = None
    v2: signature_claim.CodeClaim | None = None
    v3: Triggers | None = None

    @property
    def schemes(self) -> list[str]:
        """V1 to V3, those that are claimed."""
        return [name.upper() for name in ("v1", "v2", "v3") if getattr(self, name) is not None]


PARTS: dict[str, type] = {"fidelity": Fidelity, "v1": KeyMask, "v2": signature_claim.CodeClaim, "v3": Triggers}
TOP = ("owner", "owner_key", "arch")


def to_fields(claim: OwnerClaim) -> dict[str, Any]:
    """The claim as a table of JSON values."""
    table = {name: getattr(claim, name) for name in TOP}
    for part, kind in PARTS.items():
        held = getattr(claim, part)
        table |= {f"{part}.{field.name}": None if held is None else asdict(held)[field.name] for field in fields(kind)}
    if claim.v2 is not None:
        table["v2.copies"] = [list(copy) for copy in claim.v2.copies]
    return table


def from_fields(table: Mapping[str, Any], where: str) -> OwnerClaim:
    """The reverse of `to_fields`, of a stranger's table. Raises Refused, naming `where` and the field, for anything missing,
    unknown, of a wrong type or out of range."""
    known = [*TOP, *(f"{part}.{field.name}" for part, kind in PARTS.items() for field in fields(kind))]
    for name in known:
        if name not in table:
            raise Refused(f"{where}: lacks the field {name!r}")
    for name in table:
        if name not in known:
            raise Refused(f"{where}: unknown field {name[:60]!r}")
    for name, allowed in CHECKS.items():
        part, _, _ = name.rpartition(".")
        if part in PARTS and all(table[other] is None for other in known if other.startswith(f"{part}.")):
            continue
        if not allowed(table[name]):
            raise Refused(f"{where}: field {name!r} holds no value that it can have")
    parts = {}
    for part, kind in PARTS.items():
        content = {field.name: table[f"{part}.{field.name}"] for field in fields(kind)}
        if all(value is None for value in content.values()):
            parts[part] = None
        elif kind is signature_claim.CodeClaim:
            try:
                parts[part] = signature_claim.checked_claim(f"{where}: v2", content)
            except UserError as error:
                raise Refused(str(error)) from None
        else:
            parts[part] = kind(**content)
    claim = OwnerClaim(**{name: table[name] for name in TOP}, **parts)
    if claim.v2 is not None and claim.v2.arch != claim.arch:
        raise Refused(f"{where}: field 'v2.arch' is another network than 'arch'")
    if claim.v3 is not None and 3 * claim.v3.pictures * claim.v3.size ** 2 > MAX_PIXELS:
        raise Refused(f"{where}: fields 'v3.pictures' and 'v3.size' are too large together")
    return claim


def mask_sha256(mask: Mask) -> str:
    """SHA-256, in hex, of which weights of which layers are there, in the order of the layers' names."""
    digest = hashlib.sha256()
    for name in sorted(mask):
        digest.update(f"{name} {tuple(mask[name].shape)}\n".encode() + np.packbits(mask[name].numpy()).tobytes())
    return digest.hexdigest()


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and 0 < len(value) <= MAX_TEXT


def _is_digest(value: Any) -> bool:
    return isinstance(value, str) and len(value) == 64 and set(value) <= set("0123456789abcdef")


def _whole(low: int, high: int):
    return lambda value: type(value) is int and low <= value <= high


def _number(low: float, high: float):
    return lambda value: type(value) in (int, float) and low <= value <= high


def _or_none(check):
    return lambda value: value is None or check(value)


# what `checked_claim` checks of v2 is left to it
CHECKS = {
    "owner": _is_text, "owner_key": _or_none(_is_digest), "arch": lambda value: value in list(ARCHITECTURES),
    "fidelity.dataset": lambda value: value in list(DATASETS), "fidelity.image_size": _or_none(_whole(1, MAX_SIDE)),
    "fidelity.test_sha256": _is_digest, "fidelity.target": _number(0, 100), "fidelity.tolerance": _number(0, 100),
    "v1.ticket_sha256": _is_digest, "v1.ticket_mask_sha256": _is_digest, "v1.key_sha256": _is_digest,
    "v1.key_nonzeros": _whole(1, 1 << 40),
    "v2.copies": lambda value: isinstance(value, list) and len(value) < MAX_COPIES,
    "v2.start_x": _whole(0, 1 << 20), "v2.start_y": _whole(0, 1 << 20),
    "v2.threshold": _or_none(_number(0, signature_claim.LARGEST_THRESHOLD)), "v2.layer": _is_text,
    "v3.kind": _is_text, "v3.sha256": _is_digest, "v3.pictures": _whole(1, MAX_PICTURES), "v3.size": _whole(1, MAX_SIDE),
    "v3.num_classes": _whole(2, 1 << 20),
}
