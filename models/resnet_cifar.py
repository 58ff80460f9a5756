"""ResNet-20 for small pictures (He et al. 2016, section 4.2): 16-32-64 channels, shortcuts without parameters."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn

from models.group_norm import group_norm
from models.normalize import Normalize


class BasicBlock(nn.Module):
    """Two 3x3 convolutions; the shortcut halves the picture and pads channels with zeros where shapes change."""

    def __init__(self, in_channels: int, channels: int, stride: int, norm: Callable[[int], nn.Module]):
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, 1, bias=False)
        self.bn1 = norm(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.bn2 = norm(channels)
        self.stride = stride
        self.pad_channels = (channels - in_channels) // 2

    def shortcut(self, x: torch.Tensor) -> torch.Tensor:
        if self.stride == 1:
            return x
        x = x[:, :, ::self.stride, ::self.stride]
        return F.pad(x, (0, 0, 0, 0, self.pad_channels, self.pad_channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        return F.relu(out + self.shortcut(x))


class ResNetCifar(nn.Module):
    """Stem, three stages of `blocks` basic blocks, global average pooling, classifier `fc`."""

    def __init__(self, blocks: int, num_classes: int, mean: tuple[float, ...], std: tuple[float, ...],
                 norm: Callable[[int], nn.Module] = nn.BatchNorm2d):
        super().__init__()
        self.normalize = Normalize(mean, std)
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.bn1 = norm(16)
        self.layer1 = self._stage(16, 16, blocks, 1, norm)
        self.layer2 = self._stage(16, 32, blocks, 2, norm)
        self.layer3 = self._stage(32, 64, blocks, 2, norm)
        self.fc = nn.Linear(64, num_classes)
        for module in self.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                nn.init.kaiming_normal_(module.weight)

    @staticmethod
    def _stage(in_channels: int, channels: int, blocks: int, stride: int, norm: Callable[[int], nn.Module]) -> nn.Sequential:
        first = BasicBlock(in_channels, channels, stride, norm)
        return nn.Sequential(first, *(BasicBlock(channels, channels, 1, norm) for _ in range(blocks - 1)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.bn1(self.conv1(self.normalize(x))))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.fc(x.mean(dim=(2, 3)))


def resnet20s(num_classes: int, mean: tuple[float, ...], std: tuple[float, ...]) -> nn.Module:
    """ResNet-20, 0.27 million parameters at 10 classes."""
    return ResNetCifar(3, num_classes, mean, std)


def resnet20s_gn(num_classes: int, mean: tuple[float, ...], std: tuple[float, ...]) -> nn.Module:
    """ResNet-20 with group norm."""
    return ResNetCifar(3, num_classes, mean, std, group_norm)
