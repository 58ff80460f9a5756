"""The square of a layer where a code would lie: what a suspect shows there, and the suspect renumbered without a look at it."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from ownership.qr_code.claim import CodeClaim
from ownership.suspects.alignment import Alignment, align
from ownership.suspects.reading import Suspect
from pruner.channel_groups import channel_groups
from pruner.masks import Mask, kernels, weights_per_kernel
from pruner.qr_code import geometry as qr_code
from pruner.qr_code.embedding import Place, named_layer
from utils.errors import UserError


@dataclass(frozen=True)
class Window:
    """What the square shows.

    counts: int [size, size], weights in each kernel. largest: float [size, size], the largest magnitude of each (0 where
    empty), or None where only masks are known.
    """

    counts: np.ndarray
    largest: np.ndarray | None

    @property
    def occupied(self) -> np.ndarray:
        """bool [size, size], True where a kernel has weights."""
        return self.counts > 0


def window_of(suspect: Suspect, place: Place, version: int) -> Window:
    """Raises UserError if there is no such layer, or the window leaves it."""
    counts, size = weights_per_kernel(named_layer(suspect.mask, place.layer, "layer")), qr_code.code_size(version)
    if place.start_x + size > counts.shape[0] or place.start_y + size > counts.shape[1]:
        raise UserError(f"start_x {place.start_x}, start_y {place.start_y}: a version {version} code ({size}x{size}) at this "
                        f"offset leaves layer {place.layer} ({counts.shape[0]}x{counts.shape[1]})")
    square = (slice(place.start_x, place.start_x + size), slice(place.start_y, place.start_y + size))
    largest = None
    if suspect.weights is not None:
        magnitudes = suspect.weights[place.layer].abs() * suspect.mask[place.layer]
        largest = kernels(magnitudes).amax(2).double().numpy()[square]
    return Window(counts[square], largest)


def region_kernels(mask: Mask, places: Sequence[Place], version: int) -> dict[str, torch.Tensor]:
    """Layer -> bool [out, in], True for the kernels in a code's square, its function patterns included."""
    size = qr_code.code_size(version)
    kernels = {name: torch.zeros(layer.shape[:2], dtype=torch.bool) for name, layer in mask.items()}
    for place in places:
        if place.layer in kernels:
            kernels[place.layer][place.start_x:place.start_x + size, place.start_y:place.start_y + size] = True
    return kernels


def cleaned(suspect: Suspect, claim: CodeClaim) -> Suspect:
    """After the owner's cleaning if the claim has a threshold; a mask file has nothing to clean."""
    return suspect.cleaned(claim.threshold) if claim.threshold and suspect.weights is not None else suspect


def align_claimed(owner: Suspect, suspect: Suspect, model: nn.Module, claim: CodeClaim) -> Alignment:
    """`align` after the owner's cleaning, with the claim's regions left out. Raises UserError if the network's structure can't be
    followed."""
    return align(owner, cleaned(suspect, claim), channel_groups(model), region_kernels(owner.mask, claim.places, claim.version))
