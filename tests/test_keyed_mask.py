"""V4's marks: what a key draws, how its signs are written, and what a mask shows of them."""

import dataclasses
import hashlib
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from hypothesis.extra import numpy as arrays
from scipy import stats

from pruner.keyed_mask import payload
from pruner.keyed_mask.embedding import Strength, embed, embed_counts, embed_places, shares, usual_strength
from pruner.keyed_mask.pattern import WHOLE, Key, count_agreement, in_all, place_agreement
from pruner.masks import Mask
from utils.errors import UserError

KEY = Key(bytes(range(32)), "Jane Doe", bytes(16), "res20s", "ab" * 32, WHOLE // 10, WHOLE // 4, 70_000)
SHAPES = {"layer1.0.conv1": (16, 16, 3, 3), "layer2.0.conv2": (32, 32, 3, 3), "layer3.0.conv1": (64, 32, 3, 3), "layer3.1.conv1": (64, 64, 3, 3),
          "layer3.2.conv2": (64, 64, 3, 3), "shortcut": (64, 32, 1, 1)}


def random_mask(density: float, seed: int = 0, shapes=SHAPES) -> Mask:
    generator = torch.Generator().manual_seed(seed)
    return Mask({name: torch.rand(shape, generator=generator) < density for name, shape in shapes.items()})


def key_for(mask: Mask, strength: Strength, number: int = 0, **more) -> Key:
    places, counts = shares(strength, mask)
    return dataclasses.replace(KEY, salt=number.to_bytes(16, "big"), places=places, counts=counts, largest=mask.nonzeros, **more)


def z_of(key: Key, mask: Mask, word=None) -> tuple[float, float]:
    return in_all(place_agreement(key, mask, word)).z, in_all(count_agreement(key, mask)).z


def moved(before: Mask, after: Mask) -> int:
    return sum(int((after[name] & ~before[name]).sum()) for name in before)


# --- what is drawn ----------------------------------------------------------------------------------------------------


def test_a_key_draws_this_for_ever():
    """SHA-256 of what is drawn, as on the first machine that drew it: marks must be read by every later version of everything."""
    shape = (64, 32, 3, 3)
    drawn = {"places": KEY.place_signs("layer3.0.conv1", shape), "counts": KEY.count_signs("layer3.0.conv1", shape),
             "groups": KEY.groups("layer3.0.conv1", shape, 192), "words": KEY.words("turns", 100, "layer3.0.conv1", shape)}
    assert {name: hashlib.sha256(np.ascontiguousarray(array, array.dtype.newbyteorder("<")).tobytes()).hexdigest()[:16]
            for name, array in drawn.items()} == {
                "places": "d60dc97e2729f61b", "counts": "7339cf477a866ad8", "groups": "7af7c2eeacdf5599", "words": "ee6f75f6d9843e48"}
    assert [array.dtype for array in drawn.values()] == [np.int8, np.int8, np.int64, np.uint32]
    assert drawn["places"].shape == (64 * 32, 9) and drawn["counts"].shape == (64, 32)


def test_a_draw_follows_from_all_that_is_in_the_key_and_a_layers_from_its_own_name_and_shape():
    shape = (64, 32, 3, 3)
    others = [dataclasses.replace(KEY, **{name: value}) for name, value in dict(
        owner_key=bytes(32), owner_name="Jane", salt=b"1" * 16, arch="res18", ticket_sha256="cd" * 32, places=WHOLE // 9, counts=WHOLE // 3,
        largest=1, payload_bits=64).items()]
    assert len(others) == len(dataclasses.fields(Key))
    seen = {key.bytes_for("x", 8) for key in (KEY, *others)}
    seen |= {KEY.bytes_for("x", 8, "layer", shape), KEY.bytes_for("x", 8, "layer", (32, 64, 3, 3)), KEY.bytes_for("y", 8), KEY.bytes_for("x", 8, "other", shape)}
    assert len(seen) == len(others) + 5
    # a text is no end of another: lengths are hashed too
    assert len({dataclasses.replace(KEY, owner_name=name, salt=salt).bytes_for("x", 8) for name, salt in (("a", b"bc"), ("ab", b"c"))}) == 2


def test_the_shares_of_kernels_are_those_asked_for_and_single_entries_carry_none():
    shape = (256, 256, 3, 3)
    signs = KEY.place_signs("x", shape)
    carrying = (signs != 0).all(1)
    assert np.array_equal(carrying, (signs != 0).any(1))  # a kernel whole, or not at all
    assert abs(carrying.mean() - 0.1) < 5 * math.sqrt(0.09 / 65536)
    assert abs((KEY.count_signs("x", shape) != 0).mean() - 0.25) < 5 * math.sqrt(0.1875 / 65536)
    assert (dataclasses.replace(KEY, places=WHOLE).place_signs("x", shape) != 0).all()
    assert not KEY.place_signs("x", (64, 64, 1, 1)).any() and KEY.count_signs("x", (64, 64, 1, 1)).any()
    assert not dataclasses.replace(KEY, places=0, counts=0).place_signs("x", shape).any()


# --- the null: whatever the mask is -----------------------------------------------------------------------------------


SMALL = {name: SHAPES[name] for name in ("layer1.0.conv1", "layer2.0.conv2")}
STRIPES = Mask({name: (torch.arange(math.prod(shape)) % 4 == 0).view(shape) for name, shape in SMALL.items()})
EVENLY = Mask({name: torch.ones(shape, dtype=torch.bool) for name, shape in SHAPES.items()})


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["plain", "channels", "stripes", "another's"])
def test_over_a_thousand_keys_z_is_standard_normal_on_any_mask(kind):
    plain = random_mask(0.26, shapes=SMALL)
    if kind == "channels":  # densities of their own, as trained masks have
        generator = torch.Generator().manual_seed(1)
        plain = Mask({name: torch.rand(layer.shape, generator=generator) < torch.rand(layer.shape[:2], generator=generator)[..., None, None] ** 2
                      for name, layer in plain.items()})
    strength = Strength(12, 12)
    mask = {"stripes": STRIPES, "another's": embed(plain, key_for(plain, strength, 10**6), strength)}.get(kind, plain)
    places, counts = np.array([z_of(key_for(plain, strength, number), mask) for number in range(1000)]).T
    assert abs(places.mean()) < 0.1 and 0.93 < places.std() < 1.07 and places.max() < 4.5
    assert stats.kstest(places, "norm").pvalue > 1e-3
    if kind == "stripes":  # each kernel holds what its channels suggest
        assert not counts.any()
        return
    assert abs(counts.mean()) < 0.1 and 0.93 < counts.std() < 1.07 and counts.max() < 4.5


def test_a_mask_whose_kernels_hold_what_their_channels_suggest_shows_no_counts():
    for mask in (EVENLY, Mask({name: layer & False for name, layer in EVENLY.items()})):
        found = in_all(count_agreement(KEY, mask))
        assert (found.agreeing, found.squares, found.z) == (0, 0, 0)


@given(st.data())
@settings(max_examples=30)
def test_agreement_is_what_its_definition_says(data):
    shape = data.draw(st.tuples(st.integers(1, 6), st.integers(1, 6), st.just(2), st.integers(1, 2)))
    kept = data.draw(arrays.arrays(bool, shape))
    key = dataclasses.replace(KEY, places=WHOLE // 2, counts=WHOLE // 2)
    mask = Mask({"layer": torch.from_numpy(kept)})
    signs, sigma = key.place_signs("layer", shape).reshape(shape), key.count_signs("layer", shape)
    at = [signs[index] for index in np.ndindex(shape) if kept[index]]
    places = place_agreement(key, mask)["layer"]
    assert (places.agreeing, places.squares) == (sum(map(int, at)), sum(1 for sign in at if sign))
    held, total = kept.sum((2, 3)), max(1, kept.sum())
    residual = {(o, i): held[o, i] - held[o].sum() * held[:, i].sum() / total for o, i in np.ndindex(shape[:2])}
    counts = count_agreement(key, mask)["layer"]
    assert counts.agreeing == pytest.approx(sum(sigma[k] * r for k, r in residual.items()), abs=1e-9)
    assert counts.squares == pytest.approx(sum(r * r for k, r in residual.items() if sigma[k]), abs=1e-9)


# --- writing ----------------------------------------------------------------------------------------------------------


@given(st.integers(0, 2**32), st.sampled_from([0.05, 0.26, 0.6, 0.9]), st.booleans())
@settings(max_examples=15)
def test_counts_that_must_not_change_do_not(seed, density, weighted):
    mask = random_mask(density, seed, SMALL)
    strength = Strength(min(8.0, math.sqrt(mask.nonzeros) / 8), 3.0)
    key = key_for(mask, strength, seed)
    weights = {name: torch.randn(layer.shape, generator=torch.Generator().manual_seed(seed)) for name, layer in mask.items()} if weighted else None
    counted = embed_counts(mask, key, strength.counts, weights)
    signed = embed_places(counted, key, strength.places)
    for name in mask:
        assert torch.equal(counted[name].flatten(1).sum(1), mask[name].flatten(1).sum(1))  # each output channel
        assert torch.equal(signed[name].flatten(2).sum(2), counted[name].flatten(2).sum(2))  # each kernel
        outside = key.count_signs(name, tuple(mask[name].shape)) == 0
        assert torch.equal(counted[name][torch.from_numpy(outside)], mask[name][torch.from_numpy(outside)])
    places, counts = z_of(key, signed)
    assert places >= strength.places and counts >= strength.counts
    assert counts == z_of(key, counted)[1]
    # by the fewest trades: with one fewer z would not be reached
    trades, squares = moved(counted, signed), in_all(place_agreement(key, signed)).squares
    assert trades == 0 or places - 2 / math.sqrt(squares) < strength.places
    again = embed(mask, key, strength, weights)
    assert again == signed


def test_the_price_of_a_mark_does_not_grow_with_the_ticket():
    """ResNet-20's layers at 26%: places to z 25 by at most 700 weights, counts by at most 1,600; ordinary strengths are reached at any size."""
    from models import build_model
    from pruner.masks import prunable_layers

    shapes = {name: tuple(layer.weight.shape) for name, layer in prunable_layers(build_model("res20s", 10)).items()}
    mask, strength = random_mask(0.262, shapes=shapes), Strength(25, 25)
    key = key_for(mask, strength)
    counted = embed_counts(mask, key, 25)
    assert moved(mask, counted) <= 1600 and moved(counted, embed_places(counted, key, 25)) <= 700
    for density, expected in ((0.262, (35, 25)), (0.05, (15, 15)), (0.01, (13, 0))):
        mask = random_mask(density, shapes=shapes)
        strength = usual_strength(mask.nonzeros)
        key = key_for(mask, strength)
        assert dataclasses.astuple(strength) == expected
        assert all(z >= asked for z, asked in zip(z_of(key, embed(mask, key, strength)), expected) if asked)


def test_a_strength_that_the_mask_has_no_room_for_is_refused():
    mask = random_mask(0.1, shapes={"layer": (8, 8, 3, 3)})
    for strength, carrier in ((Strength(50, 0), "places"), (Strength(0, 50), "counts")):
        with pytest.raises(UserError, match=rf"^z 50 of {carrier} can't be reached in this mask, \d+\.\d can; ask for less"):
            embed(mask, key_for(mask, strength), strength)


def test_cheap_weights_move_first():
    mask = random_mask(0.26)
    weights = {name: torch.rand(layer.shape, generator=torch.Generator().manual_seed(3)) for name, layer in mask.items()}
    signed = embed_counts(mask, key_for(mask, Strength(0, 10)), 10, weights)
    lost = torch.cat([weights[name][mask[name] & ~signed[name]] for name in mask])
    got = torch.cat([weights[name][signed[name] & ~mask[name]] for name in mask])
    assert lost.mean() < 0.2 and got.mean() > 0.8


# --- what a thief does to the mask ------------------------------------------------------------------------------------


def shuffled(mask: Mask, share: float, seed: int = 0) -> Mask:
    """So many of the kernels have their entries permuted."""
    generator, result = torch.Generator().manual_seed(seed), {}
    for name, layer in mask.items():
        flat = layer.flatten(2)
        order = torch.rand(flat.shape, generator=generator).argsort(2)
        chosen = torch.rand(flat.shape[:2], generator=generator) < share
        result[name] = torch.where(chosen[..., None], flat.gather(2, order), flat).view_as(layer)
    return Mask(result)


def test_each_carrier_survives_what_the_other_does_not():
    mask, strength = random_mask(0.26), Strength(35, 25)
    key = key_for(mask, strength)
    signed = embed(mask, key, strength)
    places, counts = z_of(key, signed)
    stirred = z_of(key, shuffled(signed, 1.0))
    assert stirred[1] == counts and stirred[0] < 5  # weights moved within kernels
    halved = Mask({name: layer & (torch.rand(layer.shape, generator=torch.Generator().manual_seed(1)) < 0.5) for name, layer in signed.items()})
    assert all(after >= 0.6 * before for after, before in zip(z_of(key, halved), (places, counts)))
    # a thief's own key on top
    thief = key_for(signed, Strength(25, 0), 7)
    copy = embed(signed, thief, Strength(25, 0))
    assert z_of(key, copy)[0] >= 10 and z_of(thief, copy)[0] >= 25 and z_of(thief, signed)[0] < 4


def test_layers_that_a_suspect_lacks_or_has_in_another_shape_leave_the_others_readable():
    mask, strength = random_mask(0.26), Strength(35, 25)
    key = key_for(mask, strength)
    signed = embed(mask, key, strength)
    some = Mask({name: layer for name, layer in signed.items() if name != "layer3.1.conv1"})
    assert {name: one for name, one in place_agreement(key, signed).items() if name in some} == place_agreement(key, some)
    assert min(z_of(key, some)) > 15
    other = Mask({**signed, "layer3.1.conv1": signed["layer3.1.conv1"][:40]})
    assert min(z_of(key, other)) > 12 and abs(place_agreement(key, other)["layer3.1.conv1"].z) < 4


# --- payload ----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("text, z", [("Jané1", 16), ("copy no. 12345", 24)])
def test_a_payload_is_read_from_a_damaged_mask(text, z):
    """At the z that the bars ask for: 64 bits at 16, 128 bits at 24. Written at 35 and stirred until so much is left."""
    mask, strength, read = random_mask(0.26), Strength(35, 0), 0
    for number in range(8):
        key = key_for(mask, strength, number, payload_bits=payload.bits_for(text))
        word = payload.word_of(key, text)
        signed = embed_places(mask, key, 35, word)
        assert z_of(key, signed, word)[0] >= 35 and abs(z_of(key, signed)[0]) < 12  # without the word its signs cancel
        damaged = shuffled(signed, 1 - z / 36, number)
        assert abs(z_of(key, damaged, word)[0] - z) < 4
        found = payload.read(key, damaged)
        read += found is not None and found[0] == text and np.array_equal(found[1], word)
    assert read >= 7


def test_what_carries_no_payload_shows_one_by_chance_alone():
    mask = random_mask(0.26)
    key = key_for(mask, Strength(35, 0), payload_bits=64)
    found = payload.read(key, mask)
    assert payload.choices(64) == 2**48 and payload.choices(0) == 1
    if found:  # of 2^48 messages with a checksum one may be found
        assert stats.norm.sf(z_of(key, mask, found[1])[0]) * 2**48 > 1e-3


def test_texts_that_do_not_fit_are_refused():
    assert [payload.bits_for(text) for text in ("", "sechs6", "sieben7", "x" * 14)] == [64, 64, 128, 128]
    for text in ("x" * 15, "ä" * 8, "a\0"):
        with pytest.raises(UserError, match="at most 14 of UTF-8 without NULs can be carried"):
            payload.bits_for(text)
