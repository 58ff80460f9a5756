"""A thief's second claim on a stolen model: ways to a key or a text of his own that verifies (the invert process I).

(Paper, sections 3.2 and 4.4, Appendix A1.) Some of them change nothing and look for what seems to be there; the others write
into a copy, which then truly bears the thief's code: what it costs is accuracy, and that it came second.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch

from attacks.fake1 import forge_key
from attacks.fake3 import replace_code
from attacks.forgeries.forge import forge
from attacks.locate import Found, locate
from attacks.noise import add_noise_weights, keep_only
from pruner.qr_code import geometry as qr_code
from pruner.qr_code.embedding import PREFERRED_VERSION, Place, Region, choose_version, embed, find_region
from pruner.masks import Mask
from pruner.qr_code.placement import weights_per_kernel as counts_of
from pruner.qr_code.geometry import CodeFormat
from utils.errors import UserError

ERROR_CORRECTION = "H"
SUSPECTED = 15.0  # nats; the best block of an unsigned ticket is rarely above (`attacks.locate`)
KEY_RATIO = 0.05  # of a forged key, where the stolen file does not say how large the true one was (paper, Table 4)


@dataclass(frozen=True)
class Written:
    """A text and where its code lies."""

    signature: str
    place: Place
    code_format: CodeFormat


@dataclass(frozen=True)
class SecondClaim:
    """What a thief made.

    mask, weights: of the model that he claims; the stolen one itself, an altered copy, or the ticket that a forged key
    completes. tried: how many possibilities he looked at. code: his text, or None where he claims a key.
    """

    mask: Mask
    weights: Mapping[str, torch.Tensor]
    tried: int
    code: Written | None = None


def search(mask: Mask, weights: Mapping[str, torch.Tensor], budget: int, length: int, version: int | None,
           error_correction: str | None, seed: int) -> SecondClaim:
    """`attacks.forgeries.forge.forge`: nothing is written, a text is made up that agrees with the model as it is."""
    made_up = forge(mask, budget, length, version or PREFERRED_VERSION, error_correction or ERROR_CORRECTION, seed)
    return SecondClaim(mask, weights, budget, Written(made_up.signature, made_up.place, made_up.code_format))


def by_key(mask: Mask, weights: Mapping[str, torch.Tensor], key_ratio: float | None, noise: float, seed: int) -> SecondClaim:
    """fake1: the stolen model is declared a locked ticket, and a key for it made of noise weights where it has none.

    There is nothing to search: any key without overlap completes some mask exactly.

    Args:
        mask: the stolen model's.
        weights: complete state_dict.
        key_ratio: the key's share of the ticket that the two make, above 0 and below 1; None for KEY_RATIO.
        noise: standard deviation of its weights.
        seed: of positions and weights.
    Returns:
        mask and weights of the completed ticket; the key is what `mask` lacks of it.
    Raises:
        UserError: the key would have no weight, or more than there is room for.
    """
    ratio = KEY_RATIO if key_ratio is None else key_ratio
    count = round(ratio / (1 - ratio) * mask.nonzeros)
    if not 0 < count <= mask.entries - mask.nonzeros:
        raise UserError(f"--key_ratio {ratio:g}: a key of {count} weights beside the model's {mask.nonzeros} of {mask.entries} "
                        "is none, or has no room; choose another ratio")
    return SecondClaim(*forge_key(mask, weights, count, noise, seed), tried=1)


def by_adding(mask: Mask, weights: Mapping[str, torch.Tensor], signature: str, budget: int, version: int | None,
              error_correction: str | None, noise: float, weights_per_kernel: int | None, top_up: bool,
              seed: int) -> SecondClaim:
    """fake2 with a text: a code written by adding noise weights alone, so that nothing of the model is lost.

    Of `budget` places and mask patterns, drawn without repetition, the one is taken where the fewest zeros of the code are
    occupied, since those stay wrong; of equals the one where most data modules are right already, and of these the first.

    Args:
        mask: the stolen model's.
        weights: complete state_dict.
        signature: the thief's text.
        budget: places and mask patterns to look at; all, if there are no more.
        version, error_correction: of the code; None for the smallest from 3 up that holds the text and fits, and "H".
        noise: standard deviation of the new weights.
        weights_per_kernel: that an empty kernel at one of the code's ones gets, at random positions; None for as many as the
            layer's occupied kernels hold on average, rounded and at least 1.
        top_up: whether ones' kernels that hold fewer get the rest, since an owner who counts weights sees the difference.
        seed: of places, patterns, positions and weights.
    Raises:
        UserError: the text does not fit, no layer has room, or a kernel has fewer entries than `weights_per_kernel`.
    """
    error_correction = error_correction or ERROR_CORRECTION
    version = choose_version(mask, signature, error_correction, version, 0, 0)
    formats = [CodeFormat(version, error_correction, pattern) for pattern in qr_code.MASK_PATTERNS]
    is_data, size = qr_code.data_modules(version), qr_code.code_size(version)
    codes = [qr_code.encode(signature, code_format)[is_data] for code_format in formats]
    counts = {name: counts_of(layer) for name, layer in mask.items() if min(layer.shape[:2]) >= size}
    random, best = np.random.default_rng(seed), None
    shapes = {name: (len(codes), *(length - size + 1 for length in count.shape)) for name, count in counts.items()}
    ends = np.cumsum([np.prod(shape) for shape in shapes.values()])
    drawn = random.choice(ends[-1], min(budget, int(ends[-1])), replace=False)
    names = list(counts)
    for number in drawn:
        index = int(np.searchsorted(ends, number, side="right"))
        name = names[index]
        pattern, x, y = map(int, np.unravel_index(number - (ends[index - 1] if index else 0), shapes[name]))
        occupied = counts[name][x:x + size, y:y + size][is_data] > 0
        merit = (-int((occupied & ~codes[pattern]).sum()), int((occupied == codes[pattern]).sum()))
        if best is None or merit > best[0]:
            best = merit, Place(name, x, y), formats[pattern]
    _, place, code_format = best

    layer, window = mask[place.layer], (slice(place.start_x, place.start_x + size), slice(place.start_y, place.start_y + size))
    area, occupied = layer[0, 0].numel(), counts[place.layer][counts[place.layer] > 0]
    each = weights_per_kernel or max(1, round(float(occupied.mean())) if len(occupied) else 1)
    if each > area:
        raise UserError(f"--weights_per_kernel {each}: a kernel of layer {place.layer} has {area} weights")
    held, count = layer[window].flatten(2).numpy(), counts[place.layer][window]
    filled = qr_code.encode(signature, code_format) & is_data & (top_up | (count == 0))
    # the first few of each kernel's free entries in random order: those that are held come last
    rank = np.where(held, np.inf, random.random(held.shape)).argsort(2).argsort(2)
    added = torch.zeros_like(layer)
    added[window] = torch.from_numpy(rank < np.where(filled, each - count, 0)[:, :, None]).reshape(added[window].shape)
    return SecondClaim(*add_noise_weights(mask, weights, {place.layer: added}, noise, random), tried=len(drawn),
                       code=Written(signature, place, code_format))


def by_replacing(mask: Mask, weights: Mapping[str, torch.Tensor], signature: str, max_name: str | None, start_x: int | None,
                 start_y: int | None, version: int | None, error_correction: str | None, mask_pattern: int | None,
                 noise: float, insider: bool, weights_per_kernel: int | None, seed: int) -> SecondClaim:
    """fake3: the thief's code over the owner's (`attacks.fake3.replace_code`), where he knows it to be or believes so.

    Args:
        mask: the stolen model's.
        weights: complete state_dict.
        max_name, start_x, start_y: the place, or None for the block that looks most like a code (`attacks.locate`).
        version: None for the found block's where it holds the text, else for the smallest from 3 up that does and fits.
        error_correction, mask_pattern: None for "H", and for the pattern that changes the region least.
        signature, noise, insider, weights_per_kernel, seed: see `replace_code`.
    Raises:
        UserError: see `replace_code` and `attacks.locate.locate`.
    """
    error_correction = error_correction or ERROR_CORRECTION
    if max_name is None:
        found = _suspected(mask)[0]
        max_name, start_x, start_y = found.layer, found.start_x, found.start_y
        if version is None and len(signature.encode("utf-8")) <= qr_code.capacity(found.version, error_correction):
            version = found.version
    region = find_region(mask, signature, error_correction, version, mask_pattern, max_name, start_x, start_y, low_level=False)
    copy = replace_code(mask, weights, signature, max_name, start_x, start_y, region.code_format.version, error_correction,
                        region.code_format.mask_pattern, noise, insider, weights_per_kernel, seed)
    return SecondClaim(*copy, tried=len(qr_code.MASK_PATTERNS) if mask_pattern is None else 1,
                       code=Written(signature, Place(max_name, start_x, start_y), region.code_format))


def by_signing_again(mask: Mask, weights: Mapping[str, torch.Tensor], signature: str, version: int | None,
                     error_correction: str | None, noise: float, seed: int) -> SecondClaim:
    """A re-signed copy: the thief signs as an owner does (Algorithm 2), where the model already looks most like his code.

    Blocks that look like a code (`attacks.locate`: the best, and all above SUSPECTED) are left alone, as far as that leaves
    room, so that both codes are legible. Without that the owner's would often be the most similar place: all codes have a
    format and a padding in common. The density stays; what is moved gets noise weights.

    Args:
        mask: the stolen model's.
        weights: complete state_dict.
        signature: the thief's text.
        version, error_correction: of his code; None for the smallest from 3 up that holds the text and fits, and "H".
        noise: standard deviation of the new weights.
        seed: of positions and weights.
    Raises:
        UserError: the text does not fit, no layer has room beside the most suspected block, or the ticket too few weights.
    """
    wanted = (mask, signature, error_correction or ERROR_CORRECTION, version)
    find_region(*wanted, low_level=False)  # refuses what fits nowhere
    suspected = [Region(found.layer, found.start_x, found.start_y, CodeFormat(found.version), 1.0) for found in _suspected(mask)]
    region = None
    while region is None:
        try:
            region = find_region(*wanted, low_level=False, taken=suspected)
        except UserError:
            if len(suspected) == 1:
                raise UserError(f"--by resign: no layer has room for a code that leaves the block in {suspected[0].layer} alone "
                                "that looks like one; take --by fake3, or a smaller --version") from None
            suspected.pop()
    random = np.random.default_rng(seed)
    signed = embed(mask, signature, region, random)
    kept = Mask({name: layer & signed[name] for name, layer in mask.items()})
    added = {name: signed[name] & ~layer for name, layer in mask.items()}
    tried = len(qr_code.MASK_PATTERNS) * sum(
        max(0, layer.shape[0] - region.code_format.size + 1) * max(0, layer.shape[1] - region.code_format.size + 1)
        for layer in mask.values())
    return SecondClaim(*add_noise_weights(kept, keep_only(kept, weights), added, noise, random), tried=tried,
                       code=Written(signature, Place(region.layer, region.start_x, region.start_y), region.code_format))


def _suspected(mask: Mask) -> list[Found]:
    """The block that looks most like a code, and those beside it that look like one. Raises UserError if none fits."""
    found = locate(mask)
    if not found:
        raise UserError("--arch: no layer of this network has room for a code; there is nothing to locate")
    return [found[0], *(block for block in found[1:] if block.score > SUSPECTED)]
