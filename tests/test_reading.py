"""Models' files as others write them: containers, prefixes, pruned parameters, types, formats, and what lies beside the weights."""

import argparse
import collections
import json
import os
import struct
import warnings

import numpy as np
import onnx
import pytest
import torch
from safetensors.torch import save as as_safetensors
from torch.nn.utils import prune

from models import build_model
from ownership.suspects.reading import read_suspect
from pruner import tickets
from pruner.masks import prunable_layers
from pruner.tickets import read_model_file
from utils import checkpoint
from utils.errors import UserError
from utils.untrusted.salvage import convert, tensors_of


@pytest.fixture(scope="module")
def model():
    return build_model("res20s", 10)


@pytest.fixture(scope="module")
def network(make_model):
    """Another one, of 40% density."""
    network = make_model(classes=10, seed=5)
    with torch.no_grad():
        for layer in prunable_layers(network).values():
            layer.weight *= torch.rand(layer.weight.shape, generator=torch.Generator().manual_seed(1)) < 0.4
    return network


@pytest.fixture
def plain(network) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in network.state_dict().items()}


def read(content, model, tmp_path, entry=None, **how):
    path = tmp_path / "model.pth"
    torch.save(content, path, **how)
    return read_model_file(checkpoint.read_model(path, entry=entry), model)


def assert_is(found, plain) -> None:
    assert found.weights.keys() == plain.keys()
    assert all(torch.equal(found.weights[name], tensor) for name, tensor in plain.items())


def prefixed(prefix: str, state: dict) -> dict:
    return {prefix + name: tensor for name, tensor in state.items()}


# --- containers and prefixes ------------------------------------------------------------------------------------------


WRAPS = {
    "net": lambda p: {"net": p, "acc": 95.1, "epoch": 199}, "model": lambda p: {"model": p, "args": {"lr": 0.1}},
    "model_state_dict": lambda p: {"model_state_dict": p, "optimizer_state_dict": {}}, "ema": lambda p: {"ema": p, "updates": 7},
    "state_dict_ema": lambda p: {"state_dict_ema": p}, "nested": lambda p: {"state_dict": {"model": p}},
    "module.": lambda p: {"net": prefixed("module.", p)}, "_orig_mod.": lambda p: prefixed("_orig_mod.", p),
    "nested prefixes": lambda p: {"state_dict": prefixed("module._orig_mod.model.backbone.", p)},
    "a number before": lambda p: prefixed("0.", p), "averaged": lambda p: {"n_averaged": torch.tensor(3), **prefixed("module.", p)},
}


@pytest.mark.parametrize("wrap", WRAPS)
def test_containers_and_prefixes(wrap, model, plain, tmp_path):
    found = read(WRAPS[wrap](plain), model, tmp_path)
    assert_is(found, plain)
    assert found.derivation.in_words()


def test_of_several_networks_one_is_taken_and_said(model, network, plain, tmp_path):
    other = {name: tensor + 1 for name, tensor in plain.items()}
    both = {"state_dict": plain, "state_dict_ema": other}
    found = read(both, model, tmp_path)
    assert_is(found, plain)
    assert found.derivation.in_words() == "the weights are those under 'state_dict', not 'state_dict_ema' (--entry)"
    assert_is(read(both, model, tmp_path, "state_dict_ema"), other)
    two = {**prefixed("student.", plain), **prefixed("teacher.", other)}
    with pytest.raises(UserError, match="model.pth: holds several networks, under 'student.', 'teacher.'; choose with --entry"):
        read(two, model, tmp_path)
    assert_is(read(two, model, tmp_path, "teacher"), other)
    with pytest.raises(UserError, match="--entry nobody: .*model.pth has no such entry; it has 'state_dict', 'state_dict_ema'"):
        read(both, model, tmp_path, "nobody")


def test_what_no_weight_is_missing_for_is_named_and_left(model, plain, tmp_path):
    extra = {f"{layer}total_ops": torch.zeros(1) for layer in ("", "layer1.", "layer1.0.conv1.", "fc.")}
    found = read({**plain, **extra, "a\nb": 3}, model, tmp_path)
    assert_is(found, plain)
    assert set(found.derivation.left) == {*extra, "a\nb"} and found.derivation.in_words().isprintable()
    with pytest.raises(UserError, match="unknown key 'layer1.3.conv1.weight'"):
        read({**plain, "layer1.3.conv1.weight": torch.zeros(16, 16, 3, 3)}, model, tmp_path)


@pytest.mark.parametrize("legacy", [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.parametrize("beside", [
    {"optimizer": {"state": {139872312345680 + 136 * i: {"momentum_buffer": torch.zeros(2)} for i in range(3)}}},
    {"results": {0.8: 91.2, 0.64: 91.0}, "pairs": {("layer1", 0): 1.0}}, {"loss": [step * 0.37 for step in range(300_000)]}],
    ids=["addresses", "fractions and tuples", "every step"])
def test_histories_and_odd_names(beside, legacy, model, plain, tmp_path):
    found = read({"state_dict": plain, **beside}, model, tmp_path, _use_new_zipfile_serialization=not legacy)
    assert_is(found, plain)
    assert found.derivation.left == tuple(beside)


# --- pruned parameters and types ----------------------------------------------------------------------------------------


def test_pruned_on_any_layers_biases_too(model, make_model, tmp_path):
    """As in PyTorch's tutorial: whatever has weights, in one draw."""
    network = make_model(classes=10, seed=6)
    parameters = [(module, "weight") for module in network.modules() if isinstance(module, (torch.nn.Conv2d, torch.nn.Linear))]
    prune.global_unstructured(parameters, prune.L1Unstructured, amount=0.3)
    prune.l1_unstructured(network.fc, "bias", 0.3)
    prune.random_unstructured(network.bn1, "weight", 0.25)
    found = read(network.state_dict(), model, tmp_path)
    assert list(found.mask) == list(prunable_layers(model, stem=True))
    for name, module in network.named_modules():
        if hasattr(module, "weight_mask"):
            assert torch.equal(found.weights[f"{name}.weight"], module.weight)
            assert name not in found.mask or torch.equal(found.mask[name], module.weight_mask == 1)
    assert torch.equal(found.weights["fc.bias"], network.fc.bias)
    assert found.derivation.masked == ("bn1.weight", "fc.weight", "fc.bias")
    assert read_suspect(str(tmp_path / "model.pth"), build_model("res20s", 2)).mask == found.mask


def test_a_layer_without_a_mask_is_pruned_where_it_is_zero(model, plain, make_model, tmp_path):
    network = make_model(classes=10)
    network.load_state_dict(plain)
    prune.l1_unstructured(network.conv1, "weight", 0.2)
    found = read(network.state_dict(), model, tmp_path)
    assert torch.equal(found.mask["conv1"], network.conv1.weight_mask == 1)
    assert all(torch.equal(found.mask[name], plain[f"{name}.weight"] != 0) for name in prunable_layers(model))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64, torch.float8_e4m3fn, torch.float8_e5m2])
@pytest.mark.parametrize("form", ["torch", "safetensors"])
def test_other_floats(dtype, form, model, plain, tmp_path):
    changed = {name: tensor.contiguous().to(dtype) if tensor.dim() == 4 else tensor for name, tensor in plain.items()}
    path = tmp_path / "model"
    path.write_bytes(as_safetensors(changed)) if form == "safetensors" else torch.save(changed, path)
    found = read_model_file(path, model)
    assert_is(found, {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in changed.items()})
    assert found.derivation.types == {str(dtype).removeprefix("torch."): len(prunable_layers(model, stem=True))}


@pytest.mark.parametrize("names", [("{0}.weight_scale", "{0}.weight_zero_point"), ("{0}.scale", "{0}.zero_point")])
@pytest.mark.parametrize("by_channel", [False, True])
def test_whole_numbers_with_scales(names, by_channel, model, plain, tmp_path):
    changed = dict(plain)
    for layer in prunable_layers(model):
        weight = plain[f"{layer}.weight"]
        scale = weight.abs().amax((1, 2, 3)) / 127 if by_channel else weight.abs().max() / 127
        rows = scale[:, None, None, None] if by_channel else scale
        changed[f"{layer}.weight"] = (weight / rows + 1).round().clamp(-128, 127).to(torch.int8)
        changed[names[0].format(layer)], changed[names[1].format(layer)] = scale, torch.tensor(1)
    found = read(changed, model, tmp_path)
    for layer in prunable_layers(model):
        weight, error = plain[f"{layer}.weight"], found.weights[f"{layer}.weight"] - plain[f"{layer}.weight"]
        assert not found.weights[f"{layer}.weight"][weight == 0].any() and error.abs().max() <= 1.6 / 127 * weight.abs().max()
    assert not found.derivation.left


# --- formats ------------------------------------------------------------------------------------------------------------


def test_safetensors_and_shards(model, plain, tmp_path):
    plain = {name: tensor.contiguous() for name, tensor in plain.items()}
    (tmp_path / "model.safetensors").write_bytes(as_safetensors(prefixed("model.", plain)))
    found = read_model_file(tmp_path / "model.safetensors", model)
    assert_is(found, plain)
    assert found.derivation.prefix == "model."
    names = list(plain)
    where = {name: f"model-{number % 2}.safetensors" for number, name in enumerate(names)}
    for shard in set(where.values()):
        (tmp_path / shard).write_bytes(as_safetensors({name: plain[name] for name in names if where[name] == shard}))
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": where}))
    file = checkpoint.read_model(index)
    assert_is(read_model_file(file, model), plain)
    assert set(file.parts) == set(where.values()), "their hashes join a verdict's"
    for change, message in (({names[0]: "model-1.safetensors"}, "holds other tensors than the index says"),
                            ({names[0]: "../model-1.safetensors"}, "is no index of safetensors files that lie beside it"),
                            (dict.fromkeys(names, "none.safetensors"), "none.safetensors: no such checkpoint"), ({names[0]: 3}, "is no index")):
        index.write_text(json.dumps({"weight_map": {**where, **change}}))
        with pytest.raises(UserError, match=message):
            read_model_file(index, model)


def with_header(change) -> bytes:
    """A safetensors file of two tensors whose header is changed as text."""
    whole = as_safetensors({"a": torch.zeros(2), "b": torch.ones(2)})
    length = struct.unpack("<Q", whole[:8])[0]
    header = change(whole[8:8 + length].decode()).encode()
    return struct.pack("<Q", len(header)) + header + whole[8 + length:]


@pytest.mark.parametrize("content, message", [
    (with_header(lambda text: text.replace('"b"', '"a"')), "is there twice"),
    (with_header(lambda text: text.replace("[8,16]", "[4,12]")), "cut off or no safetensors file"),
    (with_header(lambda text: text.replace("[8,16]", "[8,99]")), "cut off or no safetensors file"),
    (with_header(lambda text: text.replace('[2],"data_offsets":[8,16]', '[0],"data_offsets":[16,16]')), "has no entries"),
    (with_header(lambda text: text.replace('"F32"', '"Q4"')), "cut off or no safetensors file"),
    (with_header(lambda text: text)[:-1], "cut off or no safetensors file"),
    ((1 << 40).to_bytes(8, "little") + b"{", "cut off or no torch file"),
    (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "a git-LFS pointer.*git lfs pull"),
    (b"  <!DOCTYPE html><html><title>Virus scan warning</title></html>", "an HTML page"), (b"\x1f\x8b\x08 packed", "gzip.*unpack"),
    (b"\0" * 257 + b"ustar", "tar archive"), (b"GGUF\3", "GGUF")])
def test_what_is_no_model_is_named_with_the_way_out(content, message, model, tmp_path):
    (tmp_path / "model").write_bytes(content)
    with pytest.raises(UserError, match=message) as refusal:
        read_model_file(tmp_path / "model", model)
    assert str(refusal.value).startswith(str(tmp_path / "model"))


def test_torchscript_is_named(model, tmp_path):
    torch.jit.script(torch.nn.Linear(2, 2)).save(str(tmp_path / "model.pt"))
    with pytest.raises(UserError, match="model.pt: is a TorchScript archive, .*torch.jit.load"):
        read_model_file(tmp_path / "model.pt", model)


def exported(network, path, **how) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(network.eval(), (torch.zeros(1, 3, 8, 8),), str(path), dynamo=False, **how)


@pytest.fixture(scope="module")
def trained(make_model):
    """With batch norms as training leaves them, two of them alike, which exporters write once; and statistics of its input."""
    network = make_model(classes=10, seed=7)
    generator = torch.Generator().manual_seed(2)
    for norm in (module for module in network.modules() if isinstance(module, torch.nn.BatchNorm2d)):
        for tensor, low in ((norm.weight, 0.5), (norm.bias, -1), (norm.running_mean, -1), (norm.running_var, 0.5)):
            tensor.data = low + torch.rand(tensor.shape, generator=generator)
    network.layer3[2].bn2.load_state_dict(network.layer3[1].bn2.state_dict())
    network.normalize.mean, network.normalize.std = torch.tensor([0.1, 0.2, 0.3]), torch.tensor([0.4, 0.5, 0.6])
    return network


@pytest.mark.parametrize("folded", [True, False])
def test_onnx_as_it_is_exported(folded, trained, model, tmp_path):
    mode = torch.onnx.TrainingMode
    exported(trained, tmp_path / "model.onnx", do_constant_folding=folded, training=mode.EVAL if folded else mode.PRESERVE)
    found = read_model_file(tmp_path / "model.onnx", model)
    assert found.derivation.folded == 19 * folded and bool(found.derivation.renamed) == folded
    assert torch.allclose(found.weights["normalize.mean"], trained.normalize.mean)
    again, pictures = build_model("res20s", 10), torch.rand(4, 3, 16, 16)
    again.load_state_dict(found.weights)
    expected = trained.eval()(pictures).detach()
    assert torch.allclose(again.eval()(pictures), expected, rtol=0, atol=1e-5 * float(expected.abs().max()))


@pytest.mark.slow
def test_onnx_that_is_none(model, tmp_path):
    path = tmp_path / "model.onnx"
    whole = onnx.helper.make_model(onnx.helper.make_graph(
        [onnx.helper.make_node("Gemm", ["x", "w"], ["y"])], "g", [], [],
        [onnx.numpy_helper.from_array(np.ones((3, 2), np.float32), "w")])).SerializeToString()
    outside = onnx.ModelProto.FromString(whole)
    outside.graph.initializer[0].data_location = onnx.TensorProto.EXTERNAL
    outside.graph.initializer[0].external_data.add(key="location", value="/etc/passwd")
    many = onnx.ModelProto.FromString(whole)
    many.graph.node.extend(onnx.NodeProto() for _ in range(1 << 21 | 1))
    for content, message in ((whole[:-1], "cut off or no ONNX file"), (outside.SerializeToString(), "weights lie in other files"),
                             (many.SerializeToString(), "more than 4194304 bytes beside its weights"),
                             (onnx.ModelProto(ir_version=8, producer_name="x").SerializeToString(), "no layers with weights")):
        path.write_bytes(content)
        with pytest.raises(UserError, match=message):
            read_model_file(path, model)


# --- objects beside the weights -------------------------------------------------------------------------------------------


class Bomb:
    def __init__(self, command: str):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


def of_own_kind(plain) -> dict:
    state = collections.defaultdict(list)
    state.update(plain)
    return state


OBJECTS = {
    "numpy's number": lambda plain, network: {"state_dict": plain, "best": np.float64(95.1)},
    "array": lambda plain, network: {"state_dict": plain, "curve": np.ones(3)},
    "settings": lambda plain, network: {"net": plain, "args": argparse.Namespace(lr=0.1)},
    "a module": lambda plain, network: network, "a module in a dict": lambda plain, network: {"model": network, "epoch": 3},
    "a dict of its own kind": lambda plain, network: of_own_kind(plain),
    "a bomb": lambda plain, network: {"state_dict": plain, "epoch": Bomb(f"touch {os.environ['MARKER']}")},
}


@pytest.mark.slow
@pytest.mark.parametrize("how", [{}, {"_use_new_zipfile_serialization": False}, {"pickle_protocol": 4}], ids=["zip", "legacy", "4"])
@pytest.mark.parametrize("content", OBJECTS)
def test_objects_beside_the_weights_are_refused_and_left_out(content, how, model, network, plain, tmp_path, monkeypatch):
    monkeypatch.setenv("MARKER", str(tmp_path / "executed"))
    with pytest.raises(UserError, match="objects other than.*scripts/convert_suspect.py keeps its tensors alone"):
        read(OBJECTS[content](plain, network), model, tmp_path, **how)
    torch.save(tensors_of((tmp_path / "model.pth").read_bytes()), tmp_path / "tensors.pth")
    assert_is(read_model_file(tmp_path / "tensors.pth", model), plain)
    assert not (tmp_path / "executed").exists()


def test_a_history_of_millions_is_left_out(model, plain, tmp_path):
    with pytest.raises(UserError, match="too long .*convert_suspect.py"):
        read({"state_dict": plain, "loss": [0.5] * 1_000_000}, model, tmp_path)


@pytest.mark.slow
def test_the_converter_is_a_script_of_its_own(run_script, refused, model, network, plain, tmp_path):
    torch.save({"model": network}, tmp_path / "model.pth")
    words = "scripts/convert_suspect.py", tmp_path / "model.pth", "--save_as", tmp_path / "tensors.pth.tar"
    done = run_script(*words)
    assert done.returncode == 0, done.stderr
    assert checkpoint.sha256(tmp_path / "model.pth") in done.stdout and checkpoint.sha256(tmp_path / "tensors.pth.tar") in done.stdout
    assert_is(read_model_file(tmp_path / "tensors.pth.tar", model), plain)
    assert "exists; it is never written over" in refused(run_script(*words))


@pytest.mark.slow
def test_the_converter_ends_when_it_takes_too_long(tmp_path):
    torch.save({"loss": [0.5] * 3_000_000, "fc.weight": torch.zeros(2)}, tmp_path / "model.pth")
    with pytest.raises(UserError, match="takes more than 1 seconds"):
        convert(tmp_path / "model.pth", tmp_path / "out.pth", 1)
    assert not (tmp_path / "out.pth").exists()


# --- other names ----------------------------------------------------------------------------------------------------------


def with_names(state: dict, *changes: tuple[str, str]) -> dict:
    """With parts of the names exchanged."""
    result = {}
    for name, tensor in state.items():
        for before, after in changes:
            name = name.replace(before, after)
        result[name] = tensor
    return result


def numbered(state: dict) -> dict:
    """features.0, features.1, ... in the order of the network, and classifier."""
    layers = [name for name in dict.fromkeys(name.rpartition(".")[0] for name in state) if name not in ("fc", "normalize")]
    return {f"{'classifier' if layer == 'fc' else f'features.{layers.index(layer)}'}.{kind}": tensor
            for layer, kind, tensor in ((*name.rpartition(".")[::2], tensor) for name, tensor in state.items()) if layer != "normalize"}


@pytest.mark.slow
@pytest.mark.parametrize("arch, rename", [
    ("res20s", lambda state: {"net": prefixed("module.", with_names(state, ("fc.", "linear."))), "acc": 92.1, "epoch": 199}),
    ("res20s", numbered), ("res18", lambda state: with_names(state, ("fc.", "linear."), ("downsample", "shortcut")))])
@pytest.mark.parametrize("form", ["torch", "safetensors"])
def test_layers_are_found_by_order_and_shape(arch, rename, form, make_model, tmp_path):
    network = make_model(arch, 10, seed=3)
    state = {name: tensor.contiguous() for name, tensor in network.state_dict().items() if not name.startswith("normalize")}
    content = rename(state)
    if form == "torch":
        torch.save(content, tmp_path / "model")
    else:
        (tmp_path / "model").write_bytes(as_safetensors(content.get("net", content)))
    found = read_model_file(tmp_path / "model", build_model(arch, 10))
    assert all(torch.equal(found.weights[name], tensor) for name, tensor in state.items())
    assert found.derivation.renamed and "found by order and shape" in found.derivation.in_words()
    suspect = read_suspect(str(tmp_path / "model"), build_model(arch, 2))
    assert all(torch.equal(weight, state[f"{name}.weight"]) for name, weight in suspect.weights.items())


def test_a_layer_too_many_is_no_other_name(model, plain, tmp_path):
    wrong = with_names(plain, ("layer1.0.conv1", "layer1.0.first"))
    assert read(wrong, model, tmp_path).derivation.renamed == {"layer1.0.first": "layer1.0.conv1"}
    with pytest.raises(UserError, match="unknown key 'layer1.0.first.weight'"):
        read({**wrong, "layer1.0.other.weight": torch.zeros(16, 16, 3, 3)}, model, tmp_path)
    with pytest.raises(UserError, match="fc.weight has shape .5, 64., the model has .10, 64.; another class count?"):
        read({**with_names(plain, ("fc.", "linear.")), "linear.weight": torch.zeros(5, 64)}, model, tmp_path)


def by_map(content, names: dict, model, tmp_path):
    """Read with a map of names."""
    torch.save(content, tmp_path / "model.pth")
    (tmp_path / "names.json").write_text(json.dumps(names))
    return read_model_file(checkpoint.read_model(tmp_path / "model.pth", rename=tmp_path / "names.json"), model)


def exchanged(state: dict) -> tuple[dict, dict]:
    """With the layers of a stage in another order under names that tell nothing, and the map that tells."""
    names = {f"stage.{5 - number}": f"layer1.{number // 2}.conv{1 + number % 2}" for number in range(6)}
    called = {layer: name for name, layer in names.items()}
    changed = {f"{called.get(name.rpartition('.')[0], name.rpartition('.')[0])}.{name.rpartition('.')[2]}": tensor
               for name, tensor in reversed(state.items())}
    return changed, names


@pytest.mark.parametrize("prefix", ["", "module."])
def test_a_map_overrides_order_and_shape(prefix, model, plain, tmp_path):
    changed, names = exchanged(plain)
    wrong = read(prefixed(prefix, changed), model, tmp_path)
    assert wrong.derivation.renamed.keys() == names.keys() and wrong.derivation.renamed != names
    found = by_map(prefixed(prefix, changed), names, model, tmp_path)
    assert_is(found, plain)
    assert found.derivation.chosen == names and not found.derivation.renamed
    assert "6 layers named by --rename" in found.derivation.in_words()
    part = dict(list(names.items())[:3])  # the others are found in their order: three, backwards
    assert by_map(prefixed(prefix, changed), part, model, tmp_path).derivation.renamed.keys() == names.keys() - part.keys()


def test_a_map_of_masks_and_of_all_names(model, network, plain, tmp_path):
    """Where no name tells anything, the prefix is seen by the map."""
    packed = tickets.pack_state(plain, tickets.Mask({name: plain[f"{name}.weight"] != 0 for name in prunable_layers(model)}))
    layers = dict.fromkeys(name.rpartition(".")[0] for name in packed)
    names = {f"x{number}": layer for number, layer in enumerate(layers)}
    called = {layer: f"module.{name}" for name, layer in names.items()}
    changed = {f"{called[name.rpartition('.')[0]]}.{name.rpartition('.')[2]}": tensor for name, tensor in reversed(packed.items())}
    found = by_map({"net": changed}, names, model, tmp_path)
    assert_is(found, plain)
    assert found.derivation.prefix == "module." and found.mask == read(packed, model, tmp_path).mask


def test_folded_norms_follow_the_convolutions_of_a_map(trained, model, tmp_path):
    modules, state = dict(trained.named_modules()), trained.state_dict()
    for layer in prunable_layers(model, stem=True):
        norm = layer.replace("conv", "bn")
        factor = state[f"{norm}.weight"] / (state[f"{norm}.running_var"] + modules[norm].eps).sqrt()
        state[f"{layer}.weight"] = state[f"{layer}.weight"] * factor[:, None, None, None]
        state[f"{layer}.bias"] = state[f"{norm}.bias"] - state[f"{norm}.running_mean"] * factor
    changed, names = exchanged({name: tensor for name, tensor in state.items() if "bn" not in name})
    found = by_map(changed, names, model, tmp_path)
    assert found.derivation.folded == 19
    again, pictures = build_model("res20s", 10), torch.rand(4, 3, 16, 16)
    again.load_state_dict(found.weights)
    expected = trained.eval()(pictures).detach()
    assert torch.allclose(again.eval()(pictures), expected, rtol=0, atol=1e-5 * float(expected.abs().max()))


@pytest.mark.parametrize("names, message", [
    ("{", "not a JSON file that can be read"), ("[]", "must be a JSON object"), ("{}", "must be a JSON object"),
    ('{"a": 3}', "must be a JSON object"), ('{"": "fc"}', "must be a JSON object"), ('{"a": "fc", "a": "fc"}', "is there twice"),
    ('{"a": "fc", "b": "fc"}', "calls two layers 'fc'"), ('{"linear": "conv9"}', "the network has no layer 'conv9'; it has 'bn1', "),
    ('{"nobody": "fc"}', "model.pth has no layer 'nobody'"), ('{"linear": "bn1"}', "model.pth has a layer 'bn1' already; say what that"),
    ('{"layer1.0.conv1": "layer2.0.conv1", "layer2.0.conv1": "layer1.0.conv1"}',
     "'layer1.0.conv1' has shape .16, 16, 3, 3., layer2.0.conv1 .32, 16, 3, 3."),
    ('{"x": "' + "y" * (1 << 20) + '"}', "larger than 1048576 bytes"), ("[" * 100_000, "nested too deeply"), ('{"a": NaN}', "no number")])
def test_a_map_that_can_not_be_is_refused(names, message, model, plain, tmp_path):
    torch.save(with_names_of(plain), tmp_path / "model.pth")
    (tmp_path / "names.json").write_text(names)
    with pytest.raises(UserError, match=message) as refusal:
        read_model_file(checkpoint.read_model(tmp_path / "model.pth", rename=tmp_path / "names.json"), model)
    assert str(refusal.value).startswith(f"--rename {tmp_path / 'names.json'}: ") and "\n" not in str(refusal.value)


def with_names_of(state: dict) -> dict:
    return with_names(state, ("fc.", "linear."))
