"""The canonical form of a suspect: transforms undone that change no output, by the suspect's file alone.

Nothing here looks at a claim, so nothing here is a try.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import nn

from models.fitting import fitted
from models.layers import noise_for
from pruner.channel_groups import ChannelGroups, channel_groups
from pruner.masks import Mask, kernels
from utils.errors import UserError

ROUNDS = 6  # of fitting rows and columns to the modes, and the modes to what is left
BINS = 400
COUNTED = 200_000  # entries of a layer, at about as many of which the modes are looked for
SMOOTH = 0.15  # of the logarithms, when they are counted
VALLEY = 0.7  # between two modes the density falls below this share of the lower one's; one skew mode has no valley
CERTAIN = 5.0  # standard deviations of the counts, by which it does
SMALLEST = 0.05, 0.002  # share of a layer's entries in the lower mode, and in the upper one
FEWEST = 1000  # entries of a layer, with which there is something to tell apart
UNLIKE = 0.1  # share of a channel's square that is left by another one's multiple, above which they are two
MULTIPLE = 1e-6  # the same of its variance, up to which it is the other one's multiple
ROUNDING = 1e-4
PROBES, SIDE = 16, 16  # pictures of noise, on which channels are compared


def cut(mask: Mask, weights: Mapping[str, torch.Tensor]) -> Mask:
    """The mask without what was filled into it: in each layer whose magnitudes have two modes, the entries of the upper one.

    A value in place of zeros, or noise, is small against the weights of its row and its column, whatever these were scaled by. So
    the logarithm of each magnitude is a row's number plus a column's plus one of two modes'; rows and columns are fitted by least
    squares given which mode each entry is in, and the modes by the deepest valley of what is left.
    """
    return Mask({name: kept & _upper(weights[name], kept) for name, kept in mask.items()})


def magnitudes(mask: Mask, weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Layer -> how large each weight is beside its row and its column, float64 of the weight's shape, whatever these were scaled by: its
    magnitude times a number of its row and one of its column, by which the mean squares of all rows and columns are alike."""
    sizes = {}
    for name, kept in mask.items():
        weight = weights[name].double() * kept
        squares = kernels(weight.square()).sum(2)
        columns = torch.ones_like(squares[0])
        for _ in range(ROUNDS):
            rows = 1 / (squares @ columns).clamp_min(1e-300)
            columns = 1 / (rows @ squares).clamp_min(1e-300)
        sizes[name] = weight.abs() * (len(rows) * torch.outer(rows, columns)).sqrt().reshape(*squares.shape, *[1] * (weight.dim() - 2))
    return sizes


def _upper(weight: torch.Tensor, kept: torch.Tensor) -> torch.Tensor:
    """bool like the weight [out, in, height, width], True in the upper of two modes; everywhere, where there is one."""
    everywhere = torch.ones_like(kept)
    logs, there = kernels(torch.where(kept, weight.abs(), 1.0).log()), kernels(kept).float()
    if there.sum() < FEWEST:
        return everywhere
    step = 1 + logs.numel() // COUNTED
    counted = kept.flatten()[::step]
    modes = torch.zeros_like(logs)  # of each entry, the logarithm
    for _ in range(ROUNDS):
        left = logs - _rows_and_columns(logs - modes, there)
        found = _two_modes(left.flatten()[::step][counted].numpy())
        if found is None:
            return everywhere
        low, high, valley = found
        modes = torch.where(left > valley, high, low)
    return (left > valley).view_as(kept)


def _rows_and_columns(values: torch.Tensor, there: torch.Tensor) -> torch.Tensor:
    """What a row and a column add to each of the values [out, in, area] that are there, [out, in, 1]: by turns the mean of what is
    left of each."""
    sums, counts = (values * there).sum(2), there.sum(2)
    columns = torch.zeros_like(sums[:1])
    for _ in range(2):
        rows = (sums - counts * columns).sum(1, keepdim=True) / counts.sum(1, keepdim=True).clamp_min(1)
        columns = (sums - counts * rows).sum(0, keepdim=True) / counts.sum(0, keepdim=True).clamp_min(1)
    return (rows + columns)[:, :, None]


def _two_modes(values: np.ndarray) -> tuple[float, float, float] | None:
    """Means of two modes and the valley between them; None where there is no valley."""
    counts, edges = np.histogram(values, BINS)
    at, width = (edges[:-1] + edges[1:]) / 2, edges[1] - edges[0]
    near = np.exp(-0.5 * ((at[:, None] - at) / max(SMOOTH, width)) ** 2) @ counts
    peak = np.minimum(np.maximum.accumulate(near), np.maximum.accumulate(near[::-1])[::-1])  # the lower one of both sides
    below = np.cumsum(counts) / counts.sum()
    valleys = (peak - near > CERTAIN * np.sqrt(peak + near)) & (near < VALLEY * peak) & (below > SMALLEST[0]) & (below < 1 - SMALLEST[1])
    if not valleys.any():
        return None
    lowest = np.where(valleys, near / np.maximum(peak, 1), np.inf).argmin()
    low, high = (np.average(at[part], weights=counts[part]) for part in (slice(lowest + 1), slice(lowest + 1, None)))
    return float(low), float(high), float(edges[lowest + 1])


# --- other numbers of channels ----------------------------------------------------------------------------------------


def narrowed(network: nn.Module, state: Mapping[str, torch.Tensor], model: nn.Module) -> tuple[dict[str, torch.Tensor], tuple[str, ...]]:
    """A state_dict with the model's numbers of channels, and sentences on what that took.

    Of each group of channels that has too many, those go that can go: what readers took of such a channel they take of the one most
    like it, in proportion. So channels that are dead, doubled, split, or that cancel each other, go first, as nothing changes with
    them. How alike two are is seen on pictures of noise. Where a group has too few, as after real pruning, empty ones join it.

    Args:
        network: the suspect's, with `state` in it. model: of the wanted shape.
    Raises:
        UserError: the structure can't be followed, or is another one.
    """
    groups, wanted = channel_groups(network), [len(members) for members in channel_groups(model).members()]
    if len(groups.members()) != len(wanted):
        raise UserError("its channels belong together otherwise than the network's")
    result, copies = {key: tensor.double() if tensor.is_floating_point() else tensor for key, tensor in state.items()}, \
        np.zeros(len(groups.group), dtype=np.int64)
    surplus = {number: len(members) - count for number, (members, count) in enumerate(zip(groups.members(), wanted))}
    seen = _activations(network, result, groups, [number for number, more in surplus.items() if more > 0])
    for number, activations in seen.items():
        dropped = _merge(result, groups, groups.members()[number], activations, surplus[number])
        copies[dropped] = -1
    for number, more in surplus.items():
        copies[groups.members()[number][-1]] += max(0, -more)
    result = groups.copied(result, copies)
    fewer, more = int((copies < 0).sum()), int(copies.clip(0).sum())
    if more:
        new = groups.where_copies_are(copies)
        for (key, dimension), channels in groups.with_copies(copies).axes.items():
            if key in result:
                result[key] = result[key].index_fill(dimension, torch.from_numpy(np.flatnonzero(np.isin(channels, new))), 0)
    said = [f"{fewer} channels more than the network has were merged with others or left out"] if fewer else []
    said += [f"{more} channels fewer than the network has were replaced by empty ones"] if more else []
    said += ["biases that the network has not were left out"] if len(state) > len(model.state_dict()) else []
    return {key: tensor.float() if tensor.is_floating_point() else tensor for key, tensor in result.items()}, tuple(said)


def _activations(network: nn.Module, state: Mapping[str, torch.Tensor], groups: ChannelGroups,
                 wanted: Sequence[int]) -> dict[int, torch.Tensor]:
    """Of each wanted group float64 [channels, values], each channel wherever it is made, behind its batch norm and before it is
    rectified: what is never above 0 is not the same as what is not there."""
    seen: dict[str, torch.Tensor] = {}
    makers = [(groups.normed.get(layer := key.rpartition(".")[0], layer), channels)
              for (key, dimension), channels in groups.axes.items() if dimension == 0 and state[key].dim() > 1]
    probe = fitted(network, state).float()
    modules = dict(probe.named_modules())
    for name, _ in makers:
        modules[name].register_forward_hook(
            lambda _, given, out, name=name: seen.update({name: out.transpose(0, 1).flatten(1).double()}))
    if wanted:
        with torch.no_grad():
            probe(noise_for(probe, PROBES, SIDE))
    found = {}
    for number in wanted:
        members = groups.members()[number]
        found[number] = torch.cat([seen[name][[int(np.flatnonzero(channels == member)[0]) for member in members]]
                                   for name, channels in makers if np.isin(members, channels).all()], 1)
    return found


def _merge(state: dict[str, torch.Tensor], groups: ChannelGroups, members: np.ndarray, activations: torch.Tensor,
           count: int) -> list[int]:
    """Take `count` of a group's channels out of what reads them, and return which: multiples of others first, since a network as it
    was trained has none, but may have channels of its own that nobody reads."""
    products = (activations @ activations.T).numpy()
    sizes = np.diag(products).copy()
    factors = products / np.maximum(sizes, 1e-300)  # a row's channel as multiples of a column's, and what is left of its square
    left = np.maximum(sizes[:, None] - factors * products, 0)
    left[left > UNLIKE * sizes[:, None]] = np.inf
    np.fill_diagonal(left, sizes)  # of none
    varying = (sizes - activations.sum(1).square().numpy() / activations.shape[1]).clip(0)
    reading = []
    for (key, dimension), channels in groups.axes.items():
        if dimension == 1 and members[0] in channels:  # and with it all of its group
            state[key] = state[key].clone()
            reading.append((state[key], np.argsort(channels)[np.searchsorted(np.sort(channels), members)]))
    read = sum(weight.square().transpose(0, 1).flatten(1).sum(1)[at].numpy() for weight, at in reading)
    best, gone = left.argmin(1), []
    for _ in range(count):
        least = left[np.arange(len(members)), best]
        first = int(np.where(least <= MULTIPLE * varying, -1, least * read).argmin())
        second = best[first]
        for weight, at in reading if first != second else ():
            taken = factors[first, second] * weight[:, at[first]]
            total = weight[:, at[second]] + taken
            total[total.abs() <= ROUNDING * taken.abs()] = 0  # what cancels leaves nothing
            read[second] += float(total.square().sum() - weight[:, at[second]].square().sum())
            weight[:, at[second]] = total
        gone.append(first)
        left[first], left[:, first], read[first] = np.inf, np.inf, 1
        anew = np.flatnonzero(best == first)
        best[anew] = left[anew].argmin(1)
    return [int(members[at]) for at in gone]
