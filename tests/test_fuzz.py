"""Hostile files by the thousand: each reads as what it should be, or is refused in one line. Never anything else.

    pytest tests/test_fuzz.py                                       # a few hundred for each reader, and what was found before
    FUZZ_EXAMPLES=50000 pytest -m nightly tests/test_fuzz.py        # more; 10,000 for each reader where it is not set

Inputs begin as valid files and are changed where a stranger would change them: in what they hold, in the pickle, in the archive,
byte by byte. Whatever reads as valid is then checked against what its reader promises, by other means.
"""

import codecs
import collections
import copy
import csv
import io
import json
import os
import pickletools
import re
import signal
import sys
import time
import warnings
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from zlib import crc32

import numpy as np
import onnx
import pytest
import torch
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import HealthCheck, currently_in_test_context, event, given, settings
from hypothesis import strategies as st
from safetensors.torch import save as as_safetensors

from models import build_model
from ownership.claims import commitment, owner_claim
from ownership.trigger_set.evidence import read_predictions
from ownership.key_mask.claim import KeyMask
from ownership.qr_code.claim import CodeClaim, read_claim, write_claim
from ownership.trigger_set.claim import Triggers
from ownership.qr_code.window import window_of
from ownership.suspects.reading import read_suspect
from pruner.qr_code import geometry as qr_code
from pruner.qr_code.embedding import Place
from pruner.derivation import choose_prefix, match_layers
from pruner.masks import Mask, pack_state, prunable_layers, weights_per_kernel
from pruner.tickets import read_model_file
from utils import checkpoint
from utils.checkpoint import FileBytes
from utils.errors import UserError
from utils.untrusted import model_formats
from utils.untrusted.salvage import tensors_of

pytestmark = pytest.mark.slow  # hundreds of inputs each
SUITE = 300  # inputs of each kind in an ordinary run
SECONDS = 20  # for one input, on a busy machine
MEBIBYTES = 400  # that one input may take beyond what the process has
LONGEST = 700  # letters of a message, beside the path
MARKER = "executed"  # a file that code in an input would leave

LAYER = "layer1.0.conv1"


# --- what holds for every input ---------------------------------------------------------------------------------------


class Hanging(BaseException):
    """Not an Exception: no reader may take it for a damaged file."""


def memory(field: str) -> int:
    """A field of /proc/self/status, in MiB."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(f"{field}:"))
    return int(line.split()[1]) >> 10


watching: list[str] | None = None


def note_what_is_run(event: str, arguments: tuple) -> None:
    if watching is not None and event in ("os.system", "os.exec", "os.posix_spawn", "os.fork", "subprocess.Popen", "os.remove",
                                          "os.rename", "os.mkdir", "socket.connect", "shutil.rmtree"):
        watching.append(event)


sys.addaudithook(note_what_is_run)


def read_or_refused(read: Callable[[], object], *paths: Path) -> object | None:
    """What `read` gives, or None where it refuses as it should, naming one of the paths; anything else fails."""
    global watching

    def too_long(signal_number, frame):
        raise Hanging(f"{SECONDS} seconds")

    before, watching = signal.signal(signal.SIGALRM, too_long), []
    held = memory("VmRSS")
    try:
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    except OSError:
        pass  # then it is that of the whole process, which is only a weaker test
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        found, outcome = read(), "valid"
    except UserError as error:
        found, message = None, str(error)
        outcome = "refused: " + re.sub(r"['\"].*?['\"]|\d+|\S*/\S*", "_", message)[:70]
        assert any(str(path) in message for path in paths)
        rest = message.replace(str(paths[0].parent), "")
        assert rest.isprintable() and len(rest) <= LONGEST, rest[:2 * LONGEST]
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        done, watching = watching, None
    if currently_in_test_context():
        event(outcome)  # pytest --hypothesis-show-statistics
    assert not done, f"the file made its reader call {done}"
    assert not (paths[0].parent / MARKER).exists(), "code of the file was executed"
    assert memory("VmHWM") - held < MEBIBYTES
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("hostile")


# --- a model's file: templates ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return build_model("res20s", 10)


@pytest.fixture(scope="module")
def mask(model) -> Mask:
    generator = torch.Generator().manual_seed(1)
    return Mask({name: torch.rand(layer.weight.shape, generator=generator) < 0.3
                 for name, layer in prunable_layers(model).items()})


@pytest.fixture(scope="module")
def packed(model, mask) -> dict[str, torch.Tensor]:
    """As torch.nn.utils.prune leaves it."""
    return {name: tensor.detach().clone() for name, tensor in pack_state(model.state_dict(), mask).items()}


def saved(content, legacy: bool = False) -> bytes:
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.save(content, file, _use_new_zipfile_serialization=not legacy)
    return file.getvalue()


class Call:
    """Pickles as the call of any function, with any state set on what it gives."""

    def __init__(self, function: Callable, *arguments, state=None):
        self.call = (function, arguments) if state is None else (function, arguments, state)

    def __reduce__(self):
        return self.call


# --- a model's file: what may stand in it -----------------------------------------------------------------------------


def exchanged(tensor: torch.Tensor, kind: str) -> object:
    """Another tensor instead; the same one where torch has none of this kind."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch says of several kinds that they are prototypes
            return TENSORS[kind](tensor)
    except (RuntimeError, TypeError, IndexError, ValueError, NotImplementedError):
        return tensor


def spoiled(tensor: torch.Tensor, value: float) -> torch.Tensor:
    tensor = tensor.double() if abs(value) > 1e38 and value < float("inf") else tensor.float()
    tensor.reshape(-1)[:1] = value
    return tensor


def with_attribute(tensor: torch.Tensor, name: str) -> torch.Tensor:
    tensor = tensor.clone()
    setattr(tensor, name, "chosen by the stranger")
    return tensor


def bool_bytes(tensor: torch.Tensor, byte: int) -> torch.Tensor:
    return torch.full(tensor.shape, byte, dtype=torch.uint8).view(torch.bool)


DTYPES = (torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.float16, torch.bfloat16,
          torch.float32,
          torch.float64, torch.complex64, torch.complex128, torch.float8_e4m3fn, torch.float8_e5m2, torch.uint16, torch.uint32)
TENSORS: dict[str, Callable[[torch.Tensor], object]] = {
    **{str(dtype): lambda t, dtype=dtype: t.to(dtype) for dtype in DTYPES},
    **{f"holds {value}": lambda t, value=value: spoiled(t.clone(), value)
       for value in (float("nan"), float("inf"), -float("inf"), 1e300, -1.0, 0.5, 2.0, 1e-40, -0.0)},
    "zeros": torch.zeros_like, "ones": torch.ones_like, "bool bytes of 255": lambda t: bool_bytes(t, 255),
    "bool bytes of 2": lambda t: bool_bytes(t, 2),
    "one entry for all": lambda t: torch.ones(1).expand(t.shape),
    "overlapping": lambda t: torch.rand(200).as_strided(t.shape, (1,) * t.dim()),
    "transposed": lambda t: t.mT, "backwards": lambda t: t.flip(0),
    "inside a larger one": lambda t: torch.cat((t.reshape(-1), t.reshape(-1)))[t.numel() // 2:][:t.numel()].view(t.shape),
    "channels last": lambda t: t.contiguous(memory_format=torch.channels_last),
    "huge, of one entry": lambda t: torch.ones(1).expand(10**6, 10**6),
    "a gigabyte, of one entry": lambda t: torch.ones(1).expand(2**28),
    "without dimensions": lambda t: torch.tensor(1.0), "empty": lambda t: torch.empty(0),
    "empty in one dimension": lambda t: t[:0],
    "a dimension more": lambda t: t[None], "flat": lambda t: t.reshape(-1), "a row less": lambda t: t[1:],
    "many dimensions": lambda t: torch.ones((1,) * 40),
    "parameter": lambda t: torch.nn.Parameter(t.float()),
    "frozen parameter": lambda t: torch.nn.Parameter(t, requires_grad=False),
    "buffer": lambda t: torch.nn.Buffer(t), "needs a gradient": lambda t: t.float().requires_grad_(),
    "negated": lambda t: torch._neg_view(t.float()), "negated bool": lambda t: torch._neg_view(t.float()) > 0,
    "conjugated": lambda t: t.to(torch.complex64).conj(), "imaginary part": lambda t: t.to(torch.complex64).conj().imag,
    "meta": lambda t: t.to("meta"), "huge meta": lambda t: torch.empty(10**9, 10**6, device="meta"),
    "sparse": lambda t: t.to_sparse(), "rows": lambda t: t.reshape(len(t), -1).to_sparse_csr(),
    "quantised": lambda t: torch.quantize_per_tensor(t.float(), 0.1, 0, torch.qint8),
    "quantised by channel": lambda t: torch.quantize_per_channel(t.float(), torch.ones(len(t)), torch.zeros(len(t)), 0,
                                                                 torch.quint8),
    "nested": lambda t: torch.nested.nested_tensor([torch.zeros(2), torch.zeros(3)]),
    "bits": lambda t: t.to(torch.uint8).view(torch.bits8),
    **{f"with its own {name}": lambda t, name=name: with_attribute(t, name)
       for name in ("is_floating_point", "to", "detach", "numpy", "any", "note")},
}
EXPANDED = torch.ones(1).expand(3 * 10**8)  # a gigabyte for whoever copies it


def endless(depth: int, kind: type) -> object:
    value: object = ()
    for _ in range(depth):
        value = kind([value]) if kind is not dict else {"a": value}
    return value


def recursive() -> list:
    held: list = []
    held.append(held)
    return held


VALUES: dict[str, Callable[[], object]] = {
    "None": lambda: None, "a number": lambda: 3, "a large number": lambda: 10**300, "NaN": lambda: float("nan"),
    "a text": lambda: "weights", "bytes": lambda: b"weights", "a list": lambda: [1.0, 2.0], "a dict": lambda: {"weight": 1},
    "an OrderedDict": collections.OrderedDict, "a Counter": lambda: collections.Counter({30: 1, 60: 1}), "a set": lambda: {1, 2},
    "a complex number": lambda: 1j, "a shape": lambda: torch.Size((2, 3)), "a dtype": lambda: torch.float16,
    "a device": lambda: torch.device("cpu"), "a cuda device": lambda: torch.device("cuda", 7), "recursive": recursive,
    "a class": lambda: torch.nn.Parameter, "deep lists": lambda: endless(400, list), "deep dicts": lambda: endless(400, dict),
    "deep tuples": lambda: endless(400, tuple), "a numpy number": lambda: np.float64(1.0), "an array": lambda: np.ones(3),
    "a generator": torch.Generator, "a network": lambda: torch.nn.Linear(2, 2), "a slice": lambda: slice(1),
    "range": lambda: range(3),
}
CALLS: dict[str, Callable[[Path], Call]] = {
    "os.system": lambda folder: Call(os.system, f"touch {folder / MARKER}"),
    "eval": lambda folder: Call(eval, f"open({str(folder / MARKER)!r}, 'w')"),
    "exec": lambda folder: Call(exec, f"open({str(folder / MARKER)!r}, 'w')"),
    "open": lambda folder: Call(open, str(folder / MARKER), "w"),
    "getattr": lambda folder: Call(getattr, "", "join"), "bytearray": lambda folder: Call(bytearray, 10**9),
    "import": lambda folder: Call(__import__, "antigravity"), "Tensor": lambda folder: Call(torch.Tensor, 30000, 30000),
    "FloatTensor": lambda folder: Call(torch.FloatTensor, 10, 10), "a storage": lambda folder: Call(torch.UntypedStorage, 10**9),
    "a typed storage": lambda folder: Call(torch.storage.TypedStorage, 10**9),
    "a parameter": lambda folder: Call(torch.nn.Parameter),
    "Counter of a tensor": lambda folder: Call(collections.Counter, EXPANDED),
    "set of a tensor": lambda folder: Call(set, EXPANDED),
    "OrderedDict of a tensor": lambda folder: Call(collections.OrderedDict, EXPANDED[:, None].expand(-1, 2)),
    "shape of a tensor": lambda folder: Call(torch.Size, EXPANDED),
    "converted": lambda folder: Call(torch._utils._rebuild_device_tensor_from_cpu_tensor, EXPANDED, torch.float64, "cpu", False),
    "a sparse tensor": lambda folder: Call(torch._utils._rebuild_sparse_tensor, torch.sparse_coo,
                                         (torch.zeros(1, 1, dtype=torch.long).expand(1, 10**8), EXPANDED[:10**8], (1,), None)),
    "a wrapper": lambda folder: Call(torch._utils._rebuild_wrapper_subclass, torch.nn.Parameter, torch.float32, (10, 64), (64, 1),
                                     0,
                                   torch.strided, torch.device("cpu"), False),
    "of a type": lambda folder: Call(torch._tensor._rebuild_from_type_v2, torch._utils._rebuild_parameter, torch.Tensor,
                                   (torch.ones(10), False, collections.OrderedDict()), {"is_floating_point": 3}),
    "items of its own": lambda folder: Call(collections.OrderedDict, state={"items": 3, "get": 3, "keys": set, "_metadata": {}}),
    "hex of hex": lambda folder: Call(__import__("_codecs").encode, Call(__import__("_codecs").encode, b"x" * 99, "hex"), "hex"),
    "a device": lambda folder: Call(torch.device, "cuda:99"), "a device of no name": lambda folder: Call(torch.device, "\n" * 99),
    "complex": lambda folder: Call(complex, "1j"),
    "meta": lambda folder: Call(torch._utils._rebuild_meta_tensor_no_storage, torch.float32,
                                                                             (10, 64), (64, 1), False),
    "colliding": lambda folder: Call(dict, [(index * (2**61 - 1), 0) for index in range(2000)]),
}
NAMES = ("fc.bias", "fc.weight", "conv1.weight", "bn1.running_var", "bn1.num_batches_tracked", "normalize.std",
         "layer1.0.bn1.bias",
         f"{LAYER}.weight", f"{LAYER}.weight_orig", f"{LAYER}.weight_mask", "layer2.0.conv2.weight_mask",
         "layer3.2.conv2.weight_orig",
         "conv1.weight_mask", "conv1.weight_orig", "fc.weight_mask", "layer7.weight", "a\nb", "\x1b[31m", "\x00", "\u202e",
         "x" * 10000,
         "../../etc/passwd", "/", "", ".", ".weight", "weight_mask", "module.", "module.fc.bias", "state_dict", "init_weight",
         "__class__",
         "\ud800", "ＦＣ.bias", 0, -1, 2**70, None, True, 1.5, ("fc", "bias"), b"fc.bias")
WRAPS: dict[str, Callable[[dict], object]] = {
    "as it is": lambda state: state, "under state_dict": lambda state: {"state_dict": state, "epoch": 3, "best_sa": 91.5},
    "ordered": collections.OrderedDict, "of DataParallel": lambda state: {f"module.{name}": held for name, held in state.items()},
    "under init_weight": lambda state: {"init_weight": state},
    "in both": lambda state: {"state_dict": {name: held for name, held in state.items() if str(name).endswith("_mask")},
                            "init_weight": {str(name).replace("weight_orig", "weight"): held for name, held in state.items()
                                            if not str(name).endswith("_mask")}},
    "masks alone": lambda state: {name: held for name, held in state.items() if str(name).endswith("_mask")},
    "twice": lambda state: {"state_dict": {"state_dict": state}}, "in a list": lambda state: [state],
    "in a tuple": lambda state: (state, state), "values alone": lambda state: list(state.values()), "nothing": lambda state: None,
    "with facts": lambda state: {"state_dict": state, "part": "key", "x" * 500: 1, "arch": "res50\n", "density": float("nan"),
                                 "n": 10**99},
}


OF_ALL = ("parameter", "torch.float64", "torch.float16", "torch.int8", "torch.bool", "bool bytes of 255", "needs a gradient",
          "channels last", "one entry for all", "negated", "torch.bfloat16", "zeros", "transposed", "inside a larger one")


def is_plain(held: object) -> bool:
    return type(held) is torch.Tensor and held.layout == torch.strided and held.device.type == "cpu" and not held.is_quantized \
        and not held.is_nested and held.numel() < 10**6


def plain_weights(state: dict) -> dict:
    """Pruned layers as plain weights with zeros."""
    return {str(name).replace("weight_orig", "weight"): held * state[str(name).replace("_orig", "_mask")]
            if str(name).endswith("_orig") else held for name, held in state.items() if not str(name).endswith("_mask")}


def changed_content(draw, packed: dict, folder: Path) -> bytes:
    """A file of torch.save with some of its tensors, names or containers exchanged."""
    state: dict = dict(packed) if draw(st.booleans()) else plain_weights(packed)
    for _ in range(draw(st.integers(0, 3))):
        how = draw(st.sampled_from(("tensor", "tensor", "all of a kind", "value", "call", "name", "remove", "share")))
        name = draw(st.sampled_from(NAMES))
        held = state.get(name)
        like = held if is_plain(held) else torch.ones(2, 2)
        if how == "tensor":
            state[name] = exchanged(like, draw(st.sampled_from(sorted(TENSORS))))
        elif how == "all of a kind":
            ending = draw(st.sampled_from(("_mask", "_orig", "bias", "_var", "_tracked", "weight")))
            kind = draw(st.sampled_from(OF_ALL))
            state = {key: exchanged(tensor, kind) if str(key).endswith(ending) and is_plain(tensor) else tensor
                     for key, tensor in state.items()}
        elif how == "value":
            state[name] = VALUES[draw(st.sampled_from(sorted(VALUES)))]()
        elif how == "call":
            state[name] = CALLS[draw(st.sampled_from(sorted(CALLS)))](folder)
        elif how == "name":
            state[name] = state.pop(draw(st.sampled_from(NAMES)), like)
        elif how == "remove":
            state.pop(name, None)
        else:
            state[name] = state.get(draw(st.sampled_from(NAMES)), like)
    content = WRAPS[draw(st.sampled_from((*["as it is", "under state_dict", "masks alone", "in both", "of DataParallel"] * 3,
                                          *WRAPS)))](state)
    if isinstance(content, dict) and draw(st.integers(0, 9)) == 9:
        content[draw(st.sampled_from(("state_dict", "init_weight", "epoch", 5)))] = draw(st.sampled_from(sorted(VALUES)).map(
            lambda kind: VALUES[kind]()) | st.sampled_from(sorted(CALLS)).map(lambda kind: CALLS[kind](folder)))
    try:
        return saved(content, draw(st.integers(0, 3)) == 0)
    except Exception:  # not everything can be written, least of all in the old format
        return saved({name: held for name, held in state.items() if is_plain(held)})


# --- a model's file: pickle, archive, bytes -----------------------------------------------------------------------------


def operations(pickled: bytes) -> list[bytes]:
    """The pickle cut into its operations."""
    starts = [position for _, _, position in pickletools.genops(pickled)] + [len(pickled)]
    return [pickled[start:end] for start, end in zip(starts, starts[1:])]


SNIPPETS = (b"c__builtin__\nbytearray\n", b"cos\nsystem\n", b"ctorch\nTensor\n", b"ccollections\nOrderedDict\n",
            b"ctorch\nFloatStorage\n",
            b"ctorch._utils\n_rebuild_tensor_v2\n", b"ctorch\nfloat32\n", b"ctorch.storage\nUntypedStorage\n", b")", b"]", b"}",
            b"(", b"t",
            b"\x85", b"\x86", b"\x87", b"R", b"b", b"Q", b"s", b"u", b"a", b"e", b"N", b"\x88", b".", b"0", b"1", b"2", b"\x81",
            b"\x8f",
            b"\x94", b"\x95" + b"\xff" * 8, b"j\xff\xff\xff\xff", b"r\xff\xff\xff\xff", b"h\x00", b"q\x00", b"K\x00",
            b"J\xff\xff\xff\xff",
            b"J\xff\xff\xff\x7f", b"\x8a\x09" + b"\x00" * 8 + b"\x01", b"\x8a\xff" + b"\x7f" * 255, b"X\x01\x00\x00\x00a",
            b"X\xff\xff\xff\xff", b"U\x02\xc3\xa9", b"G\x7f\xf0\x00\x00\x00\x00\x00\x00", b"I" + b"9" * 5000 + b"\n", b"\x80\x05",
            b"cbuiltins\neval\n", b"c\\x6f\\x73\nsystem\n", b"P0\n", b"\x8b\xff\xff\xff\x7f")


def changed_pickle(draw, pickled: bytes) -> bytes:
    parts = operations(pickled)
    # what comes first or last decides more than what is among the hundreds of tensors between
    place = st.integers(0, len(parts) - 1) | st.integers(0, 30) | st.integers(max(0, len(parts) - 40), len(parts) - 1)
    for _ in range(draw(st.integers(1, 4))):
        at = min(draw(place), len(parts) - 1)
        how = draw(st.sampled_from(("number", "insert", "replace", "remove", "repeat", "swap")))
        if how == "number":
            numbers = [index for index, part in enumerate(parts) if part[:1] in b"KMJ" and index >= at] or [at]
            value = draw(st.sampled_from((-1, 0, 1, 2, 255, 2304, 2**16, 2**27, 2**30, 2**31 - 1)) | st.integers(0, 3000))
            parts[numbers[0]] = b"J" + value.to_bytes(4, "little", signed=True)
        elif how == "insert":
            parts.insert(at, draw(st.sampled_from(SNIPPETS)))
        elif how == "replace":
            parts[at] = draw(st.sampled_from(SNIPPETS) | st.sampled_from(parts))
        elif how == "remove" and len(parts) > 1:
            del parts[at]
        elif how == "repeat":
            parts[at:at] = parts[at:at + draw(st.integers(1, 12))] * draw(st.integers(1, 3))
        else:
            other = min(draw(place), len(parts) - 1)
            parts[at], parts[other] = parts[other], parts[at]
    return b"".join(parts)


def archived(entries: list[tuple[str, bytes]], compressed: tuple[str, ...] = ()) -> bytes:
    file = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(file, "w") as archive:
        warnings.simplefilter("ignore")  # two of one name
        for name, content in entries:
            archive.writestr(name, content, zipfile.ZIP_DEFLATED if name in compressed else zipfile.ZIP_STORED)
    return file.getvalue()


def entries_of(whole: bytes) -> list[tuple[str, bytes]]:
    with zipfile.ZipFile(io.BytesIO(whole)) as archive:
        return [(entry.filename, archive.read(entry)) for entry in archive.infolist()]


def changed_archive(draw, whole: bytes) -> bytes:
    entries, compressed = entries_of(whole), ()
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, 3) | st.integers(0, len(entries) - 1))
        name, content = entries[min(at, len(entries) - 1)]
        how = draw(st.sampled_from(("rename", "repeat", "remove", "content", "compress", "bomb", "pickle")))
        if how == "rename":
            name = draw(st.sampled_from((name.upper(), "/" + name, "../" + name, name + "/", name.replace("/", "\\"),
                                         name.split("/")[-1] or "x", "a" * 9999,
                                         "archive/data/0", "archive/data.pkl", "archive/constants.pkl", "archive/.format_version",
                                         "archive/byteorder", "archive/version", "other/data.pkl", "\n", "é/data.pkl")))
            entries[at] = name, content
        elif how == "repeat":
            entries.insert(draw(st.integers(0, len(entries))),
                           (name, draw(st.sampled_from((content, b"", content[:-1], content[::-1])))))
        elif how == "remove" and len(entries) > 1:
            del entries[at]
        elif how == "content":
            entries[at] = name, draw(st.sampled_from((b"", content[:-4], content + b"\0" * 4, b"big", b"little", b"1", b"9" * 30,
                                                      b"\xff")))
        elif how == "compress":
            compressed += (name,)
        elif how == "bomb":
            entries[at] = name, bytes(1 << 24)
            compressed += (name,)
        else:
            entries = [(n, changed_pickle(draw, c) if n.endswith("data.pkl") and c.endswith(b".") and len(c) < 10**6
                        and c[:1] == b"\x80"
                        else c) for n, c in entries]
            break
    return archived(entries, compressed)


FIELDS = {4: 2, 6: 2, 8: 2, 10: 2, 16: 4, 20: 4, 24: 4, 28: 2, 30: 2, 32: 2, 42: 4}  # of a central header: place -> bytes


def changed_headers(draw, whole: bytes) -> bytes:
    """Sizes, offsets, flags and lengths in the archive's directory, and its end."""
    content, headers, at = bytearray(whole), [], whole.find(b"PK\1\2")
    while at >= 0:
        headers.append(at)
        at = whole.find(b"PK\1\2", at + 4)
    end = whole.rfind(b"PK\5\6")
    for _ in range(draw(st.integers(1, 4))):
        if draw(st.integers(0, 3)):
            place = draw(st.sampled_from(sorted(FIELDS)))
            start, size = draw(st.sampled_from(headers)) + place, FIELDS[place]
        else:
            start, size = end + draw(st.integers(4, 20)), draw(st.sampled_from((2, 4)))
        value = draw(st.sampled_from((0, 1, 8, 14, 99, 2**16 - 1, 2**31, 2**32 - 1)) | st.integers(0, 2**32 - 1))
        content[start:start + size] = (value % 2**(8 * size)).to_bytes(size, "little")
    return bytes(content)


def changed_bytes(draw, whole: bytes, near: tuple[int, ...] = ()) -> bytes:
    content = bytearray(whole)
    for _ in range(draw(st.integers(1, 5))):
        at = draw(st.integers(0, max(0, len(content) - 1)) | st.sampled_from(near or (0,)).flatmap(
            lambda start: st.integers(start, start + 300)))
        at = min(at, max(0, len(content) - 1))
        how = draw(st.sampled_from(("flip", "flip", "cut", "insert", "remove", "begin later")))
        if how == "flip" and content:
            content[at] ^= 1 << draw(st.integers(0, 7))
        elif how == "cut":
            del content[at:]
        elif how == "insert":
            content[at:at] = draw(st.binary(min_size=1, max_size=9))
        elif how == "remove":
            del content[at:at + draw(st.integers(1, 99))]
        elif how == "begin later" and draw(st.booleans()):
            del content[:draw(st.integers(1, 99))]
    return bytes(content)


@pytest.fixture(scope="module")
def templates(packed) -> dict[str, bytes]:
    """Valid files, small where the format allows it."""
    masks = {name: tensor.to(torch.uint8) for name, tensor in packed.items() if name.endswith("_mask")}
    return {"pruned": saved({"state_dict": packed, "epoch": 3}), "masks": saved(masks), "legacy masks": saved(masks, legacy=True),
            "plain": saved(collections.OrderedDict(plain_weights(packed))), "legacy": saved({"state_dict": packed}, legacy=True),
            "parameters": saved({name: torch.nn.Parameter(tensor) if tensor.is_floating_point() else tensor
                                 for name, tensor in plain_weights(packed).items()})}


@pytest.fixture(scope="module")
def torch_file(folder, packed, templates):
    """make(draw): the bytes of a hostile torch file, for whatever reads such."""

    def make(draw) -> bytes:
        how = draw(st.sampled_from(("content", "content", "content", "pickle", "pickle", "archive", "headers", "bytes")))
        if how == "content":
            return changed_content(draw, packed, folder)
        zips = [name for name in templates if "legacy" not in name]
        whole = templates[draw(st.sampled_from(sorted(templates if how in ("bytes", "pickle") else zips)))]
        if how == "pickle":
            if whole[:2] == b"PK":
                return archived([(name, changed_pickle(draw, content) if name.endswith("data.pkl") else content)
                                 for name, content in entries_of(whole)])
            return changed_pickle_stream(draw, whole)
        return {"archive": changed_archive, "headers": changed_headers}[how](draw, whole) if how != "bytes" else \
            changed_bytes(draw, whole, tuple({0, max(0, whole.rfind(b"PK\5\6") - 5000), whole.find(b"data.pkl")}))

    return make


@pytest.fixture(scope="module")
def model_file(folder, model, torch_file):
    """check(data): draw a file, read it, check what comes out."""
    path = folder / "model.pth.tar"

    def check(data) -> None:
        path.write_bytes(torch_file(data.draw))
        check_model_file(path, model, data.draw(st.booleans()))

    return check


@pytest.fixture(scope="module")
def converter(folder, torch_file):
    """The same files, by the reader that keeps tensors alone; in this process, under the limits that hold here."""
    path = folder / "model.pth.tar"

    def tensors(held: object) -> list[torch.Tensor]:
        if isinstance(held, torch.Tensor):
            return [held]
        assert type(held) is dict and held and all(type(name) is str for name in held)
        return [tensor for value in held.values() for tensor in tensors(value)]

    def convert() -> object:
        try:
            return tensors_of(path.read_bytes())
        except Exception as error:
            raise UserError(f"{path}: refused ({type(error).__name__})") from None

    def check(data) -> None:
        path.write_bytes(torch_file(data.draw))
        found = read_or_refused(convert, path)
        assert found is None or all(tensor.device.type == "cpu" and tensor.nbytes <= path.stat().st_size for tensor in tensors(found))

    return check


@pytest.fixture(scope="module")
def safetensors_file(folder, model, packed):
    """A header that is changed as JSON, of right or wrong length, and bytes that are."""
    path, states = folder / "model.safetensors", [packed, plain_weights(packed)]
    files = [as_safetensors({name: tensor.contiguous() for name, tensor in state.items()}) for state in states]
    cuts = [8 + int.from_bytes(whole[:8], "little") for whole in files]

    def make(draw) -> bytes:
        number = draw(st.integers(0, 1))
        whole, header = files[number], json.loads(files[number][8:cuts[number]])
        how = draw(st.sampled_from(("entry", "entry", "text", "length", "bytes")))
        if how == "bytes":
            return changed_bytes(draw, whole, (0, 8, cuts[number]))
        if how == "length":
            length = draw(st.sampled_from((0, 1, 8, 1 << 24, 1 << 40, (1 << 64) - 1)) | st.integers(0, len(whole)))
            return length.to_bytes(8, "little") + whole[8:]
        for _ in range(draw(st.integers(1, 3)) if how == "entry" else 0):
            entry = header[draw(st.sampled_from(sorted(header)))]
            if isinstance(entry, dict):
                entry[draw(st.sampled_from(("dtype", "shape", "data_offsets", "more")))] = draw(
                    st.sampled_from(("F32", "F16", "BF16", "F8_E4M3", "I8", "BOOL", "C64", "F4", [0], [], [-1], [1 << 62, 1 << 62],
                                     [0, 0], [4, 0], [0, 1 << 63], None)) | st.lists(st.integers(-1, 1 << 20), max_size=4))
            header[draw(st.sampled_from(NAMES).filter(lambda name: isinstance(name, str)))] = draw(
                st.sampled_from(list(header.values())))
        text = json.dumps(header).encode("utf-8", "surrogatepass")
        text = draw(changed_json(json.dumps(header, indent=1).encode())) if how == "text" else text
        return len(text).to_bytes(8, "little") + text + whole[cuts[number]:]

    def check(data) -> None:
        path.write_bytes(make(data.draw))
        check_model_file(path, model, data.draw(st.booleans()))

    return check


@pytest.fixture(scope="module")
def onnx_file(folder, model):
    """What is said of nodes and initializers changed, or bytes in the description of the graph, or anywhere."""
    path = folder / "model.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(copy.deepcopy(model).eval(), (torch.zeros(1, 3, 8, 8),), str(path), dynamo=False)
    whole = path.read_bytes()
    near = [0, *(found.start() for found in re.finditer(rb"Conv|Gemm|onnx::|fc\.", whole))]
    names = [name for name in NAMES if isinstance(name, str) and name != "\ud800"]

    def changed_graph(draw) -> bytes:
        changed = onnx.ModelProto.FromString(whole)
        nodes, tensors = changed.graph.node, changed.graph.initializer
        known = [*names, *(name for node in nodes for name in (*node.input, *node.output))]
        for _ in range(draw(st.integers(1, 3))):
            at, tensor = draw(st.integers(0, len(nodes) - 1)), draw(st.sampled_from(tensors))
            how = draw(st.sampled_from(("input", "operation", "sizes", "type", "elsewhere", "name", "again", "remove", "no numbers")))
            if how == "input" and nodes[at].input:
                nodes[at].input[draw(st.integers(0, len(nodes[at].input) - 1))] = draw(st.sampled_from(known))
            elif how == "operation":
                nodes[at].op_type = draw(st.sampled_from(("Conv", "Gemm", "MatMul", "BatchNormalization", "Identity", "Constant", "Add", "Sub",
                                                          "Mul", "Div", "Unsqueeze", "Reshape", "")))
            elif how == "sizes":
                tensor.dims[:] = draw(st.lists(st.sampled_from((-1, 0, 1, 3, 16, 64, 1 << 40, 1 << 62)), max_size=5))
            elif how == "type":
                tensor.data_type = draw(st.integers(-1, 30))
            elif how == "elsewhere":
                tensor.data_location, _ = 1, tensor.external_data.add(key="location", value="/etc/passwd")
            elif how == "name":
                tensor.name = draw(st.sampled_from(known))
            elif how == "again":
                nodes.append(nodes[at]) if draw(st.booleans()) else tensors.append(tensor)
            elif how == "remove" and len(nodes) > 1:
                del nodes[at]
            else:
                tensor.raw_data = draw(st.sampled_from((b"", tensor.raw_data[:-1], tensor.raw_data + b"x", tensor.raw_data[::-1])))
        return changed.SerializeToString()

    def check(data) -> None:
        path.write_bytes(changed_graph(data.draw) if data.draw(st.booleans()) else changed_bytes(data.draw, whole, tuple(near)))
        check_model_file(path, model, data.draw(st.booleans()))

    return check


@pytest.fixture(scope="module")
def shards(folder):
    """The index of two files, changed as JSON."""
    path = folder / "model.safetensors.index.json"
    where = {f"layer.{number}.weight": f"part-{number % 2}.safetensors" for number in range(6)}
    for part in set(where.values()):
        (folder / part).write_bytes(as_safetensors({name: torch.zeros(2) for name, held_by in where.items() if held_by == part}))
    text = json.dumps({"metadata": {"total_size": 48}, "weight_map": where}, indent=1).encode()

    def check(data) -> None:
        path.write_bytes(data.draw(changed_json(text)))
        found = read_or_refused(lambda: model_formats.load(checkpoint.read_model(path)), path, folder)
        assert found is None or found.keys() == json.loads(checkpoint.without_mark(path.read_bytes()))["weight_map"].keys()

    return check


@pytest.fixture(scope="module")
def names(folder):
    """A map of layers' names, likewise."""
    path = folder / "names.json"
    text = json.dumps({"features.0": "conv1", "linear": "fc", "a": "layer1.0.conv1"}, indent=1).encode()

    def check(data) -> None:
        path.write_bytes(data.draw(changed_json(text)))
        found = read_or_refused(lambda: checkpoint.parse_names(checkpoint.read_once(path, checkpoint.MAX_NAMES)), path)
        if found is not None:
            assert found == json.loads(checkpoint.without_mark(path.read_bytes())) and len(set(found.values())) == len(found) > 0
            assert all(type(text) is str and text for pair in found.items() for text in pair)

    return check


def changed_pickle_stream(draw, whole: bytes) -> bytes:
    """A legacy file: five pickles, then the storages."""
    stream, ends = io.BytesIO(whole), []
    for _ in range(5):
        for _ in pickletools.genops(stream):
            pass
        ends.append(stream.tell())
    pickles = [whole[start:end] for start, end in zip([0, *ends], ends)]
    at = draw(st.sampled_from((3, 3, 3, 4, 0, 1, 2)))
    pickles[at] = changed_pickle(draw, pickles[at])
    return b"".join(pickles) + whole[ends[-1]:]


def check_model_file(path: Path, model, whole: bool) -> object | None:
    """Read it as a model, or as a suspect without its classifier, and check what is promised."""
    if whole:
        found = read_or_refused(lambda: read_model_file(path, model), path)
        if found is not None:
            for state in (found.weights, found.initial):
                if state is not None:
                    check_state(state, model)
                    model.load_state_dict(state)
            if found.mask is not None:
                check_mask(found.mask, model)
                for name, kept in found.mask.items() if found.weights is not None else ():
                    assert not found.weights[f"{name}.weight"].numpy()[~kept.numpy()].any()
        return found
    found = read_or_refused(lambda: read_suspect(str(path), model), path)
    if found is None:
        return None
    check_mask(found.mask, model)
    assert found.weights is None or found.weights.keys() == found.mask.keys()
    for name, kept in found.mask.items():
        assert weights_per_kernel(found.mask[name]).sum() == np.count_nonzero(kept.numpy().view(np.uint8))
        if found.weights is not None:
            assert ((found.weights[name].numpy() != 0) == kept.numpy()).all()
    window_of(found, Place("layer2.0.conv2", 0, 0), 3)
    return found


def check_state(state: dict[str, torch.Tensor], model) -> None:
    known = model.state_dict()
    assert state.keys() == known.keys()
    for name, tensor in state.items():
        assert type(tensor) is torch.Tensor and tensor.dtype == known[name].dtype and tensor.shape == known[name].shape
        assert tensor.is_contiguous() and not tensor.requires_grad and np.isfinite(tensor.numpy()).all()
        assert not name.endswith("running_var") or (tensor.numpy() >= 0).all()
    places = [tensor.data_ptr() for tensor in state.values()]
    assert len(set(places)) == len(places), "two tensors share their memory"


def check_mask(mask: Mask, model) -> None:
    layers = prunable_layers(model, stem="conv1" in mask)
    assert mask.keys() == layers.keys()
    for name, kept in mask.items():
        assert kept.dtype == torch.bool and kept.shape == layers[name].weight.shape
        assert kept.numpy().view(np.uint8).max(initial=0) <= 1, "a bool that is neither 0 nor 1"


# --- predictions --------------------------------------------------------------------------------------------------------

PICTURES = tuple(f"{index:04d}.png" for index in range(9))
CLASSES = 10


@st.composite
def lists_of_predictions(draw) -> bytes:
    rows = [["image", "predicted_label"], *([name, str(draw(st.integers(0, 9)))] for name in PICTURES)]
    odd = st.sampled_from(("", " ", "\t", '"', '""', "'", ",", "\0", "\n", "\r", "\u2028", "\x1c", "\ufeff", "x" * 200000,
                           "1" * 5000, "-1", "-0",
                           "+1", "1.0", "1e3", "1_0", "0x1", "٣", "²", "nan", "inf", "None", "10", "9" * 18, "9" * 19, "00001",
                           "0000.png ", "=1+1",
                           "../0000.png", "0000.PNG", "\x1b[31m", "\u202e",
                           *PICTURES)) | st.text(max_size=5) | st.integers().map(str)
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, len(rows) - 1))
        how = draw(st.sampled_from(("value", "append", "remove", "repeat", "swap", "add", "lose", "row")))
        if how == "value":
            rows[at][draw(st.integers(0, len(rows[at]) - 1)) if rows[at] else 0:][:0] = []
            if rows[at]:
                rows[at][draw(st.integers(0, len(rows[at]) - 1))] = draw(odd)
        elif how == "append" and rows[at]:
            rows[at][-1] += draw(odd)
        elif how == "remove" and len(rows) > 1:
            del rows[at]
        elif how == "repeat":
            rows.insert(draw(st.integers(0, len(rows))), list(rows[at]))
        elif how == "swap":
            rows[at] = rows[at][::-1]
        elif how == "add":
            rows[at] = [*rows[at], draw(odd)]
        elif how == "lose":
            rows[at] = rows[at][:-1]
        else:
            rows.insert(at, [draw(odd) for _ in range(draw(st.integers(0, 4)))])
    if draw(st.booleans()):
        rows[1:] = draw(st.permutations(rows[1:]))
    if draw(st.booleans()):
        text = io.StringIO()
        try:
            csv.writer(text, quoting=draw(st.sampled_from((csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC))),
                       delimiter=draw(st.sampled_from(",,,,;\t")),
                       lineterminator=draw(st.sampled_from(("\n", "\r\n", "\r")))).writerows(rows)
        except csv.Error:
            pass
        written = text.getvalue()
    else:
        written = draw(st.sampled_from(("\n", "\r\n", "\r", "\n\n"))).join(map(",".join, rows))
    content = written.encode(draw(st.sampled_from((*["utf-8"] * 12, "utf-8-sig", "utf-16", "utf-32", "latin-1", "cp037"))),
                             "replace")
    return changed_bytes(draw, content) if draw(st.integers(0, 3)) == 0 else content


@pytest.fixture(scope="module")
def predictions(folder):
    path = folder / "gathered.csv"

    def check(data) -> None:
        path.write_bytes(data.draw(lists_of_predictions()))
        labels = read_or_refused(lambda: read_predictions(path, PICTURES, CLASSES), path)
        if labels is not None:
            assert labels.dtype == np.int64 and labels.shape == (len(PICTURES),)
            marked = path.read_bytes()[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
            encoding = "utf-16" if marked else "utf-8-sig"
            rows = csv.reader(io.StringIO(path.read_bytes().decode(encoding), newline=""))
            found = collections.Counter(tuple(sorted(value.strip(" \t") for value in row)) for row in rows if row)
            # by another way: in the columns' other order the label may come first
            expected = collections.Counter([("image", "predicted_label")])
            for name, label in zip(PICTURES, labels):
                written = [pair for pair in found if name in pair]
                assert len(written) == 1 and found[written[0]] == 1
                (text,) = [value for value in written[0] if value != name]
                assert text.isdecimal() and int(text) == label < CLASSES
                expected[written[0]] += 1
            assert found == expected

    return check


# --- claims -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Owner:
    """Files of a valid claim, and what is needed to write others that open."""

    key: Ed25519PrivateKey
    values: dict
    claim: bytes
    public: bytes
    code: bytes


@pytest.fixture(scope="module")
def owner(folder) -> Owner:
    key = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
    code = CodeClaim("Jane Doe 2026", "res20s", "layer2.0.conv2", 3, 1, 3, "H", 2, 0.5, 100, 400, {
        "bit_generator": "PCG64", "state": {
        "state": 2**127 + 1, "inc": 7}}, (("layer2.1.conv1", 0, 0),), 0.001)
    claim = owner_claim.OwnerClaim("Jane Doe", key.public_key().public_bytes_raw().hex(), "res20s",
                                   owner_claim.Fidelity("cifar10", None, "0" * 64, 91.0, 1),
                                   {"V1": KeyMask("1" * 64, "2" * 64, "3" * 64, 9), "V2": code,
                                    "V3": Triggers("keyed", "4" * 64, 100, 32, 10)})
    values = owner_claim.to_fields(claim)
    private = commitment.salted(values)
    files = commitment.write(folder / "valid", private, commitment.commit(private, key))
    write_claim(folder / "valid" / "code.json", code)
    return Owner(key, values, *(file.read_bytes() for file in files), (folder / "valid" / "code.json").read_bytes())


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8)
    | st.sampled_from((10**400, -10**400, 2**63, 1e308, -0.0, 0.5, "", "x" * 3000, "\0", "\n", "\u202e", "H", "res50",
                       "layer2.0.conv2", "0" * 64,
                       [["layer2.0.conv2", 0, 0]] * 40, [["layer2.0.conv2", 0, 10**30]], [["x" * 99999, 0, 0]], [[]], [[[]]],
                       [["a", True, 0]])),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3), max_leaves=5)
ALIKE = {  # to exchange a value for one of its kind, which the next check sees
    int: st.sampled_from((-1, 0, 1, 2, 7, 8, 40, 41, 512, 513, 10_000, 1 << 20, (1 << 20) + 1, 1 << 40, 1 << 63, 10**400))
    | st.integers(),
    float: st.sampled_from((-1.0, -0.0, 0.0, 0.5, 1.0, 1 + 2**-52, 100.0, 101.0, 1e30, 1e31, 1e308)) | st.floats(0, 100),
    str: st.sampled_from(("", "H", "L", "cifar10", "res18", "layer2.0.conv2", "layer9", "\0", "\n", "\u202e", "0" * 64, "f" * 64,
                          "F" * 64,
                         "0" * 63, "x" * 24, "x" * 25, "x" * 3000, "é" * 12, "é" * 13)) | st.text(max_size=30),
    list: st.lists(st.tuples(st.sampled_from(("layer2.0.conv2", "x" * 2000)), st.integers(-1, 1 << 21),
                             st.integers(0, 40)).map(list), max_size=40),
    dict: st.dictionaries(st.text(max_size=3), st.integers() | st.floats(0, 1)
                          | st.dictionaries(st.text(max_size=2), st.integers() | st.none()),
                          max_size=3),
}


def another(value: object) -> st.SearchStrategy:
    return st.one_of(*[ALIKE[type(value)]] * 3, JSON) if type(value) in ALIKE else JSON


FRAGMENTS = ("1e999", "-1e999", "NaN", "Infinity", "9" * 5000, "-" + "9" * 4299, "1E400", "-0", "0.0", "true", "null",
             '"\\ud800"', '"\\udfff\\ud800"',
             '"\\u0000"', '"\\n"', '""', '"' + "x" * 9999 + '"', "[]", "{}", "[" * 3000, '{"a":' * 3000, "[" * 300 + "]" * 300,
             '{"a": 1, "a": 2}',
             '{"\\ud800": 1}', "1 2", "'a'", "01", "+1", ".5", "0x1", "//", "\ufeff", "\0", ",", ":", '"', "}", "]",
             '{"salt": "00", "value": 1}')


@st.composite
def changed_json(draw, text: bytes) -> bytes:
    """Values, names or parts of a JSON text exchanged."""
    content = text.decode()
    for _ in range(draw(st.integers(1, 3))):
        lines = content.splitlines()
        at = draw(st.integers(0, len(lines) - 1))
        how = draw(st.sampled_from(("value", "name", "line", "repeat", "remove", "bytes", "swap")))
        name, colon, _ = lines[at].partition(": ")
        comma = "," * lines[at].endswith(",")
        if how == "value" and colon:
            lines[at] = name + colon + draw(st.sampled_from(FRAGMENTS)) + comma
        elif how == "name" and colon:
            lines[at] = draw(st.sampled_from(FRAGMENTS)) + lines[at][len(name):]
        elif how == "line":
            lines.insert(at, draw(st.sampled_from(FRAGMENTS)))
        elif how == "repeat":
            lines.insert(at, lines[at])
        elif how == "remove":
            del lines[at]
        elif how == "swap":
            other = draw(st.integers(0, len(lines) - 1))
            lines[at], lines[other] = lines[other], lines[at]
        else:
            return changed_bytes(draw, content.encode("utf-8", "surrogatepass"))
        content = "\n".join(lines) + "\n" if lines else "\n"
    if draw(st.integers(0, 19)) == 19:
        return content.encode(draw(st.sampled_from(("utf-8-sig", "utf-16", "utf-32", "latin-1"))), "replace")
    if draw(st.integers(0, 19)) == 19:
        content = content.replace("\n", "\r\n")
    return content.encode("utf-8", "surrogatepass")


NOWHERE = "field"  # a name that no claim has


@pytest.fixture(scope="module")
def claim_and_commitment(folder, owner):
    private_path, public_path = folder / "claim.json", folder / "commitment.json"

    def check(data) -> None:
        draw, names = data.draw, sorted(owner.values)
        private, public = owner.claim, owner.public
        how = draw(st.sampled_from(("values", "values", "claim", "public", "both")))
        if how == "values":  # one that opens: a claimant may commit to anything
            values = dict(owner.values)
            for _ in range(draw(st.integers(1, 3))):
                name = draw(st.sampled_from((*names * 3, NOWHERE, "\0")))
                values[name] = draw(another(values.get(name)))
                if draw(st.integers(0, 19)) == 19:
                    del values[name]
            claim = commitment.salted(values)
            try:
                made = commitment.commit(claim, owner.key if draw(st.integers(0, 5)) < 5 else None)
                private = commitment._text(commitment._private_content(claim))
                public = commitment._text(commitment._public_content(made))
            except ValueError:
                return  # no JSON
        if how in ("claim", "both"):
            private = draw(changed_json(private))
        if how in ("public", "both"):
            public = draw(changed_json(public))
        private_path.write_bytes(private)
        public_path.write_bytes(public)
        given_public = public_path if draw(st.integers(0, 3)) else None

        def read():
            opened, made = commitment.open_claim(private_path, given_public, "owner_key")
            return owner_claim.from_fields(opened.values, str(private_path)), opened

        if how == "public" and given_public:
            read_or_refused(lambda: commitment.read_commitment(public_path), public_path)
        found = read_or_refused(read, private_path, public_path)
        if found is not None:
            check_owner_claim(*found, json.loads(private)["fields"])

    return check


def check_owner_claim(claim: owner_claim.OwnerClaim, opened: commitment.SaltedClaim, fields: dict) -> None:
    table = owner_claim.to_fields(claim)
    assert table == {name: field["value"] for name, field in fields.items()} == opened.values
    assert claim.owner and claim.arch in ("res20s", "res18", "res50")
    if "V2" in claim.parts:
        check_code(claim.parts["V2"])
    if "V3" in claim.parts:
        assert 3 * claim.parts["V3"].pictures * claim.parts["V3"].size**2 <= 1 << 28 and claim.parts["V3"].num_classes >= 2
    if claim.fidelity is not None:
        assert 0 <= claim.fidelity.target <= 100 and 0 <= claim.fidelity.tolerance <= 100
    commitment.canonical(table)


def check_code(claim: CodeClaim) -> None:
    assert claim.arch in ("res20s", "res18", "res50") and isinstance(claim.layer, str)
    qr_code.encode(claim.signature, claim.code_format)
    assert all(type(value) is int and 0 <= value <= 1 << 20 for place in claim.places for value in (place.start_x, place.start_y))
    assert 0 <= claim.similarity <= 1 and 0 <= claim.nonzeros <= claim.entries
    assert claim.threshold is None or 0 <= claim.threshold < 1e31
    copy.deepcopy(claim)
    json.dumps(claim.random_state, allow_nan=False)


@pytest.fixture(scope="module")
def code_claim(folder, owner):
    path = folder / "code.json"

    def check(data) -> None:
        if data.draw(st.booleans()):
            content = json.loads(owner.code)
            for _ in range(data.draw(st.integers(1, 3))):
                name = data.draw(st.sampled_from((*sorted(content) * 3, NOWHERE, "\0")))
                content[name] = data.draw(another(content.get(name)))
            path.write_bytes(json.dumps(content).encode())
        else:
            path.write_bytes(data.draw(changed_json(owner.code)))
        found = read_or_refused(lambda: read_claim(path), path)
        if found is not None:
            check_code(found)
            write_claim(folder / "again.json", found, found) if not (folder / "again.json").exists() else None
            assert read_claim(folder / "again.json") == found
            (folder / "again.json").unlink()

    return check


# --- by the thousand ------------------------------------------------------------------------------------------------------

READERS = ("model_file", "converter", "safetensors_file", "shards", "onnx_file", "names", "predictions", "claim_and_commitment", "code_claim")


def many(check: Callable, examples: int) -> None:
    settings(max_examples=examples, deadline=None, database=None,
             suppress_health_check=list(HealthCheck))(given(st.data())(check))()


@pytest.mark.slow
@pytest.mark.parametrize("reader", READERS)
def test_any_file_is_valid_or_refused_in_one_line(reader, request):
    many(request.getfixturevalue(reader), SUITE)


@pytest.mark.nightly
@pytest.mark.parametrize("reader", READERS)
def test_any_of_very_many_files_is_valid_or_refused_in_one_line(reader, request):
    many(request.getfixturevalue(reader), int(os.environ.get("FUZZ_EXAMPLES", 10_000)))


# --- what was found, each with the file that showed it --------------------------------------------------------------------


def small(pickled: bytes, *records: tuple[str, bytes]) -> bytes:
    """A torch file around a pickle."""
    return archived([("archive/data.pkl", pickled), ("archive/version", b"3\n"), ("archive/byteorder", b"little"), *records])


def refused_model(path: Path, content: bytes, model) -> str:
    """The message; `read_or_refused` has seen to memory, time and what was run."""
    path.write_bytes(content)
    assert check_model_file(path, model, True) is None
    with pytest.raises(UserError) as refusal:
        read_model_file(path, model)
    return str(refusal.value)


@pytest.mark.parametrize("call", CALLS)
def test_nothing_is_called(call, folder, model, packed):
    """torch.load(weights_only=True) calls many of these: a file of a thousand bytes took a gigabyte, or half a minute."""
    message = refused_model(folder / "call.pth.tar", saved({"state_dict": {**packed, "fc.bias": CALLS[call](folder)}}), model)
    assert "call.pth.tar" in message


@pytest.mark.parametrize("wrap", [lambda held: held, lambda held: {"state_dict": held}, lambda held: {"init_weight": held}])
@pytest.mark.parametrize("name", ["get", "items", "keys", "values"])
def test_a_dict_keeps_its_own_methods(wrap, name, folder, model):
    """An OrderedDict's attributes come from the file, so its methods did."""
    content = wrap(Call(collections.OrderedDict, state={name: "chosen by the stranger"}))
    assert "other than" in refused_model(folder / "methods.pth.tar", saved(content), model)


def test_a_state_dict_may_have_its_metadata(folder, model, packed):
    state = collections.OrderedDict(plain_weights(packed))
    state._metadata = model.state_dict()._metadata
    (folder / "metadata.pth.tar").write_bytes(saved(state))
    assert check_model_file(folder / "metadata.pth.tar", model, True).weights is not None


@pytest.mark.slow
def test_a_key_is_not_hashed_in_depth(folder, model):
    """The hash of a tuple in a tuple in a tuple... overflows the stack: the process was gone."""
    deep = b"\x80\x02})" + b"\x85" * 200_000 + b"K\x01s."
    assert "cut off or no torch file" in refused_model(folder / "deep.pth.tar", small(deep), model)


def test_keys_of_one_hash_take_no_time(folder, model):
    """Whole numbers have their hash modulo 2**61 - 1: so many of one hash take minutes."""
    numbers = [(index * (2**61 - 1)).to_bytes(11, "little") for index in range(1, 150_000)]
    colliding = b"\x80\x02}(" + b"".join(b"\x8a\x0b" + number + b"K\x00" for number in numbers) + b"u."
    assert "cut off or no torch file" in refused_model(folder / "colliding.pth.tar", small(colliding), model)


def test_a_pickle_of_millions_of_operations_takes_no_time(folder, model):
    endless_list = b"\x80\x02](" + b"K\x00" * (1 << 23) + b"e."
    assert "too long (16777222 bytes); scripts/convert_suspect.py" in refused_model(folder / "long.pth.tar", small(endless_list), model)


# {"fc.bias": a tensor of 10 entries in a storage of %b}
TENSOR = (b"\x80\x02}X\x07\x00\x00\x00fc.biasctorch._utils\n_rebuild_tensor_v2\n((X\x07\x00\x00\x00storagectorch\nFloatStorage\n"
          b"X\x01\x00\x00\x000X\x03\x00\x00\x00cpuJ%btQK\x00K\x0a\x85K\x01\x85\x89ccollections\nOrderedDict\n)RtRs.")


def test_a_record_is_as_large_as_it_says(folder, model):
    assert "no 'conv1.weight'" in refused_model(folder / "a.pth.tar", small(TENSOR.replace(b"%b", (10).to_bytes(4, "little")),
                                                                          ("archive/data/0", bytes(40))), model)
    for entries in (9, 11, 1 << 20, (1 << 31) - 1):
        content = small(TENSOR.replace(b"%b", entries.to_bytes(4, "little")), ("archive/data/0", bytes(40)))
        assert "cut off or no torch file" in refused_model(folder / "b.pth.tar", content, model)


def with_header(whole: bytes, name: str, place: int, value: int) -> bytes:
    """A four-byte field of a record's entry in the archive's directory changed."""
    start = whole.rfind(name.encode()) - 46 + place
    return whole[:start] + value.to_bytes(4, "little") + whole[start + 4:]


@pytest.mark.parametrize("length", [39, 0, 41, (1 << 31) - 1])
def test_a_record_takes_as_much_of_the_file_as_it_says(length, folder, model):
    """One that took less was left for torch to notice; for one that took more, room was made."""
    content = small(TENSOR.replace(b"%b", (10).to_bytes(4, "little")), ("archive/data/0", bytes(40)))
    assert with_header(content, "archive/data/0", 20, 40) == content
    assert with_header(content, "archive/data/0", 16, crc32(bytes(40))) == content
    changed = with_header(content, "archive/data/0", 20, length)
    changed = with_header(changed, "archive/data/0", 16, crc32(bytes(min(length, 40))))
    assert "cut off or no torch file" in refused_model(folder / "length.pth.tar", changed, model)


NUMBERS = b"".join(b"M" + index.to_bytes(2, "little") for index in range(4000))
TEXT = b"X\x10\x27\x00\x00" + b"x" * 10_000
PAIRS = b"](" + b"".join(b"M" + index.to_bytes(2, "little") + b"N\x86" for index in range(4000)) + b"e"
ENTRIES = b"}(" + b"".join(b"M" + index.to_bytes(2, "little") + b"N" for index in range(4000)) + b"u"


@pytest.mark.parametrize("content", [b"c_codecs\nencode\nq\0" + TEXT + b"X\x06\0\0\0latin1\x86q\x01",
                                     b"ccollections\nOrderedDict\nq\0" + PAIRS + b"\x85q\x01",
                                     b"ccollections\nCounter\nq\0" + ENTRIES + b"\x85q\x01",
                                     b"c__builtin__\nset\nq\0](" + NUMBERS
                                     + b"e\x85q\x01"], ids=["bytes", "OrderedDict", "Counter", "set"])
def test_what_is_there_once_is_not_copied_thousands_of_times(content, folder, model):
    """One argument, named by two bytes, and called for again and again: 100 kB took gigabytes."""
    hostile = small(b"\x80\x02](" + content + b"h\0h\1R" * 20_000 + b"e.")
    assert len(hostile) < 150_000
    assert "cut off or no torch file" in refused_model(folder / "copies.pth.tar", hostile, model)


def test_calls_are_counted(folder, model):
    """torch takes half a minute for a million."""
    many_dicts = small(b"\x80\x02](ccollections\nOrderedDict\nq\0" + b"h\0)R" * 900_000 + b"e.")
    assert "cut off or no torch file" in refused_model(folder / "calls.pth.tar", many_dicts, model)


def test_hooks_are_empty_to_the_end(folder, model):
    """Entries that were set after the tensor had taken the dict became its hooks."""
    hooks = b"ccollections\nOrderedDict\n)Rq\x01"
    tensor = TENSOR.replace(b"%b", (10).to_bytes(4, "little")).replace(b"ccollections\nOrderedDict\n)R", hooks)
    records = "archive/data/0", bytes(40)
    assert "no 'conv1.weight'" in refused_model(folder / "hooks.pth.tar", small(tensor, records), model)
    filled = tensor[:-1] + b"X\x05\0\0\0otherh\x01K\0X\1\0\0\0ass."
    assert "cut off or no torch file" in refused_model(folder / "hooks.pth.tar", small(filled, records), model)


@pytest.mark.parametrize("sizes", [(1 << 40, 1 << 40), (1 << 40,) * 16, (1 << 32, 1 << 32), (0, 1 << 40, 1 << 40)])
def test_entries_can_be_counted(sizes, folder, model):
    """A tensor's number of entries, in 64 bits."""
    shape = b"(" + b"".join(b"\x8a\x06" + size.to_bytes(6, "little") for size in sizes) + b"t(" + b"K\0" * len(sizes) + b"t"
    tensor = TENSOR.replace(b"%b", (10).to_bytes(4, "little")).replace(b"K\x0a\x85K\x01\x85", shape)
    hostile = small(tensor, ("archive/data/0", bytes(40)))
    assert "cut off or no torch file" in refused_model(folder / "sizes.pth.tar", hostile, model)


@pytest.mark.slow
@pytest.mark.parametrize("change", [
    lambda entries: archived([(name, bytes(1 << 30) if name.endswith("data/0") else content) for name, content in entries],
                             tuple(name for name, _ in entries)),
    lambda entries: archived([*entries, entries[-3]]),
    lambda entries: archived([(name.replace("byteorder", "BYTEORDER").replace("data.pkl", "Data.pkl"), content)
                              for name, content in entries]),
    lambda entries: archived([(name, b"middle" if name.endswith("byteorder") else content) for name, content in entries]),
], ids=["a compressed gigabyte", "a record twice", "other capitals", "no byte order"])
def test_archives_that_torch_does_not_write(change, folder, model, templates):
    assert "cut off or no torch file" in refused_model(folder / "archive.pth.tar", change(entries_of(templates["masks"])), model)


def test_a_flipped_bit_of_a_weight_is_found(folder, model, templates):
    """torch does not look at the archive's checksums."""
    whole = bytearray(templates["plain"])
    whole[len(whole) // 2] ^= 1
    assert "cut off or no torch file" in refused_model(folder / "flipped.pth.tar", bytes(whole), model)


def test_an_unprintable_name_of_a_class_is_escaped(folder, model):
    assert "'os.\\x1b[31msystem'" in refused_model(folder / "name.pth.tar", small(b"\x80\x02cos\n\x1b[31msystem\n."), model)


def test_a_file_of_parameters_is_read_as_its_tensors(folder, model, packed, templates):
    """They ask for gradients, so the first look at their numbers was a traceback."""
    (folder / "parameters.pth.tar").write_bytes(templates["parameters"])
    found = check_model_file(folder / "parameters.pth.tar", model, False)
    assert torch.equal(found.weights[LAYER], packed[f"{LAYER}.weight_orig"] * packed[f"{LAYER}.weight_mask"])


@pytest.mark.parametrize("byte", [2, 128, 255])
def test_bools_that_are_neither_0_nor_1_count_as_1(byte, folder, model, packed):
    """In memory a bool may hold any byte, and some sums added it as it is."""
    masks = {name: (kept * byte).to(torch.uint8).view(torch.bool) for name, kept in packed.items() if name.endswith("_mask")}
    (folder / "bools.pth.tar").write_bytes(saved(masks))
    found = check_model_file(folder / "bools.pth.tar", model, False)
    assert found.mask == Mask({name.removesuffix(".weight_mask"): packed[name] for name in masks})


def test_weights_under_a_mask_are_refused(folder, model, packed):
    """X.weight beside X.weight_mask: which of the two is the model was left open."""
    state = {name.replace("weight_orig", "weight"): tensor for name, tensor in packed.items()}
    message = refused_model(folder / "both.pth.tar", saved(state), model)
    assert f"{LAYER}.weight is not zero where {LAYER}.weight_mask is" in message
    (folder / "both.pth.tar").write_bytes(saved({**plain_weights(packed), **{name: kept for name, kept in packed.items()
                                                                             if name.endswith("_mask")}}))
    assert check_model_file(folder / "both.pth.tar", model, True).mask is not None


def test_a_mask_of_other_numbers_names_the_file(folder, model, packed):
    state = {**packed, f"{LAYER}.weight_mask": packed[f"{LAYER}.weight_mask"].float() + 0.5}
    assert "mask.pth.tar: mask of layer layer1.0.conv1" in refused_model(folder / "mask.pth.tar", saved(state), model)


def test_tensors_that_share_their_memory_are_read_apart(folder, model, packed):
    state = plain_weights(packed)
    state["layer1.0.conv2.weight"] = state[f"{LAYER}.weight"]
    state["fc.bias"] = torch.zeros(1).expand(10)
    (folder / "shared.pth.tar").write_bytes(saved(state))
    found = check_model_file(folder / "shared.pth.tar", model, True)
    found.weights[f"{LAYER}.weight"].zero_(), found.weights["fc.bias"][:5].add_(1)
    assert found.weights["layer1.0.conv2.weight"].any() and found.weights["fc.bias"].sum() == 5


def test_a_long_name_is_shortened(folder, model, packed):
    assert len(refused_model(folder / "long.pth.tar", saved({**packed, "x" * 10**6 + ".weight": torch.zeros(1)}), model)) < 400


def test_nothing_of_a_refused_file_is_left(folder, model, templates):
    """torch kept the sparse tensors of a file that failed, and refused the next one for them."""
    indices = torch.tensor([[5]])
    bad = {"a": Call(torch._utils._rebuild_sparse_tensor, torch.sparse_coo, (indices, torch.ones(1), (1,), None)),
           "b": Call(eval, "1")}
    refused_model(folder / "sparse.pth.tar", saved(bad), model)
    (folder / "valid.pth.tar").write_bytes(templates["pruned"])
    assert check_model_file(folder / "valid.pth.tar", model, True).weights is not None


def test_layers_of_a_graph_that_share_a_constant_take_it_once(folder, model):
    """Each made a copy of it, and looked through the whole graph for its bias."""
    large = onnx.numpy_helper.from_array(np.ones((512, 512), np.float32), "large")
    nodes = [onnx.NodeProto(op_type="MatMul", input=[f"{number}", "large"], output=[f"{number + 1}"]) for number in range(8_000)]
    content = onnx.ModelProto(ir_version=8, producer_name="x", graph=onnx.GraphProto(node=nodes, initializer=[large]))
    assert "unknown key 'layer_00000.weight'" in refused_model(folder / "shared.onnx", content.SerializeToString(), model)


def test_names_and_shapes_by_the_thousand_take_no_time(folder, model):
    """Each shape was compared with each layer, each part of a name with all names."""
    known, seconds = model.state_dict(), time.process_time()
    shapes = {f"a{number}.weight": torch.empty(1, 1 + number, device="meta") for number in range(8_000)}
    assert not match_layers(shapes, known)
    names = [f"{'a.' * 450}{number}.conv1.weight" for number in range(3_000)]
    with pytest.raises(UserError, match="several networks"):
        choose_prefix(FileBytes("many", b"", ""), names, ["conv1", "fc"])
    assert time.process_time() - seconds < 2


@pytest.mark.parametrize("change", [
    lambda text: text.replace('"similarity": 0.5', '"similarity": NaN'),
    lambda text: text.replace('"similarity": 0.5', '"similarity": 1e999'),
    lambda text: text.replace('"similarity": 0.5', '"similarity": 2'), lambda text: text.replace('"inc": 7', '"inc": 1e999'),
    lambda text: text.replace('"inc": 7', '"inc": "\\ud800"'),
    lambda text: text.replace('"inc": 7', '"inc": ' + "[" * 400 + "]" * 400),
    lambda text: text.replace('"start_x": 3', '"start_x": 3,\n"start_x": 4'),
    lambda text: text.replace('"start_x": 3', '"start_x": ' + "9" * 4299),
    lambda text: text.replace('"threshold": 0.001', '"threshold": 1' + "0" * 400),
    lambda text: text.replace('"res20s"', '"' + "x" * 10**6 + '"'),
    lambda text: text.replace('"layer2.0.conv2"', '"' + "x" * 10**6 + '"'),
    lambda text: text.replace('"entries": 400', '"entries": 4'),
    lambda text: text[:-2] + ',"' + "x" * 10**6 + '": 1}\n', lambda text: text + " " * (1 << 26),
], ids=["NaN", "infinite", "a similarity of 2", "an infinite state", "half a letter", "a deep state", "an entry twice",
        "a huge place",
        "a huge threshold", "a long network", "a long layer", "more weights than there are", "a long name", "a huge file"])
def test_claims_of_a_code_that_can_not_be(change, folder, owner):
    path, text = folder / "bad_code.json", owner.code.decode()
    assert change(text) != text
    path.write_text(change(text))
    assert read_or_refused(lambda: read_claim(path), path) is None


def test_a_leaf_of_half_a_letter_is_refused(folder, owner):
    """It was a traceback: such a name can't be hashed."""
    content = json.loads(owner.public)
    content["leaves"]["\ud800"] = "0" * 64
    (folder / "leaf.json").write_text(json.dumps(content))
    with pytest.raises(commitment.Refused, match="leaf.json: a leaf's name is no valid text"):
        commitment.read_commitment(folder / "leaf.json")
