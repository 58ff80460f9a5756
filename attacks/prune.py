"""Removal by pruning: the thief takes weights out and hopes that the signature goes first (paper, Tables 5 and 6)."""

from collections.abc import Mapping

import numpy as np
import torch

from attacks.noise import draw_entries, keep_only
from models import STEM
from pruner.magnitude import prune_smallest
from pruner.masks import Mask
from utils.errors import UserError


def prune(mask: Mask, weights: Mapping[str, torch.Tensor], level: float, how: str, seed: int,
          include_stem: bool = False, all_params: bool = False) -> tuple[Mask, dict[str, torch.Tensor]]:
    """Remove exactly round(level * nonzeros) of the surviving weights, over all masked layers together.

    Args:
        mask: where weights are; only its layers lose any, so the stem does if the mask has it, or with `include_stem`.
        weights: complete state_dict.
        level: share of the surviving weights; 0 removes nothing.
        how: "magnitude" removes the smallest (of equals the same ones every time), "random" any.
        seed: of "random".
        include_stem: the stem's weights count and go like the others, as in the published code, though the mask is not
            defined on them.
        all_params: all parameters count and go like the weights: biases, norms and the classifier too.
    Returns:
        mask and weights without them.
    Raises:
        UserError: nothing would be left, a weight is not finite, or there is no stem.
    """
    if all_params:
        # of parameters and of nothing else is the last name one of these
        every = {name: tensor for name, tensor in weights.items() if name.rpartition(".")[2] in ("weight", "bias")}
        left, _ = prune(Mask({name: tensor != 0 for name, tensor in every.items()}), {f"{name}.weight": tensor for name, tensor in
                        every.items()}, level, how, seed)
        pruned = {name: tensor * left[name] if name in left else tensor for name, tensor in weights.items()}
        return Mask({name: left[f"{name}.weight"] for name in mask}), pruned
    if include_stem and STEM not in mask:
        if f"{STEM}.weight" not in weights:
            raise UserError(f"--include_stem: there are no weights of a layer {STEM}; leave it out")
        whole = Mask({STEM: weights[f"{STEM}.weight"] != 0, **mask})
        left, pruned = prune(whole, weights, level, how, seed)
        return Mask({name: left[name] for name in mask}), pruned
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
