"""From the entries of any model's file to those of a network: which container they stand in, under which prefix, what is left
aside, how pruned and quantised ones are put together. All that was done is said in a `Derivation`."""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch

from models import HEAD
from utils.checkpoint import FileBytes, shortened
from utils.errors import UserError

CONTAINERS = ("state_dict", "net", "model", "model_state_dict", "state_dict_ema", "ema")  # the first that is there is taken
MASK, ORIGINAL = "_mask", "_orig"  # how torch.nn.utils.prune names what stands for a pruned parameter
INITIAL = "init_weight"  # the weights to rewind to, in our tickets and the original's
DEEPEST = 3  # containers in containers
LONGEST_NAME = 1000  # letters; a longer one is no parameter's
OF_LAYERS = ("weight", "bias", "running_mean", "running_var")  # how names end that say more of a network than it should have
SCALES = (("{0}_scale", "{0}_zero_point"), ("{1}.scale", "{1}.zero_point"))  # of a quantised parameter {0} of a layer {1}
NORM = (1 + torch.nn.BatchNorm2d(1).eps) ** 0.5  # what a batch norm of variance 1 must multiply by to change nothing
NARROW = {torch.int8, torch.uint8, torch.float8_e4m3fn, torch.float8_e5m2}
DTYPES = {torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16, torch.bool, *NARROW}
NAMED = 5  # entries in a line
FOLDED = " norm"  # ends what a batch norm is called that was folded into the convolution of this name


@dataclass(frozen=True)
class Derivation:
    """What was found in a file, and what was done to read it as the network's.

    container: the entries, one in the other, that hold the weights; none where the file itself does. others: that could be chosen
    instead. prefix: taken off all names. chosen: layer's name in the file -> the network's, as the user said. renamed: likewise,
    found by order and shape. left: names of entries that no weight is missing for. folded: convolutions with a bias instead of a batch norm. masked: parameters whose
    masks were applied, beside the layers that are pruned anyhow. types: what other numbers were than the network's, and how many
    parameters.
    """

    container: tuple[str, ...] = ()
    others: tuple[str, ...] = ()
    prefix: str = ""
    chosen: Mapping[str, str] = field(default_factory=dict)
    renamed: Mapping[str, str] = field(default_factory=dict)
    left: tuple[str, ...] = ()
    folded: int = 0
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
        if self.folded:
            said.append(f"{self.folded} batch norms were folded into convolutions")
        if self.chosen:
            said.append(f"{len(self.chosen)} layers named by --rename")
        if self.renamed:
            said.append(f"{len(self.renamed)} layers found by order and shape ({listed(list(self.renamed))} "
                        f"{'is' if len(self.renamed) == 1 else 'are'} {listed(list(self.renamed.values()))})")
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


def choose_prefix(file: FileBytes, names: Iterable[Any], layers: Collection[str], chosen: Collection[str] = ()) -> str:
    """What stands before the network's names in a file: that under which most of its layers are found, and half at least.

    Args:
        names: in the file. layers: the network's. chosen: the file's, as far as the user has said what they are.
    Raises:
        UserError: as many stand under several, and the user has chosen none.
    """
    entry = file.entry
    known = {f"{layer}.weight{kind}" for layer in (*layers, *chosen) for kind in ("", ORIGINAL, MASK)}
    deepest, counts = max(name.count(".") for name in known) + 1, Counter()
    for name in (name for name in names if isinstance(name, str) and len(name) <= LONGEST_NAME):
        parts = name.split(".")
        counts.update(".".join(parts[:at]) + "." * (at > 0) for at in range(max(0, len(parts) - deepest), len(parts))
                      if ".".join(parts[at:]) in known)
    most = max(counts.values(), default=0)
    best = sorted(prefix for prefix, count in counts.items() if count == most and 2 * count >= len(layers))
    if entry is not None and _dotted(entry) in counts:
        return _dotted(entry)
    if len(best) > 1 and "" not in best:
        raise UserError(f"{file}: holds several networks, under {listed(best)}; choose with --entry")
    return "" if not best or "" in best else best[0]


def unfold_norms(entries: dict[str, Any], known: Mapping[str, torch.Tensor]) -> tuple[dict[str, Any], int]:
    """The same with a batch norm behind each convolution that has a bias, which it then lacks, and how many these are; of a file
    without any batch norm, for a network that has some: exporters fold them into the convolutions before. The new ones multiply by
    1, up to rounding, and add the bias."""
    if not any(name.endswith(".running_var") for name in known) or any(name.endswith(".running_var") for name in entries):
        return entries, 0
    result, folded = {}, 0
    for name, value in entries.items():
        layer, _, kind = name.rpartition(".")
        weight = entries.get(f"{layer}.weight", entries.get(f"{layer}.weight{ORIGINAL}"))
        if kind == "bias" and is_plain(value) and is_plain(weight) and weight.dim() == 4 and value.shape == weight.shape[:1]:
            norm, ones, folded = f"{layer}{FOLDED}", torch.ones(len(value)), folded + 1
            result |= {f"{norm}.weight": ones * NORM, f"{norm}.bias": value, f"{norm}.running_mean": 0 * ones,
                       f"{norm}.running_var": ones}
        else:
            result[name] = value
    return result, folded


def match_layers(entries: Mapping[str, Any], known: Mapping[str, torch.Tensor], any_width: bool = False) -> dict[str, str]:
    """Layer's name in a file -> the network's, for layers that have other names there: of those that are alike in all shapes the first
    is the first, the second the second, and so on, if there are as many. Batch norms that were folded away follow their convolutions
    in the network's order. The classifier is the linear layer that reads as much, of whatever classes.

    Args:
        entries: the file's, without what stands before all names, in the order in which layers follow each other.
        known: the network's state_dict. any_width: whether layers are alike whatever their numbers of channels.
    """
    theirs, ours = _shapes(entries, any_width), _shapes(known, any_width)
    unknown = [name for name in theirs if name not in ours]
    missing = [name for name in ours if name not in theirs]
    found: dict[str, str] = {}
    heads = [name for name in unknown if len(theirs[name].get("weight", ())) == 2]
    if HEAD in missing and len(heads) == 1 and theirs[heads[0]]["weight"][1] == ours[HEAD]["weight"][1]:
        found[heads[0]] = HEAD
        missing.remove(HEAD)
    places = {name: place for place, name in enumerate(ours)}

    def place(name: str) -> int:
        layer = name.removesuffix(FOLDED)
        return 0 if layer == name else places.get(found.get(layer, layer), len(places))

    alike, wanted = _by_shapes(theirs, [name for name in unknown if name not in found]), _by_shapes(ours, missing)
    for shapes, names in sorted(wanted.items(), key=lambda item: -len(ours[item[1][0]].get("weight", ()))):  # norms come last
        if len(alike.get(shapes, ())) == len(names):
            found |= dict(zip(sorted(alike[shapes], key=place), names))
    return found


def _by_shapes(layers: Mapping[str, Mapping[str, tuple[int, ...]]], names: Iterable[str]) -> dict[str, list[str]]:
    """Names of layers that are alike in all shapes, in their order."""
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(str(sorted(layers[name].items())), []).append(name)
    return groups


def _shapes(entries: Mapping[str, Any], any_width: bool) -> dict[str, dict[str, tuple[int, ...]]]:
    """Layer -> what its parameters are called -> their shapes, or what is not channels of them."""
    layers: dict[str, dict[str, tuple[int, ...]]] = {}
    for name, value in entries.items():
        layer, _, kind = parameter_of(name).rpartition(".")
        if kind in OF_LAYERS and isinstance(value, torch.Tensor) and len(name) <= LONGEST_NAME:
            layers.setdefault(layer, {})[kind] = tuple(value.shape)[2:] if any_width else tuple(value.shape)
    return layers


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
