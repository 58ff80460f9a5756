"""Networks with CIFAR stems, and networks of point clouds. To add one: write its module, then one entry in ARCHITECTURES (docs/extending.md)."""

import importlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from utils.errors import UserError

if TYPE_CHECKING:
    from torch import nn

STEM = "conv1"  # the first convolution, which masks leave out unless asked
HEAD = "fc"  # the classifier, which is made anew for other classes


@dataclass(frozen=True)
class Architecture:
    """One network of the registry.

    module, builder: where it is; the function takes the number of classes and the pictures' mean and standard deviation (see
    `build_model`). title: as tables and figures call it. weight_decay: where --weight_decay does not say (paper, section 4,
    General Settings). kind: of the examples that it takes (`datasets.Source`). optimizer: of `utils.engine.OPTIMIZERS`.
    """

    module: str
    builder: str
    title: str
    weight_decay: float = 1e-4
    kind: str = "pictures"
    optimizer: str = "sgd"


# the modules are imported when asked for, since torch takes seconds to load
ARCHITECTURES: dict[str, Architecture] = {
    "res20s": Architecture("models.resnet_cifar", "resnet20s", "ResNet-20"),
    "res18": Architecture("models.resnet", "resnet18", "ResNet-18"),
    "res50": Architecture("models.resnet", "resnet50", "ResNet-50", weight_decay=5e-4),
    "res20s_gn": Architecture("models.resnet_cifar", "resnet20s_gn", "ResNet-20, group norm"),
    "res18_gn": Architecture("models.resnet", "resnet18_gn", "ResNet-18, group norm"),
    "alexnet": Architecture("models.alexnet", "alexnet", "AlexNet"),
    "alexnet_gn": Architecture("models.alexnet", "alexnet_gn", "AlexNet, group norm"),
    "pointnet": Architecture("models.pointnet", "pointnet", "PointNet", kind="points", optimizer="adam"),
    "pointnet_plain": Architecture("models.pointnet", "pointnet_plain", "PointNet, no T-Nets", kind="points", optimizer="adam"),
    "pointnet_s": Architecture("models.pointnet", "pointnet_s", "PointNet, small", kind="points", optimizer="adam"),
}


def build_model(arch: str, num_classes: int, mean: tuple[float, ...] = (0.0, 0.0, 0.0),
                std: tuple[float, ...] = (1.0, 1.0, 1.0)) -> "nn.Module":
    """A freshly initialised network of the registry.

    Args:
        arch: a key of ARCHITECTURES.
        num_classes: width of the classifier `fc`.
        mean, std: per-channel statistics of the pictures on the scale 0 to 1; the network normalises its input
            itself (buffers `normalize.mean` and `normalize.std`), so a saved model is complete.

    The network takes float pictures [N, 3, H, W] on the scale 0 to 1, H and W at least 8, or clouds [N, 3, P], which it does not
    normalise, and gives logits [N, num_classes].

    Raises:
        UserError: the network lacks what masks, files and attacks rely on (`check_network`).
    """
    entry = ARCHITECTURES[arch]
    model = getattr(importlib.import_module(entry.module), entry.builder)(num_classes, mean, std)
    check_network(arch, model, num_classes)
    return model


def check_network(arch: str, model: "nn.Module", num_classes: int) -> None:
    """Raise UserError naming the first requirement of docs/extending.md that can be seen on the modules and is not met."""
    from torch import nn

    from models.normalize import Normalize

    pictures = ARCHITECTURES[arch].kind == "pictures"
    modules, keys = dict(model.named_modules()), model.state_dict().keys()
    stem, head, convolution = modules.get(STEM), modules.get(HEAD), nn.Conv2d if pictures else nn.Conv1d
    convolutions = [name for name, module in modules.items() if isinstance(module, convolution)]
    unmet = None
    if pictures and not isinstance(modules.get("normalize"), Normalize):
        unmet = "no models.normalize.Normalize called `normalize`"
    elif not isinstance(stem, convolution) or stem.in_channels != 3:
        unmet = f"no {convolution.__name__} of 3 input channels called `{STEM}`"
    elif not isinstance(head, nn.Linear) or head.out_features != num_classes:
        unmet = f"no Linear of {num_classes} outputs, its number of classes, called `{HEAD}`"
    elif convolutions == [STEM]:
        unmet = f"no {convolution.__name__} to prune beside `{STEM}`"
    else:
        unmet = next((f"no plain parameter `{name}.weight` (is the layer parametrized?)" for name in (*convolutions, HEAD)
                      if f"{name}.weight" not in keys), None)
    if unmet:
        raise UserError(f"--arch {arch}: the network has {unmet}; see docs/extending.md")
