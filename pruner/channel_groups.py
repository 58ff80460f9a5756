"""Which channels of a network can be renumbered without changing what it computes, and what renumbering them does.

A *channel* here is everything that one channel of an activation is called in the parameters: a filter of the convolution
that makes it, an entry of each batch norm, an input slice of each layer that reads it; and along shortcuts all of these in
every block. A *group* is a set of channels that occur in the same parameters, so that they can trade places: the stream of a
residual stage, the inside of a block. Read off the channel graph, so a new architecture needs nothing here.

In ResNet-20 a shortcut puts a stage's stream into the middle of the next one's, between zeros. So the middle channels of the
wider stream are channels of the narrower one and move with it, and the outer ones are a group of their own.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch import nn

from pruner.channel_graph import NOTHING, ChannelGraph, Step, channel_graph
from pruner.masks import Mask
from utils.errors import UserError

FIXED = -1  # in place of a channel: an index that must stay (the picture's channels, the classes, a zero of a shortcut)
PER_CHANNEL = ("weight", "bias", "running_mean", "running_var")  # of a batch norm


@dataclass(frozen=True)
class ChannelGroups:
    """The channels of a network that can be renumbered.

    A renumbering is an int64 [channels] array `order`: what channel order[c] was stands where channel c stood. It must be a
    permutation that leaves every channel in its group; its inverse is `np.argsort(order)`.

    group: int64 [channels], groups numbered from 0 in the order of computation.
    axes: (key of the state_dict, dimension) -> int64 [length], the channel at each index, or FIXED. Axes on which all is
        fixed are left out. A channel is at most once on an axis.
    normed: layer -> the batch norm directly behind it, see `pruner.channel_graph.ChannelGraph`.
    """

    group: np.ndarray
    axes: Mapping[tuple[str, int], np.ndarray]
    normed: Mapping[str, str]

    def members(self) -> list[np.ndarray]:
        """The channels of each group, ascending."""
        return [np.flatnonzero(self.group == number) for number in range(self.group.max(initial=-1) + 1)]

    def index(self, axis: tuple[str, int], order: np.ndarray) -> np.ndarray:
        """int64 [length], where each index of an axis takes its values from under a renumbering."""
        channels = self.axes[axis]
        free = np.flatnonzero(channels != FIXED)
        place = np.zeros(len(self.group), dtype=np.int64)
        place[channels[free]] = free
        index = np.arange(len(channels))
        index[free] = place[order[channels[free]]]
        return index

    def renumbered(self, tensors: Mapping[str, torch.Tensor], order: np.ndarray) -> dict[str, torch.Tensor]:
        """Tensors under the keys of a state_dict, complete or not, renumbered; what has no channels is passed on."""
        result = dict(tensors)
        for key, dimension in self.axes:
            if key in result:
                index = torch.from_numpy(self.index((key, dimension), order))
                result[key] = result[key].index_select(dimension, index.to(result[key].device))
        return result

    def renumbered_mask(self, mask: Mask, order: np.ndarray) -> Mask:
        """A mask, renumbered as the weights it belongs to."""
        moved = self.renumbered({f"{name}.weight": kept for name, kept in mask.items()}, order)
        return Mask({name: moved[f"{name}.weight"] for name in mask})

    def with_copies(self, copies: np.ndarray) -> "ChannelGroups":
        """Of a network in which each channel c has so many copies, int64 [channels], which stand behind it on all of its axes."""
        first = np.cumsum(copies + 1) - copies - 1
        axes = {}
        for axis, channels in self.axes.items():
            index, times = self._repeated(channels, copies)
            axes[axis] = np.where(channels[index] == FIXED, FIXED, first[channels[index]] + times)
        return ChannelGroups(np.repeat(self.group, copies + 1), axes, self.normed)

    def copied(self, tensors: Mapping[str, torch.Tensor], copies: np.ndarray) -> dict[str, torch.Tensor]:
        """The tensors of that network, under the keys of a state_dict."""
        result = dict(tensors)
        for key, dimension in self.axes:
            if key in result:
                index, _ = self._repeated(self.axes[key, dimension], copies)
                result[key] = result[key].index_select(dimension, torch.from_numpy(index))
        return result

    @staticmethod
    def where_copies_are(copies: np.ndarray) -> np.ndarray:
        """Which channels of that network are copies, ascending."""
        return np.flatnonzero(np.diff(np.repeat(np.arange(len(copies)), copies + 1), prepend=-1) == 0)

    @staticmethod
    def _repeated(channels: np.ndarray, copies: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Along an axis of the network with copies: int64 [length], the index of the original, and which of its copies it is, from 0."""
        each = np.where(channels == FIXED, 1, copies[channels] + 1)
        index = np.repeat(np.arange(len(channels)), each)
        return index, np.arange(len(index)) - np.repeat(np.cumsum(each) - each, each)

    def random_order(self, random: np.random.Generator) -> np.ndarray:
        """A renumbering in which each group's permutation is drawn uniformly and independently."""
        order = np.arange(len(self.group))
        for channels in self.members():
            order[channels] = random.permutation(channels)
        return order


def channel_groups(model: nn.Module) -> ChannelGroups:
    """Find the groups of any model whose channel graph can be built; only shapes of its parameters matter.

    Raises UserError as `pruner.channel_graph.channel_graph`; or a batch norm is used twice, a layer reads something other than
    whole channels (a linear layer behind a flattened picture), or a convolution has groups and is no depthwise one.
    """
    graph, state = channel_graph(model), model.state_dict()
    _check_can_be_renumbered(graph, state)
    count, channel_of = _channels(graph)
    on_axes = {axis: np.where(nodes == NOTHING, FIXED, channel_of[nodes]) for axis, nodes in _nodes_on_axes(graph, state).items()}
    occurrences: list[list[tuple[str, int]]] = [[] for _ in range(count)]
    for axis, channels in on_axes.items():
        for channel in channels[channels != FIXED]:
            occurrences[channel].append(axis)
    fixed = {*channel_of[graph.inputs], *channel_of[graph.outputs]}
    # where a channel is added to another place of itself, each place depends on the other
    fixed |= {channel for channel, axes in enumerate(occurrences) if not axes or len(set(axes)) < len(axes)}

    # those that are free are numbered in their order, and those with the same occurrences make a group
    free = [channel for channel in range(count) if channel not in fixed]
    groups: dict[tuple, int] = {}
    group = [groups.setdefault(tuple(occurrences[channel]), len(groups)) for channel in free]
    number = np.full(count + 1, FIXED)  # the last entry is that of FIXED itself
    number[free] = np.arange(len(free))
    axes = {axis: number[channels] for axis, channels in on_axes.items()}
    return ChannelGroups(np.array(group, dtype=np.int64),
                         {axis: channels for axis, channels in axes.items() if (channels != FIXED).any()}, graph.normed)


def _is_depthwise(step: Step) -> bool:
    """Whether each channel is carried on by itself."""
    return step.groups == len(step.sources) == len(step.targets)


def _check_can_be_renumbered(graph: ChannelGraph, state: Mapping[str, torch.Tensor]) -> None:
    norms = [name for name, _ in graph.norms]
    for name in dict.fromkeys(name for name in norms if norms.count(name) > 1):
        raise UserError(f"the network's channels can't be renumbered: {name} is used more than once")
    for step in graph.steps:
        if step.layer is None or _is_depthwise(step):
            continue
        if step.groups > 1:
            raise UserError(f"the network's channels can't be renumbered: {step.layer} has {step.groups} groups of channels")
        if len(step.sources) != state[f"{step.layer}.weight"].shape[1]:
            raise UserError(f"the network's channels can't be renumbered: {step.layer} does not read whole channels")


def _channels(graph: ChannelGraph) -> tuple[int, np.ndarray]:
    """How many channels there are, and which of them each of the graph's nodes is: int [nodes].

    A depthwise convolution carries a channel on, and an identity shortcut makes one of the two that it joins.
    """
    joins = [np.zeros((2, 0), dtype=np.int64)]
    for step in graph.steps:
        if step.layer is None:
            joins.append(np.stack([step.sources, step.targets]))
        elif _is_depthwise(step):
            joins.append(np.stack([step.sources, step.targets])[:, step.sources != NOTHING])
    first, second = np.concatenate(joins, axis=1)
    joined = coo_array((np.ones(len(first)), (first, second)), shape=(graph.nodes, graph.nodes))
    return connected_components(joined, directed=False)


def _nodes_on_axes(graph: ChannelGraph, state: Mapping[str, torch.Tensor]) -> dict[tuple[str, int], np.ndarray]:
    """(key of the state_dict, dimension) -> the graph's node at each index, or NOTHING, for all parameters of channels."""
    nodes = {}
    for step in graph.steps:
        if step.layer is not None:
            nodes[f"{step.layer}.weight", 0] = step.targets
            if not _is_depthwise(step):
                nodes[f"{step.layer}.weight", 1] = step.sources
            nodes[f"{step.layer}.bias", 0] = step.targets
    nodes |= {(f"{name}.{kind}", 0): channels for name, channels in graph.norms for kind in PER_CHANNEL}
    return {(key, dimension): channels for (key, dimension), channels in nodes.items() if key in state}
