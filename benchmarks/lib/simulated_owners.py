"""Owners drawn at random, and what each of their schemes shows of a model. A scheme joins benchmarks/verdicts.py by one entry in
DRAWN, and one in ASKED."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from benchmarks.lib.simulated_tickets import network
from datasets import trigger
from datasets.pictures import Pictures, as_float
from models import build_model
from ownership.claims.fields import ClaimPart
from ownership.claims.owner_claim import OwnerClaim
from ownership.claims.verdict import Check, Standing
from ownership.key_mask.check import key_mask
from ownership.key_mask.claim import KeyMask, mask_sha256
from ownership.qr_code.check import code
from ownership.qr_code.claim import DERIVED_FROM, CodeClaim
from ownership.suspects.reading import Suspect, read_suspect
from ownership.trigger_set.check import triggers
from ownership.trigger_set.claim import KEYED, Triggers
from pruner import tickets
from pruner.key_mask import split as key_masks
from pruner.masks import Mask
from pruner.qr_code.derived_text import derived_text
from pruner.qr_code.embedding import Region, embed, find_copies, find_region
from utils import checkpoint
from utils.digests import NONCE_BYTES

LETTERS = ("abcdefghijklmnopqrstuvwxyz ", "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789 ",
           "".join(map(chr, range(32, 127))), "äöüßéñλжשलح中")
LONGEST_TEXT = 24  # bytes that a version 3-H code holds
TRIGGERS, CLASSES, SIDE = 100, 10, 32
KEY_SHARE, DRAWN_WEIGHTS = 0.05, 256

Weights = dict[str, torch.Tensor]
Asked = Callable[[Suspect, np.ndarray, Standing, float], Check]  # of a suspect and its answers, int64 [pictures], at a level


@dataclass
class Owner:
    """Somebody who claims a ticket. mask: of the ticket, as the schemes have left it so far. regions: of the code, written as text.
    parts, checks: of each scheme. pictures: the triggers."""

    arch: str
    mask: Mask
    parts: dict[str, ClaimPart]
    checks: dict[str, Asked]
    text: str = ""
    regions: list[Region] = ()
    pictures: Pictures | None = None

    @property
    def expected(self) -> np.ndarray:
        """int64 [pictures], the secret labels."""
        return self.pictures.labels.numpy()

    @property
    def claim(self) -> OwnerClaim:
        return OwnerClaim(f"owner {self.text}", None, self.arch, parts=self.parts)


def new_owner(arch: str, random: np.random.Generator) -> Owner:
    """Somebody who signs a ticket, splits a key off it and draws triggers."""
    owner = Owner(arch, network(arch, float(random.choice((0.1, 0.2, 0.4))), random)[0], {}, {})
    for name, draw in DRAWN.items():
        owner.parts[name], owner.checks[name] = draw(owner, random)
    return owner


def random_text(random: np.random.Generator) -> str:
    letters, text = list(LETTERS[random.integers(len(LETTERS))]), ""
    for letter in random.choice(letters, int(random.integers(3, LONGEST_TEXT + 1))):
        if len((text + letter).encode()) > LONGEST_TEXT:
            break
        text += letter
    return text


def drawn_weights(mask: Mask, random: np.random.Generator) -> Weights:
    """Log-normal magnitudes with random signs where the mask is."""
    drawn = {name: 0.1 * random.lognormal(0, 0.6, kept.shape) * random.choice([-1, 1], kept.shape) for name, kept in mask.items()}
    return {f"{name}.weight": torch.from_numpy(drawn[name]).float() * kept for name, kept in mask.items()}


# --- what is claimed, and how it is checked ---------------------------------------------------------------------------


def a_code(owner: Owner, random: np.random.Generator) -> tuple[CodeClaim, Asked]:
    """A derived text where embed_qrcode.py would write it; every fourth owner writes it twice, every fourth cleans suspects."""
    derived = {"owner_key": random.bytes(32).hex(), "owner_name": random_text(random), "nonce": random.bytes(NONCE_BYTES).hex(),
               "ticket_sha256": key_masks.fingerprint(owner.mask)}
    owner.text = derived_text(*(bytes.fromhex(derived[name]) if name in ("owner_key", "nonce") else derived[name]
                                for name in DERIVED_FROM), LONGEST_TEXT)
    owner.regions = find_copies(owner.mask, owner.text, find_region(owner.mask, owner.text), 1 + int(random.random() < 0.25))
    state = random.bit_generator.state
    owner.mask = embed(owner.mask, owner.text, owner.regions, random)
    first, *further = owner.regions
    form = first.code_format
    part = CodeClaim(owner.text, owner.arch, first.layer, first.start_x, first.start_y, form.version, form.error_correction,
                     form.mask_pattern, first.similarity, owner.mask.nonzeros, owner.mask.entries, state,
                     tuple((copy.layer, copy.start_x, copy.start_y) for copy in further),
                     0.02 if random.random() < 0.25 else None, **derived)
    return part, lambda suspect, answers, standing, level: code(part, suspect, standing, level)


def a_key(owner: Owner, random: np.random.Generator) -> tuple[KeyMask, Asked]:
    """A random key, split off the ticket, with a drawn part."""
    initial, public = drawn_weights(owner.mask, random), random.bytes(32)
    scored, _ = key_masks.split(owner.mask, {name: torch.where(kept, torch.rand(kept.shape, dtype=torch.float64), -torch.inf)
                                             for name, kept in owner.mask.items()}, KEY_SHARE, DRAWN_WEIGHTS)
    ticket_sha256 = key_masks.fingerprint(owner.mask, initial)
    key, drawn = key_masks.draw(owner.mask, ticket_sha256, scored, DRAWN_WEIGHTS, public, random.bytes(NONCE_BYTES))
    part = KeyMask(ticket_sha256, mask_sha256(owner.mask), key_masks.fingerprint(key, initial, drawn), key.nonzeros)
    file = tickets.ModelFile("key", None, key, initial, {"part": "key", **drawn.facts()})
    return part, lambda suspect, answers, standing, level: key_mask(part, suspect, file, public.hex(), standing, level=level)


def a_trigger_set(owner: Owner, random: np.random.Generator) -> tuple[Triggers, Asked]:
    """Of a random key."""
    drawn = trigger.keyed(random.bytes(32), TRIGGERS, CLASSES, SIDE)
    owner.pictures = drawn.pictures
    part = Triggers(KEYED, drawn.fingerprint(), TRIGGERS, SIDE, CLASSES)
    return part, lambda suspect, answers, standing, level: triggers(part, owner.expected, [answers], True, standing, level)


# in the order in which an owner does it: the key is of the signed ticket
DRAWN: dict[str, Callable[[Owner, np.random.Generator], tuple[ClaimPart, Asked]]] = {
    "V2": a_code, "V1": a_key, "V3": a_trigger_set}


# --- what an owner who exists shows of a stolen model's file ----------------------------------------------------------


def classifier_of(path: str, arch: str) -> torch.nn.Module:
    """The trained model in a file, as it classifies."""
    content = checkpoint.load(path)
    head = content.get("state_dict", content)[f"{tickets.HEAD}.weight"]
    model = build_model(arch, len(head))
    model.load_state_dict(tickets.read_model_file(path, model).weights)
    return model.eval()


def by_claim(args, claim: OwnerClaim | None, name: str) -> Callable[[str], tuple[ClaimPart, Check]] | None:
    """The code in --claim."""
    if claim is None or name not in claim.parts:
        return None
    part, model = claim.parts[name], build_model(claim.arch, 2)
    return lambda path: (part, code(part, read_suspect(path, model), Standing.COMMITTED, args.level))


def by_trigger_key(args, claim: OwnerClaim | None, name: str) -> Callable[[str], tuple[ClaimPart, Check]] | None:
    """The set of --trigger_key."""
    if not args.trigger_key:
        return None
    key, arch = trigger.read_key(args.trigger_key), claim.arch if claim else args.arch

    def ask(path: str) -> tuple[ClaimPart, Check]:
        classifier = classifier_of(path, arch)
        drawn = trigger.keyed(key, args.trigger_count, classifier.fc.out_features, args.trigger_size)
        with torch.no_grad():
            answers = classifier(as_float(drawn.pictures.images)).argmax(1).numpy()
        part = Triggers(KEYED, drawn.fingerprint(), len(drawn), args.trigger_size, drawn.num_classes)
        return part, triggers(part, drawn.pictures.labels.numpy(), [answers], True, Standing.COMMITTED, args.level)

    return ask


ASKED: dict[str, Callable[..., Any]] = {"V2": by_claim, "V3": by_trigger_key}
