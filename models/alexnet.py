"""AlexNet for small pictures, as DeepIPR has it: five convolutions with norms, three poolings, one linear layer."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn

from models.group_norm import group_norm
from models.normalize import Normalize

SIDE = 4  # of what the classifier reads: that of 32x32 pictures after three poolings


class AlexNet(nn.Module):
    """Convolutions `conv1` to `conv5`, each with its norm `bn1` to `bn5`, classifier `fc`. Pictures of another size than 32x32
    are brought to SIDE x SIDE before the classifier."""

    def __init__(self, num_classes: int, mean: tuple[float, ...], std: tuple[float, ...],
                 norm: Callable[[int], nn.Module] = nn.BatchNorm2d):
        super().__init__()
        self.normalize = Normalize(mean, std)
        for number, (inputs, channels, kernel) in enumerate(((3, 64, 5), (64, 192, 5), (192, 384, 3), (384, 256, 3), (256, 256, 3)), 1):
            self.add_module(f"conv{number}", nn.Conv2d(inputs, channels, kernel, padding=kernel // 2, bias=False))
            self.add_module(f"bn{number}", norm(channels))
        self.fc = nn.Linear(256 * SIDE**2, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(self.normalize(x)))), 2)
        x = F.max_pool2d(F.relu(self.bn2(self.conv2(x))), 2)
        x = F.relu(self.bn3(self.conv3(x)))
        x = F.relu(self.bn4(self.conv4(x)))
        x = F.max_pool2d(F.relu(self.bn5(self.conv5(x))), 2)
        return self.fc(F.adaptive_avg_pool2d(x, SIDE).flatten(1))


def alexnet(num_classes: int, mean: tuple[float, ...], std: tuple[float, ...]) -> nn.Module:
    """With batch norm, 2.49 million parameters at 10 classes."""
    return AlexNet(num_classes, mean, std)


def alexnet_gn(num_classes: int, mean: tuple[float, ...], std: tuple[float, ...]) -> nn.Module:
    """With group norm."""
    return AlexNet(num_classes, mean, std, group_norm)
