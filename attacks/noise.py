"""Random entries of masks, and noise weights there: what several attacks are made of."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch

from pruner.masks import Mask
from utils.errors import UserError
from utils.randomness import draw_positions


@dataclass(frozen=True)
class NewWeights:
    """What an attack writes into empty kernels. noise: standard deviation of the weights, drawn from a normal distribution.
    per_kernel: in each kernel, at random positions; None for as many as the occupied ones beside it hold on average."""

    noise: float
    per_kernel: int | None = None

    def each(self, layer: str, counts: np.ndarray, area: int) -> int:
        """How many weights each kernel gets: `per_kernel`, or the mean of `counts`, rounded and at least 1.

        Args:
            layer: its name, for the message.
            counts: int [kernels], weights of the occupied kernels beside them.
            area: entries of a kernel.
        Raises:
            UserError: a kernel has fewer entries than `per_kernel`.
        """
        each = self.per_kernel or max(1, round(float(counts.mean())) if len(counts) else 1)
        if each > area:
            raise UserError(f"--weights_per_kernel {each}: a kernel of layer {layer} has {area} weights")
        return each


def draw_entries(candidates: Mapping[str, torch.Tensor], count: int,
                 random: np.random.Generator) -> dict[str, torch.Tensor]:
    """Draw entries without repetition, uniformly over all layers together.

    Args:
        candidates: layer name -> bool tensor, True where an entry may be drawn.
        count: how many, at most as many as there are candidates.
        random: draws.
    Returns:
        layer name -> bool tensor of the same shape, True at the drawn entries.
    """
    chosen = {name: np.zeros(layer.shape, dtype=bool) for name, layer in candidates.items()}
    positions = draw_positions([layer.numpy() for layer in candidates.values()], count, random)
    for layer, drawn in zip(chosen.values(), positions):
        layer.flat[drawn] = True
    return {name: torch.from_numpy(layer) for name, layer in chosen.items()}


def draw_in_kernels(kernels: np.ndarray, each: int, area: int, random: np.random.Generator) -> np.ndarray:
    """Draw `each` of the `area` entries of every chosen kernel (all, where there are no more).

    Args:
        kernels: bool [rows, columns], which are chosen.
        random: draws.
    Returns:
        bool [rows, columns, area], True at the drawn entries.
    """
    # the first few of each kernel's entries in random order
    rank = random.random((*kernels.shape, area)).argsort(2).argsort(2)
    return kernels[:, :, None] & (rank < each)


def add_noise_weights(mask: Mask, weights: Mapping[str, torch.Tensor], added: Mapping[str, torch.Tensor], scale: float,
                      random: np.random.Generator) -> tuple[Mask, dict[str, torch.Tensor]]:
    """Open entries and give them weights from a normal distribution.

    Args:
        mask, weights: the present ones; the weights are a complete state_dict.
        added: layer name -> bool tensor, True at the entries to open; layers without any may be left out.
        scale: standard deviation of the weights.
        random: draws.
    Returns:
        the mask with these entries, and the weights with only them changed.
    """
    opened, noisy = dict(mask), dict(weights)
    for name, entries in added.items():
        opened[name] = mask[name] | entries
        weight = weights[f"{name}.weight"].detach().cpu().clone()
        weight[entries] = torch.from_numpy(random.normal(0.0, scale, int(entries.sum()))).to(weight.dtype)
        noisy[f"{name}.weight"] = weight
    return Mask(opened), noisy


def keep_only(mask: Mask, weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The weights with zero wherever the mask has none; the given tensors stay as they are."""
    return dict(weights) | {f"{name}.weight": weights[f"{name}.weight"].detach().cpu().masked_fill(~kept, 0)
                            for name, kept in mask.items()}
