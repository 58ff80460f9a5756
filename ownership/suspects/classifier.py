"""A suspect's model as a classifier: what it says of pictures."""

from dataclasses import replace
from pathlib import Path

from torch import nn

from datasets.pictures import Pictures
from models import build_model
from models.fitting import fitted
from pruner import tickets
from utils.checkpoint import FileBytes
from utils.engine import Engine, resolve_device
from utils.errors import UserError


def load_trained(path: str | Path | FileBytes, arch: str, num_classes: int, mean: tuple[float, ...], std: tuple[float, ...],
                 expected: tickets.Expected = tickets.Expected()) -> nn.Module:
    """A trained model from its file.

    Args:
        mean, std: normalisation of its pictures, per channel on the scale 0 to 1, where the file does not say.
        expected: which network, for messages.
    Raises:
        UserError: as `pruner.tickets.read_model_file`; no trained weights.
    """
    model = build_model(arch, num_classes, mean, std)
    expected = replace(expected, classes=f"the test pictures have {num_classes}")
    weights = tickets.read_model_file(path, model, expected=expected, any_width=True).weights
    if weights is None:
        raise UserError(f"{path}: holds no trained weights; it is a ticket or mask file")
    return fitted(model, weights)


def accuracy_of(model: nn.Module, pictures: Pictures, device: str) -> float:
    """Percent of the pictures that the model has right, in fp32. Raises UserError for a device that this machine lacks."""
    engine = Engine(model, resolve_device(device), amp=False)
    return engine.evaluate(pictures.to(engine.device))[1]
