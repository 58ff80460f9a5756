"""Global magnitude pruning against torch.nn.utils.prune, entry for entry."""

import copy
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils import prune

from pruner.magnitude import NothingToPrune, prune_smallest
from pruner.masks import Mask, prunable_layers
from utils.errors import UserError


class Reference:
    """Layers that torch.nn.utils.prune prunes round after round, on top of what it pruned before."""

    def __init__(self, shapes: list[tuple[int, int, int, int]]):
        self.layers = {f"layer{i}": nn.Conv2d(shape[1], shape[0], shape[2:], bias=False)
                       for i, shape in enumerate(shapes)}

    def set_weights(self, weights: dict[str, torch.Tensor]) -> None:
        for name, layer in self.layers.items():
            parameter = layer.weight_orig if prune.is_pruned(layer) else layer.weight
            parameter.data.copy_(weights[name])
            for hook in layer._forward_pre_hooks.values():
                hook(layer, None)

    def prune(self, rate: float) -> None:
        prune.global_unstructured([(layer, "weight") for layer in self.layers.values()], prune.L1Unstructured,
                                  amount=rate)

    @property
    def masks(self) -> dict[str, torch.Tensor]:
        return {name: layer.weight_mask for name, layer in self.layers.items()}


shapes = st.lists(st.tuples(st.integers(1, 6), st.integers(1, 6), st.sampled_from((1, 3)), st.sampled_from((1, 3))),
                  min_size=1, max_size=4)


@pytest.mark.slow
@settings(max_examples=150)
@given(shapes=shapes, rates=st.lists(st.floats(0.01, 0.95), min_size=1, max_size=5),
       levels=st.sampled_from((1, 2, 5, 40, 10**6)), channels_last=st.booleans(), seed=st.integers(0, 2**32 - 1))
def test_equals_global_unstructured_over_several_rounds(shapes, rates, levels, channels_last, seed):
    rng = np.random.default_rng(seed)
    reference = Reference(shapes)
    mask = Mask({name: torch.ones_like(layer.weight, dtype=torch.bool) for name, layer in reference.layers.items()})
    for rate in rates:
        # retrained weights; few levels give many ties, zero among them
        weights = {name: torch.from_numpy(rng.integers(-levels, levels + 1, layer.weight.shape) / levels).float()
                   for name, layer in reference.layers.items()}
        reference.set_weights(weights)
        if channels_last:
            weights = {name: weight.contiguous(memory_format=torch.channels_last) for name, weight in weights.items()}
        count = round(rate * mask.nonzeros)
        if not 0 < count < mask.nonzeros:
            with pytest.raises(NothingToPrune):
                prune_smallest(weights, mask, rate)
            return
        reference.prune(rate)
        before = Mask(mask)
        pruned = prune_smallest(weights, mask, rate)
        assert mask == before, "the given mask was changed"
        assert list(pruned) == list(reference.masks)
        for name, expected in reference.masks.items():
            assert torch.equal(pruned[name], expected.bool()), name
        mask = pruned


@given(weights=st.lists(st.floats(-1e3, 1e3, width=32), min_size=2, max_size=60, unique_by=abs),
       rate=st.floats(0.01, 0.99))
def test_the_smallest_magnitudes_go_over_all_layers_together(weights, rate):
    count = round(rate * len(weights))
    if not 0 < count < len(weights):
        return
    half = len(weights) // 2
    layers = {"a": torch.tensor(weights[:half]).reshape(half, 1, 1, 1),
              "b": torch.tensor(weights[half:]).reshape(1, len(weights) - half, 1, 1)}
    dense = Mask({name: torch.ones_like(weight, dtype=torch.bool) for name, weight in layers.items()})
    mask = prune_smallest(layers, dense, rate)
    survivors = [abs(w) for name in layers for w in layers[name][mask[name]].tolist()]
    assert sorted(survivors) == sorted(map(abs, weights))[count:]


def test_a_model_in_channels_last_memory_over_ten_rounds(make_model):
    model = make_model(classes=10)
    for layer in prunable_layers(model).values():  # coarse weights: every round has thousands of ties
        layer.weight.data = (layer.weight.data * 30).round() / 30
    reference = copy.deepcopy(model)
    model.to(memory_format=torch.channels_last)
    mask = Mask.dense(model)
    for _ in range(10):
        prune.global_unstructured([(layer, "weight") for layer in prunable_layers(reference).values()],
                                  prune.L1Unstructured, amount=0.2)
        mask = prune_smallest({name: layer.weight for name, layer in prunable_layers(model).items()}, mask, 0.2)
    for name, layer in prunable_layers(reference).items():
        assert torch.equal(mask[name], layer.weight_mask.bool()), name
    assert math.isclose(mask.density, 0.8 ** 10, rel_tol=1e-4)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_weights_that_are_not_finite_are_refused_unless_pruned_already(value):
    weights = {"a": torch.arange(1.0, 9.0).reshape(2, 4, 1, 1)}
    weights["a"][0, 0] = value
    mask = Mask({"a": torch.ones(2, 4, 1, 1)})
    with pytest.raises(UserError, match="not finite"):
        prune_smallest(weights, mask, 0.5)
    mask["a"][0, 0] = False
    assert prune_smallest(weights, mask, 0.5)["a"].flatten().tolist() == [False] * 5 + [True] * 3


@pytest.mark.parametrize("rate", [0.001, 0.999])
def test_a_rate_that_would_prune_nothing_or_everything_is_refused(rate):
    with pytest.raises(NothingToPrune, match=str(rate)):
        prune_smallest({"a": torch.rand(2, 4, 1, 1)}, Mask({"a": torch.ones(2, 4, 1, 1)}), rate)
