"""Removal by pruning and regrowing: the thief takes weights out and opens as many other entries, so that the ticket keeps its size and
can be trained again. What a mark moved is among the smallest weights, and goes first."""

from collections.abc import Mapping

import numpy as np
import torch

from attacks.noise import add_noise_weights, keep_only
from attacks.prune import prune
from pruner.masks import Mask, kernels

KERNEL, LAYER = "kernel", "layer"


def regrow(mask: Mask, weights: Mapping[str, torch.Tensor], level: float, how: str, within: str, noise: float,
           seed: int) -> tuple[Mask, dict[str, torch.Tensor]]:
    """Replace exactly round(level * nonzeros) weights by others at random places.

    Args:
        mask: where weights are.
        weights: complete state_dict.
        level, how: which go, see `attacks.prune.prune`; with "random" weights are just moved.
        within: KERNEL or LAYER, in which another entry takes each one's place; one that was pruned before, as long as there is one.
        noise: standard deviation of the new weights, which are drawn from a normal distribution.
        seed: of places and weights.
    Returns:
        mask and weights; every kernel, or every layer, has as many as before.
    Raises:
        UserError: as `attacks.prune.prune`.
    """
    left, _ = prune(mask, weights, level, how, seed)
    random, opened = np.random.default_rng(seed), {}
    for name, kept in mask.items():
        before, stays = (rows_of(layer, within).numpy() for layer in (kept, left[name]))
        turn = (random.random(before.shape) + before + stays).argsort(1).argsort(1)  # pruned before, then those that go, then the others
        opened[name] = torch.from_numpy(turn < (before & ~stays).sum(1, keepdims=True)).view_as(kept)
    return add_noise_weights(left, keep_only(left, weights), opened, noise, random)


def rows_of(layer: torch.Tensor, within: str) -> torch.Tensor:
    """[rows, entries]: a row for each kernel, or one for all of the layer."""
    return kernels(layer).flatten(0, 1) if within == KERNEL else layer.reshape(1, -1)
