"""A mask M: which weights of which layers are there. A mask is validated data, so no other code checks it again."""

from collections.abc import Iterable, Mapping

import numpy as np
import torch
from torch import nn

from models import STEM
from models.layers import carriers
from utils.errors import UserError


def prunable_layers(model: nn.Module, stem: bool = False) -> dict[str, nn.Module]:
    """The layers masks are defined on: all of `models.layers.carriers` but the stem `conv1` (with `stem`, that one too), in order."""
    return {name: layer for name, layer in carriers(model).items() if stem or name != STEM}


def kernels(layer: torch.Tensor) -> torch.Tensor:
    """[out, in, entries of a kernel] of a layer's weights or mask [out, in, ...]; a linear layer's kernels have one entry."""
    return layer.reshape(*layer.shape[:2], -1)


def weights_per_kernel(layer: torch.Tensor) -> np.ndarray:
    """int64 [out, in], how many weights each kernel of a layer's mask [out, in, ...] has."""
    return kernels(layer).sum(2).cpu().numpy()


class Mask(dict[str, torch.Tensor]):
    """Layer name -> bool tensor of the weight's shape, [out, in, height, width] of a Conv2d, on the CPU.

    Built from tensors of any dtype that hold zeros and ones only. Raises UserError for anything else.
    """

    def __init__(self, layers: Mapping[str, torch.Tensor] | Iterable[tuple[str, torch.Tensor]]):
        super().__init__()
        for name, tensor in dict(layers).items():
            if tensor.dtype != torch.bool:
                if tensor.is_complex() or not ((tensor == 0) | (tensor == 1)).all():
                    raise UserError(f"mask of layer {name}: must hold zeros and ones only")
                tensor = tensor == 1
            self[name] = tensor.cpu().contiguous()

    @classmethod
    def dense(cls, model: nn.Module, stem: bool = False) -> "Mask":
        """The mask of an unpruned model."""
        return cls({name: torch.ones_like(layer.weight, dtype=torch.bool)
                    for name, layer in prunable_layers(model, stem).items()})

    def check_fits(self, model: nn.Module, source: str = "mask", network: str = "see --arch") -> None:
        """Raise UserError (naming `source`) unless this mask covers exactly the model's layers, with their shapes. network: what
        says which network it must be, for the message."""
        layers = prunable_layers(model, stem=STEM in self)
        for name in [name for name in layers if name not in self]:
            raise UserError(f"{source}: no mask for layer {name}; is it another architecture's? {network}")
        for name in [name for name in self if name not in layers]:
            raise UserError(f"{source}: masks an unknown layer {name}; is it another architecture's? {network}")
        for name, layer in layers.items():
            if self[name].shape != layer.weight.shape:
                raise UserError(f"{source}: mask of layer {name} has shape {tuple(self[name].shape)}, "
                                f"the layer has {tuple(layer.weight.shape)}; {network}")

    @property
    def nonzeros(self) -> int:
        """Weights that are there, ||M||_0."""
        return sum(int(layer.sum()) for layer in self.values())

    @property
    def entries(self) -> int:
        """Weights of the same layers without pruning."""
        return sum(layer.numel() for layer in self.values())

    @property
    def density(self) -> float:
        """Share of weights that are there, spar(M) of the paper's section 3.1 ("remaining weight")."""
        return self.nonzeros / self.entries

    @property
    def size(self) -> dict[str, float]:
        """The three of them, as columns of results."""
        return {"nonzeros": self.nonzeros, "entries": self.entries, "density": self.density}

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Mask) and list(self) == list(other) and all(
            torch.equal(self[name], other[name]) for name in self)

    def __ne__(self, other: object) -> bool:  # dict's own would compare tensors
        return not self == other

    __hash__ = None


class MaskedWeights:
    """Holds a model to a mask while it trains (`utils.engine.WeightConstraint`).

    Masks act on the weights in place; files have the layout of torch.nn.utils.prune, `X.weight_orig` beside
    `X.weight_mask`, as in the original's checkpoints.
    """

    def __init__(self, model: nn.Module, mask: Mask):
        mask.check_fits(model)
        self.mask = mask
        layers = dict(model.named_modules())
        self.layers = [layers[name] for name in mask]
        self.factors: list[torch.Tensor] = []

    @torch.no_grad()
    def apply(self) -> None:
        """Set pruned weights to zero."""
        weights = [layer.weight for layer in self.layers]  # a move may put others in their place
        if [*map(_layout, self.factors)] != [*map(_layout, weights)]:  # the first time, and after the model has moved
            # in the weight's own dtype, device and strides, so that all layers are multiplied in one fused call
            self.factors = [torch.empty_like(weight, requires_grad=False).copy_(factor)
                            for factor, weight in zip(self.mask.values(), weights)]
        torch._foreach_mul_(weights, self.factors)

    def pack(self, state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """A state_dict with `X.weight` of each masked layer as `X.weight_orig` and `X.weight_mask` (uint8)."""
        return pack_state(state, self.mask)

    def unpack(self, state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The reverse of `pack`: plain names, pruned weights zero."""
        weights = {}
        for name, tensor in state.items():
            layer, _, kind = name.rpartition(".")
            if kind == "weight_orig":
                weights[f"{layer}.weight"] = tensor * state[f"{layer}.weight_mask"].to(tensor.dtype)
            elif kind != "weight_mask":
                weights[name] = tensor
        return weights


def _layout(tensor: torch.Tensor) -> tuple:
    return tensor.dtype, tensor.device, tensor.stride()


def pack_state(state: Mapping[str, torch.Tensor], mask: Mask) -> dict[str, torch.Tensor]:
    """See `MaskedWeights.pack`."""
    packed = {}
    for name, tensor in state.items():
        layer, _, kind = name.rpartition(".")
        if kind == "weight" and layer in mask:
            packed[f"{layer}.weight_orig"] = tensor
            packed[f"{layer}.weight_mask"] = mask[layer].to(torch.uint8)
        else:
            packed[name] = tensor
    return packed

