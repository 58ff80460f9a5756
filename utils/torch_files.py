"""Strangers' torch files, checked before torch reads them.

`torch.load(weights_only=True)` runs no code of the file. But a small file can still make it call constructors until the memory
is full, read beyond what the file holds, or hand back tensors and dicts whose methods the stranger chose. So a file is first
read by the rules here, which know what `torch.save` writes of plain tensors, numbers, texts and containers, compute nothing, and
make nothing larger than the file. What fits them is packed anew, so torch never sees the stranger's archive.
"""

import io
import pickletools
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO

import torch

MAX_PICKLE = 1 << 22  # bytes that say what the tensors are; a ResNet-50 takes 1/40 of that
LARGEST_KEY = 1 << 32  # whole numbers as names; beyond 2 ** 61 some have one hash, and thousands of those take hours
LARGEST_SIZE, MOST_DIMENSIONS = 1 << 40, 16
LEGACY_MAGIC, LEGACY_PROTOCOL = 0x1950A86A20F9469CFC6C, 1001  # before torch 1.6

# bytes of an entry; other kinds (quantised ones) hold no weights that this project reads
STORAGES = {"torch.storage UntypedStorage": 1, "torch FloatStorage": 4, "torch DoubleStorage": 8, "torch HalfStorage": 2,
            "torch BFloat16Storage": 2, "torch LongStorage": 8, "torch IntStorage": 4, "torch ShortStorage": 2,
            "torch CharStorage": 1, "torch ByteStorage": 1, "torch BoolStorage": 1, "torch ComplexFloatStorage": 8,
            "torch ComplexDoubleStorage": 16}
DTYPES = {f"torch {name}": value for name, value in vars(torch).items() if isinstance(value, torch.dtype)}


class Unfit(ValueError):
    """The file is nothing that `torch.save` writes."""


class Foreign(Unfit):
    """It holds something else than plain content; the text names that."""


@dataclass(frozen=True)
class _Name:
    """A name of torch's or Python's in the file, `module name`."""

    path: str


@dataclass(frozen=True)
class _Storage:
    """Where a tensor's entries stand. itemsize: bytes of an entry."""

    key: str
    itemsize: int
    entries: int


class _Opaque:
    """A value of which only its kind matters: a tensor, a shape, a device, ..."""

    def __init__(self, kind: str):
        self.kind = kind


class _Ordered(dict):
    """An OrderedDict; only these carry attributes, of which state_dict() has one."""


def plain(file: BinaryIO, size: int) -> BinaryIO:
    """The same content for `torch.load(weights_only=True)`, in memory, if it is plain.

    Args:
        file: at its beginning. size: its bytes.
    Raises:
        Unfit: it is not. Or any error of `zipfile` and `pickletools`, for a file that is damaged.
    """
    if file.read(4) == b"PK\x03\x04":
        return _plain_archive(file, size)
    file.seek(0)
    return _plain_legacy(file, size)


# --- the two formats --------------------------------------------------------------------------------------------------


def _plain_archive(file: BinaryIO, size: int) -> BinaryIO:
    """torch 1.6 and later: a zip of `X/data.pkl`, `X/data/0`, ..."""
    with zipfile.ZipFile(file) as archive:
        entries = {}
        for entry in archive.infolist():
            name = entry.filename.partition("/")[2]
            if name in entries:
                raise Unfit("two records have one name")
            if entry.compress_type != zipfile.ZIP_STORED:
                raise Unfit("a record is compressed")
            entries[name] = entry
        if sum(entry.file_size for entry in entries.values()) > size:
            raise Unfit("the records are larger than the file")
        if "data.pkl" not in entries or entries["data.pkl"].file_size > MAX_PICKLE:
            raise Unfit("data.pkl is missing or too large")
        pickled = archive.read(entries["data.pkl"])
        storages: dict[str, _Storage] = {}

        def storage(pid: Any) -> _Storage:
            if not isinstance(pid, tuple) or len(pid) != 5:
                raise Unfit("a storage is not described as torch does")
            found = _storage(pid, storages)
            if found.key not in storages:
                entry = entries.get(f"data/{found.key}")
                if entry is None or entry.file_size != found.entries * found.itemsize:
                    raise Unfit(f"record data/{found.key} is missing or of another size")
            storages[found.key] = found
            return found

        _read_pickle(io.BytesIO(pickled), storage)
        order = archive.read(entries["byteorder"]) if "byteorder" in entries else b"little"
        if order not in (b"little", b"big"):
            raise Unfit("its byte order is neither little nor big")
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w", zipfile.ZIP_STORED) as again:
            again.writestr("archive/data.pkl", pickled)
            again.writestr("archive/byteorder", order)
            for key in storages:
                again.writestr(f"archive/data/{key}", archive.read(entries[f"data/{key}"]))
            again.writestr("archive/version", b"3\n")
    packed.seek(0)
    return packed


def _plain_legacy(file: BinaryIO, size: int) -> BinaryIO:
    """Before torch 1.6: pickles one after the other, then the storages, each with its number of entries."""
    def no_storage(pid: Any) -> _Storage:
        raise Unfit("a storage stands where none belongs")

    start = file.read(MAX_PICKLE)
    pickles = io.BytesIO(start)
    if _read_pickle(pickles, no_storage) != LEGACY_MAGIC or _read_pickle(pickles, no_storage) != LEGACY_PROTOCOL:
        raise Unfit("it does not begin as a torch file")
    _read_pickle(pickles, no_storage)  # of the machine that wrote it
    storages: dict[str, _Storage] = {}

    def storage(pid: Any) -> _Storage:
        if not isinstance(pid, tuple) or len(pid) != 6 or pid[5] is not None:
            raise Unfit("a storage is not described as torch does")
        found = storages[pid[2]] = _storage(pid[:5], storages)
        return found

    _read_pickle(pickles, storage)
    keys = _read_pickle(pickles, no_storage)
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys) or sorted(keys) != sorted(storages):
        raise Unfit("its storages are not those that its tensors need")
    at = pickles.tell()
    for key in keys:
        file.seek(at)
        if int.from_bytes(file.read(8), "little") != storages[key].entries:
            raise Unfit("a storage is of another size than its tensors need")
        at += 8 + storages[key].entries * storages[key].itemsize
    if at > size:
        raise Unfit("it is cut off")
    file.seek(0)
    return io.BytesIO(file.read(at))


def _storage(pid: tuple, known: Mapping[str, _Storage]) -> _Storage:
    kind, name, key, location, entries = pid
    if kind != "storage" or not isinstance(name, _Name) or name.path not in STORAGES or not isinstance(location, str) \
            or not isinstance(key, str) or not (key.isascii() and key.isdecimal()) or type(entries) is not int \
            or not 0 <= entries <= LARGEST_SIZE:
        raise Unfit("a storage is not described as torch does")
    found = _Storage(key, STORAGES[name.path], entries)
    if known.get(key, found) != found:
        raise Unfit("one storage is described in two ways")
    return found


# --- the pickle -------------------------------------------------------------------------------------------------------

CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
MUTABLE = {"EMPTY_LIST": list, "EMPTY_DICT": dict, "EMPTY_TUPLE": tuple}
VALUES = {"BININT", "BININT1", "BININT2", "BINFLOAT", "LONG1", "BINUNICODE"}


def _read_pickle(stream: BinaryIO, storage: Callable[[Any], _Storage]) -> Any:
    """One pickle: containers as they are, all else as _Opaque. Knows the operations that torch knows, and no others.

    Args:
        storage: makes a storage of what the pickle says of it. The stream stands behind the pickle afterwards.
    """
    stack: list[Any] = []
    outer: list[list[Any]] = []  # stacks below marks
    memo: dict[int, Any] = {}
    for operation, value, _ in pickletools.genops(stream):
        name = operation.name
        if name in VALUES:
            stack.append(value)
        elif name in CONSTANTS:
            stack.append(CONSTANTS[name])
        elif name in MUTABLE:
            stack.append(MUTABLE[name]())
        elif name in ("BINPUT", "LONG_BINPUT"):
            memo[value] = _top(stack)
        elif name in ("BINGET", "LONG_BINGET"):
            if value not in memo:
                raise Unfit("it names what is not there")
            stack.append(memo[value])
        elif name == "SHORT_BINSTRING":  # of Python 2; what is not ASCII is decoded differently here and there
            if not value.isascii():
                raise Unfit("a text is not ASCII")
            stack.append(value)
        elif name == "MARK":
            outer.append(stack)
            stack = []
        elif name == "TUPLE":
            items, stack = stack, _below(outer)
            stack.append(tuple(items))
        elif name in ("TUPLE1", "TUPLE2", "TUPLE3"):
            count = int(name[-1])
            if len(stack) < count:
                raise Unfit("it takes what is not there")
            stack[-count:] = [tuple(stack[-count:])]
        elif name in ("APPEND", "APPENDS"):
            if name == "APPEND":
                items = [_pop(stack)]
            else:
                items, stack = stack, _below(outer)
            if type(_top(stack)) is not list:
                raise Unfit("it adds to what is no list")
            stack[-1].extend(items)
        elif name in ("SETITEM", "SETITEMS"):
            if name == "SETITEM":
                items = [_pop(stack), _pop(stack)][::-1]
            else:
                items, stack = stack, _below(outer)
            if not isinstance(_top(stack), dict) or len(items) % 2:
                raise Unfit("it sets entries of what is no dict")
            for key, held in zip(items[::2], items[1::2]):
                stack[-1][_key(key)] = held
        elif name == "GLOBAL":
            stack.append(_named(value))
        elif name == "REDUCE":
            arguments, function = _pop(stack), _pop(stack)
            if not isinstance(function, _Name) or function.path not in CALLS or not isinstance(arguments, tuple):
                raise Unfit("it calls what is no function")
            check, least, most = CALLS[function.path]
            if not least <= len(arguments) <= most:
                raise Unfit(f"{function.path} with {len(arguments)} arguments")
            stack.append(check(*arguments))
        elif name == "BUILD":
            state = _pop(stack)
            if not isinstance(_top(stack), _Ordered) or not isinstance(state, dict) or state.keys() - {"_metadata"}:
                raise Foreign("attributes")
        elif name == "BINPERSID":
            stack.append(storage(_pop(stack)))
        elif name == "STOP":
            return _pop(stack)
        elif name != "PROTO":
            raise Foreign(f"made by {name}")
    raise Unfit("it is cut off")


def _top(stack: list[Any]) -> Any:
    if not stack:
        raise Unfit("it takes what is not there")
    return stack[-1]


def _pop(stack: list[Any]) -> Any:
    _top(stack)
    return stack.pop()


def _below(outer: list[list[Any]]) -> list[Any]:
    """The stack below the last mark."""
    if not outer:
        raise Unfit("it lacks a mark")
    return outer.pop()


def _key(key: Any) -> Any:
    """A key of a dict. Tuples in tuples are none: their hash would take a stack as deep as they are."""
    if not (key is None or isinstance(key, str) or isinstance(key, int) and abs(key) < LARGEST_KEY):
        raise Unfit("a name is neither a text nor a small whole number")
    return key


# --- what may be called, with checked arguments -----------------------------------------------------------------------


def _ordered(content: Any = ()) -> _Ordered:
    """Python 2 wrote its pairs in a list."""
    if not isinstance(content, (list, tuple)) or not all(isinstance(pair, (list, tuple)) and len(pair) == 2 for pair in content):
        raise Unfit("an OrderedDict of something else than pairs")
    return _Ordered((_key(key), value) for key, value in content)


def _counter(content: Any = None) -> dict:
    if content is not None and type(content) is not dict:
        raise Unfit("a Counter of something else than a dict")
    return dict(content or {})


def _set(content: Any = ()) -> _Opaque:
    if not isinstance(content, (list, tuple)):
        raise Unfit("a set of something else than a list")
    for item in content:
        _key(item)
    return _Opaque("set")


def _encoded(text: Any, encoding: Any) -> _Opaque:
    if not isinstance(text, str) or encoding != "latin1":
        raise Unfit("bytes that are encoded otherwise than Python does")
    return _Opaque("bytes")


def _complex(real: Any, imaginary: Any) -> _Opaque:
    if not isinstance(real, float) or not isinstance(imaginary, float):
        raise Unfit("a complex number of something else than numbers")
    return _Opaque("complex")


def _device(kind: Any, index: Any = 0) -> _Opaque:
    if not isinstance(kind, str) or type(index) is not int:
        raise Unfit("a device that is none")
    return _Opaque("device")


def _shape(sizes: Any) -> _Opaque:
    _check_sizes(sizes)
    return _Opaque("shape")


def _check_sizes(*shapes: Any) -> None:
    for shape in shapes:
        if not isinstance(shape, tuple) or len(shape) > MOST_DIMENSIONS \
                or not all(type(size) is int and 0 <= size <= LARGEST_SIZE for size in shape):
            raise Unfit("a tensor's size or stride is none")


def _tensor(storage: Any, offset: Any, size: Any, stride: Any, requires_grad: Any, hooks: Any, metadata: Any = None) -> _Opaque:
    return _view(storage, storage.itemsize if isinstance(storage, _Storage) else 1, offset, size, stride, requires_grad, hooks,
                 metadata)


def _tensor_of_dtype(storage: Any, offset: Any, size: Any, stride: Any, requires_grad: Any, hooks: Any, dtype: Any,
                     metadata: Any = None) -> _Opaque:
    return _view(storage, _dtype(dtype).itemsize, offset, size, stride, requires_grad, hooks, metadata)


def _view(storage: Any, itemsize: int, offset: Any, size: Any, stride: Any, requires_grad: Any, hooks: Any,
          metadata: Any) -> _Opaque:
    """A tensor whose entries all lie in its storage; one that repeats entries may be larger."""
    _check_sizes(size, stride, (offset,))
    if not isinstance(storage, _Storage) or len(size) != len(stride) or type(requires_grad) is not bool or hooks != {} \
            or not isinstance(hooks, dict) or metadata not in (None, {}):
        raise Unfit("a tensor is not described as torch does")
    last = offset + sum((count - 1) * step for count, step in zip(size, stride))
    if 0 not in size and (last + 1) * itemsize > storage.entries * storage.itemsize:
        raise Unfit("a tensor reaches beyond its storage")
    return _Opaque("tensor")


def _parameter(tensor: Any, requires_grad: Any, hooks: Any) -> _Opaque:
    if not isinstance(tensor, _Opaque) or tensor.kind != "tensor" or type(requires_grad) is not bool or hooks != {}:
        raise Unfit("a parameter is not described as torch does")
    return tensor


def _without_data(dtype: Any, size: Any, stride: Any, requires_grad: Any) -> _Opaque:
    _check_sizes(size, stride)
    if len(size) != len(stride) or type(requires_grad) is not bool:
        raise Unfit("a tensor is not described as torch does")
    _dtype(dtype)
    return _Opaque("tensor")


def _dtype(name: Any) -> torch.dtype:
    if not isinstance(name, _Name) or name.path not in DTYPES:
        raise Unfit("a tensor's dtype is none")
    return DTYPES[name.path]


def _named(path: str) -> _Name:
    if path not in CALLS and path not in DTYPES and path not in STORAGES:
        raise Foreign(path.replace(" ", "."))
    return _Name(path)


# function, and the fewest and most arguments it takes
CALLS: dict[str, tuple[Callable[..., Any], int, int]] = {
    "collections OrderedDict": (_ordered, 0, 1), "collections Counter": (_counter, 0, 1), "__builtin__ set": (_set, 0, 1),
    "__builtin__ complex": (_complex, 2, 2), "_codecs encode": (_encoded, 2, 2), "torch device": (_device, 1, 2),
    "torch Size": (_shape, 1, 1), "torch._utils _rebuild_tensor_v2": (_tensor, 6, 7),
    "torch._utils _rebuild_tensor_v3": (_tensor_of_dtype, 7, 8), "torch._utils _rebuild_parameter": (_parameter, 3, 3),
    "torch._utils _rebuild_meta_tensor_no_storage": (_without_data, 4, 4),
}
