"""Choosing a place: scores against kernel-by-kernel oracles and against what `locate` then sees; the two ends."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from stand_ins import layer_shapes, overlap, real_looking_mask, small_mask

from attacks.locate import locate
from pruner.qr_code import geometry as qr_code
from pruner.qr_code.embedding import Wish, embed, find_region, occupancy
from pruner.masks import Mask, weights_per_kernel
from pruner.qr_code.placement import best_place, natural_probabilities, score_places, window_sums
from pruner.qr_code.geometry import CodeFormat
from utils.errors import UserError


def codes(version: int = 3) -> np.ndarray:
    return np.stack([qr_code.encode("signature" if version > 2 else "s", CodeFormat(version, "H", pattern))
                     for pattern in range(8)])


@settings(max_examples=25)
@given(seed=st.integers(0, 10**6), density=st.floats(0.005, 0.98), area=st.sampled_from([1, 4, 9]))
def test_the_natural_model_expects_every_row_and_column_as_full_as_it_is(seed, density, area):
    layer = real_looking_mask({"a": (40, 33, area, 1)}, density, seed)["a"]
    counts = weights_per_kernel(layer)
    chance = natural_probabilities(counts.sum(1), counts.sum(0), area)
    assert chance.shape == counts.shape and (0 < chance).all() and (chance < 1).all()
    tolerance = 0.01 if density < 0.4 else 0.08  # full channels beside dead ones converge slowly
    for expected, found in ((area * chance.sum(1), counts.sum(1)), (area * chance.sum(0), counts.sum(0))):
        assert np.abs(expected - found).max() < tolerance * found.mean() + 0.01


@pytest.mark.parametrize("filled", [0.0, 1.0])
def test_the_natural_model_of_an_empty_and_of_a_full_layer(filled):
    counts = np.full((20, 30), filled * 9)
    assert natural_probabilities(counts.sum(1), counts.sum(0), 9) == pytest.approx(np.full((20, 30), filled), abs=1e-5)


def test_window_sums_are_sums():
    random = np.random.default_rng(0)
    maps, template = random.normal(size=(2, 12, 9)), random.normal(size=(5, 5))
    for values, sums in zip(maps, window_sums(list(maps), template)):
        assert sums.shape == (8, 5)
        assert sums[7, 2] == pytest.approx((values[7:12, 2:7] * template).sum())
        assert sums[0, 4] == pytest.approx((values[0:5, 4:9] * template).sum())


def expected_visibility(layer: torch.Tensor, code: np.ndarray, is_data: np.ndarray, x: int, y: int) -> float:
    """The documented formula, module by module."""
    counts, area = weights_per_kernel(layer).astype(float), layer[0, 0].numel()
    rows, columns, per_line = counts.sum(1), counts.sum(0), is_data.sum() / len(is_data)
    rows += per_line / counts.shape[1] * (rows.mean() - rows)
    columns += per_line / counts.shape[0] * (columns.mean() - columns)
    chance = natural_probabilities(rows, columns, area)
    modules = [(code[i, j], chance[x + i, y + j], counts[x + i, y + j]) for i, j in np.argwhere(is_data)]
    n, n1 = len(modules), sum(bit for bit, _, _ in modules)
    mean = min(max(sum(count for _, _, count in modules) / n1, 1), area)
    rate = (mean - 1) / max(area - 1, 1)

    def binomial(number: int, trials: int, p: float) -> float:
        return math.comb(trials, number) * p**number * (1 - p)**(trials - number)

    classes = [[1], [2], list(range(3, area + 1))]
    ours = [sum(binomial(number - 1, area - 1, rate) for number in members) for members in classes]
    by_occupancy = by_counts = 0.0
    for bit, p, _ in modules:
        if bit:
            by_occupancy += math.log(n1 / n) - math.log(1 - binomial(0, area, p))
            by_counts += sum(share * (math.log(share * n1 / n) - math.log(sum(binomial(k, area, p) for k in members)))
                             for share, members in zip(ours, classes) if share)
        else:
            by_occupancy += math.log(1 - n1 / n) - math.log(binomial(0, area, p))
            by_counts += math.log(1 - n1 / n) - math.log(binomial(0, area, p))
    return max(by_occupancy, by_counts)


@pytest.mark.parametrize(("seed", "density", "area"), [
    (0, 0.6, (3, 3)), (1, 0.1, (3, 3)), (2, 0.3, (1, 1)), (3, 0.4, (1, 2)),
])
def test_scores_are_what_they_say(seed, density, area):
    layer = small_mask(seed, density, area)["a"]
    counts, occupied = weights_per_kernel(layer), occupancy(layer)
    is_data, version_codes = qr_code.data_modules(2), codes(2)
    scores = score_places(layer, version_codes, is_data)
    assert {values.shape for values in vars(scores).values()} == {(8, 31 - 25 + 1, 34 - 25 + 1)}
    for pattern, x, y in ((0, 0, 0), (3, 6, 9), (7, 2, 5)):
        code, window = version_codes[pattern], (slice(x, x + 25), slice(y, y + 25))
        n1, entries = (is_data & code).sum(), math.prod(area)
        mean = min(max(counts[window][is_data].sum() / n1, 1), entries)
        assert scores.similarity[pattern, x, y] == pytest.approx((occupied[window] == code)[is_data].mean())
        assert scores.weights_per_one[pattern, x, y] == pytest.approx(mean)
        # all of a one's weights pruned, each with probability 1/2
        rate = (mean - 1) / max(entries - 1, 1)
        lost = sum(math.comb(entries - 1, more) * rate**more * (1 - rate)**(entries - 1 - more) * 0.5**(more + 1)
                   for more in range(entries))
        assert scores.fragility[pattern, x, y] == pytest.approx(lost)
        visibility = expected_visibility(layer, code, is_data, x, y)
        assert scores.visibility[pattern, x, y] == pytest.approx(visibility, abs=1e-6)


@pytest.mark.parametrize("hidden", [0.0, 0.4, 1.0])
def test_the_best_place_has_the_smallest_cost(hidden):
    mask = small_mask(4, 0.3)
    scores = {name: score_places(layer, codes(), qr_code.data_modules(3)) for name, layer in mask.items()
              if min(layer.shape[:2]) >= 29}
    worst = max(score.visibility.max() for score in scores.values())
    costs = {}
    for name, score in scores.items():
        for place in np.ndindex(score.visibility.shape):
            firm = (1 - score.similarity[place] + score.fragility[place]) / 2
            costs[(name, *place)] = hidden * max(score.visibility[place], 0) / worst + (1 - hidden) * firm
    region = best_place(mask, "signature", hidden=hidden)
    chosen = region.layer, region.code_format.mask_pattern, region.start_x, region.start_y
    assert costs[chosen] == pytest.approx(min(costs.values()), rel=1e-5)
    assert region.similarity == scores[chosen[0]].similarity[chosen[1:]]
    assert region.code_format.version == 3 and region.code_format.error_correction == "H"


def test_wishes_are_kept_and_equals_go_to_the_first():
    mask = Mask({name: torch.ones(35, 35, 3, 3) for name in ("layer1.0.conv1", "layer1.0.conv2")})
    region = best_place(mask, "ab", Wish(version=4, error_correction="L", mask_pattern=6), 0.5)
    assert (region.layer, region.start_x, region.start_y) == ("layer1.0.conv1", 0, 0)
    assert region.code_format == CodeFormat(4, "L", 6)


@pytest.mark.parametrize(("signature", "version", "hidden", "complaint"), [
    ("signature", None, -0.1, "--hidden -0.1: must be from 0"), ("signature", None, 1.5, "--hidden 1.5: must be from 0"),
    ("signature", None, float("nan"), "--hidden nan: must be from 0"),
    ("", None, 1, "--signature: is empty"), ("x" * 25, None, 1, "--signature: has 25 bytes"),
    ("signature", 7, 1, "--version 7: its 45x45 modules do not fit"),
])
def test_wishes_that_cant_be_met_say_so(signature, version, hidden, complaint):
    with pytest.raises(UserError) as refusal:
        best_place(small_mask(0, 0.3), signature, Wish(version=version), hidden)
    assert str(refusal.value).startswith(complaint)


def seen(mask: Mask, region) -> float:
    """Score of the best block that is the region, or -inf if others are all that is found."""
    found = locate(embed(mask, "signature", region, np.random.default_rng(0)))
    return max((block.score for block in found
                if overlap(block, region.layer, region.start_x, region.start_y, region.code_format.size) > 0.5),
               default=-math.inf)


@pytest.mark.slow
def test_what_is_predicted_is_what_locate_sees():
    mask, random = real_looking_mask(layer_shapes("res20s"), 0.15, 1), np.random.default_rng(0)
    predicted, measured = [], []
    names = [name for name, layer in mask.items() if min(layer.shape[:2]) >= 29]
    for name in random.choice(names, 12):
        x, y = (int(random.integers(length - 29 + 1)) for length in mask[name].shape[:2])
        region = find_region(mask, "signature", Wish(str(name), x, y, mask_pattern=0))
        predicted.append(score_places(mask[region.layer], codes()[:1], qr_code.data_modules(3)).visibility[0, x, y])
        measured.append(seen(mask, region))
    assert np.isfinite(measured).all()
    ranks = [np.argsort(np.argsort(values)) for values in (predicted, measured)]
    assert np.corrcoef(*ranks)[0, 1] > 0.8
    assert 0.5 < np.median(np.array(predicted) / measured) < 2


@pytest.mark.slow
@pytest.mark.parametrize("density", [0.26, 0.05])
def test_hidden_codes_show_less_and_firm_ones_hold_more_weights(density):
    mask = real_looking_mask(layer_shapes("res20s"), density, 2)
    firm, hidden = best_place(mask, "signature", hidden=0), best_place(mask, "signature", hidden=1)
    assert seen(mask, hidden) < seen(mask, firm) * (0.5 if density == 0.26 else 1)

    def weights_per_one(region) -> float:
        signed = embed(mask, "signature", region, np.random.default_rng(0))
        window = weights_per_kernel(signed[region.layer])[region.start_x:region.start_x + 29,
                                                          region.start_y:region.start_y + 29]
        return window[(window > 0) & qr_code.data_modules(3)].mean()

    assert weights_per_one(firm) > 1.2 * weights_per_one(hidden)


def test_a_code_in_a_layer_that_is_half_empty_is_not_found():
    """Kernels of one weight or none, as of 1x1 convolutions, half of them occupied, channels alike: nothing shows."""
    shapes = {"layer1.0.conv1": (64, 64, 3, 3), "layer2.0.downsample.0": (64, 64, 1, 1)}
    random = np.random.default_rng(0)
    mask = Mask({name: torch.from_numpy(random.random(shape) < 0.5) for name, shape in shapes.items()})
    region = best_place(mask, "signature", hidden=1)
    assert region.layer == "layer2.0.downsample.0"
    found = locate(embed(mask, "signature", region, random), limit=1)[0]
    assert found.score < 12
    assert best_place(mask, "signature", hidden=0).layer == "layer1.0.conv1"
