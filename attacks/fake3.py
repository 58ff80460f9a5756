"""fake3: a thief who knows the encoding, and the place, writes a code of his own there (paper, section 4.4)."""

from collections.abc import Mapping

import numpy as np
import torch

from attacks.noise import NewWeights, add_noise_weights, draw_in_kernels, keep_only
from pruner.qr_code import geometry as qr_code
from pruner.qr_code.embedding import Wish, find_region, occupancy
from pruner.masks import Mask, kernels
from utils.errors import UserError


def replace_code(mask: Mask, weights: Mapping[str, torch.Tensor], signature: str, wish: Wish, new: NewWeights, insider: bool,
                 seed: int, extent: str = "data") -> tuple[Mask, dict[str, torch.Tensor]]:
    """Write another signature's code over a region; afterwards its data modules read exactly as that code.

    All data modules are emptied, and the new code's ones get noise weights. With `insider`, only kernels that differ from
    what the new code wants are touched, which costs the thief least: they are emptied, or get noise weights if they are
    empty. (Where the old code is undamaged, these are the modules in which the two codes differ.)

    Args:
        mask: where weights are.
        weights: complete state_dict.
        signature: the thief's text.
        wish: layer, first output channel and first input channel of the region, and the form of the new code.
        new: what each newly occupied kernel gets; by default as many weights as the region's occupied data modules hold on
            average, so that the new ones look like those beside them.
        insider: see above.
        seed: of positions and weights.
        extent: "data" is the above. "region" also turns all that lies between the data modules into noise, so that the square
            keeps no trained weight: the paper's "replacing the embedded region". "published" is what the published code does:
            "region", but occupied kernels that stay occupied keep their positions, empty ones get one weight, and then the
            former are filled up until the square holds as many weights as the whole layer did.
    Returns:
        mask and weights with the other code; all other kernels are untouched.
    Raises:
        UserError: no such layer, the code leaves it, the text does not fit the code, or the weights the kernel; an insider
            who replaces more than data modules, or a number of weights per kernel that the published code does not have.
    """
    if extent != "data" and insider:
        raise UserError(f"--extent {extent}: --insider touches data modules alone; leave out one of the two")
    if extent == "published" and new.per_kernel:
        raise UserError("--extent published: says how many weights a kernel gets; leave out --weights_per_kernel")
    region = find_region(mask, signature, wish, low_level=False)  # only checks, where all is wished for
    code, is_data = qr_code.encode(signature, region.code_format), qr_code.data_modules(region.code_format.version)
    layer, window = mask[region.layer], region.square(region.code_format.size)
    occupied, before = occupancy(layer)[window], kernels(layer)[window].numpy()
    each = new.each(region.layer, before.sum(2)[is_data & occupied], before.shape[2])

    rewritten = is_data & (occupied != code) if insider else is_data
    kept = layer.clone()
    kept[window][torch.from_numpy(rewritten) if extent == "data" else ...] = False
    cleared = Mask({**mask, region.layer: kept})

    random = np.random.default_rng(seed)
    if extent == "published":
        entries = _published_entries(before, code, is_data, int(layer.sum()), random)
    else:
        entries = draw_in_kernels(rewritten & code, each, before.shape[2], random)
        if extent == "region":
            entries |= before & ~is_data[:, :, None]
    added = torch.zeros_like(kept)
    added[window] = torch.from_numpy(entries).reshape(added[window].shape)
    return add_noise_weights(cleared, keep_only(cleared, weights), {region.layer: added}, new.noise, random)


def _published_entries(before: np.ndarray, code: np.ndarray, is_data: np.ndarray, wanted: int,
                       random: np.random.Generator) -> np.ndarray:
    """Where the published code has weights afterwards: bool [size, size, area], like `before`. wanted: how many in all; the
    published code takes the layer's number for the square's."""
    entries = before & (code | ~is_data)[:, :, None]
    entries |= draw_in_kernels(is_data & code & ~before.any(2), 1, before.shape[2], random)
    room = np.flatnonzero((before.any(2) & code)[:, :, None] & ~entries)
    entries.flat[random.permutation(room)[:max(0, wanted - int(entries.sum()))]] = True
    return entries
