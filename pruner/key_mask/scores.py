"""Score functions for splitting key masks off a ticket (paper, section 3.3.1 and Algorithm 1, lines 1 and 2).

Each takes a `Scoring` and returns layer -> float64 tensor of the weight's shape: the higher, the sooner a weight goes
into the key. Pruned weights score -inf, all others are finite. To add one, write it and put it into SCORES.
"""

import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from tqdm import tqdm

from pruner.channel_graph import (NOTHING, PARALLEL_EDGES, ChannelGraph, Edges, Step, channel_graph, kernel_strengths,
                                  per_kernel, surviving_edges)
from pruner.masks import Mask, kernels
from utils.errors import UserError

Scores = dict[str, torch.Tensor]
PART = 1000  # scoring pictures of 32x32 that are differentiated at once
LONG_SEARCH = 2 * 10**10  # channels times kernels: half a minute of one core or more
MOST_PATHS = 200_000  # that are drawn for one key: some kernels lie on hardly any path, or on none
WALKS_AT_ONCE = 64
PUBLISHED_SOURCES = 100  # of how many nodes the published betweenness looks at one


@dataclass
class Scoring:
    """What a score function may look at.

    model: its weights are those of the ticket, W0; what the mask prunes is taken as zero. mask: the ticket's.
    pictures, labels: what the network takes, float [N, 3, ...], and int64 [N], for the data-driven scores only.
    seed: of everything random. num_paths: how many paths the path scores draw. betweenness_samples: source channels
    that betweenness is estimated from, None for all (exact). key_nonzeros: how many weights the key is to hold, where that is
    decided: paths are then drawn on until they run through as many.
    """

    model: nn.Module
    mask: Mask
    pictures: torch.Tensor | None = None
    labels: torch.Tensor | None = None
    seed: int = 1
    num_paths: int = 1000
    betweenness_samples: int | None = None
    key_nonzeros: int | None = None
    _layers: dict[str, nn.Module] = field(init=False, repr=False)

    def __post_init__(self):
        self._layers = dict(self.model.named_modules())

    def weight(self, layer: str) -> torch.Tensor:
        """A layer's weight on the CPU, pruned entries zero."""
        weight = self._layers[layer].weight.detach().cpu()
        return weight * self.mask[layer] if layer in self.mask else weight

    def groups(self, layer: str) -> int:
        return getattr(self._layers[layer], "groups", 1)

    def graph(self) -> tuple[ChannelGraph, dict[str, np.ndarray]]:
        """The network's channel graph and its kernels' strengths, float64 [out, in / groups] per layer."""
        graph = channel_graph(self.model)
        return graph, kernel_strengths(graph, self.weight)

    def on_paths(self, kernels: Mapping[str, np.ndarray]) -> int:
        """How many weights of the mask lie in kernels with numbers [out, in / groups] above 0."""
        return sum(int(sizes[kernels[name] > 0].sum()) for name, sizes in self._kernel_sizes.items())

    @cached_property
    def _kernel_sizes(self) -> dict[str, np.ndarray]:
        return {name: kernels(kept).sum(2).numpy() for name, kept in self.mask.items()}

    def fill_up(self, kernels: Mapping[str, np.ndarray], generator: np.random.Generator) -> Scores:
        """`spread` of numbers that are 0 for kernels on no drawn path: these get negative ones, at random, so that a key for
        which the paths do not suffice is filled up from all layers alike. Says so where that happens."""
        if self.key_nonzeros is not None and (missing := self.key_nonzeros - self.on_paths(kernels)) > 0:
            print(f"warning: {missing} of the key's {self.key_nonzeros} weights lie on none of the paths drawn; kernels at random "
                  "fill it up", file=sys.stderr, flush=True)
        return self.spread({name: np.where(values > 0, values, generator.random(values.shape) - 1)
                            for name, values in kernels.items()})

    def finish(self, scores: Mapping[str, torch.Tensor]) -> Scores:
        """Float64 scores of the masked layers, -inf where pruned."""
        return {name: torch.where(kept, scores[name].double(), -torch.inf) for name, kept in self.mask.items()}

    def spread(self, by_kernel: Mapping[str, np.ndarray]) -> Scores:
        """Scores [out, in / groups] of kernels given to all their weights."""
        return self.finish({name: torch.from_numpy(np.ascontiguousarray(by_kernel[name])).reshape(*kept.shape[:2], *[1] * (kept.dim() - 2))
                            .expand(kept.shape) for name, kept in self.mask.items()})


def omp(scoring: Scoring) -> Scores:
    """One-shot magnitude: |w|."""
    return scoring.finish({name: scoring.weight(name).abs() for name in scoring.mask})


def random(scoring: Scoring) -> Scores:
    """Uniform over the surviving weights, seeded."""
    generator = torch.Generator().manual_seed(scoring.seed)
    return scoring.finish({name: torch.rand(kept.shape, generator=generator, dtype=torch.float64)
                           for name, kept in scoring.mask.items()})


def ewp(scoring: Scoring) -> Scores:
    """Edge-weight product, exact: of each kernel, the sum over all paths from a picture's channel to a class through it
    of the product of strengths along the path, relative to the largest kernel's.

    One sweep forward and one backward over the channel graph: the sum is (mass arriving at the kernel's source) x (its
    strength) x (mass leaving its target). Masses are kept as logarithms, so no depth leaves their range.
    """
    graph, strengths = scoring.graph()
    arriving, leaving = path_masses(graph, strengths)
    products = {}
    with np.errstate(divide="ignore"):
        for step in graph.steps:
            if step.layer in scoring.mask:
                products[step.layer] = (leaving[step.targets][:, None] + np.log(strengths[step.layer])
                                        + _at(arriving, step.readings()))
    top = max(product.max() for product in products.values())
    if top == -np.inf:
        raise UserError("no path leads through the ticket from the picture to a class; ewp can't score it")
    return scoring.spread({name: np.exp(product - top) for name, product in products.items()})


def path_masses(graph: ChannelGraph, strengths: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Natural logarithms of, for every node, the sum over all paths from the inputs to it, and from it to the outputs,
    of the product of strengths along the path. Float64 [nodes], -inf where there is no path."""
    arriving = np.full(graph.nodes, -np.inf)
    arriving[graph.inputs] = 0.0
    for step in graph.steps:
        gain = _log_product(_blocks(step, strengths), _at(arriving, step.sources))
        arriving[step.targets] = np.logaddexp(arriving[step.targets], gain)
    leaving = np.full(graph.nodes, -np.inf)
    leaving[graph.outputs] = 0.0
    for step in reversed(graph.steps):
        blocks = _blocks(step, strengths)
        gain = _log_product(None if blocks is None else blocks.swapaxes(1, 2), leaving[step.targets])
        real = step.sources != NOTHING
        np.logaddexp.at(leaving, step.sources[real], gain[real])  # a concatenation may bring a channel in twice
    return arriving, leaving


def _at(mass: np.ndarray, nodes: np.ndarray) -> np.ndarray:
    return np.where(nodes == NOTHING, -np.inf, mass[nodes])


def _blocks(step: Step, strengths: Mapping[str, np.ndarray]) -> np.ndarray | None:
    """[groups, out / groups, in / groups], a matrix for each of a step's groups; None for an identity shortcut."""
    return strengths[step.layer].reshape(step.groups, -1, len(step.sources) // step.groups) if step.layer else None


def _log_product(blocks: np.ndarray | None, log_vector: np.ndarray) -> np.ndarray:
    """log(matrix @ exp(log_vector)) of the matrix with these blocks on its diagonal; None is the identity."""
    if blocks is None:
        return log_vector
    parts = log_vector.reshape(len(blocks), -1, 1)
    top = parts.max(1, keepdims=True)
    top[top == -np.inf] = 0.0
    with np.errstate(divide="ignore"):
        return (np.log(blocks @ np.exp(parts - top)) + top).ravel()


def ewp_sampled(scoring: Scoring) -> Scores:
    """Of each kernel, how many of `num_paths` drawn paths run through it; a path is drawn with probability
    proportional to its product of strengths, so the counts approach `ewp` as paths grow. See `_count_paths`."""
    return _count_paths(scoring, *scoring.graph())


def random_path(scoring: Scoring) -> Scores:
    """Of each kernel, how many of `num_paths` drawn paths run through it; all paths through surviving kernels are
    equally likely. See `_count_paths`."""
    graph, strengths = scoring.graph()
    return _count_paths(scoring, graph, {name: (strength > 0).astype(float) for name, strength in strengths.items()})


def _count_paths(scoring: Scoring, graph: ChannelGraph, strengths: dict[str, np.ndarray]) -> Scores:
    """All paths walk at once, a hop at a time, from the inputs to the outputs: an edge is taken with probability
    (strength x mass leaving its target) / (mass leaving its source), which draws whole paths by their products.

    Where the size of the key is known, as many paths again are drawn until it can be filled from them (or MOST_PATHS are),
    and equal counts are put in random order by fractions that are added to them."""
    generator = np.random.default_rng(scoring.seed)
    _, leaving = path_masses(graph, strengths)
    start = leaving[graph.inputs]
    if start.max() == -np.inf:
        raise UserError("no path leads through the ticket from the picture to a class; there are none to draw")
    share = np.exp(start - start.max())

    edges = surviving_edges(graph, strengths)
    alive = np.flatnonzero(leaving[edges.target] > -np.inf)
    alive = alive[np.argsort(edges.source[alive], kind="stable")]
    source, target = edges.source[alive], edges.target[alive]
    chance = np.exp(np.log(edges.strength[alive]) + leaving[target] - leaving[source])
    first = np.flatnonzero(np.r_[True, source[1:] != source[:-1]])
    # one sorted array to look all draws up in: the i-th node with edges covers the interval (i, i + 1]
    total = np.cumsum(chance)
    base = np.r_[0.0, total[first[1:] - 1]]
    rank = np.cumsum(np.isin(np.arange(len(source)), first)) - 1
    upto = rank + np.minimum((total - base[rank]) / np.add.reduceat(chance, first)[rank], 1.0)
    upto[np.r_[first[1:] - 1, len(source) - 1]] = np.arange(1, len(first) + 1)
    rank_of_node = np.full(graph.nodes, -1)
    rank_of_node[source[first]] = np.arange(len(first))

    counts, paths = np.zeros(len(edges.source)), 0
    while True:
        walkers = generator.choice(graph.inputs, paths or scoring.num_paths, p=share / share.sum())
        paths += len(walkers)
        while len(walkers := walkers[rank_of_node[walkers] >= 0]):  # classes have no edges on
            drawn = np.searchsorted(upto, rank_of_node[walkers] + 1 - generator.random(len(walkers)))
            counts += np.bincount(alive[drawn], minlength=len(counts))
            walkers = target[drawn]
        kernels = per_kernel(graph, strengths, edges, counts)
        if scoring.key_nonzeros is None:
            return scoring.spread(kernels)
        if paths >= MOST_PATHS or scoring.on_paths(kernels) >= scoring.key_nonzeros:
            return scoring.fill_up({name: np.where(times > 0, times + generator.random(times.shape), 0)
                                    for name, times in kernels.items()}, generator)


def ewp_walks(scoring: Scoring) -> Scores:
    """Of each kernel, the sooner one of many walks steps on it the more (1 / the number of the step), the next channel
    drawn by the strength of the kernel there: how the published code takes EWP. See `_walk`."""
    return _walk(scoring, lambda strength: strength)


def random_walks(scoring: Scoring) -> Scores:
    """`ewp_walks`, but any surviving kernel is as likely as the others: the published code's random paths."""
    return _walk(scoring, lambda strength: (strength > 0).astype(float))


def _walk(scoring: Scoring, chance: Callable[[np.ndarray], np.ndarray]) -> Scores:
    """Walks from layer to layer of the mask, in the network's order of modules, without shortcuts: from a random channel of
    the first one, in each over a kernel that reads the present channel to the channel it writes. Who comes to a channel that
    no kernel reads (or, behind a downsampling shortcut, to one that the next layer does not have) goes on from a random one.

    `num_paths` walks, or where the key's size is known as many as fill it (at most MOST_PATHS).

    Args:
        chance: of strengths [out, in / groups] of a layer's kernels, how likely each is to be taken, but for a factor.
    """
    generator = np.random.default_rng(scoring.seed)
    layers = {name: _Hop(chance(kernels(scoring.weight(name).double().abs()).sum(2).numpy()), scoring.groups(name))
              for name in scoring.mask}
    scores = {name: np.zeros(hop.shape) for name, hop in layers.items()}
    if not any(len(hop.open) for hop in layers.values()):
        raise UserError("no kernel of the ticket holds a weight; there is nothing to walk over")
    walks, most = 0, scoring.num_paths if scoring.key_nonzeros is None else MOST_PATHS
    while walks < most and (scoring.key_nonzeros is None or scoring.on_paths(scores) < scoring.key_nonzeros):
        count = min(WALKS_AT_ONCE, most - walks)
        channels = np.full(count, NOTHING)
        for position, (name, hop) in enumerate(layers.items()):
            if not len(hop.open):  # an empty layer: they start anew behind it
                channels = np.full(count, NOTHING)
                continue
            kernel, channels = hop.take(channels, generator)
            step = (walks + np.arange(count)) * len(layers) + position
            np.maximum.at(scores[name], kernel, 1 / (1 + step))
        walks += count
    return scoring.fill_up(scores, generator)


class _Hop:
    """The kernels of one layer, as a walker meets them. chance: float [out, in / groups], see `_walk`.

    open: int64, the channels that some kernel reads.
    """

    def __init__(self, chance: np.ndarray, groups: int):
        self.shape = chance.shape
        self.outputs, self.inputs = chance.shape[0] // groups, chance.shape[1]  # of one group
        # [channel, its group's outputs]: up to where in 0 to 1 a draw means this output
        upto = chance.reshape(groups, self.outputs, self.inputs).swapaxes(1, 2).reshape(-1, self.outputs).cumsum(1)
        self.open = np.flatnonzero(upto[:, -1])
        self.upto = upto / np.where(upto[:, -1:] > 0, upto[:, -1:], 1)

    def take(self, channels: np.ndarray, generator: np.random.Generator) -> tuple[tuple[np.ndarray, np.ndarray], np.ndarray]:
        """Draw a kernel for each walker. channels: int64, where they stand. Returns the kernels' indices, and the channels
        they lead to."""
        lost = ~np.isin(channels, self.open)
        channels = np.where(lost, generator.choice(self.open, len(channels)), channels)
        output = (self.upto[channels] <= generator.random(len(channels))[:, None]).sum(1)
        output += channels // self.inputs * self.outputs
        return (output, channels % self.inputs), output


def betweenness(scoring: Scoring) -> Scores:
    """Weighted edge betweenness of each kernel on the directed channel graph, distance 1 / strength: the number of pairs
    of channels whose shortest path runs through it (equally short paths share).

    Exact unless `betweenness_samples` is set; the computation is networkit's, the definition
    networkx.edge_betweenness_centrality's (not normalised).
    """
    graph, strengths = scoring.graph()
    edges = surviving_edges(graph, strengths)
    if len(np.unique(edges.source * graph.nodes + edges.target)) < len(edges.source):
        raise UserError(PARALLEL_EDGES)
    if scoring.betweenness_samples is None:
        if graph.nodes * len(edges.source) > LONG_SEARCH:  # networkit shows no progress
            print(f"betweenness: exact, {graph.nodes} searches over {len(edges.source)} kernels take minutes; "
                  "--betweenness_samples estimates it", flush=True)
        values = edge_betweenness(graph.nodes, edges)
    else:
        values = sampled_edge_betweenness(graph.nodes, edges, scoring.betweenness_samples, scoring.seed)
    return scoring.spread(per_kernel(graph, strengths, edges, values))


def edge_betweenness(nodes: int, edges: Edges) -> np.ndarray:
    """Exact betweenness of every edge, float64, by networkit on all cores."""
    import networkit

    order = np.lexsort((edges.target, edges.source))
    graph = networkit.GraphFromCoo((1 / edges.strength[order], (edges.source[order], edges.target[order])), n=nodes,
                                   weighted=True, directed=True)
    graph.indexEdges()  # numbers edges by source, those of one source as they were added: our sorted order
    scorer = networkit.centrality.Betweenness(graph, normalized=False, computeEdgeCentrality=True)
    values = np.empty(len(order))
    values[order] = scorer.run().edgeScores()
    return values


def sampled_edge_betweenness(nodes: int, edges: Edges, samples: int, seed: int) -> np.ndarray:
    """Betweenness of every edge estimated from the shortest paths of `samples` source nodes, drawn without
    replacement; unbiased, and exact (up to ties, of which one path gets all) with `samples` = `nodes`."""
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import dijkstra

    samples = min(samples, nodes)
    sources = np.random.default_rng(seed).choice(nodes, samples, replace=False)
    matrix = csr_array((1 / edges.strength, (edges.source, edges.target)), shape=(nodes, nodes))
    values = np.zeros(len(edges.source))
    ends = edges.source * nodes + edges.target
    order = np.argsort(ends)
    for source in tqdm(sources, desc="betweenness", unit="source", leave=False, disable=None):
        distance, before = dijkstra(matrix, indices=source, return_predecessors=True)
        reached = np.flatnonzero((before >= 0) & (np.arange(nodes) != source))
        edge = order[np.searchsorted(ends, before[reached].astype(np.int64) * nodes + reached, sorter=order)]
        # farthest first: each node passes on itself and all that came through it
        through = np.zeros(nodes)
        for position in np.argsort(-distance[reached], kind="stable"):
            node = reached[position]
            values[edge[position]] += 1 + through[node]
            through[before[node]] += 1 + through[node]
    return values * (nodes / samples)


def betweenness_published(scoring: Scoring) -> Scores:
    """Edge betweenness as the published code takes it: of the undirected graph of the mask's layers one after the other
    (no shortcuts, stem or classifier), all kernels its edges, pruned ones too, unweighted, from one channel in
    PUBLISHED_SOURCES, drawn at random.

    Neither weights nor mask have a part in it, only the layers' sizes and the draw; equal values go in random order.
    """
    import networkx

    # a channel's node: layers behind each other may differ in their numbers of channels (downsampling shortcuts)
    width = max(max(kept.shape[0], kept.shape[1] * scoring.groups(layer)) for layer, kept in scoring.mask.items())

    def ends(position: int, layer: str) -> list[tuple[int, int]]:
        outputs, inputs = scoring.mask[layer].shape[:2]
        per_group = outputs // scoring.groups(layer)
        return [(position * width + output // per_group * inputs + column, (position + 1) * width + output)
                for output in range(outputs) for column in range(inputs)]

    edges = {layer: ends(position, layer) for position, layer in enumerate(scoring.mask)}
    graph = networkx.Graph(edge for layer in edges.values() for edge in layer)
    between = networkx.edge_betweenness_centrality(graph, max(1, len(graph) // PUBLISHED_SOURCES), normalized=False,
                                                   seed=scoring.seed)
    between |= {edge[::-1]: value for edge, value in between.items()}
    # rounded: what differs by the order of summation only is equal
    values = np.round([between[edge] for layer in edges.values() for edge in layer], 6)
    generator = np.random.default_rng(scoring.seed)
    ranks = np.where(values > 0, np.unique(values, return_inverse=True)[1] + 1 + generator.random(len(values)), 0)
    parts = np.split(ranks, np.cumsum([len(layer) for layer in edges.values()])[:-1])
    return scoring.fill_up({layer: part.reshape(scoring.mask[layer].shape[:2]) for layer, part in zip(edges, parts)}, generator)


def taylor1_abs(scoring: Scoring) -> Scores:
    """First-order Taylor: |w * dL/dw|, L the cross-entropy of the scoring pictures."""
    return scoring.finish({name: (weight * gradient).abs() for name, weight, gradient in _gradients(scoring)})


def hessian_abs(scoring: Scoring) -> Scores:
    """Second-order Taylor: |w * (H w)|, H the Hessian of the same loss in the masked layers, exact by differentiating
    twice."""
    weights, products = _masked_weights(scoring), []
    for loss in _losses(scoring, weights):
        first = torch.autograd.grad(loss, list(weights.values()), create_graph=True)
        along = sum((gradient * weight.detach()).sum() for gradient, weight in zip(first, weights.values()))
        products.append(torch.autograd.grad(along, list(weights.values())))
    return scoring.finish({name: (weight.detach() * sum(parts)).abs().cpu()
                           for (name, weight), *parts in zip(weights.items(), *products)})


def intgrads(scoring: Scoring, steps: int = 20) -> Scores:
    """Integrated gradients: |w * integral of dL/dw (a w) da from 0 to 1|, by the midpoint rule with `steps` points."""
    total = {name: torch.zeros(kept.shape) for name, kept in scoring.mask.items()}
    for step in range(steps):
        for name, _, gradient in _gradients(scoring, (step + 0.5) / steps):
            total[name] += gradient / steps
    return scoring.finish({name: (scoring.weight(name) * gradient).abs() for name, gradient in total.items()})


def _masked_weights(scoring: Scoring, scale: float = 1.0) -> dict[str, torch.Tensor]:
    device = next(scoring.model.parameters()).device
    return {name: (scale * scoring.weight(name)).to(device).requires_grad_() for name in scoring.mask}


def _losses(scoring: Scoring, weights: dict[str, torch.Tensor]) -> Iterator[torch.Tensor]:
    """Parts that sum up to the mean cross-entropy of the scoring pictures under these weights, batch statistics as they are
    stored. Each part is of as many pictures as memory should take; it is to be differentiated before the next is asked for."""
    if scoring.pictures is None:
        raise UserError("this score needs pictures; give --dataset and --data")
    was_training = scoring.model.training
    scoring.model.eval()
    size = max(1, PART * 32**2 // max(32**2, scoring.pictures[0, 0].numel()))
    for pictures, labels in zip(scoring.pictures.split(size), scoring.labels.split(size)):
        logits = torch.func.functional_call(scoring.model, {f"{name}.weight": w for name, w in weights.items()}, (pictures,))
        yield F.cross_entropy(logits, labels) * (len(labels) / len(scoring.labels))
    scoring.model.train(was_training)


def _gradients(scoring: Scoring, scale: float = 1.0) -> list[tuple[str, torch.Tensor, torch.Tensor]]:
    """(layer, weight, dL/dweight at scale * weight) of all masked layers, on the CPU."""
    weights = _masked_weights(scoring, scale)
    parts = [torch.autograd.grad(loss, list(weights.values())) for loss in _losses(scoring, weights)]
    return [(name, scoring.weight(name), sum(gradients).cpu()) for name, *gradients in zip(weights, *parts)]


SCORES: dict[str, Callable[[Scoring], Scores]] = {
    "omp": omp,
    "random": random,
    "ewp": ewp,
    "ewp_sampled": ewp_sampled,
    "random_path": random_path,
    "betweenness": betweenness,
    "betweenness_published": betweenness_published,
    "taylor1_abs": taylor1_abs,
    "hessian_abs": hessian_abs,
    "intgrads": intgrads,
}

# scores that come from drawn paths; --num_paths alone gives the key all weights on the paths
PATH_SCORES: dict[str, Callable[[Scoring], Scores]] = {
    "ewp": ewp_sampled,
    "ewp_sampled": ewp_sampled,
    "random_path": random_path,
}

# scores of what walks step on, layer by layer (--select walks)
WALKS: dict[str, Callable[[Scoring], Scores]] = {
    "ewp": ewp_walks,
    "random_path": random_walks,
}
