"""fake3: a thief who knows the encoding, and the place, writes a code of his own there (paper, section 4.4)."""

from collections.abc import Mapping

import numpy as np
import torch

from attacks.noise import add_noise_weights, draw_in_kernels, keep_only
from pruner.qr_code import geometry as qr_code
from pruner.qr_code.embedding import find_region, occupancy
from pruner.masks import Mask
from utils.errors import UserError

EXTENTS = ("data", "region", "published")


def replace_code(mask: Mask, weights: Mapping[str, torch.Tensor], signature: str, max_name: str, start_x: int,
                 start_y: int, version: int, error_correction: str, mask_pattern: int, noise: float, insider: bool,
                 weights_per_kernel: int | None, seed: int, extent: str = "data") -> tuple[Mask, dict[str, torch.Tensor]]:
    """Write another signature's code over a region; afterwards its data modules read exactly as that code.

    All data modules are emptied, and the new code's ones get noise weights. With `insider`, only kernels that differ from
    what the new code wants are touched, which costs the thief least: they are emptied, or get noise weights if they are
    empty. (Where the old code is undamaged, these are the modules in which the two codes differ.)

    Args:
        mask: where weights are.
        weights: complete state_dict.
        signature: the thief's text.
        max_name, start_x, start_y: layer, first output channel and first input channel of the region.
        version, error_correction, mask_pattern: of the new code.
        noise: standard deviation of the new weights, which are drawn from a normal distribution.
        insider: see above.
        weights_per_kernel: of each newly occupied kernel, at random positions in it; None for the mean of the region's
            occupied data modules, rounded and at least 1, so that the new ones look like those beside them.
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
    if extent == "published" and weights_per_kernel:
        raise UserError("--extent published: says how many weights a kernel gets; leave out --weights_per_kernel")
    # only checks: everything is given, so there is nothing to choose
    region = find_region(mask, signature, error_correction=error_correction, version=version, mask_pattern=mask_pattern,
                         layer=max_name, start_x=start_x, start_y=start_y, low_level=False)
    code, is_data = qr_code.encode(signature, region.code_format), qr_code.data_modules(version)
    size, area = region.code_format.size, mask[max_name][0, 0].numel()
    window = (slice(start_x, start_x + size), slice(start_y, start_y + size))

    occupied = occupancy(mask[max_name])[window]
    before = mask[max_name][window].flatten(2).numpy()
    held = before.sum(2)[is_data & occupied]
    per_kernel = weights_per_kernel or max(1, round(float(held.mean())) if len(held) else 1)
    if per_kernel > area:
        raise UserError(f"--weights_per_kernel {per_kernel}: a kernel of layer {max_name} has {area} weights")

    rewritten = is_data & (occupied != code) if insider else is_data
    kept = mask[max_name].clone()
    kept[window][torch.from_numpy(rewritten) if extent == "data" else ...] = False
    cleared = Mask({**mask, max_name: kept})

    random = np.random.default_rng(seed)
    if extent == "published":
        entries = _published_entries(before, code, is_data, int(mask[max_name].sum()), random)
    else:
        entries = draw_in_kernels(rewritten & code, per_kernel, area, random)
        if extent == "region":
            entries |= before & ~is_data[:, :, None]
    added = torch.zeros_like(kept)
    added[window] = torch.from_numpy(entries).reshape(added[window].shape)
    return add_noise_weights(cleared, keep_only(cleared, weights), {max_name: added}, noise, random)


def _published_entries(before: np.ndarray, code: np.ndarray, is_data: np.ndarray, wanted: int,
                       random: np.random.Generator) -> np.ndarray:
    """Where the published code has weights afterwards: bool [size, size, area], like `before`. wanted: how many in all; the
    published code takes the layer's number for the square's."""
    entries = before & (code | ~is_data)[:, :, None]
    entries |= draw_in_kernels(is_data & code & ~before.any(2), 1, before.shape[2], random)
    room = np.flatnonzero((before.any(2) & code)[:, :, None] & ~entries)
    entries.flat[random.permutation(room)[:max(0, wanted - int(entries.sum()))]] = True
    return entries
