"""Group norm where a network has batch norm: it has no running statistics, so two branches can share it."""

from torch import nn

PER_GROUP = 16  # channels, as in DeepIPR


def group_norm(channels: int) -> nn.GroupNorm:
    """To be given to a network instead of nn.BatchNorm2d."""
    return nn.GroupNorm(max(1, channels // PER_GROUP), channels)
