"""What leaves the house: scripts/hand_out.py, and the note of make_claim.py on files that tell more."""

import json
import sys

import pytest
import torch

from models import build_model
from pruner import tickets
from pruner.key_mask import split as key_masks
from pruner.masks import Mask, prunable_layers
from utils import checkpoint


@pytest.fixture(scope="module")
def house(tmp_path_factory):
    """A folder: ticket, locked ticket with key, model, checkpoint and mask file, as the scripts write them."""
    folder, generator = tmp_path_factory.mktemp("house"), torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    model = build_model("res20s", 10)
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    mask = Mask({name: torch.rand(layer.weight.shape, generator=generator) < 0.3 for name, layer in prunable_layers(model).items()})
    facts = {"arch": "res20s", "dataset": "digits", "num_classes": 10, "seed": 7}
    tickets.write_ticket(folder / "ticket.pth.tar", mask, state, {**facts, "round": 3, "made_in": "/home/jane/secret"})
    key, locked = key_masks.split(mask, {name: torch.where(kept, 1.0, -torch.inf) for name, kept in mask.items()}, 0.1)
    key_masks.write_split(folder / "key.pth.tar", folder / "locked.pth.tar", key, locked, state, {**facts, "split": "omp"})
    kept = {**state, **{f"{name}.weight": state[f"{name}.weight"] * layer for name, layer in mask.items()}}
    tickets.write_weights(folder / "model.pth.tar", kept, {**facts, "epoch": 9, "test_acc": 98.5}, mask)
    tickets.write_weights(folder / "checkpoint.pth.tar", state, {**facts, "optimizer": {"momentum": state["conv1.weight"]}, "random": [1]}, mask)
    tickets.write_masks(folder / "masks.pth.tar", mask)
    return folder


@pytest.fixture
def hand_out(run_main, monkeypatch):
    """hand_out(file, "--save_as", path) -> the script's run."""
    monkeypatch.syspath_prepend("scripts")
    yield lambda *words: run_main("hand_out.py", *words)
    sys.modules.pop("hand_out", None)


@pytest.mark.parametrize("name, left_out", [
    ("ticket", "init_weight's weights of pruned entries and 'seed' and 'round' and 'made_in'"), ("locked", "'seed'"), ("model", "'seed' and 'epoch'"),
    ("checkpoint", "state_dict's weights of pruned entries and 'seed' and 'optimizer' and 'random'"), ("masks", "nothing")])
def test_what_is_handed_out_is_what_its_takers_need(hand_out, house, tmp_path, name, left_out):
    out = tmp_path / "out.pth.tar"
    done = hand_out(house / f"{name}.pth.tar", "--save_as", out)
    assert done.returncode == 0, done.stderr
    said = done.stdout.splitlines()[0].removeprefix("left out: ").replace(", ", " and ")
    assert said == left_out
    model = build_model("res20s", 10)
    before, after = (tickets.read_model_file(path, model) for path in (house / f"{name}.pth.tar", out))
    assert after.mask == before.mask and not {"seed", "round", "epoch", "made_in"} & after.facts.keys()
    assert {fact: before.facts[fact] for fact in after.facts} == after.facts and (name == "masks" or after.facts["arch"] == "res20s")
    for state_before, state_after in ((before.weights, after.weights), (before.initial, after.initial)):
        assert (state_before is None) == (state_after is None)
        for parameter, tensor in (state_after or {}).items():
            kept = after.mask.get(parameter.removesuffix(".weight"), torch.tensor(True))
            assert torch.equal(tensor, state_before[parameter] * kept.to(tensor.dtype))  # bit for bit where the mask is, else zero
    raw = torch.load(out, weights_only=True)
    assert all(isinstance(value, torch.Tensor) or key in ("state_dict", "init_weight") or key in tickets.PUBLIC for key, value in raw.items())
    assert "jane" not in out.read_bytes().decode("latin-1")
    assert tickets.told_besides(raw) == []
    assert hand_out(house / f"{name}.pth.tar", "--save_as", out).returncode == 2  # never over anything


def test_a_locked_ticket_that_was_handed_out_is_completed_by_its_key(house, hand_out, tmp_path, refused):
    out, model = tmp_path / "locked.pth.tar", build_model("res20s", 10)
    assert hand_out(house / "locked.pth.tar", "--save_as", out).returncode == 0
    (mask, weights), (before, start) = (key_masks.merge(tickets.read_model_file(path, model), tickets.read_model_file(house / "key.pth.tar", model))
                                        for path in (out, house / "locked.pth.tar"))
    assert mask == before and all(torch.equal(weights[name], start[name]) for name in start)
    assert "which is never handed out" in refused(hand_out(house / "key.pth.tar", "--save_as", tmp_path / "key"))


def test_make_claim_warns_of_files_that_tell_more(run_main, house, tmp_path):
    claimed = "make_claim.py", "--owner", "Jane", "--key", house / "key.pth.tar", "--v1"
    done = run_main(*claimed, house / "locked.pth.tar", "--save_dir", tmp_path / "one")
    assert done.returncode == 0 and f"--v1 {house}/locked.pth.tar tells its takers 'seed'; hand out what scripts/hand_out.py" in done.stdout
    out = tmp_path / "locked.pth.tar"
    model = torch.load(house / "locked.pth.tar", weights_only=True)
    torch.save(tickets.for_others(model), out)
    done = run_main(*claimed, out, "--save_dir", tmp_path / "two")
    assert done.returncode == 0 and "tells its takers" not in done.stdout


class TheirNet(torch.nn.Module):
    """Somebody's own code: other names, and no normalisation in it."""

    def __init__(self, network):
        super().__init__()
        self.stem, self.bn1, self.linear = network.conv1, network.bn1, network.fc
        self.layer1, self.layer2, self.layer3 = network.layer1, network.layer2, network.layer3


def test_a_model_goes_back_under_its_own_names(house, hand_out, tmp_path):
    names, out, model = tmp_path / "names.json", tmp_path / "out.pth", build_model("res20s", 10)
    names.write_text(json.dumps({"stem": "conv1", "linear": "fc"}))
    done = hand_out(house / "checkpoint.pth.tar", "--rename", names, "--save_as", out)
    assert done.returncode == 0, done.stderr
    theirs, before = TheirNet(build_model("res20s", 10)), tickets.read_model_file(house / "checkpoint.pth.tar", model)
    theirs.load_state_dict(torch.load(out, weights_only=True))  # all of it, and nothing else
    assert torch.equal(theirs.stem.weight, before.weights["conv1.weight"])
    found = tickets.read_model_file(checkpoint.read_model(out, rename=names), model)
    assert all(torch.equal(found.weights[name], tensor) for name, tensor in before.weights.items())
    assert found.pattern("", model) == before.pattern("", model)
    for wrong, message in (({"stem": "conv9"}, "has no layer 'conv9'"), ({"bn1": "conv1"}, "would be 'bn1.weight'"), ([], "must be a JSON object")):
        names.write_text(json.dumps(wrong))
        done = hand_out(house / "checkpoint.pth.tar", "--rename", names, "--save_as", tmp_path / "none.pth")
        assert done.returncode == 2 and message in done.stderr and not (tmp_path / "none.pth").exists()
