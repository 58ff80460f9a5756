"""Strangers' ONNX files: the weights of convolutions, batch norms and linear layers in the order of the graph, and what the picture
is normalised by.

Nothing of the graph is run, and no file beside it is opened. What is not numbers is bounded before the library sees it, since its
objects take many times the bytes that describe them.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from utils.checkpoint import FileBytes, shortened
from utils.errors import UserError

MAX_DESCRIPTION = 1 << 22  # bytes beside the numbers; a ResNet-50 has 1/40 of that
GRAPH, INITIALIZER, NUMBERS = 7, 5, {4, 5, 7, 9, 10, 11}  # fields of a model, of a graph, of a tensor
VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5  # kinds of fields
FIRST_FIELDS = b"\x12\x1a\x22\x28\x32\x3a\x42"  # that may follow the version at the beginning
CHANNELS = 3
# what becomes of scale and shift of a picture when numbers are added to it, or it is multiplied by them
ARITHMETIC: dict[str, Callable[[Any, Any, Any], tuple[Any, Any]]] = {
    "Add": lambda scale, shift, by: (scale, shift + by), "Sub": lambda scale, shift, by: (scale, shift - by),
    "Mul": lambda scale, shift, by: (scale * by, shift * by), "Div": lambda scale, shift, by: (scale / by, shift / by)}
DAMAGED = "not a usable checkpoint: it is cut off or no ONNX file"


class _Unfit(ValueError):
    """The file is no ONNX file, or none that is read here; the text says why."""


def is_one(raw: bytes) -> bool:
    """Whether a file begins as one: the version of the format, then a field that a model has."""
    return len(raw) > 2 and raw[0] == 8 and raw[1] < 32 and raw[2] in FIRST_FIELDS


def load(file: FileBytes) -> dict[str, Any]:
    """Tensors by name, layer after layer: X.weight and X.bias of convolutions and linear layers, and of batch norms the running
    statistics too; normalize.mean and normalize.std where the graph begins with that. X is the exporter's name for the layer where it
    kept one. Raises UserError for a file that is damaged, has its
    weights elsewhere, or no such layers."""
    from onnx import ModelProto

    try:
        if _described(file.raw) > MAX_DESCRIPTION:
            raise _Unfit(f"it has more than {MAX_DESCRIPTION} bytes beside its weights")
        graph = ModelProto.FromString(file.raw).graph
        tensors = dict(_tensors(graph))
        if not tensors:
            raise _Unfit("it has no layers with weights in it")
    except Exception as error:  # the library's own, and whatever a hostile file brings about in it
        raise UserError(f"{file}: {DAMAGED} ({error if isinstance(error, _Unfit) else type(error).__name__})") from None
    return tensors


def _fields(raw: memoryview) -> Iterator[tuple[int, memoryview]]:
    """(number, content) of a message's fields; of those that are numbers the content is empty."""
    at = 0

    def varint() -> int:
        nonlocal at
        value = shift = 0
        while True:
            if at >= len(raw) or shift > 63:
                raise _Unfit("it is cut off")
            byte, at = raw[at], at + 1
            value |= (byte & 127) << shift
            if byte < 128:
                return value
            shift += 7

    while at < len(raw):
        key = varint()
        size = {VARINT: 0, FIXED64: 8, FIXED32: 4}.get(key & 7)
        if key & 7 == VARINT:
            varint()
        elif key & 7 == BYTES:
            size = varint()
        if size is None or at + size > len(raw):
            raise _Unfit("it is cut off")
        yield key >> 3, raw[at:at + size]
        at += size


def _described(raw: bytes) -> int:
    """Bytes of a model that are not its tensors' numbers."""
    numbers = 0
    for number, content in _fields(memoryview(raw)):
        for inner, tensor in _fields(content) if number == GRAPH else ():
            if inner == INITIALIZER:
                numbers += sum(len(held) for of_tensor, held in _fields(tensor) if of_tensor in NUMBERS)
    return len(raw) - numbers


def _tensors(graph: Any) -> Iterator[tuple[str, Any]]:
    """(name, tensor) of all layers. Raises _Unfit."""
    import torch
    from onnx import TensorProto, numpy_helper

    constants = {one.name: one for one in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant":
            constants |= {node.output[0]: attribute.t for attribute in node.attribute if attribute.name == "value" and node.output}
        elif node.op_type == "Identity" and node.input[0] in constants:  # what is there twice, exporters write once
            constants[node.output[0]] = constants[node.input[0]]
    biases = {name: node for node in graph.node if node.op_type == "Add" for name in node.input}
    names: set[str] = set()
    arrays: dict[int, Any] = {}  # one for all layers that share a constant: thousands may name one

    def read(name: str) -> Any:
        tensor = constants[name]
        if id(tensor) in arrays:
            return arrays[id(tensor)]
        if tensor.data_location == TensorProto.EXTERNAL or tensor.external_data:
            raise _Unfit("its weights lie in other files; save it with them inside")
        return arrays.setdefault(id(tensor), torch.from_numpy(numpy_helper.to_array(tensor).copy()))

    def layer_of(weight: str) -> str:
        layer = weight.removesuffix(".weight") if weight.endswith(".weight") else f"layer_{len(names):05d}"
        if layer in names:
            raise _Unfit(f"two layers share {shortened(weight)}")
        names.add(layer)
        return layer

    yield from _normalisation(graph, constants, read)
    for node in graph.node:
        given = [name for name in node.input[1:] if name in constants]
        if node.op_type in ("Conv", "Gemm") and given[:1] == list(node.input[1:2]):
            layer, weight = layer_of(given[0]), read(given[0])
            settings = {attribute.name: attribute for attribute in node.attribute}
            if node.op_type == "Gemm":
                if any(name in settings and settings[name].f != 1 for name in ("alpha", "beta")):
                    raise _Unfit("a linear layer is multiplied by a factor")
                weight = weight if "transB" in settings and settings["transB"].i else weight.mT
            yield f"{layer}.weight", weight
            if len(given) > 1:
                yield f"{layer}.bias", read(given[1])
        elif node.op_type == "MatMul" and len(given) == 1:
            layer = layer_of(given[0])
            yield f"{layer}.weight", read(given[0]).mT
            bias = [name for name in biases[node.output[0]].input if name in constants] if node.output[0] in biases else []
            if bias:
                yield f"{layer}.bias", read(bias[0])
        elif node.op_type == "BatchNormalization" and len(given) == 4:
            layer = layer_of(given[0])
            yield from zip((f"{layer}.{kind}" for kind in ("weight", "bias", "running_mean", "running_var")), map(read, given))


def _normalisation(graph: Any, constants: Mapping[str, Any], read: Callable[[str], Any]) -> Iterator[tuple[str, Any]]:
    """normalize.mean and normalize.std, float32 [3], of a graph that first adds numbers to the picture's channels, or multiplies them:
    what becomes of a picture is (picture - mean) / std."""
    import torch

    flat: dict[str, str] = {}
    for node in graph.node:
        if node.op_type in ("Unsqueeze", "Reshape"):
            flat[node.output[0]] = flat.get(node.input[0], node.input[0])
    picture = next((one.name for one in graph.input if one.name not in constants), None)
    scale, shift = torch.ones(CHANNELS, dtype=torch.float64), torch.zeros(CHANNELS, dtype=torch.float64)
    done = False
    for node in graph.node:
        if node.op_type not in ARITHMETIC or picture not in node.input:
            continue
        name = next((flat.get(name, name) for name in node.input if name != picture), None)
        values = read(name).double().flatten() if name in constants else None
        if values is None or values.numel() not in (1, CHANNELS) or node.op_type in ("Sub", "Div") and node.input[0] != picture:
            return
        scale, shift = ARITHMETIC[node.op_type](scale, shift, values)
        picture, done = node.output[0], True
    if done:
        yield "normalize.mean", (-shift / scale).float()
        yield "normalize.std", (1 / scale).float()
