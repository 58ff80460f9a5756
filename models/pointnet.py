"""PointNet (Qi et al., CVPR 2017): every point through the same layers, the largest of each channel, a classifier.

Layers are called as in the well-known PyTorch version (github.com/yanx27/Pointnet_Pointnet2_pytorch), but for the first convolution,
`feat.conv1` there, and the classifier, `fc3` there: these are `conv1` and `fc` as in all networks here. Its files are read.
"""

import torch
import torch.nn.functional as F
from torch import nn

WIDTHS = (64, 128, 1024, 512, 256)  # of three convolutions and two linear layers


class TransformNet(nn.Module):
    """T-Net: a cloud [N, size, P] to a matrix [N, size, size] that its points are multiplied by; the identity plus what is learnt."""

    def __init__(self, size: int):
        super().__init__()
        self.size = size
        for number, (inputs, channels) in enumerate(zip((size, *WIDTHS[:2]), WIDTHS[:3]), 1):
            self.add_module(f"conv{number}", nn.Conv1d(inputs, channels, 1))
        self.fc1, self.fc2 = nn.Linear(WIDTHS[2], WIDTHS[3]), nn.Linear(WIDTHS[3], WIDTHS[4])
        self.fc3 = nn.Linear(WIDTHS[4], size * size)
        for number, channels in enumerate(WIDTHS, 1):
            self.add_module(f"bn{number}", nn.BatchNorm1d(channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        x = F.relu(self.bn2(self.conv2(x)))
        x = F.relu(self.bn3(self.conv3(x))).amax(2)
        x = F.relu(self.bn4(self.fc1(x)))
        x = F.relu(self.bn5(self.fc2(x)))
        return self.fc3(x).reshape(-1, self.size, self.size) + torch.eye(self.size, device=x.device)


class PointNet(nn.Module):
    """Stem `conv1`, convolutions, T-Nets and norms in `feat`, linear layers `fc1` and `fc2`, classifier `fc`.

    widths: of the three convolutions, and of the linear layers before the classifier. transforms: with T-Nets. dropout: the share
    behind the last of these linear layers.
    """

    def __init__(self, num_classes: int, widths: tuple[int, ...] = WIDTHS, transforms: bool = False, dropout: float = 0.4):
        super().__init__()
        first, second, third, *linear = widths
        self.transforms = transforms
        self.conv1 = nn.Conv1d(3, first, 1)
        self.feat = nn.Module()
        if transforms:
            self.feat.stn = TransformNet(3)
        self.feat.conv2, self.feat.conv3 = nn.Conv1d(first, second, 1), nn.Conv1d(second, third, 1)
        for number, channels in enumerate((first, second, third), 1):
            self.feat.add_module(f"bn{number}", nn.BatchNorm1d(channels))
        if transforms:
            self.feat.fstn = TransformNet(first)
        self.hidden = len(linear)
        for number, (inputs, channels) in enumerate(zip((third, *linear), linear), 1):
            self.add_module(f"fc{number}", nn.Linear(inputs, channels))
            self.add_module(f"bn{number}", nn.BatchNorm1d(channels))
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(linear[-1], num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Clouds [N, 3, P] to logits [N, classes]."""
        if self.transforms:
            x = self.feat.stn(x).transpose(1, 2) @ x
        x = F.relu(self.feat.bn1(self.conv1(x)))
        if self.transforms:
            x = self.feat.fstn(x).transpose(1, 2) @ x
        x = F.relu(self.feat.bn2(self.feat.conv2(x)))
        x = self.feat.bn3(self.feat.conv3(x)).amax(2)
        for number in range(1, self.hidden + 1):
            x = getattr(self, f"fc{number}")(x)
            x = F.relu(getattr(self, f"bn{number}")(self.dropout(x) if number == self.hidden else x))
        return self.fc(x)


def pointnet(num_classes: int, mean: tuple[float, ...], std: tuple[float, ...]) -> nn.Module:
    """With T-Nets, 3.46 million parameters at 10 classes. Points are normalised by their data set."""
    return PointNet(num_classes, transforms=True)


def pointnet_plain(num_classes: int, mean: tuple[float, ...], std: tuple[float, ...]) -> nn.Module:
    """Without T-Nets, 0.80 million parameters at 10 classes."""
    return PointNet(num_classes)


def pointnet_s(num_classes: int, mean: tuple[float, ...], std: tuple[float, ...]) -> nn.Module:
    """Small, without T-Nets, for the embedded digits; 20,000 parameters at 10 classes."""
    return PointNet(num_classes, (32, 64, 128, 64), dropout=0.0)
