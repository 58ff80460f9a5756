"""A thief's second claim on a stolen model: ways to a key or a text of his own that verifies (the invert process I).

(Paper, sections 3.2 and 4.4.) Some of them change nothing and look for what seems to be there; the others write
into a copy, which then truly bears the thief's code: what it costs is accuracy, and that it came second.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from attacks.fake1 import forge_key
from attacks.fake3 import replace_code
from attacks.forgeries.forge import forge
from attacks.locate import Found, locate
from attacks.noise import NewWeights, add_noise_weights, keep_only
from passports.attachment import Passports
from pruner.qr_code import geometry as qr_code
from pruner.qr_code.embedding import (PREFERRED_VERSION, Place, PlacedCode, Region, Wish, choose_version, embed,
                                          find_region)
from pruner.masks import Mask, kernels, weights_per_kernel as counts_of
from pruner.qr_code.geometry import CodeFormat
from utils.errors import UserError

SUSPECTED = 15.0  # nats; the best block of an unsigned ticket is rarely above (`attacks.locate`)
KEY_RATIO = 0.05  # of a forged key, where the stolen file does not say how large the true one was (paper, Table 4)


@dataclass(frozen=True)
class SecondClaim:
    """What a thief made.

    mask, weights: of the model that he claims; the stolen one itself, an altered copy, or the ticket that a forged key
    completes. tried: how many possibilities he looked at. code: his text, or None where he claims a key, or `passports`.
    """

    mask: Mask
    weights: Mapping[str, torch.Tensor]
    tried: int
    code: PlacedCode | None = None
    passports: Passports | None = None


def search(mask: Mask, weights: Mapping[str, torch.Tensor], wish: Wish, budget: int, length: int, seed: int) -> SecondClaim:
    """`attacks.forgeries.forge.forge`: nothing is written, a text is made up that agrees with the model as it is. Of the wish the
    version and the error correction count."""
    made_up = forge(mask, budget, length, wish.version or PREFERRED_VERSION, wish.error_correction, seed)
    return SecondClaim(mask, weights, budget, PlacedCode(made_up.signature, made_up.place, made_up.code_format))


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


def by_adding(mask: Mask, weights: Mapping[str, torch.Tensor], signature: str, wish: Wish, budget: int, new: NewWeights,
              top_up: bool, seed: int) -> SecondClaim:
    """fake2 with a text: a code written by adding noise weights alone, so that nothing of the model is lost.

    Of `budget` places and mask patterns, drawn without repetition, the one is taken where the fewest zeros of the code are
    occupied, since those stay wrong; of equals the one where most data modules are right already, and of these the first.

    Args:
        mask: the stolen model's.
        weights: complete state_dict.
        signature: the thief's text.
        wish: of which the version and the error correction count.
        budget: places and mask patterns to look at; all, if there are no more.
        new: what an empty kernel at one of the code's ones gets.
        top_up: whether ones' kernels that hold fewer get the rest, since an owner who counts weights sees the difference.
        seed: of places, patterns, positions and weights.
    Raises:
        UserError: the text does not fit, no layer has room, or a kernel has fewer entries than are to be written.
    """
    version, random = choose_version(mask, signature, wish), np.random.default_rng(seed)
    formats, size = wish.formats(version), qr_code.code_size(version)
    counts = {name: counts_of(layer) for name, layer in mask.items() if min(layer.shape[:2]) >= size}
    possible = [PlacedCode(signature, place, code_format) for place, code_format in _drawn(counts, formats, size, budget, random)]
    is_data = qr_code.data_modules(version)
    codes = {code_format: qr_code.encode(signature, code_format)[is_data] for code_format in formats}

    def merit(code: PlacedCode) -> tuple[int, int]:
        wanted, occupied = codes[code.code_format], counts[code.place.layer][code.square][is_data] > 0
        return -int((occupied & ~wanted).sum()), int((occupied == wanted).sum())

    code = max(possible, key=merit)
    layer, count = mask[code.place.layer], counts[code.place.layer]
    each = new.each(code.place.layer, count[count > 0], layer[0, 0].numel())
    held, count = kernels(layer)[code.square].numpy(), count[code.square]
    filled = code.encode() & is_data & (top_up | (count == 0))
    # the first few of each kernel's free entries in random order: those that are held come last
    rank = np.where(held, np.inf, random.random(held.shape)).argsort(2).argsort(2)
    added = torch.zeros_like(layer)
    added[code.square] = torch.from_numpy(rank < np.where(filled, each - count, 0)[:, :, None]).reshape(added[code.square].shape)
    copy = add_noise_weights(mask, weights, {code.place.layer: added}, new.noise, random)
    return SecondClaim(*copy, tried=len(possible), code=code)


def _drawn(layers: Mapping[str, np.ndarray], formats: Sequence[CodeFormat], size: int, budget: int,
           random: np.random.Generator) -> Iterator[tuple[Place, CodeFormat]]:
    """So many of all places of a code of size x size in layers [out, in], in all formats, drawn without repetition; all, if there
    are no more."""
    shapes = {name: (len(formats), *(length - size + 1 for length in layer.shape)) for name, layer in layers.items()}
    names, ends = list(shapes), np.cumsum([np.prod(shape) for shape in shapes.values()])
    for number in random.choice(ends[-1], min(budget, int(ends[-1])), replace=False):
        index = int(np.searchsorted(ends, number, side="right"))
        start = ends[index - 1] if index else 0
        pattern, x, y = map(int, np.unravel_index(number - start, shapes[names[index]]))
        yield Place(names[index], x, y), formats[pattern]


def by_replacing(mask: Mask, weights: Mapping[str, torch.Tensor], signature: str, wish: Wish, new: NewWeights, insider: bool,
                 seed: int) -> SecondClaim:
    """fake3: the thief's code over the owner's (`attacks.fake3.replace_code`), where he knows it to be or believes so.

    Args:
        mask: the stolen model's.
        weights: complete state_dict.
        wish: without a layer, the block that looks most like a code is taken (`attacks.locate`); without a version, that block's
            where it holds the text, else the smallest from 3 up that does and fits; without a mask pattern, the one that changes
            the region least.
        signature, new, insider, seed: see `replace_code`.
    Raises:
        UserError: see `replace_code` and `attacks.locate.locate`.
    """
    tried = len(qr_code.MASK_PATTERNS) if wish.mask_pattern is None else 1
    if wish.layer is None:
        found = _suspected(mask)[0]
        wish = replace(wish, layer=found.layer, start_x=found.start_x, start_y=found.start_y)
        if wish.version is None and len(signature.encode("utf-8")) <= qr_code.capacity(found.version, wish.error_correction):
            wish = replace(wish, version=found.version)
    region = find_region(mask, signature, wish, low_level=False)
    copy = replace_code(mask, weights, signature, region.wish(), new, insider, seed)
    return SecondClaim(*copy, tried, PlacedCode(signature, Place(region.layer, region.start_x, region.start_y), region.code_format))


def by_signing_again(mask: Mask, weights: Mapping[str, torch.Tensor], signature: str, wish: Wish, noise: float,
                     seed: int) -> SecondClaim:
    """A re-signed copy: the thief signs as an owner does (Algorithm 2), where the model already looks most like his code.

    Blocks that look like a code (`attacks.locate`: the best, and all above SUSPECTED) are left alone, as far as that leaves
    room, so that both codes are legible. Without that the owner's would often be the most similar place: all codes have a
    format and a padding in common. The density stays; what is moved gets noise weights.

    Args:
        mask: the stolen model's.
        weights: complete state_dict.
        signature: the thief's text.
        wish: of which the version and the error correction of his code count.
        noise: standard deviation of the new weights.
        seed: of positions and weights.
    Raises:
        UserError: the text does not fit, no layer has room beside the most suspected block, or the ticket too few weights.
    """
    find_region(mask, signature, wish, low_level=False)  # refuses what fits nowhere
    suspected = [Region(found.layer, found.start_x, found.start_y, CodeFormat(found.version), 1.0) for found in _suspected(mask)]
    region = None
    while region is None:
        try:
            region = find_region(mask, signature, wish, low_level=False, taken=suspected)
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
                       code=PlacedCode(signature, Place(region.layer, region.start_x, region.start_y), region.code_format))


def _suspected(mask: Mask) -> list[Found]:
    """The block that looks most like a code, and those beside it that look like one. Raises UserError if none fits."""
    found = locate(mask)
    if not found:
        raise UserError("--arch: no layer of this network has room for a code; there is nothing to locate")
    return [found[0], *(block for block in found[1:] if block.score > SUSPECTED)]
