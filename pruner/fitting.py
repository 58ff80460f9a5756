"""Which network a file is of that has the same structure and other numbers of channels."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from models import HEAD, STEM
from models.fitting import fitted
from pruner.channel_graph import channel_graph
from pruner.derivation import parameter_of
from utils.errors import UserError

MOST_CHANNELS = 4  # times those of the network
MOST_CLASSES = 100_000


def like_file(model: nn.Module, entries: Mapping[str, Any], any_head: bool) -> nn.Module:
    """A network of the same structure with as many channels as a file's tensors have, and biases where only they have some. The model
    itself, where nothing of that is so or it can't be.

    Args:
        entries: of any file, by the network's names, which may end as those of torch.nn.utils.prune. Batch norms under other names, as
            those that were folded away, are as wide as the layers in front of them.
        any_head: whether it may have another number of classes.
    """
    known, modules = model.state_dict(), dict(model.named_modules())
    names = {parameter_of(name): value for name, value in entries.items() if isinstance(value, torch.Tensor)}
    if f"{STEM}.weight" not in names or f"{HEAD}.weight" not in names:
        return model
    shapes = {name: tuple(tensor.shape) for name, tensor in known.items()}
    for name, tensor in names.items():
        shape, (layer, _, kind) = tuple(tensor.shape), name.rpartition(".")
        own = shapes.get(name)
        if own is None and kind == "bias" and isinstance(modules.get(layer), nn.Conv2d):
            own = tuple(known[f"{layer}.weight"].shape[:1])
        if own is not None and len(own) == len(shape) and own[2:] == shape[2:]:
            most = [MOST_CHANNELS * size for size in own[:2]]
            if layer == HEAD and own:
                most[0] = MOST_CLASSES if any_head else own[0]
            if all(1 <= size <= limit for size, limit in zip(shape, most)):
                shapes[name] = shape
    if all(name in known and shape == known[name].shape for name, shape in shapes.items() if name.partition(".")[0] != HEAD):
        return model
    try:
        for layer, norm in channel_graph(model).normed.items():
            if f"{norm}.weight" not in names:
                shapes |= {name: shapes[f"{layer}.weight"][:1] for name in known if name.startswith(f"{norm}.") and known[name].dim()}
    except UserError:
        return model
    return fitted(model, {name: known[name] if name in known and known[name].shape == shape else torch.zeros(shape)
                          for name, shape in shapes.items()})
