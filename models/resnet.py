"""torchvision's ResNet-18 and ResNet-50 with a stem for small pictures: 3x3 stride-1 `conv1`, no max-pooling."""

import torch
from torch import nn
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet

from models.normalize import Normalize


class SmallPictureResNet(ResNet):
    """Parameter names are torchvision's; the stem's are `conv1.weight` [64, 3, 3, 3] and `bn1.*`."""

    def __init__(self, block: type[nn.Module], layers: list[int], num_classes: int, mean: tuple[float, ...],
                 std: tuple[float, ...]):
        super().__init__(block, layers, num_classes=num_classes)
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
