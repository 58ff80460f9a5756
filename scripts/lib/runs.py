"""What lies in a tree of run directories: one row per run, per level of an attack, whichever script left it."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from utils import checkpoint, cli
from utils.errors import UserError
from utils.results import is_read
from utils.run_dir import AttackFiles, RunDir

COLUMNS = ("folder", "script", "network", "data", "seed", "accuracy", "remaining", "code read", "date", "state")


def rows_of(tree: str | Path) -> list[dict[str, str]]:
    """COLUMNS -> text of every run in the tree, by folder; what can't be read is a row that says so."""
    records = sorted(Path(tree).rglob(RunDir("").record.name))
    return [{column: cli.one_line(text) for column, text in row.items()}
            for record in records for row in _rows_of_run(Path(tree), record)]


def _rows_of_run(tree: Path, record: Path) -> Iterator[dict[str, str]]:
    files = AttackFiles(record.parent)
    row = dict.fromkeys(COLUMNS, "") | {"folder": str(files.folder.relative_to(tree))}
    try:
        run = checkpoint.load_json(record)
        arguments, session = run["arguments"], run["sessions"][-1]
        row |= {"script": str(run["script"]), "network": str(arguments["arch"]), "data": str(arguments["dataset"]),
                "seed": str(arguments["seed"]), "date": str(session["written"])[:16].replace("T", " ")}
        whole = [(row["folder"], files)] if files.result.exists() else []
        levels = [(f"{row['folder']}/{one.folder.name}", one) for one in map(files.level, files.levels())]
        for folder, one in whole + levels:
            yield row | {"folder": folder} | _found(checkpoint.load_json(one.result))
        if not whole + levels:
            yield row | {"state": "unfinished"}
    except (UserError, KeyError, IndexError, TypeError, ValueError):
        yield row | {"state": "damaged"}


def _found(result: Mapping[str, Any]) -> dict[str, str]:
    """What a result.json says, as texts."""
    accuracy, density = result.get("test_acc", result.get("ticket_acc")), result.get("density")
    return {"accuracy": "" if accuracy is None else f"{accuracy:.2f}%",
            "remaining": "" if density is None else f"{100 * density:.3f}%",
            "code read": {None: "", True: "yes", False: "no"}[is_read(result)], "state": "done"}


def aligned(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table as a terminal shows it: columns by two spaces apart, those with nothing in them left out."""
    shown = [index for index in range(len(columns)) if any(row[index] for row in rows)]
    table = [[line[index] for index in shown] for line in (columns, *rows)]
    widths = [max(map(len, column)) for column in zip(*table)]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip() for line in table)
