"""Input normalisation as part of the network."""

import torch
from torch import nn


class Normalize(nn.Module):
    """(x - mean) / std per channel, for pictures [N, C, H, W] on the scale 0 to 1."""

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...]):
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32))
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x - self.mean[:, None, None]) / self.std[:, None, None]
