"""Which layers of a network can have passports: those whose output goes through a norm and nowhere else."""

from torch import fx, nn

from models.layers import carriers
from models.norms import norm_behind
from utils.errors import UserError


def normed_layers(model: nn.Module) -> dict[str, str]:
    """Layer -> its norm, in the order of computation.

    A layer is one of `models.layers.carriers`, without groups, that is called once; between it and its norm, which scales and shifts,
    there may be dropout.

    Raises:
        UserError: the network can't be traced.
    """
    try:
        nodes = fx.Tracer().trace(model).nodes
    except Exception as error:  # fx fails in many ways on code that depends on data
        raise UserError(f"the network can't be traced for layers with norms ({error})") from None
    modules, pairs, calls = dict(model.named_modules()), {}, [node.target for node in nodes if node.op == "call_module"]
    layers = {name: layer for name, layer in carriers(model).items() if isinstance(layer, nn.Linear)
              or layer.groups == 1 and not isinstance(layer.padding, str) and layer.padding_mode == "zeros"}
    for node in nodes:
        if node.op != "call_module" or node.target not in layers:
            continue
        norm = norm_behind(node, modules)
        if norm is not None and modules[norm].weight is not None and calls.count(node.target) == calls.count(norm) == 1:
            pairs[node.target] = norm
    return pairs
