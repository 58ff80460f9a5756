"""What a suspect's model shows to somebody who looks for a code: per kernel, how many weights it has and how large."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from pruner import tickets
from pruner.qr_code import geometry as qr_code
from pruner.qr_code.embedding import Place, named_layer
from pruner.masks import Mask
from pruner.tickets import Expected
from utils.errors import UserError


@dataclass(frozen=True)
class Window:
    """The square of a layer where a code would lie.

    counts: int [size, size], weights in each kernel. largest: float [size, size], the largest magnitude of each (0 where
    empty), or None where only masks are known.
    """

    counts: np.ndarray
    largest: np.ndarray | None

    @property
    def occupied(self) -> np.ndarray:
        """bool [size, size], True where a kernel has weights."""
        return self.counts > 0


@dataclass(frozen=True)
class Suspect:
    """A mask and, where they are known, the weights it keeps: complete tensors by layer name."""

    mask: Mask
    weights: Mapping[str, torch.Tensor] | None = None

    def counts(self, layer: str) -> np.ndarray:
        """int [out, in], weights in each kernel of a layer. Raises UserError if there is no such layer."""
        return named_layer(self.mask, layer, "layer").flatten(2).sum(2).numpy()

    def window(self, place: Place, version: int) -> Window:
        """Raises UserError if there is no such layer, or the window leaves it."""
        counts, size = self.counts(place.layer), qr_code.code_size(version)
        if place.start_x + size > counts.shape[0] or place.start_y + size > counts.shape[1]:
            raise UserError(f"start_x {place.start_x}, start_y {place.start_y}: a version {version} code ({size}x{size}) at this "
                            f"offset leaves layer {place.layer} ({counts.shape[0]}x{counts.shape[1]})")
        square = (slice(place.start_x, place.start_x + size), slice(place.start_y, place.start_y + size))
        largest = None
        if self.weights is not None:
            magnitudes = self.weights[place.layer].abs() * self.mask[place.layer]
            largest = magnitudes.flatten(2).amax(2).double().numpy()[square]
        return Window(counts[square], largest)

    def cleaned(self, threshold: float) -> "Suspect":
        """Without weights of magnitude below the owner's threshold t: the paper's defence against add-on attacks (section
        3.4). Raises UserError where only masks are known."""
        if self.weights is None:
            raise UserError("--threshold: the suspect's file holds masks only; there are no magnitudes to compare")
        return Suspect(Mask({name: kept & (self.weights[name].abs() >= threshold) for name, kept in self.mask.items()}),
                       self.weights)

    def magnitude_below(self, share: float) -> float:
        """The magnitude below which this share of the weights lies, over all layers together."""
        magnitudes = torch.cat([self.weights[name][kept].abs() for name, kept in self.mask.items()])
        return float(np.sort(magnitudes.double().numpy())[int(share * len(magnitudes))])


def expected_by(arch: str) -> Expected:
    """For messages to an arbiter, who names no network: the claim does."""
    return Expected(f"the claim is about {arch}")


def read_suspect(path: str, model: nn.Module, expected: Expected = Expected()) -> Suspect:
    """A suspect's file: where its weights are effectively there. Raises UserError as `pruner.tickets.read_model_file`."""
    given = tickets.read_model_file(path, model, head=False, expected=expected)
    mask = given.pattern("--checkpoint", model)
    return Suspect(mask, {name: given.weights[f"{name}.weight"] for name in mask} if given.weights is not None else None)
