"""Tickets that look like trained ones, and structured ones, made in no time."""

import math
from collections.abc import Callable

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


# --- structured masks, of layers of these shapes ------------------------------------------------------------------------

Shapes = dict[str, tuple[int, ...]]


def channel_pruned(shapes: Shapes, random: np.random.Generator) -> Mask:
    """Half of all channels are gone, the others dense."""
    return Mask({name: torch.from_numpy(np.broadcast_to((random.random(shape[0]) < 0.5)[:, None, None, None]
                                                        & (random.random(shape[1]) < 0.5)[:, None, None], shape).copy())
                 for name, shape in shapes.items()})


def sorted_channels(shapes: Shapes, random: np.random.Generator) -> Mask:
    """Dense rows above sparse ones, as after sorting by density."""
    return Mask({name: torch.from_numpy(random.random(shape) < np.linspace(0.4, 0, shape[0])[:, None, None, None])
                 for name, shape in shapes.items()})


def two_of_four(shapes: Shapes, random: np.random.Generator) -> Mask:
    """Of every four weights in a row two."""
    masks = {}
    for name, shape in shapes.items():
        order = np.argsort(np.argsort(random.random((math.prod(shape) // 4, 4)), axis=1), axis=1)
        masks[name] = torch.from_numpy((order < 2).reshape(shape))
    return Mask(masks)


def blocks(shapes: Shapes, random: np.random.Generator) -> Mask:
    """Of every four times four kernels all or none."""
    return Mask({name: torch.from_numpy(np.kron(random.random((-(-shape[0] // 4), -(-shape[1] // 4))) < 0.4, np.ones((4, 4)))
                                        [:shape[0], :shape[1], None, None].astype(bool) & np.ones(shape, dtype=bool))
                 for name, shape in shapes.items()})


def filled(share: float) -> Callable[[Shapes, np.random.Generator], Mask]:
    """This share of all weights, anywhere."""
    return lambda shapes, random: Mask({name: torch.from_numpy(random.random(shape) < share) for name, shape in shapes.items()})


STRUCTURED: dict[str, Callable[[Shapes, np.random.Generator], Mask]] = {
    "99% full": filled(0.99), "0.1% full": filled(0.001), "channel-pruned": channel_pruned, "sorted": sorted_channels,
    "2:4": two_of_four, "block-sparse": blocks}
