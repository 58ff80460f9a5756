"""The tensors of a torch file that holds anything else beside them: numpy's numbers, settings, whole modules.

The pickle is followed by rules, as in `utils.untrusted.torch_files`, but what these do not know becomes an object of which only
what the file puts into it is looked at. Nothing that the file names is imported, called or unpickled.
"""

import io
import resource
import zipfile
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

from utils import checkpoint
from utils.errors import UserError
from utils.untrusted import torch_files
from utils.untrusted.torch_files import CALLS, OPERATIONS, STORAGES, Name, Pickle, Storage, TensorAt, Unfit

MAX_PICKLE = 1 << 28  # bytes; whoever reads them has set a limit of time
DEEPEST = 50
PARTS_OF_A_MODULE = ("_parameters", "_buffers")
MEMORY = 1 << 30  # bytes beyond four times the file's size that may be taken


class _Anything:
    """An object of the stranger's. state: what the file sets on it."""

    def __init__(self):
        self.state: Any = None


class _Lenient(Pickle):
    """Follows all operations of pickles, of any protocol, that do not reach outside the file."""

    def read(self, stream: io.BytesIO) -> Any:
        return self.follow(stream, FOLLOWED)

    def fill_dict(self, items: list[Any]) -> None:
        filled = self.top()
        if isinstance(filled, _Anything):  # a dict of the stranger's own kind
            filled.state = filled = {} if filled.state is None else filled.state
        if isinstance(filled, dict):
            filled.update({key: held for key, held in zip(items[::2], items[1::2]) if isinstance(key, str)})

    def extend_list(self, items: list[Any]) -> None:
        if isinstance(self.top(), list):
            self.top().extend(items)

    def call(self) -> None:
        function, arguments = self.take(2)
        self.push(_Anything())
        if isinstance(function, Name) and function.path in CALLS and isinstance(arguments, tuple):
            check, least, most = CALLS[function.path]
            # an OrderedDict is always made empty here, and filled later
            if function.path == "collections OrderedDict" or least <= len(arguments) <= most and function.path.startswith("torch"):
                self.pop()
                self.push({} if function.path == "collections OrderedDict" else check(*arguments))

    def make(self, values: int) -> None:
        """An object, of so many values on the stack."""
        self.take(values)
        self.push(_Anything())

    def make_of_marked(self) -> None:
        self.take_marked()
        self.push(_Anything())

    def set_attributes(self) -> None:
        state = self.pop()
        if isinstance(self.top(), _Anything):
            self.top().state = state

    def push_storage(self) -> None:
        """Before torch 1.6 a class stood with its source in place of one."""
        described = self.pop()
        self.push(described[1] if isinstance(described, tuple) and described[:1] == ("module",) and len(described) > 1
                  else self._storage(described))

    def memorise(self) -> None:
        self.remember(len(self._memo))


def _dict_of_marked(pickle: _Lenient, _: Any) -> None:
    items = pickle.take_marked()
    pickle.push({})
    pickle.fill_dict(items)


FOLLOWED: dict[str, Callable[[Any, Any], None]] = {
    **OPERATIONS,
    **dict.fromkeys(("BINUNICODE8", "SHORT_BINUNICODE", "UNICODE", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BINSTRING", "STRING",
                     "SHORT_BINSTRING", "BYTEARRAY8", "LONG", "LONG4", "INT", "FLOAT"), Pickle.push),
    "FRAME": lambda pickle, _: None, "MEMOIZE": lambda pickle, _: pickle.memorise(),
    "PUT": Pickle.remember, "GET": Pickle.recall, "POP": lambda pickle, _: pickle.pop(),
    "POP_MARK": lambda pickle, _: pickle.take_marked(), "DUP": lambda pickle, _: pickle.push(pickle.top()),
    "LIST": lambda pickle, _: pickle.push(pickle.take_marked()), "DICT": _dict_of_marked,
    "EMPTY_SET": lambda pickle, _: pickle.make(0), "ADDITEMS": lambda pickle, _: pickle.take_marked(),
    "FROZENSET": lambda pickle, _: pickle.make_of_marked(),
    "GLOBAL": lambda pickle, path: pickle.push(Name(path)),
    "STACK_GLOBAL": lambda pickle, _: pickle.push(Name(" ".join(map(str, pickle.take(2))))),
    "NEWOBJ": lambda pickle, _: pickle.make(2), "NEWOBJ_EX": lambda pickle, _: pickle.make(3),
    "OBJ": lambda pickle, _: pickle.make_of_marked(), "INST": lambda pickle, _: pickle.make_of_marked(),
}


def convert(path: str | Path, out: str | Path, seconds: int) -> tuple[int, str]:
    """Write the tensors of a file as a file of plain torch, see `tensors_of`, in a process of its own, which ends when it takes more
    than so many seconds of the processor, or too much memory.

    Returns:
        how many there are, and the SHA-256 of the file that they are from.
    Raises:
        UserError: the file is none of torch.save, has no tensors, or takes too much.
    """
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
        try:
            return process.submit(_convert_here, str(path), str(out), seconds).result()
        except (BrokenProcessPool, MemoryError):
            raise UserError(f"{path}: takes more than {seconds} seconds, or more memory than a model of its size should") from None


def _convert_here(path: str, out: str, seconds: int) -> tuple[int, str]:
    """As `convert`, within limits that this process is put under for good."""
    file = checkpoint.read_model(path)
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
    held = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize() + 4 * len(file.raw) + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (held, held))
    try:
        content = tensors_of(file.raw)
    except MemoryError:
        raise
    except Exception:  # a hostile file can fail in any way that its readers know; none may become a traceback
        raise UserError(f"{path}: not a usable checkpoint: it is cut off, no torch file, or has no tensors with names") from None
    checkpoint.save(content, out)
    return _count(content), file.sha256


def _count(content: Any) -> int:
    return sum(map(_count, content.values())) if isinstance(content, dict) else 1


def tensors_of(raw: bytes) -> dict[str, Any]:
    """Dicts of the tensors in a torch file, in dicts as in the file, a module as the state_dict() that it would have.

    Args:
        raw: the file, of torch.save, in its present form or that before 1.6.
    Raises:
        Unfit: it is none. Or any error of `zipfile` and `pickletools`, for a file that is damaged.
    """
    file = io.BytesIO(raw)
    if not raw.startswith(b"PK\3\4"):
        content, places, _ = torch_files.legacy(file, raw[:MAX_PICKLE], len(raw), _Lenient)
        return _collected(content, lambda storage: raw[places[storage]:places[storage] + storage.entries * storage.itemsize])
    with zipfile.ZipFile(file) as archive:
        entries, storages = torch_files.records(archive, len(raw)), {}
        if entries["data.pkl"].file_size > MAX_PICKLE or "byteorder" in entries and archive.read(entries["byteorder"]) != b"little":
            raise Unfit("data.pkl is too large, or its numbers are big-endian")
        content = _Lenient(partial(torch_files.recorded, entries, storages)).read(io.BytesIO(archive.read(entries["data.pkl"])))
        return _collected(content, lambda storage: archive.read(entries[f"data/{storage.key}"]))


def _collected(content: Any, bytes_of: Callable[[Storage], bytes]) -> dict[str, Any]:
    loaded: dict[Storage, bytearray] = {}

    def tensor(described: TensorAt) -> torch.Tensor:
        storage = described.storage
        if storage not in loaded:
            loaded[storage] = bytearray(bytes_of(storage))
        dtype = described.dtype or STORAGES[storage.kind]
        if torch.Size(described.size).numel() * dtype.itemsize > len(loaded[storage]):
            raise Unfit("a tensor repeats its entries")
        if not loaded[storage]:
            return torch.empty(described.size, dtype=dtype)
        return torch.frombuffer(loaded[storage], dtype=dtype).as_strided(described.size, described.stride, described.offset).clone()

    def look(held: Any, depth: int) -> Any:
        if isinstance(held, TensorAt):
            return tensor(held)
        if isinstance(held, _Anything) and isinstance(held.state, dict):
            parts = dict(_of_module(held, "", 0))
            held = parts if parts else held.state
        if not isinstance(held, dict) or depth > DEEPEST:
            return None
        kept = {key: look(value, depth + 1) for key, value in held.items() if isinstance(key, str)}
        return {key: value for key, value in kept.items() if value is not None and (isinstance(value, torch.Tensor) or value)}

    found = look(content, 0)
    if isinstance(found, torch.Tensor) or not found:
        raise Unfit("it holds no tensors that have names")
    return found


def _of_module(module: Any, prefix: str, depth: int) -> Iterator[tuple[str, TensorAt]]:
    """The parameters and buffers of a pickled module, by the names of its state_dict()."""
    state = module.state if isinstance(module, _Anything) else None
    if not isinstance(state, dict) or depth > DEEPEST:
        return
    for part in PARTS_OF_A_MODULE:
        held = state.get(part)
        for name, value in held.items() if isinstance(held, Mapping) else ():
            if isinstance(value, TensorAt):
                yield f"{prefix}{name}", value
    below = state.get("_modules")
    for name, child in below.items() if isinstance(below, Mapping) else ():
        yield from _of_module(child, f"{prefix}{name}.", depth + 1)

