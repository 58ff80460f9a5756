"""Pictures of results: PNG files beside the CSV they come from."""

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from utils.checkpoint import write_atomic


def _figure(width: float, height: float, **subplots):
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure((width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(**subplots)


def _save(figure, path: str | Path) -> None:
    write_atomic(path, lambda file: figure.savefig(file, format="png", dpi=130))


def training_curve(history: Sequence[dict[str, float]], followed: Sequence[str], title: str, path: str | Path) -> None:
    """Accuracy and loss by epoch, a line for each of `followed`; `history` is what `metrics.csv` holds."""
    figure, (left, right) = _figure(9, 3.6, ncols=2)
    epochs = [row["epoch"] for row in history]
    for split in followed:
        left.plot(epochs, [row[f"{split}_acc"] for row in history], label=split)
        right.plot(epochs, [row[f"{split}_loss"] for row in history], label=split)
    left.set(xlabel="epoch", ylabel="accuracy, %", title=title)
    right.set(xlabel="epoch", ylabel="cross-entropy")
    left.legend()
    for axes in (left, right):
        axes.grid(alpha=0.3)
    _save(figure, path)


LEAST_RANGE = 5  # points of accuracy that are shown at least, so that what a few pictures make does not look like an effect


def accuracy_by_density(densities: Sequence[float], accuracies: Sequence[float], accepted: Sequence[bool],
                        dense_accuracy: float, tolerance: float | None, pictures: int, title: str, path: str | Path) -> None:
    """Test accuracy of every round against its density in percent; undone rounds are drawn hollow. pictures: how many the
    accuracies are of, for the dense one's standard error."""
    figure, axes = _figure(5.5, 3.8)
    kept = [(d, a) for d, a, ok in zip(densities, accuracies, accepted) if ok]
    undone = [(d, a) for d, a, ok in zip(densities, accuracies, accepted) if not ok]
    axes.plot(*zip(*kept), "o-", label="ticket")
    if undone:
        axes.plot(*zip(*undone), "o", mfc="none", color="tab:red", label="undone")
    axes.axhline(dense_accuracy, color="grey", lw=1, label="dense")
    error = (dense_accuracy * (100 - dense_accuracy) / pictures) ** 0.5
    axes.axhspan(dense_accuracy - error, dense_accuracy + error, color="grey", alpha=0.2, lw=0,
                 label=f"+- 1 standard error of {pictures} pictures")
    if tolerance is not None:
        axes.axhline(dense_accuracy - tolerance, color="grey", lw=1, ls=":", label="matching")
    axes.set(xscale="log", xlabel="remaining weights, %", ylabel="test accuracy, %", title=title)
    low, high = axes.get_ylim()
    axes.set_ylim(min(low, high - LEAST_RANGE), high + 0.05 * LEAST_RANGE)
    axes.set_xlim(1.1 * max(densities), 0.9 * min(densities))
    axes.minorticks_off()
    ticks = [tick for tick in (100, 80, 60, 40, 30, 20, 10, 6, 4, 3, 2, 1, 0.5, 0.2, 0.1) if tick >= 0.9 * min(densities)]
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.grid(alpha=0.3)
    axes.legend()
    _save(figure, path)


def mask_before_and_after(before: np.ndarray, after: np.ndarray, layer: str, region: tuple[int, int, int],
                          path: str | Path) -> None:
    """A layer's mask before and after embedding, as the paper's Figure 1.

    Args:
        before, after: int [out, in], weights that are there in each kernel.
        region: start_x, start_y and size of the code's window, which is framed.
    """
    from matplotlib.patches import Rectangle

    figure, panels = _figure(9, 4.4, ncols=2)
    start_x, start_y, size = region
    for axes, counts, title in zip(panels, (before, after), ("before signing", "after signing")):
        image = axes.imshow(counts, cmap="Greys", vmin=0, vmax=max(1, before.max(), after.max()), interpolation="none")
        axes.add_patch(Rectangle((start_y - 0.5, start_x - 0.5), size, size, fill=False, color="tab:red", lw=1.2))
        axes.set(title=f"{layer}, {title}", xlabel="input channel", ylabel="output channel")
    figure.colorbar(image, ax=list(panels), label="weights in the kernel", shrink=0.8)
    _save(figure, path)


def accuracy_by_key_ratio(rows: Sequence[Mapping[str, Any]], path: str | Path) -> None:
    """Test accuracy against the key's share of the ticket, as the paper's Figures 2 and 5.

    Args:
        rows: with `split`, `key_ratio` (0 for the whole ticket), `forged`, `test_acc` (percent) and `std` (or None);
            one line per split with a marker of its own, solid without the key, dashed and hollow with a forged one.
    """
    figure, axes = _figure(7.5, 4)
    lines: dict[tuple[bool, str], list[Mapping[str, Any]]] = {}
    for row in rows:
        if row["key_ratio"]:
            lines.setdefault((row["forged"], row["split"]), []).append(row)
        else:
            axes.axhline(row["test_acc"], color="grey", lw=1, label=row["split"])
    splits = sorted({split for _, split in lines})
    colours = {split: f"C{index}" for index, split in enumerate(splits)}
    markers = {split: "osD^v<>P*hX"[index % 11] for index, split in enumerate(splits)}  # told apart in grey, too
    for (forged, split), points in sorted(lines.items()):
        points = sorted(points, key=lambda row: row["key_ratio"])
        spreads = [row["std"] for row in points]
        axes.errorbar([100 * row["key_ratio"] for row in points], [row["test_acc"] for row in points],
                      None if None in spreads else spreads, fmt=markers[split] + ("--" if forged else "-"), color=colours[split],
                      mfc="none" if forged else None, capsize=2, label=f"{split}, forged key" if forged else split)
    axes.set(xlabel="key, % of the ticket's weights", ylabel="test accuracy, %")
    axes.set_xticks(sorted({100 * row["key_ratio"] for row in rows if row["key_ratio"]}))
    low, high = axes.get_ylim()
    axes.set_ylim(min(low, high - LEAST_RANGE), high)
    axes.grid(alpha=0.3)
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)  # eight lines leave no free corner
    _save(figure, path)


def accuracy_by_level(levels: Sequence[float], accuracies: Mapping[str, Sequence[float]], read: Sequence[bool | None], title: str,
                      xlabel: str, path: str | Path) -> None:
    """Accuracy in percent against the level of an attack, in rising order; one line for each of `accuracies`, split -> one per
    level. read: whether the code is still read there, which fills the markers; None where there is no code to read."""
    figure, axes = _figure(6.5, 4.2)
    for colour, (name, values) in zip(itertools.cycle(("C0", "C1", "C2", "C4")), accuracies.items()):
        axes.plot([100 * level for level in levels], values, "-", color=colour, label=name)
        for able, fill in ((False, "white"), (True, None), (None, None)):
            shown = [index for index in range(len(levels)) if read[index] is able]
            axes.plot([100 * levels[index] for index in shown], [values[index] for index in shown], "o", color=colour, mfc=fill)
    if any(able is not None for able in read):
        axes.plot([], [], "o", color="grey", label="code read")
        axes.plot([], [], "o", color="grey", mfc="white", label="code not read")
    axes.set(xlabel=xlabel, ylabel="accuracy, %", ylim=(0, 102))
    axes.set_title(title, fontsize=9)
    axes.grid(alpha=0.3)
    axes.legend(loc="lower left")
    _save(figure, path)


def row_of_pictures(pictures: Sequence[str | Path], titles: Sequence[str], path: str | Path) -> None:
    """Pictures side by side with their titles, as the codes of the paper's Figures 3, 4 and 6."""
    from PIL import Image

    height = 1.75 + 0.17 * max(title.count("\n") + 1 for title in titles)
    figure, panels = _figure(1.7 * len(pictures), height, ncols=len(pictures), squeeze=False)
    for axes, picture, title in zip(panels[0], pictures, titles):
        axes.imshow(Image.open(picture), cmap="gray", vmin=0, vmax=255)
        axes.set_title(title, fontsize=9)
        axes.axis("off")
    _save(figure, path)


def clouds(points: np.ndarray, labels: Sequence[str], predictions: Sequence[str], path: str | Path) -> None:
    """Point clouds [N, P, 3], up to eight, each under its label; under a wrong prediction too, which is red."""
    figure, panels = _figure(9, 5, nrows=2, ncols=4, subplot_kw={"projection": "3d"})
    for axes in panels.flat:
        axes.axis("off")
    for axes, cloud, label, prediction in zip(panels.flat, points, labels, predictions):
        axes.scatter(*cloud.T, s=3, c=cloud[:, 2])
        axes.set_aspect("equal")
        axes.set_title(label if label == prediction else f"{label}, called {prediction}", fontsize=9,
                       color="black" if label == prediction else "tab:red")
    _save(figure, path)
