"""Scheme V4: writing a key's signs into a ticket's mask. Weights trade places; none is added and none goes.

For places, two entries of the same kernel trade, so every kernel holds as many weights as before. For counts, two entries of the
same output channel do, so every output channel, and every layer, holds as many. Which ones trade the key draws, or, for
counts, the cheapest by the ticket's own weights do.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch

from pruner.keyed_mask.pattern import WHOLE, Agreement, Key, in_all, place_agreement, residual_agreement
from pruner.masks import Mask, kernels, weights_per_kernel
from utils.errors import UserError

SPARE = 4  # times z^2, weights of the ticket in kernels that carry signs of places: with fewer, partners run out
LUCK = 2  # of z, by which a mask may disagree with the key before it is signed
COUNTED = WHOLE // 4  # of the kernels carry signs of counts


@dataclass(frozen=True)
class Strength:
    """z-values to be reached, 0 for a carrier that is not used."""

    places: float
    counts: float


def usual_strength(nonzeros: int) -> Strength:
    """For a ticket of so many weights: what it can carry at no cost that was seen."""
    return Strength(35, 25) if nonzeros >= 20_000 else Strength(15, 15) if nonzeros >= 5_000 else Strength(13, 0)


def early_strength(nonzeros: int) -> float:
    """z of places, for a mask of so many weights that is trained and pruned again: what pruning leaves of it is in weights that matter.
    A quarter of the kernels carries it at most."""
    return max(0.0, min(60.0, math.sqrt(nonzeros / SPARE) / 2 - LUCK))


def shares(strength: Strength, mask: Mask) -> tuple[int, int]:
    """`places` and `counts` of a key for this ticket. Places are confined to as many kernels as z needs, so that its price does not
    grow with the ticket."""
    wide = [kept for kept in mask.values() if kept[0, 0].numel() > 1]
    weights, pruned = sum(int(kept.sum()) for kept in wide), sum(int((~kept).sum()) for kept in wide)
    needed = SPARE * (strength.places + LUCK) ** 2 * weights / max(1, min(weights, pruned)) ** 2
    places = min(WHOLE, math.ceil(needed * WHOLE)) if strength.places else 0
    return places, COUNTED if strength.counts else 0


def embed(mask: Mask, key: Key, strength: Strength, weights: Mapping[str, torch.Tensor] | None = None,
          word: np.ndarray | None = None) -> Mask:
    """The signed mask: `embed_counts`, then `embed_places`, which does not touch it."""
    return embed_places(embed_counts(mask, key, strength.counts, weights), key, strength.places, word)


def embed_places(mask: Mask, key: Key, z: float, word: np.ndarray | None = None) -> Mask:
    """The mask with the key's signs of places, by the fewest trades, of which the key draws which.

    Args:
        word: of a payload, bool [modules].
    Raises:
        UserError: this z can't be reached.
    """
    now = in_all(place_agreement(key, mask, word))
    need = max(0, math.ceil((z * math.sqrt(now.squares) - now.agreeing) / 2))
    trades = [_possible_trades(key, name, kept, word) for name, kept in mask.items()]
    turn, out, into = (np.concatenate(part) for part in zip(*trades))
    layer = np.repeat(np.arange(len(mask)), [len(of_layer[0]) for of_layer in trades])
    if z and need > len(turn):
        most = Agreement(now.agreeing + 2 * len(turn), now.squares).z
        raise UserError(f"z {z:g} of places can't be reached in this mask, {most:.1f} can; ask for less")
    taken = np.argsort(turn, kind="stable")[:need]
    signed = {}
    for number, (name, kept) in enumerate(mask.items()):
        flat, here = kept.flatten().clone(), taken[layer[taken] == number]
        flat[torch.from_numpy(out[here])], flat[torch.from_numpy(into[here])] = False, True
        signed[name] = flat.view_as(kept)
    return Mask(signed)


def _possible_trades(key: Key, name: str, kept: torch.Tensor, word: np.ndarray | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of one layer, [trades] each: when its turn is, uint32; flat positions of the weight that goes and of the one that comes."""
    shape, there = tuple(kept.shape), kept.flatten().numpy()
    area, signs = math.prod(shape[2:]), key.place_signs(name, shape, word).ravel()
    leaving, coming = np.flatnonzero(there & (signs < 0)), np.flatnonzero(~there & (signs > 0))
    drawn = key.words("partners", len(there), name, shape)
    sides = []
    for side in (leaving, coming):  # of each kernel the first that leaves goes with the first that comes, in drawn order
        side = side[np.lexsort((drawn[side], side // area))]
        kernels = side // area
        sides.append((side, kernels * area + np.arange(len(side)) - np.searchsorted(kernels, kernels)))
    (leaving, first), (coming, second) = sides
    _, chosen, partners = np.intersect1d(first, second, assume_unique=True, return_indices=True)
    return key.words("turns", len(there), name, shape)[leaving[chosen]], leaving[chosen], coming[partners]


def embed_counts(mask: Mask, key: Key, z: float, weights: Mapping[str, torch.Tensor] | None = None) -> Mask:
    """The mask with the key's signs of counts, by as few moves of weights as do.

    Args:
        weights: layer name -> weights that say which are the cheapest to lose and to get, those of pruned entries too; the key
            draws where they are alike, or there are none.
    Raises:
        UserError: this z can't be reached.
    """
    signs = {name: key.count_signs(name, tuple(kept.shape)) for name, kept in mask.items()}
    worth = {name: _worth(key, name, kept, weights and weights[name]) for name, kept in mask.items()}
    while z:
        held = {name: weights_per_kernel(mask[name]) for name in mask}
        moves = _Moves.of({name: _cheapest_moves(mask[name], signs[name], worth[name]) for name in mask})

        def reached(count: int) -> float:
            moved = moves.first(count)
            return in_all({name: residual_agreement(held[name] + moved.change(name, held[name].shape), signs[name]) for name in mask}).z

        low, high = 0, len(moves.price)
        enough = reached(high) >= z
        if not enough and not high:
            raise UserError(f"z {z:g} of counts can't be reached in this mask, {reached(0):.1f} can; ask for less")
        while enough and low < high:
            middle = (low + high) // 2
            low, high = (low, middle) if reached(middle) >= z else (middle + 1, high)
        mask = moves.first(high).made(mask)
        if enough:
            break
    return mask


@dataclass(frozen=True)
class _Moves:
    """Moves of weights from kernel to kernel of an output channel, in their order.

    price, layer: [moves], what each costs, and the number of its layer in `names`. places: [5, moves], output channel, kernel and
    entry that lose a weight, kernel and entry that get one.
    """

    price: np.ndarray
    layer: np.ndarray
    places: np.ndarray
    names: tuple[str, ...]

    @classmethod
    def of(cls, layers: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> "_Moves":
        price, places = (np.concatenate(part, axis=-1) for part in zip(*layers.values()))
        layer = np.repeat(np.arange(len(layers)), [len(price) for price, _ in layers.values()])
        order = np.argsort(price, kind="stable")
        return cls(price[order], layer[order], places[:, order], tuple(layers))

    def first(self, count: int) -> "_Moves":
        return _Moves(self.price[:count], self.layer[:count], self.places[:, :count], self.names)

    def _of_layer(self, name: str) -> np.ndarray:
        return self.places[:, self.layer == self.names.index(name)]

    def change(self, name: str, shape: tuple[int, int]) -> np.ndarray:
        """int64 [out, in], what the moves add to a layer's kernels."""
        row, loses, _, gets, _ = self._of_layer(name)
        change = np.zeros(shape, dtype=np.int64)
        change[row, loses] -= 1  # each kernel is in one move at most
        change[row, gets] += 1
        return change

    def made(self, mask: Mask) -> Mask:
        signed = {}
        for name, kept in mask.items():
            row, loses, leaving, gets, coming = map(torch.from_numpy, self._of_layer(name))
            flat = kernels(kept).clone()
            flat[row, loses, leaving], flat[row, gets, coming] = False, True
            signed[name] = flat.view_as(kept)
        return Mask(signed)


def _worth(key: Key, name: str, kept: torch.Tensor, weight: torch.Tensor | None) -> np.ndarray:
    """float64 [out, in, entries], from 0 to 1: how large the weight is among its layer's; of those that are alike the key draws."""
    drawn = key.words("worth", kept.numel(), name, tuple(kept.shape))
    size = np.zeros(len(drawn)) if weight is None else weight.detach().cpu().abs().float().flatten().numpy()
    order = np.lexsort((drawn, size))
    worth = np.empty(len(order))
    worth[order] = np.arange(len(order)) / len(order)
    return worth.reshape(*kept.shape[:2], -1)


def _cheapest_moves(kept: torch.Tensor, signs: np.ndarray, worth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of one layer, what each costs and its places (see `_Moves`): in each output channel the kernel of sign -1 with the weight of the
    least worth gives to the kernel of sign 1 with the entry of the most, the second to the second, and so on."""
    there = kernels(kept).numpy()
    lost, got = np.where(there, worth, np.inf), np.where(there, -np.inf, worth)
    leaving, coming = lost.argmin(2), got.argmax(2)
    lost, got = np.where(signs < 0, lost.min(2), np.inf), np.where(signs > 0, got.max(2), -np.inf)
    losers, getters = np.argsort(lost, axis=1, kind="stable"), np.argsort(-got, axis=1, kind="stable")
    price = np.take_along_axis(lost, losers, 1) - np.take_along_axis(got, getters, 1)
    row, rank = np.nonzero(np.isfinite(price))
    loses, gets = losers[row, rank], getters[row, rank]
    return price[row, rank], np.stack([row, loses, leaving[row, loses], gets, coming[row, gets]])
