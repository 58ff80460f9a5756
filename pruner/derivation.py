"""From the entries of any model's file to those of a network: which container they stand in, under which prefix, what is left
aside, how pruned and quantised ones are put together. All that was done is said in a `Derivation`."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from utils.checkpoint import FileBytes, shortened
from utils.errors import UserError

CONTAINERS = ("state_dict", "net", "model", "model_state_dict", "state_dict_ema", "ema")  # the first that is there is taken
MASK, ORIGINAL = "_mask", "_orig"  # how torch.nn.utils.prune names what stands for a pruned parameter
INITIAL = "init_weight"  # the weights to rewind to, in our tickets and the original's
DEEPEST = 3  # containers in containers
LONGEST_NAME = 1000  # letters; a longer one is no parameter's
OF_LAYERS = ("weight", "bias", "running_mean", "running_var")  # how names end that say more of a network than it should have
SCALES = (("{0}_scale", "{0}_zero_point"), ("{1}.scale", "{1}.zero_point"))  # of a quantised parameter {0} of a layer {1}
NARROW = {torch.int8, torch.uint8, torch.float8_e4m3fn, torch.float8_e5m2}
DTYPES = {torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16, torch.bool, *NARROW}
NAMED = 5  # entries in a line


@dataclass(frozen=True)
class Derivation:
    """What was found in a file, and what was done to read it as the network's.

    container: the entries, one in the other, that hold the weights; none where the file itself does. others: that could be chosen
    instead. prefix: taken off all names. left: names of entries that no weight is missing for. masked: parameters whose masks were
    applied, beside the layers that are pruned anyhow. types: what other numbers were than the network's, and how many parameters.
    """

    container: tuple[str, ...] = ()
    others: tuple[str, ...] = ()
    prefix: str = ""
    left: tuple[str, ...] = ()
    masked: tuple[str, ...] = ()
    types: Mapping[str, int] | None = None

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    def in_words(self) -> str:
        """In a short line; empty for a file as this project writes it."""
        said = []
        if self.container not in ((), ("state_dict",)) or self.others:
            said.append(f"the weights are those under {'.'.join(map(shortened, self.container)) or 'no entry'}"
                        + (f", not {listed(self.others)} (--entry)" if self.others else ""))
        if self.prefix:
            said.append(f"prefix {shortened(self.prefix)} taken off")
        if self.masked:
            said.append(f"masks of {listed(self.masked)} applied too")
        said += [f"{count} parameters were {dtype}" for dtype, count in (self.types or {}).items()]
        if self.left:
            said.append(f"{len(self.left)} {'entry' if len(self.left) == 1 else 'entries'} left aside ({listed(self.left)})")
        return "; ".join(said)


def listed(names: Sequence[str]) -> str:
    """The first few of a stranger's names, for a message."""
    return ", ".join(map(shortened, names[:NAMED])) + (", ..." if len(names) > NAMED else "")


def is_plain(tensor: Any) -> bool:
    """Whether an entry is a tensor whose numbers are all there, of a type that is read here."""
    return isinstance(tensor, torch.Tensor) and tensor.layout == torch.strided and not tensor.is_nested \
        and tensor.device.type == "cpu" and tensor.dtype in DTYPES


def parameter_of(name: str) -> str:
    """Which parameter a mask, or the weights under it, are of; any other name as it is."""
    return name.removesuffix(MASK).removesuffix(ORIGINAL)


def ends_as_a_layers(name: str) -> bool:
    """Whether a name is one that a layer's parameter has."""
    return parameter_of(name).rpartition(".")[2] in OF_LAYERS


def find_container(file: FileBytes, content: Mapping[str, Any]) -> tuple[Mapping[str, Any], tuple[str, ...], tuple[str, ...]]:
    """(entries, names of the containers that they stand in, names of those that could be chosen instead).

    It is the one that the user has chosen, else the first of CONTAINERS that is there, and so on within. Raises UserError where the
    chosen one, or a prefix of this name, is not there.
    """
    entry = file.entry
    if entry is not None and isinstance(content.get(entry), dict):
        return content[entry], (entry,), ()
    top, taken, others = content, (), ()
    for _ in range(DEEPEST):
        names = [name for name in CONTAINERS if isinstance(content.get(name), dict)]
        if not names or taken and any(isinstance(value, torch.Tensor) for value in content.values()):
            break
        content, taken, others = content[names[0]], (*taken, names[0]), (*others, *names[1:])
    if entry is not None and not any(str(name).startswith(_dotted(entry)) for name in content):
        raise UserError(f"--entry {entry}: {file} has no such entry; it has {listed(list(map(str, top)))}")
    return content, taken, others


def _dotted(entry: str) -> str:
    return f"{entry.removesuffix('.')}."


def choose_prefix(file: FileBytes, names: Iterable[Any], known: Iterable[str]) -> str:
    """What stands before the network's names in a file: that under which most of them are found.

    Args:
        names: in the file. known: the network's.
    Raises:
        UserError: as many stand under several, and the user has chosen none.
    """
    entry = file.entry
    known = {f"{name}{kind}" for name in known for kind in ("", ORIGINAL, MASK)}
    counts = Counter()
    for name in (name for name in names if isinstance(name, str) and len(name) <= LONGEST_NAME):
        parts = name.split(".")
        counts.update(".".join(parts[:at]) + "." * (at > 0) for at in range(len(parts)) if ".".join(parts[at:]) in known)
    most = max(counts.values(), default=0)
    best = sorted(prefix for prefix, count in counts.items() if count == most)
    if entry is not None and _dotted(entry) in counts:
        return _dotted(entry)
    if len(best) > 1 and "" not in best:
        raise UserError(f"{file}: holds several networks, under {listed(best)}; choose with --entry")
    return "" if not best or "" in best else best[0]


def dequantised(tensors: dict[str, torch.Tensor], known: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The same with (weight - zero point) * scale, float32, for parameters of 8 bits that have a scale beside them, for all of
    them or for each output; scales and zero points are taken out. Numbers of 8 bits that are floats need none."""
    result = dict(tensors)
    for name in (name for name in known if name in tensors):
        tensor = tensors[name]
        if tensor.dtype not in NARROW or tensor.shape != known[name].shape or not known[name].is_floating_point():
            continue
        for names in SCALES:
            scale, zero = (key.format(name, name.rpartition(".")[0]) for key in names)
            if scale in result and is_plain(result[scale]) and result[scale].numel() in (1, len(tensor)):
                shape = (-1, *[1] * (tensor.dim() - 1))
                offset = result.pop(zero, None)
                if offset is None or not is_plain(offset) or offset.numel() not in (1, len(tensor)):
                    offset = torch.zeros(1)
                result[name] = (tensor.float() - offset.float().reshape(shape)) * result.pop(scale).float().reshape(shape)
                break
        else:
            if tensor.dtype.is_floating_point:
                result[name] = tensor.float()
    return result
