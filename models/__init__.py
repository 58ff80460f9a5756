"""Networks with CIFAR stems. To add one: write its module, then one line in ARCHITECTURES."""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn

# name -> (module, builder); the modules are imported when asked for, since torch takes seconds to load
ARCHITECTURES: dict[str, tuple[str, str]] = {
    "res20s": ("models.resnet_cifar", "resnet20s"),
    "res18": ("models.resnet", "resnet18"),
    "res50": ("models.resnet", "resnet50"),
}


def build_model(arch: str, num_classes: int, mean: tuple[float, ...] = (0.0, 0.0, 0.0),
                std: tuple[float, ...] = (1.0, 1.0, 1.0)) -> "nn.Module":
    """A freshly initialised network of the registry.

    Args:
        arch: a key of ARCHITECTURES.
        num_classes: width of the classifier `fc`.
        mean, std: per-channel statistics of the pictures on the scale 0 to 1; the network normalises its input
            itself (buffers `normalize.mean` and `normalize.std`), so a saved model is complete.

    The network takes float pictures [N, 3, H, W] on the scale 0 to 1, H and W at least 8, and gives logits
    [N, num_classes].
    """
    module, builder = ARCHITECTURES[arch]
    return getattr(importlib.import_module(module), builder)(num_classes, mean, std)
