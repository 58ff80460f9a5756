r"""The paper's tables and figures from a sweep's run directories, its numbers beside ours: Markdown, CSV, PNG.

    python scripts/make_tables.py --runs runs/smoke --out runs/smoke/tables            # all, and results.md
    python scripts/make_tables.py --runs runs/paper --out runs/paper/tables --only table6

Ours are means over the seeds that were run, +- their standard deviation (of a sample, n - 1), with n; the difference is
ours minus the paper's, in points. A cell that nobody ran stays empty, and so does one that the paper does not have. The
folders are those of scripts/lib/stages.sh: RUNS/NETWORK/DATASET/seedN/STAGE. Takes seconds.
"""

import json
import re
import statistics
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

if __name__ == "__main__":  # a fault before main() must not end with 1, which is a verdict
    sys.excepthook = lambda *fault: os._exit(sys.__excepthook__(*fault) or 3)
    import utils  # noqa: F401  refuses a Python that is too old

from datasets import DATASETS
from models import ARCHITECTURES
from utils import cli
from utils.errors import UserError

PAPER = Path(__file__).with_name("paper_numbers.json")
PAPERS_DATA = ("cifar10", "cifar100")
READ_BY, SOFT = "read by ", "ordered statistics"
NUMBERS = ("dense_acc", "ticket_acc", "test_acc", "trigger_acc", "density")  # columns of results
SESSION = ("git", "torch", "machine")  # of a run.json
NOTE = ("Ours are means over the seeds that were run, +- their standard deviation where there are several, with their number "
        "n; differences are ours minus the paper's, in points. Nobody ran what is empty, or the paper does not have it.")
SEED = re.compile("seed(0|[1-9][0-9]*)")  # a backup beside it is none
# how own tables and figures begin, in the folder of tables
TABLE_BEGINS, FIGURE_DATA_BEGINS = rb"(\| )?(network|model|score|attack)\b", rb"(output channel|split|seed)\b"
MATCHES_WITHIN = 1.0  # points of accuracy (paper, section 3.1)


def parse_args(argv: Sequence[str] | None):
    parser = cli.ArgumentParser(__doc__)
    parser.add_argument("--runs", type=cli.path, required=True, metavar="DIR", help="the sweep, e.g. runs/smoke")
    writes = {"results.md": rb"# Results in ", **{f"{name}.{ending}": TABLE_BEGINS for name in TABLES for ending in ("csv", "md")},
              **{f"{name}_*.csv": FIGURE_DATA_BEGINS for name in FIGURES}, **{f"{name}_*.png": cli.PNG_OF_A_PLOT for name in FIGURES}}
    parser.add_argument("--out", type=cli.Output(files=writes), required=True, metavar="DIR", help="where tables and figures go")
    parser.add_argument("--only", choices=("all", *TABLES, *FIGURES), default="all", help="one table or figure")
    return parser.parse_args(argv)


# --- what was run -----------------------------------------------------------------------------------------------------


def fits(column: str, value: Any) -> bool:
    """Whether a column of a result.json can hold this; any value will do where no table takes it."""
    if column in NUMBERS:  # None: not measured
        return value is None or type(value) in (int, float)
    if column == "rounds_per_rate":
        return isinstance(value, list) and all(type(number) is int for number in value)
    return not column.startswith(READ_BY) or isinstance(value, bool)


class Sweep:
    """Results in a sweep's folders. Folders that are named in another way than the stages name theirs are left out."""

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)

    def seeds(self, cell: str = "*/*") -> list[Path]:
        """Folders of a cell (NETWORK/DATASET), or of all, one per seed, in the order of their numbers."""
        found = [(int(named[1]), path) for path in self.folder.glob(f"{cell}/seed*")
                 if (named := SEED.fullmatch(path.name)) and path.is_dir()]
        return [path for _, path in sorted(found)]

    def mend(self, path: Path) -> str:
        """What makes the sweep write a file of a stage again."""
        stage = path.parent.parent if path.parent.name.startswith("level_") else path.parent
        record = self.folder / "logs" / f"{stage.relative_to(self.folder)}.json"  # of the launcher, that the command is done
        found = [*(["it"] if path.exists() else []), *([str(record)] if record.exists() else [])]
        removed = f"remove {' and '.join(found)}, and " if found else ""
        return f"{removed}the same sweep makes it anew"

    def result(self, path: Path) -> Mapping[str, Any]:
        """A result.json. Raises UserError, also where a damaged column is asked for, with what makes the sweep write it again."""
        from utils.results import Result

        return Result(path, fits, self.mend(path))

    def read(self, read: Callable[[Path], Any], path: Path) -> Any:
        """What `read` makes of another file of a stage. Raises its UserError, with what makes the sweep write it again."""
        try:
            return read(path)
        except UserError as error:
            raise UserError(f"{error}; {self.mend(path)}") from None

    def by_seed(self, cell: str, stage: str) -> dict[str, Mapping[str, Any]]:
        """What a stage found, by the names of the seeds' folders; seeds that have not finished it are missing."""
        return {seed.name: self.result(path) for seed in self.seeds(cell)
                if (path := seed / stage / "result.json").exists()}

    def results(self, cell: str, stage: str) -> list[Mapping[str, Any]]:
        """What a stage found, one dict per seed that has finished it."""
        return list(self.by_seed(cell, stage).values())

    def levels(self, cell: str, stage: str) -> list[float]:
        """Levels of a sweep of attacks that were run for any seed."""
        from utils.run_dir import AttackFiles

        return sorted({level for seed in self.seeds(cell) for level in AttackFiles(seed / stage).levels()})

    def at_level(self, cell: str, stage: str, level: float) -> dict[str, Mapping[str, Any]]:
        """Like `by_seed`, of one level of a sweep of attacks."""
        from utils.run_dir import AttackFiles

        return self.by_seed(cell, str(AttackFiles(stage).level(level).folder))

    def cells(self, stage: str, published: Iterable[str] = ()) -> list[str]:
        """The paper's cells, then the others for which the stage was run."""
        found = {self.cell_of(seed) for seed in self.seeds() if any(seed.glob(f"{stage}/result.json"))}
        theirs = [cell for cell in published if "/" in cell]
        return [*theirs, *sorted(found - set(theirs))]

    def cell_of(self, seed: Path) -> str:
        """The cell (NETWORK/DATASET) of a seed's folder."""
        return "/".join(seed.relative_to(self.folder).parts[:2])


def split_of(folder: str) -> tuple[str, str] | None:
    """(score, key ratio) in the name of a locked ticket's folder; None for other names."""
    score, _, ratio = folder.rpartition("_")
    return (score, ratio) if score and numeral(ratio) else None


def numeral(text: str) -> str | None:
    """The text, if it is a number as Python writes it, 0 or more."""
    return text if re.fullmatch(r"[0-9]*\.?[0-9]+(e[-+]?[0-9]+)?", text, re.ASCII) else None


# --- tables -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Measure:
    """One column of numbers (`digits` behind the point, `unit` after them) or, without `digits`, of words."""

    name: str
    digits: int | None = 2
    unit: str = "%"


@dataclass
class Table:
    """A table of the paper. rows: labels, and for each measure the paper's value (or None) and ours, one per seed."""

    title: str
    labels: tuple[str, ...]
    measures: tuple[Measure, ...]
    rows: list[tuple[tuple[str, ...], list[tuple[Any, list]]]] = field(default_factory=list)

    def add(self, labels: Sequence[str], *values: tuple[Any, list]) -> None:
        self.rows.append((tuple(labels), list(values)))

    def columns(self, texts: bool) -> list[dict[str, Any]]:
        """Rows as columns -> values: texts as they are shown, or numbers as they are."""
        return [dict(zip(self.labels, labels)) | {
            column: value for measure, (theirs, ours) in zip(self.measures, values)
            for column, value in (shown if texts else raw)(measure, theirs, ours).items()} for labels, values in self.rows]

    def markdown(self) -> str:
        """As it is shown: without the paper's numbers and differences of what the paper does not have."""
        rows = self.columns(texts=True)
        always = (*self.labels, *(measure.name for measure in self.measures))
        columns = [column for column in (rows[0] if rows else self.labels)
                   if column in always or any(row[column] for row in rows)]
        return "\n".join("| " + " | ".join(cells) + " |" for cells in (
            columns, ["---"] * len(columns), *([row[column] for column in columns] for row in rows)))


def raw(measure: Measure, theirs: Any, ours: list) -> dict[str, Any]:
    """Columns of the CSV; None where there is nothing."""
    if measure.digits is None:
        return {f"{measure.name}, paper": theirs, measure.name: "; ".join(map(str, ours)) or None,
                f"{measure.name}, n": len(ours)}
    mean = statistics.mean(ours) if ours else None
    return {f"{measure.name}, paper": theirs, f"{measure.name}, mean": mean,
            f"{measure.name}, std": statistics.stdev(ours) if len(ours) > 1 else None, f"{measure.name}, n": len(ours),
            f"{measure.name}, difference": None if None in (mean, theirs) else mean - theirs}


def shown(measure: Measure, theirs: Any, ours: list) -> dict[str, str]:
    """Columns of the Markdown."""
    if measure.digits is None:
        words = sorted(set(ours)) if len(set(ours)) < 2 else ours
        return {f"{measure.name}, paper": theirs or "", measure.name: ", ".join(words) + count(ours)}

    def number(value: float, sign: str = "") -> str:
        return f"{value:{sign}.{measure.digits}f}"

    found = raw(measure, theirs, ours)
    mean, std, difference = (found[f"{measure.name}, {what}"] for what in ("mean", "std", "difference"))
    return {f"{measure.name}, paper": "" if theirs is None else number(theirs) + measure.unit,
            measure.name: "" if mean is None else
            number(mean) + ("" if std is None else f" +- {number(std)}") + measure.unit + count(ours),
            f"{measure.name}, difference": "" if difference is None else number(difference, "+")}


def count(ours: list) -> str:
    return f" (n {len(ours)})" if ours else ""


def of(results: Iterable[Mapping[str, Any]], column: str, factor: float = 1) -> list[float]:
    """A column's numbers, without those that were not measured. Raises UserError where a result lacks the column."""
    return [factor * value for result in results if (value := result[column]) is not None]


def of_triggers(results: Iterable[Mapping[str, Any]]) -> list[float]:
    """Trigger accuracies of those that were asked for triggers."""
    return of((result for result in results if "trigger_acc" in result), "trigger_acc")


def drop(before: Mapping[str, Any], after: Mapping[str, Any], column: str = "test_acc") -> float | None:
    """Points of accuracy lost from a column of one to the test accuracy of the other; None where one was not measured."""
    found = before[column], after["test_acc"]
    return None if None in found else found[0] - found[1]


def named(cell: str) -> tuple[str, str]:
    """Network and data set as their registries call them, the paper's as the paper does."""
    network, dataset = cell.split("/")
    return titled(ARCHITECTURES, network), titled(DATASETS, dataset)


def titled(registry: Mapping[str, Any], name: str) -> str:
    """What a registry calls an entry; of others the name."""
    return registry[name].title if name in registry else name


def percent(share: float) -> str:
    return f"{100 * share:g}%"


ACCURACY, TRIGGERS = Measure("accuracy"), Measure("triggers right", 1)


def table1(sweep: Sweep, paper: Mapping[str, Any]) -> Table:
    table = Table("Table 1: dense networks and winning tickets", ("network", "data"), (
        Measure("dense accuracy"), Measure("ticket accuracy"), Measure("remaining", 3), Measure("rounds at each rate", None)))
    for cell in sweep.cells("ticket", paper):
        theirs, ours = paper.get(cell, {}), sweep.results(cell, "ticket")
        table.add(named(cell), (theirs.get("dense_acc"), of(ours, "dense_acc")),
                  (theirs.get("ticket_acc"), of(ours, "ticket_acc")), (theirs.get("remaining"), of(ours, "density", 100)),
                  (in_brackets(theirs["rounds"]) if theirs else None, [in_brackets(one["rounds_per_rate"]) for one in ours]))
    return table


def in_brackets(numbers: Iterable[int]) -> str:
    return f"({','.join(map(str, numbers))})"


def table2(sweep: Sweep, paper: Mapping[str, Any]) -> Table:
    table = Table("Table 2: tickets with a signature in their masks (scheme V2)", ("network", "data"),
                  (ACCURACY, Measure("drop from the ticket", unit="")))
    for cell in sweep.cells("signed_trained", paper):
        theirs, tickets, signed = paper.get(cell, {}), sweep.by_seed(cell, "ticket"), sweep.by_seed(cell, "signed_trained")
        drops = [drop(tickets[seed], one, "ticket_acc") for seed, one in signed.items() if seed in tickets]
        table.add(named(cell), (theirs.get("test_acc"), of(signed.values(), "test_acc")),
                  (theirs.get("drop"), [points for points in drops if points is not None]))
    return table


def table3(sweep: Sweep, paper: Mapping[str, Any]) -> Table:
    table = Table("Table 3: the task and the trigger set (scheme V3)", ("model", "network", "data"), (ACCURACY, TRIGGERS))
    for model, stage in (("ticket", "asked"), ("signed, triggers", "triggered")):
        for cell in sweep.cells(stage, paper):
            theirs, ours = paper.get(cell, {}).get(model, {}), sweep.results(cell, stage)
            table.add((model, *named(cell)), (theirs.get("test_acc"), of(ours, "test_acc")),
                      (theirs.get("trigger_acc"), of_triggers(ours)))
    return table


def table4(sweep: Sweep, paper: Mapping[str, Any]) -> Table:
    table = Table("Table 4: locked tickets on other pictures (fine-tuning attack on scheme V1)",
                  ("score", "key", "network", "from", "to"), (ACCURACY,))
    found = {(sweep.cell_of(seed), result.parts[-3].removeprefix("transferred_"), *split)
             for seed in sweep.seeds() for result in seed.glob("transferred_*/*/result.json")
             if (split := split_of(result.parent.name))}
    published = [(*transfer.split(":"), score, f"{paper['key_ratio']:g}")
                 for transfer, scores in paper.items() if ":" in transfer for score in scores]
    for cell, to, score, ratio in [*published, *sorted(found - set(published))]:
        theirs = paper.get(f"{cell}:{to}", {}).get(score, {}) if float(ratio) == paper["key_ratio"] else {}
        network, data = named(cell)
        table.add((score, percent(float(ratio)), network, data, titled(DATASETS, to)),
                  (theirs.get("test_acc"), of(sweep.results(cell, f"transferred_{to}/{score}_{ratio}"), "test_acc")))
    return table


def table5(sweep: Sweep, paper: Mapping[str, Any]) -> Table:
    table = Table("Table 5: pruning a ticket that knows triggers (scheme V3)", ("network", "data", "pruned"),
                  (ACCURACY, TRIGGERS))
    for cell in sweep.cells("triggered_pruned/level_*", paper):
        for level, theirs, ours in by_level(sweep, cell, "triggered_pruned", paper.get(cell, {})):
            table.add((*named(cell), percent(level)), (theirs.get("test_acc"), of(ours, "test_acc")),
                      (theirs.get("trigger_acc"), of_triggers(ours)))
    return table


def by_level(sweep: Sweep, cell: str, stage: str, published: Mapping[str, Any]):
    """(level, the paper's numbers, our results) for every level that the paper has or that was run."""
    for level in sorted({*sweep.levels(cell, stage), *map(float, published)}):
        yield level, published.get(f"{level:g}", {}), list(sweep.at_level(cell, stage, level).values())


def table6(sweep: Sweep, paper: Mapping[str, Any]) -> Table:
    table = Table("Table 6: pruning a signed ticket (scheme V2)", ("network", "data", "method", "pruned"), (ACCURACY,))
    for how in ("magnitude", "random"):
        for cell in sweep.cells(f"pruned_{how}/level_*", paper):
            for level, theirs, ours in by_level(sweep, cell, f"pruned_{how}", paper.get(cell, {}).get(f"prune {how}", {})):
                table.add((*named(cell), how, percent(level)), (theirs.get("test_acc"), of(ours, "test_acc")))
    return table


def table8(sweep: Sweep, paper: Mapping[str, Any]) -> Table:
    table = Table("Table 8: noise weights in a signed ticket (add-on attacks)", ("network", "data", "added"), (
        ACCURACY, Measure("remaining", 3), Measure("decodable", None), Measure(f"decodable by {SOFT}", None),
        Measure("match", None)))
    for cell in sweep.cells("added/level_*", paper):
        whole = sweep.at_level(cell, "added", 0)
        for level, theirs, ours in by_level(sweep, cell, "added", paper.get(cell, {})):
            drops = [drop(whole[seed], one) for seed, one in sweep.at_level(cell, "added", level).items() if seed in whole]
            table.add((*named(cell), percent(level)), (theirs.get("test_acc"), of(ours, "test_acc")),
                      (theirs.get("remaining"), of(ours, "density", 100)),
                      (yes(theirs.get("read")), [yes(is_read(one)) for one in ours if READ_BY + SOFT in one]),
                      (None, [yes(one[READ_BY + SOFT]) for one in ours if READ_BY + SOFT in one]),
                      (yes(theirs.get("match")), [yes(points <= MATCHES_WITHIN) for points in drops if points is not None]))
    return table


def is_read(result: Mapping[str, Any]) -> bool:
    """Whether a reader of QR codes as such, ZXing or zbar, reads the signature."""
    return any(result[column] for column in result if column.startswith(READ_BY) and column != READ_BY + SOFT)


def yes(value: bool | None) -> str | None:
    return None if value is None else "yes" if value else "no"


def text_numbers(sweep: Sweep, paper: Mapping[str, Any]) -> Table:
    table = Table("Numbers in the text: fine-tuning attacks on scheme V3, another code over the signature's (fake3)",
                  ("attack", "network", "from", "to"),
                  (Measure("accuracy before"), ACCURACY, TRIGGERS, Measure("signature read", None)))
    for attack, stage, attacked in ATTACKS_IN_THE_TEXT:
        found = {(cell := sweep.cell_of(seed), result.parts[-2] if stage.endswith("*") else cell.split("/")[1])
                 for seed in sweep.seeds() for result in seed.glob(f"{stage}/result.json")}
        published = [tuple(transfer.split(":")) for transfer, attacks in paper.items() if ":" in transfer and attack in attacks]
        for cell, to in [*published, *sorted(found - set(published))]:
            theirs, ours = paper.get(f"{cell}:{to}", {}).get(attack, {}), sweep.by_seed(cell, stage.replace("*", to))
            before = sweep.by_seed(cell, attacked)
            table.add((attack, *named(cell), titled(DATASETS, to)),
                      (theirs.get("before"), of((before[seed] for seed in ours if seed in before), "test_acc")),
                      (theirs.get("test_acc"), of(ours.values(), "test_acc")), (None, of_triggers(ours.values())),
                      (None, [yes(is_read(one) or one[READ_BY + SOFT]) for one in ours.values() if READ_BY + SOFT in one]))
    return table


# what the table calls it, folders of its runs (* for the other pictures), of the runs that are attacked
ATTACKS_IN_THE_TEXT = (("fine-tuned", "tuned/*", "triggered"), ("fine-tuned, mask free", "tuned_free_mask/*", "triggered"),
                       ("fake3", "replaced", "signed_trained"), ("fake3, insider", "replaced_insider", "signed_trained"))

TABLES: dict[str, Callable[[Sweep, Mapping[str, Any]], Table]] = {
    "table1": table1, "table2": table2, "table3": table3, "table4": table4, "table5": table5, "table6": table6,
    "table8": table8, "text_numbers": text_numbers}


# --- figures: each writes PNGs with their CSVs into `out`, and returns the PNGs by cell ------------------------------------


def figure1(sweep: Sweep, out: Path) -> dict[str, Path]:
    """Weights per kernel of the signed layer, before and after signing, of each cell's first seed."""
    from models import build_model
    from ownership.qr_code.claim import read_claim
    from pruner import tickets
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
        before, after = (
            sweep.read(lambda path: tickets.read_model_file(path, model, head=False).need_mask("--runs", model), file)
            [claim.layer].flatten(2).sum(2).numpy() for file in files)
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
            rows = [summary("whole ticket", 0.0, False, sweep.results(cell, "whole"))]
            for stage, forged in stages.items():
                splits = {split_of(folder.name) for seed in sweep.seeds(cell) for folder in seed.glob(f"{stage}/*")} - {None}
                rows += [summary(score, float(ratio), forged, sweep.results(cell, f"{stage}/{score}_{ratio}"))
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


def summary(split: str, ratio: float, forged: bool, results: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """A point of Figures 2 and 5."""
    values = of(results, "test_acc")
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
            titles = [f"{percent(level)}\n{readers(sweep.result(files.result))}" for level, files in pictures.items()]
            png = figure_file(out, name, cell)
            plots.row_of_pictures([files.code for files in pictures.values()], titles, png)
            keys = ("seed", "level", "test_acc", "code_lost", "code_ones", "code_added", "code_zeros", "p_corrected")
            results = [one for level in sweep.levels(cell, stage) for one in sweep.at_level(cell, stage, level).values()]
            write_csv(png, [{key: one.get(key) for key in keys} | {key: value for key, value in one.items()
                                                                   if key.startswith(READ_BY)} for one in results])
            made[cell] = png
        return made

    return draw


def readers(result: Mapping[str, Any]) -> str:
    """Who reads the signature, a line each."""
    asked = {column.removeprefix(READ_BY): result[column] for column in result if column.startswith(READ_BY)}
    able = [reader for reader, value in asked.items() if value]
    return "read by all" if asked and len(able) == len(asked) else "read by " + ",\n".join(able or ["nobody"])


def figure_file(out: Path, name: str, cell: str) -> Path:
    return out / f"{name}_{cell.replace('/', '_')}.png"


def write_csv(beside: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    from utils import checkpoint

    checkpoint.save_csv(rows, list(dict.fromkeys(column for row in rows for column in row)), beside.with_suffix(".csv"))


def but(network: str) -> Callable[[str, str], bool]:
    """Takes all cells, but for a network on the paper's data sets."""
    return lambda other, dataset: other != network or dataset not in PAPERS_DATA


# a network of the paper is in its own figure, any other sweep in both
FIGURES: dict[str, tuple[str, Callable[[Sweep, Path], dict[str, Path]]]] = {
    "fig1": ("Figure 1: weights per kernel before and after signing", figure1),
    "fig2": ("Figure 2: tickets retrained without their keys (scheme V1)", key_figure("fig2", {"locked": False})),
    "fig3": ("Figure 3: codes of ResNet-20 under magnitude pruning",
             code_figure("fig3", "pruned_magnitude", but("res18"))),
    "fig4": ("Figure 4: codes of ResNet-18 under magnitude pruning",
             code_figure("fig4", "pruned_magnitude", but("res20s"))),
    "fig5": ("Figure 5: locked tickets without and with a random key (fake1)",
             key_figure("fig5", {"locked": False, "forged": True})),
    "fig6": ("Figure 6: codes under add-on attacks", code_figure("fig6", "added")),
}


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)

    from utils import checkpoint

    sweep, out, paper = Sweep(args.runs), Path(args.out), json.loads(PAPER.read_text(encoding="utf-8"))
    if not sweep.seeds():
        raise UserError(f"--runs {args.runs}: holds no runs (NETWORK/DATASET/seedN/STAGE); scripts/table1.sh and the others "
                        "make them")
    text = [f"# Results in {args.runs}", "", NOTE, "", *(circumstances(sweep) if args.only == "all" else [])]
    for name, make in TABLES.items():
        if args.only in ("all", name):
            table = make(sweep, paper[name])
            rows = table.columns(texts=False)
            checkpoint.save_csv(rows, list(rows[0]), out / f"{name}.csv")
            checkpoint.save_text(table.markdown() + "\n", out / f"{name}.md")
            text += ["", f"## {table.title}", "", table.markdown()]
    for name, (title, draw) in FIGURES.items():
        if args.only in ("all", name):
            made = draw(sweep, out)
            text += ["", f"## {title}"]
            for cell, png in made.items():
                text += ["", f"![{' on '.join(named(cell))}]({png.name})", "", f"*{' on '.join(named(cell))}.*"]
            if not made:
                text += ["", "Not run."]
            if args.only != "all":
                print("\n".join(map(str, made.values())) or f"{title}: not run")
    if args.only == "all":
        checkpoint.save_text("\n".join(text) + "\n", out / "results.md")
        print(out / "results.md")
    elif args.only in TABLES:
        print(f"{table.title}\n\n{table.markdown()}\n\ntable: {out / args.only}.md\ncsv:   {out / args.only}.csv")
    return cli.EXIT_OK


def circumstances(sweep: Sweep) -> list[str]:
    """Lines that say with what the runs were made: seeds, epochs of training, code, versions, machines."""
    runs = [facts_of(path) for seed in sweep.seeds() for path in sorted(seed.glob("**/run.json"))]
    facts = {"runs": [len(runs)], **{name: sorted({run[name] for run in runs if name in run})
                                     for name in ("seeds", "epochs of a training", *SESSION)}}
    return [f"- {name}: {', '.join(map(str, values))}" for name, values in facts.items() if values]


def facts_of(path: Path) -> dict[str, Any]:
    """What a run.json says of its run: seed, epochs where it trained, and SESSION of the last time it was started."""
    from utils.results import load_table

    mend = f"remove {path.parent}, and the same sweep makes it anew"
    record = load_table(path, mend)
    try:
        arguments, session = record["arguments"], record["sessions"][-1]
        numbers = {"seeds": arguments["seed"]}
        if record["script"] != "main_attack.py":
            numbers["epochs of a training"] = arguments["epochs"]
        words = {name: session[name] for name in SESSION}
    except (KeyError, IndexError, TypeError):
        numbers, words = {}, {"nothing": None}
    if any(type(value) is not int for value in numbers.values()) or any(type(value) is not str for value in words.values()):
        raise UserError(f"{path}: lacks what a run records, so it is damaged or another version's; {mend}")
    return {**numbers, **words}


if __name__ == "__main__":
    cli.run(main)
