"""The paper's tables as tables of ours: its numbers beside the means over the seeds that were run."""

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from datasets import DATASETS
from scripts.lib.sweep_results import (SOFT, Sweep, accuracy_drop, cell_titles, measured, percent, registered_title, split_of,
                                       trigger_accuracies)
from utils.results import READ_BY

MATCHES_WITHIN = 1.0  # points of accuracy (paper, section 3.1)


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
            for column, value in (texts_of if texts else numbers_of)(measure, theirs, ours).items()} for labels, values in self.rows]

    def shown(self, all_rows: bool = False) -> tuple[list[str], list[list[str]]]:
        """(columns, rows) as they are shown: what was run, with `all_rows` also what only the paper has; without the paper's
        numbers and differences where it has none."""
        pairs = list(zip(self.rows, self.columns(texts=True)))
        rows = [row for (_, values), row in pairs if any(ours for _, ours in values)]
        rows += [row for _, row in pairs if row not in rows] if all_rows else []
        always = (*self.labels, *(measure.name for measure in self.measures))
        columns = [column for column in (rows[0] if rows else always)
                   if column in always or any(row[column] for row in rows)]
        return columns, [[row[column] for column in columns] for row in rows]

    def markdown(self, all_rows: bool = False) -> str:
        """Of `shown`; of a table of which nothing was run, words."""
        columns, rows = self.shown(all_rows)
        return markdown(columns, rows) if rows else "Not run."


def markdown(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (columns, ["---"] * len(columns), *rows))


def numbers_of(measure: Measure, theirs: Any, ours: list) -> dict[str, Any]:
    """Columns of the CSV; None where there is nothing."""
    if measure.digits is None:
        return {f"{measure.name}, paper": theirs, measure.name: "; ".join(map(str, ours)) or None,
                f"{measure.name}, n": len(ours)}
    mean = statistics.mean(ours) if ours else None
    return {f"{measure.name}, paper": theirs, f"{measure.name}, mean": mean,
            f"{measure.name}, std": statistics.stdev(ours) if len(ours) > 1 else None, f"{measure.name}, n": len(ours),
            f"{measure.name}, difference": None if None in (mean, theirs) else mean - theirs}


def texts_of(measure: Measure, theirs: Any, ours: list) -> dict[str, str]:
    """Columns of the Markdown."""
    if measure.digits is None:
        words = sorted(set(ours)) if len(set(ours)) < 2 else ours
        return {f"{measure.name}, paper": theirs or "", measure.name: ", ".join(words) + sample_size(ours)}

    def number(value: float, sign: str = "") -> str:
        return f"{value:{sign}.{measure.digits}f}"

    found = numbers_of(measure, theirs, ours)
    mean, std, difference = (found[f"{measure.name}, {what}"] for what in ("mean", "std", "difference"))
    return {f"{measure.name}, paper": "" if theirs is None else number(theirs) + measure.unit,
            measure.name: "" if mean is None else
            number(mean) + ("" if std is None else f" +- {number(std)}") + measure.unit + sample_size(ours),
            f"{measure.name}, difference": "" if difference is None else number(difference, "+")}


def sample_size(ours: list) -> str:
    return f" (n {len(ours)})" if ours else ""


ACCURACY, TRIGGERS = Measure("accuracy"), Measure("triggers right", 1)


def table1(sweep: Sweep, paper: Mapping[str, Any]) -> Table:
    table = Table("Table 1: dense networks and winning tickets", ("network", "data"), (
        Measure("dense accuracy"), Measure("ticket accuracy"), Measure("remaining", 3), Measure("rounds at each rate", None)))
    for cell in sweep.cells("ticket", paper):
        theirs, ours = paper.get(cell, {}), sweep.results(cell, "ticket")
        table.add(cell_titles(cell), (theirs.get("dense_acc"), measured(ours, "dense_acc")),
                  (theirs.get("ticket_acc"), measured(ours, "ticket_acc")), (theirs.get("remaining"), measured(ours, "density", 100)),
                  (bracketed(theirs["rounds"]) if theirs else None, [bracketed(one["rounds_per_rate"]) for one in ours]))
    return table


def bracketed(numbers: Iterable[int]) -> str:
    return f"({','.join(map(str, numbers))})"


def table2(sweep: Sweep, paper: Mapping[str, Any]) -> Table:
    table = Table("Table 2: tickets with a signature in their masks (scheme V2)", ("network", "data"),
                  (ACCURACY, Measure("drop from the ticket", unit="")))
    for cell in sweep.cells("signed_trained", paper):
        theirs, tickets, signed = paper.get(cell, {}), sweep.by_seed(cell, "ticket"), sweep.by_seed(cell, "signed_trained")
        drops = [accuracy_drop(tickets[seed], one, "ticket_acc") for seed, one in signed.items() if seed in tickets]
        table.add(cell_titles(cell), (theirs.get("test_acc"), measured(signed.values(), "test_acc")),
                  (theirs.get("drop"), [points for points in drops if points is not None]))
    return table


def table3(sweep: Sweep, paper: Mapping[str, Any]) -> Table:
    table = Table("Table 3: the task and the trigger set (scheme V3)", ("model", "network", "data"), (ACCURACY, TRIGGERS))
    for model, stage in (("ticket", "asked"), ("signed, triggers", "triggered")):
        for cell in sweep.cells(stage, paper):
            theirs, ours = paper.get(cell, {}).get(model, {}), sweep.results(cell, stage)
            table.add((model, *cell_titles(cell)), (theirs.get("test_acc"), measured(ours, "test_acc")),
                      (theirs.get("trigger_acc"), trigger_accuracies(ours)))
    return table


def table4(sweep: Sweep, paper: Mapping[str, Any]) -> Table:
    table = Table("Table 4: locked tickets on other pictures (fine-tuning attack on scheme V1)",
                  ("score", "key", "network", "from", "to"), (ACCURACY, Measure("behind the ticket found there", unit="")))
    found = {(sweep.cell_of(seed), result.parts[-3].removeprefix("transferred_"), *split)
             for seed in sweep.seeds() for result in seed.glob("transferred_*/*/result.json")
             if (split := split_of(result.parent.name))}
    published = [(*transfer.split(":"), score, f"{paper['key_ratio']:g}")
                 for transfer, scores in paper.items() if ":" in transfer for score in scores]
    for cell, to, score, ratio in [*published, *sorted(found - set(published))]:
        theirs = {}
        if float(ratio) == paper["key_ratio"]:  # which of two ways the paper's number is of, it does not say
            theirs = paper.get(f"{cell}:{to}", {}).get(score.removesuffix("_walks").removesuffix("_published"), {})
        network, data = cell_titles(cell)
        ours = sweep.by_seed(cell, f"transferred_{to}/{score}_{ratio}")
        tickets = sweep.by_seed(f"{cell.split('/')[0]}/{to}", "ticket")
        gaps = [accuracy_drop(tickets[seed], one, "ticket_acc") for seed, one in ours.items() if seed in tickets]
        table.add((score, percent(float(ratio)), network, data, registered_title(DATASETS, to)),
                  (theirs.get("test_acc"), measured(ours.values(), "test_acc")),
                  (theirs.get("gap"), [points for points in gaps if points is not None]))
    return table


def table5(sweep: Sweep, paper: Mapping[str, Any]) -> Table:
    table = Table("Table 5: pruning a ticket that knows triggers (scheme V3)", ("network", "data", "pruned"),
                  (ACCURACY, TRIGGERS))
    for cell in sweep.cells("triggered_pruned/level_*", paper):
        for level, theirs, ours in by_level(sweep, cell, "triggered_pruned", paper.get(cell, {})):
            table.add((*cell_titles(cell), percent(level)), (theirs.get("test_acc"), measured(ours, "test_acc")),
                      (theirs.get("trigger_acc"), trigger_accuracies(ours)))
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
                table.add((*cell_titles(cell), how, percent(level)), (theirs.get("test_acc"), measured(ours, "test_acc")))
    return table


def table8(sweep: Sweep, paper: Mapping[str, Any]) -> Table:
    table = Table("Table 8: noise weights in a signed ticket (add-on attacks)", ("network", "data", "added"), (
        ACCURACY, Measure("remaining", 3), Measure("decodable", None), Measure(f"decodable by {SOFT}", None),
        Measure("match", None)))
    for cell in sweep.cells("added/level_*", paper):
        whole = sweep.at_level(cell, "added", 0)
        for level, theirs, ours in by_level(sweep, cell, "added", paper.get(cell, {})):
            drops = [accuracy_drop(whole[seed], one) for seed, one in sweep.at_level(cell, "added", level).items() if seed in whole]
            table.add((*cell_titles(cell), percent(level)), (theirs.get("test_acc"), measured(ours, "test_acc")),
                      (theirs.get("remaining"), measured(ours, "density", 100)),
                      (yes_or_no(theirs.get("read")), [yes_or_no(is_read(one)) for one in ours if READ_BY + SOFT in one]),
                      (None, [yes_or_no(one[READ_BY + SOFT]) for one in ours if READ_BY + SOFT in one]),
                      (yes_or_no(theirs.get("match")), [yes_or_no(points <= MATCHES_WITHIN) for points in drops if points is not None]))
    return table


def is_read(result: Mapping[str, Any]) -> bool:
    """Whether a reader of QR codes as such, ZXing or zbar, reads the signature."""
    return any(result[column] for column in result if column.startswith(READ_BY) and column != READ_BY + SOFT)


def yes_or_no(value: bool | None) -> str | None:
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
            table.add((attack, *cell_titles(cell), registered_title(DATASETS, to)),
                      (theirs.get("before"), measured((before[seed] for seed in ours if seed in before), "test_acc")),
                      (theirs.get("test_acc"), measured(ours.values(), "test_acc")), (None, trigger_accuracies(ours.values())),
                      (None, [yes_or_no(is_read(one) or one[READ_BY + SOFT]) for one in ours.values() if READ_BY + SOFT in one]))
    return table


# what the table calls it, folders of its runs (* for the other pictures), of the runs that are attacked
ATTACKS_IN_THE_TEXT = (("fine-tuned", "tuned/*", "triggered"), ("fine-tuned, mask free", "tuned_free_mask/*", "triggered"),
                       ("fake3, published", "replaced_published", "signed_trained"),
                       ("fake3, region", "replaced_region", "signed_trained"), ("fake3", "replaced", "signed_trained"),
                       ("fake3, insider", "replaced_insider", "signed_trained"),
                       ("fake3, published, on V3", "triggered_replaced", "triggered"))

TABLES: dict[str, Callable[[Sweep, Mapping[str, Any]], Table]] = {
    "table1": table1, "table2": table2, "table3": table3, "table4": table4, "table5": table5, "table6": table6,
    "table8": table8, "text_numbers": text_numbers}
