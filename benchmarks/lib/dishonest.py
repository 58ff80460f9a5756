"""Claimants to whom an innocent model owes nothing: what each solves for, with the model and the documentation in hand."""

from collections.abc import Callable

import numpy as np
import torch
from scipy.stats import binom

from attacks.forgeries.forge import forge
from benchmarks.lib.simulated_owners import CLASSES, LONGEST_TEXT, SIDE, TRIGGERS, drawn_weights
from benchmarks.lib.simulated_tickets import STRUCTURED, Shapes, network
from ownership.claims.case import Aligned
from ownership.claims.commitment import FIELD_PRIME, SMALL_ORDER, Commitment, check_signature
from ownership.claims.p_values import by_chance
from ownership.claims.verdict import Check, Standing
from ownership.key_mask.check import key_mask, p_of_draw
from ownership.key_mask.claim import KeyMask, mask_sha256
from ownership.qr_code.check import code
from ownership.qr_code.claim import CodeClaim
from ownership.qr_code.drawn_text import Belief
from ownership.qr_code.window import window_of
from ownership.suspects.alignment import Agreement, Alignment
from ownership.suspects.reading import Suspect
from ownership.trigger_set.check import FEWEST_PICTURES, triggers
from ownership.trigger_set.claim import KEYED, Triggers
from pruner import tickets
from pruner.channel_groups import FIXED, ChannelGroups
from pruner.key_mask import split as key_masks
from pruner.masks import Mask
from pruner.qr_code.derived_text import SYMBOLS, derived_text
from pruner.qr_code.embedding import Place, Region, find_copies, find_region
from pruner.qr_code.geometry import CodeFormat
from utils.digests import NONCE_BYTES

STANDING = Standing.COMMITTED  # pays the least, so no claimant is judged more kindly
NONCES, COPIES, KEYS, PLACES = 3, 3, 256, 4  # that each tries, or names
DRAWN = 16  # weights of a key that are called drawn
FROM_A_PUBLIC_MODEL = "from one public model"


# --- innocent models --------------------------------------------------------------------------------------------------


def innocent_mask(kind: str, args, shapes: Shapes, random: np.random.Generator) -> Mask:
    """A mask of one of KINDS."""
    if kind in STRUCTURED:
        return STRUCTURED[kind](shapes, random)
    if kind == FROM_A_PUBLIC_MODEL:  # everybody has it; fine-tuning moved a twentieth of its weights
        public, _ = network(args.arch, 0.2, np.random.default_rng(args.seed))
        moved = {name: torch.from_numpy(random.random(kept.shape) < 0.05) for name, kept in public.items()}
        return Mask({name: kept ^ (moved[name] & (kept | torch.from_numpy(random.random(kept.shape) < 0.2)))
                     for name, kept in public.items()})
    return network(args.arch, float(random.choice((0.05, 0.1, 0.2, 0.4))), random)[0]


KINDS = ("as trained", FROM_A_PUBLIC_MODEL, *STRUCTURED)


# --- what hashes draw -------------------------------------------------------------------------------------------------


def p_of_drawn_texts(mask: Mask, draws: int, random: np.random.Generator) -> np.ndarray:
    """float [draws], of texts that owe nothing to the model, at a place that is drawn."""
    form = CodeFormat(3, "H", int(random.integers(8)))
    layer = str(random.choice([name for name in mask if min(mask[name].shape[:2]) >= form.size]))
    place = Place(layer, *(int(random.integers(length - form.size + 1)) for length in mask[layer].shape[:2]))
    belief = Belief([window_of(Suspect(mask), place, form.version)], form, LONGEST_TEXT)
    symbols = np.frombuffer(SYMBOLS, dtype=np.uint8)
    return np.array([float(belief.p_value(bytes(random.choice(symbols, LONGEST_TEXT)).decode("ascii"), 0)) for _ in range(draws)])


def p_of_drawn_keys(draws: int, random: np.random.Generator) -> np.ndarray:
    """float [draws], of draws of 2 among 12 weights, as a model shows that lacks 2 of them; 1 where it lacks others."""
    ticket, nothing = Mask({"layer": torch.ones(3, 4)}), Mask({"layer": torch.zeros(3, 4)})
    lacks = torch.arange(12).reshape(3, 4) < 2
    drawn = (key_masks.draw(ticket, random.bytes(32).hex(), nothing, 2, bytes(32), bytes(NONCE_BYTES))[0]["layer"]
             for _ in range(draws))
    return np.array([float(p_of_draw(2, 10)) if torch.equal(key, lacks) else 1.0 for key in drawn])


def p_of_drawn_labels(draws: int, random: np.random.Generator) -> np.ndarray:
    """float [draws], of labels that owe nothing to the answers."""
    right = (random.integers(CLASSES, size=(draws, TRIGGERS)) == random.integers(CLASSES, size=TRIGGERS)).sum(1)
    table = [float(by_chance(count, TRIGGERS, CLASSES)) for count in range(TRIGGERS + 1)]
    return np.array(table)[right]


# --- codes ------------------------------------------------------------------------------------------------------------


def claim_of(args, text: str, places: list, code_format: CodeFormat, **derived) -> CodeClaim:
    first, *copies = places
    return CodeClaim(text, args.arch, first.layer, first.start_x, first.start_y, code_format.version, code_format.error_correction,
                     code_format.mask_pattern, 0.5, 1, 2, {}, tuple((copy.layer, copy.start_x, copy.start_y) for copy in copies),
                     **derived)


def best_of_nonces(mask: Mask, ticket_sha256: str, random: np.random.Generator) -> tuple[Region, str, dict[str, str]]:
    """Of several texts that hashes draw the one that agrees most, wherever it does: region, text, and what it is derived from."""
    owner_key, tried = random.bytes(32), []
    for _ in range(NONCES):
        nonce = random.bytes(NONCE_BYTES)
        text = derived_text(owner_key, "John", nonce, ticket_sha256, LONGEST_TEXT)
        tried.append((find_region(mask, text, low_level=False), text, {
            "owner_key": owner_key.hex(), "owner_name": "John", "nonce": nonce.hex(), "ticket_sha256": ticket_sha256}))
    return max(tried, key=lambda one: one[0].similarity)


def a_fitted_text(args, mask: Mask, random: np.random.Generator) -> Check:
    """A decoder finds the text that agrees best with the model as it is."""
    made_up = forge(mask, PLACES, LONGEST_TEXT, 3, "H", int(random.integers(1 << 30)))
    return code(claim_of(args, made_up.signature, [made_up.place], made_up.code_format), Suspect(mask), STANDING, args.level, 0)


def chosen_copies(args, mask: Mask, random: np.random.Generator) -> Check:
    """The best of several drawn texts, at the places where it agrees most."""
    region, text, derived = best_of_nonces(mask, random.bytes(32).hex(), random)
    regions = find_copies(mask, text, region, COPIES, low_level=False)
    return code(claim_of(args, text, regions, region.code_format, **derived), Suspect(mask), STANDING, args.level, 0)


def a_sorting_file(args, mask: Mask, random: np.random.Generator) -> Check:
    """A file whose channels are sorted by density, which the text is truly derived from, so that it counts."""
    shown = args.groups.renumbered_mask(mask, by_density(mask, args.groups, random))
    region, text, derived = best_of_nonces(shown, key_masks.fingerprint(shown), random)
    unknown = Agreement(0.0, 0.0, 0.0, None)
    aligned = Aligned("sorted", Alignment(Suspect(shown), np.arange(len(args.groups.group)), unknown, unknown), shown,
                      frozenset({"V2"}))
    return code(claim_of(args, text, [region], region.code_format, **derived), Suspect(mask), STANDING, args.level, 0, [aligned])


def by_density(mask: Mask, groups: ChannelGroups, random: np.random.Generator) -> np.ndarray:
    """An order of channels under which rows and columns of one layer, which is drawn, get sparser."""
    layer, order = str(random.choice([name for name in mask if min(mask[name].shape[:2]) >= CodeFormat(3).size])), np.arange(len(groups.group))
    for dimension in (0, 1):
        channels = groups.axes[f"{layer}.weight", dimension]
        counts = mask[layer].transpose(0, dimension).flatten(1).sum(1).numpy()
        free = np.flatnonzero(channels != FIXED)
        for group in np.unique(groups.group[channels[free]]):
            there = free[groups.group[channels[free]] == group]
            order[channels[there]] = channels[there[np.argsort(-counts[there], kind="stable")]]
    return order


def a_guessable_text(args, mask: Mask, random: np.random.Generator) -> Check:
    """All places of "signature" are committed to; this is the one that fits."""
    region = find_region(mask, "signature", low_level=False)
    return code(claim_of(args, "signature", [region], region.code_format), Suspect(mask), STANDING, args.level, 0)


# --- keys and triggers ------------------------------------------------------------------------------------------------


def a_foreseen_key(args, mask: Mask, random: np.random.Generator) -> Check:
    """All that the model lacks of the dense network."""
    key, ticket = (Mask({name: make(kept) for name, kept in mask.items()}) for make in (torch.logical_not, torch.ones_like))
    weights = drawn_weights(key, random)
    claimed = KeyMask(random.bytes(32).hex(), mask_sha256(ticket), key_masks.fingerprint(key, weights), key.nonzeros)
    file = tickets.ModelFile("key", None, key, weights, {"part": "key"})
    return key_mask(claimed, Suspect(mask), file, None, STANDING, level=args.level)


def a_ticket_around_a_draw(args, mask: Mask, random: np.random.Generator) -> Check:
    """He draws first, then puts weights of his own between the model's, at the very numbers that were drawn."""
    claimed, file, owner_key = made_up_around_a_draw(mask, random, DRAWN)
    return key_mask(claimed, Suspect(mask), file, owner_key.hex(), STANDING, level=args.level)


def made_up_around_a_draw(suspect: Mask, random: np.random.Generator, count: int,
                          nonces: int = 40) -> tuple[KeyMask, tickets.ModelFile, bytes]:
    """(what he claims, the key's file, his public key): of so many nonces the first whose numbers leave room, else of the last as
    many of them as there is room for."""
    there, owner_key = np.concatenate([layer.numpy().ravel() for layer in suspect.values()]), random.bytes(32)
    bounds = np.cumsum([layer.numel() for layer in suspect.values()])[:-1]

    def as_mask(flat: np.ndarray) -> Mask:
        return Mask({name: torch.from_numpy(part.reshape(layer.shape).copy())
                     for (name, layer), part in zip(suspect.items(), np.split(flat, bounds))})

    first = there.copy()
    first[np.flatnonzero(~there)[:count]] = True  # any ticket of this size
    start, nothing, own = as_mask(first), as_mask(np.zeros_like(there)), []
    ends = np.concatenate([[-1], np.flatnonzero(there), [len(there)]])
    for _ in range(nonces):
        nonce, own = random.bytes(NONCE_BYTES), []
        drawn, _ = key_masks.draw(start, "00" * 32, nothing, count, owner_key, nonce)
        for rank in np.flatnonzero(np.concatenate([layer.numpy().ravel() for layer in drawn.values()])[first]):
            low = max(ends[rank - len(own)], own[-1] if own else -1) + 1  # behind so many of the model's weights, and of his own
            if low >= ends[rank - len(own) + 1]:
                break
            own.append(low)
        if len(own) == count:
            break
    solved = there.copy()
    solved[own] = True
    key, ticket = as_mask(solved & ~there), as_mask(solved)
    weights, drawn = drawn_weights(key, random), key_masks.Drawn(owner_key, nonce, tuple(range(len(own))))
    claimed = KeyMask("00" * 32, mask_sha256(ticket), key_masks.fingerprint(key, weights, drawn), len(own))
    return claimed, tickets.ModelFile("key", None, key, weights, {"part": "key", **drawn.facts()}), owner_key


def ground_keys(args, mask: Mask, random: np.random.Generator) -> Check:
    """Keys are tried until a public model answers a beginning of their sets, which may end anywhere."""
    answers = random.choice(CLASSES, TRIGGERS, p=random.dirichlet(np.full(CLASSES, 1.0)))
    labels = random.integers(CLASSES, size=(KEYS, TRIGGERS))
    right = np.cumsum(labels == answers, axis=1)[:, FEWEST_PICTURES - 1:]
    pictures = np.arange(FEWEST_PICTURES, TRIGGERS + 1)
    key, end = np.unravel_index(binom.sf(right - 1, pictures, 1 / CLASSES).argmin(), right.shape)
    count = int(pictures[end])
    return triggers(Triggers(KEYED, "00" * 32, count, SIDE, CLASSES), labels[key, :count], [answers[:count]], True, STANDING, args.level)


def a_key_of_small_order(args, mask: Mask, random: np.random.Generator) -> Check:
    """A signature that anybody can make up, under one of the keys for which it holds."""
    y = int(random.choice(sorted(SMALL_ORDER))) + int(random.integers(2)) * FIELD_PRIME
    owner_key = ((y % (1 << 255)) | int(random.integers(2)) << 255).to_bytes(32, "little")
    check_signature(Commitment({"owner": random.bytes(32)}, owner_key, (1).to_bytes(32, "little") + bytes(32)), "it")
    return Check("V2", "shown", "a signature of anybody's", p=None)


CLAIMANTS: dict[str, Callable[..., Check]] = {
    "fitted text": a_fitted_text, "chosen copies": chosen_copies, "sorting file": a_sorting_file,
    "guessable text": a_guessable_text, "V1 without entropy": a_foreseen_key, "V1 around a draw": a_ticket_around_a_draw,
    "ground trigger keys": ground_keys, "key of small order": a_key_of_small_order}
