"""Reading and writing files so that nothing is lost and nothing foreign is executed."""

import contextlib
import csv
import hashlib
import io
import json
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import torch

from utils.errors import UserError


TEMPORARY = ".tmp"  # ends the names of files that were being written when their process was killed


def write_atomic(path: str | Path, write: Callable[[BinaryIO], None]) -> None:
    """Let `write` fill a temporary file beside `path`, flush it to disk, then rename it over `path`.

    A process killed at any instant leaves either the old file or the new one. Raises OSError naming `path`.
    """
    path = Path(path)
    temporary = path.parent / f".{path.name}.{os.getpid()}{TEMPORARY}"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise type(error)(error.errno, error.strerror, str(path)) from error
        raise


def save(content: dict[str, Any], path: str | Path) -> None:
    """Write a dict of tensors, numbers, strings, lists and dicts with `torch.save`, atomically."""
    write_atomic(path, lambda file: torch.save(content, file))


def save_text(text: str, path: str | Path) -> None:
    """Write UTF-8 text atomically."""
    write_atomic(path, lambda file: file.write(text.encode("utf-8", "surrogateescape")))


def save_json(content: Any, path: str | Path) -> None:
    """Write JSON atomically, NaN refused, so that any JSON reader can read it back."""
    save_text(json.dumps(content, indent=2, allow_nan=False, ensure_ascii=False) + "\n", path)


def save_csv(rows: Sequence[Mapping[str, Any]], columns: Sequence[str], path: str | Path) -> None:
    """Write rows as CSV with a header, atomically."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    save_text(text.getvalue(), path)


def load_json(path: str | Path) -> Any:
    """Read a JSON file. Raises UserError if it is missing or no JSON."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: can't be read ({error.strerror or error})") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not a JSON file ({error})") from None


def load(path: str | Path, kind: str = "checkpoint") -> dict[str, Any]:
    """Read a `.pth.tar` from anybody: tensors and plain containers only, onto the CPU; no code in it ever runs.

    `kind` names what was expected, for the message. Raises UserError for a file that is missing, cut off, no
    torch file, not a dict, or holds anything but tensors, numbers, strings, lists and dicts.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such {kind}; give the path of an existing file")
    try:
        with warnings.catch_warnings(), open(path, "rb") as file:
            warnings.simplefilter("ignore")
            content = torch.load(file, map_location="cpu", weights_only=True)
    except OSError as error:
        raise UserError(f"{path}: can't be read ({error.strerror or error})") from None
    except Exception as error:  # a hostile file can fail in any way the unpickler knows; none may become a traceback
        reason = "it holds objects other than tensors, numbers, strings, lists and dicts" \
            if "weights_only" in str(error) or "Unsupported" in str(error) else "it is cut off or no torch file"
        raise UserError(f"{path}: not a usable {kind}: {reason}") from None
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise UserError(f"{path}: not a usable {kind}: it must hold a dict with names as keys")
    return content


def sha256(path: str | Path) -> str:
    """Hex digest of a file's bytes."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()
