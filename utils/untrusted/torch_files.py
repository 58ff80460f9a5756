"""Strangers' torch files, checked before torch reads them.

`torch.load(weights_only=True)` runs no code of the file. But a small file can still make it call constructors until the memory
is full, read beyond what the file holds, or hand back tensors and dicts whose methods the stranger chose. So a file is first
read by the rules here, which know what `torch.save` writes of plain tensors, numbers, texts and containers, compute nothing, and
make nothing larger than the file. What fits them is put together anew, so torch never sees the stranger's archive; tensors are
read where they are, as a copy would take as long as all of torch's work.
"""

import bisect
import io
import math
import pickletools
import struct
import zipfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, BinaryIO

import torch

MAX_PICKLE = 1 << 23  # bytes that say what the tensors are; a ResNet-50 and its optimizer take 1/150 of that
SMALL_KEY, LARGEST_KEY = 1 << 32, 1 << 60  # whole numbers as names; beyond 2 ** 61 some have one hash, and thousands take hours
MOST_ODD_KEYS, LONGEST_KEY = 1 << 14, 16  # of names that can be made to collide: addresses, fractions, tuples; parts of a tuple
LARGEST_SIZE, MOST_ENTRIES, MOST_DIMENSIONS = 1 << 40, 1 << 62, 16
CHUNK = 1 << 20  # bytes
MOST_CALLS = 1 << 16  # two for a tensor
LEGACY_MAGIC, LEGACY_PROTOCOL = 0x1950A86A20F9469CFC6C, 1001  # before torch 1.6

# of which type the entries are; other kinds (quantised ones) hold no weights that this project reads
STORAGES = {"torch.storage UntypedStorage": torch.uint8, "torch FloatStorage": torch.float32, "torch DoubleStorage": torch.float64,
            "torch HalfStorage": torch.float16, "torch BFloat16Storage": torch.bfloat16, "torch LongStorage": torch.int64,
            "torch IntStorage": torch.int32, "torch ShortStorage": torch.int16, "torch CharStorage": torch.int8,
            "torch ByteStorage": torch.uint8, "torch BoolStorage": torch.bool, "torch ComplexFloatStorage": torch.complex64,
            "torch ComplexDoubleStorage": torch.complex128}
DTYPES = {f"torch {name}": value for name, value in vars(torch).items() if isinstance(value, torch.dtype)}


class Unfit(ValueError):
    """The file is nothing that `torch.save` writes."""


class Foreign(Unfit):
    """It holds something else than plain content; the text names that."""


class TooLong(Unfit):
    """What it says of its content is longer than what is read."""


@dataclass(frozen=True)
class Name:
    """A name of torch's or Python's in the file, `module name`."""

    path: str


@dataclass(frozen=True)
class Storage:
    """Where a tensor's entries stand. kind: in STORAGES. itemsize: bytes of an entry."""

    key: str
    kind: str
    entries: int

    @property
    def itemsize(self) -> int:
        return STORAGES[self.kind].itemsize


class Opaque:
    """A value of which only its kind matters: a tensor, a shape, a device, ..."""

    def __init__(self, kind: str):
        self.kind = kind


class TensorAt(Opaque):
    """A tensor, as the pickle describes it: where its entries stand, of which type (None for its storage's), which of them they
    are."""

    def __init__(self, storage: Storage, dtype: torch.dtype | None, offset: int, size: tuple[int, ...], stride: tuple[int, ...]):
        super().__init__("tensor")
        self.storage, self.dtype, self.offset, self.size, self.stride = storage, dtype, offset, size, stride


class _Ordered(dict):
    """An OrderedDict; only these carry attributes, of which state_dict() has one."""


def plain(file: BinaryIO, size: int) -> BinaryIO:
    """The same content for `torch.load(weights_only=True)`, if it is plain.

    Args:
        file: at its beginning; to be left open, and alone, while the result is read. size: its bytes.
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
        entries = records(archive, size)
        if entries["data.pkl"].file_size > MAX_PICKLE:
            raise TooLong(f"{entries['data.pkl'].file_size} bytes")
        pickled = archive.read(entries["data.pkl"])
        storages: dict[str, Storage] = {}
        Pickle(partial(recorded, entries, storages)).read(io.BytesIO(pickled))
        order = archive.read(entries["byteorder"]) if "byteorder" in entries else b"little"
        if order not in (b"little", b"big"):
            raise Unfit("its byte order is neither little nor big")
    packed = _Archive(file)
    packed.add("data.pkl", pickled)
    packed.add("byteorder", order)
    for key in storages:
        packed.add_record(f"data/{key}", entries[f"data/{key}"])
    packed.add("version", b"3\n")
    return packed.finished()


def records(archive: zipfile.ZipFile, size: int) -> dict[str, zipfile.ZipInfo]:
    """The records of torch's archive in a file of `size` bytes, by their names behind the first folder. Raises Unfit."""
    entries = {}
    for entry in archive.infolist():
        name = entry.filename.partition("/")[2]
        if name in entries:
            raise Unfit("two records have one name")
        if entry.compress_type != zipfile.ZIP_STORED or entry.compress_size != entry.file_size:
            raise Unfit("a record is compressed")
        entries[name] = entry
    if sum(entry.file_size for entry in entries.values()) > size:
        raise Unfit("the records are larger than the file")
    if "data.pkl" not in entries:
        raise Unfit("data.pkl is missing")
    return entries


def recorded(entries: Mapping[str, zipfile.ZipInfo], storages: dict[str, Storage], pid: Any) -> Storage:
    """The storage that a pickle describes, which joins `storages`. Raises Unfit where no record holds it."""
    if not isinstance(pid, tuple) or len(pid) != 5:
        raise Unfit("a storage is not described as torch does")
    found = _storage(pid, storages)
    if found.key not in storages:
        entry = entries.get(f"data/{found.key}")
        if entry is None or entry.file_size != found.entries * found.itemsize:
            raise Unfit(f"record data/{found.key} is missing or of another size")
    storages[found.key] = found
    return found


def _plain_legacy(file: BinaryIO, size: int) -> BinaryIO:
    """Before torch 1.6: pickles one after the other, then the storages, each with its number of entries."""
    start = file.read(MAX_PICKLE)
    _, _, at = legacy(file, start, size, Pickle)
    whole = _Pieces(file)
    whole.add(start[:at])  # as they were checked
    whole.add_range(len(start), max(0, at - len(start)))
    return io.BufferedReader(whole)


def legacy(file: BinaryIO, start: bytes, size: int, reader: "type[Pickle]") -> tuple[Any, dict[Storage, int], int]:
    """(what the file holds, where in it each storage's entries begin, where they end). start: of the file, with all pickles in it;
    reader: of the one that holds the content. Raises Unfit."""
    def no_storage(pid: Any) -> Storage:
        raise Unfit("a storage stands where none belongs")

    pickles = io.BytesIO(start)
    if Pickle(no_storage).read(pickles) != LEGACY_MAGIC or Pickle(no_storage).read(pickles) != LEGACY_PROTOCOL:
        raise Unfit("it does not begin as a torch file")
    Pickle(no_storage).read(pickles)  # of the machine that wrote it
    storages: dict[str, Storage] = {}

    def storage(pid: Any) -> Storage:
        if not isinstance(pid, tuple) or len(pid) != 6 or pid[5] is not None:
            raise Unfit("a storage is not described as torch does")
        found = storages[pid[2]] = _storage(pid[:5], storages)
        return found

    content = reader(storage).read(pickles)
    keys = Pickle(no_storage).read(pickles)
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys) or sorted(keys) != sorted(storages):
        raise Unfit("its storages are not those that its tensors need")
    at, places = pickles.tell(), {}
    for key in keys:
        file.seek(at)
        if int.from_bytes(file.read(8), "little") != storages[key].entries:
            raise Unfit("a storage is of another size than its tensors need")
        places[storages[key]] = at + 8
        at += 8 + storages[key].entries * storages[key].itemsize
    if at > size:
        raise Unfit("it is cut off")
    return content, places, at


def _storage(pid: tuple, known: Mapping[str, Storage]) -> Storage:
    kind, name, key, location, entries = pid
    if kind != "storage" or not isinstance(name, Name) or name.path not in STORAGES or not isinstance(location, str) \
            or not isinstance(key, str) or not (key.isascii() and key.isdecimal()) or type(entries) is not int \
            or not 0 <= entries <= LARGEST_SIZE:
        raise Unfit("a storage is not described as torch does")
    found = Storage(key, name.path, entries)
    if known.get(key, found) != found:
        raise Unfit("one storage is described in two ways")
    return found


# --- what torch gets --------------------------------------------------------------------------------------------------


class _Pieces(io.RawIOBase):
    """Pieces of memory and of a file, one behind the other. No file of the system's, so torch tries no other formats."""

    def __init__(self, file: BinaryIO):
        super().__init__()
        self.size = 0
        self._file, self._at = file, 0
        self._pieces: list[bytes | int] = []  # an int: where it begins in the file
        self._starts: list[int] = []

    def add(self, content: bytes) -> None:
        self._append(content, len(content))

    def add_range(self, start: int, size: int) -> None:
        self._append(start, size)

    def _append(self, piece: bytes | int, size: int) -> None:
        if size:
            self._pieces.append(piece)
            self._starts.append(self.size)
            self.size += size

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = max(0, offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self.size}[whence])
        return self._at

    def readinto(self, buffer) -> int:
        target, done = memoryview(buffer).cast("B"), 0
        while done < len(target) and self._at < self.size:
            index = bisect.bisect_right(self._starts, self._at) - 1
            piece, skipped = self._pieces[index], self._at - self._starts[index]
            end = self._starts[index + 1] if index + 1 < len(self._starts) else self.size
            part = target[done:done + end - self._at]
            if isinstance(piece, bytes):
                part[:] = piece[skipped:skipped + len(part)]
            else:
                self._file.seek(piece + skipped)
                if self._file.readinto(part) != len(part):
                    raise Unfit("it is cut off")
            done, self._at = done + len(part), self._at + len(part)
        return done


class _Archive:
    """A zip, as torch writes it: nothing compressed, all sizes in 64 bits."""

    ELSEWHERE = 0xFFFFFFFF  # the size stands in 64 bits behind the name

    def __init__(self, file: BinaryIO):
        self._file, self._whole = file, _Pieces(file)
        self._directory: list[bytes] = []

    def add(self, name: str, content: bytes) -> None:
        self._begin(name, len(content), zlib.crc32(content))
        self._whole.add(content)

    def add_record(self, name: str, entry: zipfile.ZipInfo) -> None:
        """A record of the file, once its checksum is seen to hold. Raises Unfit where it does not."""
        self._file.seek(entry.header_offset + 26)
        start = entry.header_offset + 30 + sum(struct.unpack("<2H", self._file.read(4)))
        self._file.seek(start)
        left, checksum, chunk = entry.file_size, 0, memoryview(bytearray(min(CHUNK, entry.file_size)))
        while left:
            read = self._file.readinto(chunk[:left])
            if not read:
                raise Unfit("it is cut off")
            left, checksum = left - read, zlib.crc32(chunk[:read], checksum)
        if checksum != entry.CRC:
            raise Unfit(f"record {name} was changed")
        self._begin(name, entry.file_size, checksum)
        self._whole.add_range(start, entry.file_size)

    def _begin(self, name: str, size: int, checksum: int) -> None:
        path, start = f"archive/{name}".encode(), self._whole.size
        self._whole.add(struct.pack("<4s5H3L2H", b"PK\3\4", 45, 0, 0, 0, 33, checksum, self.ELSEWHERE, self.ELSEWHERE, len(path),
                                    20)
                        + path + struct.pack("<2H2Q", 1, 16, size, size))
        self._directory.append(struct.pack("<4s6H3L5H2L", b"PK\1\2", 45, 45, 0, 0, 0, 33, checksum, self.ELSEWHERE,
                                           self.ELSEWHERE,
                                           len(path), 28, 0, 0, 0, 0, self.ELSEWHERE)
                               + path + struct.pack("<2H3Q", 1, 24, size, size, start))

    def finished(self) -> BinaryIO:
        start, records = self._whole.size, len(self._directory)
        for entry in self._directory:
            self._whole.add(entry)
        end = self._whole.size
        self._whole.add(struct.pack("<4sQ2H2L4Q", b"PK\6\6", 44, 45, 45, 0, 0, records, records, end - start, start)
                        + struct.pack("<4sLQL", b"PK\6\7", 0, end, 1)
                        + struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 0xFFFF, 0xFFFF, self.ELSEWHERE, self.ELSEWHERE, 0))
        return io.BufferedReader(self._whole)


# --- the pickle -------------------------------------------------------------------------------------------------------


class Pickle:
    """One pickle as it is read: containers as they are, all else as Opaque. Knows the operations that torch knows (OPERATIONS),
    and no others."""

    def __init__(self, storage: Callable[[Any], Storage]):
        """storage: makes a storage of what the pickle says of it."""
        self._storage = storage
        self._stack: list[Any] = []
        self._outer: list[list[Any]] = []  # stacks below marks
        self._memo: dict[int, Any] = {}
        self._calls, self._copied, self._position, self._odd_keys = 0, 0, 0, 0
        self._empty: list[dict] = []  # that functions were called with

    def read(self, stream: BinaryIO) -> Any:
        """What the pickle holds. The stream stands behind it afterwards."""
        return self.follow(stream, OPERATIONS)

    def follow(self, stream: BinaryIO, operations: "Mapping[str, Callable[[Pickle, Any], None]]") -> Any:
        """The same, by these operations and STOP."""
        for operation, value, self._position in pickletools.genops(stream):
            if operation.name == "STOP":
                if any(self._empty):  # filled after the tensor whose hooks they are
                    raise Unfit("a tensor has hooks")
                return self.pop()
            if operation.name not in operations:
                raise Foreign(f"made by {operation.name}")
            operations[operation.name](self, value)
        raise Unfit("it is cut off")

    def push(self, value: Any) -> None:
        self._stack.append(value)

    def top(self) -> Any:
        if not self._stack:
            raise Unfit("it takes what is not there")
        return self._stack[-1]

    def pop(self) -> Any:
        self.top()
        return self._stack.pop()

    def take(self, count: int) -> list[Any]:
        """The last few values, the first of them first."""
        return [self.pop() for _ in range(count)][::-1]

    def mark(self) -> None:
        self._outer.append(self._stack)
        self._stack = []

    def take_marked(self) -> list[Any]:
        """All values since the last mark."""
        if not self._outer:
            raise Unfit("it lacks a mark")
        values, self._stack = self._stack, self._outer.pop()
        return values

    def remember(self, number: int) -> None:
        self._memo[number] = self.top()

    def recall(self, number: int) -> None:
        if number not in self._memo:
            raise Unfit("it names what is not there")
        self.push(self._memo[number])

    def push_old_text(self, text: str) -> None:
        """Of Python 2; what is not ASCII is decoded differently here and there."""
        if not text.isascii():
            raise Unfit("a text is not ASCII")
        self.push(text)

    def extend_list(self, items: list[Any]) -> None:
        if type(self.top()) is not list:
            raise Unfit("it adds to what is no list")
        self.top().extend(items)

    def fill_dict(self, items: list[Any]) -> None:
        """items: keys and values in turn."""
        if not isinstance(self.top(), dict) or len(items) % 2:
            raise Unfit("it sets entries of what is no dict")
        for key, held in zip(items[::2], items[1::2]):
            self.count_key(key)
            self.top()[_key(key)] = held

    def count_key(self, key: Any) -> None:
        self._odd_keys += not (key is None or isinstance(key, str) or isinstance(key, int) and abs(key) < SMALL_KEY)
        if self._odd_keys > MOST_ODD_KEYS:
            raise Unfit("it has too many names that are no texts")

    def call(self) -> None:
        function, arguments = self.take(2)
        if not isinstance(function, Name) or function.path not in CALLS or not isinstance(arguments, tuple):
            raise Unfit("it calls what is no function")
        check, least, most = CALLS[function.path]
        if not least <= len(arguments) <= most:
            raise Unfit(f"{function.path} with {len(arguments)} arguments")
        contents = [held for held in arguments if isinstance(held, (str, tuple, list, dict))]
        self._calls += 1
        self._copied += sum(map(len, contents))
        if self._calls > MOST_CALLS or self._copied > self._position:  # one list may be named, and copied, thousands of times
            raise Unfit("it makes too much of what it holds")
        self._empty += [held for held in contents if isinstance(held, dict) and not held]
        self.push(check(*arguments))

    def set_attributes(self) -> None:
        state = self.pop()
        if not isinstance(self.top(), _Ordered) or not isinstance(state, dict) or state.keys() - {"_metadata"}:
            raise Foreign("attributes")

    def push_storage(self) -> None:
        self.push(self._storage(self.pop()))


# what an operation of a pickle does, with the value that stands behind it; STOP is `Pickle.read`'s
OPERATIONS: dict[str, Callable[[Pickle, Any], None]] = {
    "PROTO": lambda pickle, version: None,
    **dict.fromkeys(("BININT", "BININT1", "BININT2", "BINFLOAT", "LONG1", "BINUNICODE"), Pickle.push),
    "SHORT_BINSTRING": Pickle.push_old_text,
    "NONE": lambda pickle, _: pickle.push(None),
    "NEWTRUE": lambda pickle, _: pickle.push(True),
    "NEWFALSE": lambda pickle, _: pickle.push(False),
    "EMPTY_LIST": lambda pickle, _: pickle.push([]),
    "EMPTY_DICT": lambda pickle, _: pickle.push({}),
    "EMPTY_TUPLE": lambda pickle, _: pickle.push(()),
    **dict.fromkeys(("BINPUT", "LONG_BINPUT"), Pickle.remember),
    **dict.fromkeys(("BINGET", "LONG_BINGET"), Pickle.recall),
    "MARK": lambda pickle, _: pickle.mark(),
    "TUPLE": lambda pickle, _: pickle.push(tuple(pickle.take_marked())),
    "TUPLE1": lambda pickle, _: pickle.push(tuple(pickle.take(1))),
    "TUPLE2": lambda pickle, _: pickle.push(tuple(pickle.take(2))),
    "TUPLE3": lambda pickle, _: pickle.push(tuple(pickle.take(3))),
    "APPEND": lambda pickle, _: pickle.extend_list(pickle.take(1)),
    "APPENDS": lambda pickle, _: pickle.extend_list(pickle.take_marked()),
    "SETITEM": lambda pickle, _: pickle.fill_dict(pickle.take(2)),
    "SETITEMS": lambda pickle, _: pickle.fill_dict(pickle.take_marked()),
    "GLOBAL": lambda pickle, path: pickle.push(_named(path)),
    "REDUCE": lambda pickle, _: pickle.call(),
    "BUILD": lambda pickle, _: pickle.set_attributes(),
    "BINPERSID": lambda pickle, _: pickle.push_storage(),
}


def _key(key: Any, inside: bool = False) -> Any:
    """A key of a dict. Tuples in tuples are none: their hash would take a stack as deep as they are."""
    if isinstance(key, tuple) and not inside and len(key) <= LONGEST_KEY:
        return tuple(_key(part, inside=True) for part in key)
    if not (key is None or isinstance(key, (str, float)) or isinstance(key, int) and abs(key) < LARGEST_KEY):
        raise Unfit("a name is neither a text nor a number")
    return key


def _small_key(key: Any) -> Any:
    """Of what is made in one call, whose keys nobody counts."""
    if not (key is None or isinstance(key, str) or isinstance(key, int) and abs(key) < SMALL_KEY):
        raise Unfit("a name is neither a text nor a small whole number")
    return key


# --- what may be called, with checked arguments -----------------------------------------------------------------------


def _ordered(content: Any = ()) -> _Ordered:
    """Python 2 wrote its pairs in a list."""
    if not isinstance(content, (list, tuple)) or not all(isinstance(pair, (list, tuple)) and len(pair) == 2 for pair in content):
        raise Unfit("an OrderedDict of something else than pairs")
    return _Ordered((_small_key(key), value) for key, value in content)


def _counter(content: Any = None) -> dict:
    if content is not None and type(content) is not dict:
        raise Unfit("a Counter of something else than a dict")
    return dict(content or {})


def _set(content: Any = ()) -> Opaque:
    if not isinstance(content, (list, tuple)):
        raise Unfit("a set of something else than a list")
    for item in content:
        _small_key(item)
    return Opaque("set")


def _encoded(text: Any, encoding: Any) -> Opaque:
    if not isinstance(text, str) or encoding != "latin1":
        raise Unfit("bytes that are encoded otherwise than Python does")
    return Opaque("bytes")


def _complex(real: Any, imaginary: Any) -> Opaque:
    if not isinstance(real, float) or not isinstance(imaginary, float):
        raise Unfit("a complex number of something else than numbers")
    return Opaque("complex")


def _device(kind: Any, index: Any = 0) -> Opaque:
    if not isinstance(kind, str) or type(index) is not int:
        raise Unfit("a device that is none")
    return Opaque("device")


def _shape(sizes: Any) -> Opaque:
    _check_sizes(sizes)
    return Opaque("shape")


def _check_sizes(*shapes: Any) -> None:
    for shape in shapes:
        if not isinstance(shape, tuple) or len(shape) > MOST_DIMENSIONS \
                or not all(type(size) is int and 0 <= size <= LARGEST_SIZE for size in shape):
            raise Unfit("a tensor's size or stride is none")


def _check_entries(size: tuple[int, ...]) -> None:
    if math.prod(max(1, count) for count in size) > MOST_ENTRIES:
        raise Unfit("a tensor has more entries than 64 bits can count")


def _tensor(storage: Any, offset: Any, size: Any, stride: Any, requires_grad: Any, hooks: Any, metadata: Any = None) -> Opaque:
    return _view(storage, None, offset, size, stride, requires_grad, hooks, metadata)


def _bare_tensor(storage: Any, offset: Any, size: Any, stride: Any) -> Opaque:
    """As torch 0.3 wrote it."""
    return _tensor(storage, offset, size, stride, False, {})


def _tensor_of_dtype(storage: Any, offset: Any, size: Any, stride: Any, requires_grad: Any, hooks: Any, dtype: Any,
                     metadata: Any = None) -> Opaque:
    return _view(storage, _dtype(dtype), offset, size, stride, requires_grad, hooks, metadata)


def _view(storage: Any, dtype: torch.dtype | None, offset: Any, size: Any, stride: Any, requires_grad: Any, hooks: Any,
          metadata: Any) -> Opaque:
    """A tensor whose entries all lie in its storage; one that repeats entries may be larger."""
    _check_sizes(size, stride, (offset,))
    if not isinstance(storage, Storage) or len(size) != len(stride) or type(requires_grad) is not bool or hooks != {} \
            or not isinstance(hooks, dict) or metadata not in (None, {}):
        raise Unfit("a tensor is not described as torch does")
    _check_entries(size)
    last = offset + sum((count - 1) * step for count, step in zip(size, stride))
    if 0 not in size and (last + 1) * (dtype or storage).itemsize > storage.entries * storage.itemsize:
        raise Unfit("a tensor reaches beyond its storage")
    return TensorAt(storage, dtype, offset, size, stride)


def _parameter(tensor: Any, requires_grad: Any, hooks: Any) -> Opaque:
    if not isinstance(tensor, Opaque) or tensor.kind != "tensor" or type(requires_grad) is not bool or hooks != {}:
        raise Unfit("a parameter is not described as torch does")
    return tensor


def _without_data(dtype: Any, size: Any, stride: Any, requires_grad: Any) -> Opaque:
    _check_sizes(size, stride)
    if len(size) != len(stride) or type(requires_grad) is not bool:
        raise Unfit("a tensor is not described as torch does")
    _check_entries(size)
    _dtype(dtype)
    return Opaque("tensor")


def _dtype(name: Any) -> torch.dtype:
    if not isinstance(name, Name) or name.path not in DTYPES:
        raise Unfit("a tensor's dtype is none")
    return DTYPES[name.path]


def _named(path: str) -> Name:
    if path not in CALLS and path not in DTYPES and path not in STORAGES:
        raise Foreign(path.replace(" ", "."))
    return Name(path)


# function, and the fewest and most arguments it takes
CALLS: dict[str, tuple[Callable[..., Any], int, int]] = {
    "collections OrderedDict": (_ordered, 0, 1), "collections Counter": (_counter, 0, 1), "__builtin__ set": (_set, 0, 1),
    "__builtin__ complex": (_complex, 2, 2), "_codecs encode": (_encoded, 2, 2), "torch device": (_device, 1, 2),
    "torch Size": (_shape, 1, 1), "torch._utils _rebuild_tensor": (_bare_tensor, 4, 4),
    "torch._utils _rebuild_tensor_v2": (_tensor, 6, 7),
    "torch._utils _rebuild_tensor_v3": (_tensor_of_dtype, 7, 8), "torch._utils _rebuild_parameter": (_parameter, 3, 3),
    "torch._utils _rebuild_meta_tensor_no_storage": (_without_data, 4, 4),
}
