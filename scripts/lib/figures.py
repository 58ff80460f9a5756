"""The paper's figures: each function writes PNGs with their CSVs into `out`, and returns the PNGs by cell."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from models import ARCHITECTURES
from scripts.lib.sweep_results import Sweep, measured, percent, split_of
from utils.errors import UserError
from utils.results import READ_BY, who_reads

PAPERS_DATA = ("cifar10", "cifar100")


def figure1(sweep: Sweep, out: Path) -> dict[str, Path]:
    """Weights per kernel of the signed layer, before and after signing, of each cell's first seed."""
    from models import build_model
    from ownership.qr_code.claim import read_claim
    from pruner import tickets
    from pruner.masks import weights_per_kernel
    from utils import plots

    made = {}
    for cell in sweep.cells("ticket"):
        signed = next((path for seed in sweep.seeds(cell) for path in sorted(seed.glob("signed/*.claim.json"))), None)
        if signed is None:
            continue
        network = cell.split("/")[0]
        if network not in ARCHITECTURES:
            raise UserError(f"--runs {sweep.folder}: {signed.parent} is of a network that models/__init__.py does not have; "
                            "enter it there, or move the folder away")
        claim, model = sweep.read(read_claim, signed), build_model(network, num_classes=2)
        files = (signed.parent.parent / "ticket/ticket.pth.tar",
                 signed.with_name(signed.name.replace(".claim.json", ".weight_mask.pth.tar")))
        before, after = (weights_per_kernel(
            sweep.read(lambda path: tickets.read_model_file(path, model, head=False).need_mask("--runs", model), file)[claim.layer])
            for file in files)
        png = figure_file(out, "fig1", cell)
        plots.mask_before_and_after(before, after, claim.layer, (claim.start_x, claim.start_y, claim.code_format.size), png)
        write_csv(png, [{"output channel": row, "input channel": column, "before": int(before[row, column]),
                         "after": int(after[row, column])} for row, column in zip(*map(list, indices(before.shape)))])
        made[cell] = png
    return made


def indices(shape: tuple[int, int]):
    """Row and column numbers of a matrix, row by row."""
    import numpy as np

    return (part.ravel().tolist() for part in np.indices(shape))


def key_figure(name: str, stages: Mapping[str, bool]) -> Callable[[Sweep, Path], dict[str, Path]]:
    """Figure 2 or 5: accuracy by the key's share, one picture per cell. stages: of which folders, whether forged."""

    def draw(sweep: Sweep, out: Path) -> dict[str, Path]:
        from utils import plots

        made = {}
        for cell in sweep.cells(f"{list(stages)[-1]}/*"):
            rows = [curve_point("whole ticket", 0.0, False, sweep.results(cell, "whole"))]
            for stage, forged in stages.items():
                splits = {split_of(folder.name) for seed in sweep.seeds(cell) for folder in seed.glob(f"{stage}/*")} - {None}
                rows += [curve_point(score, float(ratio), forged, sweep.results(cell, f"{stage}/{score}_{ratio}"))
                         for score, ratio in sorted(splits)]
            rows = [row for row in rows if row["n"]]
            if all(row["key_ratio"] == 0 for row in rows):
                continue
            png = figure_file(out, name, cell)
            plots.accuracy_by_key_ratio(rows, png)
            write_csv(png, rows)
            made[cell] = png
        return made

    return draw


def curve_point(split: str, ratio: float, forged: bool, results: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """A point of Figures 2 and 5."""
    values = measured(results, "test_acc")
    return {"split": split, "key_ratio": ratio, "forged": forged, "n": len(values),
            "test_acc": statistics.mean(values) if values else None,
            "std": statistics.stdev(values) if len(values) > 1 else None}


def code_figure(name: str, stage: str, takes: Callable[[str, str], bool] = lambda network, dataset: True):
    """Figure 3, 4 or 6: codes as extracted at each level. takes: whether a network and data set are in this figure."""

    def draw(sweep: Sweep, out: Path) -> dict[str, Path]:
        from datasets.decoding import read_rgb
        from utils import plots
        from utils.run_dir import AttackFiles

        made = {}
        for cell in filter(lambda cell: takes(*cell.split("/")), sweep.cells(f"{stage}/level_*")):
            found = [{level: AttackFiles(seed / stage).level(level) for level in AttackFiles(seed / stage).levels()}
                     for seed in sweep.seeds(cell)]
            pictures = next((levels for levels in found if any(files.code.exists() for files in levels.values())), None)
            if pictures is None:  # attacked without a claim
                continue
            for files in pictures.values():
                sweep.read(read_rgb, files.code)
            titles = [f"{percent(level)}\n{who_reads(sweep.result(files.result))}" for level, files in pictures.items()]
            png = figure_file(out, name, cell)
            plots.row_of_pictures([files.code for files in pictures.values()], titles, png)
            keys = ("seed", "level", "test_acc", "code_lost", "code_ones", "code_added", "code_zeros", "p_corrected")
            results = [one for level in sweep.levels(cell, stage) for one in sweep.at_level(cell, stage, level).values()]
            write_csv(png, [{key: one.get(key) for key in keys} | {key: value for key, value in one.items()
                                                                   if key.startswith(READ_BY)} for one in results])
            made[cell] = png
        return made

    return draw


def figure_file(out: Path, name: str, cell: str) -> Path:
    return out / f"{name}_{cell.replace('/', '_')}.png"


def write_csv(beside: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    from utils import checkpoint

    checkpoint.save_csv(rows, list(dict.fromkeys(column for row in rows for column in row)), beside.with_suffix(".csv"))


def all_cells_but(network: str) -> Callable[[str, str], bool]:
    """Takes all cells, but for a network on the paper's data sets."""
    return lambda other, dataset: other != network or dataset not in PAPERS_DATA


# a network of the paper is in its own figure, any other sweep in both
FIGURES: dict[str, tuple[str, Callable[[Sweep, Path], dict[str, Path]]]] = {
    "fig1": ("Figure 1: weights per kernel before and after signing", figure1),
    "fig2": ("Figure 2: tickets retrained without their keys (scheme V1)", key_figure("fig2", {"locked": False})),
    "fig3": ("Figure 3: codes of ResNet-20 under magnitude pruning",
             code_figure("fig3", "pruned_magnitude", all_cells_but("res18"))),
    "fig4": ("Figure 4: codes of ResNet-18 under magnitude pruning",
             code_figure("fig4", "pruned_magnitude", all_cells_but("res20s"))),
    "fig5": ("Figure 5: locked tickets without and with a random key (fake1)",
             key_figure("fig5", {"locked": False, "forged": True})),
    "fig6": ("Figure 6: codes under add-on attacks", code_figure("fig6", "added")),
}
