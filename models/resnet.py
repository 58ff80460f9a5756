"""torchvision's ResNet-18 and ResNet-50 with a stem for small pictures: 3x3 stride-1 `conv1`, no max-pooling."""

from collections.abc import Callable

import torch
from torch import nn
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet

from models.group_norm import group_norm
from models.normalize import Normalize


class SmallPictureResNet(ResNet):
    """Parameter names are torchvision's; the stem's are `conv1.weight` [64, 3, 3, 3] and `bn1.*`."""

    def __init__(self, block: type[nn.Module], layers: list[int], num_classes: int, mean: tuple[float, ...],
                 std: tuple[float, ...], norm: Callable[[int], nn.Module] = nn.BatchNorm2d):
        super().__init__(block, layers, num_classes=num_classes, norm_layer=norm)
        self.conv1 = nn.Conv2d(3, 64, 3, 1, 1, bias=False)
        nn.init.kaiming_normal_(self.conv1.weight, mode="fan_out", nonlinearity="relu")
        self.maxpool = nn.Identity()
        self.normalize = Normalize(mean, std)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(self.normalize(x))


def resnet18(num_classes: int, mean: tuple[float, ...], std: tuple[float, ...]) -> nn.Module:
    """ResNet-18, 11.17 million parameters at 10 classes."""
    return SmallPictureResNet(BasicBlock, [2, 2, 2, 2], num_classes, mean, std)


def resnet50(num_classes: int, mean: tuple[float, ...], std: tuple[float, ...]) -> nn.Module:
    """ResNet-50, 23.52 million parameters at 10 classes."""
    return SmallPictureResNet(Bottleneck, [3, 4, 6, 3], num_classes, mean, std)


def resnet18_gn(num_classes: int, mean: tuple[float, ...], std: tuple[float, ...]) -> nn.Module:
    """ResNet-18 with group norm."""
    return SmallPictureResNet(BasicBlock, [2, 2, 2, 2], num_classes, mean, std, group_norm)
