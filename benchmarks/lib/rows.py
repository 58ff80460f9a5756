"""Measured rows on their way to a person and to a file."""

import csv
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from utils import checkpoint

Row = Mapping[str, Any]


def check_writable(path: str | Path | None) -> None:
    """Before minutes of measuring: raise OSError where no file can be written at `path`. None is no file."""
    if path is None:
        return
    present = Path(path).exists()
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    open(path, "ab").close()
    if not present:
        Path(path).unlink()


def show(rows: Iterable[Row], line: Callable[[Row], str], path: str | None, before: Iterable[Row] = ()) -> list[Row]:
    """Print each row as it comes, and keep it in a CSV file, so that a measurement which is cut off leaves what it has.

    Args:
        line: a row in words.
        path: of the CSV file, which is written anew; None for none. before: rows that belong at its beginning.
    Returns:
        all rows, those of `before` first.
    """
    shown = list(before)
    for row in rows:
        shown.append(row)
        print(line(row), flush=True)
        if path is not None:
            checkpoint.save_csv(shown, list(dict.fromkeys(column for each in shown for column in each)), path)
    return shown


def append(path: Path, columns: Sequence[str], rows: Iterable[Row]) -> None:
    """Put rows at the end of a CSV file, which begins with its header; all of them, or none where the disk is full."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns)
    if not path.exists():
        writer.writeheader()
    writer.writerows(rows)
    before = path.read_bytes() if path.exists() else b""
    checkpoint.write_atomic(path, lambda file: file.write(before + text.getvalue().encode("utf-8")))
