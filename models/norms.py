"""Which norm stands behind a layer, in a network that fx has traced."""

from collections.abc import Mapping

from torch import fx, nn

from models.layers import NORMS


def norm_behind(node: fx.Node, modules: Mapping[str, nn.Module]) -> str | None:
    """The batch or group norm that reads a call's output, with nothing but dropout between, where nothing else does; None where there
    is none."""
    while len(node.users) == 1 and (reader := next(iter(node.users))).op == "call_module":
        if isinstance(modules[reader.target], NORMS):
            return reader.target
        if not isinstance(modules[reader.target], nn.Dropout | nn.Dropout2d):
            return None
        node = reader
    return None
