"""Looking for a code without its claim: the scan against a brute-force oracle, and what clearing and filling do."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from stand_ins import layer_shapes, overlap, real_looking_mask, small_mask

from attacks.locate import Found, clear, fill, locate
from pruner.qr_code import geometry as qr_code
from pruner.qr_code.embedding import Wish, embed, find_region, occupancy
from pruner.masks import Mask
from pruner.qr_code.placement import natural_probabilities
from utils.errors import UserError


def oracle(layer: torch.Tensor, x: int, y: int, version: int) -> float:
    """The statistic of one block, kernel by kernel."""
    counts, area = layer.flatten(2).sum(2).numpy(), layer[0, 0].numel()
    chance = natural_probabilities(counts.sum(1), counts.sum(0), area)
    is_data = qr_code.data_modules(version)
    modules = [(int(counts[x + i, y + j]), float(chance[x + i, y + j])) for i, j in np.argwhere(is_data)]

    def ratio(classes: list[set[int]]) -> float:
        natural = uniform = 0.0
        for members in classes:
            inside = [p for count, p in modules if count in members]
            natural += sum(math.log(sum(math.comb(area, number) * p**number * (1 - p)**(area - number)
                                        for number in members)) for p in inside)
            uniform += len(inside) * math.log(len(inside) / len(modules)) if inside else 0.0
        return uniform - natural

    numbers = set(range(area + 1))
    return max(ratio([{0}, {1}, {2}, numbers - {0, 1, 2}]), ratio([{0}, numbers - {0}]))


@pytest.mark.parametrize(("seed", "density", "area"), [
    (0, 0.5, (2, 2)), (1, 0.1, (2, 2)), (2, 0.3, (1, 1)), (3, 0.3, (1, 2)),
])
def test_every_score_is_the_oracles_and_the_best_is_the_largest(seed, density, area):
    mask = small_mask(seed, density, area)
    found = locate(mask, versions=(1, 2), limit=6)
    assert len(found) >= 3
    assert [block.score for block in found] == sorted((block.score for block in found), reverse=True)
    for block in found:
        expected = oracle(mask[block.layer], block.start_x, block.start_y, block.version)
        assert block.score == pytest.approx(expected, abs=1e-6)
    random = np.random.default_rng(seed)
    for name, layer in mask.items():
        for version in (1, 2):
            ends = [length - qr_code.code_size(version) for length in layer.shape[:2]]
            if min(ends) >= 0:
                for x, y in random.integers(0, np.array(ends) + 1, (4, 2)):
                    assert oracle(layer, x, y, version) <= found[0].score + 1e-6


def test_all_offsets_of_a_layer_are_scanned():
    layer = small_mask(5, 0.3)["b"]
    scores = {(x, y): oracle(layer, x, y, 1) for x in range(6) for y in range(4)}
    best = locate(Mask({"b": layer}), limit=1)
    assert (best[0].start_x, best[0].start_y) == max(scores, key=scores.get)
    assert best[0].score == pytest.approx(max(scores.values()), abs=1e-6)


@settings(max_examples=25)
@given(seed=st.integers(0, 10**6), density=st.floats(0.01, 0.95), limit=st.integers(1, 8))
def test_blocks_lie_inside_apart_and_in_order(seed, density, limit):
    mask = small_mask(seed, density)
    found = locate(mask, limit=limit)
    assert 1 <= len(found) <= limit
    for index, block in enumerate(found):
        assert block.size <= min(mask[block.layer].shape[:2])
        assert block.start_x + block.size <= mask[block.layer].shape[0]
        assert block.start_y + block.size <= mask[block.layer].shape[1]
        assert math.isfinite(block.score)
        for better in found[:index]:
            assert better.score >= block.score
            if better.layer == block.layer:
                shared = [min(a + block.size, b + better.size) - max(a, b)
                          for a, b in ((block.start_x, better.start_x), (block.start_y, better.start_y))]
                assert min(shared) <= 0 or 2 * math.prod(shared) <= min(block.size, better.size) ** 2
    assert locate(mask, limit=1) == found[:1]


def test_a_block_moves_with_its_channels():
    mask = small_mask(7, 0.3)
    region = find_region(mask, "signature", Wish("a", 1, 4))
    signed = embed(mask, "signature", region, np.random.default_rng(0))["a"]
    found = locate(Mask({"a": signed}), limit=1)[0]
    assert (found.start_x, found.start_y, found.version) == (1, 4, 3)
    wider = torch.nn.functional.pad(signed, (0, 0, 0, 0, 3, 0, 2, 0))
    moved = locate(Mask({"a": wider}), limit=1)[0]
    assert (moved.start_x, moved.start_y) == (found.start_x + 2, found.start_y + 3)
    # empty channels say nothing: they are as nature makes them
    assert moved.score == pytest.approx(found.score, rel=1e-3)


def test_masks_without_room_without_weights_and_full_ones():
    assert locate(Mask({"a": torch.ones(20, 40, 3, 3)})) == []
    assert locate(Mask({"a": torch.ones(40, 40, 3, 3)}), versions=(7,)) == []
    for layer in (torch.ones(40, 40, 3, 3), torch.zeros(40, 40, 3, 3)):
        assert all(abs(block.score) < 0.1 for block in locate(Mask({"a": layer})))


@pytest.mark.slow
@pytest.mark.parametrize("density", [0.26, 0.1])
def test_a_code_is_located_and_an_unsigned_ticket_shows_none(density):
    """97% to 60% of the kernels of layer2 are occupied here, and the code takes half of its region's."""
    hits = 0
    for seed in range(6):
        mask = real_looking_mask(layer_shapes("res20s"), density, seed)
        assert locate(mask, limit=1)[0].score < 20
        region = find_region(mask, "signature")
        found = locate(embed(mask, "signature", region, np.random.default_rng(seed)), limit=1)[0]
        hits += overlap(found, region.layer, region.start_x, region.start_y, 29) > 0.5
    assert hits == 6


def test_larger_codes_are_located_with_their_size():
    mask = real_looking_mask(layer_shapes("res20s"), 0.26, 0)
    region = find_region(mask, "x" * 60)
    assert region.code_format.version > 3
    found = locate(embed(mask, "x" * 60, region, np.random.default_rng(0)))[0]
    assert (found.layer, found.start_x, found.start_y, found.version) == (
        region.layer, region.start_x, region.start_y, region.code_format.version)


def victim(seed: int = 0) -> tuple[Mask, dict[str, torch.Tensor]]:
    mask = small_mask(seed, 0.3)
    generator = torch.Generator().manual_seed(seed)
    weights = {f"{name}.weight": torch.randn(layer.shape, generator=generator) * layer for name, layer in mask.items()}
    return mask, weights | {"fc.weight": torch.randn(10, 4, generator=generator)}


def unchanged_elsewhere(before: tuple, after: tuple, found: Found) -> bool:
    outside = torch.ones_like(before[0][found.layer])
    outside[found.start_x:found.start_x + found.size, found.start_y:found.start_y + found.size] = False
    key = f"{found.layer}.weight"
    return (list(before[0]) == list(after[0]) and list(before[1]) == list(after[1])
            and all(torch.equal(before[0][name], after[0][name]) for name in before[0] if name != found.layer)
            and all(torch.equal(before[1][name], after[1][name]) for name in before[1] if name != key)
            and torch.equal(before[0][found.layer][outside], after[0][found.layer][outside])
            and torch.equal(before[1][key][outside], after[1][key][outside]))


BLOCK = Found("a", 3, 5, 2, 0.0)


def test_clear_empties_the_block_and_nothing_else():
    mask, weights = victim()
    given = {key: tensor.clone() for key, tensor in weights.items()}
    kept = Mask({name: layer.clone() for name, layer in mask.items()})
    after = clear(mask, weights, BLOCK)
    assert mask == kept and all(torch.equal(weights[key], given[key]) for key in given), "inputs are not touched"
    assert not after[0]["a"][3:28, 5:30].any() and not after[1]["a.weight"][3:28, 5:30].any()
    assert after[0].nonzeros == mask.nonzeros - int(mask["a"][3:28, 5:30].sum())
    assert unchanged_elsewhere((mask, weights), after, BLOCK)


def test_fill_occupies_the_empty_kernels_of_the_block_and_nothing_else():
    mask, weights = victim()
    given = {key: tensor.clone() for key, tensor in weights.items()}
    kept = Mask({name: layer.clone() for name, layer in mask.items()})
    after = fill(mask, weights, BLOCK, 0.1, 3)
    assert mask == kept and all(torch.equal(weights[key], given[key]) for key in given), "inputs are not touched"
    occupied = occupancy(mask["a"])
    counts = mask["a"].flatten(2).sum(2).numpy()
    each = round(float(counts[occupied].mean()))
    assert each == 2 and not occupied[3:28, 5:30].all()
    expected = counts.copy()
    expected[3:28, 5:30][~occupied[3:28, 5:30]] = each
    assert (after[0]["a"].flatten(2).sum(2).numpy() == expected).all()
    assert torch.equal(after[1]["a.weight"] != 0, after[0]["a"])
    assert unchanged_elsewhere((mask, weights), after, BLOCK)
    assert (after[0]["a"] & mask["a"]).sum() == mask["a"].sum() and torch.equal(
        after[1]["a.weight"][mask["a"]], weights["a.weight"][mask["a"]]), "what was there stays"
    new = after[1]["a.weight"][after[0]["a"] & ~mask["a"]].numpy()
    assert abs(new.std() - 0.1) < 0.1 * 5 / math.sqrt(2 * len(new)) and abs(new.mean()) < 0.1 * 5 / math.sqrt(len(new))
    places = (after[0]["a"] & ~mask["a"])[3:28, 5:30].flatten(2).numpy()[~occupied[3:28, 5:30]].sum(0)
    assert np.abs(places - places.mean()).max() < 5 * math.sqrt(places.mean()), "every entry is as likely as another"


def test_fill_is_seeded_and_gives_at_least_one_weight():
    mask, weights = victim()
    first, again, other = (fill(mask, weights, BLOCK, 0.1, seed) for seed in (5, 5, 6))
    assert first[0] == again[0] and torch.equal(first[1]["a.weight"], again[1]["a.weight"])
    assert first[0] != other[0] and not torch.equal(first[1]["a.weight"], other[1]["a.weight"])
    bare = Mask({"a": torch.zeros(25, 25, 3, 3)})
    filled, noisy = fill(bare, {"a.weight": torch.zeros(25, 25, 3, 3)}, Found("a", 0, 0, 2, 0.0), 1.0, 0)
    assert (filled["a"].flatten(2).sum(2) == 1).all() and noisy["a.weight"].count_nonzero() == 625


def test_a_cleared_or_filled_code_has_no_zeros_or_no_ones_left():
    mask, weights = victim()
    region = find_region(mask, "signature", Wish("a"))
    signed = embed(mask, "signature", region, np.random.default_rng(0))
    found = locate(signed, limit=1)[0]
    assert (found.layer, found.start_x, found.start_y, found.version) == ("a", region.start_x, region.start_y, 3)
    weights["a.weight"] = torch.ones(mask["a"].shape) * signed["a"]
    window = slice(region.start_x, region.start_x + 29), slice(region.start_y, region.start_y + 29)
    assert not occupancy(clear(signed, weights, found)[0]["a"])[window].any()
    assert occupancy(fill(signed, weights, found, 0.1, 0)[0]["a"])[window].all()


@pytest.mark.parametrize(("found", "complaint"), [
    (Found("fc", 0, 0, 2, 0.0), "no layer fc"),
    (Found("a", 7, 0, 2, 0.0), r"a block of 25x25 kernels at \(7, 0\) is not inside layer a"),
    (Found("a", 0, 10, 2, 0.0), r"at \(0, 10\) is not inside"),
    (Found("a", -1, 0, 2, 0.0), r"at \(-1, 0\) is not inside"),
])
def test_blocks_outside_are_refused(found, complaint):
    mask, weights = victim()
    with pytest.raises(UserError, match=complaint):
        clear(mask, weights, found)
    with pytest.raises(UserError, match=complaint):
        fill(mask, weights, found, 0.1, 0)
