"""The channel graph of a network: nodes are channels, edges are kernels, shortcuts included (paper, section 3.3.1).

Read off the model itself with torch.fx, so a new architecture needs nothing here as long as it is made of the modules
and functions in the tables below.
"""

import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import fx, nn

from models.layers import carriers
from models.normalize import Normalize
from models.norms import norm_behind
from utils.errors import UserError

PARALLEL_EDGES = "two edges of the channel graph join the same channels; betweenness can't tell them apart"
NOTHING = -1  # in place of a node: a channel padded with zeros


@dataclass(frozen=True)
class Step:
    """Edges that are computed together.

    layer: name of the convolution or linear layer: one edge to targets[o] per kernel [o, i], from sources[i], or with groups
        from the i-th source of the target's own group. None for an identity shortcut: one edge of strength 1 from sources[c]
        to targets[c].
    sources, targets: int64 nodes, one per channel; NOTHING for a padded channel.
    groups: of the convolution; the first of them leads from the first len(sources) / groups sources to the first
        len(targets) / groups targets, and so on.
    """

    layer: str | None
    sources: np.ndarray
    targets: np.ndarray
    groups: int = 1

    def readings(self) -> np.ndarray:
        """int64 [out, in / groups], the node that each kernel of the layer reads."""
        return np.repeat(self.sources.reshape(self.groups, -1), len(self.targets) // self.groups, axis=0)


@dataclass(frozen=True)
class ChannelGraph:
    """Steps in the order of computation: when one is reached, all edges into its sources have come before.

    nodes: how many, numbered from 0. inputs: the picture's channels. outputs: the classes. norms: (batch norm's name, nodes
    that it scales), in the order of computation. normed: layer -> the batch norm that reads its output, where nothing else does.
    """

    nodes: int
    inputs: np.ndarray
    outputs: np.ndarray
    steps: tuple[Step, ...]
    norms: tuple[tuple[str, np.ndarray], ...] = ()
    normed: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class _Value:
    """A tensor on its way: its channels' nodes, and, where nobody else uses them, the step that makes them."""

    channels: np.ndarray
    made_by: int | None = None


# what works on each channel by itself: one entry makes a further kind of layer known
_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d)
_PASSING_MODULES = (nn.BatchNorm1d, nn.BatchNorm2d, Normalize, nn.Identity, nn.Dropout, nn.Dropout2d, nn.Flatten, nn.ZeroPad2d,
                    nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d, nn.AvgPool2d, nn.MaxPool2d,
                    nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.GELU, nn.SiLU, nn.Hardswish, nn.Sigmoid, nn.Tanh)
_PASSING_FUNCTIONS = (torch.flatten, F.dropout, F.adaptive_avg_pool2d, F.adaptive_max_pool2d, F.avg_pool2d, F.max_pool2d,
                      F.relu, torch.relu, F.relu6, F.leaky_relu, F.elu, F.gelu, F.silu, F.hardswish, torch.sigmoid, torch.tanh)
_PASSING_METHODS = ("mean", "amax", "relu", "flatten", "contiguous")
_ADDITIONS = (operator.add, operator.iadd, torch.add)


class _Tracer(fx.Tracer):
    def is_leaf_module(self, module: nn.Module, name: str) -> bool:
        return isinstance(module, _PASSING_MODULES) or super().is_leaf_module(module, name)


def channel_graph(model: nn.Module) -> ChannelGraph:
    """Build the graph of any model that fx can trace and that uses what the tables of this module name.

    Where a sum has a fresh convolution's output as an operand, the sum's channels are that output's nodes and the other
    operand leads there by identity edges (or is merged too, when it is a fresh convolution's, as in a downsampling
    shortcut). Raises UserError for anything it can't follow.
    """
    try:
        traced = _Tracer().trace(model)
    except Exception as error:  # fx fails in many ways on code that depends on data
        raise UserError(f"the network can't be traced for its channel graph ({error})") from None
    return _Builder(dict(model.named_modules()), carriers(model)).build(traced)


class _Builder:
    def __init__(self, modules: dict[str, nn.Module], carriers: Mapping[str, nn.Module]):
        self.modules, self.carriers = modules, carriers
        self.steps: list[Step] = []
        self.norms: list[tuple[str, np.ndarray]] = []
        self.normed: dict[str, str] = {}
        self.nodes = 0

    def new_nodes(self, count: int) -> np.ndarray:
        self.nodes += count
        return np.arange(self.nodes - count, self.nodes)

    def build(self, graph: fx.Graph) -> ChannelGraph:
        values: dict[fx.Node, _Value] = {}
        inputs = outputs = None
        for node in graph.nodes:
            if node.op == "placeholder" and inputs is None:
                first = next(m for m in self.modules.values() if isinstance(m, (*_CONVOLUTIONS, nn.Linear)))
                inputs = self.new_nodes(first.weight.shape[1] * getattr(first, "groups", 1))
                values[node] = _Value(inputs)
            elif node.op == "output":
                outputs = values[node.args[0]].channels
            else:
                value = self.follow(node, [values[argument] for argument in node.all_input_nodes])
                # what several others use can't be merged into a sum any more
                values[node] = value if len(node.users) == 1 else replace(value, made_by=None)
        used = np.unique(np.concatenate([inputs, outputs, *(s.sources for s in self.steps),
                                         *(s.targets for s in self.steps)]))
        used = used[used != NOTHING]
        number = np.full(self.nodes + 1, NOTHING)
        number[used] = np.arange(len(used))
        return ChannelGraph(len(used), number[inputs], number[outputs],
                            tuple(replace(s, sources=number[s.sources], targets=number[s.targets]) for s in self.steps),
                            tuple((name, number[channels]) for name, channels in self.norms), self.normed)

    def follow(self, node: fx.Node, operands: list[_Value]) -> _Value:
        module = self.modules.get(node.target) if node.op == "call_module" else None
        if node.target in self.carriers and (norm := norm_behind(node, self.modules)):
            self.normed[node.target] = norm
        if isinstance(module, (*_CONVOLUTIONS, nn.Linear)):
            return self.read(node.target, module, operands[0].channels)
        if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
            self.norms.append((node.target, operands[0].channels))
        if isinstance(module, _PASSING_MODULES) or node.target in _PASSING_FUNCTIONS \
                or (node.op == "call_method" and node.target in _PASSING_METHODS):
            return operands[0]
        if node.target is operator.getitem and _keeps_channels(node.args[1]):
            return operands[0]
        if node.target is F.pad:
            return _Value(_pad_channels(operands[0].channels, node.args[1]))
        if node.target in _ADDITIONS and len(operands) == 2:
            return self.add(*operands)
        if node.target is torch.cat and node.args and (*node.args[1:], *node.kwargs.values()) == (1,):
            parts = [operands[node.all_input_nodes.index(part)] for part in node.args[0]]
            return _Value(np.concatenate([part.channels for part in parts]))
        what = f"{node.op} {node.target} ({node.name})"
        if module is not None:
            what = f"the layer {node.target}, a {type(module).__name__}"
        raise UserError(f"the channel graph can't follow {what}; see the tables in pruner/channel_graph.py")

    def read(self, layer: str, module: nn.Conv1d | nn.Conv2d | nn.Linear, sources: np.ndarray) -> _Value:
        if any(step.layer == layer for step in self.steps):
            raise UserError(f"the channel graph can't follow the network: {layer} is used more than once")
        groups = getattr(module, "groups", 1)
        inputs = module.weight.shape[1] * groups
        # a linear layer may read a flattened picture, channel by channel
        if inputs != len(sources) and (isinstance(module, _CONVOLUTIONS) or inputs % len(sources)):
            raise UserError(f"the channel graph can't follow the network: {layer} reads {inputs} inputs of {len(sources)} "
                            "channels")
        targets = self.new_nodes(module.weight.shape[0])
        self.steps.append(Step(layer, sources, targets, groups))
        return _Value(targets, len(self.steps) - 1)

    def add(self, first: _Value, second: _Value) -> _Value:
        if len(first.channels) != len(second.channels):
            raise UserError(f"the channel graph can't follow the network: {len(first.channels)} channels are added to "
                            f"{len(second.channels)}")
        if first.made_by is None:
            first, second = second, first
        total = first.channels if first.made_by is not None else self.new_nodes(len(first.channels))
        for operand in (first, second):
            if operand.channels is total:
                continue
            if operand.made_by is not None:
                self.steps[operand.made_by] = replace(self.steps[operand.made_by], targets=total)
                self.norms = [(name, total if channels is operand.channels else channels) for name, channels in self.norms]
            else:
                real = operand.channels != NOTHING
                self.steps.append(Step(None, operand.channels[real], total[real]))
        return _Value(total)


def _keeps_channels(index: Any) -> bool:
    return isinstance(index, tuple) and len(index) >= 2 and all(part == slice(None) for part in index[:2])


def _pad_channels(channels: np.ndarray, padding: tuple[int, ...]) -> np.ndarray:
    before, after = padding[4:6] if len(padding) >= 6 else (0, 0)
    return np.concatenate([np.full(before, NOTHING), channels, np.full(after, NOTHING)])


def kernel_strengths(graph: ChannelGraph, weight: Callable[[str], torch.Tensor]) -> dict[str, np.ndarray]:
    """Sum of |w| over each kernel, float64 [out, in / groups], of every layer of the graph. Of a linear layer behind a
    flattened picture a kernel is what it reads of one channel.

    Args:
        weight: gives a layer's weight [out, in / groups, ...] by name, pruned entries zero, on the CPU.
    """
    return {step.layer: weight(step.layer).double().abs()
            .reshape(len(step.targets), len(step.sources) // step.groups, -1).sum(2).numpy()
            for step in graph.steps if step.layer is not None}


@dataclass(frozen=True)
class Edges:
    """All surviving edges as arrays of one length, in the order of the graph's steps.

    source, target: int64 nodes. strength: float64, above 0; 1 for identity shortcuts. step: int64, index into the
    graph's steps. kernel: int64, flat index into the layer's [out, in / groups], 0 for identity shortcuts.
    """

    source: np.ndarray
    target: np.ndarray
    strength: np.ndarray
    step: np.ndarray
    kernel: np.ndarray


def surviving_edges(graph: ChannelGraph, strengths: dict[str, np.ndarray]) -> Edges:
    """Edges of all kernels that have weights, and of the identity shortcuts."""
    parts = []
    for index, step in enumerate(graph.steps):
        if step.layer is None:
            source, target = step.sources, step.targets
            strength, kernel = np.ones(len(source)), np.zeros(len(source), dtype=np.int64)
        else:
            reads, there = step.readings(), strengths[step.layer]
            kernel = np.flatnonzero((there > 0) & (reads != NOTHING))
            source, target, strength = reads.flat[kernel], step.targets[kernel // there.shape[1]], there.flat[kernel]
        parts.append((source, target, strength, np.full(len(source), index), kernel))
    return Edges(*(np.concatenate(column) for column in zip(*parts)))


def per_kernel(graph: ChannelGraph, strengths: dict[str, np.ndarray], edges: Edges,
               values: np.ndarray) -> dict[str, np.ndarray]:
    """Values of edges laid out as float64 [out, in / groups] per layer, 0 where there is no edge."""
    result = {}
    for index, step in enumerate(graph.steps):
        if step.layer is not None:
            here = edges.step == index
            result[step.layer] = np.zeros(strengths[step.layer].shape)
            result[step.layer].flat[edges.kernel[here]] = values[here]
    return result


def to_networkx(graph: ChannelGraph, strengths: dict[str, np.ndarray]):
    """The graph as a networkx.DiGraph, nodes numbered from 0.

    Edges are surviving kernels, with attributes `layer`, `kernel` (its index in the layer's weight), `strength` and
    `distance` = 1 / strength;
    identity shortcuts have strength 1, layer None and kernel (0, 0). Raises UserError where two edges join the same two
    nodes, which no network here has.
    """
    import networkx

    result = networkx.DiGraph()
    result.add_nodes_from(range(graph.nodes))
    edges = surviving_edges(graph, strengths)
    for source, target, strength, step, kernel in zip(edges.source.tolist(), edges.target.tolist(),
                                                      edges.strength.tolist(), edges.step.tolist(),
                                                      edges.kernel.tolist()):
        layer = graph.steps[step].layer
        place = divmod(kernel, strengths[layer].shape[1]) if layer is not None else (0, 0)
        result.add_edge(source, target, layer=layer, kernel=place, strength=strength, distance=1 / strength)
    if result.number_of_edges() != len(edges.source):
        raise UserError(PARALLEL_EDGES)
    return result
