"""fake1: a thief who has the locked ticket only forges a key (paper, section 4.4)."""

from collections.abc import Mapping

import numpy as np
import torch

from attacks.noise import add_noise_weights, draw_entries
from pruner.masks import Mask
from utils.errors import UserError


def forge_key(locked: Mask, weights: Mapping[str, torch.Tensor], count: int, scale: float,
              seed: int) -> tuple[Mask, dict[str, torch.Tensor]]:
    """Add a forged key to a locked ticket.

    Args:
        locked: the locked mask.
        weights: complete state_dict of the locked ticket.
        count: weights the forged key has: as many as the true one.
        scale: standard deviation of its weights, which are drawn from a normal distribution.
        seed: of positions and weights.
    Returns:
        mask and weights with `count` weights more, at positions uniform over all that the locked mask leaves empty.
    Raises:
        UserError: there are fewer empty positions than that.
    """
    empty = locked.entries - locked.nonzeros
    if count > empty:
        raise UserError(f"a forged key of {count} weights does not fit into the {empty} empty positions")
    random = np.random.default_rng(seed)
    added = draw_entries({name: ~kept for name, kept in locked.items()}, count, random)
    return add_noise_weights(locked, weights, added, scale, random)


def forge(mask: Mask, weights: Mapping[str, torch.Tensor], level: float, noise: float,
          seed: int) -> tuple[Mask, dict[str, torch.Tensor]]:
    """`forge_key` for a key that is to be the share `level` of the whole ticket, its relative sparsity.

    The key has round(level / (1 - level) * nonzeros) weights. Raises UserError if there is none, or no room for it.
    """
    if not 0 <= level < 1:
        raise UserError(f"--level {level:g} (or --sweep): a key is a share of the whole ticket, from 0 to below 1")
    return forge_key(mask, weights, round(level / (1 - level) * mask.nonzeros), noise, seed)
