"""--passport-config: which layers have passports, and with which texts. DeepIPR's files are read as they are."""

import fnmatch
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import nn

from models.layers import carriers
from passports.layers import normed_layers
from utils import checkpoint
from utils.errors import UserError

FLAG = "--passport_config"
# DeepIPR's names of layers, and ours
ALEXNET = {"0": "conv1", "2": "conv2", "4": "conv3", "5": "conv4", "6": "conv5"}
RESNET = {"convbnrelu_1": "conv1", "convbn_2": "conv2", "shortcut": "downsample.0"}


def read_config(path: str | Path, model: nn.Module) -> dict[str, str]:
    """Layer -> text, "" for bits without a text, in the order of computation.

    A file is a JSON table: name of a layer -> false, true or a text. Names are the network's own, with shell patterns
    (`layer3.*`, which only layers with a norm match), or DeepIPR's, nested as there. What names one layer goes before patterns.

    Raises:
        UserError: the file is no such table; it names a layer that is unknown or without a norm of its own, a text that does not
            fit (8 bits a byte of UTF-8, as many as the layer has channels), or no layer at all.
    """
    content, layers = checkpoint.load_json(path), normed_layers(model)
    convolutions = carriers(model)
    if not isinstance(content, dict):
        raise UserError(f"{FLAG} {path}: must be a table of layers' names")
    entries, values = dict(_flat(path, content)), {}
    for name in sorted(entries, key=lambda name: name in convolutions):  # patterns first
        value, matching = entries[name], fnmatch.filter(layers, name)
        if not isinstance(value, bool | str):
            raise UserError(f"{FLAG} {path}: {checkpoint.shortened(name)} must be true, false or a text")
        if name in convolutions and name not in layers and value is not False:
            raise UserError(f"{FLAG} {path}: layer {name} has no norm of its own, so nothing that a passport could scale")
        if not matching and name not in convolutions and not (value is False and name.endswith(RESNET["shortcut"])):
            raise UserError(f"{FLAG} {path}: {checkpoint.shortened(name)} is no layer of the network (see --arch); those with a norm "
                            f"are {', '.join(layers)}")
        values |= dict.fromkeys(matching, value)
    texts = {layer: values[layer] if isinstance(values[layer], str) else "" for layer in layers
             if values.get(layer, False) is not False}
    if not texts:
        raise UserError(f"{FLAG} {path}: gives no layer a passport")
    check_texts(f"{FLAG} {path}", texts, convolutions)
    return texts


def check_texts(where: str, texts: Mapping[str, str], layers: Mapping[str, nn.Module]) -> None:
    """Raise UserError, naming `where`, for a text of more bits than its layer has output channels."""
    for layer, text in texts.items():
        size, channels = len(text.encode("utf-8")), len(layers[layer].weight)
        if size > channels // 8:
            raise UserError(f"{where}: the text of layer {layer} has {size} bytes, and its {channels} channels hold "
                            f"{channels // 8}")


def _flat(path: str | Path, content: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(layer's name, value) of nested tables, in our names."""
    for name, value in content.items():
        own = RESNET.get(name, name) if prefix else {**ALEXNET, **RESNET}.get(name, name)
        if isinstance(value, dict):
            yield from _flat(path, value, f"{prefix}{own}.")
        else:
            yield f"{prefix}{own}", value
