"""Which layers of a network masks and passports are about, and what it takes."""

import torch
from torch import nn

from models import HEAD, STEM

NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.GroupNorm)


def carriers(model: nn.Module) -> dict[str, nn.Module]:
    """Name -> layer, in the order of definition: every Conv2d; of a network of points, whose stem is a Conv1d, every Conv1d, and every
    Linear but the classifier."""
    kinds = (nn.Conv1d, nn.Linear) if takes_points(model) else (nn.Conv2d,)
    return {name: module for name, module in model.named_modules() if isinstance(module, kinds) and name != HEAD}


def takes_points(model: nn.Module) -> bool:
    """Whether inputs are point clouds [N, 3, P]; else they are pictures [N, 3, H, W]."""
    return isinstance(getattr(model, STEM, None), nn.Conv1d)


def noise_for(model: nn.Module, count: int, side: int) -> torch.Tensor:
    """Seeded noise from 0 to 1, float32: `count` pictures of side x side, or clouds of as many points."""
    shape = (side * side,) if takes_points(model) else (side, side)
    return torch.rand(count, 3, *shape, generator=torch.Generator().manual_seed(0))
