"""Renumbering: the same network with its channels in another order, which scatters a code over its layer."""

from collections.abc import Mapping

import numpy as np
import torch
from torch import nn

from pruner.channel_groups import channel_groups
from pruner.masks import Mask


def permute(mask: Mask, weights: Mapping[str, torch.Tensor], model: nn.Module,
            seed: int) -> tuple[Mask, dict[str, torch.Tensor]]:
    """Renumber the channels of every group at random (see `pruner.channel_groups`): all parameters and buffers that belong
    to a channel move together, so the outputs stay the same up to the order of summation.

    Args:
        mask: where weights are.
        weights: complete state_dict, or the masked layers' weights only.
        model: the network; only its structure is used.
        seed: of the permutations.
    Returns:
        mask and weights of the renumbered network.
    Raises:
        UserError: the network's structure can't be followed.
    """
    groups = channel_groups(model)
    order = groups.random_order(np.random.default_rng(seed))
    return groups.renumbered_mask(mask, order), groups.renumbered(weights, order)
