"""Reading and writing files so that nothing is lost and nothing foreign is executed. Loads torch only where a file needs it."""

import codecs
import contextlib
import csv
import errno
import hashlib
import io
import json
import os
import stat
import tempfile
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO

from utils.errors import UserError


MAX_JSON = 1 << 26  # bytes
CONVERT = "scripts/convert_suspect.py keeps its tensors alone"
MAX_MODEL = 1 << 32  # bytes; a ResNet-50 has 1/45 of that
MAX_NAMES = 1 << 20  # bytes of a map of layers' names; a ResNet-50 takes 1/100 of that
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # what systems say of a disk, a quota or a file that is full
TEMPORARY = ".tmp"  # ends the names of files that were being written when their process was killed


class NamesError(UserError):
    """What is wrong with a map of layers' names, and not with the model's file that it is for."""


@dataclass(frozen=True)
class FileBytes:
    """A file as it was read, once, whatever becomes of it afterwards. To be given instead of its path to what reads it.

    path: for messages, which it stands for as a text. raw: its bytes; of a larger file than was asked for the first of them, one
    more than that. sha256: of all of it, in hex. entry: where in a model's file the weights are, if its user has said so. names:
    a map of its layers' names to the network's, likewise (see `parse_names`). parts: files beside it that it is made of, by name,
    as far as they were read. entries: what `utils.untrusted.model_formats.load` made of it, for all who ask.
    """

    path: str
    raw: bytes
    sha256: str
    entry: str | None = None
    names: "FileBytes | None" = None
    parts: dict[str, "FileBytes"] = field(default_factory=dict, repr=False, compare=False)
    entries: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)

    def __str__(self) -> str:
        return self.path

    def beside(self, name: str) -> "FileBytes":
        """A file in the same folder that belongs to this one, read once too. Raises UserError as `read_model`."""
        if name not in self.parts:
            self.parts[name] = read_model(Path(self.path).parent / name)
        return self.parts[name]


def read_model(path: "str | Path | FileBytes", kind: str = "checkpoint", entry: str | None = None,
               rename: str | Path | None = None) -> FileBytes:
    """A model's file, see `read_once`; what was read already as it is. entry: as in FileBytes. rename: the file of its map of names.
    Raises UserError for a map that is none."""
    if isinstance(path, FileBytes):
        return path
    names = None if rename is None else read_once(rename, MAX_NAMES, "no such map of names; see --rename")
    parse_names(names)
    return replace(read_once(path, MAX_MODEL, f"no such {kind}; give the path of an existing file"), entry=entry, names=names)


def parse_names(file: FileBytes | None) -> dict[str, str]:
    """Layer's name in a model's file -> the network's: a JSON object of texts, each network's name once; empty for None. Raises
    UserError for anything else."""
    if file is None:
        return {}
    try:
        if len(file.raw) > MAX_NAMES:
            raise ValueError(f"larger than {MAX_NAMES} bytes")
        names = parse_json(file.raw)
    except ValueError as error:
        raise NamesError(f"--rename {file}: not a JSON file that can be read ({error})") from None
    if not isinstance(names, dict) or not names or not all(isinstance(ours, str) and ours and theirs for theirs, ours in names.items()):
        raise NamesError(f"--rename {file}: must be a JSON object, of each layer the name in the file and the network's: "
                        '{"features.0": "conv1", "linear": "fc"}')
    theirs = {ours: name for name, ours in names.items()}
    twice = [ours for name, ours in names.items() if theirs[ours] != name]
    if twice:
        raise NamesError(f"--rename {file}: calls two layers {shortened(twice[0])}")
    return names


def read_once(path: str | Path, limit: int, missing: str = "no such file; give the path of an existing file") -> FileBytes:
    """A stranger's file, as far as `limit` goes, and its digest. Raises UserError as `open_regular`."""
    with open_regular(path, missing=missing) as file:
        raw = file.read(limit + 1)
        digest = hashlib.sha256(raw)
        while len(raw) > limit and (chunk := file.read(1 << 20)):
            digest.update(chunk)
    return FileBytes(str(path), raw, digest.hexdigest())


def write_atomic(path: str | Path, write: Callable[[BinaryIO], None], secret: bool = False) -> None:
    """Let `write` fill a temporary file beside `path`, flush it to disk, then rename it over `path`. secret: its owner alone
    can read it.

    A process killed at any instant leaves either the old file or the new one. Raises OSError naming `path`, also for a device
    or a pipe.
    """
    path = Path(path)
    if path.exists() and not path.is_file() and not path.is_dir():  # root would rename over /dev/null
        raise FileExistsError(errno.EEXIST, "is a device or a pipe; name a file", str(path))
    temporary = path.parent / f".{path.name}.{os.getpid()}{TEMPORARY}"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb", opener=lambda name, flags: os.open(name, flags, 0o600 if secret else 0o666)) as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        # torch's and Pillow's writers may hide what the disk said behind an error of their own
        cause: BaseException | None = error
        while cause is not None and not (isinstance(cause, OSError) and cause.errno) and not isinstance(cause, KeyboardInterrupt):
            cause = cause.__context__
        if isinstance(cause, OSError):
            raise type(cause)(cause.errno, cause.strerror, str(path)) from error
        raise


def write_secret(path: str | Path, content: bytes, flag: str) -> None:
    """Write a file that its owner alone can read, whole or not at all, and never over another one.

    A key that was cut off by a kill could be neither used nor made again. Raises UserError, naming `flag`, if the file exists.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    whole, temporary = tempfile.mkstemp(TEMPORARY, f".{path.name}.", path.parent)  # for its owner alone
    try:
        _write_and_sync(whole, content)
        try:
            os.link(temporary, path)
        except FileExistsError:
            raise
        except OSError:  # a file system without links
            _write_and_sync(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), content)
    except FileExistsError:
        raise UserError(f"{flag} {path}: exists; it is never written over") from None
    finally:
        os.unlink(temporary)


def _write_and_sync(descriptor: int, content: bytes) -> None:
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def save(content: dict[str, Any], path: str | Path, secret: bool = False) -> None:
    """Write a dict of tensors, numbers, strings, lists and dicts with `torch.save`, atomically."""
    import torch

    write_atomic(path, lambda file: torch.save(content, file), secret)


def save_text(text: str, path: str | Path, secret: bool = False) -> None:
    """Write UTF-8 text atomically."""
    write_atomic(path, lambda file: file.write(text.encode("utf-8", "surrogateescape")), secret)


def save_json(content: Any, path: str | Path, secret: bool = False) -> None:
    """Write JSON atomically, NaN refused, so that any JSON reader can read it back."""
    save_text(_text_of(content), path, secret)


def _text_of(content: Any) -> str:
    return json.dumps(content, indent=2, allow_nan=False, ensure_ascii=False) + "\n"


def save_csv(rows: Sequence[Mapping[str, Any]], columns: Sequence[str], path: str | Path, secret: bool = False) -> None:
    """Write rows as CSV with a header, atomically."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    save_text(text.getvalue(), path, secret)


def load_json(path: str | Path) -> Any:
    """Read a JSON file. Raises UserError if it is missing, larger than MAX_JSON, or no JSON (see `parse_json`)."""
    try:
        with open(path, "rb") as file:
            raw = file.read(MAX_JSON + 1)
        if len(raw) > MAX_JSON:
            raise ValueError(f"larger than {MAX_JSON} bytes")
        content = parse_json(raw)
        _text_of(content).encode("utf-8")  # 1e999 and half a letter are read, but can't be written
        return content
    except RecursionError:
        raise UserError(f"{path}: not a JSON file that can be read (nested too deeply)") from None
    except OSError as error:
        raise UserError(f"{path}: can't be read ({error.strerror or error})") from None
    except ValueError as error:
        raise UserError(f"{path}: not a JSON file that can be read ({error})") from None


def without_mark(raw: bytes) -> bytes:
    """A text in UTF-8 without the byte order mark that some editors begin it with. UTF-16, which begins with one too, becomes
    UTF-8."""
    if raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        with contextlib.suppress(UnicodeError):
            return raw.decode("utf-16").encode("utf-8")
    return raw.removeprefix(codecs.BOM_UTF8)


def parse_json(raw: bytes) -> Any:
    """What a JSON text in UTF-8 holds, see `without_mark`. Raises ValueError, with a reason in one line, for anything else, names that are in a
    table twice, NaN, and what is nested too deeply."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        table: dict[str, Any] = {}
        for name, value in pairs:
            if name in table:
                raise ValueError(f"{shortened(name)} is there twice")
            table[name] = value
        return table

    def no_number(text: str) -> None:
        raise ValueError(f"{text} is no number")

    try:
        return json.loads(without_mark(raw).decode("utf-8"), object_pairs_hook=unique, parse_constant=no_number)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def shortened(name: str) -> str:
    """A stranger's name for a message: printable, and not long."""
    return repr(name if len(name) <= 60 else name[:60] + "...")


def load(path: str | Path | FileBytes, kind: str = "checkpoint") -> dict[str, Any]:
    """Read a `.pth.tar` from anybody: tensors and plain containers only, onto the CPU; no code in it ever runs, and it takes
    no more memory than its size and 200 MiB (see `utils.untrusted.torch_files`).

    `kind` names what was expected, for the message. Raises UserError for a file that is missing, cut off, changed, no
    torch file, not a dict, or holds anything but tensors, numbers, strings, lists and dicts.
    """
    import torch

    from utils.untrusted import torch_files

    opened = _opened(path, f"no such {kind}; give the path of an existing file")
    try:
        with warnings.catch_warnings(), opened as file:
            warnings.simplefilter("ignore")
            size = file.seek(0, io.SEEK_END)
            file.seek(0)
            content = torch.load(torch_files.plain(file, size), map_location="cpu", weights_only=True)
    except torch_files.Foreign as error:
        raise UserError(f"{path}: not a usable {kind}: it holds objects other than tensors, numbers, strings, lists and dicts "
                        f"({shortened(str(error))}); {CONVERT}") from None
    except torch_files.TooLong as error:
        raise UserError(f"{path}: not a usable {kind}: what it says of its content is too long ({error}); {CONVERT}") from None
    except OSError as error:
        raise UserError(f"{path}: can't be read ({error.strerror or error})") from None
    except Exception:  # a hostile file can fail in any way that its readers know; none may become a traceback
        raise UserError(f"{path}: not a usable {kind}: it is cut off or no torch file") from None
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


def _opened(path: str | Path | FileBytes, missing: str) -> BinaryIO:
    """A file, open at its beginning. Raises UserError as `open_regular`."""
    return io.BytesIO(path.raw) if isinstance(path, FileBytes) else open_regular(path, missing=missing)


def check_is_file(path: str | Path, missing: str = "no such file") -> None:
    """Raise UserError for what is no file, but a folder, a device or a pipe; or is not there, in words of one's own."""
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: " + ("is a folder; name a file in it" if path.is_dir() else
                                       "is no file, but a device or a pipe; name a file" if path.exists() else missing))


def check_can_be_folder(path: str | Path, flag: str) -> None:
    """Raise UserError, naming `flag`, where results can't go: a file is there or in the way, or nobody may write there."""
    _check_place(Path(path), Path(path), flag)


def check_can_be_file(path: str | Path, flag: str) -> None:
    """Raise UserError, naming `flag`, for a folder, a device or a pipe where a file is to be written, and for a place where none
    can be."""
    path = Path(path)
    if os.path.exists(path):
        try:
            check_is_file(path)
        except UserError as error:
            raise UserError(f"{flag} {error}") from None
    _check_place(path, path.parent, flag)


def _check_place(path: Path, folder: Path, flag: str) -> None:
    """`folder` is where `path` lies, or is it; what is missing above it will be made."""
    try:
        there = [place for place in (path, *path.parents) if place.exists()]
    except OSError as error:  # too long a name, for one
        raise UserError(f"{flag} {path}: can't be written ({error.strerror}); name another") from None
    nearest = next(place for place in there if place in (folder, *folder.parents))
    if not nearest.is_dir():
        raise UserError(f"{flag} {path}: {'' if nearest == path else f'{nearest} '}is a file; name a folder")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise UserError(f"{flag} {path}: can't be written, since {nearest} may not be; name another")


def read_bounded(path: str | Path | FileBytes, limit: int, regular: bool = False) -> bytes | None:
    """A stranger's file as it is, or None where it has more than `limit` bytes; never takes more memory than that.

    Raises UserError for one that can't be read; with `regular`, also for devices, pipes and folders.
    """
    if isinstance(path, FileBytes):
        return path.raw if len(path.raw) <= limit else None
    try:
        with open_regular(path) if regular else open(path, "rb") as file:
            content = file.read(limit + 1)
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: can't be read ({getattr(error, 'strerror', None) or error})") from None
    return content if len(content) <= limit else None


def open_regular(path: str | Path, links: bool = True, missing: str = "no such file") -> BinaryIO:
    """A file, open for reading. Raises UserError for what is no regular file but a folder, a device or a pipe, which may have no
    end, for one that can't be read, and, saying `missing`, where none is; without `links` also for a link, which may lead
    anywhere."""
    try:  # by what was opened, not by what the name stood for before
        file = open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK | (0 if links else os.O_NOFOLLOW)))
    except (OSError, ValueError) as error:
        why = "is a link; put the file itself there" if not links and os.path.islink(path) else \
            f"can't be read ({getattr(error, 'strerror', None) or error})"
        check_is_file(path, missing)
        raise UserError(f"{path}: {why}") from None
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise UserError(f"{path}: is no file, but a device or a pipe; name a file")
    return file
