"""Removal by flipping: scales behind layers with passports change their signs (DeepIPR, flip_attack.py)."""

from collections.abc import Mapping, Sequence

import torch
from torch import nn

from passports.files import PassportFile
from passports.layers import normed_layers
from pruner.masks import Mask
from utils.errors import UserError


def flip(mask: Mask, weights: Mapping[str, torch.Tensor], level: float, passports: PassportFile, model: nn.Module,
         seed: int) -> tuple[Mask, dict[str, torch.Tensor]]:
    """Turn the deployed scales of exactly round(level * channels) channels, drawn from all layers together.

    With one branch these scales are the passports', and the signature is in their signs as well. In the original it was asked of the
    passports alone, which no such attack touches.

    Args:
        mask: where weights are; stays as it is.
        weights: complete state_dict.
        level: share of the channels, up to 1.
        passports: says which layers; nothing else of it is used.
        model: the network; only its structure is used.
        seed: of the draw.
    Raises:
        UserError: for more than all channels.
    """
    if level > 1:
        raise UserError(f"--level {level:g} (or --sweep): is a share of the scales, from 0 to 1")
    norms, flipped = normed_layers(model), dict(weights)
    names = [f"{norms[layer]}.weight" for layer in passports.draw.texts]
    sizes = [len(weights[name]) for name in names]
    for name, turn in zip(names, drawn_turns(sizes, level, seed)):
        flipped[name] = weights[name] * turn
    return mask, flipped


def drawn_turns(sizes: Sequence[int], level: float, seed: int) -> tuple[torch.Tensor, ...]:
    """float32 [size] each, -1 at exactly round(level * channels) channels of all layers together, 1 elsewhere."""
    order = torch.randperm(sum(sizes), generator=torch.Generator().manual_seed(seed))
    return torch.ones(sum(sizes)).index_fill(0, order[:round(level * sum(sizes))], -1).split(sizes)
