"""Add-on attack, fake2: a thief who does not know what is embedded contaminates it (paper, section 4.4, Table 8)."""

from collections.abc import Mapping

import numpy as np
import torch

from attacks.noise import add_noise_weights, draw_entries
from pruner.masks import Mask
from utils.errors import UserError


def add_on(mask: Mask, weights: Mapping[str, torch.Tensor], level: float, noise: float, share_of: str,
           seed: int) -> tuple[Mask, dict[str, torch.Tensor]]:
    """Open pruned entries with noise weights, at positions uniform over all masked layers together.

    Args:
        mask: where weights are; entries outside its layers are never opened.
        weights: complete state_dict.
        level: how many, exactly round(level * entries), of those that `share_of` counts.
        noise: standard deviation of the new weights, which are drawn from a normal distribution.
        share_of: "pruned" counts the pruned entries (the paper's rates), "surviving" the weights that are there, which
            keeps the attack in proportion to the ticket where that is very sparse.
        seed: of positions and weights.
    Returns:
        mask and weights with so many weights more; those that were there are untouched.
    Raises:
        UserError: there are fewer pruned entries than that.
    """
    pruned = mask.entries - mask.nonzeros
    count = round(level * (pruned if share_of == "pruned" else mask.nonzeros))
    if not 0 <= count <= pruned:
        raise UserError(f"--level {level:g} (or --sweep): {count} weights do not fit into the {pruned} pruned entries; "
                        f"give a smaller share of the {share_of} ones")
    random = np.random.default_rng(seed)
    added = draw_entries({name: ~kept for name, kept in mask.items()}, count, random)
    return add_noise_weights(mask, weights, added, noise, random)
