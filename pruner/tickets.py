"""Files of weights and masks: ours, the original's released ones, and those of strangers.

All are dicts written by `torch.save`. Tensors stand at the top level or under `state_dict`; a pruned layer is
`X.weight_orig` + `X.weight_mask`, or a plain `X.weight` whose zeros are the pruned entries; a mask file holds only
`X.weight_mask`; initial weights may stand under `init_weight`.
"""

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from models import HEAD
from pruner.masks import Mask, pack_state, prunable_layers
from utils import checkpoint, cli
from utils.checkpoint import FileBytes
from utils.errors import UserError

OPTIONAL_KEYS = ("normalize.mean", "normalize.std")  # in some of the original's files, not in others
DTYPES = {torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16, torch.int8,
          torch.uint8, torch.bool}


@dataclass(frozen=True)
class ModelFile:
    """What a file holds, checked against a model.

    weights: complete state_dict under plain names, pruned entries zero, or None (a mask file).
    mask: from `X.weight_mask`, or None (a file of plain weights).
    initial: complete state_dict from `init_weight`, or None.
    facts: plain values beside the tensors (arch, round, accuracies, ...).
    """

    path: str
    weights: dict[str, torch.Tensor] | None
    mask: Mask | None
    initial: dict[str, torch.Tensor] | None
    facts: dict[str, Any]

    def need_weights(self, flag: str) -> dict[str, torch.Tensor]:
        """The weights, or the initial ones of a ticket file. Raises UserError naming `flag` if there are neither."""
        weights = self.weights if self.weights is not None else self.initial
        if weights is None:
            raise UserError(f"{flag} {self.path}: holds masks but no weights; give a file with weights")
        return weights

    def need_mask(self, flag: str, model: nn.Module) -> Mask:
        """The mask; of a file of plain weights, where they are not zero. Raises UserError naming `flag` if neither."""
        return self.mask if self.mask is not None else self.pattern(flag, model)

    def pattern(self, flag: str, model: nn.Module) -> Mask:
        """Where weights are effectively there: not masked and not zero. A mask file's masks are taken at their word.

        Raises UserError naming `flag` if there are neither masks nor weights.
        """
        if self.weights is not None:
            layers = self.mask if self.mask is not None else prunable_layers(model)
            return Mask({name: self.weights[f"{name}.weight"] != 0 for name in layers})
        if self.mask is None:
            raise UserError(f"{flag} {self.path}: holds neither masks (X.weight_mask) nor weights")
        return self.mask


@dataclass(frozen=True)
class Expected:
    """What says, to whoever reads a message, which network a file must be of, and how many classes it must have: by default the
    flags of the scripts that have them."""

    network: str = "see --arch"
    classes: str = "see --dataset and --no_fc"


def read_model_file(path: str | Path | FileBytes, model: nn.Module, head: bool = True, expected: Expected = Expected()) -> ModelFile:
    """Read a file of weights, of masks, or of both, and check every tensor of it against `model`.

    Args:
        path: a `.pth.tar`, or what was read of one; nothing in it is executed.
        model: gives the names and shapes to expect.
        head: whether the classifier's weights are wanted; without, as in a transfer to other pictures, they may be
            missing or of another class count, and the model's own are returned for them and for the normalisation.
        expected: for messages.
    Raises:
        UserError: an unknown or missing key, a wrong shape, a value that is not finite, a mask that does not fit.
    """
    content = checkpoint.load(path)
    nested = isinstance(content.get("state_dict"), dict)
    has_initial = isinstance(content.get("init_weight"), dict)
    tensors = content["state_dict"] if nested else {} if has_initial else content
    facts = {key: value for key, value in content.items()
             if (nested or has_initial) and isinstance(value, (str, int, float, bool))}
    mask, weights = _separate(path, tensors, model, expected)
    if not mask and not weights and not has_initial:
        raise UserError(f"{path}: holds no tensors of a model")
    initial = None
    if has_initial:
        mask_in_initial, initial = _separate(path, content["init_weight"], model, expected)
        if mask_in_initial:
            raise UserError(f"{path}: init_weight holds masks; they belong under state_dict")
        initial = _checked_weights(path, initial, model, head, expected)
    if mask:
        try:
            mask = Mask(mask)
        except UserError as error:
            raise UserError(f"{path}: {error}") from None
        mask.check_fits(model, str(path), expected.network)
    weights = _checked_weights(path, weights, model, head, expected) if weights else None
    for layer, kept in mask.items() if weights else ():
        if (weights[f"{layer}.weight"] * ~kept).any():
            raise UserError(f"{path}: {layer}.weight is not zero where {layer}.weight_mask is; a pruned layer's weights stand "
                            f"under {layer}.weight_orig")
    return ModelFile(str(path), weights, mask or None, initial, facts)


def _separate(path: str | Path, tensors: Mapping[str, Any], model: nn.Module,
              expected: Expected) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Masks by layer name and weights by plain parameter name, pruned entries zero."""
    known = model.state_dict()
    prefix = "module." if tensors and all(str(key).startswith("module.") for key in tensors) else ""  # DataParallel's
    masks, originals, weights = {}, {}, {}
    for key, tensor in tensors.items():
        name = str(key).removeprefix(prefix)
        if not isinstance(tensor, torch.Tensor) or tensor.layout != torch.strided or tensor.is_nested \
                or tensor.device.type != "cpu" or tensor.dtype not in DTYPES:
            raise UserError(f"{path}: {checkpoint.shortened(name)} is not a plain tensor; is it a model's file?")
        tensor = tensor.detach()  # a file of Parameters is one too
        layer, _, kind = name.rpartition(".")
        if kind in ("weight_mask", "weight_orig") and f"{layer}.weight" in known:
            # before anything is computed: a tensor may claim any shape without having the memory
            if tensor.shape != known[f"{layer}.weight"].shape:
                raise UserError(f"{path}: {name} has shape {tuple(tensor.shape)}, the layer has "
                                f"{tuple(known[f'{layer}.weight'].shape)}; {expected.network}")
            if kind == "weight_mask":
                # a stranger's bool need not be 0 or 1 in memory, and then counts as what it is
                masks[layer] = tensor.view(torch.uint8) != 0 if tensor.dtype == torch.bool else tensor
            else:
                originals[layer] = tensor
        elif name in known or name in OPTIONAL_KEYS:
            weights[name] = tensor
        else:
            raise UserError(f"{path}: unknown key {checkpoint.shortened(name)}; is it another architecture's file? "
                            f"{expected.network}")
    for layer, tensor in originals.items():
        if layer not in masks or f"{layer}.weight" in weights:
            raise UserError(f"{path}: {layer}.weight_orig must come with {layer}.weight_mask and without {layer}.weight")
        if not torch.isfinite(tensor).all():
            raise UserError(f"{path}: {layer}.weight_orig holds values that are not finite")
        weights[f"{layer}.weight"] = torch.where(masks[layer] != 0, tensor, torch.zeros_like(tensor))
    return masks, weights


def _checked_weights(path: str | Path, weights: dict[str, torch.Tensor], model: nn.Module, head: bool,
                     expected: Expected) -> dict[str, torch.Tensor]:
    """A complete, finite state_dict in the model's dtypes."""
    known, complete = model.state_dict(), {}
    for name, own in known.items():
        if not head and (name.startswith(f"{HEAD}.") or name in OPTIONAL_KEYS):
            complete[name] = own.detach().clone()
            continue
        if name not in weights:
            if name in OPTIONAL_KEYS or name.endswith(".num_batches_tracked"):
                complete[name] = own.detach().clone()
                continue
            raise UserError(f"{path}: no {name!r}; is it another architecture's file? {expected.network}")
        tensor = weights[name]
        if tensor.shape != own.shape:
            hint = f"another class count? {expected.classes}" if name.startswith(f"{HEAD}.") else expected.network
            raise UserError(f"{path}: {name} has shape {tuple(tensor.shape)}, the model has {tuple(own.shape)}; {hint}")
        if tensor.is_floating_point() != own.is_floating_point():
            raise UserError(f"{path}: {name} is {tensor.dtype}, the model has {own.dtype}")
        # a copy: a stranger's entries may share their memory, with each other and with other tensors
        complete[name] = tensor.to(own.dtype, copy=True, memory_format=torch.contiguous_format)
        if not torch.isfinite(complete[name]).all():
            raise UserError(f"{path}: {name} holds values that are not finite in {own.dtype}")
        if name.endswith("running_var") and (complete[name] < 0).any():
            raise UserError(f"{path}: {name} holds negative variances")
    if head and not weights.keys() >= set(OPTIONAL_KEYS) and (known[OPTIONAL_KEYS[1]] != 1).any():  # those of pictures
        print(cli.one_line(f"note: {path}: says nothing of its input statistics ({', '.join(OPTIONAL_KEYS)}); those of the data set are "
                           "taken"), file=sys.stderr)
    return complete


def write_ticket(path: str | Path, mask: Mask, initial: Mapping[str, torch.Tensor], facts: Mapping[str, Any],
                 secret: bool = False) -> None:
    """Write a ticket: masks under `state_dict`, the weights to rewind to (all of them) under `init_weight`."""
    content = {**facts, "density": mask.density, "nonzeros": mask.nonzeros, "init_weight": plain(initial)}
    content["state_dict"] = {f"{name}.weight_mask": layer.to(torch.uint8) for name, layer in mask.items()}
    checkpoint.save(content, path, secret)


def write_masks(path: str | Path, mask: Mask) -> None:
    """Write a mask file: a dict of `X.weight_mask`, as the original's."""
    checkpoint.save({f"{name}.weight_mask": layer.to(torch.uint8) for name, layer in mask.items()}, path)


def write_weights(path: str | Path, state: Mapping[str, torch.Tensor], facts: Mapping[str, Any],
                  mask: Mask | None = None) -> None:
    """Write a model: `state_dict` with pruned layers as `X.weight_orig` + `X.weight_mask`, and `facts` beside it."""
    state = plain(state)
    checkpoint.save({**facts, "state_dict": pack_state(state, mask) if mask is not None else state}, path)


def plain(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Detached CPU copies in a plain dict."""
    return {name: tensor.detach().cpu().clone() for name, tensor in state.items()}
