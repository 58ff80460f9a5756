"""A suspect's model as a classifier: what it says of pictures."""

from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from datasets.pictures import Dataset, Examples
from datasets.points import Clouds
from models import build_model
from models.fitting import fitted
from models.layers import takes_points
from pruner import tickets
from utils.checkpoint import FileBytes
from utils.engine import Engine, resolve_device
from utils.errors import UserError

Normalisation = tuple[tuple[float, ...] | None, tuple[float, ...] | None]  # mean and standard deviation, None for the file's own


def load_trained(path: str | Path | FileBytes, arch: str, data: Dataset, normalisation: Normalisation = (None, None),
                 expected: tickets.Expected = tickets.Expected()) -> nn.Module:
    """A trained model from its file.

    Args:
        data: whose classes it must know, and whose normalisation is taken where neither the file nor `normalisation` says.
        normalisation: per channel on the scale 0 to 1, instead of the file's own.
        expected: which network, for messages.
    Raises:
        UserError: as `pruner.tickets.read_model_file`; no trained weights; a network for other
            kinds of data.
    """
    model = build_model(arch, data.num_classes, data.mean, data.std)
    check_takes(model, data.test)
    expected = replace(expected, classes=f"the test pictures have {data.num_classes}")
    weights = tickets.read_model_file(path, model, expected=expected, any_width=True).weights
    if weights is None:
        raise UserError(f"{path}: holds no trained weights; it is a ticket or mask file")
    instead = {f"normalize.{name}": torch.tensor(values) for name, values in zip(("mean", "std"), normalisation)
               if values and f"normalize.{name}" in weights}
    return fitted(model, weights | instead)


def check_takes(model: nn.Module, examples: Examples) -> None:
    """Raise UserError for a network of pictures and points for it, or the other way round."""
    if takes_points(model) != isinstance(examples, Clouds):
        raise UserError(f"the network takes no {type(examples).__name__.lower()}; see --arch and --dataset")


def accuracy_of(model: nn.Module, examples: Examples, device: str) -> float:
    """Percent of the examples that the model has right, in fp32. Raises UserError for a device that this machine lacks."""
    engine = Engine(model, resolve_device(device), amp=False)
    return engine.evaluate(examples.to(engine.device))[1]
