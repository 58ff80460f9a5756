"""Removal by a thief who has the weights that the ticket was rewound to, of its pruned entries too: entries that a mark moved are small there
where they came, and large where they went. So he moves them back."""

from collections.abc import Mapping

import numpy as np
import torch
from torch import nn

from attacks.noise import keep_only
from attacks.regrow import rows_of
from pruner import tickets
from pruner.masks import Mask
from utils.errors import UserError


def unswap(mask: Mask, weights: Mapping[str, torch.Tensor], level: float, within: str, rewind: str | None, model: nn.Module,
           seed: int) -> tuple[Mask, dict[str, torch.Tensor]]:
    """Let weights trade places with pruned entries that are larger in the rewind weights, those first where the difference is largest.

    Args:
        mask: where weights are.
        weights: complete state_dict.
        level: at most round(level * nonzeros) weights move; fewer, where fewer are smaller.
        within: `attacks.regrow.KERNEL` or LAYER, in which the smallest weight meets the largest pruned entry, the second the second.
        rewind: file of the rewind weights, all of them. model: of their shape.
        seed: not needed; nothing is drawn.
    Returns:
        mask and weights, the moved ones with their rewind weights; every kernel, or every layer, has as many as before.
    Raises:
        UserError: the file lacks, or holds no rewind weights, or none of pruned entries.
    """
    if rewind is None:
        raise UserError("--rewind: unswap needs the file of the weights that the ticket was rewound to")
    start = tickets.read_model_file(rewind, model, head=False).need_weights("--rewind")
    if not any((start[f"{name}.weight"][~kept] != 0).any() for name, kept in mask.items()):
        raise UserError(f"--rewind {rewind}: holds zeros where the mask has no weights, so it tells nothing of what was moved")
    trades = [_inversions(rows_of(kept, within).numpy(), rows_of(start[f"{name}.weight"].abs(), within).numpy()) for name, kept in mask.items()]
    gains = np.concatenate([gain for gain, _, _ in trades])
    count = min(round(level * mask.nonzeros), len(gains))
    chosen = np.zeros(len(gains), dtype=bool)
    chosen[np.argsort(-gains, kind="stable")[:count]] = True
    moved, changed = {}, dict(weights)
    for (name, kept), (_, goes, comes), here in zip(mask.items(), trades, np.split(chosen, np.cumsum([len(gain) for gain, _, _ in trades])[:-1])):
        flat, weight = kept.flatten().clone(), weights[f"{name}.weight"].detach().cpu().flatten().clone()
        flat[torch.from_numpy(goes[here])], flat[comes := torch.from_numpy(comes[here])] = False, True
        weight[comes] = start[f"{name}.weight"].flatten()[comes].to(weight.dtype)
        moved[name], changed[f"{name}.weight"] = flat.view_as(kept), weight.view_as(kept)
    return Mask(moved), keep_only(Mask(moved), changed)


def _inversions(kept: np.ndarray, size: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of rows [rows, entries]: in each the smallest weight with the largest pruned entry, and so on while that is larger. [trades]
    each: by how much, and the flat positions of both."""
    small, large = np.where(kept, size, np.inf), np.where(kept, -np.inf, size)
    goes, comes = small.argsort(1, kind="stable"), (-large).argsort(1, kind="stable")
    gain = np.take_along_axis(large, comes, 1) - np.take_along_axis(small, goes, 1)
    row, rank = np.nonzero(gain > 0)
    start = row * kept.shape[1]
    return gain[row, rank], start + goes[row, rank], start + comes[row, rank]
