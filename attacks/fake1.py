"""fake1: a thief who has the locked ticket only forges a key (paper, section 4.4)."""

from collections.abc import Mapping

import numpy as np
import torch

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
    random = np.random.default_rng(seed)
    empty = {name: np.flatnonzero(~kept.numpy()) for name, kept in locked.items()}
    ends = np.cumsum([len(places) for places in empty.values()])
    if count > ends[-1]:
        raise UserError(f"a forged key of {count} weights does not fit into the {ends[-1]} empty positions")
    drawn = np.sort(random.choice(ends[-1], count, replace=False))
    mask, forged, start = {}, dict(weights), 0
    for (name, places), end in zip(empty.items(), ends):
        here = torch.from_numpy(places[drawn[(drawn >= start) & (drawn < end)] - start])
        noise = torch.from_numpy(random.normal(0.0, scale, len(here)))
        mask[name] = locked[name].flatten().index_fill(0, here, True).reshape(locked[name].shape)
        weight = weights[f"{name}.weight"].detach().cpu().contiguous()
        forged[f"{name}.weight"] = weight.flatten().index_copy(0, here, noise.to(weight.dtype)).reshape(weight.shape)
        start = end
    return Mask(mask), forged
