"""Passports attached to a plain network, which stays what it is: its private branch is the same network with other scales and shifts."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.func import functional_call

from passports import SCHEMES
from passports.draw import Draw
from passports.layers import normed_layers

NAME = "passport"  # begins the names of private tensors in a state_dict
MARGIN, DECAY = 0.1, 1e-5  # of the sign loss, as in DeepIPR
STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


class LayerPassport(nn.Module):
    """Of one layer. Vectors and bits are not in the state_dict: they are the owner's, and made again when a training resumes."""

    def __init__(self, layer: nn.Module, norm_name: str, norm: nn.Module, scheme: str, vectors: torch.Tensor, bits: torch.Tensor):
        super().__init__()
        self.layer, self.norm_name = (layer,), norm_name  # in a tuple: it is the network's, not registered here as well
        self.register_buffer("vectors", vectors, persistent=False)
        self.register_buffer("bits", bits.float(), persistent=False)
        channels = len(layer.weight)
        hidden = max(1, channels // 4)
        self.mlp = nn.Sequential(nn.Linear(channels, hidden, bias=False), nn.LeakyReLU(0.01),
                                 nn.Linear(hidden, channels, bias=False)) if SCHEMES[scheme].mlp else None
        self.statistics = STATISTICS if SCHEMES[scheme].own_statistics and isinstance(norm, nn.BatchNorm1d | nn.BatchNorm2d) else ()
        for name in self.statistics:
            self.register_buffer(name, getattr(norm, name).clone())

    def weights_times_vectors(self) -> torch.Tensor:
        """float32 [out, 2]: what the signature is in the signs of, before any small network, and the shifts' likewise."""
        weight = self.layer[0].weight
        with torch.autocast("cuda", enabled=False):  # bf16, which is for CUDA alone, would turn bits near zero
            return weight.float().flatten(1) @ self.vectors

    def private(self, products: torch.Tensor) -> dict[str, torch.Tensor]:
        """Names of the network's norm -> what the private branch has there."""
        scale, shift = products.T.contiguous()  # as a file has them, so that the kernels are the same, to the bit
        if self.mlp is not None:
            with torch.autocast("cuda", enabled=False):
                scale, shift = self.mlp(scale), self.mlp(shift)
        tensors = {"weight": scale, "bias": shift, **{name: getattr(self, name) for name in self.statistics}}
        return {f"{self.norm_name}.{name}": tensor for name, tensor in tensors.items()}


class Passports(nn.Module):
    """All passports of a network, which holds them as `passport`."""

    def __init__(self, model: nn.Module, scheme: str, draw: Draw, vectors: Mapping[str, torch.Tensor]):
        super().__init__()
        self.network, self.scheme, self.draw, norms = (model,), SCHEMES[scheme], draw, normed_layers(model)
        self.layers = nn.ModuleDict()
        for name in draw.texts:
            layer, norm = model.get_submodule(name), model.get_submodule(norms[name])
            bits = torch.from_numpy(draw.bits(name, len(layer.weight)))
            self.layers[name.replace(".", "/")] = LayerPassport(layer, norms[name], norm, scheme, vectors[name], bits)

    def products(self) -> list[torch.Tensor]:
        """`LayerPassport.weights_times_vectors` of every layer."""
        return [layer.weights_times_vectors() for layer in self.layers.values()]

    def private(self, products: list[torch.Tensor]) -> dict[str, torch.Tensor]:
        """What the network's private branch has instead of the public one's tensors, by name."""
        return {name: tensor for layer, product in zip(self.layers.values(), products)
                for name, tensor in layer.private(product).items()}

    def call(self, products: list[torch.Tensor], inputs: Any) -> torch.Tensor:
        """The network's private branch."""
        return functional_call(self.network[0], self.private(products), (inputs,))

    def sign_loss(self, products: list[torch.Tensor], weight: float) -> torch.Tensor:
        """`weight` times the sum of max(0, MARGIN - bit * product), and DECAY times that of squares, over channels and layers."""
        hinge, squares = 0, 0
        for layer, product in zip(self.layers.values(), products):
            hinge = hinge + (MARGIN - layer.bits * product[:, 0]).clamp_min(0).sum()
            squares = squares + product[:, 0].square().sum()
        return weight * hinge + DECAY * squares

    def right(self, products: list[torch.Tensor]) -> tuple[torch.Tensor, int]:
        """How many bits of the signature the signs show, on the device, and of how many. Zero is no sign, so wrong."""
        right = [(layer.bits * product[:, 0] > 0).sum() for layer, product in zip(self.layers.values(), products)]
        return torch.stack(right).sum(), sum(len(product) for product in products)


def attach(model: nn.Module, scheme: str, draw: Draw, vectors: Mapping[str, torch.Tensor]) -> Passports:
    """Give a network passports, on its device; its own output, names and tensors stay as they are. vectors: see
    `passports.vectors.make_vectors`."""
    passports = Passports(model, scheme, draw, vectors).to(next(model.parameters()).device)
    model.add_module(NAME, passports)
    return passports


@torch.no_grad()
def released(model: nn.Module) -> dict[str, torch.Tensor]:
    """What is handed out of a network with passports: the state_dict of the plain one. Without a public branch scales and shifts
    are those of the passports, computed once."""
    passports = getattr(model, NAME)
    state = {name: tensor for name, tensor in model.state_dict().items() if not name.startswith(f"{NAME}.")}
    return state if passports.scheme.public else {**state, **passports.private(passports.products())}
