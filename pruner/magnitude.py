"""Global magnitude pruning."""

from collections.abc import Mapping

import torch

from pruner.masks import Mask
from utils.errors import UserError


class NothingToPrune(UserError):
    """At this rate nothing would be pruned, or nothing left."""


def prune_smallest(weights: Mapping[str, torch.Tensor], mask: Mask, rate: float) -> Mask:
    """The mask without the `rate` share of surviving weights that are smallest in magnitude over all layers together.

    Exactly round(rate * nonzeros) weights go. Ties go as in `torch.nn.utils.prune.global_unstructured`, since this is
    the same `topk` over the same order of weights, always on the CPU.

    Args:
        weights: layer name -> weight of the mask's shape, any device.
        mask: the present mask.
        rate: share of the surviving weights, 0 < rate < 1.
    Raises:
        UserError: the weights are not finite.
        NothingToPrune: the rate is too small or too large for so few weights.
    """
    magnitudes = torch.cat([weights[name].detach().cpu()[kept] for name, kept in mask.items()]).abs()
    if not torch.isfinite(magnitudes).all():
        raise UserError("weights to prune are not finite; the training diverged, lower --lr")
    count = round(rate * len(magnitudes))
    if not 0 < count < len(magnitudes):
        raise NothingToPrune(f"--rate {rate}: would prune {count} of {len(magnitudes)} weights; choose another rate")
    survives = torch.ones(len(magnitudes), dtype=torch.bool)
    survives[torch.topk(magnitudes, count, largest=False).indices] = False

    pruned, start = {}, 0
    for name, kept in mask.items():
        end = start + int(kept.sum())
        layer = kept.clone()
        layer[kept] = survives[start:end]
        pruned[name], start = layer, end
    return Mask(pruned)
