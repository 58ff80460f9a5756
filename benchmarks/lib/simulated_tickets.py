"""Tickets that look like trained ones, made in no time."""

import numpy as np
import torch

from models import build_model
from pruner.masks import Mask, prunable_layers


def network(arch: str, density: float, random: np.random.Generator) -> tuple[Mask, dict[str, torch.Tensor]]:
    """A ticket that looks like one: layers get sparser with depth, rows and columns differ, magnitudes are log-normal."""
    layers = prunable_layers(build_model(arch, 10))
    entries = sum(layer.weight.numel() for layer in layers.values())
    rough = {}
    for index, (name, layer) in enumerate(layers.items()):
        rows, columns = (random.gamma(2.0, size=count) for count in layer.weight.shape[:2])
        rough[name] = np.broadcast_to((rows[:, None] * columns * 4.0 ** (-3 * index / len(layers)))[:, :, None, None],
                                      layer.weight.shape)
    low, high = 1e-6, 1e3
    for _ in range(60):  # the scale at which the expected density is the one asked for
        middle = np.sqrt(low * high)
        low, high = (low, middle) if sum(np.clip(middle * p, 0, 0.9).sum() for p in rough.values()) > density * entries \
            else (middle, high)
    mask = Mask({name: torch.from_numpy(random.random(p.shape) < np.clip(low * p, 0, 0.9)) for name, p in rough.items()})
    weights = {f"{name}.weight": kept * torch.from_numpy(0.1 * random.lognormal(0, 0.6, kept.shape)
                                                         * random.choice([-1, 1], kept.shape)).float()
               for name, kept in mask.items()}
    return mask, weights
