"""Removal by pruning: the thief takes weights out and hopes that the signature goes first (paper, Tables 5 and 6)."""

from collections.abc import Mapping

import numpy as np
import torch

from attacks.noise import draw_entries, keep_only
from pruner.magnitude import prune_smallest
from pruner.masks import Mask
from utils.errors import UserError


def prune(mask: Mask, weights: Mapping[str, torch.Tensor], level: float, how: str,
          seed: int) -> tuple[Mask, dict[str, torch.Tensor]]:
    """Remove exactly round(level * nonzeros) of the surviving weights, over all masked layers together.

    Args:
        mask: where weights are; only its layers lose any, so the stem does if and only if the mask has it.
        weights: complete state_dict.
        level: share of the surviving weights; 0 removes nothing.
        how: "magnitude" removes the smallest (of equals the same ones every time), "random" any.
        seed: of "random".
    Returns:
        mask and weights without them.
    Raises:
        UserError: nothing would be left, or a weight is not finite.
    """
    count = round(level * mask.nonzeros)
    if level < 0 or count >= max(1, mask.nonzeros):
        raise UserError(f"--level {level:g} (or --sweep): would remove {count} of {mask.nonzeros} weights; give shares "
                        "from 0 to below 1")
    if not count:
        kept = Mask(mask)
    elif how == "magnitude":
        kept = prune_smallest({name: weights[f"{name}.weight"] for name in mask}, mask, level)
    else:
        removed = draw_entries(mask, count, np.random.default_rng(seed))
        kept = Mask({name: layer & ~removed[name] for name, layer in mask.items()})
    return kept, keep_only(kept, weights)
