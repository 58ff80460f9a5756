"""What benchmarks/key_scores.py measures."""

import resource
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import networkx
import numpy as np
import torch

from models import build_model
from pruner.channel_graph import surviving_edges, to_networkx
from pruner.key_mask.split import split
from pruner.masks import Mask, prunable_layers
from pruner.key_mask.scores import SCORES, Scoring, edge_betweenness


def random_ticket(arch: str, density: float) -> Scoring:
    """An untrained network with a random mask."""
    torch.manual_seed(1)
    model = build_model(arch, 10)
    return Scoring(model, Mask({name: torch.rand(layer.weight.shape) < density
                                for name, layer in prunable_layers(model).items()}))


def flat(layers: Mapping[str, torch.Tensor], mask: Mask) -> np.ndarray:
    """What layers hold where the mask has weights, in one array."""
    return np.concatenate([layers[name][kept].numpy() for name, kept in mask.items()])


def seconds(work: Callable[[], object], repeats: int = 1) -> tuple[float, object]:
    """Median wall time of `work`, and what it returned."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        result = work()
        times.append(time.perf_counter() - start)
    return float(np.median(times)), result


def row(what: str, value: float, unit: str, bar: str) -> dict[str, Any]:
    return {"what": what, "value": float(value), "unit": unit, "bar": bar}


def measure() -> Iterator[dict[str, Any]]:
    """One row per number. bar: what it should be."""
    scoring = random_ticket("res20s", 0.26)
    graph, strengths = scoring.graph()
    edges, joined = surviving_edges(graph, strengths), to_networkx(graph, strengths)
    ours, values = seconds(lambda: edge_betweenness(graph.nodes, edges), repeats=5)
    theirs, reference = seconds(lambda: networkx.edge_betweenness_centrality(joined, normalized=False, weight="distance"))
    expected = np.array([reference[pair] for pair in zip(edges.source.tolist(), edges.target.tolist())])
    yield row("betweenness, ResNet-20 at 26%: networkx / ours", theirs / ours, "times", "at least 50")
    yield row("... largest difference between the two, relative", np.abs(values - expected).max() / expected.max(), "",
           "at most 1e-9")

    for density in (0.012, 0.2):
        scoring = random_ticket("res18", density)
        yield row(f"betweenness, ResNet-18 at {100 * density:g}%, exact", seconds(lambda: SCORES["betweenness"](scoring))[0],
               "s", "at most 30")
    for arch, density in (("res20s", 0.26), ("res18", 0.012)):
        scoring = random_ticket(arch, density)
        exact = flat(SCORES["betweenness"](scoring), scoring.mask)
        key = flat(split(scoring.mask, SCORES["betweenness"](scoring), 0.05)[0], scoring.mask)
        for samples in (50, 100, 200):
            scoring = replace(scoring, betweenness_samples=samples)
            took, scores = seconds(lambda: SCORES["betweenness"](scoring))
            estimate = flat(scores, scoring.mask)
            yield row(f"--betweenness_samples {samples}, {arch} at {100 * density:g}%", took, "s", "")
            yield row("... mean error / mean score", np.abs(estimate - exact).mean() / exact.mean(), "", "")
            same = flat(split(scoring.mask, scores, 0.05)[0], scoring.mask)
            yield row("... share of the exact 5% key that is found", (same & key).sum() / key.sum(), "", "")
    scoring = random_ticket("res50", 0.2)
    for name in ("ewp", "omp", "random", "ewp_sampled", "random_path"):
        took, scores = seconds(lambda: SCORES[name](scoring), repeats=3)
        yield row(f"{name}, ResNet-50 at 20%", took, "s", "at most 2" if name == "ewp" else "")
        yield row("... and the split at 5%", seconds(lambda: split(scoring.mask, scores, 0.05))[0], "s", "")
    yield row("peak memory of all this", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, "GiB", "at most 4")
