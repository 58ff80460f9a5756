"""A suspect's model file: where its weights are, and how large."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import torch
from torch import nn

from ownership.suspects import canonical
from pruner import tickets
from pruner.channel_groups import ChannelGroups
from pruner.derivation import Derivation
from pruner.key_mask.split import fingerprint
from pruner.masks import Mask
from pruner.tickets import Expected
from utils.checkpoint import FileBytes
from utils.errors import UserError


@dataclass(frozen=True)
class Suspect:
    """A mask and, where they are known, the weights it keeps: complete tensors by layer name.

    norms: of each batch norm that is there what it multiplies by, [channels]. is_cut: whether the mask was found by magnitudes.
    undone: sentences on what the file had otherwise than the network.
    derivation: how they were found in a file.
    """

    mask: Mask
    weights: Mapping[str, torch.Tensor] | None = None
    norms: Mapping[str, torch.Tensor] = field(default_factory=dict)
    is_cut: bool = False
    undone: tuple[str, ...] = ()
    derivation: Derivation | None = field(default=None, compare=False)

    @cached_property
    def cut(self) -> "Suspect | None":
        """Without what was filled into pruned entries (`ownership.suspects.canonical.cut`); None where nothing was."""
        if self.weights is None or self.is_cut:
            return None
        mask = canonical.cut(self.mask, self.weights)
        return None if mask == self.mask else replace(self, mask=mask, is_cut=True)

    @property
    def masks(self) -> "list[Suspect]":
        """As it is, and, where something was filled in, without that: what marks are looked for in, each a try."""
        return [self, *([self.cut] if self.cut else [])]

    def upright(self, groups: ChannelGroups) -> "Suspect":
        """With the signs that the weights of each filter have if its batch norm multiplies by no negative number."""
        if self.weights is None:
            return self
        turned = {layer: 1 - 2 * (self.norms[norm] < 0).int() for layer, norm in groups.normed.items()
                  if norm in self.norms and layer in self.weights}
        return replace(self, norms={}, weights={name: weight * turned[name].view(-1, *[1] * (weight.dim() - 1)) if name in turned else weight
                                                for name, weight in self.weights.items()})

    def cleaned(self, threshold: float) -> "Suspect":
        """Without weights of magnitude below the owner's threshold t: the paper's defence against add-on attacks (section
        3.4). What was cut has lost them already, whatever it was scaled by. Raises UserError where only masks are known."""
        if self.is_cut:
            return self
        if self.weights is None:
            raise UserError("--threshold: the suspect's file holds masks only; there are no magnitudes to compare")
        return replace(self, mask=Mask({name: kept & (self.weights[name].abs() >= threshold) for name, kept in self.mask.items()}))

    def sha256(self) -> str:
        """In hex, of the mask and of the weights in it where they are known, as `pruner.key_mask.split.fingerprint`."""
        return fingerprint(self.mask, self.weights and {f"{name}.weight": weight for name, weight in self.weights.items()})

    def magnitude_below(self, share: float) -> float:
        """The magnitude below which this share of the weights lies, over all layers together."""
        magnitudes = torch.cat([self.weights[name][kept].abs() for name, kept in self.mask.items()])
        return float(np.sort(magnitudes.double().numpy())[int(share * len(magnitudes))])


def expected_by(arch: str) -> Expected:
    """For messages to an arbiter, who names no network: the claim does."""
    return Expected(f"the claim is about {arch}")


def read_suspect(path: str | FileBytes, model: nn.Module, expected: Expected = Expected()) -> Suspect:
    """A suspect's file: where its weights are effectively there. Raises UserError as `pruner.tickets.read_model_file`."""
    given = tickets.read_model_file(path, model, head=False, expected=expected, any_width=True)
    mask = given.pattern("--checkpoint", given.network)
    if given.network is model:
        return replace(of_state(mask, given.weights), derivation=given.derivation)
    try:  # with its classifier, which says what the last channels are to it
        whole = tickets.read_model_file(path, given.network, expected=expected).weights
        kept = canonical.cut(mask, {name: whole[f"{name}.weight"] for name in mask})  # so that channels are alike that were before
        cut = whole | {f"{name}.weight": whole[f"{name}.weight"] * there for name, there in kept.items()}
        state, undone = canonical.narrowed(given.network, cut, model)
    except UserError as error:
        raise UserError(f"{path}: has other numbers of channels than the network, and {error}; {expected.network}") from None
    found = of_state(Mask({name: state[f"{name}.weight"] != 0 for name in mask}), state)
    return replace(found, undone=undone, is_cut=kept != mask, derivation=given.derivation)


def of_state(mask: Mask, state: Mapping[str, torch.Tensor] | None) -> Suspect:
    """From a complete state_dict, None where only the mask is known."""
    if state is None:
        return Suspect(mask)
    norms = {key.removesuffix(".running_mean") for key in state if key.endswith(".running_mean")}
    return Suspect(mask, {name: state[f"{name}.weight"] for name in mask}, {name: state[f"{name}.weight"] for name in norms})
