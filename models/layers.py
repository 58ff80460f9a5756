"""Which layers of a network masks and passports are about."""

from torch import nn

from models import HEAD, STEM

NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.GroupNorm)


def carriers(model: nn.Module) -> dict[str, nn.Module]:
    """Name -> layer, in the order of definition: every Conv2d; of a network of points, whose stem is a Conv1d, every Conv1d, and every
    Linear but the classifier."""
    kinds = (nn.Conv1d, nn.Linear) if isinstance(getattr(model, STEM, None), nn.Conv1d) else (nn.Conv2d,)
    return {name: module for name, module in model.named_modules() if isinstance(module, kinds) and name != HEAD}
