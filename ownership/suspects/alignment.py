"""Undoing a renumbering of channels (`attacks/permute.py`), so that a mark is where the claim says.

The owner's masks, and signs of weights where both sides have some, are compared with the suspect's; of filters whose batch norms
multiply by negative numbers the signs are turned, on both sides. Which channel of the
suspect is which of the owner's is an assignment problem for each group of channels, given the other groups; it is solved
exactly, group after group, until none improves (as weight matching in Ainsworth et al., "Git Re-Basin", 2023). The start is
what does not depend on other groups: how a channel's weights are spread over the kernels' positions.

An alignment looks for agreement with the owner's masks, and these may hold the mark itself: fitted to all of it, an innocent
model would seem to hold it too. So kernels that are left out take no part, neither of the owner's nor, whatever is assigned
there, of the suspect's. Magnitudes and batch norms take no part either, since those of a channel in a code's region depend on
how many of the code's ones it has; and a thief can scale channels as easily as renumber them.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import cycle, islice, product
from typing import NamedTuple

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import nn

from ownership.suspects.reading import Suspect, of_state
from pruner import tickets
from pruner.channel_groups import ChannelGroups
from pruner.masks import kernels
from utils.checkpoint import FileBytes

PASSES = 6  # over all groups; a stolen model takes 2, and an innocent one finds no end
SMALLEST_GAIN = 1e-5  # of a group's score; float32 sums are no better


@dataclass(frozen=True)
class Agreement:
    """How well the suspect agrees with the owner's model, outside the kernels that are left out.

    share: of the suspect's weights that stand where the owner has one too. chance: the share that was to be expected were
    each layer's weights anywhere in it. correlation: of mask entries around their layers' densities: 1 for equal masks, about
    0 for unrelated ones. signs: share of the weights that both have whose signs are equal, half of them by chance; None
    without weights on both sides.
    """

    share: float
    chance: float
    correlation: float
    signs: float | None


@dataclass(frozen=True)
class Alignment:
    """A suspect in the owner's numbering.

    order: the renumbering that was undone, see `pruner.channel_groups`: channel order[c] of the result was channel c of the
    suspect. moved: channels that changed their number. before, after: agreement with the owner's mask.
    """

    suspect: Suspect
    order: np.ndarray
    before: Agreement
    after: Agreement

    @property
    def moved(self) -> int:
        return int((self.order != np.arange(len(self.order))).sum())


def read_reference(path: str | FileBytes, model: nn.Module, expected: tickets.Expected = tickets.Expected()) -> Suspect:
    """The owner's model, ticket (the weights to rewind to, masked) or mask file. Raises UserError as
    `pruner.tickets.read_model_file`."""
    given = tickets.read_model_file(path, model, head=False, expected=expected)
    mask = given.pattern("--aligned_to", model)
    return of_state(mask, given.weights if given.weights is not None else given.initial)


def align(owner: Suspect, suspect: Suspect, groups: ChannelGroups,
          left_out: Mapping[str, torch.Tensor]) -> Alignment:
    """Find the renumbering under which a suspect agrees best with the owner's model, and undo it.

    Args:
        owner: the signed ticket, the model trained from it, or its masks.
        suspect: what may be a renumbered, damaged and further trained copy of it. Only layers that both masks have count.
        groups: of the network.
        left_out: layer -> bool [out, in], the kernels that take no part: those that hold a mark. Without them what is read
            afterwards proves nothing. Of a layer that is not there all take part.
    """
    owner, suspect = owner.upright(groups), suspect.upright(groups)
    left_out = {name: left_out.get(name, torch.zeros(layer.shape[:2], dtype=torch.bool)) for name, layer in owner.mask.items()}
    layers = [_Layer(name, owner, suspect, left_out[name], groups) for name in owner.mask if name in suspect.mask]
    order = _best_order(layers, groups)
    mask, weights = groups.renumbered_mask(suspect.mask, order), suspect.weights
    if weights is not None:
        moved = groups.renumbered({f"{name}.weight": weight for name, weight in weights.items()}, order)
        weights = {name: moved[f"{name}.weight"] for name in weights}
    aligned = replace(suspect, mask=mask, weights=weights)
    return Alignment(aligned, np.argsort(order), agreement_of(owner, suspect, left_out),
                     agreement_of(owner, aligned, left_out))


def agreement_of(owner: Suspect, suspect: Suspect, left_out: Mapping[str, torch.Tensor]) -> Agreement:
    """Compare all layers that both have, without the kernels [out, in] that are left out."""
    both, expected, weights, spreads, equal = 0, 0.0, 0, [0.0, 0.0], 0
    signed = owner.weights is not None and suspect.weights is not None
    for name in owner.mask:
        if name in suspect.mask:
            counted = ~left_out[name].reshape(*left_out[name].shape, *[1] * (owner.mask[name].dim() - 2))
            masks = [side.mask[name] & counted for side in (owner, suspect)]
            size = max(1, int(counted.sum()) * owner.mask[name][0, 0].numel())
            ones, shared = [int(mask.count_nonzero()) for mask in masks], masks[0] & masks[1]
            both += int(shared.count_nonzero())
            expected += ones[0] * ones[1] / size
            weights += ones[1]
            spreads = [spread + count * (1 - count / size) for spread, count in zip(spreads, ones)]
            if signed:
                signs = [side.weights[name].sign() for side in (owner, suspect)]
                equal += int(((signs[0] == signs[1]) & shared).count_nonzero())
    return Agreement(both / max(1, weights), expected / max(1, weights),
                     (both - expected) / math.sqrt(spreads[0] * spreads[1]) if all(spreads) else 0.0,
                     equal / max(1, both) if signed else None)


class _Layer:
    """One layer of owner and suspect, as scores need it.

    Two features of entries are compared: whether a weight is there, and its sign. The products of unrelated entries have mean
    0 and, scaled, variance 1, so that layers of different density can be added.
    """

    def __init__(self, name: str, owner: Suspect, suspect: Suspect, left_out: torch.Tensor, groups: ChannelGroups):
        self.axes = [(f"{name}.weight", dimension) for dimension in (0, 1)]
        self.channels = [groups.axes.get(axis) for axis in self.axes]
        kept, found = owner.mask[name], suspect.mask[name]
        counted = ~left_out.reshape(*left_out.shape, *[1] * (kept.dim() - 2))
        density = [float(kept[~left_out].float().mean()) if not left_out.all() else 0.0, float(found.float().mean())]
        variance = [share * (1 - share) for share in density]
        # scale, owner's feature, suspect's; a constant in all of the suspect's would change no assignment, so it isn't centred
        self.features: list[tuple[float, torch.Tensor, torch.Tensor]] = []
        if all(variance):
            self.features.append(((variance[0] * variance[1]) ** -0.5, (kept.float() - density[0]) * counted, found))
        if owner.weights is not None and suspect.weights is not None and all(density):
            own, theirs = ((side.weights[name].sign() * side.mask[name]).to(torch.int8) for side in (owner, suspect))
            self.features.append(((density[0] * density[1]) ** -0.5, own * counted, theirs))

    def scores(self, dimension: int, indices: np.ndarray, order: np.ndarray, groups: ChannelGroups) -> np.ndarray:
        """float64 [len(indices)] * 2, how well each of the owner's channels at `indices` of a dimension fits each of the
        suspect's there, the other dimension renumbered by `order`."""
        other, total = 1 - dimension, np.zeros((len(indices), len(indices)))
        for scale, own, theirs in self.features:
            own, theirs = (side.index_select(dimension, torch.from_numpy(indices)) for side in (own, theirs))
            if self.channels[other] is not None:
                theirs = theirs.index_select(other, torch.from_numpy(groups.index(self.axes[other], order)))
            total += scale * (_rows(own, dimension) @ _rows(theirs, dimension).T).double().numpy()
        return total

    def spreads(self, dimension: int) -> tuple[np.ndarray, np.ndarray]:
        """Owner's and suspect's float64 [channels, sums]: the features of each channel summed over the other dimension, for
        each position of the kernel, standardised over the channels."""
        own, theirs = (torch.cat([kernels(f[side]).sum(1 - dimension, dtype=torch.float32) for f in self.features], 1)
                       for side in (1, 2))
        return _standardised(own), _standardised(theirs)


def _standardised(columns: torch.Tensor) -> np.ndarray:
    columns = columns.double() - columns.double().mean(0)
    return (columns / columns.square().mean(0).sqrt().clamp_min(1e-3)).numpy()


def _rows(tensor: torch.Tensor, dimension: int) -> torch.Tensor:
    """float32 [channels of a dimension, all else]."""
    return tensor.transpose(0, dimension).flatten(1).float()


class _Occurrence(NamedTuple):
    """A group's channels in a layer: in which dimension, and int64 [channels of the group there], the index of each."""

    layer: _Layer
    dimension: int
    indices: np.ndarray


def _best_order(layers: Sequence[_Layer], groups: ChannelGroups) -> np.ndarray:
    """int64 [channels], the suspect's channel to stand where the owner's is."""
    members = groups.members()
    occurrences = [_occurrences(channels, layers) for channels in members]
    order = np.arange(len(groups.group))
    for channels, here in zip(members, occurrences):  # by what does not depend on other groups
        order[channels] = _assigned(channels, order[channels], [_similarity(occurrence) for occurrence in here])
    # a group is looked at again once one that shares a layer with it has changed
    neighbours, waiting = _sharing_a_layer(occurrences), [True] * len(members)
    for number in islice(cycle(range(len(members))), PASSES * len(members)):
        if waiting[number]:
            waiting[number], channels = False, members[number]
            better = _assigned(channels, order[channels], [layer.scores(dimension, indices, order, groups)
                                                           for layer, dimension, indices in occurrences[number]])
            if (better != order[channels]).any():
                order[channels] = better
                for neighbour in neighbours[number]:
                    waiting[neighbour] = True
    return order


def _occurrences(channels: np.ndarray, layers: Sequence[_Layer]) -> list[_Occurrence]:
    """Where a group's channels are, in layers that tell something."""
    found = []
    for layer, dimension in product((layer for layer in layers if layer.features), (0, 1)):
        if layer.channels[dimension] is not None:
            indices = np.flatnonzero(np.isin(layer.channels[dimension], channels))
            if len(indices):
                found.append(_Occurrence(layer, dimension, indices[np.argsort(layer.channels[dimension][indices])]))
    return found


def _sharing_a_layer(occurrences: Sequence[Sequence[_Occurrence]]) -> list[list[int]]:
    """For each group the numbers of those that are in one of its layers too; its own, if it is on both sides of a layer."""
    layers = [[occurrence.layer for occurrence in here] for here in occurrences]
    return [[other for other, theirs in enumerate(layers)
             if (other != number or len(set(own)) < len(own)) and not set(own).isdisjoint(theirs)]
            for number, own in enumerate(layers)]


def _similarity(occurrence: _Occurrence) -> np.ndarray:
    """float64 [channels] * 2, how alike the weights of the owner's and the suspect's channels are spread over the kernels."""
    own, theirs = occurrence.layer.spreads(occurrence.dimension)
    return own[occurrence.indices] @ theirs[occurrence.indices].T


def _assigned(channels: np.ndarray, now: np.ndarray, scores: Sequence[np.ndarray]) -> np.ndarray:
    """The suspect's channels for the owner's `channels` with the largest sum of all scores [channels] * 2; `now`, where that is no
    better."""
    rows = np.arange(len(channels))
    score = np.broadcast_to(sum(scores, np.zeros(1)), (len(rows), len(rows)))  # 0 where no layer tells
    best, before = linear_sum_assignment(score, maximize=True)[1], np.searchsorted(channels, now)
    gain = score[rows, best].sum() - score[rows, before].sum()
    return channels[best] if gain > SMALLEST_GAIN * np.abs(score[rows, best]).sum() else now
