"""The part of a claim that names a trigger set (scheme V3)."""

from dataclasses import dataclass
from typing import Any, Self

from datasets import trigger
from datasets.trigger.folder import MAX_CLASSES
from ownership.claims.fields import ClaimPart, field, is_digest, is_text, whole
from utils.errors import UserError

MAX_PICTURES, MAX_PIXELS = 10_000, 1 << 28  # of a trigger set that is made again from its key
MAX_SIDE = 512  # of pictures
KEYED = "keyed"  # the one kind of trigger set whose labels are known to be drawn at random


@dataclass(frozen=True)
class Triggers(ClaimPart):
    """Which trigger set. sha256: `datasets.trigger.TriggerSet.fingerprint`. pictures: how many; size: pixels per side."""

    kind: str = field(is_text)
    sha256: str = field(is_digest)
    pictures: int = field(whole(1, MAX_PICTURES))
    size: int = field(whole(1, MAX_SIDE))
    num_classes: int = field(whole(2, MAX_CLASSES))

    @classmethod
    def opened(cls, content: dict[str, Any], arch: str, where: str, prefix: str) -> Self:
        """Raises UserError for a set that nobody could make again."""
        claimed = cls(**content)
        if 3 * claimed.pictures * claimed.size ** 2 > MAX_PIXELS:
            raise UserError(f"{where}: fields '{prefix}.pictures' and '{prefix}.size' are too large together")
        return claimed


Part = Triggers


def make(args) -> Triggers:
    """From an exported set. Raises UserError for anything else, and where --trigger_key does not give it."""
    exported = trigger.load_exported(args.v3, "--v3")
    size = exported.pictures.images.shape[1]
    if args.trigger_key and trigger.keyed(trigger.read_key(args.trigger_key), len(exported), exported.num_classes,
                                          size).fingerprint() != exported.fingerprint():
        raise UserError(f"--trigger_key {args.trigger_key}: does not give the set in {args.v3}")
    return Triggers(exported.kind, exported.fingerprint(), len(exported), size, exported.num_classes)
