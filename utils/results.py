"""Reading back the tables that runs write as JSON: what is damaged is named, with the mend."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from utils import checkpoint
from utils.errors import UserError


READ_BY = "read by "  # begins the columns that say whether a reader reads the signature


def is_read(result: Mapping[str, Any]) -> bool | None:
    """Whether any reader reads the signature; None where none was asked."""
    able = [result[column] for column in result if column.startswith(READ_BY)]
    return any(able) if able else None


def who_reads(result: Mapping[str, Any]) -> str:
    """Who reads the signature, a line each."""
    asked = {column.removeprefix(READ_BY): result[column] for column in result if column.startswith(READ_BY)}
    able = [reader for reader, value in asked.items() if value]
    return "read by all" if asked and len(able) == len(asked) else "read by " + ",\n".join(able or ["nobody"])


class Result(dict[str, Any]):
    """A result.json. Asking for a column that is not there, or that holds what it can't, raises UserError."""

    def __init__(self, path: Path, fits: Callable[[str, Any], bool], mend: str):
        """
        Args:
            fits: whether a column can hold a value; asked when the column is.
            mend: ends each message: what makes the file anew.
        Raises:
            UserError: the file holds no table.
        """
        super().__init__(load_table(path, mend))
        self._path, self._fits, self._mend = path, fits, mend

    def __getitem__(self, column: str) -> Any:
        value = super().__getitem__(column)
        if not self._fits(column, value):
            raise UserError(f"{self._path}: {column!r} is not what it should be, so it is damaged or another version's; "
                            f"{self._mend}")
        return value

    def __missing__(self, column: str) -> Any:
        raise UserError(f"{self._path}: has no {column!r}, so it is damaged or another version's; {self._mend}")


def load_table(path: Path, mend: str) -> dict[str, Any]:
    """The table in a JSON file. Raises UserError, with the mend, for a file that holds none."""
    try:
        content = checkpoint.load_json(path)
    except UserError as error:
        raise UserError(f"{error}; {mend}") from None
    if not isinstance(content, dict):
        raise UserError(f"{path}: holds no table, so it is damaged; {mend}")
    return content
