"""What a sweep of the paper's tables has run: results by network, data set, seed and stage."""

import contextlib
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from datasets import DATASETS
from models import ARCHITECTURES
from utils.errors import UserError
from utils.results import READ_BY

SOFT = "ordered statistics"
NUMBERS = ("dense_acc", "ticket_acc", "test_acc", "trigger_acc", "density", "forged_acc")  # columns of results
SEED = re.compile("seed(0|[1-9][0-9]*)")  # a backup beside it is none


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

    def test_pictures(self) -> list[int]:
        """How many pictures accuracies are of, as far as the runs say; of n of them one is worth 100 / n points."""
        from utils import checkpoint

        found = set()
        for record in (path for seed in self.seeds() for path in seed.glob("**/run.json")):
            with contextlib.suppress(UserError, KeyError, TypeError):  # a damaged one is not missed here
                found.add(int(checkpoint.load_json(record)["arguments"]["test pictures"]))
        return sorted(found)

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


def measured(results: Iterable[Mapping[str, Any]], column: str, factor: float = 1) -> list[float]:
    """A column's numbers, without those that were not measured. Raises UserError where a result lacks the column."""
    return [factor * value for result in results if (value := result[column]) is not None]


def trigger_accuracies(results: Iterable[Mapping[str, Any]]) -> list[float]:
    """Trigger accuracies of those that were asked for triggers."""
    return measured((result for result in results if "trigger_acc" in result), "trigger_acc")


def accuracy_drop(before: Mapping[str, Any], after: Mapping[str, Any], column: str = "test_acc") -> float | None:
    """Points of accuracy lost from a column of one to the test accuracy of the other; None where one was not measured."""
    found = before[column], after["test_acc"]
    return None if None in found else found[0] - found[1]


def cell_titles(cell: str) -> tuple[str, str]:
    """Network and data set as their registries call them, the paper's as the paper does."""
    network, dataset = cell.split("/")
    return registered_title(ARCHITECTURES, network), registered_title(DATASETS, dataset)


def registered_title(registry: Mapping[str, Any], name: str) -> str:
    """What a registry calls an entry; of others the name."""
    return registry[name].title if name in registry else name


def percent(share: float) -> str:
    return f"{100 * share:g}%"
