"""How long the score functions of scheme V1 take, as ratios and bars in one run.

    python benchmarks/key_scores.py                 # about half a minute on 2 CPU cores

Betweenness against networkx.edge_betweenness_centrality on the same ResNet-20 ticket (26% random mask), exact betweenness
on ResNet-18 at 1.2% and 20%, the error of estimates from K sources, ewp and the other quick scores on ResNet-50 at 20%,
with the process's peak memory.
"""

import argparse
import csv
import resource
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import networkx
import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from models import build_model
from pruner.channel_graph import surviving_edges, to_networkx
from pruner.key_masks import split
from pruner.masks import Mask, prunable_layers
from pruner.scores import SCORES, Scoring, edge_betweenness


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--csv", default=None, metavar="FILE", help="write the rows there too")
    args = parser.parse_args()
    rows = []

    def report(what: str, value: float, unit: str, bar: str) -> None:
        rows.append({"what": what, "value": round(value, 3), "unit": unit, "bar": bar})
        print(f"{what:<62}{value:>10.3f} {unit:<8}{bar}", flush=True)

    scoring = random_ticket("res20s", 0.26)
    graph, strengths = scoring.graph()
    edges, joined = surviving_edges(graph, strengths), to_networkx(graph, strengths)
    ours, values = seconds(lambda: edge_betweenness(graph.nodes, edges), repeats=5)
    theirs, reference = seconds(lambda: networkx.edge_betweenness_centrality(joined, normalized=False, weight="distance"))
    expected = np.array([reference[pair] for pair in zip(edges.source.tolist(), edges.target.tolist())])
    report("betweenness, ResNet-20 at 26%: networkx / ours", theirs / ours, "times", "at least 50")
    report("... largest difference between the two, relative", np.abs(values - expected).max() / expected.max(), "",
           "at most 1e-9")

    for density in (0.012, 0.2):
        scoring = random_ticket("res18", density)
        report(f"betweenness, ResNet-18 at {100 * density:g}%, exact", seconds(lambda: SCORES["betweenness"](scoring))[0],
               "s", "at most 30")
    for arch, density in (("res20s", 0.26), ("res18", 0.012)):
        scoring = random_ticket(arch, density)
        exact = flat(SCORES["betweenness"](scoring), scoring.mask)
        key = flat(split(scoring.mask, SCORES["betweenness"](scoring), 0.05)[0], scoring.mask)
        for samples in (50, 100, 200):
            scoring = replace(scoring, betweenness_samples=samples)
            took, scores = seconds(lambda: SCORES["betweenness"](scoring))
            estimate = flat(scores, scoring.mask)
            report(f"--betweenness_samples {samples}, {arch} at {100 * density:g}%", took, "s", "")
            report("... mean error / mean score", np.abs(estimate - exact).mean() / exact.mean(), "", "")
            same = flat(split(scoring.mask, scores, 0.05)[0], scoring.mask)
            report("... share of the exact 5% key that is found", (same & key).sum() / key.sum(), "", "")
    scoring = random_ticket("res50", 0.2)
    for name in ("ewp", "omp", "random", "ewp_sampled", "random_path"):
        took, scores = seconds(lambda: SCORES[name](scoring), repeats=3)
        report(f"{name}, ResNet-50 at 20%", took, "s", "at most 2" if name == "ewp" else "")
        report("... and the split at 5%", seconds(lambda: split(scoring.mask, scores, 0.05))[0], "s", "")
    report("peak memory of all this", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, "GiB", "at most 4")

    if args.csv:
        with open(args.csv, "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)


if __name__ == "__main__":
    main()
