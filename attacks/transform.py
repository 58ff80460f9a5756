"""Free transforms: other weights, and other numbers of them, that compute the same, so that a mark is not where it was.

Whoever has the file alone can do all of this without a picture. Each kind is done on the state_dict in double precision, in the
order in which it is named, and the outputs are compared before and after.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import nn

from models.fitting import fitted
from models.layers import noise_for
from pruner.channel_groups import FIXED, ChannelGroups, channel_groups
from pruner.masks import Mask
from utils.errors import UserError

State = dict[str, torch.Tensor]
TOLERANCE = 1e-5  # of logits, relative to the largest
EXACT_FILL = 1e-7  # size of filled entries against the weights', up to which outputs are compared; above it is damage, not rounding
OCTAVES = 3.0  # channels are scaled by up to 2^3 and down to 2^-3


@dataclass(frozen=True)
class Network:
    """What a transform knows beside the weights. masked: the layers that have masks."""

    model: nn.Module
    groups: ChannelGroups
    masked: Sequence[str]
    level: float
    random: np.random.Generator


def transform(mask: Mask, weights: Mapping[str, torch.Tensor], model: nn.Module, kinds: Sequence[str], level: float,
              seed: int) -> tuple[Mask, State]:
    """Apply KINDS, one after the other, each with all that it can be done to.

    Args:
        mask: where weights are; pruned entries are those of its layers that it lacks.
        weights: complete state_dict.
        model: the network; only its structure is used.
        kinds: names in KINDS, in the order in which they are done, perhaps repeated.
        level: the share of each group's channels that are added, at least one, and the size of what fills pruned entries against the
            weights around them; 0 does nothing at all.
        seed: of all draws.
    Returns:
        mask and weights, whose shapes and keys are no longer the model's where channels came or batch norms went.
    Raises:
        UserError: masks without weights; the network's structure can't be followed; or outputs changed, as they do in a network whose
            activations are no rectifiers.
    """
    if not weights.keys() >= dict(model.named_parameters()).keys():
        raise UserError("--checkpoint: holds masks only; transform needs the weights of all layers")
    if not level:
        return mask, dict(weights)
    random = np.random.default_rng(seed)
    state = {key: tensor.detach().cpu().double() if tensor.is_floating_point() else tensor for key, tensor in weights.items()}
    for kind in kinds:
        network = fitted(model, state)
        before = logits(network)
        facts = Network(network, channel_groups(network), list(mask), level, random)
        state = KINDS[kind](dict(state), facts)
        if kind != "fill" or level <= EXACT_FILL:
            check_same(kind, before, logits(fitted(model, state)))
    dtype = torch.float64 if "dtype" in kinds else torch.float32
    state = {key: tensor.to(dtype) if tensor.is_floating_point() else tensor for key, tensor in state.items()}
    return Mask({name: state[f"{name}.weight"] != 0 for name in mask}), state


def logits(model: nn.Module) -> torch.Tensor:
    """float32 [8, classes], of noise, as who has the file in single precision computes them."""
    with torch.no_grad():
        return model.float()(noise_for(model, 8, 8))


def check_same(kind: str, before: torch.Tensor, after: torch.Tensor) -> None:
    """Raise UserError where outputs differ, or a label."""
    change = float((after - before).abs().max() / before.abs().max())
    if not change <= TOLERANCE or (before.argmax(1) != after.argmax(1)).any():
        raise UserError(f"--kinds {kind}: changes the outputs by {change:.1e} of the largest; this network can't be transformed so")


# --- of the same shape ------------------------------------------------------------------------------------------------


def scale(state: State, network: Network) -> State:
    """Each row of a convolution by a factor that its batch norm undoes, and each channel by one that its readers undo."""
    modules = dict(network.model.named_modules())
    for layer, norm in network.groups.normed.items():
        factor, before = _factors(network, len(state[f"{layer}.weight"])), state[f"{norm}.running_var"]
        for key in (f"{layer}.weight", f"{layer}.bias", f"{norm}.running_mean"):
            _multiply(state, key, 0, factor)
        state[f"{norm}.running_var"], eps = before * factor.square(), modules[norm].eps
        _multiply(state, f"{norm}.weight", 0, ((before * factor.square() + eps) / (before + eps)).sqrt() / factor)
    return _scale_channels(state, network, _factors(network, len(network.groups.group)))


def sign(state: State, network: Network) -> State:
    """Half of the rows in front of batch norms change signs, and so do these."""
    for layer, norm in network.groups.normed.items():
        turn = torch.from_numpy(network.random.choice((-1.0, 1.0), len(state[f"{layer}.weight"])))
        _multiply(state, f"{layer}.weight", 0, turn)
        for key in (f"{layer}.bias", f"{norm}.weight", f"{norm}.running_mean"):
            _multiply(state, key, 0, turn)
    return state


def permute(state: State, network: Network) -> State:
    """The channels of each group in a random order."""
    return network.groups.renumbered(state, network.groups.random_order(network.random))


def fill(state: State, network: Network) -> State:
    """Pruned entries get a value, in every second layer the same one and in the others noise, in proportion to the weights of their
    row and column."""
    for layer in network.masked:
        weight = state[f"{layer}.weight"].clone()
        sizes, there = weight.square(), weight != 0
        if there.all() or not there.any():
            continue
        inside = range(2, weight.dim())
        rows, columns, whole = (sizes.sum(axes, keepdim=True) / there.sum(axes, keepdim=True).clamp_min(1)
                                for axes in ((1, *inside), (0, *inside), (0, 1, *inside)))
        # an empty row is filled as a usual one
        rows, columns = (torch.where(each > 0, each, whole) for each in (rows, columns))
        noise = np.abs(network.random.normal(size=weight.shape)) if network.random.random() < 0.5 else np.ones(weight.shape)
        noise *= network.random.choice((-1.0, 1.0), weight.shape)
        state[f"{layer}.weight"] = torch.where(there, weight, network.level * (rows * columns / whole).sqrt() * torch.from_numpy(noise))
    return state


def fold(state: State, network: Network) -> State:
    """Batch norms become part of the convolutions in front of them, which get biases."""
    modules = dict(network.model.named_modules())
    for layer, norm in network.groups.normed.items():
        factor = state[f"{norm}.weight"] / (state[f"{norm}.running_var"] + modules[norm].eps).sqrt()
        bias = state.get(f"{layer}.bias", torch.zeros_like(factor))
        _multiply(state, f"{layer}.weight", 0, factor)
        state[f"{layer}.bias"] = state[f"{norm}.bias"] + (bias - state[f"{norm}.running_mean"]) * factor
        state = {key: tensor for key, tensor in state.items() if key.rpartition(".")[0] != norm}
    return state


def dtype(state: State, network: Network) -> State:
    """The file is in double precision, see `transform`."""
    return state


# --- with more channels -----------------------------------------------------------------------------------------------


def duplicate(state: State, network: Network) -> State:
    """Some channels twice, the second one scaled; what readers took of one they take of both, in a ratio for each channel."""
    state, network, first, second = _with_copies(state, network, 1)
    factors = torch.ones(len(network.groups.group), dtype=torch.float64)
    factors[second] = _factors(network, len(second))
    ratio = torch.from_numpy(network.random.uniform(0.2, 0.8, len(first)))
    return _share_out(_scale_channels(state, network, factors), network, first, second, lambda which, _: ratio[which])


def split(state: State, network: Network) -> State:
    """Some channels twice; each weight of their readers is divided in another ratio."""
    state, network, first, second = _with_copies(state, network, 1)
    return _share_out(state, network, first, second, lambda _, shape: torch.from_numpy(network.random.uniform(0.2, 0.8, shape)))


def dead(state: State, network: Network) -> State:
    """New channels: some that nobody reads, some that are always zero, and pairs whose readers take one from the other."""
    state, network, _, new = _with_copies(state, network, 2)
    how = network.random.integers(0, 3, len(new) // 2).repeat(2)  # both copies of a channel alike
    unread, silent, cancelling = (torch.from_numpy(how == number) for number in range(3))
    for (key, dimension), channels in network.groups.axes.items():
        at = np.flatnonzero(np.isin(channels, new))
        which, kind = torch.from_numpy(np.searchsorted(new, channels[at])), key.rpartition(".")[2]
        tensor = state[key] = state[key].clone()
        if not len(at):
            continue
        if dimension == 1:
            columns = tensor[:, at[0::2]].repeat_interleave(2, 1)
            factor = torch.where(cancelling[which], torch.tensor([1.0, -1.0]).repeat(len(at) // 2), 1.0) * ~unread[which]
            tensor[:, at] = columns * factor.view(1, -1, *[1] * (tensor.dim() - 2))
        elif tensor.dim() > 1:
            # what it sees is another channel's, with its weights in another order
            rows = tensor[at[0::2]].flatten(1)[:, network.random.permutation(tensor[0].numel())].repeat_interleave(2, 0)
            tensor[at] = (rows * ~silent[which, None]).view_as(tensor[at])
        elif kind in ("bias", "running_mean"):
            tensor[at] *= ~silent[which]
    return state


def _with_copies(state: State, network: Network, each: int) -> tuple[State, Network, np.ndarray, np.ndarray]:
    """Put copies behind some channels of each group that can grow, `each` of them.

    Returns:
        the new tensors, and the wider network; int64, ascending, the channels that were copied, and their copies.
    """
    copies = np.zeros(len(network.groups.group), dtype=np.int64)
    for members in network.groups.members():
        chosen = network.random.choice(members, math.ceil(network.level * len(members)), replace=False)
        trial = np.zeros_like(copies)
        trial[chosen] = each
        try:  # where a shortcut pads with zeros, their number is the network's
            logits(fitted(network.model, network.groups.copied(state, trial)))
        except RuntimeError:
            continue
        copies += trial
    state = network.groups.copied(state, copies)
    wider = replace(network, model=fitted(network.model, state), groups=network.groups.with_copies(copies))
    copied = np.flatnonzero(copies)
    return state, wider, copied + np.cumsum(copies)[copied] - copies[copied], wider.groups.where_copies_are(copies)


# --- what they are made of --------------------------------------------------------------------------------------------


def _factors(network: Network, count: int) -> torch.Tensor:
    return torch.from_numpy(np.exp2(network.random.uniform(-OCTAVES, OCTAVES, count)))


def _multiply(state: State, key: str, dimension: int, factor: torch.Tensor) -> None:
    """A tensor along a dimension, where it is there."""
    if key in state:
        shape = [1] * state[key].dim()
        shape[dimension] = len(factor)
        state[key] = state[key] * factor.view(shape)


def _scale_channels(state: State, network: Network, factors: torch.Tensor) -> State:
    """Channels by positive factors, where they are made, and what reads them by their inverse. Those that a batch norm reads which stands
    behind something else than a convolution stay as they are."""
    behind = set(network.groups.normed.values())
    for (key, _), channels in network.groups.axes.items():
        name, _, kind = key.rpartition(".")
        if kind == "running_mean" and name not in behind:
            factors[channels[channels != FIXED]] = 1
    for (key, dimension), channels in network.groups.axes.items():
        name, _, kind = key.rpartition(".")
        here = torch.where(torch.from_numpy(channels == FIXED), 1.0, factors[channels])
        if dimension == 1:
            _multiply(state, key, 1, 1 / here)
        elif name not in network.groups.normed and (name not in behind or kind in ("weight", "bias")):
            _multiply(state, key, 0, here)
    return state


def _share_out(state: State, network: Network, first: np.ndarray, second: np.ndarray,
               ratio: Callable[[np.ndarray, tuple[int, ...]], torch.Tensor]) -> State:
    """What readers take of channels becomes a share of it, and of their copies the rest. ratio: from the channels' places in `first`
    and the shape of the readers' weights to the share, of each channel or each weight."""
    for (key, dimension), channels in network.groups.axes.items():
        at, of = (np.flatnonzero(np.isin(channels, wanted)) for wanted in (first, second))
        if dimension == 1 and len(at):
            tensor = state[key] = state[key].clone()
            share = ratio(np.searchsorted(first, channels[at]), tuple(tensor[:, at].shape))
            share = share.view(1, -1, *[1] * (tensor.dim() - 2)) if share.dim() == 1 else share
            tensor[:, at] *= share
            tensor[:, of] *= 1 - share
    return state


KINDS: dict[str, Callable[[State, Network], State]] = {
    "scale": scale, "sign": sign, "dead": dead, "duplicate": duplicate, "split": split, "permute": permute, "fill": fill, "fold": fold,
    "dtype": dtype,
}
