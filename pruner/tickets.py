"""Files of weights and masks: ours, the original's released ones, and those of strangers.

Ours are dicts written by `torch.save`. Tensors stand under `state_dict` or at the top level; a pruned layer is
`X.weight_orig` + `X.weight_mask`, or a plain `X.weight` whose zeros are the pruned entries; a mask file holds only
`X.weight_mask`; initial weights may stand under `init_weight`. Others' are brought into this form, see `pruner.derivation`.
"""

import sys
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from models import HEAD, STEM
from pruner.derivation import (INITIAL, LONGEST_NAME, MASK, ORIGINAL, Derivation, choose_prefix, dequantised, ends_as_a_layers,
                               find_container, is_plain, listed, match_layers, parameter_of, unfold_norms)
from pruner.fitting import like_file
from pruner.masks import Mask, pack_state, prunable_layers
from utils import checkpoint, cli
from utils.checkpoint import FileBytes, shortened
from utils.errors import UserError
from utils.untrusted import model_formats

OPTIONAL_KEYS = ("normalize.mean", "normalize.std")  # in some of the original's files, not in others
FACTS = (str, int, float, bool)  # what may stand beside the weights and tell of them
PUBLIC = ("arch", "dataset", "num_classes", "density", "nonzeros", "entries", "val_acc", "test_acc", "part", "split", "ticket_sha256",
          "key_sha256", "key_nonzeros", "key_ratio")  # facts that who is given a file may know, or needs


@dataclass(frozen=True)
class ModelFile:
    """What a file holds, checked against a model.

    weights: complete state_dict under plain names, pruned entries zero, or None (a mask file).
    mask: from `X.weight_mask`, or None (a file of plain weights).
    initial: complete state_dict from `init_weight`, or None.
    facts: plain values beside the tensors (arch, round, accuracies, ...).
    derivation: how weights and mask were found in the file. network: what they were checked against.
    """

    path: str
    weights: dict[str, torch.Tensor] | None
    mask: Mask | None
    initial: dict[str, torch.Tensor] | None
    facts: dict[str, Any]
    derivation: Derivation = Derivation()
    network: nn.Module | None = None

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


def read_model_file(path: str | Path | FileBytes, model: nn.Module, head: bool = True, expected: Expected = Expected(),
                    any_width: bool = False) -> ModelFile:
    """Read a file of weights, of masks, or of both, and check every tensor of it against `model`.

    Args:
        path: a `.pth.tar`, or what was read of one; nothing in it is executed.
        model: gives the names and shapes to expect.
        head: whether the classifier's weights are wanted; without, as in a transfer to other pictures, they may be
            missing or of another class count, and the model's own are returned for them and for the normalisation.
        expected: for messages.
        any_width: whether other numbers of channels will do, and biases more.
    Raises:
        UserError: an unknown or missing key, a wrong shape, a value that is not finite, a mask that does not fit.
    """
    path = checkpoint.read_model(path)
    content = model_formats.load(path)
    tensors, container, others = find_container(path, content)
    has_initial = isinstance(content.get(INITIAL), dict)
    if has_initial and not container:
        tensors = {}
    facts = {key: value for key, value in content.items() if (container or has_initial) and isinstance(value, FACTS)}
    if any_width:
        model = like_file(model, _in_any_width(_named(path, tensors, model)[2], model), any_head=not head)
    masks, weights, derivation = _separate(path, tensors, model, head, expected)
    beside = [name for name, value in content.items() if name not in (*container[:1], *others, INITIAL)
              and not isinstance(value, FACTS)] if container else []
    derivation = replace(derivation, container=container, others=others, left=(*derivation.left, *beside))
    chosen = dict(derivation.chosen)
    if not masks and not weights and not has_initial:
        raise UserError(f"{path}: holds no tensors of a model" + (f"; it has {listed(list(content))}" if content else ""))
    initial = None
    if has_initial:
        masks_in_initial, initial, of_initial = _separate(path, content[INITIAL], model, head, expected)
        chosen |= of_initial.chosen
        if masks_in_initial:
            raise UserError(f"{path}: init_weight holds masks; they belong under state_dict")
        initial = _checked_weights(path, initial, model, head, expected)
    absent = [name for name in checkpoint.parse_names(path.names) if name not in chosen]
    if absent:
        raise checkpoint.NamesError(f"--rename {path.names}: {path} has no layer {shortened(absent[0])}" + (
            f" behind {shortened(derivation.prefix)}" if derivation.prefix else ""))
    try:
        mask = Mask(masks)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    weights = _checked_weights(path, weights, model, head, expected) if weights else None
    if mask and weights:  # of a layer that was not pruned with masks, pruned entries are zeros
        layers = prunable_layers(model, stem=STEM in mask)
        mask = Mask({**mask, **{name: weights[f"{name}.weight"] != 0 for name in layers if name not in mask}})
    if mask:
        mask.check_fits(model, str(path), expected.network)
    for layer, kept in mask.items() if weights else ():
        if (weights[f"{layer}.weight"] * ~kept).any():
            raise UserError(f"{path}: {layer}.weight is not zero where {layer}.weight_mask is; a pruned layer's weights stand "
                            f"under {layer}.weight_orig")
    return ModelFile(str(path), weights, mask or None, initial, facts, derivation, model)


def _named(path: FileBytes, entries: Mapping[Any, Any],
           model: nn.Module) -> tuple[dict[str, str], dict[str, str], dict[str, Any], int, str]:
    """Entry -> its name without the prefix, of those that have it, and the network's where the user has said so; which layers these
    were; the entries by these names, with batch norms that were folded away; how many these are; the prefix."""
    names = checkpoint.parse_names(path.names)
    prefix, chosen, named = choose_prefix(path, entries, prunable_layers(model), names), {}, {}
    for key in (key for key in entries if isinstance(key, str) and key.startswith(prefix)):
        layer, dot, kind = key.removeprefix(prefix).rpartition(".")
        if layer in names:
            chosen[layer] = names[layer]
        named[key] = f"{names.get(layer, layer)}{dot}{kind}"
    known = {name.rpartition(".")[0] for name in model.state_dict()}
    for theirs, ours in chosen.items():
        if ours not in known:
            raise checkpoint.NamesError(f"--rename {path.names}: the network has no layer {shortened(ours)}; it has {listed(sorted(known))}")
        if ours not in names and any(key.startswith(f"{prefix}{ours}.") for key in entries if isinstance(key, str)):
            raise checkpoint.NamesError(f"--rename {path.names}: {path} has a layer {shortened(ours)} already; say what that one is")
    return named, chosen, *unfold_norms({name: entries[key] for key, name in named.items()}, model.state_dict()), prefix


def _in_any_width(entries: Mapping[str, Any], model: nn.Module) -> dict[str, Any]:
    """A file's entries by the network's names. Where convolutions are missing that shapes do not tell, as there are other numbers of
    channels too, by the order alone."""
    known = model.state_dict()
    for any_width in (False, True):
        renamed = match_layers(entries, known, any_width)
        layers = {name: parameter_of(name).rpartition(".")[0] for name in entries}
        if prunable_layers(model, stem=True).keys() <= {renamed.get(layer, layer) for layer in layers.values()}:
            break
    return {f"{renamed.get(layer, layer)}{name[len(layer):]}": entries[name] for name, layer in layers.items()}


def _separate(path: FileBytes, entries: Mapping[Any, Any], model: nn.Module, head: bool,
              expected: Expected) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor], Derivation]:
    """Masks by layer name, weights by plain parameter name, pruned entries zero, and how they were found."""
    known, layers = model.state_dict(), prunable_layers(model, stem=True)
    named, chosen, unfolded, folded, prefix = _named(path, entries, model)
    renamed = match_layers(unfolded, known)

    def ours(name: str) -> str:
        layer, dot, kind = name.rpartition(".")
        return f"{renamed.get(layer, layer)}{dot}{kind}"

    inside = {ours(name): value for name, value in unfolded.items()}
    for theirs, layer in chosen.items():
        weight, own = inside.get(f"{layer}.weight"), known.get(f"{layer}.weight")
        if isinstance(weight, torch.Tensor) and own is not None and weight.shape != own.shape and layer != HEAD:
            raise checkpoint.NamesError(f"--rename {path.names}: {shortened(theirs)} has shape {tuple(weight.shape)}, {layer} {tuple(own.shape)}")
    for name, value in inside.items():
        if parameter_of(name) in known and not is_plain(value):
            raise UserError(f"{path}: {shortened(name)} is not a plain tensor; is it a model's file?")
        if parameter_of(name) not in known and isinstance(value, torch.Tensor) and ends_as_a_layers(name):
            raise UserError(f"{path}: unknown key {shortened(name)}; is it another architecture's file? {expected.network}")
    plain_ones = {name: value.detach() for name, value in inside.items() if is_plain(value)}  # a file of Parameters is one too
    tensors = dequantised(plain_ones, known)
    pruned: dict[str, dict[str, torch.Tensor]] = {MASK: {}, ORIGINAL: {}}
    weights = {name: tensor for name, tensor in tensors.items() if name in known}
    for name, tensor in tensors.items():
        parameter = parameter_of(name)
        if parameter in known and name != parameter and (head or not name.startswith(f"{HEAD}.")):
            # before anything is computed: a tensor may claim any shape without having the memory
            if tensor.shape != known[parameter].shape:
                raise UserError(f"{path}: {name} has shape {tuple(tensor.shape)}, the layer has "
                                f"{tuple(known[parameter].shape)}; {expected.network}")
            pruned[name.removeprefix(parameter)][parameter] = tensor
    # a stranger's bool need not be 0 or 1 in memory, and then counts as what it is
    masks = {name: mask.view(torch.uint8) != 0 if mask.dtype == torch.bool else mask for name, mask in pruned[MASK].items()}
    of_layers = {name: masks[f"{name}.weight"] for name in layers if f"{name}.weight" in masks}  # in the network's order
    of_others = {name: mask for name, mask in masks.items() if name.removesuffix(".weight") not in layers}
    for name, tensor in pruned[ORIGINAL].items():
        if name not in masks or name in weights:
            raise UserError(f"{path}: {name}_orig must come with {name}_mask and without {name}")
        if not torch.isfinite(tensor).all():
            raise UserError(f"{path}: {name}_orig holds values that are not finite")
        weights[name] = torch.where(masks[name] != 0, tensor, torch.zeros_like(tensor))
    alone = [name for name in of_others if name not in pruned[ORIGINAL]]
    if alone and weights:
        raise UserError(f"{path}: {alone[0]}_mask must come with {alone[0]}_orig")
    try:
        Mask(of_others)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    read = {key for key, name in named.items() if name not in unfolded or parameter_of(ours(name)) in known
            or ours(name) in plain_ones and ours(name) not in tensors}
    types = Counter(str(value.dtype).removeprefix("torch.") for name, value in inside.items()
                    if (parameter := name.removesuffix(ORIGINAL)) in known and known[parameter].is_floating_point()
                    and value.dtype != known[parameter].dtype)
    return of_layers, weights, Derivation(
        prefix=prefix, chosen=chosen, renamed=renamed, folded=folded, left=tuple(str(key)[:LONGEST_NAME] for key in entries if key not in read),
        masked=tuple(name for name in of_others if name in pruned[ORIGINAL]), types=dict(types))


def _checked_weights(path: FileBytes, weights: dict[str, torch.Tensor], model: nn.Module, head: bool,
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
    std = known.get(OPTIONAL_KEYS[1], torch.ones(3))
    if head and set(OPTIONAL_KEYS) & (known.keys() - weights.keys()) and (std.isfinite() & (std != 1)).any():  # those of pictures
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


def for_others(content: Mapping[str, Any]) -> dict[str, Any]:
    """What of a file of ours, as it was loaded, leaves the house: masks, weights where they are, and PUBLIC facts.

    The rest helps a thief: weights of pruned entries show which entries a mark moved, seeds how the ticket is found again.
    """
    parts = {name: content[name] for name in ("state_dict", INITIAL) if isinstance(content.get(name), dict)} or {"": content}
    masks = {name.removesuffix(MASK): tensor for tensors in parts.values() for name, tensor in tensors.items() if str(name).endswith(MASK)}
    kept: dict[str, Any] = {name: content[name] for name in PUBLIC if name in content}
    for part, tensors in parts.items():
        tensors = {name: tensor for name, tensor in tensors.items() if isinstance(tensor, torch.Tensor)}
        for name in tensors.keys() & {*masks, *(f"{name}{ORIGINAL}" for name in masks)}:
            tensors[name] = tensors[name] * masks[parameter_of(name)].to(tensors[name].dtype)
        kept |= {part: tensors} if part else tensors
    return kept


def told_besides(content: Mapping[str, Any]) -> list[str]:
    """What a file says that `for_others` leaves out, in words."""
    kept = for_others(content)
    pruned = [f"{part}'s weights of pruned entries" for part in ("state_dict", INITIAL) if isinstance(kept.get(part), dict)
              and any(not torch.equal(tensor, content[part][name]) for name, tensor in kept[part].items())]
    return [*pruned, *(shortened(name) for name in content if name not in kept)]


def with_names(state: Mapping[str, torch.Tensor], names: Mapping[str, str], path: str) -> dict[str, torch.Tensor]:
    """A model's state_dict (`for_others`) as somebody's own code loads it: weights without masks beside them, and without the statistics
    of the input, which that code takes off itself.

    Args:
        names: layer's name in the other code -> here, as for --rename; a layer that is not among them keeps its own.
        path: for messages.
    Raises:
        UserError: a layer is not there, or two would have one name.
    """
    called, result = {ours: theirs for theirs, ours in names.items()}, {}
    layers = {name.rpartition(".")[0] for name in state}
    absent = [layer for layer in called if layer not in layers]
    if absent:
        raise UserError(f"--rename: {path} has no layer {shortened(absent[0])}")
    for name, tensor in state.items():
        layer, _, kind = name.removesuffix(ORIGINAL).rpartition(".")
        if name in OPTIONAL_KEYS and layer not in called or name.endswith(MASK) and f"{name.removesuffix(MASK)}{ORIGINAL}" in state:
            continue
        renamed = f"{called.get(layer, layer)}.{kind}"
        if renamed in result:
            raise UserError(f"--rename: two of {path} would be {shortened(renamed)}")
        result[renamed] = tensor
    return result


def plain(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Detached CPU copies in a plain dict."""
    return {name: tensor.detach().cpu().clone() for name, tensor in state.items()}
