"""A network as a file has it: other numbers of channels, biases more, batch norms fewer."""

import copy
from collections.abc import Mapping

import torch
from torch import nn


def fitted(model: nn.Module, state: Mapping[str, torch.Tensor]) -> nn.Module:
    """A copy of a network that computes with the tensors of a state_dict, whatever their shapes, in eval mode.

    A batch norm of which nothing is there was folded into the layer before it, and passes on what it gets. What else is missing stays
    the model's own, shared with it. Nothing is checked: tensors that don't fit together fail when they meet.

    Raises KeyError for a tensor of a module that the network lacks.
    """
    own = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    result = copy.deepcopy(model, own).eval()  # but for the tensors, most of which are replaced
    modules = dict(result.named_modules())
    for name, module in modules.items():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d) and f"{name}.weight" not in state:
            parent, _, own = name.rpartition(".")
            setattr(modules[parent], own, nn.Identity())
    for key, tensor in state.items():
        name, _, kind = key.rpartition(".")
        module = modules[name]
        if kind in module._parameters:
            setattr(module, kind, nn.Parameter(tensor, requires_grad=False))
        else:
            setattr(module, kind, tensor)
    return result
