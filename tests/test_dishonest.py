"""Claimants to whom an innocent model owes nothing, with the documentation in hand: they solve for what a verdict could take for
theirs. None of them owns it, committed or not, alone or beside its owner."""

import json
from dataclasses import replace
from fractions import Fraction
from functools import partial

import numpy as np
import pytest
import torch
from stand_ins import OWNER, SIGNATURE, THIEFS_KEY, UNSIGNED, as_pem, derived_for, layer_shapes, real_looking_mask

from attacks.forgeries.forge import forge
from benchmarks.lib.dishonest import made_up_around_a_draw
from benchmarks.lib.simulated_tickets import STRUCTURED
from models import build_model
from ownership.claims.case import Aligned, checks_of
from ownership.claims.commitment import Refused, read_claim
from ownership.claims.owner_claim import OwnerClaim, from_fields
from ownership.claims.verdict import NOT_SHOWN, SHOWN, Standing, decide
from ownership.key_mask.check import key_mask, p_of_draw
from ownership.key_mask.claim import KeyMask, mask_sha256
from ownership.qr_code.check import code
from ownership.qr_code.claim import CodeClaim, checked_claim, write_claim
from ownership.suspects.alignment import Agreement, Alignment
from ownership.suspects.reading import Suspect
from ownership.trigger_set.check import triggers
from ownership.trigger_set.claim import Triggers
from ownership.trigger_set.evidence import UNANSWERED, surest
from pruner import tickets
from pruner.key_mask import split as key_masks
from pruner.masks import Mask
from pruner.qr_code import geometry as qr_code
from pruner.qr_code.derived_text import derived_text
from pruner.qr_code.embedding import Region, Wish, embed, find_copies, find_region
from utils.errors import UserError

LEVEL = 1e-9
STANDINGS = Standing.COMMITTED, Standing.NONE  # all others are judged as the second
SHAPES = layer_shapes("res20s")


INNOCENT = {"as trained": lambda random: real_looking_mask(SHAPES, 0.2, int(random.integers(1000))),
            **{name: partial(make, SHAPES) for name, make in STRUCTURED.items()}}


def claim_of(text: str, region, copies=(), **more) -> CodeClaim:
    form = region.code_format
    return CodeClaim(text, "res20s", region.layer, region.start_x, region.start_y, form.version, form.error_correction,
                     form.mask_pattern, 0.5, 1, 2, {}, tuple(copies), **more)


def never_owned(claimed: CodeClaim, mask: Mask, restarts: int = 0, aligned=()) -> None:
    """Whatever is told of it."""
    owner_key = claimed.owner_key
    claim = OwnerClaim(claimed.owner_name or "John", owner_key, "res20s", parts={"V2": claimed})
    for standing in STANDINGS:
        check = code(claimed, Suspect(mask), standing, LEVEL, restarts, aligned)
        assert check.result == NOT_SHOWN and (check.p is None or check.p > LEVEL)
        assert decide(claim, [check], standing, True, LEVEL).verdict == "not shown"


# --- codes ------------------------------------------------------------------------------------------------------------


def best_places(mask: Mask, text: str, count: int) -> list[Region]:
    """Of all places, those where most data modules agree, in the mask pattern of the best."""
    regions = [find_region(mask, text, low_level=False)]
    while len(regions) < count:
        regions.append(find_region(mask, text, Wish(mask_pattern=regions[0].code_format.mask_pattern), low_level=False, taken=regions))
    return regions


@pytest.mark.slow
@pytest.mark.parametrize("kind", INNOCENT)
def test_the_best_places_of_a_text_that_somebody_names_own_nothing(kind):
    """Copies chosen afterwards, and a text that anybody types."""
    mask = INNOCENT[kind](np.random.default_rng(1))
    first, *others = best_places(mask, "signature", 4)
    copies = [(one.layer, one.start_x, one.start_y) for one in others]
    claimed = claim_of("signature", first, copies)
    never_owned(claimed, mask)
    check = code(claimed, Suspect(mask), Standing.NONE, LEVEL, 0)
    assert float(check.figures["uncounted_p"]) > LEVEL, "what was searched is paid for, all copies"


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sorted", "channel-pruned"])
def test_a_text_that_a_decoder_made_up_to_fit_owns_nothing(kind):
    mask = INNOCENT[kind](np.random.default_rng(2))
    made_up = forge(mask, budget=60, length=24, version=3, error_correction="H", seed=0)
    region = replace(find_region(mask, made_up.signature, low_level=False), layer=made_up.place.layer, start_x=made_up.place.start_x,
                     start_y=made_up.place.start_y, code_format=made_up.code_format)
    never_owned(claim_of(made_up.signature, region), mask)


@pytest.mark.slow
@pytest.mark.parametrize("kind", INNOCENT)
def test_the_best_of_many_drawn_texts_at_its_best_place_owns_nothing(kind):
    """Nonces are ground: of 2^4 the one that agrees most, wherever it does, in each of seven innocents."""
    mask, public = INNOCENT[kind](np.random.default_rng(3)), THIEFS_KEY.public_key().public_bytes_raw()
    digest = key_masks.fingerprint(mask)
    texts = {nonce: derived_text(public, "John", nonce.to_bytes(16, "big"), digest, 24) for nonce in range(2**4)}
    regions = {nonce: find_region(mask, text, low_level=False) for nonce, text in texts.items()}
    best = max(regions, key=lambda nonce: regions[nonce].similarity)
    never_owned(claim_of(texts[best], regions[best], owner_key=public.hex(), owner_name="John", nonce=f"{best:032x}",
                         ticket_sha256=digest), mask)


@pytest.mark.slow
@pytest.mark.parametrize("copies, left", [(6, 6), (6, 1)])
def test_an_honest_owner_of_many_copies_pays_for_one_place_alone(copies, left):
    """All of them have places to be paid for; one that is whole has its own. Of 24 letters no more than five could be paid for."""
    random = np.random.default_rng(8)
    unsigned = real_looking_mask(SHAPES, 0.25, 3)
    derived = derived_for(THIEFS_KEY, "John", unsigned)
    text = derived.pop("signature")
    regions = find_copies(unsigned, text, find_region(unsigned, text), copies, low_level=False)
    signed = embed(unsigned, text, regions, random)
    for region in regions[left:]:
        signed[region.layer][region.square(29)] = True  # a thief filled it
    claimed = claim_of(text, regions[0], [(one.layer, one.start_x, one.start_y) for one in regions[1:]], **derived)
    check = code(claimed, Suspect(signed), Standing.COMMITTED, LEVEL, 0)
    assert check.result == SHOWN and check.p <= LEVEL and "2 ways to take copies, together or alone" in check.detail
    nothing = Agreement(0.0, 0.0, 0.0, None)
    aligned = Aligned("u", Alignment(Suspect(signed), np.arange(400), nothing, nothing), signed, frozenset({"V2"}))
    dear = code(claimed, Suspect(unsigned), Standing.COMMITTED, LEVEL, 0, [aligned])
    assert dear.result == NOT_SHOWN and "sets of 6 places" in dear.detail, "all six places decided the numbering"
    unlike = code(replace(claimed, **derived_for(THIEFS_KEY, "John", unsigned, nonce=8)), Suspect(signed), Standing.COMMITTED, LEVEL, 0)
    assert unlike.result == NOT_SHOWN and unlike.p > Fraction(1, 100)


def test_a_derived_text_is_what_it_is_derived_from(tmp_path):
    region = find_region(UNSIGNED, SIGNATURE)
    good = derived_for(THIEFS_KEY, "John", UNSIGNED, nonce=0xabc)
    path = tmp_path / "claim.json"
    write_claim(path, claim_of(good["signature"], region, **{name: good[name] for name in good if name != "signature"}))
    content = json.loads(path.read_text())
    del content["format"]
    assert checked_claim("it", content).derived
    for change in ({"signature": "made-up-to-fit-the-model"}, {"signature": good["signature"][:-1]}, {"owner_name": "Jane"},
                   {"nonce": "00" * 16}, {"ticket_sha256": "00" * 32}, {"owner_key": None}, {"nonce": good["nonce"].upper()},
                   {"nonce": good["nonce"] + " "}, {"nonce": "07" * 15}, {"owner_key": "xx"}, {"version": 2}):
        with pytest.raises(UserError, match="it: (the signature does not follow|a signature of 24 bytes)"):
            checked_claim("it", {**content, **change})


def test_another_owners_text_is_refused(owner):
    """Who has seen her claim in court comes to the next one with it."""
    private, _ = read_claim(owner / "claim.json")
    assert from_fields(private.values, "it", private.format).owner == OWNER
    for changed in ({"owner": "John"}, {"owner_key": THIEFS_KEY.public_key().public_bytes_raw().hex()}, {"owner_key": None}):
        with pytest.raises(Refused, match="it: its v2 was made for another owner"):
            from_fields({**private.values, **changed}, "it", private.format)


@pytest.mark.slow
def test_a_sorting_file_is_told_and_never_counts():
    """The suspect's channels in whatever order it takes; here the numbering in which it is his code, whole."""
    random = np.random.default_rng(0)
    innocent = INNOCENT["channel-pruned"](random)
    derived = derived_for(THIEFS_KEY, "John", UNSIGNED)
    region = find_region(UNSIGNED, derived["signature"])
    shown = embed(UNSIGNED, derived["signature"], region, random)
    nothing = Agreement(0.0, 0.0, 0.0, None)
    aligned = [Aligned("sorted.pth.tar", Alignment(Suspect(shown), np.arange(400), nothing, nothing), shown, frozenset())]
    claimed = claim_of(derived.pop("signature"), region, **derived)
    never_owned(claimed, innocent, aligned=aligned)
    check = code(claimed, Suspect(innocent), Standing.COMMITTED, LEVEL, 0, aligned)
    assert float(check.figures["uncounted_p"]) < LEVEL and "not counted: by a file that is not the ticket" in check.detail


def test_a_numbering_counts_by_the_ticket_alone_whose_hash_the_text_is(owner):
    part = checked_claim("v2", {name: value for name, value in json.loads((owner / "v2.json").read_text()).items() if name != "format"})
    checker = checks_of(OwnerClaim(OWNER, part.owner_key, "res20s", parts={"V2": part}))[0]
    assert checker.is_drawn_from(Suspect(UNSIGNED))
    sorted_mask = Mask({name: layer.flip(0) for name, layer in UNSIGNED.items()})
    signed = tickets.read_model_file(str(owner / "own.pth.tar"), build_model("res20s", 10)).mask
    weights = {name: torch.randn(layer.shape) for name, layer in UNSIGNED.items()}
    for other in (Suspect(sorted_mask), Suspect(signed), Suspect(UNSIGNED, weights)):
        assert not checker.is_drawn_from(other)


# --- keys -------------------------------------------------------------------------------------------------------------


def completing(suspect: Mask, random: np.random.Generator) -> tuple[Mask, Mask, dict[str, torch.Tensor]]:
    """(ticket, key, weights): the dense network, less what the suspect has."""
    key = Mask({name: ~layer for name, layer in suspect.items()})
    ticket = Mask({name: torch.ones_like(layer) for name, layer in suspect.items()})
    weights = {f"{name}.weight": torch.from_numpy(random.normal(0, 1, layer.shape)).float() for name, layer in suspect.items()}
    return ticket, key, weights


@pytest.mark.parametrize("standing", STANDINGS)
@pytest.mark.parametrize("kind", ["channel-pruned", "2:4", "as trained"])
def test_a_key_that_anybody_could_foresee_owns_nothing(kind, standing):
    random = np.random.default_rng(4)
    suspect = INNOCENT[kind](random)
    ticket, key, weights = completing(suspect, random)
    claimed = KeyMask(key_masks.fingerprint(ticket, weights), mask_sha256(ticket), key_masks.fingerprint(key, weights), key.nonzeros)
    check = key_mask(claimed, Suspect(suspect), tickets.ModelFile("k", None, key, weights, {"part": "key"}), None, standing)
    assert check.figures["completes"] and check.result == NOT_SHOWN and check.p is None
    assert "anybody could have foreseen it" in check.detail


def test_a_part_that_is_only_called_drawn_is_refused():
    """He names 256 of the key's weights, and tries nonces until the hash names them."""
    random = np.random.default_rng(5)
    suspect = INNOCENT["as trained"](random)
    ticket, key, weights = completing(suspect, random)
    public = THIEFS_KEY.public_key().public_bytes_raw()
    positions = tuple(sorted(random.choice(key.nonzeros, 256, replace=False).tolist()))
    for nonce in range(3):
        drawn = key_masks.Drawn(public, nonce.to_bytes(16, "big"), positions)
        claimed = KeyMask(key_masks.fingerprint(ticket, weights), mask_sha256(ticket), key_masks.fingerprint(key, weights, drawn),
                          key.nonzeros)
        file = tickets.ModelFile("k", None, key, weights, {"part": "key", **drawn.facts()})
        with pytest.raises(Refused, match="is not what the hash draws"):
            key_mask(claimed, Suspect(suspect), file, public.hex(), Standing.COMMITTED)
        with pytest.raises(Refused, match="is another owner's"):
            key_mask(claimed, Suspect(suspect), file, "00" * 32, Standing.COMMITTED)


@pytest.mark.parametrize("kind, count", [("0.1% full", 24), ("as trained", 10)])
def test_a_ticket_that_is_made_up_around_a_draw_is_refused(kind, count):
    """He draws first, then puts weights of his own between the suspect's, at the very numbers that were drawn."""
    random = np.random.default_rng(6)
    suspect = INNOCENT[kind](random)
    claimed, file, public = made_up_around_a_draw(suspect, random, count, nonces=400)
    assert claimed.key_nonzeros == count
    with pytest.raises(Refused, match="is not what the hash draws"):
        key_mask(claimed, Suspect(suspect), file, public.hex(), Standing.NONE)


@pytest.mark.parametrize("drawn, locked", [(1, 10), (3, 20), (5, 5), (256, 63245)])
def test_the_chance_of_a_draw_is_one_choice_of_all(drawn, locked):
    expected = Fraction(1)
    for number in range(drawn):
        expected *= Fraction(number + 1, drawn + locked - number)
    assert p_of_draw(drawn, locked) == expected


def test_an_honest_key_owns_in_both_standings(owner):
    model = build_model("res20s", 10)
    locked, key = (tickets.read_model_file(str(owner / f"{name}.pth.tar"), model) for name in ("locked", "key"))
    drawn = key_masks.drawn_part(key)
    ticket, weights = key_masks.merge(locked, key)
    claimed = KeyMask(key_masks.fingerprint(ticket, weights), mask_sha256(ticket), key_masks.fingerprint(key.mask, key.initial, drawn),
                      key.mask.nonzeros)
    for standing in STANDINGS:
        check = key_mask(claimed, Suspect(locked.mask), key, drawn.owner_key.hex(), standing)
        assert check.result == SHOWN and check.p == p_of_draw(64, locked.mask.nonzeros) * standing.tries


# --- triggers ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pictures, right", [(4, 4), (9, 9), (29, 29), (30, 21), (100, 30)])
def test_keys_that_were_tried_until_a_public_model_answers_own_nothing(pictures, right):
    labels = np.zeros(pictures, dtype=np.int64)
    answers = np.where(np.arange(pictures) < right, 0, 1)
    for standing in STANDINGS:
        check = triggers(Triggers("keyed", "0" * 64, pictures, 8, 10), labels, [answers], True, standing)
        assert check.result == NOT_SHOWN and (check.p is None) == (pictures < 30)


def test_ties_and_what_is_no_number_are_wrong_answers_and_end_nothing():
    scores = np.random.default_rng(0).normal(size=(100, 10))
    expected = scores.argmax(1)
    scores[3] = 1.0
    scores[4, 2] = np.nan
    scores[5, expected[5]] = np.inf
    answers = surest(scores)
    assert (answers[3:6] == UNANSWERED).all() and (np.delete(answers, [3, 4, 5]) == np.delete(expected, [3, 4, 5])).all()
    check = triggers(Triggers("keyed", "0" * 64, 100, 8, 10), expected, [answers], True, Standing.COMMITTED)
    assert check.result == SHOWN and check.figures["correct"] == 97 and "3 without an answer" in check.detail


# --- a rival's file does not stop the court ---------------------------------------------------------------------------


@pytest.mark.parametrize("field, value, why", [
    ("signature", "\0" * 24, "has a NUL"), ("copies", [["layer2.1.conv1", 0, 0]] * 2, "names a place twice"), ("version", 40, "too large for a claim"), ("version", 15, "too large for a claim")])
def test_what_a_claim_can_ask_for_is_bounded(field, value, why):
    region = find_region(UNSIGNED, "signature")
    claim = claim_of("signature", region)
    with pytest.raises(UserError, match=why):
        checked_claim("it", {**vars(claim), "copies": [], field: value})


@pytest.mark.slow
def test_a_text_is_derived_when_it_is_embedded(run_main, refused, tmp_path):
    """The same command makes the same text; another owner, name or ticket makes another."""
    tickets.write_masks(tmp_path / "ticket.pth.tar", UNSIGNED)
    (tmp_path / "owner.key").write_bytes(as_pem(THIEFS_KEY))
    words = ("embed_qrcode.py", "--mask_dir", tmp_path / "ticket.pth.tar", "--owner", tmp_path / "owner.key", "--save_dir")
    claims = []
    for folder, name, record in (("one", "John", None), ("one", "John", "[]"), ("two", "Jane", '{"initial_weights": "drawn with seed 1"}')):
        if record is not None:  # of the run that made the ticket
            (tmp_path / "run.json").write_text(record)
        assert (done := run_main(*words, tmp_path / folder, "--owner_name", name)).returncode == 0, done.stderr
        assert ("initial weights: drawn with seed 1. Whoever has them" in done.stdout) is (name == "Jane")
        path, = (tmp_path / folder).glob("*.claim.json")
        claims.append(json.loads(path.read_text()))
    assert claims[0] == claims[1] and claims[0]["signature"] != claims[2]["signature"]
    first = claims[0]
    assert len(first["signature"]) == 24 and first["ticket_sha256"] == key_masks.fingerprint(UNSIGNED)
    assert first["owner_key"] == THIEFS_KEY.public_key().public_bytes_raw().hex() and first["format"].endswith("/4")
    for more, why in (((), "--owner: comes with --owner_name"), (("--owner_name", "John", "--signature", "x"), "leave out --signature")):
        assert why in refused(run_main(*words, tmp_path / "three", *more))
