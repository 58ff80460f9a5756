"""Files of weights and masks: the original's formats, round trips, hostile and broken files, atomic writes."""

import collections
import errno
import fcntl
import io
import json
import math
import os
import pickle
import platform
import re
import stat
import warnings
import zipfile

import numpy as np
import pytest
import torch
from torch.nn.utils import prune

from benchmarks.lib import rows
from ownership.qr_code.readers import write_code
from pruner import tickets
from pruner.masks import Mask, prunable_layers
from pruner.tickets import read_model_file
from utils import checkpoint, locks, plots
from utils.errors import UserError
from utils.run_dir import RunDir

LAYER = "layer1.0.conv1"


@pytest.fixture(scope="module")
def model(make_model):
    return make_model(classes=10)


@pytest.fixture(scope="module")
def mask(model) -> Mask:
    generator = torch.Generator().manual_seed(1)
    return Mask({name: torch.rand(layer.weight.shape, generator=generator) < 0.4
                 for name, layer in prunable_layers(model).items()})


@pytest.fixture
def theirs(make_model, mask):
    """A network pruned as the original prunes: torch.nn.utils.prune, with weights left under the mask."""
    network = make_model(classes=10, seed=5)
    for name, layer in prunable_layers(network).items():
        prune.custom_from_mask(layer, "weight", mask[name].float())
    network.bn1.running_mean += 3
    return network


def effective(network) -> dict[str, torch.Tensor]:
    """What a pruned network computes with, under plain names."""
    plain = {}
    for name, tensor in network.state_dict().items():
        if name.endswith(".weight_orig"):
            layer = name.removesuffix(".weight_orig")
            plain[f"{layer}.weight"] = tensor * network.state_dict()[f"{layer}.weight_mask"]
        elif not name.endswith(".weight_mask"):
            plain[name] = tensor
    return plain


def assert_same(left, right) -> None:
    assert left.keys() == right.keys()
    for name in left:
        assert torch.equal(left[name], right[name]), name


def written(content, tmp_path):
    torch.save(content, tmp_path / "file.pth.tar")
    return tmp_path / "file.pth.tar"


# --- the original's formats -------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("wrap", [
    lambda state: state,
    lambda state: {"state_dict": state, "epoch": 182, "best_sa": 91.5, "optimizer": {"state": {}, "param_groups": []}},
    lambda state: {f"module.{name}": tensor for name, tensor in state.items()},
    lambda state: {"state_dict": {f"module.{name}": tensor for name, tensor in state.items()}},
    lambda state: {name: tensor for name, tensor in state.items() if not name.startswith("normalize.")},
    lambda state: {name: tensor for name, tensor in state.items() if not name.endswith("num_batches_tracked")},
    lambda state: collections.OrderedDict(state),
    lambda state: {name: tensor.to(torch.uint8) if name.endswith("_mask") else tensor
                   for name, tensor in state.items()},
    lambda state: {name: tensor.double() if tensor.is_floating_point() else tensor for name, tensor in state.items()},
    lambda state: {name: tensor.cpu().contiguous(memory_format=torch.channels_last) if tensor.dim() == 4 else tensor
                   for name, tensor in state.items()},
])
def test_a_pruned_network_of_torch_prune(model, mask, theirs, tmp_path, wrap):
    found = read_model_file(written(wrap(dict(theirs.state_dict())), tmp_path), model)
    assert found.mask == mask and found.initial is None
    assert_same(found.weights, effective(theirs))
    model.load_state_dict(found.weights)
    pictures = torch.rand(2, 3, 8, 8)
    assert torch.equal(model.eval()(pictures), theirs.eval()(pictures))


def test_normalisation_in_the_file_counts(model, theirs, tmp_path):
    state = dict(theirs.state_dict())
    state["normalize.mean"], state["normalize.std"] = torch.tensor([0.1, 0.2, 0.3]), torch.tensor([0.4, 0.5, 0.6])
    found = read_model_file(written(state, tmp_path), model)
    assert torch.equal(found.weights["normalize.mean"], state["normalize.mean"])
    assert torch.equal(found.weights["normalize.std"], state["normalize.std"])


def test_whose_input_statistics_are_taken_is_told(make_model, theirs, tmp_path, capsys):
    from models import build_model

    own = build_model("res20s", 3, (0.5, 0.5, 0.5), (0.2, 0.2, 0.2))
    state = {name: tensor for name, tensor in make_model().state_dict().items() if not name.startswith("normalize.")}
    path = written(state, tmp_path)
    found = read_model_file(path, own)
    assert found.weights["normalize.std"].tolist() == own.state_dict()["normalize.std"].tolist()
    assert capsys.readouterr().err == (f"note: {path}: says nothing of its input statistics (normalize.mean, normalize.std); those of "
                                       "the data set are taken\n")
    read_model_file(path, own, head=False)  # only masks are asked for
    read_model_file(path, make_model())  # there are no pictures
    read_model_file(written(make_model().state_dict(), tmp_path), own)  # the file says it
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("wrap", [lambda masks: masks, lambda masks: {"state_dict": masks}])
@pytest.mark.parametrize("dtype", [torch.float32, torch.uint8, torch.bool, torch.int64])
def test_a_mask_file(model, mask, tmp_path, wrap, dtype):
    path = written(wrap({f"{name}.weight_mask": layer.to(dtype) for name, layer in mask.items()}), tmp_path)
    found = read_model_file(path, model)
    assert found.mask == mask and found.weights is None and found.initial is None
    assert found.need_mask("--mask_dir", model) == mask
    with pytest.raises(UserError, match="--init.*holds masks but no weights"):
        found.need_weights("--init")


def test_initial_weights_beside_the_pruned_ones(model, mask, theirs, make_model, tmp_path):
    initial = make_model(classes=10, seed=8).state_dict()
    found = read_model_file(written({"state_dict": theirs.state_dict(), "init_weight": initial}, tmp_path), model)
    assert found.mask == mask
    assert_same(found.initial, initial)
    assert_same(found.weights, effective(theirs))
    only = read_model_file(written({"init_weight": initial}, tmp_path), model)
    assert only.weights is None and only.mask is None
    assert_same(only.need_weights("--init"), initial)


def test_plain_weights_are_pruned_where_they_are_zero(model, mask, theirs, tmp_path):
    plain = effective(theirs)
    found = read_model_file(written(plain, tmp_path), model)
    assert_same(found.weights, plain)
    assert found.mask is None and found.need_mask("--mask_dir", model) == mask


def test_a_stem_mask_is_read_too(model, make_model, tmp_path):
    network = make_model(classes=10)
    stem = Mask({name: torch.rand(layer.weight.shape) < 0.5
                 for name, layer in prunable_layers(network, stem=True).items()})
    for name, layer in prunable_layers(network, stem=True).items():
        prune.custom_from_mask(layer, "weight", stem[name])
    found = read_model_file(written(network.state_dict(), tmp_path), model)
    assert found.mask == stem and "conv1" in found.mask
    assert_same(found.weights, effective(network))


def test_without_the_head_another_class_count_is_fine(model, make_model, tmp_path):
    path = written(make_model(classes=100, seed=3).state_dict(), tmp_path)
    with pytest.raises(UserError, match="fc.weight.*another class count"):
        read_model_file(path, model)
    found = read_model_file(path, model, head=False)
    assert torch.equal(found.weights["fc.weight"], model.state_dict()["fc.weight"])
    assert torch.equal(found.weights["conv1.weight"], make_model(classes=100, seed=3).state_dict()["conv1.weight"])


def test_the_files_do_not_change_the_model(model, theirs, tmp_path):
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    found = read_model_file(written(theirs.state_dict(), tmp_path), model, head=False)
    for tensor in found.weights.values():
        tensor.zero_()
    assert_same(model.state_dict(), before)


# --- our own files ----------------------------------------------------------------------------------------------------


def test_a_ticket_comes_back(model, mask, make_model, tmp_path):
    initial = make_model(classes=10, seed=2).state_dict()
    tickets.write_ticket(tmp_path / "t.pth.tar", mask, initial, {"arch": "res20s", "round": 4})
    found = read_model_file(tmp_path / "t.pth.tar", model)
    assert found.mask == mask and found.weights is None
    assert_same(found.initial, initial)
    assert found.facts == {"arch": "res20s", "round": 4, "density": mask.density, "nonzeros": mask.nonzeros}


@pytest.mark.parametrize("pruned", [False, True])
def test_weights_come_back(model, mask, make_model, tmp_path, pruned):
    state = make_model(classes=10, seed=2).state_dict()
    tickets.write_weights(tmp_path / "w.pth.tar", state, {"epoch": 3}, mask if pruned else None)
    found = read_model_file(tmp_path / "w.pth.tar", model)
    for name, layer in mask.items() if pruned else ():
        state[f"{name}.weight"] = state[f"{name}.weight"] * layer
    assert_same(found.weights, state)
    assert found.mask == (mask if pruned else None) and found.facts == {"epoch": 3}


def test_masks_come_back_and_have_the_originals_names(model, mask, tmp_path):
    tickets.write_masks(tmp_path / "m.pth.tar", mask)
    assert read_model_file(tmp_path / "m.pth.tar", model).mask == mask
    content = torch.load(tmp_path / "m.pth.tar", weights_only=True)
    assert content.keys() == {f"{name}.weight_mask" for name in mask}


def test_saved_weights_are_copies(make_model):
    network = make_model()
    saved = tickets.plain(network.state_dict())
    with torch.no_grad():
        network.fc.weight.zero_()
    assert saved["fc.weight"].any() and not saved["fc.weight"].requires_grad


# --- what torch.save writes, read as torch reads it ---------------------------------------------------------------------


class Call:
    """Pickles as the call of a function."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def trained(make_model, optimizer) -> dict:
    network = make_model(classes=10)
    steps = optimizer(network.parameters())
    network(torch.ones(2, 3, 32, 32)).sum().backward()
    steps.step()
    schedule = torch.optim.lr_scheduler.MultiStepLR(steps, [91, 136])
    return {"state_dict": network.state_dict(), "optimizer": steps.state_dict(), "scheduler": schedule.state_dict(), "epoch": 182,
            "best_acc1": torch.tensor(91.5), "history": [{"epoch": epoch, "val_acc": 90.0 + epoch} for epoch in range(3)],
            "arch": "resnet20", "random": (torch.get_rng_state(), b"\x00\xff", 2**127 + 1), "none": None, "classes": {"a", "b"}}


def views() -> dict:
    whole = torch.arange(24.0).reshape(2, 3, 4)
    return {"whole": whole, "row": whole[1], "transposed": whole.mT, "every other": whole[:, ::2],
            "expanded": torch.ones(1).expand(5, 7), "again": whole,
            "channels last": torch.rand(2, 3, 4, 5).contiguous(memory_format=torch.channels_last),
            "empty": torch.empty(0, 3), "scalar": torch.tensor(3), "parameter": torch.nn.Parameter(whole[0]),
            "conj": torch.ones(2) * 1j}


DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16, torch.int8,
          torch.uint8, torch.bool, torch.complex64)
HONEST = {
    "a training with SGD": lambda make: trained(make, lambda parameters: torch.optim.SGD(parameters, 0.1, momentum=0.9)),
    "a training with AdamW": lambda make: trained(make, lambda parameters: torch.optim.AdamW(parameters, amsgrad=True)),
    "DataParallel": lambda make: torch.nn.DataParallel(make(classes=10)).state_dict(),
    "channels_last": lambda make: make(classes=10).to(memory_format=torch.channels_last).state_dict(),
    "half": lambda make: make(classes=10).half().state_dict(), "bfloat16": lambda make: make(classes=10).bfloat16().state_dict(),
    "parameters": lambda make: dict(make(classes=10).named_parameters()), "shared memory": lambda make: views(),
    "dtypes": lambda make: {str(dtype): torch.ones(3, 2).to(dtype) for dtype in DTYPES},
    "torch 0.3": lambda make: {"weight": Call(torch._utils._rebuild_tensor, torch.arange(6.0).storage(), 0, (2, 3), (3, 1))},
}


def assert_alike(found, expected) -> None:
    assert type(found) is type(expected)
    if isinstance(expected, torch.Tensor):
        assert found.dtype == expected.dtype and found.stride() == expected.stride()
        assert found.requires_grad == expected.requires_grad
        assert torch.equal(found.detach().to(torch.complex128), expected.detach().to(torch.complex128))
    elif isinstance(expected, dict):
        assert list(found) == list(expected) and getattr(found, "__dict__", {}) == getattr(expected, "__dict__", {})
        for name in expected:
            assert_alike(found[name], expected[name])
    elif isinstance(expected, (list, tuple)):
        assert len(found) == len(expected)
        for one, other in zip(found, expected):
            assert_alike(one, other)
    else:
        assert found == expected


def shared(content: dict) -> list[list[str]]:
    """Which tensors lie in one storage."""
    tensors = {name: tensor for name, tensor in content.items() if isinstance(tensor, torch.Tensor)}
    return [[other for other in tensors if tensors[other].untyped_storage().data_ptr() == tensor.untyped_storage().data_ptr()]
            for tensor in tensors.values()]


def rewritten(path) -> None:
    """As torch 1.6 wrote it: no byte order, nothing aligned, and storages under their addresses."""
    with zipfile.ZipFile(path) as archive:
        records = {entry.filename.partition("/")[2]: archive.read(entry) for entry in archive.infolist()}

    def address(number: bytes) -> str:
        return str(94_000_000_000_000 + int(number))

    pickled = re.sub(rb"X[\1\2\3]\0\0\0(\d{1,3})(?=[qr])", lambda found: b"X\x0e\0\0\0" + address(found[1]).encode(),
                     records.pop("data.pkl"))
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("model_best/data.pkl", pickled)
        for name, content in records.items():
            if name.startswith("data/"):
                archive.writestr(f"model_best/data/{address(name[5:].encode())}", content)
        archive.writestr("model_best/version", b"3\n")


@pytest.mark.slow
@pytest.mark.parametrize("written", ["zip", "legacy", "torch 1.6"])
@pytest.mark.parametrize("content", HONEST)
def test_what_torch_writes_is_read_as_torch_reads_it(content, written, make_model, tmp_path):
    path = tmp_path / "model.pth.tar"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.save(HONEST[content](make_model), path, _use_new_zipfile_serialization=written != "legacy")
        if written == "torch 1.6":
            rewritten(path)
        expected = torch.load(path, map_location="cpu", weights_only=True)
    found = checkpoint.load(path)
    assert_alike(found, expected)
    assert shared(found) == shared(expected)


# --- broken and hostile files: one line on stderr, exit code 2, nothing executed --------------------------------------


class Bomb:
    def __init__(self, command: str):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


def edited(state, **changes):
    """The state_dict with entries set, or taken out where None; dots of names are written as two underscores."""
    state = dict(state)
    for name, value in changes.items():
        name = name.replace("__", ".")
        state.pop(name, None)
        if value is not None:
            state[name] = value
    return state


PLAIN, ORIG, MASK = (f"layer1__0__conv1__{kind}" for kind in ("weight", "weight_orig", "weight_mask"))
SHAPE = (16, 16, 3, 3)

def nested() -> torch.Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a prototype, says torch
        return torch.nested.nested_tensor([torch.zeros(2), torch.zeros(3)])


# so short that a file which is wrongly accepted does not hold up the tests
SHORT = ("--epochs", 3, "--limit", 60, "--pruning_times", 0)

BAD_CONTENTS = {
    "wrong architecture": (lambda s, make: make("res18", 10).state_dict(), "--arch"),
    "wrong class count": (lambda s, make: make("res20s", 100).state_dict(), "fc.weight"),
    "NaN weight": (lambda s, make: edited(s, fc__weight=s["fc.weight"] * math.nan), "fc.weight"),
    "infinite weight": (lambda s, make: edited(s, bn1__running_var=s["bn1.running_var"] * math.inf), "bn1.running_var"),
    "NaN in a pruned layer": (lambda s, make: edited(s, **{ORIG: torch.full(SHAPE, math.nan)}),
                              "layer1.0.conv1.weight_orig"),
    "weights too large for float32": (lambda s, make: edited(s, fc__weight=s["fc.weight"].double() * 0 + 1e300),
                                      "fc.weight"),
    "missing layer": (lambda s, make: edited(s, fc__bias=None), "fc.bias"),
    "missing weights of a mask": (lambda s, make: edited(s, **{ORIG: None}), "layer1.0.conv1"),
    "missing mask of weights": (lambda s, make: edited(s, **{MASK: None}), "layer1.0.conv1"),
    "weight beside weight_orig": (lambda s, make: edited(s, **{PLAIN: torch.zeros(SHAPE)}), "layer1.0.conv1"),
    "unknown key": (lambda s, make: edited(s, layer7__weight=torch.zeros(1)), "layer7.weight"),
    "unknown mask": (lambda s, make: edited(s, bn1__weight_mask=torch.ones(16)), "bn1"),
    "mask of no layer": (lambda s, make: edited(s, layer7__weight_mask=torch.ones(1)), "layer7"),
    "not a tensor": (lambda s, make: edited(s, fc__bias=[0.0] * 10), "fc.bias"),
    "sparse tensor": (lambda s, make: edited(s, fc__weight=s["fc.weight"].to_sparse()), "_rebuild_sparse_tensor"),
    "quantised tensor": (lambda s, make: edited(s, fc__weight=torch.quantize_per_tensor(s["fc.weight"], 0.1, 0,
                                                                                       torch.qint8)), "_rebuild_qtensor"),
    "complex weight": (lambda s, make: edited(s, fc__weight=s["fc.weight"].cfloat()), "fc.weight"),
    "whole numbers": (lambda s, make: edited(s, fc__weight=s["fc.weight"].int()), "fc.weight"),
    "tensor without data": (lambda s, make: edited(s, fc__weight=s["fc.weight"].to("meta")), "fc.weight"),
    "mask without data": (lambda s, make: edited(s, **{MASK: torch.ones(SHAPE, device="meta")}), "layer1.0.conv1"),
    "raw bits": (lambda s, make: edited(s, **{MASK: torch.ones(SHAPE, dtype=torch.uint8).view(torch.bits8)}),
                 "layer1.0.conv1"),
    "nested tensor": (lambda s, make: edited(s, fc__weight=nested()), "_rebuild_nested_tensor"),
    "a huge tensor in a small file": (lambda s, make: edited(s, **{ORIG: torch.zeros(1).expand(10**7, 10**7),
                                                                 MASK: torch.zeros(1).expand(10**7, 10**7)}),
                                      "layer1.0.conv1"),
    "a huge mask in a small file": (lambda s, make: {"layer1.0.conv1.weight_mask": torch.ones(1).expand(10**7, 10**7)},
                                    "layer1.0.conv1"),
    "negative variance": (lambda s, make: edited(s, bn1__running_var=-1 - s["bn1.running_var"]), "bn1.running_var"),
    "mask of 0.5": (lambda s, make: edited(s, **{MASK: torch.full(SHAPE, 0.5)}), "layer1.0.conv1"),
    "mask of 2": (lambda s, make: edited(s, **{MASK: torch.full(SHAPE, 2)}), "layer1.0.conv1"),
    "mask of -1": (lambda s, make: edited(s, **{MASK: torch.full(SHAPE, -1)}), "layer1.0.conv1"),
    "mask of NaN": (lambda s, make: edited(s, **{MASK: torch.full(SHAPE, math.nan)}), "layer1.0.conv1"),
    "wrong mask shape": (lambda s, make: edited(s, **{MASK: torch.ones(16, 16, 1, 1)}), "layer1.0.conv1"),
    "wrong mask and weight shape": (lambda s, make: edited(s, **{MASK: torch.ones(3, 3), ORIG: torch.ones(3, 3)}),
                                    "layer1.0.conv1"),
    "wrong weight shape": (lambda s, make: edited(s, bn1__bias=torch.ones(17)), "bn1.bias"),
    "masks without weights": (lambda s, make: {name: s[name] for name in s if name.endswith("_mask")}, "--init"),
    "masks under init_weight": (lambda s, make: {"init_weight": dict(s)}, "init_weight"),
    "broken init_weight": (lambda s, make: {"state_dict": dict(s), "init_weight": {}}, "conv1.weight"),
    "a list": (lambda s, make: [s["fc.weight"]], "dict"),
    "a tensor": (lambda s, make: s["fc.weight"], "dict"),
    "numbers as names": (lambda s, make: {0: s["fc.weight"]}, "names"),
    "an empty dict": (lambda s, make: {}, "no tensors"),
    "an empty state_dict": (lambda s, make: {"state_dict": {}}, "no tensors"),
    "a whole pickled model": (lambda s, make: make("res20s", 10), "objects"),
    "a line break in a name": (lambda s, make: edited(s, **{"a\nb.weight": torch.zeros(1)}), "unknown key"),
    "numbers": (lambda s, make: {"state_dict": 3}, "state_dict"),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", BAD_CONTENTS)
def test_bad_contents_are_one_line(case, theirs, make_model, run_main, refused, tmp_path):
    make, names = BAD_CONTENTS[case]
    path = written(make(theirs.state_dict(), make_model), tmp_path)
    message = refused(run_main("main_imp.py", *SHORT, "--init", path, "--save_dir", tmp_path / "run"))
    assert names in message and len(message) < 500
    assert str(path) in message or names == "layer1.0.conv1"
    assert not (tmp_path / "run").exists(), "the same command with a mended file must not meet an old run"


def bomb_zip(path, command: str, theirs) -> None:
    torch.save({"state_dict": dict(theirs.state_dict()), "epoch": Bomb(command)}, path)


def bomb_pickle(path, command: str, theirs) -> None:
    path.write_bytes(pickle.dumps(Bomb(command)))


def bomb_legacy(path, command: str, theirs) -> None:
    torch.save({"state_dict": Bomb(command)}, path, _use_new_zipfile_serialization=False)


@pytest.mark.parametrize("build", [bomb_zip, bomb_pickle, bomb_legacy])
def test_nothing_in_a_file_is_executed(build, theirs, run_main, refused, tmp_path):
    marker, path = tmp_path / "executed", tmp_path / "bomb.pth.tar"
    build(path, f"touch {marker}", theirs)
    message = refused(run_main("main_imp.py", *SHORT, "--init", path, "--save_dir", tmp_path / "run"))
    assert str(path) in message and not marker.exists()
    torch.load(path, weights_only=False) if build is not bomb_pickle else pickle.loads(path.read_bytes())
    assert marker.exists(), "the bomb of this test was a dud"


@pytest.mark.slow
def test_a_bomb_in_a_users_shell(theirs, run_script, refused, tmp_path):
    bomb_zip(tmp_path / "bomb.pth.tar", f"touch {tmp_path / 'executed'}", theirs)
    message = refused(run_script("main_imp.py", *SHORT, "--init", tmp_path / "bomb.pth.tar",
                                 "--save_dir", tmp_path / "run"))
    assert "bomb.pth.tar" in message and not (tmp_path / "executed").exists()


def damaged_zip(path) -> None:
    """The right container with nothing of torch in it."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("hello.txt", "hello")


@pytest.mark.slow
@pytest.mark.parametrize("damage", [
    lambda path: path.write_bytes(path.read_bytes()[:len(path.read_bytes()) // 2]),
    lambda path: path.write_bytes(path.read_bytes()[:-1]),
    lambda path: path.write_bytes(path.read_bytes()[:10]),
    lambda path: path.write_bytes(b""),
    lambda path: path.write_text("layer1.0.conv1: 0.5\n"),
    lambda path: path.write_bytes(bytes(range(256)) * 100),
    lambda path: path.write_bytes(pickle.dumps({"a": 1})),
    damaged_zip,
    lambda path: (path.unlink(), path.mkdir()),
], ids=["half", "a byte short", "ten bytes", "empty", "text", "noise", "pickle", "zip", "directory"])
def test_damaged_files_are_one_line(damage, theirs, run_main, refused, tmp_path):
    path = written(dict(theirs.state_dict()), tmp_path)
    damage(path)
    message = refused(run_main("main_imp.py", *SHORT, "--init", path, "--save_dir", tmp_path / "run"))
    assert str(path) in message


@pytest.mark.slow
def test_no_flipped_byte_is_a_traceback(model, theirs, tmp_path):
    path = written({"state_dict": dict(theirs.state_dict())}, tmp_path)
    whole = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        (pickled,) = (entry for entry in archive.infolist() if entry.filename.endswith("data.pkl"))
    draws = torch.Generator().manual_seed(0)
    refusals = 0
    for trial in range(120):
        damaged = bytearray(whole)
        if trial % 2:  # in the pickle, whose opcodes decide what the unpickler does
            place = pickled.header_offset + int(torch.randint(pickled.file_size, (1,), generator=draws))
        else:
            place = len(whole) - 1 - int(torch.randint(6000, (1,), generator=draws))  # in the table of contents
        damaged[place] ^= 1 << int(torch.randint(8, (1,), generator=draws))
        path.write_bytes(damaged)
        try:
            read_model_file(path, model)
        except UserError as error:
            assert "\n" not in str(error)
            refusals += 1
    assert refusals > 20


def test_a_missing_file_is_one_line():
    with pytest.raises(UserError, match="nowhere.pth.tar: no such checkpoint"):
        checkpoint.load("nowhere.pth.tar")


# --- writing ----------------------------------------------------------------------------------------------------------


class Broken(Exception):
    pass


@pytest.mark.parametrize("existing", [False, True])
@pytest.mark.parametrize("error", [Broken, OSError, KeyboardInterrupt])
def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, existing, error):
    path = tmp_path / "file.pth.tar"
    if existing:
        path.write_bytes(b"old")

    def write(file):
        file.write(b"half of the new one")
        raise error

    with pytest.raises(error):
        checkpoint.write_atomic(path, write)
    assert [p.name for p in tmp_path.iterdir()] == (["file.pth.tar"] if existing else [])
    assert not existing or path.read_bytes() == b"old"


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_write_that_fails_at_the_end_does_so_too(tmp_path, monkeypatch, step):
    checkpoint.save_text("old", tmp_path / "file")

    def fail(*words):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, step, fail)
    with pytest.raises(OSError):
        checkpoint.save_text("new", tmp_path / "file")
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("file", "old")]


def test_readers_see_the_old_or_the_new_file_only(tmp_path):
    path = tmp_path / "folder" / "file"
    seen = []

    def write(file):
        file.write(b"new")
        file.flush()
        seen.append(path.read_bytes() if path.exists() else None)

    checkpoint.write_atomic(path, write)
    checkpoint.write_atomic(path, write)
    assert seen == [None, b"new"] and path.read_bytes() == b"new"


def test_devices_and_pipes_are_not_replaced_by_files(tmp_path):
    """Renamed over, /dev/null would be a file until the next start of the machine, if root did it."""
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="device or a pipe.*pipe"):
        checkpoint.save_text("new", tmp_path / "pipe")
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode) and len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("links", [True, False])
def test_a_secret_is_its_owners_alone_and_never_written_over(tmp_path, monkeypatch, links):
    if not links:
        monkeypatch.setattr(os, "link", lambda *paths: (_ for _ in ()).throw(PermissionError(1, "Operation not permitted")))
    path = tmp_path / "new/secret"
    checkpoint.write_secret(path, b"first", "--new_key")
    assert path.read_bytes() == b"first" and stat.S_IMODE(path.stat().st_mode) == 0o600
    with pytest.raises(UserError, match=re.escape(f"--new_key {path}: exists; it is never written over")):
        checkpoint.write_secret(path, b"second", "--new_key")
    assert path.read_bytes() == b"first" and [file.name for file in path.parent.iterdir()] == ["secret"]


@pytest.mark.parametrize("step", ["fsync", "link"])
def test_a_secret_that_was_cut_off_can_be_made_again(tmp_path, monkeypatch, step):
    """An empty key would be in the way of every later one."""
    def killed(*words, **more):
        assert not (tmp_path / "secret").exists()
        raise KeyboardInterrupt

    monkeypatch.setattr(os, step, killed)
    with pytest.raises(KeyboardInterrupt):
        checkpoint.write_secret(tmp_path / "secret", b"first", "--new_key")
    monkeypatch.undo()
    assert not list(tmp_path.iterdir())
    checkpoint.write_secret(tmp_path / "secret", b"second", "--new_key")
    assert (tmp_path / "secret").read_bytes() == b"second"


def test_where_results_can_not_go_is_named_and_nothing_made(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("text")
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "file", tmp_path / "new", tmp_path / "new/below"):
        checkpoint.check_can_be_file(path, "--json")
    for path in (tmp_path, tmp_path / "new", tmp_path / "new/below"):
        checkpoint.check_can_be_folder(path, "--out")
    for path, message in ((tmp_path, "is a folder; name a file in it"), (tmp_path / "pipe", "is no file, but a device or a pipe"),
                          (tmp_path / "file/below", f"{tmp_path / 'file'} is a file; name a folder"),
                          (tmp_path / "file/below/it", f"{tmp_path / 'file'} is a file; name a folder")):
        with pytest.raises(UserError, match=re.escape(f"--json {path}: {message}")):
            checkpoint.check_can_be_file(path, "--json")
    for path, message in ((tmp_path / "file", "is a file; name a folder"), (tmp_path / "pipe", "is a file; name a folder"),
                          (tmp_path / "file/below", f"{tmp_path / 'file'} is a file; name a folder")):
        with pytest.raises(UserError, match=re.escape(f"--out {path}: {message}")):
            checkpoint.check_can_be_folder(path, "--out")
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    for check in (checkpoint.check_can_be_file, checkpoint.check_can_be_folder):
        with pytest.raises(UserError, match=re.escape(f"--out {tmp_path / 'new/below'}: can't be written")):
            check(tmp_path / "new/below", "--out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "pipe"]


def test_contents_that_can_not_be_saved_leave_the_old_checkpoint(tmp_path):
    path = tmp_path / "c.pth.tar"
    checkpoint.save({"a": 1}, path)
    with pytest.raises(Exception):
        checkpoint.save({"a": lambda: None}, path)
    assert checkpoint.load(path) == {"a": 1} and len(list(tmp_path.iterdir())) == 1


def test_ctrl_c_in_the_middle_of_a_write_is_an_interruption(run_main, tmp_path, monkeypatch):
    real = torch.save

    class Interrupted:
        """A file whose user loses patience half-way."""

        def __init__(self, file):
            self.file, self.size = file, 0

        def write(self, data):
            self.size += len(data)
            if self.size > 10_000:
                raise KeyboardInterrupt
            return self.file.write(data)

        def __getattr__(self, name):
            return getattr(self.file, name)

    monkeypatch.setattr(torch, "save", lambda content, file: real(content, Interrupted(file)))
    done = run_main("main_imp.py", *SHORT, "--save_dir", tmp_path / "run")
    assert (done.returncode, done.stderr.count("\n")) == (130, 1)
    assert "interrupted" in done.stderr
    assert not list(tmp_path.rglob("*.tmp"))


@pytest.mark.slow
def test_a_full_disk_is_one_line(run_main, refused, tmp_path, monkeypatch):
    writes, real = [], os.fsync

    def fsync(handle):
        writes.append(handle)
        if len(writes) > 4:  # somewhere in the middle of training
            raise OSError(28, "No space left on device")
        real(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    message = refused(run_main("main_imp.py", *SHORT, "--save_dir", tmp_path / "run"))
    assert "No space left on device" in message
    monkeypatch.undo()
    assert run_main("main_imp.py", *SHORT, "--save_dir", tmp_path / "run").returncode == 0


@pytest.mark.parametrize("regular", [False, True])
def test_a_file_is_read_to_its_bound(tmp_path, regular):
    (tmp_path / "file").write_bytes(b"12345")
    assert checkpoint.read_bounded(tmp_path / "file", 5, regular) == b"12345"
    assert checkpoint.read_bounded(tmp_path / "file", 4, regular) is None
    for path, why in ((tmp_path / "none", "none: no such file" if regular else r"none: can't be read \(No such file"),
                      (tmp_path, "is a folder; name a file in it" if regular else r"can't be read \(Is a directory"),
                      ("a\0b", "no such file" if regular else "embedded null byte")):
        with pytest.raises(UserError, match=why):
            checkpoint.read_bounded(path, 5, regular)
    if regular:
        with pytest.raises(UserError, match="/dev/zero: is no file, but a device"):
            checkpoint.read_bounded("/dev/zero", 5, regular)
    else:
        assert checkpoint.read_bounded("/dev/zero", 5) is None, "endless, yet read"


def test_json_is_strict_and_readable(tmp_path):
    path = tmp_path / "r.json"
    checkpoint.save_json({"accuracy": 91.5, "name": "Zürich"}, path)
    assert json.loads(path.read_text(encoding="utf-8")) == {"accuracy": 91.5, "name": "Zürich"}
    with pytest.raises(ValueError):
        checkpoint.save_json({"accuracy": math.nan}, path)
    assert checkpoint.load_json(path)["accuracy"] == 91.5
    for bad in ("{", "[" * 100_000, "\udcff"):
        path.write_bytes(bad.encode("utf-8", "surrogateescape"))
        with pytest.raises(UserError, match="r.json"):
            checkpoint.load_json(path)
    with pytest.raises(UserError, match="none.json"):
        checkpoint.load_json(tmp_path / "none.json")


@pytest.mark.parametrize("marked", [b"\xef\xbb\xbf" + b'{"a": 1}', '{"a": 1}'.encode("utf-16")])
def test_json_that_an_editor_marked_is_read(tmp_path, marked):
    (tmp_path / "r.json").write_bytes(marked)
    assert checkpoint.load_json(tmp_path / "r.json") == {"a": 1}
    for text in (b"\xff\xfea", b"\xff\xfe\x00\xd8"):  # half a unit, half a letter
        assert checkpoint.without_mark(text) == text


# --- run directories --------------------------------------------------------------------------------------------------


LEFT_BY_A_RUN = [
    "checkpoint.pth.tar", "model_best.pth.tar", "metrics.csv", "curve.png", "result.json",  # any training
    "key.pth.tar", "locked.pth.tar",  # main_eval_all.py
    "round_00/ticket.pth.tar", "round_07/result.json", "epoch_3.pth.tar", "ticket.pth.tar", "rounds.csv", "accuracy_density.png",
    "attacked.pth.tar", "level_0/result.json", "level_0.005/attacked.pth.tar", "attack.csv", "attack.png", "codes.png",
    "forged.claim.json",
]


@pytest.mark.parametrize("name", LEFT_BY_A_RUN)
def test_what_another_run_left_is_not_adopted_without_its_record(tmp_path, name):
    path = tmp_path / "run" / name
    path.parent.mkdir(parents=True)
    path.write_bytes(b"precious")
    with pytest.raises(UserError, match=re.escape(f"holds {name.partition('/')[0]} but no run.json")):
        RunDir(tmp_path / "run").open("main_attack.py", {})
    assert path.read_bytes() == b"precious" and not (tmp_path / "run/run.json").exists()


def test_what_is_no_runs_may_be_there_before_it(tmp_path):
    names = ("res20s_digits_qrcode_layer2.0.conv2.claim.json", "res20s_digits_qrcode_layer2.0.conv2.weight_mask.pth.tar",
             "res20s_digits_qrcode_layer2.0.conv2.code.png", "res20s_digits_qrcode_layer2.0.conv2.before_after.png",  # signed
             "code.png", "extraction.json",  # read
             "run.log", "triggers.json", ".lock", "earlier/result.json", "earlier/run.json")
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"precious")
    RunDir(tmp_path).open("main_eval_all.py", {})
    assert (tmp_path / "run.json").exists()
    assert all((tmp_path / name).read_bytes() == b"precious" for name in names if name != ".lock")


@pytest.mark.parametrize("record", ["", "{", "[]", "{}", '{"script": "s.py", "arguments": []}', '{"arguments": {"rounds": 3}',
                                    '{"script": "s.py", "arguments": {}, "sessions": {}}'])
def test_a_record_that_is_damaged_is_named_with_the_mend(tmp_path, record):
    (tmp_path / "run.json").write_text(record)
    with pytest.raises(UserError, match=f"{re.escape(str(tmp_path))}/run.json: .*; name another --save_dir$"):
        RunDir(tmp_path).open("s.py", {"rounds": 3})
    assert (tmp_path / "run.json").read_text() == record


@pytest.mark.parametrize("before, now, good", [(3, 3, True), (3, 4, True), (3, 2, False), (3, None, True), (None, 3, False),
                                               (None, None, True), ("3", 4, False), ([3], 4, False)])
def test_what_may_grow_may_not_shrink_nor_be_damaged(tmp_path, before, now, good):
    RunDir(tmp_path).open("s.py", {"rounds": before})
    again = RunDir(tmp_path)
    if good:
        again.open("s.py", {"rounds": now}, frozenset({"rounds"}))
        return
    with pytest.raises(UserError, match="--rounds .* then, .* now"):
        again.open("s.py", {"rounds": now}, frozenset({"rounds"}))


# --- locks ------------------------------------------------------------------------------------------------------------


@pytest.fixture(params=[errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def no_flock(request, monkeypatch):
    """A file system that can't lock."""
    monkeypatch.setattr(fcntl, "flock", lambda *words: (_ for _ in ()).throw(OSError(request.param, os.strerror(request.param))))


def test_one_process_at_a_time_where_files_can_not_be_locked(no_flock, tmp_path, capsys):
    run = RunDir(tmp_path)
    run.open("s.py", {})
    holder = json.loads((tmp_path / ".lock.owner").read_text())
    assert holder["pid"] == os.getpid() and platform.node() in holder["host"] and holder["started"]
    assert re.fullmatch(r"note: .*can't lock \(.*\); \.lock\.owner says .*\n", capsys.readouterr().err)
    with pytest.raises(UserError, match=f"--save_dir {tmp_path}: process {os.getpid()} is writing there"):
        RunDir(tmp_path).open("s.py", {})
    del run
    assert not (tmp_path / ".lock.owner").exists(), "the next one need not wait"
    RunDir(tmp_path).open("s.py", {})


@pytest.mark.parametrize("change", [{"pid": 2 ** 22 + 1}, {"started": "before"}, {"pid": 1}])
def test_what_an_ended_process_of_this_host_left_is_no_lock(no_flock, tmp_path, change):
    """Its number is free, or another process has it now."""
    (tmp_path / ".lock.owner").write_text(json.dumps({**locks.this_process(), **change}))
    run = RunDir(tmp_path)
    run.open("s.py", {})
    assert json.loads((tmp_path / ".lock.owner").read_text()) == locks.this_process() and run
    assert sorted(path.name for path in tmp_path.iterdir()) == [".lock", ".lock.owner", "log.txt", "run.json"]


@pytest.mark.parametrize("content, named", [(json.dumps({"host": "node7", "pid": 4, "started": "x"}), "process 4 of node7 is writing"),
                                            ("", "is not whole"), ("[]", "is not whole")])
def test_another_hosts_lock_is_named_and_left(no_flock, tmp_path, content, named):
    (tmp_path / ".lock.owner").write_text(content)
    with pytest.raises(UserError, match=f"{named}.*remove.*"):
        RunDir(tmp_path).open("s.py", {})
    assert (tmp_path / ".lock.owner").read_text() == content and not (tmp_path / "run.json").exists()


def test_of_two_that_find_a_stale_lock_one_gets_it(no_flock, tmp_path, monkeypatch):
    """The second finds, where the stale one was, that of the first."""
    owner = tmp_path / ".lock.owner"
    stale, first = ({**locks.this_process(), "pid": 2 ** 22 + number} for number in (1, 2))
    owner.write_text(json.dumps(stale))
    real = os.rename

    def rename(source, target):
        owner.write_text(json.dumps(first))  # meanwhile
        real(source, target)

    monkeypatch.setattr(os, "rename", rename)
    with pytest.raises(UserError, match="another process is writing there"):
        RunDir(tmp_path).open("s.py", {})
    assert json.loads(owner.read_text()) == first and not list(tmp_path.glob("*.tmp"))


def test_a_lock_that_is_held_is_one_on_any_file_system(tmp_path):
    run = RunDir(tmp_path)
    run.open("s.py", {})
    with pytest.raises(UserError, match="another process is writing there"):
        RunDir(tmp_path).open("s.py", {})
    assert run and not (tmp_path / ".lock.owner").exists()


# --- a full disk --------------------------------------------------------------------------------------------------------


WRITERS = {
    "torch": lambda path: checkpoint.save({"a": torch.zeros(50_000)}, path),
    "text": lambda path: checkpoint.save_text("x" * 200_000, path),
    "csv": lambda path: checkpoint.save_csv([{"a": "x" * 200_000}], ["a"], path),
    "picture": lambda path: write_code(np.random.default_rng(0).integers(0, 2, (99, 99)).astype(bool), path),
    "plot": lambda path: plots.training_curve([{"epoch": 1, "train_acc": 1, "train_loss": 1}], ["train"], "t", path),
    "rows": lambda path: rows.append(path, ["a"], [{"a": "x" * 200_000}]),
}


@pytest.mark.slow
@pytest.mark.parametrize("writer, number", [*((writer, errno.ENOSPC) for writer in WRITERS), ("torch", errno.EDQUOT),
                                            ("torch", errno.EFBIG), ("text", errno.EDQUOT)])
def test_a_full_disk_is_named_and_the_old_file_stays(writer, number, tmp_path, monkeypatch):
    path = tmp_path / "file"
    path.write_bytes(b"a\r\nold\r\n")

    class Full(io.FileIO):
        def write(self, data):
            if self.tell() + len(data) > 1000:
                raise OSError(number, os.strerror(number))
            return super().write(data)

    def opened(name, mode="r", **more):
        return io.BufferedWriter(Full(name, "w"), 100) if mode == "wb" else open(name, mode, **more)

    monkeypatch.setattr(checkpoint, "open", opened, raising=False)
    with pytest.raises(OSError) as caught:
        WRITERS[writer](path)
    assert (caught.value.errno, caught.value.filename) == (number, str(path))
    assert path.read_bytes() == b"a\r\nold\r\n" and [file.name for file in tmp_path.iterdir()] == ["file"]
    monkeypatch.undo()
    WRITERS[writer](path)
    assert path.stat().st_size > 1000
