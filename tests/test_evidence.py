"""The p-value: exact against enumeration and scipy, honest on unrelated masks, and what it is computed from."""

import itertools

import numpy as np
import pytest
import torch
from scipy.stats import hypergeom

from ownership.qr_code.evidence import COUNTED, Evidence, agreement, p_value, parity_parts, places_for, totals
from ownership.qr_code.extraction import extract, extract_claimed, search_everywhere
from ownership.qr_code.scan import _correlate, scan
from ownership.qr_code.soft_decoding import log2_texts
from ownership.qr_code.window import Window, window_of
from ownership.suspects.reading import Suspect
from pruner.qr_code import geometry as qr_code
from pruner.qr_code.embedding import Place, Wish, embed, find_copies, find_region
from pruner.qr_code.linear_code import linear_code
from pruner.masks import Mask
from pruner.qr_code.ordered_statistics import decode
from pruner.qr_code.geometry import CodeFormat


def natural_mask(random: np.random.Generator, layers: int = 3, size: int = 40) -> Mask:
    """Like a trained ticket's: rows and columns of very different density, some of them dead."""
    mask = {}
    for index in range(layers):
        rows, columns = (random.beta(1.5, 1.5, size) * (random.random(size) > 0.15) for _ in range(2))
        shares = np.clip(3 * rows[:, None] * columns, 0, 1) * random.uniform(0.1, 0.9)
        mask[f"layer{index}.conv"] = torch.from_numpy(random.random((size, size, 3, 3)) < shares[:, :, None, None])
    return Mask(mask)


@pytest.mark.parametrize("copies", [1, 2, 3])
def test_the_p_value_against_all_ways_to_draw_the_ones(copies):
    random = np.random.default_rng(copies)
    for _ in range(20):
        scores, ones = random.integers(0, copies + 1, 9), random.random(9) < 0.5
        totals = [scores[list(chosen)].sum() for chosen in itertools.combinations(range(9), int(ones.sum()))]
        expected = np.mean([total >= scores[ones].sum() for total in totals])
        assert p_value(scores, ones) == pytest.approx(expected, rel=1e-12)


def test_the_p_value_of_one_copy_is_fishers():
    random = np.random.default_rng(0)
    for agreeing in (0.5, 0.6, 0.8, 0.95, 1.0):
        ones = random.random(456) < 0.5
        occupied = np.where(random.random(456) < agreeing, ones, ~ones)
        expected = hypergeom.sf((occupied & ones).sum() - 1, 456, occupied.sum(), ones.sum())
        assert p_value(occupied.astype(int), ones) == pytest.approx(expected, rel=1e-6)


def test_nothing_and_everything_occupied_prove_nothing():
    for value in (0, 1):
        windows = [Window(np.full((29, 29), value), None)]
        assert agreement(windows, "signature", CodeFormat(3)).p_value == pytest.approx(1.0)


@pytest.fixture(scope="module")
def unrelated() -> np.ndarray:
    """p-values of 10,000 pairs: 100 windows of masks with dead rows and columns, a hundred owners' texts each."""
    random, p_values, is_data = np.random.default_rng(1), [], qr_code.data_modules(3)
    mask = natural_mask(random, layers=20)
    for _ in range(100):
        place = Place(str(random.choice(list(mask))), *map(int, random.integers(0, 12, 2)))
        length = int(random.integers(4, 20))
        compared = parity_parts(linear_code(CodeFormat(3), length))[0]
        scores = np.minimum(window_of(Suspect(mask), place, 3).counts[is_data][compared], COUNTED)
        table = totals(scores, len(scores) * 3 // 4)
        for index in range(100):
            text = "".join(random.choice(list("abcdefghijklmnopqrstuvwxyz0123456789 "), length))
            ones = qr_code.encode(text, CodeFormat(3, "H", int(random.integers(8))))[is_data][compared]
            row = table[ones.sum()]
            p_values.append(row[scores[ones].sum():].sum() / row.sum())
            if index == 0:
                assert p_values[-1] == pytest.approx(p_value(scores, ones), rel=1e-9)
    return np.array(p_values)


@pytest.mark.slow
@pytest.mark.parametrize("alpha", [0.05, 1e-2, 1e-3])
def test_unrelated_masks_and_signatures_agree_no_more_than_chance_allows(unrelated, alpha):
    assert len(unrelated) == 10000
    assert (unrelated < alpha).mean() <= alpha + 2 * np.sqrt(alpha * (1 - alpha) / 10000)


def test_another_owners_code_of_the_same_format_is_no_evidence():
    # padding and header are the same in both, and so are the upper bits of letters: they must not count
    random, code_format = np.random.default_rng(3), CodeFormat(3, "H", 4)
    p_values = []
    for _ in range(100):
        mine, other = ("".join(random.choice(list("abcdefghij"), 9)) for _ in range(2))
        windows = [Window(qr_code.encode(other, code_format).astype(int), None)]
        found = agreement(windows, mine, code_format)
        assert found.modules == 176
        p_values.append(found.p_value)
    assert min(p_values) > 1e-5 and np.mean(np.array(p_values) < 0.05) < 0.12
    assert agreement(windows, other, code_format).p_value < 1e-45


def test_a_shared_ending_is_no_evidence():
    # both texts end alike, so the second Reed-Solomon block is the same in both codes
    code_format = CodeFormat(3, "H", 1)
    windows = [Window(qr_code.encode("Jane Doe 2026", code_format).astype(int), None)]
    assert agreement(windows, "Jane Doe 2026", code_format).p_value < 1e-40
    assert agreement(windows, "John Doe 2026", code_format).p_value > 1e-3


def test_a_text_made_up_afterwards_agrees_by_itself_and_is_not_believed():
    """A thief decodes an unsigned region and claims what comes out: p_value is tiny, for any region; p_any_text is not."""
    random = np.random.default_rng(8)
    is_data, code_format, length = qr_code.data_modules(3), CodeFormat(3, "H", 2), 9
    code, smallest = linear_code(code_format, length), 1.0
    for _ in range(10):
        counts = np.minimum(random.binomial(9, 0.26, (29, 29)), COUNTED)[is_data]
        bits = decode(counts - counts.mean(), code)
        part, = parity_parts(code)
        smallest = min(smallest, p_value(counts[part], code.encode(bits)[part]))
    searched = 50_000
    assert smallest * searched < 1e-9
    made_up = Evidence(len(part), 0.0, smallest, searched, 2 + 8 * length)
    assert made_up.p_corrected < 1e-9 and made_up.p_any_text == 1.0


@pytest.mark.parametrize("text, texts", [("signature", 27**9), ("Jane Doe 2026", 63**13), ("a@b.c", 95**5), ("\u00e9", 256**2)])
def test_texts_are_counted_by_their_kind(text, texts):
    assert log2_texts(text) == pytest.approx(np.log2(4) + np.log2(float(texts)))


def test_correction_counts_every_place_and_pattern():
    mask = Mask({"a": torch.zeros(32, 30, 3, 3), "b": torch.zeros(16, 64, 3, 3), "c": torch.zeros(29, 29, 1, 1)})
    assert places_for(mask, 3) == 8 * (4 * 2 + 1)
    windows = [Window(np.ones((29, 29), dtype=int), None)]
    assert agreement(windows, "signature", CodeFormat(3), 72).p_corrected == 1.0


def test_correlation_against_counting():
    random = np.random.default_rng(4)
    occupied, compared = random.random((34, 40)) < 0.6, random.random((29, 29)) < 0.4
    codes = (random.random((3, 29, 29)) < 0.5) & compared
    found = _correlate(occupied, compared, codes)
    assert found.shape == (3, 6, 12)
    for code, x, y in itertools.product(range(3), (0, 2, 5), (0, 7, 11)):
        square = occupied[x:x + 29, y:y + 29]
        both, chance = (square & codes[code]).sum(), hypergeom(compared.sum(), codes[code].sum(), (square & compared).sum())
        assert found[code, x, y] == pytest.approx((both - chance.mean()) / chance.std(), abs=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("known", [True, False])
def test_a_scan_finds_the_place(known):
    random = np.random.default_rng(5)
    mask = natural_mask(random)
    region = find_region(mask, "signature", Wish("layer1.conv", 7, 3))
    mask = embed(mask, "signature", region, random)
    best = scan(mask, [3], "H", "signature" if known else None).candidates[0]
    assert (best.place, best.code_format) == (Place("layer1.conv", 7, 3), region.code_format)
    places, found = search_everywhere(Suspect(mask), Wish(), "signature" if known else None)
    assert places == [best.place] and found.text == "signature"
    places, found = search_everywhere(Suspect(natural_mask(random)), Wish(), "signature" if known else None, restarts=2)
    assert found.text is None and (not known or found.evidence.p_corrected > 0.01)


def test_copies_lie_apart_keep_the_weights_and_are_tested_together():
    random = np.random.default_rng(6)
    mask = Mask({name: torch.from_numpy(random.random((64, 64, 3, 3)) < 0.2) for name in ("layer1.a", "layer1.b")})
    first = find_region(mask, "signature")
    regions = find_copies(mask, "signature", first, 6)
    assert len({(region.layer, region.start_x // 29, region.start_y // 29) for region in regions}) == 6
    assert {region.code_format for region in regions} == {first.code_format}
    for one, other in itertools.combinations(regions, 2):
        assert one.layer != other.layer or max(abs(one.start_x - other.start_x), abs(one.start_y - other.start_y)) >= 29
    signed = embed(mask, "signature", regions, random)
    assert signed.nonzeros == mask.nonzeros
    found = extract(Suspect(signed), regions, [first.code_format], "signature")
    assert found.flips.count == 0 and found.flips.data_modules == 6 * 567
    assert found.evidence.p_value <= extract(Suspect(signed), regions[:1], [first.code_format], "signature").evidence.p_value
    # a copy alone is ruined, together they are read
    damage = Mask({name: layer & torch.from_numpy(random.random(layer.shape[:2]) > 0.5)[:, :, None, None]
                   for name, layer in signed.items()})
    together = extract(Suspect(damage), regions, [first.code_format], "signature")
    assert together.shows("signature") and together.evidence.p_value < 1e-45


@pytest.mark.slow
def test_the_owners_threshold_takes_noise_away():
    from ownership.qr_code.claim import CodeClaim

    random = np.random.default_rng(7)
    mask = natural_mask(random)
    region = find_region(mask, "Jane Doe 2026")
    mask = embed(mask, "Jane Doe 2026", region, random)
    weights = {name: kept * (1 + torch.from_numpy(random.random(kept.shape))) for name, kept in mask.items()}
    noisy = {name: torch.where(kept, weights[name], 0.1 * torch.from_numpy(random.random(kept.shape)))
             for name, kept in mask.items()}
    claim = CodeClaim("Jane Doe 2026", "res20s", region.layer, region.start_x, region.start_y, 3, "H",
                  region.code_format.mask_pattern, 0.5, mask.nonzeros, mask.entries, {})
    suspect = Suspect(Mask({name: weight != 0 for name, weight in noisy.items()}), noisy)
    assert not extract(suspect, claim.places, [claim.code_format], claim.signature, restarts=0).flips.lost
    assert extract_claimed(suspect, claim, restarts=0).flips.added > 200
    owner = Suspect(mask, weights)
    assert 1 <= owner.magnitude_below(0.05) < owner.magnitude_below(0.5) < 2
    from dataclasses import replace

    assert extract_claimed(suspect, replace(claim, threshold=1.0)).flips.count == 0
