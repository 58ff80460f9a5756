"""What a network's weights show of a signature."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from passports.draw import Draw


@dataclass(frozen=True)
class Reading:
    """Of one layer. right: of its `bits`. text: as the signs show it, "" where none was claimed."""

    right: int
    bits: int
    text: str


def read_signature(draw: Draw, vectors: Mapping[str, torch.Tensor], weights: Mapping[str, torch.Tensor]) -> dict[str, Reading]:
    """Layer -> what the signs of its weights' products with the scale's passport show; zero is no sign, so wrong.

    Args:
        vectors: layer -> [in * height * width, 2], see `passports.vectors`.
        weights: layer -> [out, in, height, width], on the CPU; float64 is computed in.
    """
    readings = {}
    for layer in draw.texts:
        signs = torch.sign(weights[layer].detach().double().flatten(1) @ vectors[layer][:, 0].double()).numpy()
        right = int((signs == draw.bits(layer, len(signs))).sum())
        readings[layer] = Reading(right, len(signs), draw.read_text(layer, signs))
    return readings


def total(readings: Mapping[str, Reading]) -> tuple[int, int]:
    """(right, bits) of all layers together."""
    return sum(one.right for one in readings.values()), sum(one.bits for one in readings.values())
