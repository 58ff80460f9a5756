"""Writing a signature into a ticket's masks (paper, section 3.3.2, Algorithm 2) without changing its density."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F

from pruner.qr_code import geometry as qr_code
from pruner.masks import Mask, kernels
from pruner.qr_code.geometry import CodeFormat
from utils.errors import UserError
from utils.randomness import draw_positions

# the paper's 29x29 code; smaller ones hold short texts too, but mend far fewer damaged modules
PREFERRED_VERSION = 3


@dataclass(frozen=True)
class Place:
    """Where a code begins: its module (i, j) is the kernel from input channel start_y + j to output channel start_x + i."""

    layer: str
    start_x: int
    start_y: int

    def square(self, size: int) -> tuple[slice, slice]:
        """The kernels [out, in] of a code of size x size modules here."""
        return slice(self.start_x, self.start_x + size), slice(self.start_y, self.start_y + size)


@dataclass(frozen=True)
class Region(Place):
    """A place, and the code for it.

    similarity: share of data modules whose kernel was already empty or occupied as the code wants it.
    """

    code_format: CodeFormat
    similarity: float

    def wish(self) -> "Wish":
        """For exactly this place and this form of a code."""
        return Wish(self.layer, self.start_x, self.start_y, self.code_format.version, self.code_format.error_correction,
                    self.code_format.mask_pattern, self.code_format.light)


@dataclass(frozen=True)
class PlacedCode:
    """A text, and where and how its code lies."""

    signature: str
    place: Place
    code_format: CodeFormat

    @property
    def square(self) -> tuple[slice, slice]:
        """The kernels [out, in] of its layer that it covers."""
        return self.place.square(self.code_format.size)

    def encode(self) -> np.ndarray:
        """bool [size, size], see `pruner.qr_code.geometry.encode`."""
        return qr_code.encode(self.signature, self.code_format)


@dataclass(frozen=True)
class Wish:
    """What somebody says of where and how a code is to lie; what is None is chosen. See Place and CodeFormat."""

    layer: str | None = None
    start_x: int | None = None
    start_y: int | None = None
    version: int | None = None
    error_correction: str = "H"
    mask_pattern: int | None = None
    light: bool = False

    def layers(self, mask: Mask) -> Mask:
        """The layers that it leaves to choose from. Raises UserError for one that the mask lacks."""
        return mask if self.layer is None else Mask({self.layer: named_layer(mask, self.layer)})

    def fits(self, layer: torch.Tensor, size: int) -> bool:
        """Whether a layer's mask [out, in, ...] has room for size x size modules, at the wished offset if there is one."""
        return layer.shape[0] >= (self.start_x or 0) + size and layer.shape[1] >= (self.start_y or 0) + size

    def formats(self, version: int) -> list[CodeFormat]:
        """Those of a version that it leaves to choose from."""
        patterns = qr_code.MASK_PATTERNS if self.mask_pattern is None else (self.mask_pattern,)
        return [CodeFormat(version, self.error_correction, pattern, self.light) for pattern in patterns]


def occupancy(layer: torch.Tensor) -> np.ndarray:
    """Squeeze a layer to two dimensions: bool [out, in], True where a kernel [height, width] has any weight."""
    return kernels(layer).ne(0).any(2).cpu().numpy()


def find_region(mask: Mask, signature: str, wish: Wish = Wish(), low_level: bool = True,
                taken: Sequence[Region] = ()) -> Region:
    """The region most similar to the signature's code, judged on data modules only.

    Whatever is not wished is chosen: the version is the smallest from 3 up that holds the text and fits (a smaller one
    in networks too narrow for that); layer, offset and mask pattern are the most similar of all. With `low_level`,
    only layers of the first stage that has room are looked at, since later ones are sparser (paper, section 3.3.2), and of
    these only the ones with the largest kernels: a bottleneck's 1x1 kernels are one weight each, none of which may be lost.
    Of equals the first in order of layer, mask pattern, start_x, start_y is taken. Regions overlapping one in `taken` are
    left out.

    Raises:
        UserError: the text is empty or too long, no layer has room, or the wish is outside the layer.
    """
    version = choose_version(mask, signature, wish)
    size, is_data, formats = qr_code.code_size(version), qr_code.data_modules(version), wish.formats(version)
    codes = np.stack([qr_code.encode(signature, code_format) for code_format in formats])
    layers = {name: layer for name, layer in wish.layers(mask).items() if wish.fits(layer, size)}
    best, most = None, -1
    for name, layer in (_first_stage(layers) if low_level else layers).items():
        matches = _matches(occupancy(layer), codes, is_data)
        matches[:, ~_allowed(matches.shape[1:], size, wish, [other for other in taken if other.layer == name])] = -1
        pattern, x, y = np.unravel_index(matches.argmax(), matches.shape)
        if matches[pattern, x, y] > most:
            most = int(matches[pattern, x, y])
            best = Region(name, int(x), int(y), formats[pattern], most / int(is_data.sum()))
    if best is None:
        raise UserError("--copies: no room is left for another copy; ask for fewer, or add --any_level")
    return best


def _first_stage(layers: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Of the first stage's layers those with the largest kernels."""
    stage = _stage(next(iter(layers)))
    largest = max(layer[0, 0].numel() for name, layer in layers.items() if _stage(name) == stage)
    return {name: layer for name, layer in layers.items() if _stage(name) == stage and layer[0, 0].numel() == largest}


def _allowed(offsets: tuple[int, int], size: int, wish: Wish, taken: Sequence[Region]) -> np.ndarray:
    """bool [offsets], where a code of size x size modules may begin: as wished, and beside all that is taken."""
    x, y = np.ogrid[:offsets[0], :offsets[1]]
    allowed = np.ones(offsets, dtype=bool)
    if wish.start_x is not None:
        allowed &= x == wish.start_x
    if wish.start_y is not None:
        allowed &= y == wish.start_y
    for other in taken:
        overlaps_x = (x > other.start_x - size) & (x < other.start_x + other.code_format.size)
        overlaps_y = (y > other.start_y - size) & (y < other.start_y + other.code_format.size)
        allowed &= ~(overlaps_x & overlaps_y)
    return allowed


def find_copies(mask: Mask, signature: str, first: Region, copies: int, low_level: bool = True) -> list[Region]:
    """The first region and the most similar ones for further copies of the same code, none overlapping another.

    All copies have the first one's format, mask pattern included, so that they can be read together module by module.
    Raises UserError if there is no room for as many.
    """
    form, regions = replace(first.wish(), layer=None, start_x=None, start_y=None), [first]
    while len(regions) < copies:
        regions.append(find_region(mask, signature, form, low_level, regions))
    return regions


def named_layer(mask: Mask, name: str, said: str = "--max_name") -> torch.Tensor:
    """The mask of one layer, bool [out, in, height, width]. Raises UserError if there is none; said: where the name is from."""
    if name not in mask:
        raise UserError(f"{said} {name}: no such layer; the mask has {', '.join(mask)}")
    return mask[name]


def choose_version(mask: Mask, signature: str, wish: Wish) -> int:
    """The wished version, or the smallest from 3 up that holds the text and fits. Raises UserError as `find_region`."""
    needed, layers = len(signature.encode("utf-8")), wish.layers(mask)
    if not needed:
        raise UserError("--signature: is empty; give the text to embed")
    fit = [version for version in qr_code.VERSIONS
           if any(wish.fits(layer, qr_code.code_size(version)) for layer in layers.values())]
    where = f"layer {next(iter(layers))}" if len(layers) == 1 else "any layer"
    at = f" at offset ({wish.start_x or 0}, {wish.start_y or 0})" if wish.start_x or wish.start_y else ""
    if not fit:
        raise UserError(f"no code fits into {where}{at}: the smallest is {qr_code.code_size(1)} channels wide and high")
    if wish.version is not None and wish.version not in fit:
        size = qr_code.code_size(wish.version)
        raise UserError(f"--version {wish.version}: its {size}x{size} modules do not fit into {where}{at}; the largest version "
                        f"that does is {fit[-1]}")
    to_choose = fit if wish.version is None else [wish.version]
    holds = [version for version in to_choose if qr_code.capacity(version, wish.error_correction) >= needed]
    if not holds:
        raise UserError(f"--signature: has {needed} bytes, a version {to_choose[-1]} code at level {wish.error_correction} holds "
                        f"{qr_code.capacity(to_choose[-1], wish.error_correction)}; shorten it or choose a lower "
                        "--error_correction" + ("" if wish.version is None else " or a higher --version"))
    return next((version for version in holds if version >= PREFERRED_VERSION), holds[-1])


def _stage(layer: str) -> str:
    """`layer2` of `layer2.0.conv1`: layers of one stage work at one resolution."""
    return layer.partition(".")[0]


def _matches(occupied: np.ndarray, codes: np.ndarray, is_data: np.ndarray) -> np.ndarray:
    """Data modules that agree, for every code and offset: int [codes, out - size + 1, in - size + 1]."""
    # agreement = zeros of the code + sum over data modules of occupied * (+1 where the code is 1, -1 where it is 0);
    # sums of so few ones are exact in float32
    signs = np.where(codes, 1.0, -1.0) * is_data
    sums = F.conv2d(torch.from_numpy(occupied)[None, None].float(), torch.from_numpy(signs)[:, None].float())[0]
    zeros = (~codes & is_data).sum((1, 2))
    return sums.round().long().numpy() + zeros[:, None, None]


def embed(mask: Mask, signature: str, regions: Region | Sequence[Region], random: np.random.Generator) -> Mask:
    """The mask with the signature's code written into the regions, and exactly as many weights as before.

    Kernels at the code's zeros lose all weights, empty kernels at its ones get one at a random position. What that
    gains or costs is balanced by random weights among the code's ones first (each keeps one), then in the rest of the
    layer, then in the layers without code. Function patterns are not written.

    Args:
        regions: where the code goes; several that do not overlap hold a copy each.
    Raises:
        UserError: the ticket has fewer weights than the code has ones, or no room for those the zeros lose.
    """
    by_layer: dict[str, list[Region]] = {}
    for region in [regions] if isinstance(regions, Region) else regions:
        by_layer.setdefault(region.layer, []).append(region)
    signed, missing = dict(mask), 0
    for name, in_layer in by_layer.items():
        signed[name], still = _embed_in_layer(mask[name], signature, in_layer, random)
        missing += still
    if missing:
        others = {name: mask[name].numpy().copy() for name in mask if name not in by_layer}
        missing -= _change(list(others.values()), [np.zeros((), dtype=bool)] * len(others), missing, random)
        signed |= {name: torch.from_numpy(other) for name, other in others.items()}
    if missing:
        room = mask.nonzeros - missing
        mend = f"so prune the model to {100 * room / mask.entries:.2f}% or less first (main_imp.py, or torch.nn.utils.prune), or" \
            if missing > 0 else "so"
        raise UserError(f"the ticket has no room to keep its {mask.nonzeros} weights with this code: {missing:+d} of {mask.entries} can't "
                        f"be placed. It is {100 * mask.density:.2f}% dense, {mend} take a smaller --version or another layer")
    return Mask({name: signed[name] for name in mask})


def _embed_in_layer(kept: torch.Tensor, signature: str, regions: Sequence[Region],
                    random: np.random.Generator) -> tuple[torch.Tensor, int]:
    """A layer with the code in the regions, and how many weights it then lacks (negative: has too many)."""
    shape = kept.shape
    layer = kernels(kept).numpy().copy()
    target = layer.sum()

    inside = np.zeros((3, *shape[:2]), dtype=bool)  # data modules, ones, zeros
    for region in regions:
        code = qr_code.encode(signature, region.code_format)
        is_data = qr_code.data_modules(region.code_format.version)
        inside[(slice(None), *region.square(region.code_format.size))] |= np.stack([is_data, is_data & code, is_data & ~code])
    data, ones, zeros = inside

    layer[zeros] = False
    empty = np.argwhere(ones & ~layer.any(2))
    layer[empty[:, 0], empty[:, 1], random.integers(layer.shape[2], size=len(empty))] = True

    kept_for_ones = _one_of_each(layer, ones, random)
    missing = int(target - layer.sum())
    missing -= _change([layer], [~ones[:, :, None] | kept_for_ones], missing, random)
    missing -= _change([layer], [np.broadcast_to(data[:, :, None], layer.shape)], missing, random)
    return torch.from_numpy(layer.reshape(shape)), missing


def _one_of_each(layer: np.ndarray, kernels: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """bool like `layer` [out, in, area]: one weight, drawn at random, of each of `kernels` [out, in] (none is empty)."""
    draw = np.where(layer, random.random(layer.shape), -1.0)
    chosen = np.zeros_like(layer)
    np.put_along_axis(chosen, draw.argmax(2)[:, :, None], True, axis=2)
    return chosen & kernels[:, :, None]


def _change(arrays: list[np.ndarray], frozen: list[np.ndarray], missing: int, random: np.random.Generator) -> int:
    """Set (missing > 0) or clear (missing < 0) that many random entries in place, as far as there are any.

    Args:
        arrays: bool arrays, drawn from as if they were one.
        frozen: for each, bool broadcastable to its shape, True where it must stay.
    Returns:
        the change in set entries, between 0 and `missing`.
    """
    wanted = missing < 0  # entries that are set can be cleared, and the other way round
    free = [(array == wanted) & ~fixed for array, fixed in zip(arrays, frozen)]
    count = min(abs(missing), sum(int(array.sum()) for array in free))
    for array, positions in zip(arrays, draw_positions(free, count, random)):
        array.flat[positions] = not wanted
    return count if missing > 0 else -count
